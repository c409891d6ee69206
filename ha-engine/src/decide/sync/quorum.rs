//! Quorum commit: which change comes next (section 5.7, hardening rule X4).
//!
//! `synchronous_standby_names` says `ANY n (S)`: a commit is acknowledged when n of S have it. `/sync` says leader, voters V
//! and quorum q: whoever wants to be promoted must see q other nodes of V and the leader that are not ahead of it, one more
//! if it is no voter itself. Such a winning set must always contain a node that has every acknowledged commit.
//!
//! ```text
//!   q or n is raised before the other one is lowered; V shrinks and q falls only when enough of V are proven
//! ```

use dcs_core::model::{MemberName, SyncRecord};

use super::names::Names;

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct State<'a> {
    /// How many others a winner must have seen (`/sync`).
    pub(crate) quorum: usize,
    /// The voters beside the leader (`/sync`).
    pub(crate) voters: &'a Names,
    /// How many of `names` a commit waits for.
    pub(crate) number: usize,
    /// The names in `synchronous_standby_names`.
    pub(crate) names: &'a Names,
    /// The standbys that should be synchronous.
    pub(crate) active: &'a Names,
    /// The wanted number.
    pub(crate) count: usize,
    /// The standbys proven since the last change of the text.
    pub(crate) proven: &'a Names,
}

/// The next change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    /// All is as it should be.
    Goal,
    /// More standbys must be proven first; these would do.
    Wait(Names),
    /// Wait for `number` of `names` from now on.
    Sync {
        /// How many.
        number: usize,
        /// Of whom.
        names: Names,
    },
    /// Write `/sync`, with me as leader.
    Quorum {
        /// The quorum.
        quorum: usize,
        /// The voters.
        voters: Names,
    },
}

/// Whether every winning set of (q, V) meets every acknowledging set of (n, S).
pub(crate) fn is_safe(quorum: usize, voters: &Names, number: usize, names: &Names) -> bool {
    if voters.is_empty() || quorum >= voters.len() {
        return true;
    }
    let common = voters.intersection(names).len();
    let voting = (quorum + 1).saturating_sub(voters.difference(names).len());
    let acknowledging = number.saturating_sub(names.difference(voters).len());
    number > 0 && voting + acknowledging > common
}

/// Row 0: `/sync` is led by somebody else, because this node could not write it before its promotion or an agent without
/// rule X5 led before.
pub(crate) fn take_over(me: &MemberName, record: &SyncRecord, number: usize, names: &Names) -> Option<Transition> {
    let leader = record.leader.as_ref().filter(|leader| !leader.same_as_standby(me.as_str()))?;
    let (quorum, voters) = (quorum_of(record), voters_with(me, leader, record));
    Some(if is_safe(quorum, &voters, number, names) {
        Transition::Quorum { quorum, voters }
    } else {
        Transition::Sync { number: voters.len().saturating_sub(quorum), names: voters }
    })
}

/// The quorum in `/sync`. Past any number of nodes one value is like the other: nobody can win.
pub(crate) fn quorum_of(record: &SyncRecord) -> usize {
    const BEYOND_REACH: u64 = 1_000_000;
    usize::try_from(record.quorum.min(BEYOND_REACH)).unwrap_or_default()
}

/// The voters after `me` takes the place of `leader`: with them the winning sets stay what they were.
pub(crate) fn voters_with(me: &MemberName, leader: &MemberName, record: &SyncRecord) -> Names {
    record.standbys.iter().cloned().collect::<Names>().without(me.as_str()).with(leader)
}

