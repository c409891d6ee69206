//! How a node that has no cluster gets one: it founds one with the others, or joins the one they have.
//!
//! Who founds must be certain, because two nodes that do it at once would make two clusters. It is the node with the
//! smallest address of those it knows, and only when it hears from a majority of them and none has a cluster. It gives the
//! rest some time to come. Nodes that are not there even then are counted in under a placeholder, so that the majority is
//! one of all nodes from the beginning; each takes its place when it comes.

use std::collections::BTreeSet;

use crate::command::{Foundation, Member};
use crate::identity::{ClusterId, NodeId};
use crate::message::Identity;

/// What a node that has no cluster does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It founds a cluster of these addresses; those that answered have an id.
    Found(Vec<(String, Option<NodeId>)>),
    /// It asks the node at this address to be let in.
    JoinThrough(String),
    /// It waits, for the reason given.
    Wait(String),
}

/// What the node at `address`, which knows `partners`, does after it has asked all of them and got these `answers`. With
/// `patient` it founds nothing as long as somebody is missing.
pub(crate) fn next_step(id: NodeId, address: &str, partners: &[String], answers: &[Identity], patient: bool) -> Step {
    if let Some(member) = answers.iter().find(|answer| answer.cluster.is_some()) {
        return Step::JoinThrough(member.address.clone());
    }
    let everybody: BTreeSet<&str> = partners.iter().map(String::as_str).chain([address]).collect();
    let founder = everybody.first().copied().unwrap_or(address);
    let there = 1 + answers.len();
    if founder != address {
        let is_there = answers.iter().any(|answer| answer.address == founder);
        let doing = if is_there { "is waiting for a majority of its partners" } else { "does not answer" };
        return Step::Wait(format!("there is no cluster yet; {founder} founds it, because its address is the first, and {doing}"));
    }
    if !is_majority_there(partners, answers) || (patient && there < everybody.len()) {
        let missing: Vec<&str> = everybody
            .iter()
            .copied()
            .filter(|other| *other != address && !answers.iter().any(|answer| answer.address == **other))
            .collect();
        let text = format!(
            "there is no cluster yet; this node founds it when its partners are there, or a majority for some seconds: {there} of {} are",
            everybody.len()
        );
        return Step::Wait(format!("{text}, missing are {}", missing.join(", ")));
    }
    let id_of = |other: &str| match answers.iter().find(|answer| answer.address == other) {
        Some(answer) => Some(answer.id),
        None => (other == address).then_some(id),
    };
    Step::Found(everybody.into_iter().map(|other| (other.to_owned(), id_of(other))).collect())
}

/// Whether a node that knows `partners` and got these answers, one of each node, is in a majority with those who answered.
pub(crate) fn is_majority_there(partners: &[String], answers: &[Identity]) -> bool {
    (1 + answers.len()) * 2 > 1 + partners.len()
}

/// The answers of other nodes, one of each: a node may be known under several names, this one among them.
pub(crate) fn of_others(id: NodeId, answers: impl IntoIterator<Item = Identity>) -> Vec<Identity> {
    let mut seen = BTreeSet::from([id]);
    answers.into_iter().filter(|answer| seen.insert(answer.id)).collect()
}

/// The foundation of a cluster of these nodes. Those without an id get a placeholder.
pub(crate) fn foundation(cluster: ClusterId, nodes: Vec<(String, Option<NodeId>)>, mut placeholder: impl FnMut() -> NodeId) -> Foundation {
    let members =
        nodes.into_iter().map(|(address, id)| Member { absent: id.is_none(), id: id.unwrap_or_else(&mut placeholder), address }).collect();
    Foundation { cluster, members }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: u64, address: &str, cluster: Option<u128>) -> Identity {
        let cluster = cluster.map(ClusterId);
        Identity { id: NodeId(id), address: address.to_owned(), cluster, members: Vec::new(), partners: Vec::new() }
    }

    fn partners(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_node_alone_founds_at_once() {
        assert_eq!(next_step(NodeId(1), "a:1", &[], &[], true), Step::Found(vec![("a:1".to_owned(), Some(NodeId(1)))]));
    }

    #[test]
    fn the_first_address_founds_when_a_majority_is_there() {
        let others = partners(&["b:1", "c:1"]);
        assert!(matches!(next_step(NodeId(1), "a:1", &others, &[], false), Step::Wait(why) if why.ends_with("missing are b:1, c:1")));
        let nodes = vec![("a:1".to_owned(), Some(NodeId(1))), ("b:1".to_owned(), Some(NodeId(2))), ("c:1".to_owned(), None)];
        let answers = [answer(2, "b:1", None)];
        assert!(matches!(next_step(NodeId(1), "a:1", &others, &answers, true), Step::Wait(why) if why.ends_with("missing are c:1")));
        assert_eq!(next_step(NodeId(1), "a:1", &others, &answers, false), Step::Found(nodes));
    }

    #[test]
    fn nobody_is_counted_twice() {
        let answers = of_others(NodeId(1), [answer(2, "b:1", None), answer(1, "a:1", None), answer(2, "b:1", None)]);
        assert_eq!(answers, [answer(2, "b:1", None)]);
        // Three names of one partner are no majority of four.
        assert!(!is_majority_there(&partners(&["b:1", "b.example:1", "10.0.0.2:1"]), &answers));
    }

    #[test]
    fn nobody_else_founds() {
        let others = partners(&["a:1", "c:1"]);
        let step = next_step(NodeId(2), "b:1", &others, &[answer(3, "c:1", None)], false);
        assert!(matches!(step, Step::Wait(why) if why.contains("a:1 founds it") && why.ends_with("does not answer")));
    }

    #[test]
    fn whoever_sees_a_cluster_joins_it() {
        let others = partners(&["b:1", "c:1"]);
        let answers = [answer(2, "b:1", None), answer(3, "c:1", Some(7))];
        assert_eq!(next_step(NodeId(1), "a:1", &others, &answers, true), Step::JoinThrough("c:1".to_owned()));
    }

    #[test]
    fn who_is_not_there_is_counted_in_under_a_placeholder() {
        let nodes = vec![("a:1".to_owned(), Some(NodeId(1))), ("b:1".to_owned(), None)];
        let foundation = foundation(ClusterId(9), nodes, || NodeId(77));
        assert_eq!(foundation.members[1], Member { id: NodeId(77), address: "b:1".to_owned(), absent: true });
        assert!(!foundation.members[0].absent);
    }
}
