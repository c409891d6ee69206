//! Which standbys are known to hold every acknowledged commit (section 5.4, hardening rules X4 and X6).
//!
//! A commit that was acknowledged under a former `synchronous_standby_names` need not be on the standbys of the present
//! one. So whenever the text changes, the position of the server is remembered: the barrier. Whoever has flushed the
//! barrier has everything that was acknowledged before the change, and everything after it is waited for anyway.
//!
//! ```text
//!   text changes ─► every process has read it ─► barrier := flushed position, small WAL record ─► standby ≥ barrier: proven
//! ```

use dcs_core::model::Lsn;

use super::names::{Kind, Names, StandbyNames};
use super::sample::{SyncSample, SyncWord};
use crate::settings::SyncMode;

/// What is proven, and against what. Lives as long as this server is the primary and the agent runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proof {
    /// The mode and the text that it is about; nothing at first.
    about: Option<(SyncMode, String)>,
    /// What a standby must have; nothing while the text is too fresh.
    barrier: Option<Lsn>,
    /// Who has it.
    proven: Names,
}

/// What happens to the proven ones when the text changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    /// Those that stay in the text stay proven, if commits waited for each of them all the time.
    Keep,
    /// Nobody stays proven: any of them may have been skipped by any commit (hardening rule X4).
    Restart,
    /// Those that stay in the text stay proven: what the rule keeps from happening.
    #[cfg(test)]
    Careless,
}

impl Retention {
    /// The rule of `mode`.
    pub(crate) fn of(mode: SyncMode) -> Self {
        if mode == SyncMode::Quorum { Self::Restart } else { Self::Keep }
    }
}

/// One look at the server, with what `/sync` says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence<'a> {
    /// What the server shows.
    pub(crate) sample: &'a SyncSample,
    /// Its `synchronous_standby_names`, read.
    pub(crate) names: &'a StandbyNames,
    /// The mode in force.
    pub(crate) mode: SyncMode,
    /// The standbys in `/sync`.
    pub(crate) listed: &'a Names,
    /// The quorum in `/sync`.
    pub(crate) quorum: u64,
}

/// Whether commits wait for every single one of the names. The text may be somebody else's work.
fn waits_for_each(names: &StandbyNames) -> bool {
    names.kind == Kind::Priority && !names.everybody && names.number >= names.names.len()
}

impl Evidence<'_> {
    /// Whether being listed in `/sync` proves anything: not in quorum mode, and not after it (hardening rule X6).
    fn listing_is_proof(&self) -> bool {
        self.mode == SyncMode::On && self.quorum == 0 && waits_for_each(self.names)
    }

    fn proves(&self, name: &str, barrier: Option<Lsn>) -> bool {
        if self.listing_is_proof() && self.listed.contains(name) {
            return true;
        }
        let word = if self.mode == SyncMode::Quorum { SyncWord::Quorum } else { SyncWord::Sync };
        let sender = self.sample.walsender(name).filter(|sender| sender.sync == word);
        let position = sender.and_then(|sender| sender.position(self.sample.level));
        matches!((position, barrier), (Some(position), Some(barrier)) if position >= barrier)
    }
}

impl Proof {
    /// What is proven after this look. The second value: a barrier was taken, and idle standbys need a WAL record to reach
    /// it.
    pub(crate) fn after(&self, evidence: &Evidence<'_>, retention: Retention) -> (Self, bool) {
        let sample = evidence.sample;
        let mut proof = self.clone();
        let named = evidence.names.named();
        let same_mode = self.about.as_ref().is_some_and(|(mode, _)| *mode == evidence.mode);
        let before = self.about.as_ref().and_then(|(_, text)| StandbyNames::parse(text).ok());
        let each = before.as_ref().is_some_and(waits_for_each) && waits_for_each(evidence.names);
        let same_text = self.about.as_ref().is_some_and(|(_, text)| *text == sample.names);
        if !same_mode || !same_text {
            proof.about = Some((evidence.mode, sample.names.clone()));
            proof.barrier = None;
            proof.proven = match retention {
                Retention::Keep if same_mode && each => self.proven.intersection(&named),
                #[cfg(test)]
                Retention::Careless if same_mode => self.proven.intersection(&named),
                _ => Names::default(),
            };
        }
        let taken = proof.barrier.is_none() && sample.settled;
        if taken {
            proof.barrier = Some(sample.flushed);
        }
        for name in named.iter() {
            if evidence.proves(name.as_str(), proof.barrier) {
                proof.proven.insert(name.clone());
            }
        }
        (proof, taken && !named.is_empty())
    }

