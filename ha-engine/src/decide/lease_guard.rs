//! Whether the lease guard holds the leader's deadline: a process of its own that stops PostgreSQL when the agent can't.

use dcs_core::model::{ClusterView, Member, MemberName};

use crate::settings::{GlobalConfig, LeaseGuardMode};

/// Whether the guard is armed for as long as `me` has a lease. `view` is the last one that could be loaded.
///
/// A primary that nobody could replace does no harm by going on, and stopping it would only cost availability. Whether
/// somebody could is judged generously: a member that is being built, or lags, may be ready by the time that counts.
pub(crate) fn is_wanted(cfg: &GlobalConfig, view: Option<&ClusterView>, me: &MemberName) -> bool {
    if cfg.pause {
        return false;
    }
    match cfg.lease_guard {
        LeaseGuardMode::Off => false,
        LeaseGuardMode::On => true,
        LeaseGuardMode::Automatic => view.is_some_and(|view| view.members.iter().any(|member| may_take_over(member, me))),
    }
}

fn may_take_over(member: &Member, me: &MemberName) -> bool {
    member.name != *me && !member.record.tags.nofailover()
}

#[cfg(test)]
mod tests {
    use dcs_core::model::{ClusterView, MemberName};
    use serde_json::json;

    use super::is_wanted;
    use crate::decide::tests::{global, member};

    #[test]
    fn the_guard_is_armed_where_somebody_could_take_over_and_never_in_pause() {
        let nofailover = |name: &str| {
            let mut member = member(name);
            member.record.tags.0.insert("nofailover".to_owned(), true.into());
            member
        };
        let alone = || Some(ClusterView { members: vec![member("a")], ..ClusterView::default() });
        let two = || Some(ClusterView { members: vec![member("a"), member("b")], ..ClusterView::default() });
        let backup = || Some(ClusterView { members: vec![member("a"), nofailover("b")], ..ClusterView::default() });
        let itself = || Some(ClusterView { members: vec![nofailover("a"), member("b")], ..ClusterView::default() });
        for (document, view, wanted) in [
            (json!({}), two(), true),
            (json!({}), itself(), true),
            (json!({}), alone(), false),
            (json!({}), backup(), false),
            (json!({}), None, false),
            (json!({"pause": true}), two(), false),
            (json!({"quorate": {"lease_guard": "off"}}), two(), false),
            (json!({"quorate": {"lease_guard": false}}), two(), false),
            (json!({"quorate": {"lease_guard": "on"}}), alone(), true),
            (json!({"quorate": {"lease_guard": "on"}}), None, true),
            (json!({"quorate": {"lease_guard": true}, "pause": true}), two(), false),
        ] {
            assert_eq!(is_wanted(&global(document.clone()), view.as_ref(), &MemberName::from("a")), wanted, "{document} {view:?}");
        }
    }
}
