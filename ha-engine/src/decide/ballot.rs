//! What the answers of the others mean for a node that wants to lead (rows G4 to G9 of section 2.3).

use std::cmp::Ordering;

use dcs_core::model::MemberName;

use super::action::Severity;
use super::journal::Rule;
use super::position::{Lineage, Position};
use super::sync::electorate::Electorate;

/// The node that wants to lead, and what it goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ballot<'a> {
    /// The node.
    pub(super) me: &'a MemberName,
    /// Where it is.
    pub(super) mine: Position,
    /// Its priority; it breaks ties.
    pub(super) priority: i64,
    /// What positions on different timelines are worth.
    pub(super) lineage: &'a Lineage,
    /// The former leader: a higher priority of it is no reason to defer to it.
    pub(super) former_leader: Option<&'a MemberName>,
    /// Whom `/sync` lets win; nothing: anybody.
    pub(super) electorate: Option<&'a Electorate>,
}

/// A usable answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    /// It is writable.
    Primary,
    /// It is a standby that counts.
    Standby {
        /// Where it is.
        position: Position,
        /// Its priority.
        priority: i64,
    },
}

/// What the answers come to.
#[derive(Clone, Debug)]
pub(super) struct Judgement {
    /// Why the node may not lead; nothing if it may.
    pub(super) refusal: Option<(Rule, String)>,
    /// What to say about it.
    pub(super) lines: Vec<(Severity, String)>,
}

/// Whether the node may lead, and what to say about it.
pub(super) fn judge(ballot: &Ballot<'_>, answers: &[(&MemberName, Said)]) -> Judgement {
    let mut lines = Vec::new();
    let mut say = |severity, line: String| lines.push((severity, line));
    let voting = ballot.electorate.filter(|electorate| electorate.counts_votes());
    let is_voter = |name: &MemberName| voting.is_some_and(|electorate| electorate.includes(name));
    // Who is no voter itself needs one vote more.
    let mut votes = if is_voter(ballot.me) { 0 } else { -1 };
    // The first reason of the most telling kind.
    let mut refusals: Vec<(Rule, String)> = Vec::new();
    for (name, said) in answers {
        let Said::Standby { position, priority } = said else {
            say(Severity::Warning, format!("Primary ({name}) is still alive"));
            refusals.push((Rule::RacePrimaryAlive, format!("{name} answers that it is a primary")));
            continue;
        };
        let order = ballot.lineage.compare(*position, ballot.mine);
        if order == Ordering::Greater {
            if ballot.electorate.is_some_and(|electorate| electorate.is_led_by(name)) {
                say(Severity::Info, "Ignoring the former leader being ahead of us".to_owned());
            } else {
                say(Severity::Info, format!("Wal position of {name} is ahead of my wal position"));
                refusals.push((Rule::RaceBehind, format!("{name} has more WAL")));
            }
            continue;
        }
        if order == Ordering::Equal && *priority > ballot.priority {
            let mine = ballot.priority;
            if ballot.former_leader.is_some_and(|leader| leader == *name) {
                say(
                    Severity::Info,
                    format!("Ignoring former leader {name} having priority {priority} higher than this nodes {mine} priority"),
                );
            } else if voting.is_none() || is_voter(name) {
                say(
                    Severity::Info,
                    format!("{name} has equally tolerable WAL position and priority {priority}, while this node has priority {mine}"),
                );
                refusals
                    .push((Rule::RacePriority, format!("{name} has as much WAL and priority {priority}, this node has priority {mine}")));
            }
        }
        if is_voter(name) {
            say(Severity::Info, format!("Got quorum vote from {name}"));
            votes += 1;
        }
    }
    if let Some(electorate) = voting.filter(|electorate| votes < electorate.quorum() && !electorate.is_led_by(ballot.me)) {
        let needed = electorate.quorum();
        refusals
            .push((Rule::RaceNoQuorum, format!("{votes} of the {needed} votes that are needed were given by the members of the quorum")));
    }
    let told = |rule: Rule| refusals.iter().find(|(given, _)| *given == rule).cloned();
    let refusal = [Rule::RacePrimaryAlive, Rule::RaceBehind, Rule::RacePriority, Rule::RaceNoQuorum].into_iter().find_map(told);
    Judgement { refusal, lines }
}
