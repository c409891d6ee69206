//! What a leader looks out for between its cycles (appendix B): a pass need not wait for the period when something has
//! happened that it would act on.

use std::collections::BTreeMap;
use std::time::Duration;

use dcs_core::Moment;
use dcs_core::model::SyncRecord;

use super::names::{Names, StandbyNames};
use super::proven::{Evidence, Proof};
use super::sample::SyncSample;
use crate::settings::SyncMode;

/// The pause between looks while a proof is awaited.
const WHILE_AWAITING: Duration = Duration::from_millis(75);
/// For how long a proof is awaited so eagerly; a standby that is far behind takes longer.
const EAGERLY: Duration = Duration::from_secs(2);
/// The pause between looks otherwise.
const USUALLY: Duration = Duration::from_secs(1);
/// A standby that was away for a shorter time may be on a link that flaps; acting on it would only shrink the set.
const GONE: Duration = Duration::from_secs(2);

/// What to look out for. Made by a decision, carried from look to look.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncWatch {
    /// When it was made.
    pub(super) since: Moment,
    /// The mode in force.
    pub(super) mode: SyncMode,
    /// What `/sync` says.
    pub(super) record: SyncRecord,
    /// `synchronous_standby_names`, as the decision left it.
    pub(super) text: String,
    /// What is proven.
    pub(super) proof: Proof,
    /// The standbys whose proof is awaited.
    pub(super) awaited: Names,
    /// Members that may have sync duty.
    pub(super) able: Names,
    /// Those of them that streamed.
    pub(super) streaming: Names,
    /// Since when standbys that commits wait for have been away.
    pub(super) gone: BTreeMap<String, Moment>,
}

impl SyncWatch {
    /// How long to wait before the next look.
    pub fn pause(&self, now: Moment) -> Duration {
        let eager = !self.awaited.is_empty() && now.saturating_since(self.since) < EAGERLY;
        if eager { WHILE_AWAITING } else { USUALLY }
    }

    /// Takes a look into account. True: a cycle should run now.
    pub fn look(&mut self, sample: &SyncSample, now: Moment) -> bool {
        let streams = |name: &str| sample.walsender(name).is_some();
        // Somebody changed it past us, or every process has read it by now.
        if sample.names != self.text {
            return true;
        }
        let has_come = |name: &str| streams(name) && !self.streaming.contains(name);
        if self.able.iter().any(|name| has_come(name.as_str())) {
            return true;
        }
        let Ok(names) = StandbyNames::parse(&sample.names) else { return false };
        let listed: Names = self.record.standbys.iter().cloned().collect();
        let evidence = Evidence { sample, names: &names, mode: self.mode, listed: &listed, quorum: self.record.quorum };
        if !self.awaited.is_empty() && self.proof.would_grow(&evidence, &self.awaited) {
            return true;
        }
        self.gone.retain(|name, _| !streams(name));
        for name in names.named().iter().filter(|name| !streams(name.as_str())) {
            self.gone.entry(name.as_str().to_lowercase()).or_insert(now);
        }
        sample.commits_wait && self.gone.values().any(|since| now.saturating_since(*since) >= GONE)
    }
}

#[cfg(test)]
mod tests {
    use dcs_core::model::{Lsn, MemberName};

    use super::super::proven::Retention;
    use super::super::sample::SyncWord;
    use super::super::testing::{names, sender};
    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(milliseconds))
    }

    fn sample(text: &str, senders: &[(&str, SyncWord, u64)]) -> SyncSample {
        SyncSample {
            names: text.to_owned(),
            settled: true,
            flushed: Lsn(1000),
            walsenders: senders.iter().map(|(name, sync, position)| sender(name, *sync, *position)).collect(),
            ..SyncSample::default()
        }
    }

    /// A decision on `sample` that awaits `awaited`; `b` and `c` are members.
    fn watch(sample: &SyncSample, awaited: &str) -> SyncWatch {
        let record = SyncRecord { leader: Some(MemberName::from("a")), ..SyncRecord::default() };
        let parsed = StandbyNames::parse(&sample.names).expect("usable");
        let evidence = Evidence { sample, names: &parsed, mode: SyncMode::On, listed: &names(""), quorum: 0 };
        SyncWatch {
            since: at(0),
            mode: SyncMode::On,
            record,
            text: sample.names.clone(),
            proof: Proof::default().after(&evidence, Retention::Keep).0,
            awaited: names(awaited),
            able: names("b c"),
            streaming: sample.walsenders.iter().map(|sender| MemberName::from(sender.application_name.as_str())).collect(),
            gone: BTreeMap::new(),
        }
    }

    use SyncWord::{Async, Sync};

    #[test]
    fn nothing_happens_while_nothing_happens() {
        let calm = sample("b", &[("b", Sync, 1000), ("c", Async, 900)]);
        let mut watch = watch(&calm, "");
        for second in 0..100 {
            assert!(!watch.look(&calm, at(second * 1000)));
        }
        assert_eq!(watch.pause(at(0)), USUALLY);
    }

    #[test]
    fn a_proof_wakes_the_loop_and_is_awaited_eagerly_for_a_while() {
        let mut watch = watch(&sample("b", &[("b", Sync, 900)]), "b");
        assert_eq!((watch.pause(at(0)), watch.pause(at(2000))), (WHILE_AWAITING, USUALLY));
        assert!(!watch.look(&sample("b", &[("b", Sync, 999)]), at(75)));
        assert!(!watch.look(&sample("b", &[("b", Async, 1000)]), at(150)));
        assert!(watch.look(&sample("b", &[("b", Sync, 1000)]), at(225)));
    }

    #[test]
    fn a_barrier_that_could_not_be_taken_yet_is_taken_as_soon_as_it_can() {
        let mut fresh = sample("b", &[("b", Sync, 900)]);
        fresh.settled = false;
        let mut watch = watch(&fresh, "b");
        assert!(!watch.look(&fresh, at(75)));
        fresh.settled = true;
        assert!(watch.look(&fresh, at(150)));
    }

    #[test]
    fn a_standby_that_is_gone_matters_when_commits_wait_and_it_does_not_come_back_soon() {
        let mut watch = watch(&sample("b", &[("b", Sync, 1000)]), "");
        let mut without = sample("b", &[]);
        assert!(!watch.look(&without, at(1000)));
        assert!(!watch.look(&without, at(9000)), "nobody waits for it");
        without.commits_wait = true;
        assert!(watch.look(&without, at(9100)));

        let mut flapping = self::watch(&sample("b", &[("b", Sync, 1000)]), "");
        assert!(!flapping.look(&without, at(1000)));
        let mut back = sample("b", &[("b", Sync, 1000)]);
        back.commits_wait = true;
        assert!(!flapping.look(&back, at(2000)));
        assert!(!flapping.look(&without, at(3000)));
        assert!(!flapping.look(&without, at(4999)));
        assert!(flapping.look(&without, at(5000)));
    }

    #[test]
    fn a_member_that_begins_to_stream_wakes_the_loop_and_a_stranger_does_not() {
        let before = sample("b", &[("b", Sync, 1000)]);
        let mut watch = watch(&before, "");
        assert!(!watch.look(&sample("b", &[("b", Sync, 1000), ("x", Async, 1)]), at(1000)));
        assert!(watch.look(&sample("b", &[("b", Sync, 1000), ("C", Async, 1)]), at(2000)));
    }

    #[test]
    fn a_text_that_was_changed_by_hand_wakes_the_loop() {
        let mut watch = watch(&sample("b", &[("b", Sync, 1000)]), "");
        assert!(watch.look(&sample("", &[("b", Async, 1000)]), at(1000)));
    }
}
