//! A link that understands ZooKeeper's protocol: it answers single requests with errors, loses their answers, holds them up.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

/// Requests by their code in the protocol.
pub(crate) mod op {
    pub(crate) const DELETE: i32 = 2;
    pub(crate) const SET: i32 = 5;
    pub(crate) const SYNC: i32 = 9;
    pub(crate) const PING: i32 = 11;
    pub(crate) const MULTI: i32 = 14;
    pub(crate) const CREATE: i32 = 15;
    pub(crate) const MULTI_READ: i32 = 22;
    pub(crate) const ADD_WATCH: i32 = 106;
}

/// What is done about one request.
#[derive(Clone, Debug)]
pub(crate) enum Trick {
    /// It is answered with this code, and never gets to the server.
    Refuse(i32),
    /// It gets to the server, and is answered with this code.
    Misreport(i32),
    /// It gets to the server, and its answer vanishes.
    Lose,
    /// The connection ends instead.
    Cut,
    /// It gets to the server; the connection ends instead of the answer.
    CutAnswer,
    /// Its answer is noise.
    Garble,
    /// It gets to the server once it may.
    Hold(Arc<Hold>),
}

#[derive(Debug, Default)]
pub(crate) struct Hold {
    pub(crate) arrived: Notify,
    pub(crate) released: Notify,
}

#[derive(Debug, Default)]
struct Shared {
    /// The next request of that code, once.
    tricks: Mutex<Vec<(i32, Trick)>>,
    seen: Mutex<Vec<i32>>,
}

#[derive(Debug)]
pub(crate) struct Meddler {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Meddler {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let meddling = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("a socket");
                }
                connections.spawn(meddle(client, server, Arc::clone(&meddling)));
            }
        });
        Self { address, shared, task: task.abort_handle() }
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Plays `trick` on the next request with this code.
    pub(crate) fn play(&self, op: i32, trick: Trick) {
        locked(&self.shared.tricks).push((op, trick));
    }

    /// Forgets tricks that nobody fell for; returns whether there were any.
    pub(crate) fn forget(&self) -> bool {
        !std::mem::take(&mut *locked(&self.shared.tricks)).is_empty()
    }

    /// What was asked since the last time, pings left out.
    pub(crate) fn requests(&self) -> Vec<i32> {
        std::mem::take(&mut *locked(&self.shared.seen))
    }
}

async fn frame(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; from.read_i32().await? as usize];
    from.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn send(to: &mut OwnedWriteHalf, frame: &[u8]) -> io::Result<()> {
    to.write_all(&[&(frame.len() as i32).to_be_bytes()[..], frame].concat()).await
}

fn number(frame: &[u8], at: usize) -> i32 {
    frame.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_be_bytes)
}

fn error(xid: i32, code: i32) -> Vec<u8> {
    [&xid.to_be_bytes()[..], &0_i64.to_be_bytes(), &code.to_be_bytes()].concat()
}

/// One connection, until either side or a trick ends it.
async fn meddle(client: TcpStream, server: TcpStream, shared: Arc<Shared>) {
    let ((mut from_client, to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
    let pending: Arc<Mutex<HashMap<i32, Trick>>> = Arc::default();
    let (answers, outgoing) = mpsc::unbounded_channel::<Vec<u8>>();

    let requests = {
        let (pending, answers) = (Arc::clone(&pending), answers.clone());
        async move {
            send(&mut to_server, &frame(&mut from_client).await?).await?;
            loop {
                let request = frame(&mut from_client).await?;
                let (xid, op) = (number(&request, 0), number(&request, 4));
                if op != op::PING {
                    locked(&shared.seen).push(op);
                }
                let trick = {
                    let mut tricks = locked(&shared.tricks);
                    let found = tricks.iter().position(|(on, _)| *on == op);
                    found.map(|index| tricks.remove(index).1)
                };
                match trick {
                    Some(Trick::Refuse(code)) => {
                        let _ = answers.send(error(xid, code));
                        continue;
                    }
                    Some(Trick::Cut) => return Ok::<(), io::Error>(()),
                    Some(Trick::Hold(hold)) => {
                        hold.arrived.notify_one();
                        hold.released.notified().await;
                    }
                    Some(later) => drop(locked(&pending).insert(xid, later)),
                    None => {}
                }
                send(&mut to_server, &request).await?;
            }
        }
    };
    let replies = async move {
        let _ = answers.send(frame(&mut from_server).await?);
        loop {
            let answer = frame(&mut from_server).await?;
            let xid = number(&answer, 0);
            let trick = locked(&pending).remove(&xid);
            match trick {
                Some(Trick::Misreport(code)) => drop(answers.send(error(xid, code))),
                Some(Trick::Lose) => {}
                Some(Trick::CutAnswer) => return Ok::<(), io::Error>(()),
                Some(Trick::Garble) => drop(answers.send([&answer[..16.min(answer.len())], b"\x7f\xff\xff\xff noise"].concat())),
                _ => drop(answers.send(answer)),
            }
        }
    };
    let writing = write_out(outgoing, to_client);
    tokio::select! {
        _ = requests => {}
        _ = replies => {}
        _ = writing => {}
    }
}

async fn write_out(mut answers: mpsc::UnboundedReceiver<Vec<u8>>, mut to_client: OwnedWriteHalf) -> io::Result<()> {
    while let Some(answer) = answers.recv().await {
        send(&mut to_client, &answer).await?;
    }
    Ok(())
}
