//! The session: made when it is needed, renewed, and given up once Consul says that it is gone.
//!
//! Consul promises that a session outlives one time to live without a renewal, and ends it at twice that. Two whole ones are
//! counted on, as the agents do whose keys these are: so half of the ttl is what Consul is asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::model::HandleId;
use dcs_core::{Clock, Deadline, Error, Handle, LeaderLease};

use crate::api::{NewSession, Pulse};
use crate::client::Client;
use crate::error::{Class, Failure};

/// How long Consul keeps a key from being locked again after its session ended. By default it would be 15 s.
const LOCK_DELAY: &str = "0.001s";

/// The least time to live that Consul allows by default.
const DEFAULT_MINIMUM: Duration = Duration::from_secs(10);

/// Makes the session when it is needed and keeps it alive.
#[derive(Debug)]
pub(crate) struct Keeper {
    client: Client,
    clock: Arc<dyn Clock>,
    checks: Vec<String>,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    /// What the session is called in Consul.
    name: String,
    held: Option<Held>,
    /// The least time to live that Consul allows, once it has refused less.
    minimum: Option<Duration>,
}

/// A session that was alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: String,
    /// The ttl for which it was made.
    asked: Duration,
    /// How long it lives after a renewal: twice the time to live that Consul was asked for.
    lives: Duration,
    /// Until when it certainly lives.
    pub(crate) lease: LeaderLease,
}

impl Held {
    pub(crate) fn handle(&self) -> Handle {
        Handle { id: HandleId::new(self.id.clone()), lease: self.lease }
    }

    /// Whether a key is bound to it.
    pub(crate) fn binds(&self, handle: Option<&HandleId>) -> bool {
        handle.is_some_and(|handle| handle.as_str() == self.id)
    }
}

