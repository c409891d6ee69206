//! Answers, in the few shapes that there are.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SERVER, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use hyper::ext::ReasonPhrase;
use serde_json::Value;

use crate::config::{RestApiSettings, ServerTokens};

/// What is added to answers by configuration.
#[derive(Clone, Debug, Default)]
pub struct Decoration {
    server: Option<HeaderValue>,
    extra: Vec<(HeaderName, HeaderValue)>,
}

impl Decoration {
    /// What `settings` want; headers that cannot be are left out and reported.
    pub fn new(settings: &RestApiSettings) -> Self {
        let mut extra = Vec::new();
        for (name, value) in &settings.extra_headers {
            match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => extra.push((name, value)),
                _ => tracing::error!("`{name}: {value}` in restapi.http_extra_headers is not an HTTP header, ignoring it"),
            }
        }
        Self { server: server_header(settings.server_tokens).map(HeaderValue::from_static), extra }
    }
}

/// What the header `Server` says; by default there is none.
fn server_header(tokens: ServerTokens) -> Option<&'static str> {
    match tokens {
        ServerTokens::Original => None,
        ServerTokens::ProductOnly => Some("Quorate"),
        ServerTokens::Minimal => Some(concat!("Quorate/", env!("CARGO_PKG_VERSION"))),
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    shape: Shape,
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug)]
enum Shape {
    /// A status line and nothing else.
    StatusOnly,
    /// A body of some type.
    Body(&'static str, Bytes),
    /// A page that explains an error; the connection ends after it.
    ErrorPage { phrase: Option<String>, explanation: String },
}

impl Reply {
    /// A status line and nothing else, for load balancers.
    pub fn status_only(status: StatusCode) -> Self {
        Self { status, shape: Shape::StatusOnly, headers: Vec::new() }
    }

    /// A line of text, without any HTML in it.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, shape: Shape::Body("text/html", Bytes::from(text.into())), headers: Vec::new() }
    }

    /// JSON.
    pub fn json(status: StatusCode, value: &Value) -> Self {
        Self::rendered_json(status, Bytes::from(value.to_string()))
    }

    /// JSON that is rendered already.
    pub fn rendered_json(status: StatusCode, body: Bytes) -> Self {
        Self { status, shape: Shape::Body("application/json", body), headers: Vec::new() }
    }

    /// Metrics.
    pub fn metrics(text: String) -> Self {
        Self { status: StatusCode::OK, shape: Shape::Body("text/plain", Bytes::from(text)), headers: Vec::new() }
    }

    /// A page that explains an error.
    pub fn error_page(status: StatusCode, explanation: impl Into<String>) -> Self {
        let shape = Shape::ErrorPage { phrase: None, explanation: explanation.into() };
        Self { status, shape, headers: Vec::new() }
    }

    /// There is nothing here for `method`. `patronictl` looks for these words to find out what an agent can do.
    pub fn unsupported(method: &Method) -> Self {
        let phrase = Some(format!("Unsupported method ('{method}')"));
        let shape = Shape::ErrorPage { phrase, explanation: "Server does not support this operation".to_owned() };
        Self { status: StatusCode::NOT_IMPLEMENTED, shape, headers: Vec::new() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((HeaderName::from_static(name), value.into()));
        self
    }

    /// Credentials are missing or wrong.
    pub fn unauthorized(reason: &'static str) -> Self {
        let mut reply = Self::text(StatusCode::UNAUTHORIZED, reason);
        reply.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Patroni\"")));
        reply
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer as it is sent.
    pub fn into_response(self, decoration: &Decoration) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let (Some(server), false) = (&decoration.server, matches!(self.shape, Shape::StatusOnly)) {
            headers.insert(SERVER, server.clone());
        }
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        match self.shape {
            Shape::StatusOnly => {}
            Shape::Body(content_type, body) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
                for (name, value) in &decoration.extra {
                    headers.append(name, value.clone());
                }
                *response.body_mut() = Body::from(body);
            }
            Shape::ErrorPage { phrase, explanation } => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html;charset=utf-8"));
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
                let standard = self.status.canonical_reason().unwrap_or("Error");
                *response.body_mut() = Body::from(page(self.status, phrase.as_deref().unwrap_or(standard), &explanation));
                if let Some(phrase) = phrase.and_then(|phrase| ReasonPhrase::try_from(phrase.into_bytes()).ok()) {
                    response.extensions_mut().insert(phrase);
                }
            }
        }
        response
    }
}

fn page(status: StatusCode, phrase: &str, explanation: &str) -> String {
    let (code, phrase, explanation) = (status.as_u16(), escaped(phrase), escaped(explanation));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Error {code}</title></head>\n\
         <body><h1>Error {code}</h1><p>Message: {phrase}.</p><p>{explanation}.</p></body></html>\n"
    )
}

/// Text as it may stand in a page.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
