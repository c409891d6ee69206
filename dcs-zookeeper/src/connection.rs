//! One connection to one server, made by the client library and ended by us.
//!
//! The library would go on by itself after a lost connection: to a server of its choice, sending whatever was still queued,
//! whoever has given up on it meanwhile, and without restoring the watch (as of 0.11.2 it restores one-shot watches
//! only). So it is given one server at a time, and its task is aborted as soon as that connection is lost or silent: what
//! was not sent then never is, and the session is resumed at the next server by a new connection. A server that still holds
//! a request of an old connection refuses it once the session has moved.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use asyncs::task::{Spawn, Task, enter};
use dcs_core::{Clock, Deadline, Moment};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use zookeeper_client as zk;

use crate::error::Failure;
use crate::session::Session;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The connection is gone, or was given up. The session may live.
    Connection,
    /// The server said that the session is gone.
    Session,
}

/// A connection that was established, and may be lost by now.
pub(crate) struct Connection {
    pub(crate) serial: u64,
    /// The server, as `host:port`.
    pub(crate) server: String,
    pub(crate) session: Arc<Session>,
    /// Which version of the access settings it was made with.
    pub(crate) access: u64,
    client: zk::Client,
    loss: watch::Sender<Option<Loss>>,
    task: AbortHandle,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { serial, server, session, .. } = self;
        f.debug_struct("Connection").field("serial", serial).field("server", server).field("session", &session.id).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client that was connected, with the task that the library runs for it.
pub(crate) struct Connected {
    pub(crate) client: zk::Client,
    task: JoinHandle<()>,
}

/// Takes the task that the library wants to spawn.
#[derive(Default)]
struct Catcher(Mutex<Option<JoinHandle<()>>>);

impl Spawn for Catcher {
    fn spawn(&self, task: Task) {
        let handle = tokio::spawn(Box::into_pin(task.future));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
    }
}

/// Connects to the one server in `server`.
///
/// # Cancel safety
///
/// Dropping the future ends the connection. The session that it may have made expires.
pub(crate) async fn connect(connector: zk::Connector, server: &str) -> Result<Connected, zk::Error> {
    let catcher = Catcher::default();
    let mut connecting = pin!(connector.connect(server));
    let client = poll_fn(|cx| {
        let _scope = enter(&catcher);
        connecting.as_mut().poll(cx)
    })
    .await?;
    let task = catcher.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    let task = task.ok_or_else(|| zk::Error::UnexpectedError("the library has spawned no task".to_owned()))?;
    Ok(Connected { client, task })
}

impl Connection {
    pub(crate) fn new(serial: u64, server: String, session: Arc<Session>, access: u64, connected: Connected) -> Self {
        let Connected { client, task } = connected;
        let loss = watch::Sender::new(None);
        let connection = Self { serial, server, session, access, task: task.abort_handle(), loss, client };
        let (loss, mut states) = (connection.loss.clone(), connection.client.state_watcher());
        tokio::spawn(async move {
            let abort = task.abort_handle();
            let found = tokio::select! {
                // The task ends by itself after it has told why.
                biased;
                state = states.changed() => match state {
                    zk::SessionState::Expired => Loss::Session,
                    _ => Loss::Connection,
                },
                _ = task => Loss::Connection,
            };
            note(&loss, found);
            abort.abort();
        });
        connection
    }

    /// How it ended, if it did.
    pub(crate) fn lost(&self) -> Option<Loss> {
        *self.loss.borrow()
    }

    /// Comes back when it has ended.
    pub(crate) async fn ended(&self) -> Loss {
        let mut loss = self.loss.subscribe();
        match loss.wait_for(Option::is_some).await {
            Ok(loss) => loss.unwrap_or(Loss::Connection),
            Err(_) => Loss::Connection,
        }
    }

    /// Gives it up.
    pub(crate) fn give_up(&self, why: &dyn fmt::Display) {
        if note(&self.loss, Loss::Connection) {
            tracing::debug!(server = self.server, "giving up the connection to ZooKeeper: {why}");
        }
        self.task.abort();
    }

    /// Sends one request, or several at once, and waits for the answer: not beyond the deadline, and not beyond `share`, after
    /// which the connection is given up. Returns when it was sent beside the answer.
    ///
    /// # Cancel safety
    ///
    /// What was sent is executed all the same.
    pub(crate) async fn ask<T, F>(
        &self,
        clock: &dyn Clock,
        share: Duration,
        deadline: Deadline,
        request: impl FnOnce(zk::Client) -> F,
    ) -> Result<(T, Moment), Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        if let Some(loss) = self.lost() {
            return Err(self.failure(loss));
        }
        let sent_at = clock.now();
        let limit = deadline.at_most(share);
        let answer = limit.bound("an answer of ZooKeeper", async {
            tokio::select! {
                biased;
                answer = request(self.client.clone()) => answer,
                loss = self.ended() => Err(self.failure(loss)),
            }
        });
        match answer.await {
            Ok(Ok(answer)) => {
                self.session.is_alive(sent_at);
                Ok((answer, sent_at))
            }
            Ok(Err(failure)) => {
                if failure.is_answer() {
                    self.session.is_alive(sent_at);
                } else if failure.is_expiry() {
                    note(&self.loss, Loss::Session);
                    self.task.abort();
                } else {
                    self.give_up(&failure);
                }
                Err(failure)
            }
            Err(late) if limit == deadline => Err(late.into()),
            Err(_) => {
                let failure = Failure::Silent(self.server.clone(), share);
                self.give_up(&failure);
                Err(failure)
            }
        }
    }

    fn failure(&self, loss: Loss) -> Failure {
        match loss {
            Loss::Connection => Failure::Lost(self.server.clone()),
            Loss::Session => zk::Error::SessionExpired.into(),
        }
    }
}

/// Notes how a connection ended, unless that is known already.
fn note(loss: &watch::Sender<Option<Loss>>, found: Loss) -> bool {
    loss.send_if_modified(|loss| {
        let first = loss.is_none();
        loss.get_or_insert(found);
        first
    })
}