impl Keeper {
    pub(crate) fn new(client: Client, clock: Arc<dyn Clock>, checks: Vec<String>) -> Self {
        Self { client, clock, checks, slot: Mutex::new(Slot { name: "quorate".to_owned(), ..Slot::default() }) }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What sessions made from now on are called.
    pub(crate) fn set_name(&self, name: &str) {
        name.clone_into(&mut self.slot().name);
    }

    /// The session, as last proved.
    pub(crate) fn held(&self) -> Option<Held> {
        self.slot().held.clone()
    }

    /// The time to live of a session made now.
    pub(crate) fn session_ttl(&self) -> Duration {
        let half = self.client.timing().ttl / 2;
        half.max(self.slot().minimum.unwrap_or_default())
    }

    /// Consul said that session `id` does not exist.
    pub(crate) fn forget(&self, id: &str) {
        let mut slot = self.slot();
        if slot.held.as_ref().is_some_and(|held| held.id == id) {
            slot.held = None;
        }
    }

    /// A session that was proved less than `loop_wait` ago.
    pub(crate) async fn ensure(&self, deadline: Deadline) -> Result<Held, Error> {
        let timing = self.client.timing();
        match self.held() {
            Some(held) if held.asked == timing.ttl && self.clock.now().saturating_since(held.lease.sent_at()) < timing.loop_wait => {
                Ok(held)
            }
            _ => self.refresh(deadline).await,
        }
    }

    /// A session that is proved now; a new one if there was none, if it is gone, or if the ttl has changed.
    ///
    /// # Cancel safety
    ///
    /// A session whose making was not waited for is never used, and expires.
    pub(crate) async fn refresh(&self, deadline: Deadline) -> Result<Held, Error> {
        if let Some(held) = self.held()
            && held.asked == self.client.timing().ttl
        {
            const OPERATION: &str = "renew the session";
            let sent_at = self.clock.now();
            match self.client.renew_session(&held.id, deadline).await.map_err(|failure| failure.into_error(OPERATION))? {
                Pulse::Alive => return Ok(self.renewed(held, sent_at)),
                Pulse::Gone => {
                    tracing::info!(session = held.id, "our session is gone from Consul");
                    self.forget(&held.id);
                }
            }
        }
        self.make(deadline).await
    }

    fn renewed(&self, held: Held, sent_at: dcs_core::Moment) -> Held {
        let proved = Held { lease: LeaderLease::granted(sent_at, held.lives), ..held };
        let mut slot = self.slot();
        if let Some(current) = &mut slot.held
            && current.id == proved.id
            && current.lease.sent_at() <= sent_at
        {
            *current = proved.clone();
        }
        proved
    }

    async fn make(&self, deadline: Deadline) -> Result<Held, Error> {
        const OPERATION: &str = "make a session";
        let fail = |failure: Failure| failure.into_error(OPERATION);
        let asked = self.client.timing().ttl;
        let before = self.held();
        let first = self.session_ttl();
        let (id, sent_at, ttl) = match self.create(first, deadline).await {
            Ok((id, sent_at)) => (id, sent_at, first),
            Err(failure) if failure.class == Class::TtlRefused => {
                let minimum = self.minimum(&failure, deadline).await.map_err(fail)?;
                if minimum <= first {
                    // It was not too short, and nothing else is known to do about it.
                    return Err(fail(failure));
                }
                tracing::warn!(
                    "Consul allows no session with a time to live of {first:?}; it gets {minimum:?}, so that keys live for {:?}",
                    minimum * 2
                );
                self.slot().minimum = Some(minimum);
                let (id, sent_at) = self.create(minimum, deadline).await.map_err(fail)?;
                (id, sent_at, minimum)
            }
            Err(failure) => return Err(fail(failure)),
        };
        let lives = ttl * 2;
        let new = Held { id, asked, lives, lease: LeaderLease::granted(sent_at, lives) };
        let mut slot = self.slot();
        match &slot.held {
            // Somebody else in this process was faster. Keys must not hang on two sessions; ours expires unused.
            Some(other) if Some(other) != before.as_ref() && other.asked == asked => Ok(other.clone()),
            _ => {
                slot.held = Some(new.clone());
                drop(slot);
                tracing::debug!(session = new.id, ?ttl, "Consul made a session");
                Ok(new)
            }
        }
    }

    async fn create(&self, ttl: Duration, deadline: Deadline) -> Result<(String, dcs_core::Moment), Failure> {
        let name = self.slot().name.clone();
        let ttl = format!("{}s", ttl.as_secs_f64());
        let session = NewSession { name: &name, checks: &self.checks, lock_delay: LOCK_DELAY, behavior: "delete", ttl };
        let sent_at = self.clock.now();
        let id = self.client.create_session(&session, deadline).await?;
        Ok((id, sent_at))
    }

    /// The least time to live, from the refusal itself, because it is the server's and not that of the agent in between; from
    /// the agent if it does not tell.
    async fn minimum(&self, refusal: &Failure, deadline: Deadline) -> Result<Duration, Failure> {
        if let Some(minimum) = minimum_in(&refusal.cause.to_string()) {
            return Ok(minimum);
        }
        let told = match self.client.least_session_ttl(deadline).await? {
            serde_json::Value::Number(nanoseconds) => nanoseconds.as_u64().map(Duration::from_nanos),
            serde_json::Value::String(text) => parse_duration(&text),
            _ => None,
        };
        Ok(told.filter(|told| !told.is_zero()).unwrap_or(DEFAULT_MINIMUM))
    }
}

/// The lower bound in `... must be between [10s=24h0m0s]`.
fn minimum_in(text: &str) -> Option<Duration> {
    let (_, bounds) = text.rsplit_once('[')?;
    parse_duration(bounds.split_once('=')?.0).filter(|least| !least.is_zero())
}

/// A time span as Go writes it: `1h2m3.5s`, `300ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(end);
        let unit = &behind[..behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len())];
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        rest = &behind[unit.len()..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_time_to_live_is_in_the_refusal() {
        let text = |bounds: &str| Failure::answered(500, &format!("Invalid Session TTL '5000000000', must be between [{bounds}]"));
        let minimum = |bounds: &str| minimum_in(&text(bounds).cause.to_string());
        assert_eq!(minimum("10s=24h0m0s"), Some(Duration::from_secs(10)));
        assert_eq!(minimum("1m30s=24h0m0s"), Some(Duration::from_secs(90)));
        assert_eq!(minimum("1.5s=24h0m0s"), Some(Duration::from_millis(1500)));
        assert_eq!(minimum("500ms=24h0m0s"), Some(Duration::from_millis(500)));
        assert_eq!(minimum("0s=24h0m0s"), None);
        assert_eq!(minimum("soon=later"), None);
        assert_eq!(minimum_in("Invalid Session TTL"), None);
    }
}
