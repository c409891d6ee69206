//! Leaving synchronous duty before going away (section 5.9, hardening rule X16).
//!
//! A standby that commits wait for tells the leader that it is about to go, and goes when `/sync` no longer lists it:
//!
//! ```text
//!   member key: nosync ─► leader: another one, or nobody, in /sync ─► restart, reinitialize, end
//! ```

use dcs_core::model::{ClusterView, MemberName, Tags};

use crate::settings::{GlobalConfig, SyncMode};

/// Whether a node with these tags should announce that it goes away.
pub(crate) fn should_announce(cfg: &GlobalConfig, tags: &Tags, view: Option<&ClusterView>, me: &MemberName) -> bool {
    let leads = view.is_some_and(|view| view.leader_name() == Some(me));
    cfg.synchronous_mode != SyncMode::Off && !tags.nosync() && !leads
}

/// Whether commits still wait for `me`: it is listed by the leader that leads now.
pub(crate) fn has_duty(view: &ClusterView, me: &MemberName) -> bool {
    let of_this_leader = match (view.leader_name(), &view.sync.record.leader) {
        (Some(leader), Some(listed)) => listed.same_as_standby(leader.as_str()),
        _ => false,
    };
    of_this_leader && view.sync.lists(me)
}

/// The tags of a node that leaves, or has left, its duty.
pub(crate) fn off_duty(tags: &Tags) -> Tags {
    let mut tags = tags.clone();
    tags.0.insert("nosync".to_owned(), true.into());
    tags.0.insert("sync_priority".to_owned(), 0.into());
    tags
}

#[cfg(test)]
mod tests {
    use dcs_core::model::{Leader, Revision, SyncRecord, SyncState};
    use serde_json::json;

    use super::*;
    use crate::decide::tests::global;

    fn view(leader: Option<&str>, sync_leader: Option<&str>, standbys: &[&str]) -> ClusterView {
        let record = SyncRecord {
            leader: sync_leader.map(MemberName::from),
            standbys: standbys.iter().map(|name| MemberName::from(*name)).collect(),
            quorum: 0,
        };
        ClusterView {
            leader: leader.map(|name| Leader { name: MemberName::from(name), revision: Revision::from(1_i64), handle: None }),
            sync: SyncState { record, ..SyncState::default() },
            ..ClusterView::default()
        }
    }

    #[test]
    fn only_the_standby_of_the_present_leader_waits() {
        let me = MemberName::from("b");
        for (what, view, expected) in [
            ("listed", view(Some("a"), Some("a"), &["B"]), true),
            ("not listed", view(Some("a"), Some("a"), &["c"]), false),
            ("listed by a former leader", view(Some("c"), Some("a"), &["b"]), false),
            ("nobody leads", view(None, Some("a"), &["b"]), false),
            ("not in use", view(Some("a"), None, &["b"]), false),
        ] {
            assert_eq!(has_duty(&view, &me), expected, "{what}");
        }
    }

    #[test]
    fn only_standbys_that_could_be_synchronous_announce_it() {
        let (on, off) = (global(json!({"synchronous_mode": true})), global(json!({})));
        let (me, led) = (MemberName::from("b"), view(Some("a"), None, &[]));
        let nosync = Tags(json!({"nosync": true}).as_object().cloned().unwrap_or_default());
        assert!(should_announce(&on, &Tags::default(), Some(&led), &me));
        assert!(!should_announce(&off, &Tags::default(), Some(&led), &me));
        assert!(!should_announce(&on, &nosync, Some(&led), &me));
        assert!(!should_announce(&on, &Tags::default(), Some(&view(Some("b"), None, &[])), &me));
        let announced = off_duty(&Tags::default());
        assert!(announced.nosync() && announced.sync_priority() == 0);
    }
}
