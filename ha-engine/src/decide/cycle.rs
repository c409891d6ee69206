//! One run of the judgement: what it was given, what it has found out so far, what it wants.
//!
//! A decision that needs something it was not given interrupts itself with `?`; the driver answers and the run begins
//! again from the top with the answers added. Because nothing here has effects, running again costs nothing and finds the
//! same way.

use std::sync::Arc;

use dcs_core::model::{ClusterView, FailoverKey, FailoverRequest, MemberName, Role};
use dcs_core::{Acquisition, Moment, Renewal};

use super::action::{Answer, Answers, Ask, Effect, Reload, Severity, Task};
use super::failsafe;
use super::failsafe::exclusion::Promise;
use super::memory::{Memory, RewindState};
use super::observation::{Observation, PeerAnswer, PeerTarget};
use super::sync::watch::SyncWatch;
use crate::settings::GlobalConfig;

/// The time, as an argument.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// On the clock that judges leases and timeouts.
    pub moment: Moment,
    /// On the wall clock. For schedules and published times only.
    pub wall: jiff::Timestamp,
}

/// Why a run cannot go on.
#[derive(Debug)]
pub(super) enum Interrupt {
    /// These questions come first.
    Ask(Vec<Ask>),
    /// The store failed in the middle of the cycle: the rest of it are the rows for a lost store.
    StoreFailed,
}

/// What a row returns: the line of the cycle, or an interruption.
pub(super) type Outcome<T = String> = Result<T, Interrupt>;

/// A run of the judgement.
pub(super) struct Cycle<'a> {
    /// What was seen.
    pub(super) obs: &'a Observation,
    /// The cluster-wide settings.
    pub(super) cfg: &'a GlobalConfig,
    /// The time.
    pub(super) now: Now,
    answers: &'a Answers,
    /// The view that rows work with: as observed, or as loaded again.
    pub(super) view: Arc<ClusterView>,
    /// The word that binds this node not to race.
    pub(super) promise: Option<Promise>,
    /// The next memory.
    pub(super) memory: Memory,
    /// What is wanted so far.
    pub(super) effects: Vec<Effect>,
    /// The long task to start.
    pub(super) task: Option<Task>,
    /// When the loop should look again before its period is over.
    pub(super) wake_at: Option<Moment>,
    /// Whether changes of members' keys should end the sleep.
    pub(super) watch_members: bool,
    /// What to look out for among the standbys until the next cycle.
    pub(super) sync_watch: Option<SyncWatch>,
}

impl<'a> Cycle<'a> {
    pub(super) fn new(
        obs: &'a Observation,
        cfg: &'a GlobalConfig,
        memory: &Memory,
        now: Now,
        answers: &'a Answers,
        view: Arc<ClusterView>,
    ) -> Self {
        Self {
            obs,
            cfg,
            now,
            answers,
            view,
            promise: obs.promise.clone(),
            memory: memory.clone(),
            effects: Vec::new(),
            task: None,
            wake_at: None,
            watch_members: false,
            sync_watch: None,
        }
    }

    // ---- what is the case ----------------------------------------------------------------------------------------

