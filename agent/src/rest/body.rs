//! Request bodies: a JSON object, or a precise refusal.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::reply::Reply;

/// Larger bodies are refused.
pub const MAX_BODY: usize = 4 << 20;

/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// Whether a request may come without a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It must say something.
    Required,
    /// Without one it says nothing.
    Optional,
}

/// Reads the body.
///
/// # Errors
///
/// The page that answers the request; nothing else is done then.
pub async fn read_object(headers: &HeaderMap, body: Body, presence: Presence) -> Result<Map<String, Value>, Reply> {
    let required = presence == Presence::Required;
    let Some(length) = headers.get(CONTENT_LENGTH) else {
        return if required {
            Err(Reply::error_page(StatusCode::LENGTH_REQUIRED, "The request needs a body and a Content-Length"))
        } else {
            Ok(Map::new())
        };
    };
    let length: Option<usize> = length.to_str().ok().and_then(|text| text.trim().parse().ok());
    match length {
        None => return Err(bad("Content-Length is not a number")),
        Some(0) => return if required { Err(bad("The request needs a body")) } else { Ok(Map::new()) },
        Some(length) if length > MAX_BODY => return Err(too_large()),
        Some(_) => {}
    }
    let bytes = match tokio::time::timeout(BODY_LIMIT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(bad("The body ended early")),
        Err(_) => return Err(Reply::error_page(StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time")),
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) if required && object.is_empty() => Err(bad("The body says nothing")),
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(bad("The body is not a JSON object")),
        Err(problem) => Err(bad(&format!("The body is not JSON: {problem}"))),
    }
}

fn bad(explanation: &str) -> Reply {
    Reply::error_page(StatusCode::BAD_REQUEST, explanation)
}

fn too_large() -> Reply {
    Reply::error_page(StatusCode::PAYLOAD_TOO_LARGE, format!("The body has more than {MAX_BODY} bytes"))
}