/// The next change on the way to: everybody who is active is waited for and votes.
pub(crate) fn next(state: &State<'_>) -> Transition {
    let State { quorum, voters, names, active, count, proven, .. } = *state;
    let number = state.number.min(names.len());
    let wanted_number = count.min(active.len());
    let wanted_quorum = active.len() - wanted_number;
    let none = || Transition::Quorum { quorum: 0, voters: Names::default() };
    if number != wanted_number || names != active {
        // 1
        if is_safe(quorum, voters, wanted_number, active) {
            return Transition::Sync { number: wanted_number, names: active.clone() };
        }
        // 2
        if active.is_empty() {
            return none();
        }
        // 3: raising what a winner needs makes no new winner, so it needs no proof.
        let all = voters.union(names).union(active);
        let raised = (all.len() - number.min(wanted_number)).max(quorum + all.difference(voters).len());
        return Transition::Quorum { quorum: raised, voters: all };
    }
    if quorum == wanted_quorum && voters == active {
        return Transition::Goal;
    }
    // 4
    if active.is_empty() {
        return none();
    }
    // 5
    let unproven = active.difference(proven);
    if unproven.len() <= wanted_quorum {
        return Transition::Quorum { quorum: wanted_quorum, voters: active.clone() };
    }
    // 6
    Transition::Wait(unproven)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::letters;
    use super::*;

    /// The short form of appendix C.
    fn short(transition: &Transition) -> String {
        let set = |names: &Names| if names.is_empty() { "-".to_owned() } else { names.to_string().replace(", ", "") };
        match transition {
            Transition::Goal => "goal".to_owned(),
            Transition::Wait(_) => "wait".to_owned(),
            Transition::Sync { number, names } => format!("Y({number},{})", set(names)),
            Transition::Quorum { quorum, voters } => format!("Q({quorum},{})", set(voters)),
        }
    }

    fn pair(text: &str) -> (usize, Names) {
        let (number, names) = text.split_once(',').expect("number,names");
        (number.parse().expect("a number"), letters(names))
    }

    #[test]
    fn the_vectors_of_the_specification() {
        // q,V | n,S | A | w | F | next
        let cases = [
            ("0,-", "0,-", "b", 1, "-", "Y(1,b)"),
            ("0,-", "1,b", "b", 1, "-", "wait"),
            ("0,-", "1,b", "b", 1, "b", "Q(0,b)"),
            ("0,-", "2,bcd", "bcd", 2, "b", "wait"),
            ("0,-", "2,bcd", "bcd", 2, "bc", "Q(1,bcd)"),
            ("1,bc", "1,bc", "bcd", 1, "bc", "Q(2,bcd)"),
            ("2,bcd", "1,bc", "bcd", 1, "bc", "Y(1,bcd)"),
            ("2,bcd", "1,bcd", "bcd", 1, "-", "goal"),
            ("1,bc", "1,bc", "bcd", 3, "bc", "Y(3,bcd)"),
            ("1,bc", "3,bcd", "bcd", 3, "bc", "wait"),
            ("1,bc", "3,bcd", "bcd", 3, "bcd", "Q(0,bcd)"),
            ("1,bcd", "3,bcd", "bcd", 1, "b", "Q(2,bcd)"),
            ("2,bcd", "3,bcd", "bcd", 1, "b", "Y(1,bcd)"),
            ("1,bc", "1,bc", "c", 1, "-", "Y(1,c)"),
            ("1,bc", "1,c", "c", 1, "-", "wait"),
            ("1,bc", "1,c", "c", 1, "c", "Q(0,c)"),
            ("1,bcd", "2,bcd", "b", 2, "b", "Q(2,bcd)"),
            ("1,bcd", "1,b", "b", 2, "-", "wait"),
            ("1,bc", "1,bc", "-", 1, "-", "Q(0,-)"),
            ("0,-", "1,bc", "-", 1, "-", "Y(0,-)"),
            ("0,b", "1,b", "c", 1, "-", "Q(1,bc)"),
            ("1,bc", "1,b", "c", 1, "-", "Y(1,c)"),
            ("1,bc", "1,c", "c", 1, "c", "Q(0,c)"),
            ("0,bc", "2,bc", "bc", 2, "bc", "goal"),
        ];
        for (at, (sync, text, active, count, proven, expected)) in cases.into_iter().enumerate() {
            let ((quorum, voters), (number, names)) = (pair(sync), pair(text));
            let (active, proven) = (letters(active), letters(proven));
            let state = State { quorum, voters: &voters, number, names: &names, active: &active, count, proven: &proven };
            assert_eq!(short(&next(&state)), expected, "vector {}: {state:?}", at + 1);
        }
    }

    #[test]
    fn a_new_leader_takes_the_key_over_without_changing_who_can_win() {
        let record = |leader: &str, quorum, voters: &str| SyncRecord {
            leader: Some(MemberName::from(leader)),
            standbys: letters(voters).sorted(),
            quorum,
        };
        let me = MemberName::from("b");
        let taken = |record: &SyncRecord, text: &str| {
            let (number, names) = pair(text);
            take_over(&me, record, number, &names).as_ref().map(short)
        };
        assert_eq!(taken(&record("a", 1, "bc"), "1,ac").as_deref(), Some("Q(1,ac)"));
        assert_eq!(taken(&record("a", 1, "bc"), "0,-").as_deref(), Some("Y(1,ac)"), "nobody was waited for");
        assert_eq!(taken(&record("B", 1, "ac"), "0,-"), None, "it is mine already");
        assert_eq!(taken(&record("a", 0, "-"), "0,-").as_deref(), Some("Y(1,a)"), "only a could have won");
        assert_eq!(taken(&record("a", 9, "bc"), "0,-").as_deref(), Some("Q(9,ac)"), "nobody can win anyway");
    }

    fn subset() -> impl Strategy<Value = Names> {
        (0_u8..32).prop_map(|bits| {
            "bcdef"
                .chars()
                .enumerate()
                .filter(|(at, _)| bits & (1 << at) != 0)
                .map(|(_, name)| MemberName::from(name.to_string()))
                .collect()
        })
    }

    /// All subsets of `names` with `size` members.
    fn subsets(names: &Names, size: usize) -> Vec<Names> {
        let all: Vec<&MemberName> = names.iter().collect();
        (0_u32..1 << all.len())
            .filter(|bits| bits.count_ones() as usize == size)
            .map(|bits| all.iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0).map(|(_, name)| (*name).clone()).collect())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn safe_means_that_every_winner_meets_every_acknowledgement(
            quorum in 0_usize..4, voters in subset(), number in 0_usize..4, names in subset(),
        ) {
            let number = number.min(names.len());
            if is_safe(quorum, &voters, number, &names) && !voters.is_empty() && number > 0 {
                // The old leader has everything, so only sets without it can be dangerous.
                for winning in subsets(&voters, quorum + 1) {
                    for acknowledging in subsets(&names, number) {
                        prop_assert!(!winning.intersection(&acknowledging).is_empty(), "{winning} and {acknowledging}");
                    }
                }
            }
        }

        #[test]
        fn every_state_leads_to_the_goal_safely_and_soon(
            quorum in 0_usize..6, voters in subset(), number in 0_usize..5, names in subset(), active in subset(), count in 1_usize..4,
            has_everything in subset(),
        ) {
            let (mut quorum, mut voters, mut number, mut names) = (quorum, voters, number.min(names.len()), names);
            let mut was_safe = is_safe(quorum, &voters, number, &names);
            let mut proven = Names::default();
            let mut changes = 0;
            // Some have everything already, the others when they are waited for.
            let mut known = has_everything;
            loop {
                let state = State { quorum, voters: &voters, number, names: &names, active: &active, count, proven: &proven };
                match next(&state) {
                    Transition::Goal => break,
                    Transition::Wait(awaited) => {
                        prop_assert!(!awaited.is_empty());
                        known = known.union(&awaited);
                        proven = names.intersection(&known);
                        continue;
                    }
                    Transition::Sync { number: n, names: s } => {
                        prop_assert!((number, &names) != (n, &s), "a change that changes nothing");
                        proven = s.intersection(&known);
                        (number, names) = (n, s);
                    }
                    Transition::Quorum { quorum: q, voters: v } => {
                        prop_assert!((quorum, &voters) != (q, &v), "a change that changes nothing");
                        // A winner that was none before: with fewer votes, or one of those that were no voters.
                        let lowers = q < quorum + v.difference(&voters).len();
                        let unproven = v.difference(&proven).len();
                        prop_assert!(v.is_empty() || !lowers || unproven <= q, "{unproven} of {v} may lack something, and q={q}");
                        (quorum, voters) = (q, v);
                    }
                }
                changes += 1;
                let safe = is_safe(quorum, &voters, number, &names);
                prop_assert!(safe || !was_safe, "left safety: q={quorum} V={voters} n={number} S={names}");
                was_safe = safe;
                prop_assert!(changes <= 3, "{changes} changes");
            }
            prop_assert_eq!((&voters, &names), (&active, &active));
        }
    }
}
