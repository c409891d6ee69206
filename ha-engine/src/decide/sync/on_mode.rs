//! Named synchronous standbys: the order in which `/sync` and `synchronous_standby_names` change (section 5.5).
//!
//! Whoever is listed in `/sync` may be promoted, so it must hold every acknowledged commit:
//!
//! ```text
//!   adding:   synchronous_standby_names ─► proven ─► /sync
//!   removing: /sync ─► synchronous_standby_names
//! ```

use dcs_core::model::{MemberName, SyncRecord};

use super::names::{self, EVERYBODY, Kind, Names, StandbyNames};
use crate::decide::action::Severity;

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State<'a> {
    /// This node.
    pub(crate) me: &'a MemberName,
    /// What `/sync` says.
    pub(crate) record: &'a SyncRecord,
    /// `synchronous_standby_names` in the server.
    pub(crate) names: &'a StandbyNames,
    /// The standbys that should be synchronous.
    pub(crate) active: &'a Names,
    /// Those of them that are, and hold every acknowledged commit.
    pub(crate) confirmed: &'a Names,
    /// Whether commits wait even if there is nobody to wait for.
    pub(crate) strict: bool,
}

/// What to do next; afterwards everything is looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// All is as it should be.
    Done,
    /// These have to be proven first.
    Wait(Names),
    /// Write `/sync` with these standbys.
    Write {
        /// The standbys.
        standbys: Names,
        /// What to say before.
        before: Option<(Severity, String)>,
        /// What to say when it is written.
        after: Option<String>,
    },
    /// Set `synchronous_standby_names` to this text.
    SetNames {
        /// The text.
        text: String,
        /// What to say before.
        before: Vec<(Severity, String)>,
    },
}

