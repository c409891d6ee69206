//! Something between a client and the API server that understands what they say: it counts, and can be told to answer by itself,
//! to let a request through and keep its answer back, or to break off.
//!
//! Clients reach it by plain HTTP, at the address of a kubeconfig like any other.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use dcs_core::BoxError;
use store_servers::Servers;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// Which requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reading one of the cluster's objects.
    Get,
    /// Listing.
    List,
    /// Watching.
    Watch,
    /// Changing one of the cluster's objects.
    Patch,
    /// Creating one of them.
    Create,
    /// Changing a pod.
    PatchPod,
    /// Creating a Service.
    CreateService,
    /// Deleting.
    Delete,
}

/// What happens to them.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An answer of our own; the server sees nothing of the request.
    Answer(u16, &'static str),
    /// The server does what it is asked, and this is the answer.
    Instead(u16),
    /// An answer of our own with headers.
    Headers(u16, &'static [(&'static str, &'static str)]),
    /// The server's own answer, with a header more.
    Beside(&'static str, &'static str),
    /// Whoever has this token is told that nobody knows it.
    Unknown(String),
}

#[derive(Debug)]
struct Rule {
    request: Request,
    fault: Fault,
    /// How many times more.
    times: usize,
}

#[derive(Debug)]
struct Shared {
    server: String,
    client: reqwest::Client,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<(Request, u16)>>,
}

/// It works until it is dropped.
#[derive(Debug)]
pub struct Middle {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Middle {
    pub async fn before(servers: &Servers) -> Result<Self, BoxError> {
        let plan = servers.plan(0);
        let authority = plan.files.iter().find(|(name, _)| *name == "ca.crt").ok_or("it is no API server")?;
        let authority = reqwest::Certificate::from_pem(&authority.1)?;
        let client = reqwest::Client::builder().tls_certs_only([authority]).no_proxy().build()?;
        let shared =
            Arc::new(Shared { server: format!("https://{}", plan.address), client, rules: Mutex::default(), seen: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let app = Router::new().fallback(pass_on).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { drop(axum::serve(listener, app).await) }).abort_handle();
        Ok(Self { address, shared, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next `times` requests of this kind meet with this.
    pub fn meet(&self, request: Request, fault: Fault, times: usize) {
        self.rules().push(Rule { request, fault, times });
    }

    /// Everything goes through again.
    pub fn heal(&self) {
        self.rules().clear();
    }

    /// How many requests of this kind have been answered.
    pub fn count(&self, request: Request) -> usize {
        self.seen().iter().filter(|(seen, _)| *seen == request).count()
    }

    /// Those that were answered with this code.
    pub fn answered(&self, code: u16) -> Vec<Request> {
        self.seen().iter().filter(|(_, seen)| *seen == code).map(|(request, _)| *request).collect()
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Vec<(Request, u16)>> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kind(method: &Method, uri: &Uri) -> Option<Request> {
    let path: Vec<_> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let resource = *path.get(4)?;
    let one = path.len() > 5;
    let watches = uri.query().is_some_and(|query| query.contains("watch=true"));
    Some(match (method.as_str(), resource, one) {
        ("GET", _, false) if watches => Request::Watch,
        ("GET", _, false) => Request::List,
        ("GET", _, true) => Request::Get,
        ("PATCH", "pods", _) => Request::PatchPod,
        ("PATCH", _, _) => Request::Patch,
        ("POST", "services", _) => Request::CreateService,
        ("POST", _, _) => Request::Create,
        ("DELETE", _, _) => Request::Delete,
        _ => return None,
    })
}

fn answer(code: u16, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).expect("a code");
    response
}

async fn pass_on(State(shared): State<Arc<Shared>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let kind = kind(&method, &uri);
    let fault = kind.and_then(|kind| fault_for(&shared, kind, &headers));
    let response = match fault {
        Some(Fault::Answer(code, text)) => answer(code, text),
        Some(Fault::Headers(code, more)) => {
            let mut response = answer(code, "{}");
            for (name, value) in more {
                response.headers_mut().insert(*name, value.parse().expect("a header"));
            }
            response
        }
        Some(Fault::Unknown(_)) => answer(401, r#"{"kind":"Status","code":401,"reason":"Unauthorized","message":"Unauthorized"}"#),
        Some(Fault::Instead(code)) => {
            let _ = forward(&shared, &method, &uri, &headers, body).await;
            answer(code, "it was done, and you are not told")
        }
        Some(Fault::Beside(name, value)) => {
            let mut response = forward(&shared, &method, &uri, &headers, body).await;
            response.headers_mut().insert(name, value.parse().expect("a header"));
            response
        }
        None => forward(&shared, &method, &uri, &headers, body).await,
    };
    if let Some(kind) = kind {
        shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push((kind, response.status().as_u16()));
    }
    response
}

fn fault_for(shared: &Shared, kind: Request, headers: &HeaderMap) -> Option<Fault> {
    let mut rules = shared.rules.lock().unwrap_or_else(PoisonError::into_inner);
    let rule = rules.iter_mut().find(|rule| {
        let meant = match &rule.fault {
            Fault::Unknown(token) => headers.get("authorization").is_some_and(|value| *value == *format!("Bearer {token}")),
            _ => true,
        };
        rule.request == kind && rule.times > 0 && meant
    })?;
    rule.times -= 1;
    Some(rule.fault.clone())
}

async fn forward(shared: &Shared, method: &Method, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Response<Body> {
    let mut request = shared.client.request(method.clone(), format!("{}{uri}", shared.server)).body(body);
    for name in ["authorization", "content-type", "accept"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let Ok(response) = request.send().await else { return answer(502, "the API server does not answer") };
    let code = response.status().as_u16();
    // A watch is passed on as it comes.
    let pieces = futures::stream::unfold(response, |mut response| async move {
        let piece = response.chunk().await.ok().flatten()?;
        Some((Ok::<_, Infallible>(piece), response))
    });
    answer(code, Body::from_stream(pieces))
}
