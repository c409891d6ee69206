//! A gate in front of Consul that sees every request, and can do something bad to one of them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// What happens to a request instead of the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// It does not get through, and this is the answer.
    Answer(u16, &'static str),
    /// It does not get through, and the answer ends in its middle.
    Truncated,
    /// It does not get through, and the connection is reset.
    Reset,
    /// It does not get through, and there is no answer.
    Silence,
    /// It gets through, and the connection ends without an answer.
    AnswerLost,
    /// It gets through, and the answer comes without Consul's headers, as through a proxy that does not know them.
    HeadersLost,
}

impl Mishap {
    pub(crate) fn gets_through(self) -> bool {
        matches!(self, Self::AnswerLost | Self::HeadersLost)
    }
}

#[derive(Debug, Default)]
struct State {
    /// Method and path of every request, in order.
    seen: Vec<String>,
    mishap: Option<(usize, Mishap)>,
}

#[derive(Debug)]
pub(crate) struct Gate {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: AbortHandle,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gate {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let _ = serve(client, server, &shared).await;
                });
            }
        });
        Self { address, state, task: task.abort_handle() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Forgets what was seen, and lets `mishap` happen to the request with this number from now on.
    pub(crate) fn plan(&self, mishap: Option<(usize, Mishap)>) {
        *self.state() = State { seen: Vec::new(), mishap };
    }

    /// Method and path of every request since, long polls left out.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.state().seen.iter().filter(|line| !line.contains("index=")).cloned().collect()
    }

    /// The long polls.
    pub(crate) fn polls(&self) -> Vec<String> {
        self.state().seen.iter().filter(|line| line.contains("index=")).cloned().collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(mut client: TcpStream, server: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    loop {
        let request = read_message(&mut client).await?;
        let line = request.head.lines().next().unwrap_or_default().replace(" HTTP/1.1", "");
        let mishap = {
            let mut state = lock(state);
            let number = state.seen.len();
            state.seen.push(line);
            state.mishap.filter(|(wanted, _)| *wanted == number).map(|(_, mishap)| mishap)
        };
        match mishap {
            Some(Mishap::Answer(status, body)) => {
                let length = body.len();
                let head = format!("HTTP/1.1 {status} X\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n");
                client.write_all(format!("{head}{body}").as_bytes()).await?;
            }
            Some(Mishap::Truncated) => {
                client.write_all(b"HTTP/1.1 200 OK\r\nX-Consul-Index: 1\r\nContent-Length: 500\r\n\r\n[{\"Key\":").await?;
                return client.shutdown().await;
            }
            Some(Mishap::Reset) => return client.set_zero_linger(),
            Some(Mishap::Silence) => {
                // Until the client gives up.
                let _ = client.read(&mut [0; 1]).await?;
                return Ok(());
            }
            Some(Mishap::AnswerLost) => {
                forward(server, &request).await?;
                return Ok(());
            }
            Some(Mishap::HeadersLost) => {
                let answer = forward(server, &request).await?;
                let kept = answer.head.split("\r\n").filter(|line| !line.starts_with("X-Consul"));
                let head = kept.collect::<Vec<_>>().join("\r\n");
                client.write_all(head.as_bytes()).await?;
                client.write_all(&answer.body).await?;
            }
            None => {
                let answer = forward(server, &request).await?;
                client.write_all(answer.head.as_bytes()).await?;
                client.write_all(&answer.body).await?;
            }
        }
    }
}

struct Message {
    /// With the empty line behind it.
    head: String,
    body: Vec<u8>,
}

async fn forward(server: SocketAddr, request: &Message) -> io::Result<Message> {
    let mut server = TcpStream::connect(server).await?;
    server.write_all(request.head.as_bytes()).await?;
    server.write_all(&request.body).await?;
    read_message(&mut server).await
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Message> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let header = |wanted: &str| {
        head.lines().find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value))
    };
    if header("Transfer-Encoding").is_some() {
        // Long answers of Consul come in chunks; they are passed on as they are.
        while !body.ends_with(b"0\r\n\r\n") {
            if stream.read_buf(&mut body).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        return Ok(Message { head, body });
    }
    let length: usize = header("Content-Length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Message { head, body })
}
