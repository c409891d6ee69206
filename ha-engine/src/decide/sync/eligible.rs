//! Which standbys could be synchronous now, and which of them should be (section 5.3).

use std::collections::BTreeSet;

use dcs_core::model::{Lsn, Member, MemberName};

use super::names::Names;
use super::sample::{SyncSample, SyncWord};
use crate::settings::SyncMode;

/// What the choice depends on, beside what the server shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    /// The members of the cluster.
    pub(crate) members: &'a [Member],
    /// This node.
    pub(crate) me: &'a MemberName,
    /// Named standbys or a quorum.
    pub(crate) mode: SyncMode,
    /// The wanted number.
    pub(crate) count: usize,
    /// Who lags more, in bytes, is not eligible; 0 or less: no test.
    pub(crate) maximum_lag: i64,
}

/// A standby that could be synchronous.
#[derive(Debug)]
struct Candidate<'a> {
    name: &'a MemberName,
    priority: i64,
    sync: SyncWord,
    position: Lsn,
    nofailover: bool,
}

/// Members that may have sync duty: running, not `nosync`, not me.
pub(crate) fn may_have_duty<'a>(members: &'a [Member], me: &MemberName) -> impl Iterator<Item = &'a Member> {
    let me = me.clone();
    members
        .iter()
        .filter(move |member| member.record.is_running() && !member.record.tags.nosync() && !me.same_as_standby(member.name.as_str()))
}

/// Whether `member` is supposed to stream from another standby whose chain begins here. Chains that bite their own tail
/// begin nowhere.
fn should_cascade(able: &[&Member], sample: &SyncSample, member: &Member) -> bool {
    let find = |name: &str| able.iter().copied().find(|member| member.name.same_as_standby(name));
    let mut seen = BTreeSet::new();
    let mut upstream = member.record.tags.replicatefrom().and_then(find);
    let mut top = None;
    while let Some(node) = upstream {
        if !seen.insert(node.name.clone()) {
            return false;
        }
        top = Some(node);
        let Some(above) = node.record.tags.replicatefrom() else { break };
        upstream = find(above);
        if upstream.is_none() {
            return false;
        }
    }
    top.is_some_and(|top| sample.walsender(top.name.as_str()).is_some_and(|sender| sender.position(sample.level).is_some()))
}

