//! The one lease of this process, which the member key and the leader key hang on.
//!
//! ```text
//!            grant                    keepalive: ttl > 0
//!   none ───────────► held ─────────────────────────────► held, counted from before the question was sent
//!    ▲                 │ keepalive: ttl 0, or "lease not found"
//!    └─────────────────┘ (a changed ttl replaces the lease; the old one expires by itself)
//! ```
//!
//! A keepalive is answered by the member that believes itself to be the leader of etcd. Before its issue 15247 was fixed
//! in late 2023 it did not ask the others first, so that one which was deposed while it was stopped could still say yes.
//! Its answer carries its old raft term, which is why a [`Held`] remembers the term of its proof: whoever confirms a lock
//! compares it with the term of the transaction, see `store.rs`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::model::HandleId;
use dcs_core::{Clock, Deadline, Error, Handle, LeaderLease, Moment};
use etcd_client::{GetOptions, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseKeepAliveStream, LeaseKeeper};

use crate::client::{Backing, Call, Client, Repeat};
use crate::connect::Connection;
use crate::error::malformed;
use crate::failure::Failure;
use crate::history::{Header, Standing};
use crate::wire::{Headed, Wire};

/// Grants the lease when it is needed and keeps it alive.
#[derive(Debug)]
pub(crate) struct Keeper {
    client: Client<Connection>,
    clock: Arc<dyn Clock>,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    held: Option<Held>,
    /// Nobody is waiting for an answer on it.
    stream: Option<Stream>,
}

/// A lease that was alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: i64,
    /// The ttl that was asked for when it was granted.
    asked: Duration,
    /// The ttl that etcd gave it.
    granted: Duration,
    /// Until when it certainly lives.
    pub(crate) lease: LeaderLease,
    /// The raft term of the server that said so; nothing if the library kept it to itself.
    pub(crate) term: Option<u64>,
}

