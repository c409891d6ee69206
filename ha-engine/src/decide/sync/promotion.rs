//! What must be in place before a node is promoted (section 5.8, hardening rule X5).

use dcs_core::model::{MemberName, SyncRecord};

use super::names::{self, EVERYBODY, Names};
use super::quorum::{quorum_of, voters_with};
use crate::settings::SyncMode;

/// What is written, in this order, before PostgreSQL is asked to promote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preparation {
    /// `/sync`; nothing if it has never been written. Refused: no promotion now. It is written also if it stays as it is, as a
    /// check of what the node was elected by.
    pub(crate) record: Option<SyncRecord>,
    /// `synchronous_standby_names`.
    pub(crate) names: String,
}

/// The text while nobody is synchronous yet.
pub(crate) fn names_of_nobody(mode: SyncMode, strict: bool) -> String {
    match mode {
        SyncMode::On if strict => EVERYBODY.to_owned(),
        SyncMode::Quorum if strict => names::any_of(1, &Names::default()),
        _ => String::new(),
    }
}

/// What `me` prepares in a synchronous mode. `stored` is what `/sync` says.
pub(crate) fn prepare(me: &MemberName, stored: &SyncRecord, mode: SyncMode, strict: bool) -> Preparation {
    let nobody = names_of_nobody(mode, strict);
    let (SyncMode::Quorum, Some(leader)) = (mode, &stored.leader) else {
        // Standbys become synchronous as they connect. In quorum mode the first pass after the promotion makes the key.
        let record = (mode == SyncMode::On).then(|| SyncRecord { leader: Some(me.clone()), ..SyncRecord::default() });
        return Preparation { record, names: nobody };
    };
    // Whoever could win before can win after, and every commit from now on reaches one of them.
    let all = stored.standbys.iter().cloned().collect::<Names>().with(leader);
    let others = all.without(me.as_str());
    let number = others.len().saturating_sub(quorum_of(stored));
    let text = match number {
        0 if strict => names::any_of(1, &others),
        number => names::any_of(number, &others),
    };
    let record = if leader.same_as_standby(me.as_str()) {
        stored.clone()
    } else {
        SyncRecord { leader: Some(me.clone()), standbys: voters_with(me, leader, stored).sorted(), quorum: stored.quorum }
    };
    Preparation { record: Some(record), names: text }
}

#[cfg(test)]
mod tests {
    use super::super::names::StandbyNames;
    use super::super::quorum::is_safe;
    use super::super::testing::letters;
    use super::*;

    fn stored(leader: &str, quorum: u64, standbys: &str) -> SyncRecord {
        SyncRecord { leader: (leader != "-").then(|| MemberName::from(leader)), standbys: letters(standbys).sorted(), quorum }
    }

    /// The record as `leader/quorum/standbys`, and the text.
    fn prepared(me: &str, record: &SyncRecord, mode: SyncMode, strict: bool) -> (String, String) {
        let Preparation { record, names } = prepare(&MemberName::from(me), record, mode, strict);
        let shown = record.map(|record| {
            let standbys: Vec<String> = record.standbys.iter().map(ToString::to_string).collect();
            format!("{}/{}/{}", record.leader.expect("a leader"), record.quorum, standbys.join(""))
        });
        (shown.unwrap_or_else(|| "-".to_owned()), names)
    }

    #[test]
    fn every_mode_has_its_preparation() {
        use SyncMode::{On, Quorum};
        let cases = [
            ("on", "b", stored("a", 0, "bc"), On, false, "b/0/", ""),
            ("on, for the first time", "b", stored("-", 0, ""), On, false, "b/0/", ""),
            ("on, strict", "b", stored("a", 0, "b"), On, true, "b/0/", "*"),
            ("quorum, for the first time", "b", stored("-", 0, ""), Quorum, false, "-", ""),
            ("quorum, for the first time, strict", "b", stored("-", 0, ""), Quorum, true, "-", "ANY 1 (*)"),
            ("a voter", "b", stored("a", 1, "bc"), Quorum, false, "b/1/ac", "ANY 1 (a,c)"),
            ("everybody was needed to win", "b", stored("a", 2, "bc"), Quorum, false, "b/2/ac", ""),
            ("everybody was needed to win, strict", "b", stored("a", 2, "bc"), Quorum, true, "b/2/ac", "ANY 1 (a,c)"),
            ("the leader again", "a", stored("A", 1, "bc"), Quorum, false, "A/1/bc", "ANY 1 (b,c)"),
            ("no voter", "d", stored("a", 1, "bc"), Quorum, false, "d/1/abc", "ANY 2 (a,b,c)"),
            ("alone before", "b", stored("a", 0, ""), Quorum, false, "b/0/a", "ANY 1 (a)"),
        ];
        for (what, me, record, mode, strict, expected, names) in cases {
            assert_eq!(prepared(me, &record, mode, strict), (expected.to_owned(), names.to_owned()), "{what}");
        }
    }

    #[test]
    fn what_is_prepared_is_safe() {
        for (me, leader, voters) in [("b", "a", "bcd"), ("e", "a", "bcd"), ("a", "a", "bcd"), ("b", "a", "b"), ("b", "a", "")] {
            for quorum in 0..6 {
                let before = stored(leader, quorum, voters);
                let Preparation { record, names } = prepare(&MemberName::from(me), &before, SyncMode::Quorum, false);
                let after = record.unwrap_or(before);
                let names = StandbyNames::parse(&names).expect("ours");
                let voters: Names = after.standbys.iter().cloned().collect();
                let quorum = usize::try_from(after.quorum).expect("small");
                assert!(is_safe(quorum, &voters, names.number_of_named(), &names.named()), "{after:?} {names:?}");
            }
        }
    }
}
