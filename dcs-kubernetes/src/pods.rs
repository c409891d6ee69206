//! Our own pod: what it says about us, in labels for Services to select by and in one annotation for the other members.

use std::collections::BTreeMap;

use dcs_core::codec;
use dcs_core::model::{MemberRecord, Role, ServerState};
use serde_json::{Value, json};

use crate::config::PodLabels;
use crate::object::{Object, annotation};

/// The labels that a pod shall have; nothing means that it shall not have it.
pub(crate) type Labels = BTreeMap<String, Option<String>>;

/// The labels for what `record` says. `leads` is whether the lock is known to be ours.
pub(crate) fn labels(config: &PodLabels, record: &MemberRecord, leads: bool) -> Labels {
    let is = |state: ServerState| record.state.as_deref() == Some(state.as_str());
    let said = record.role.as_deref();
    let (role, plain) = if leads {
        let standby = said == Some(Role::StandbyLeader.as_str());
        (Some(if standby { config.standby_leader.as_str() } else { config.leader.as_str() }), Some(Role::Primary.as_str()))
    } else if is(ServerState::Running) && said != Some(Role::Primary.as_str()) {
        // A primary without the lock is nobody that a Service should find.
        let replica = said == Some(Role::Replica.as_str());
        (if replica { Some(config.follower.as_str()) } else { said }, said)
    } else {
        (None, None)
    };
    let mut labels = Labels::from([(config.role.clone(), role.map(str::to_owned))]);
    if let Some(name) = &config.tmp_role {
        labels.insert(name.clone(), plain.map(str::to_owned));
    }
    let bootstraps = [
        ServerState::InitializingNewCluster,
        ServerState::RunningCustomBootstrap,
        ServerState::StartingAfterCustomBootstrap,
        ServerState::CreatingReplica,
    ];
    let bootstraps = bootstraps.into_iter().any(is);
    labels.extend(config.bootstrap.iter().map(|(name, value)| (name.clone(), bootstraps.then(|| value.clone()))));
    labels
}

/// Whether the pod says and shows all this already.
pub(crate) fn says(pod: &Object, labels: &Labels, status: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    let same = match (pod.annotation(annotation::STATUS).and_then(parse), parse(status)) {
        (Some(stored), Some(new)) => codec::same_value(&stored, &new),
        _ => false,
    };
    same && labels.iter().all(|(name, value)| pod.label(name) == value.as_deref())
}

/// The patch that makes it so, in one request: nobody sees the one without the other. Only labels that are there are removed.
pub(crate) fn patch(pod: Option<&Object>, labels: &Labels, status: &str) -> Value {
    let is_there = |name: &str| pod.is_some_and(|pod| pod.label(name).is_some());
    let changes: Labels =
        labels.iter().filter(|(name, value)| value.is_some() || is_there(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
    json!({"metadata": {"labels": changes, "annotations": {annotation::STATUS: status}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PodLabels {
        PodLabels {
            role: "role".to_owned(),
            leader: "master".to_owned(),
            standby_leader: "standby".to_owned(),
            follower: "follower".to_owned(),
            tmp_role: Some("tmp".to_owned()),
            bootstrap: [("boots".to_owned(), "yes".to_owned())].into(),
        }
    }

    fn shown(state: &str, role: &str, leads: bool) -> [Option<String>; 3] {
        let record = MemberRecord { state: Some(state.to_owned()), role: Some(role.to_owned()), ..MemberRecord::default() };
        let labels = labels(&config(), &record, leads);
        ["role", "tmp", "boots"].map(|name| labels[name].clone())
    }

    #[test]
    fn labels_follow_the_table() {
        let cases = [
            ("running", "standby_leader", true, Some("standby"), Some("primary")),
            ("running", "primary", true, Some("master"), Some("primary")),
            ("running", "promoted", true, Some("master"), Some("primary")),
            ("stopped", "primary", true, Some("master"), Some("primary")),
            ("running", "replica", false, Some("follower"), Some("replica")),
            ("running", "standby_leader", false, Some("standby_leader"), Some("standby_leader")),
            ("running", "demoted", false, Some("demoted"), Some("demoted")),
            ("running", "primary", false, None, None),
            ("starting", "replica", false, None, None),
            ("stopped", "replica", false, None, None),
        ];
        for (state, role, leads, label, tmp) in cases {
            let [shown_role, shown_tmp, boots] = shown(state, role, leads);
            assert_eq!((shown_role.as_deref(), shown_tmp.as_deref(), boots), (label, tmp, None), "{state} {role} {leads}");
        }
    }

    #[test]
    fn bootstrap_labels_are_there_while_a_data_directory_is_made() {
        for state in ["initializing new cluster", "running custom bootstrap script", "starting after custom bootstrap", "creating replica"]
        {
            assert_eq!(shown(state, "uninitialized", false)[2].as_deref(), Some("yes"), "{state}");
        }
        for state in ["running", "starting", "initdb failed", "custom bootstrap failed"] {
            assert_eq!(shown(state, "replica", false)[2], None, "{state}");
        }
    }

    #[test]
    fn a_pod_that_says_the_same_in_another_order_is_left_alone() {
        let pod: Object = serde_json::from_value(json!({"metadata": {
            "labels": {"role": "replica", "other": "x"}, "annotations": {"status": r#"{"b": "1", "a": 2}"#}}}))
        .unwrap();
        let labels = Labels::from([("role".to_owned(), Some("replica".to_owned())), ("tmp".to_owned(), None)]);
        assert!(says(&pod, &labels, r#"{"a":2,"b":"1"}"#));
        assert!(!says(&pod, &labels, r#"{"a":3,"b":"1"}"#));
        assert!(!says(&pod, &Labels::from([("role".to_owned(), None)]), r#"{"a":2,"b":"1"}"#));
        assert!(!says(&Object::default(), &Labels::new(), "{}"));
    }
}
