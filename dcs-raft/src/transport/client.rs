//! A connection on which requests are asked and answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dcs_core::Deadline;
use tokio::sync::{mpsc, oneshot};

use super::address::Address;
use super::error::TransportError;
use super::link::welcomed;
use super::secure::{Reader, Security, Writer};
use super::{Task, frame, lock, socket};
use crate::message::{Hello, Request, Response};

/// How long the other side may take to receive a request.
const SEND: Duration = Duration::from_secs(10);
/// How many requests wait for being sent.
const WAITING: usize = 16;

/// A request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It was not sent, and will not be.
    #[error("the request was not sent")]
    NotSent(#[source] TransportError),
    /// It was sent, or may still be; whether it is carried out is not known.
    #[error("the request was not answered")]
    Unanswered(#[source] TransportError),
}

/// A connection to one node, for any number of requests at once. Dropping it ends it.
#[derive(Debug)]
pub struct ClientConnection {
    requests: mpsc::Sender<(u64, Vec<u8>)>,
    waiting: Arc<Waiting>,
    checksummed: bool,
    _task: Task,
}

/// Who waits for which answer.
#[derive(Debug, Default)]
struct Waiting(Mutex<Answers>);

#[derive(Debug, Default)]
struct Answers {
    last: u64,
    by_number: HashMap<u64, oneshot::Sender<Response>>,
}

impl ClientConnection {
    /// Connects to a node.
    ///
    /// # Errors
    ///
    /// It cannot be reached in time, or one of the two does not want the other.
    ///
    /// # Cancel safety
    ///
    /// The attempt is given up.
    pub async fn open(address: &Address, security: &Security, deadline: Deadline) -> Result<Self, TransportError> {
        let tcp = socket::connect(address, deadline).await?;
        let (mut reader, mut writer) = security.connect(tcp, address.host(), deadline).await?.split();
        writer.send(&Hello::Client, deadline).await?;
        welcomed(&mut reader, deadline).await?;
        let (requests, queue) = mpsc::channel(WAITING);
        let waiting = Arc::<Waiting>::default();
        let checksummed = writer.is_checksummed();
        let task = Task(tokio::spawn(run(reader, writer, queue, Arc::clone(&waiting))));
        Ok(Self { requests, waiting, checksummed, _task: task })
    }

    /// Whether nothing can be asked any more.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    #[cfg(test)]
    pub(super) fn nothing_is_waited_for(&self) -> bool {
        lock(&self.waiting.0).by_number.is_empty()
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// There is no answer; the error says whether the request may be carried out all the same.
    ///
    /// # Cancel safety
    ///
    /// The request may be carried out or not. The connection goes on.
    pub async fn request(&self, request: &Request, deadline: Deadline) -> Result<Response, RequestError> {
        let asked = self.waiting.ask();
        let mut bytes = Vec::new();
        frame::encode(&(asked.number, request), self.checksummed, &mut bytes).map_err(RequestError::NotSent)?;
        match deadline.bound("send a request", self.requests.send((asked.number, bytes))).await {
            Err(expired) => return Err(RequestError::NotSent(expired.into())),
            Ok(Err(_closed)) => return Err(RequestError::NotSent(TransportError::Closed)),
            Ok(Ok(())) => {}
        }
        match asked.answered(deadline).await {
            Ok(response) => Ok(response),
            Err(error) => Err(RequestError::Unanswered(error)),
        }
    }
}

impl Waiting {
    fn ask(&self) -> Asked<'_> {
        let (sender, answer) = oneshot::channel();
        let mut answers = lock(&self.0);
        answers.last += 1;
        let number = answers.last;
        answers.by_number.insert(number, sender);
        Asked { number, answer, waiting: self }
    }

    fn is_waited_for(&self, number: u64) -> bool {
        lock(&self.0).by_number.contains_key(&number)
    }

    fn answer(&self, number: u64, response: Response) {
        let asked = lock(&self.0).by_number.remove(&number);
        if let Some(asked) = asked {
            // Nobody waits any more if it fails, which is as good.
            let _unwanted = asked.send(response);
        }
    }
}

/// A request that has no answer yet; forgotten when it is dropped.
struct Asked<'a> {
    number: u64,
    answer: oneshot::Receiver<Response>,
    waiting: &'a Waiting,
}

impl Asked<'_> {
    async fn answered(mut self, deadline: Deadline) -> Result<Response, TransportError> {
        deadline.bound("hear the answer to a request", &mut self.answer).await?.map_err(|_gone| TransportError::Closed)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        lock(&self.waiting.0).by_number.remove(&self.number);
    }
}

/// Sends and receives, at once: the other side may only take the next request when its answer was taken.
async fn run(mut reader: Reader, mut writer: Writer, mut queue: mpsc::Receiver<(u64, Vec<u8>)>, waiting: Arc<Waiting>) {
    let send = async {
        while let Some((number, bytes)) = queue.recv().await {
            // What nobody waits for any more need not be done either.
            if waiting.is_waited_for(number) {
                writer.send_encoded(&bytes, Deadline::after(SEND)).await?;
            }
        }
        Ok(())
    };
    let receive = async {
        loop {
            let (number, response) = reader.next().await?;
            waiting.answer(number, response);
        }
    };
    let ended: Result<(), TransportError> = tokio::select! {
        ended = send => ended,
        ended = receive => ended,
    };
    if let Err(error) = ended {
        tracing::debug!("a connection to a node of the embedded store ended: {}", error.chain());
    }
    // Whoever still waits learns now that there will be no answer.
    queue.close();
    lock(&waiting.0).by_number.clear();
}