/// A stream of keepalives on which every question had its answer.
#[derive(Debug)]
struct Stream {
    /// The serial of its connection.
    connection: u64,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

/// What a keepalive found.
enum Pulse {
    Alive(LeaseKeepAliveResponse, Moment),
    /// It lives; but opening the stream is all that was done, and the library looked at the answer itself.
    Opened(Moment),
    Gone,
}

/// A grant, and when it was asked for.
struct Grant(LeaseGrantResponse, Moment);

impl Headed for Pulse {
    fn header(&self) -> Option<Header> {
        match self {
            Self::Alive(response, _) => response.header().map(Header::from),
            Self::Opened(_) | Self::Gone => None,
        }
    }
}

impl Headed for Grant {
    fn header(&self) -> Option<Header> {
        self.0.header().map(Header::from)
    }
}

impl Held {
    pub(crate) fn handle(&self) -> Handle {
        Handle { id: handle_id(self.id), lease: self.lease }
    }
}

/// A lease as the contract names it.
pub(crate) fn handle_id(lease: i64) -> HandleId {
    HandleId::new(lease.to_string())
}

impl Keeper {
    pub(crate) fn new(client: Client<Connection>, clock: Arc<dyn Clock>) -> Self {
        Self { client, clock, slot: Mutex::default() }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease, as last proved.
    pub(crate) fn held(&self) -> Option<Held> {
        self.slot().held
    }

    /// The server said that lease `id` does not exist.
    pub(crate) fn forget(&self, id: i64) {
        let mut slot = self.slot();
        if slot.held.is_some_and(|held| held.id == id) {
            slot.held = None;
            slot.stream = None;
        }
    }

    /// A lease that was proved less than `loop_wait` ago.
    pub(crate) async fn ensure(&self, deadline: Deadline) -> Result<Held, Error> {
        let timing = self.client.timing();
        match self.held() {
            Some(held) if held.asked == timing.ttl && self.clock.now().saturating_since(held.lease.sent_at()) < timing.loop_wait => {
                Ok(held)
            }
            _ => self.refresh(deadline).await,
        }
    }

    /// A lease that is proved now; a new one if there was none, if it is gone, or if the ttl has changed.
    ///
    /// # Cancel safety
    ///
    /// A question without an answer takes its stream with it, so that no later answer can be mistaken for its own.
    pub(crate) async fn refresh(&self, deadline: Deadline) -> Result<Held, Error> {
        if let Some(held) = self.held()
            && held.asked == self.client.timing().ttl
        {
            if let Some(held) = self.keep_alive(held, deadline).await? {
                return Ok(held);
            }
            tracing::info!(lease = held.id, "our lease is gone from etcd");
            self.forget(held.id);
        }
        self.grant(deadline).await
    }

    async fn grant(&self, deadline: Deadline) -> Result<Held, Error> {
        const OPERATION: &str = "get a lease";
        let asked = self.client.timing().ttl;
        let seconds = i64::try_from(asked.as_millis().div_ceil(1000).max(1)).unwrap_or(i64::MAX);
        let before = self.held();
        let call = Call { operation: OPERATION, repeat: Repeat::Freely, backing: Backing::Majority };
        let answer = self
            .client
            .run(call, deadline, |connection| {
                let sent_at = self.clock.now();
                let mut lease = connection.lease();
                async move { lease.grant(seconds, None).await.map(|response| Grant(response, sent_at)) }
            })
            .await?;
        let Grant(response, sent_at) = answer.value;
        let granted = lifetime(response.ttl()).ok_or_else(|| malformed(OPERATION, "the lease has no ttl"))?;
        let lease = LeaderLease::granted(sent_at, granted);
        let new = Held { id: response.id(), asked, granted, lease, term: Some(answer.header.term) };
        let mut slot = self.slot();
        match slot.held {
            // Somebody else in this process was faster. Keys must not hang on two leases; ours expires unused.
            Some(other) if Some(other) != before && other.asked == asked => Ok(other),
            _ => {
                slot.held = Some(new);
                slot.stream = None;
                drop(slot);
                tracing::debug!(lease = new.id, ttl = ?granted, "etcd granted a lease");
                Ok(new)
            }
        }
    }

    /// Refreshes `held`; nothing if it does not exist any more.
    async fn keep_alive(&self, held: Held, deadline: Deadline) -> Result<Option<Held>, Error> {
        const OPERATION: &str = "refresh the lease";
        let call = Call { operation: OPERATION, repeat: Repeat::Freely, backing: Backing::OneServerAnyRevision };
        loop {
            let ask = |connection| self.pulse(connection, held.id);
            let answer = self.client.run(call, deadline, ask).await?;
            if answer.standing == Standing::Behind {
                // Either this server is, or the newer term was never that of a majority. A majority can tell.
                self.ask_majority(deadline).await?;
                continue;
            }
            let (sent_at, granted, term) = match answer.value {
                Pulse::Gone => return Ok(None),
                Pulse::Opened(sent_at) => (sent_at, held.granted, None),
                Pulse::Alive(response, sent_at) => match lifetime(response.ttl()) {
                    Some(granted) => (sent_at, granted, Some(answer.header.term)),
                    None => return Ok(None),
                },
            };
            let proved = Held { granted, lease: LeaderLease::granted(sent_at, granted), term, ..held };
            let mut slot = self.slot();
            if let Some(current) = &mut slot.held
                && current.id == held.id
                && current.lease.sent_at() <= sent_at
            {
                *current = proved;
            }
            return Ok(Some(proved));
        }
    }

    /// Learns from a majority of the servers what term and revision they are at.
    async fn ask_majority(&self, deadline: Deadline) -> Result<(), Error> {
        let call = Call { operation: "ask a majority", repeat: Repeat::Freely, backing: Backing::Majority };
        let ask = |connection: Arc<Connection>| async move { connection.kv().get("/", Some(GetOptions::new().with_count_only())).await };
        self.client.run(call, deadline, ask).await.map(drop)
    }

    /// One question and its answer, on the stream of `connection`.
    async fn pulse(&self, connection: Arc<Connection>, id: i64) -> Result<Pulse, Failure> {
        let kept = self.slot().stream.take();
        let sent_at = self.clock.now();
        let Some(mut stream) = kept.filter(|s| s.connection == connection.serial() && s.keeper.id() == id) else {
            return match connection.lease().keep_alive(id).await {
                Ok((keeper, answers)) => {
                    self.slot().stream = Some(Stream { connection: connection.serial(), keeper, answers });
                    Ok(Pulse::Opened(sent_at))
                }
                // Here the library's word for an answer with ttl 0.
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(Pulse::Gone),
                Err(error) => Err(error.into()),
            };
        };
        stream.keeper.keep_alive().await.map_err(|_| Failure::lost("the stream of keepalives has ended"))?;
        let Some(response) = stream.answers.message().await? else {
            return Err(Failure::lost("the stream of keepalives has ended"));
        };
        if response.id() != id {
            return Err(Failure::lost("a keepalive was answered for another lease"));
        }
        if lifetime(response.ttl()).is_none() {
            return Ok(Pulse::Gone);
        }
        self.slot().stream = Some(stream);
        Ok(Pulse::Alive(response, sent_at))
    }
}

/// The lifetime in an answer. Zero, negative or absent means that the lease does not exist.
fn lifetime(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().filter(|&seconds| seconds > 0).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_time_to_live_is_no_renewal() {
        assert_eq!(lifetime(0), None);
        assert_eq!(lifetime(-1), None);
        assert_eq!(lifetime(20), Some(Duration::from_secs(20)));
    }
}