/// The next step.
pub(crate) fn next(state: &State<'_>) -> Step {
    let State { me, record, names, active, confirmed, strict } = *state;
    let none = Names::default();
    // 1, 2
    match &record.leader {
        None => return Step::Write { standbys: none, before: None, after: Some("Enabled synchronous replication".to_owned()) },
        Some(leader) if !leader.same_as_standby(me.as_str()) => {
            let said = format!(
                "Inconsistent state of /sync key detected, leader = {leader} doesn't match {me}, updating synchronous replication key"
            );
            return Step::Write { standbys: none, before: Some((Severity::Warning, said)), after: None };
        }
        Some(_) => {}
    }
    let listed: Names = record.standbys.iter().cloned().collect();
    // 3
    if *active == listed && listed != *confirmed {
        let said = format!(
            "Inconsistent state between synchronous_standby_names = {} and /sync = {} key detected, updating synchronous replication key...",
            names.named().as_list(),
            listed.as_list()
        );
        return Step::Write { standbys: confirmed.clone(), before: Some((Severity::Warning, said)), after: None };
    }
    // 5, and what quorum mode left behind
    if !listed.is_subset(confirmed) || record.quorum != 0 {
        let standbys = listed.intersection(confirmed);
        let said = format!("Updating synchronous privilege temporarily from {} to {}", listed.as_list(), standbys.as_list());
        return Step::Write { standbys, before: Some((Severity::Info, said)), after: None };
    }
    // 6, 7
    let (wanted, text) = if active.is_empty() && strict {
        (StandbyNames { kind: Kind::Priority, number: 1, names: none, everybody: true }, EVERYBODY.to_owned())
    } else if active.is_empty() {
        (StandbyNames::default(), String::new())
    } else {
        let wanted = StandbyNames { kind: Kind::Priority, number: active.len(), names: active.clone(), everybody: false };
        (wanted, names::all_of(active))
    };
    if *names != wanted {
        let mut before = Vec::new();
        if wanted.everybody {
            before.push((Severity::Warning, "No standbys available!".to_owned()));
        }
        let shown = if wanted.everybody { format!("['{EVERYBODY}']") } else { active.as_list() };
        before.push((Severity::Info, format!("Assigning synchronous standby status to {shown}")));
        return Step::SetNames { text, before };
    }
    // 9
    if !confirmed.is_empty() && *confirmed != listed {
        let said = format!("Synchronous standby status assigned to {}", confirmed.as_list());
        return Step::Write { standbys: confirmed.clone(), before: None, after: Some(said) };
    }
    // 4, 8
    if active == confirmed { Step::Done } else { Step::Wait(active.difference(confirmed)) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::letters;
    use super::*;

    /// `/sync` as `leader/standbys`, the text, P, K and strict; the step in short.
    fn step(sync: &str, text: &str, active: &str, confirmed: &str, strict: bool) -> String {
        let (leader, standbys) = sync.split_once('/').expect("leader/standbys");
        let record =
            SyncRecord { leader: (leader != "-").then(|| MemberName::from(leader)), standbys: letters(standbys).sorted(), quorum: 0 };
        shown(&record, text, active, confirmed, strict)
    }

    fn shown(record: &SyncRecord, text: &str, active: &str, confirmed: &str, strict: bool) -> String {
        let state = State {
            me: &MemberName::from("a"),
            record,
            names: &StandbyNames::parse(text).expect("usable"),
            active: &letters(active),
            confirmed: &letters(confirmed),
            strict,
        };
        match next(&state) {
            Step::Done => "done".to_owned(),
            Step::Wait(names) => format!("wait {names}"),
            Step::Write { standbys, .. } => format!("write {standbys}"),
            Step::SetNames { text, .. } => format!("set {text}"),
        }
    }

    #[test]
    fn every_situation_has_its_step() {
        let cases = [
            ("not enabled yet", "-/-", "", "b", "-", "write "),
            ("somebody else's", "x/bc", "", "b", "-", "write "),
            ("alone", "a/-", "", "-", "-", "done"),
            ("a standby has come", "a/-", "", "b", "-", "set b"),
            ("it is not proven yet", "a/-", "b", "b", "-", "wait b"),
            ("it is proven", "a/-", "b", "b", "b", "write b"),
            ("all is well", "a/b", "b", "b", "b", "done"),
            ("a second one has come", "a/b", "b", "bc", "b", "set 2 (b,c)"),
            ("the second one is not proven yet", "a/b", "2 (b,c)", "bc", "b", "wait c"),
            ("both are", "a/b", "2 (b,c)", "bc", "bc", "write b, c"),
            ("one was lost: /sync first", "a/bc", "2 (b,c)", "c", "c", "write c"),
            ("then the text", "a/c", "2 (b,c)", "c", "c", "set c"),
            ("replaced: /sync first", "a/b", "b", "c", "-", "write "),
            ("replaced: then the text", "a/-", "b", "c", "-", "set c"),
            ("the last one was lost", "a/b", "b", "-", "-", "write "),
            ("then nobody is waited for", "a/-", "b", "-", "-", "set "),
            ("the text was reset by hand", "a/b", "", "b", "-", "write "),
            ("/sync was edited by hand", "a/bx", "b", "b", "b", "write b"),
            ("the text names more than is listed and streams", "a/b", "2 (b,c)", "b", "b", "set b"),
            ("the text is of the other kind", "a/-", "ANY 1 (b)", "b", "-", "set b"),
            ("two of three are proven", "a/-", "3 (b,c,d)", "bcd", "bc", "write b, c"),
            ("and then the third", "a/bc", "3 (b,c,d)", "bcd", "bc", "wait d"),
        ];
        for (what, sync, text, active, confirmed, expected) in cases {
            assert_eq!(step(sync, text, active, confirmed, false), expected, "{what}");
        }
    }

    #[test]
    fn strict_waits_for_anybody_rather_than_for_nobody() {
        assert_eq!(step("a/b", "b", "-", "-", true), "write ", "/sync first");
        assert_eq!(step("a/-", "b", "-", "-", true), "set *");
        assert_eq!(step("a/-", "*", "-", "-", true), "done");
        assert_eq!(step("a/-", "*", "b", "-", true), "set b");
    }

    #[test]
    fn what_quorum_mode_left_in_the_key_goes_first() {
        let record = SyncRecord { leader: Some(MemberName::from("a")), standbys: letters("bc").sorted(), quorum: 1 };
        assert_eq!(shown(&record, "ANY 1 (b,c)", "b", "-", false), "write ");
        assert_eq!(shown(&record, "2 (b,c)", "bc", "bc", false), "write b, c");
    }

    #[test]
    fn operators_find_the_lines_they_know() {
        let record = SyncRecord { leader: Some(MemberName::from("a")), standbys: letters("bc").sorted(), quorum: 0 };
        let me = MemberName::from("a");
        let names = StandbyNames::parse("2 (b,c)").expect("usable");
        let (active, confirmed) = (letters("c"), letters("c"));
        let state = State { me: &me, record: &record, names: &names, active: &active, confirmed: &confirmed, strict: false };
        let Step::Write { before: Some((Severity::Info, said)), .. } = next(&state) else { panic!("it shrinks /sync") };
        assert_eq!(said, "Updating synchronous privilege temporarily from ['b', 'c'] to ['c']");
    }
}
