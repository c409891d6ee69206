//! Stands between a client and a server, passes everything on, and answers chosen requests in the server's place.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use dcs_core::BoxError;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What is said instead of the server.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// A status of gRPC.
    pub(crate) fn grpc(code: i32, message: &str) -> Self {
        let headers =
            vec![("content-type", "application/grpc".to_owned()), ("grpc-status", code.to_string()), ("grpc-message", message.to_owned())];
        Self { status: 200, headers, body: String::new() }
    }

    /// An answer of HTTP.
    pub(crate) fn http(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.to_owned() }
    }
}

/// What becomes of the request itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The server never sees it.
    Dropped,
    /// The server does what was asked, and its answer is dropped.
    Done,
}

#[derive(Clone, Debug)]
struct Order {
    /// In the method and path of the request, e.g. `/etcdserverpb.KV/Txn`.
    part: String,
    request: Asked,
    answer: Answer,
}

/// Works until it is dropped.
#[derive(Debug)]
pub(crate) struct Saboteur {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    order: Mutex<Option<Order>>,
    /// How many orders were carried out.
    done: Mutex<usize>,
    /// Connections made before this number changed are broken.
    generation: watch::Sender<u64>,
}

impl Drop for Saboteur {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.generation.send_modify(|generation| *generation += 1);
    }
}

impl Saboteur {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Shared { server, order: Mutex::new(None), done: Mutex::new(0), generation: watch::Sender::new(0) };
        let shared = Arc::new(shared);
        let task = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self { address, shared, task }
    }

    /// Where clients connect.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Answers the next request whose method and path contain `part`.
    pub(crate) fn answer_next(&self, part: &str, request: Asked, answer: &Answer) {
        *lock(&self.shared.order) = Some(Order { part: part.to_owned(), request, answer: answer.clone() });
    }

    /// Breaks all connections, so that streams are opened anew.
    pub(crate) fn break_connections(&self) {
        self.shared.generation.send_modify(|generation| *generation += 1);
    }

    /// Does nothing any more. Whether the last order was carried out.
    pub(crate) fn stop(&self) -> bool {
        lock(&self.shared.order).take().is_none()
    }

    /// How many orders were carried out.
    pub(crate) fn done(&self) -> usize {
        *lock(&self.shared.done)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn order_for(&self, request: &Request<Incoming>) -> Option<Order> {
        let line = format!("{} {}", request.method(), request.uri());
        let mut order = lock(&self.order);
        let found = order.take_if(|order| line.contains(&order.part));
        if found.is_some() {
            *lock(&self.done) += 1;
        }
        found
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, Arc::clone(&shared)));
    }
}

/// Serves one connection, over one of its own to the server.
async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let mut generation = shared.generation.subscribe();
    let now = *generation.borrow_and_update();
    let server = shared.server;
    let service = service_fn(move |request| pass(request, server, Arc::clone(&shared)));
    // Which version of HTTP the client speaks is seen by how it begins.
    let mut beginning = [0; 3];
    if !matches!(stream.peek(&mut beginning).await, Ok(1..)) {
        return;
    }
    let io = TokioIo::new(stream);
    let serving = async {
        if &beginning == b"PRI" {
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
        } else {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        }
    };
    tokio::select! {
        () = serving => {}
        _ = generation.wait_for(|generation| *generation != now) => {}
    }
}

async fn pass(request: Request<Incoming>, server: SocketAddr, shared: Arc<Shared>) -> Result<Response<Passed>, BoxError> {
    let order = shared.order_for(&request);
    if let Some(Order { request: Asked::Dropped, answer, .. }) = &order {
        return made(answer);
    }
    let io = TokioIo::new(TcpStream::connect(server).await?);
    let response = if request.version() == hyper::Version::HTTP_2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    };
    let Some(order) = order else { return Ok(response.map(Passed::Through)) };
    let mut body = response.into_body();
    while matches!(std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await, Some(Ok(_))) {}
    made(&order.answer)
}

fn made(answer: &Answer) -> Result<Response<Passed>, BoxError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &answer.headers {
        headers.insert(*name, value.parse()?);
    }
    let mut response = Response::new(Passed::Made(Some(answer.body.clone().into())));
    *response.status_mut() = answer.status.try_into()?;
    *response.headers_mut() = headers;
    Ok(response)
}

/// The body of an answer.
enum Passed {
    Through(Incoming),
    Made(Option<Bytes>),
}

impl Body for Passed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Through(body) => Pin::new(body).poll_frame(context),
            Self::Made(bytes) => Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Through(body) => body.is_end_stream(),
            Self::Made(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
        }
    }
}
