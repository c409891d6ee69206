//! Standby clusters (section 8): a cluster that, as a whole, is a replica of another one.
//!
//! ```text
//!   another cluster                        this one
//!   primary (remote member) ── streams ──► standby leader (holds the lock) ── streams ──► replicas
//! ```
//!
//! The remote member is all that is known of the other cluster: the hosts and the port of `standby_cluster`. Its histories are
//! what this cluster's are compared with, because nobody here writes one of their own.

use dcs_core::model::Role;

use super::action::Task;
use super::cycle::{Cycle, Outcome};
use super::observation::Upstream;
use super::replica;
use crate::ports::FollowPlan;
use crate::settings::StandbyCluster;

/// What the line says of a primary that has to stop because the cluster was made a standby cluster.
const NO_PRIMARY: &str = "cannot be a real primary in standby cluster";

/// The node to stream and rewind from; nothing if only an archive is known.
pub(crate) fn remote_member(section: &StandbyCluster) -> Option<Upstream> {
    if section.host.is_none() && section.port.is_none() {
        return None;
    }
    let host = section.host.clone().unwrap_or_default();
    Some(Upstream { name: format!("remote_member:{host}"), host, port: section.port, dbname: None, remote: true })
}

/// What a server that streams from the remote member looks like.
pub(crate) fn plan_of_remote(section: &StandbyCluster, role: Role, use_slots: bool) -> FollowPlan {
    let mut overrides = overrides(section);
    overrides.extend(section.recovery_min_apply_delay.clone().map(|delay| ("recovery_min_apply_delay".to_owned(), delay)));
    let slot = section.primary_slot_name.as_deref().filter(|_| use_slots).map(dcs_core::keys::slot_name_from_member);
    FollowPlan { upstream: remote_member(section), slot, role, overrides }
}

/// The recovery settings that every member of a standby cluster has from its section.
pub(crate) fn overrides(section: &StandbyCluster) -> Vec<(String, String)> {
    let named = [("restore_command", &section.restore_command), ("archive_cleanup_command", &section.archive_cleanup_command)];
    named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))).collect()
}

/// H4: the lock is mine and has just been renewed.
pub(super) fn lead(c: &mut Cycle<'_>) -> Outcome {
    let following = match c.role() {
        Role::StandbyLeader => format!("no action. I am ({}), the standby leader with the lock", c.me()),
        _ => "promoted self to a standby leader because i had the session lock".to_owned(),
    };
    replica::follow(c, NO_PRIMARY, &following, true)
}

/// U6: the lock has just been taken.
pub(super) fn begin_to_lead(c: &mut Cycle<'_>) -> Outcome {
    replica::follow(c, NO_PRIMARY, "promoted self to a standby leader by acquiring session lock", false)
}

/// H9: somebody else holds the lock.
pub(super) fn follow_leader(c: &mut Cycle<'_>) -> Outcome {
    let leader = c.view.leader_name().map(ToString::to_string).unwrap_or_default();
    let following = format!("no action. I am ({}), a secondary, and following a standby leader ({leader})", c.me());
    replica::follow(c, "cannot be a real primary in a standby cluster", &following, false)
}

/// F3: the cluster was made a standby cluster, and this node still is a primary.
pub(super) fn demote_cluster(c: &mut Cycle<'_>, section: &StandbyCluster) {
    c.arm_rewind_check();
    let mine = c.lock_is_mine();
    let role = if mine { Role::StandbyLeader } else { Role::Replica };
    c.task = Some(Task::DemoteCluster { remote: plan_of_remote(section, role, c.obs.use_slots), leads: mine });
}