/// The standbys that should be synchronous now, in the order of preference.
pub(crate) fn active(sample: &SyncSample, choice: &Choice<'_>) -> Names {
    let able: Vec<&Member> = may_have_duty(choice.members, choice.me).collect();
    let mut candidates: Vec<Candidate<'_>> = able
        .iter()
        .copied()
        .filter_map(|member| {
            let sender = sample.walsender(member.name.as_str())?;
            let position = sender.position(sample.level)?;
            (!should_cascade(&able, sample, member)).then(|| Candidate {
                name: &member.name,
                priority: member.record.tags.sync_priority(),
                sync: sender.sync,
                position,
                nofailover: member.record.tags.nofailover(),
            })
        })
        .collect();
    candidates.sort_by(|a, b| (b.priority, b.sync, b.position).cmp(&(a.priority, a.sync, a.position)).then_with(|| a.name.cmp(b.name)));
    candidates.sort_by_key(|candidate| candidate.nofailover);
    let furthest = match candidates.as_slice() {
        [_, _, ..] => candidates.iter().map(|candidate| candidate.position).max(),
        _ => None,
    };
    let reference = furthest.unwrap_or(sample.flushed);
    let in_time = |candidate: &Candidate<'_>| {
        let lag = i64::try_from(reference.saturating_sub(candidate.position)).unwrap_or(i64::MAX);
        choice.maximum_lag <= 0 || lag <= choice.maximum_lag
    };
    let mut chosen = Names::default();
    for candidate in candidates.iter().filter(|candidate| in_time(candidate)) {
        let wanted = match choice.mode {
            SyncMode::Quorum => choice.count > 0 && (!candidate.nofailover || chosen.len() < choice.count),
            SyncMode::On | SyncMode::Off => chosen.len() < choice.count,
        };
        if wanted {
            chosen.insert(candidate.name.clone());
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::sample::CommitLevel;
    use super::super::testing::{member, names, sender};
    use super::*;

    fn tagged(name: &str, tags: Value) -> Member {
        let mut member = member(name);
        member.record.tags.0.extend(tags.as_object().cloned().unwrap_or_default());
        member
    }

    fn choose(members: &[Member], sample: &SyncSample, mode: SyncMode, count: usize, maximum_lag: i64) -> String {
        let me = MemberName::from("a");
        active(sample, &Choice { members, me: &me, mode, count, maximum_lag }).to_string()
    }

    fn streaming(list: &[(&str, SyncWord, u64)]) -> SyncSample {
        SyncSample {
            flushed: Lsn(1000),
            walsenders: list.iter().map(|(name, sync, position)| sender(name, *sync, *position)).collect(),
            ..SyncSample::default()
        }
    }

    use SyncWord::{Async, Sync};

    #[test]
    fn the_current_one_is_kept_although_another_is_slightly_ahead() {
        let members = [member("a"), member("b"), member("c")];
        let sample = streaming(&[("b", Sync, 900), ("c", Async, 950)]);
        assert_eq!(choose(&members, &sample, SyncMode::On, 1, -1), "b");
        let sample = streaming(&[("b", Async, 900), ("c", Async, 950)]);
        assert_eq!(choose(&members, &sample, SyncMode::On, 1, -1), "c", "without a current one the position decides");
        assert_eq!(choose(&members, &sample, SyncMode::On, 2, -1), "b, c");
        assert_eq!(choose(&members, &sample, SyncMode::On, 0, -1), "");
    }

    #[test]
    fn priority_comes_before_everything_and_nofailover_last() {
        let sample = streaming(&[("b", Sync, 900), ("c", Async, 100)]);
        let members = [member("b"), tagged("c", json!({"sync_priority": 2}))];
        assert_eq!(choose(&members, &sample, SyncMode::On, 1, -1), "c");
        let members = [member("b"), tagged("c", json!({"sync_priority": 2, "nofailover": true}))];
        assert_eq!(choose(&members, &sample, SyncMode::On, 1, -1), "b");
    }

    #[test]
    fn who_may_not_or_cannot_is_left_out() {
        let sample = streaming(&[("a", Async, 900), ("b", Async, 900), ("stranger", Async, 900)]);
        for (what, b) in [
            ("nosync", tagged("b", json!({"nosync": true}))),
            ("sync_priority 0", tagged("b", json!({"sync_priority": 0}))),
            ("not running", {
                let mut b = member("b");
                b.record.state = Some("starting".to_owned());
                b
            }),
        ] {
            assert_eq!(choose(&[member("a"), b], &sample, SyncMode::On, 2, -1), "", "{what}");
        }
        let mut unreported = sample.clone();
        unreported.walsenders[1].flushed = None;
        assert_eq!(choose(&[member("b")], &unreported, SyncMode::On, 1, -1), "", "it has not reported yet");
        assert_eq!(choose(&[member("B")], &sample, SyncMode::On, 1, -1), "B", "names compare without regard to case");
        assert_eq!(choose(&[member("A")], &sample, SyncMode::On, 1, -1), "", "a walsender with my own name is not mine to choose");
    }

    #[test]
    fn a_quorum_takes_all_and_those_that_may_not_promote_only_to_make_up_the_number() {
        let sample = streaming(&[("b", Async, 900), ("c", Async, 800), ("d", Async, 700)]);
        let members = [member("b"), member("c"), tagged("d", json!({"nofailover": true}))];
        assert_eq!(choose(&members, &sample, SyncMode::Quorum, 1, -1), "b, c");
        assert_eq!(choose(&members, &sample, SyncMode::Quorum, 3, -1), "b, c, d");
        assert_eq!(choose(&members, &sample, SyncMode::Quorum, 0, -1), "");
    }

    #[test]
    fn who_lags_too_much_is_left_out() {
        let members = [member("b"), member("c")];
        let sample = streaming(&[("b", Sync, 100), ("c", Async, 900)]);
        assert_eq!(choose(&members, &sample, SyncMode::On, 1, 500), "c");
        assert_eq!(choose(&members, &sample, SyncMode::On, 1, 800), "b", "just within");
        assert_eq!(choose(&members, &sample, SyncMode::On, 1, 0), "b", "no test");
        let alone = streaming(&[("b", Sync, 100)]);
        assert_eq!(choose(&members, &alone, SyncMode::On, 1, 500), "", "one alone is compared with this server");
    }

    #[test]
    fn the_commit_level_says_which_position_counts() {
        let members = [member("b"), member("c")];
        let mut sample = streaming(&[("b", Async, 900), ("c", Async, 800)]);
        (sample.walsenders[0].written, sample.walsenders[0].replayed) = (Some(Lsn(900)), Some(Lsn(10)));
        (sample.walsenders[1].written, sample.walsenders[1].replayed) = (Some(Lsn(950)), Some(Lsn(20)));
        for (level, first) in [(CommitLevel::Flush, "b"), (CommitLevel::Write, "c"), (CommitLevel::Apply, "c")] {
            sample.level = level;
            assert_eq!(choose(&members, &sample, SyncMode::On, 1, -1), first, "{level:?}");
        }
    }

    #[test]
    fn who_should_stream_from_another_standby_is_not_chosen() {
        let sample = streaming(&[("b", Async, 900), ("c", Async, 950)]);
        let cascading = |from: &str| [member("b"), tagged("c", json!({"replicatefrom": from}))];
        assert_eq!(choose(&cascading("b"), &sample, SyncMode::On, 2, -1), "b");
        assert_eq!(choose(&cascading("nobody"), &sample, SyncMode::On, 2, -1), "b, c", "its upstream is no member: it streams from here");
        let lone = streaming(&[("c", Async, 950)]);
        assert_eq!(choose(&cascading("b"), &lone, SyncMode::On, 2, -1), "c", "the chain's top does not stream from here");
        let circle = [tagged("b", json!({"replicatefrom": "c"})), tagged("c", json!({"replicatefrom": "b"}))];
        assert_eq!(choose(&circle, &sample, SyncMode::On, 2, -1), "b, c", "a circle must not hang anything");
        let chain = [member("b"), tagged("c", json!({"replicatefrom": "b"})), tagged("d", json!({"replicatefrom": "c"}))];
        let all = streaming(&[("b", Async, 900), ("d", Async, 950)]);
        assert_eq!(choose(&chain, &all, SyncMode::On, 3, -1), "b");
    }

    #[test]
    fn of_two_connections_with_one_name_the_better_one_counts() {
        let sample = streaming(&[("b", Async, 100), ("b", Sync, 900), ("c", Async, 950)]);
        assert_eq!(choose(&[member("b"), member("c")], &sample, SyncMode::On, 1, 500), "b");
        assert_eq!(
            active(
                &sample,
                &Choice { members: &[member("b")], me: &MemberName::from("a"), mode: SyncMode::Quorum, count: 1, maximum_lag: -1 }
            ),
            names("b")
        );
    }
}