    pub(super) fn me(&self) -> &'a MemberName {
        &self.obs.me
    }

    pub(super) fn paused(&self) -> bool {
        self.cfg.pause
    }

    /// Whether the view says that the lock is mine.
    pub(super) fn lock_is_mine(&self) -> bool {
        self.view.leader_name() == Some(self.me())
    }

    pub(super) fn is_primary(&self) -> bool {
        self.obs.server.is_primary()
    }

    pub(super) fn role(&self) -> Role {
        // A role set earlier in this run counts for the rows after it.
        let decided = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::SetRole(role) => Some(*role),
            _ => None,
        });
        decided.unwrap_or(self.obs.server.role)
    }

    /// The request for a switchover or failover, if there is one.
    pub(super) fn failover(&self) -> Option<&FailoverKey> {
        self.view.failover.as_ref().filter(|key| !key.request.is_empty())
    }

    // ---- wanting something ---------------------------------------------------------------------------------------

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn info(&mut self, text: impl Into<String>) {
        self.push(Effect::Log(Severity::Info, text.into()));
    }

    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.push(Effect::Log(Severity::Warning, text.into()));
    }

    pub(super) fn error(&mut self, text: impl Into<String>) {
        self.push(Effect::Log(Severity::Error, text.into()));
    }

    pub(super) fn set_role(&mut self, role: Role) {
        if self.role() != role {
            self.push(Effect::SetRole(role));
        }
    }

    /// Starts `task` and returns its name as the line of the cycle.
    pub(super) fn start(&mut self, task: Task) -> String {
        let name = task.name();
        self.task = Some(task);
        name
    }

    /// Asks the loop to look again at `moment`, or earlier if something else asked for that.
    pub(super) fn wake_at(&mut self, moment: Moment) {
        self.wake_at = Some(self.wake_at.map_or(moment, |earlier| earlier.min(moment)));
    }

    /// With a promise in force the leader is whoever was promised; a lock that came to this node all the same (a request
    /// that arrived late) is let go, unless there is still something to stop first.
    pub(super) fn stand_back(&mut self) {
        let view = failsafe::complete(&self.view, self.obs, self.promise.as_ref());
        let unwanted = self.lock_is_mine() && view.leader_name() != Some(self.me());
        self.view = view;
        let released = self.effects.iter().any(|effect| matches!(effect, Effect::ReleaseLock(_)));
        if unwanted && !released && !self.obs.server.is_or_becomes_primary() {
            self.warn("releasing the leader lock: another node was promised to stay the leader without the store");
            self.release_lock();
        }
    }

    /// Lets go of the lock: gives up the belief, then orders the release.
    pub(super) fn release_lock(&mut self) {
        self.memory.lease = None;
        self.push(Effect::ReleaseLock(None));
    }

    /// Arms the divergence check, if knowing about a divergence would change anything.
    pub(super) fn arm_rewind_check(&mut self) {
        if self.obs.rewind_policy.can_act() && self.memory.rewind != RewindState::Need {
            self.memory.rewind = RewindState::Check;
        }
    }

    // ---- asking --------------------------------------------------------------------------------------------------

    pub(super) fn answer(&self, ask: &Ask) -> Option<&'a Answer> {
        self.answers.get(ask)
    }

    /// Makes sure that all of `asks` are answered, asking for what is missing at once.
    pub(super) fn need_all(&self, asks: &[Ask]) -> Outcome<()> {
        let missing: Vec<Ask> = asks.iter().filter(|ask| self.answer(ask).is_none()).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(Interrupt::Ask(missing)) }
    }

    /// The answer to `ask`, or the interruption that brings it.
    pub(super) fn need(&self, ask: Ask) -> Outcome<&'a Answer> {
        self.answer(&ask).ok_or_else(|| Interrupt::Ask(vec![ask]))
    }

    /// Renews the lock that is mine. `false`: it is definitely lost.
    pub(super) fn renew(&mut self) -> Outcome<bool> {
        match self.need(Ask::RenewLock)? {
            Answer::Renewal(Ok(Renewal::Renewed(lease))) => {
                self.memory.lease = Some(self.memory.lease.map_or(*lease, |known| known.latest(*lease)));
                failsafe::publish(self);
                Ok(true)
            }
            Answer::Renewal(Ok(Renewal::Lost)) => {
                self.memory.lease = None;
                Ok(false)
            }
            _ => Err(Interrupt::StoreFailed),
        }
    }

    /// Takes the lock by `ask`. `false`: somebody else holds it.
    pub(super) fn acquire(&mut self, ask: Ask) -> Outcome<bool> {
        match self.need(ask)? {
            Answer::Acquisition(Ok(Acquisition::Won(lease))) => {
                self.memory.lease = Some(*lease);
                // Every retained slot starts afresh: the former leader may have known of members that we do not.
                let names: Vec<String> = self.view.status.retain_slots.clone();
                for name in names {
                    self.memory.retain_slots_seen.insert(name, self.now.moment);
                }
                Ok(true)
            }
            Answer::Acquisition(Ok(Acquisition::Lost(_))) => Ok(false),
            Answer::Promised(promise) => {
                self.promise = Some(promise.clone());
                self.stand_back();
                Ok(false)
            }
            _ => Err(Interrupt::StoreFailed),
        }
    }

    /// Loads the view again; the rows after this work with it.
    pub(super) fn reload(&mut self, which: Reload) -> Outcome<()> {
        match self.need(Ask::Load(which))? {
            Answer::View(Ok(view)) => {
                self.view = Arc::clone(view);
                self.stand_back();
                Ok(())
            }
            _ => Err(Interrupt::StoreFailed),
        }
    }

    /// Whether a write that was asked for was applied.
    pub(super) fn written(&mut self, ask: Ask) -> Outcome<bool> {
        Ok(matches!(self.need(ask)?, Answer::Written(true)))
    }

    /// Asks members for their state; answers in order of arrival.
    pub(super) fn poll(&self, targets: &[PeerTarget]) -> Outcome<&'a [(MemberName, PeerAnswer)]> {
        if targets.is_empty() {
            return Ok(&[]);
        }
        match self.need(Ask::Poll(targets.to_vec()))? {
            Answer::Peers(answers) => Ok(answers),
            _ => Ok(&[]),
        }
    }

    /// Writes an empty failover request over the one in the view.
    pub(super) fn clean_failover(&mut self, conditional: bool) -> Outcome<()> {
        let expected = self.view.failover.as_ref().filter(|_| conditional).map(|key| key.revision.clone());
        self.written(Ask::WriteFailover(FailoverRequest::default(), expected))?;
        Ok(())
    }
}