    /// The standbys that hold every acknowledged commit.
    pub(crate) fn proven(&self) -> &Names {
        &self.proven
    }

    /// Whether `sample` would prove a standby that is not proven yet, or make a barrier possible.
    pub(crate) fn would_grow(&self, evidence: &Evidence<'_>, awaited: &Names) -> bool {
        if self.barrier.is_none() {
            return evidence.sample.settled;
        }
        awaited.iter().any(|name| !self.proven.contains(name.as_str()) && evidence.proves(name.as_str(), self.barrier))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{names, sender};
    use super::*;

    /// A primary at 1000 with this text; who streams, how, and how far it is.
    fn look(text: &str, senders: &[(&str, SyncWord, u64)]) -> SyncSample {
        SyncSample {
            names: text.to_owned(),
            settled: true,
            flushed: Lsn(1000),
            walsenders: senders.iter().map(|(name, sync, position)| sender(name, *sync, *position)).collect(),
            ..SyncSample::default()
        }
    }

    struct Case<'a> {
        mode: SyncMode,
        listed: &'a str,
        quorum: u64,
    }

    impl Case<'_> {
        fn after(&self, proof: &Proof, sample: &SyncSample) -> (Proof, bool) {
            let evidence = Evidence {
                sample,
                names: &StandbyNames::parse(&sample.names).expect("usable"),
                mode: self.mode,
                listed: &names(self.listed),
                quorum: self.quorum,
            };
            proof.after(&evidence, Retention::of(self.mode))
        }
    }

    const ON: Case<'_> = Case { mode: SyncMode::On, listed: "", quorum: 0 };
    const QUORUM: Case<'_> = Case { mode: SyncMode::Quorum, listed: "b c", quorum: 1 };

    use SyncWord::{Async, Quorum, Sync};

    #[test]
    fn a_standby_is_proven_when_it_has_flushed_the_barrier_and_is_waited_for() {
        let (proof, record) = ON.after(&Proof::default(), &look("b", &[("b", Sync, 990)]));
        assert!(record, "an idle standby needs something to get past the barrier");
        assert_eq!(proof.proven(), &names(""), "it is not far enough");
        let (still, record) = ON.after(&proof, &look("b", &[("b", Async, 1010)]));
        assert!(!record && still.proven().is_empty(), "nobody waits for it yet");
        let (done, _) = ON.after(&still, &look("b", &[("B", Sync, 1000)]));
        assert_eq!(done.proven(), &names("b"));
        let mut ahead = look("b", &[]);
        ahead.flushed = Lsn(5000);
        assert_eq!(ON.after(&done, &ahead).0, done, "the barrier stays where it was, and a proven standby proven");
    }

    #[test]
    fn no_barrier_is_taken_before_every_process_has_read_the_text() {
        let mut fresh = look("b", &[("b", Sync, 1000)]);
        fresh.settled = false;
        let (proof, record) = ON.after(&Proof::default(), &fresh);
        assert!(!record && proof.proven().is_empty());
        let mut later = look("b", &[("b", Sync, 1000)]);
        later.flushed = Lsn(1200);
        let (proof, record) = ON.after(&proof, &later);
        assert!(record && proof.proven().is_empty(), "what was committed meanwhile counts");
    }

    #[test]
    fn named_standbys_stay_proven_when_others_come_and_go() {
        let (proof, _) = ON.after(&Proof::default(), &look("b", &[("b", Sync, 1000)]));
        let (proof, record) = ON.after(&proof, &look("2 (b,c)", &[("c", Sync, 10)]));
        assert!(record && *proof.proven() == names("b"));
        let (proof, _) = ON.after(&proof, &look("c", &[("b", Async, 2000), ("c", Sync, 1000)]));
        assert_eq!(proof.proven(), &names("c"));
    }

    /// Texts that the agent never writes in this mode: somebody has set them by hand.
    #[test]
    fn nobody_stays_proven_whom_commits_may_have_skipped() {
        let both = [("b", Sync, 1000), ("c", Sync, 1000)];
        let (proof, _) = ON.after(&Proof::default(), &look("2 (b,c)", &both));
        assert_eq!(proof.proven(), &names("b c"));
        let behind = [("b", Sync, 1000), ("c", SyncWord::Potential, 1000)];
        for text in ["b,c", "1 (b,c)", "ANY 1 (b,c)", "2 (b,c,d)", "*"] {
            let mut by_hand = look(text, &behind);
            by_hand.flushed = Lsn(2000);
            let (loosened, _) = ON.after(&proof, &by_hand);
            assert_eq!(loosened.proven(), &names(""), "{text}");
            let mut tightened = look("2 (b,c)", &both);
            tightened.flushed = Lsn(3000);
            assert_eq!(ON.after(&loosened, &tightened).0.proven(), &names(""), "{text}, then 2 (b,c) again");
            let listed = Case { mode: SyncMode::On, listed: "b c", quorum: 0 };
            assert_eq!(listed.after(&Proof::default(), &by_hand).0.proven(), &names(""), "{text}: being listed proves nothing");
        }
        assert_eq!(ON.after(&proof, &look("3 (b,c)", &both)).0.proven(), &names("b c"), "each of them is waited for");
    }

    #[test]
    fn in_quorum_mode_every_change_starts_anew() {
        let both = [("b", Quorum, 1000), ("c", Quorum, 10)];
        let (proof, _) = QUORUM.after(&Proof::default(), &look("ANY 1 (b,c)", &both));
        assert_eq!(proof.proven(), &names("b"), "being listed in /sync proves nothing");
        let (proof, record) = QUORUM.after(&proof, &look("ANY 1 (b,c,d)", &[("b", Quorum, 999), ("c", Quorum, 1000)]));
        assert!(record && *proof.proven() == names("c"), "b was there before, and may have been skipped");
        let evidence_word = [("b", Sync, 1000)];
        assert_eq!(QUORUM.after(&Proof::default(), &look("b", &evidence_word)).0.proven(), &names(""), "the text is of the other kind");
    }

    #[test]
    fn in_the_named_mode_being_listed_is_proof_unless_it_may_come_from_quorum_mode() {
        let streaming = [("b", Sync, 10)];
        let listed = Case { mode: SyncMode::On, listed: "B", quorum: 0 };
        assert_eq!(listed.after(&Proof::default(), &look("b", &streaming)).0.proven(), &names("b"));
        let from_quorum = Case { mode: SyncMode::On, listed: "b", quorum: 1 };
        assert_eq!(from_quorum.after(&Proof::default(), &look("b", &streaming)).0.proven(), &names(""));
        assert_eq!(listed.after(&Proof::default(), &look("ANY 1 (b)", &streaming)).0.proven(), &names(""));
        assert_eq!(listed.after(&Proof::default(), &look("c", &streaming)).0.proven(), &names(""), "nobody waits for it");
    }

    #[test]
    fn what_was_proven_in_one_mode_is_not_in_the_other() {
        let (proof, _) = QUORUM.after(&Proof::default(), &look("ANY 1 (b,c)", &[("b", Quorum, 1000)]));
        assert_eq!(proof.proven(), &names("b"));
        let mut later = look("b", &[("b", Sync, 1000)]);
        later.flushed = Lsn(2000);
        let switched = Case { mode: SyncMode::On, listed: "", quorum: 0 };
        assert_eq!(switched.after(&proof, &later).0.proven(), &names(""), "c alone may have acknowledged what is between");
    }

    #[test]
    fn everybody_is_nobody_in_particular() {
        let (proof, record) = ON.after(&Proof::default(), &look("*", &[("b", Sync, 1000)]));
        assert!(proof.proven().is_empty() && !record);
    }
}
