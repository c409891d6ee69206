//! What trials are told in: members that do things and say what came of it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Harness, Link, Need, Outside, Profile, Stage, Who};
use crate::model::{ClusterView, Leader, MemberName, MemberRecord};
use crate::{Acquisition, BoxError, Clock, Dcs, Deadline, Entry, Error, Interest, LeaderLease, Renewal, Timing, Touched, Wake};

/// One trial's cluster.
pub(super) struct Scene {
    pub(super) stage: Arc<dyn Stage>,
    pub(super) timing: Timing,
    pub(super) profile: Profile,
    scope: String,
}

impl Scene {
    pub(super) async fn set(harness: &dyn Harness, trial: &str, needs: &[Need]) -> Result<Self, BoxError> {
        let number = trial.split('_').next().unwrap_or(trial);
        Ok(Self {
            stage: harness.stage(needs).await?,
            timing: harness.timing(),
            profile: harness.profile(),
            // Another run may have left its keys behind.
            scope: format!("{number}-{:012x}", fastrand::u64(0..1 << 48)),
        })
    }

    /// A new member, or a new process of one.
    pub(super) async fn member(&self, name: &str) -> Actor {
        self.member_of("", name).await
    }

    /// A member of the cluster whose name is this one's and `suffix`.
    pub(super) async fn member_of(&self, suffix: &str, name: &str) -> Actor {
        let who = self.who(suffix, name);
        let dcs = self.stage.connect(&who).await.expect("a client can be made");
        Actor { dcs, name: name.into(), timing: self.timing, clock: self.stage.clock() }
    }

    /// A new member behind a link of its own.
    pub(super) async fn member_behind_link(&self, name: &str) -> (Actor, Arc<dyn Link>) {
        let who = self.who("", name);
        let (dcs, link) = self.stage.connect_through_link(&who).await.expect("a client with a link can be made");
        (Actor { dcs, name: name.into(), timing: self.timing, clock: self.stage.clock() }, link)
    }

    pub(super) async fn outside(&self) -> Hand {
        Hand(self.stage.outside(&self.scope).await.expect("a hand outside can be had"))
    }

    /// The time after which an abandoned key must be gone.
    pub(super) fn longest_life(&self) -> Duration {
        self.timing.ttl + self.profile.expiry_granularity
    }

    fn who(&self, suffix: &str, name: &str) -> Who {
        Who { scope: format!("{}{suffix}", self.scope), name: name.to_owned(), timing: self.timing }
    }
}

/// A member of the cluster. Its methods panic on errors, which fails the trial; what may go wrong is tried through `dcs`.
#[derive(Clone)]
pub(super) struct Actor {
    pub(super) dcs: Arc<dyn Dcs>,
    pub(super) name: MemberName,
    pub(super) timing: Timing,
    pub(super) clock: Arc<dyn Clock>,
}

impl Actor {
    /// The deadline of one operation.
    pub(super) fn soon(&self) -> Deadline {
        Deadline::after(self.timing.retry_timeout)
    }

    pub(super) async fn view(&self) -> ClusterView {
        self.must("load", self.dcs.load(self.soon()).await)
    }

    pub(super) async fn leader(&self) -> Option<Leader> {
        self.view().await.leader
    }

    pub(super) async fn attempt(&self) -> Acquisition {
        self.must("acquire", self.dcs.attempt_to_acquire_leader(self.soon()).await)
    }

    pub(super) async fn acquires(&self) -> bool {
        matches!(self.attempt().await, Acquisition::Won(_))
    }

    /// Acquires the lock, which must be free.
    pub(super) async fn wins(&self) -> LeaderLease {
        let sent = self.clock.now();
        match self.attempt().await {
            Acquisition::Won(lease) => {
                self.check_lease(lease);
                assert!(lease.sent_at() <= self.clock.now() && lease.valid_until() >= sent, "{lease:?}");
                lease
            }
            Acquisition::Lost(holder) => panic!("{} lost the lock to {holder:?}", self.name),
        }
    }

    /// Renews what `seen` says, as the engine does: with the leader of the last load.
    pub(super) async fn renews(&self, seen: &Leader) -> Option<LeaderLease> {
        match self.must("renew", self.dcs.renew_leader(seen, self.soon()).await) {
            Renewal::Renewed(lease) => {
                self.check_lease(lease);
                Some(lease)
            }
            Renewal::Lost => None,
        }
    }

    /// One cycle of a leader: load, renew, publish. Returns the lease, or nothing if the lock is lost.
    pub(super) async fn leads_a_cycle(&self) -> Option<LeaderLease> {
        let leader = self.leader().await.filter(|leader| leader.name == self.name)?;
        let lease = self.renews(&leader).await?;
        self.touch(&self.record()).await;
        Some(lease)
    }

    pub(super) async fn releases(&self) -> bool {
        self.must("release", self.dcs.release_leader(None, self.soon()).await)
    }

    pub(super) async fn touch(&self, record: &MemberRecord) -> Touched {
        self.must("touch", self.dcs.touch_member(record, self.soon()).await)
    }

    /// What a running member says about itself.
    pub(super) fn record(&self) -> MemberRecord {
        MemberRecord {
            conn_url: Some(format!("postgres://{}:5432/postgres", self.name)),
            api_url: Some(format!("http://{}:8008/patroni", self.name)),
            state: Some("running".to_owned()),
            role: Some("replica".to_owned()),
            version: Some("4.1.4".to_owned()),
            ..MemberRecord::default()
        }
    }

    pub(super) async fn waits(&self, interest: Interest, timeout: Duration) -> (Wake, Duration) {
        let begun = Instant::now();
        let wake = self.dcs.wait(interest, timeout).await;
        (wake, begun.elapsed())
    }

    pub(super) fn must<T>(&self, what: &str, outcome: Result<T, Error>) -> T {
        outcome.unwrap_or_else(|error| panic!("{} could not {what}: {}", self.name, error.chain()))
    }

    /// Whatever the store says, no belief is longer than the ttl, counted from before now.
    fn check_lease(&self, lease: LeaderLease) {
        let longest = self.clock.now() + self.timing.ttl;
        assert!(lease.valid_until() <= longest, "{lease:?} outlives the ttl, which ends at {longest:?}");
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

/// [`Outside`], without the possibility of failing.
pub(super) struct Hand(Arc<dyn Outside>);

impl Hand {
    pub(super) async fn put(&self, key: &str, value: impl AsRef<[u8]>) {
        self.0.put(key, value.as_ref()).await.expect("a key can be written from outside");
    }

    pub(super) async fn get(&self, key: &str) -> Option<Entry> {
        self.0.get(key).await.expect("a key can be read from outside")
    }

    pub(super) async fn delete(&self, key: &str) {
        self.0.delete(key).await.expect("a key can be deleted from outside");
    }

    pub(super) async fn revoke(&self, entry: &Entry) {
        self.0.revoke(entry).await.expect("a handle can be ended from outside");
    }
}

/// Asks again and again until `condition` says yes, and fails with the last answer after `patience`.
pub(super) async fn eventually<T, F>(what: &str, patience: Duration, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let begun = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(seen) => {
                assert!(begun.elapsed() < patience, "{what} did not happen in {patience:?}; last seen: {seen}")
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
