//! The members as a tree of who streams from whom.

use std::collections::{BTreeMap, BTreeSet};

use super::summary::MemberSummary;

/// Orders the members as a tree and marks their names with their level: `pg0`, `+ pg1`, `  + pg2`.
///
/// The leader comes first. A member hangs below the one that its tag `replicatefrom` names, if that is another member
/// that does not lead, and below the leader otherwise. Members that name each other in a circle hang below the leader,
/// so that everybody is shown.
pub fn arrange(members: Vec<MemberSummary>) -> Vec<MemberSummary> {
    let parents = parents(&members);
    let mut children: BTreeMap<Option<String>, Vec<MemberSummary>> = BTreeMap::new();
    let mut arranged = Vec::with_capacity(members.len());
    for member in members {
        if member.leads() {
            arranged.push(member);
        } else {
            children.entry(parents.get(&member.name).cloned()).or_default().push(member);
        }
    }
    // Depth first; the stack holds what is still to be placed, the next one on top.
    let mut waiting: Vec<_> = children.remove(&None).unwrap_or_default().into_iter().map(|member| (1, member)).collect();
    waiting.reverse();
    while let Some((level, mut member)) = waiting.pop() {
        let below = children.remove(&Some(member.name.clone())).unwrap_or_default();
        waiting.extend(below.into_iter().rev().map(|child| (level + 1, child)));
        member.name = format!("{}+ {}", "  ".repeat(level - 1), member.name);
        arranged.push(member);
    }
    arranged
}

/// Who hangs below which replica. Who is not in it hangs below the leader.
fn parents(members: &[MemberSummary]) -> BTreeMap<String, String> {
    let replicas: BTreeSet<&str> = members.iter().filter(|member| !member.leads()).map(|member| member.name.as_str()).collect();
    let wanted: BTreeMap<&str, &str> = members
        .iter()
        .filter(|member| !member.leads())
        .filter_map(|member| Some((member.name.as_str(), member.replicate_from()?)))
        .filter(|(name, parent)| name != parent && replicas.contains(parent))
        .collect();
    let in_circle = |name: &str| {
        let mut seen = BTreeSet::new();
        let mut at = name;
        while let Some(next) = wanted.get(at) {
            if *next == name {
                return true;
            }
            if !seen.insert(*next) {
                return false;
            }
            at = next;
        }
        false
    };
    wanted.iter().filter(|(name, _)| !in_circle(name)).map(|(name, parent)| ((*name).to_owned(), (*parent).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::arrange;
    use crate::ctl::summary::Summary;
    use crate::ctl::testing::view;

    fn names(keys: &[(&str, &str)]) -> Vec<String> {
        arrange(Summary::of(&view(keys)).members).into_iter().map(|member| member.name).collect()
    }

    #[test]
    fn replicas_hang_below_the_one_that_they_stream_from() {
        let keys = [
            ("leader", "b"),
            ("members/a", r#"{"tags":{"replicatefrom":"c"}}"#),
            ("members/b", r#"{"tags":{"replicatefrom":"a"}}"#),
            ("members/c", r#"{"tags":{"replicatefrom":"b"}}"#),
            ("members/d", r#"{"tags":{"replicatefrom":"nobody"}}"#),
            ("members/e", r#"{"tags":{"replicatefrom":"e"}}"#),
            ("members/f", r#"{"tags":{"replicatefrom":"a"}}"#),
        ];
        assert_eq!(names(&keys), ["b", "+ c", "  + a", "    + f", "+ d", "+ e"]);
    }

    #[test]
    fn without_leader_everybody_is_on_the_first_level() {
        assert_eq!(names(&[("members/a", "{}"), ("members/b", "{}")]), ["+ a", "+ b"]);
    }

    #[test]
    fn members_that_name_each_other_are_still_shown() {
        let keys = [
            ("leader", "pg0"),
            ("members/pg0", "{}"),
            ("members/a", r#"{"tags":{"replicatefrom":"b"}}"#),
            ("members/b", r#"{"tags":{"replicatefrom":"a"}}"#),
            ("members/c", r#"{"tags":{"replicatefrom":"a"}}"#),
        ];
        assert_eq!(names(&keys), ["pg0", "+ a", "  + c", "+ b"]);
    }
}
