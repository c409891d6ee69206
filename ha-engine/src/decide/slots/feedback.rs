//! Who must tell its upstream which rows it still needs (postgresql.md 14.7).
//!
//! A logical slot on a standby is of use after a promotion only if the primary has kept the catalog rows that decoding from
//! it needs. The primary knows of them by `hot_standby_feedback`, from the standby itself and from every one on the way.

use std::collections::BTreeSet;

use dcs_core::model::{ClusterView, MemberName, Tags};

use super::desired::{Site, slot_on_primary, wanted};
use super::permanent::Kind;
use crate::settings::GlobalConfig;

/// Whether `hot_standby_feedback` must be on for the node `me`, whatever is configured: it has logical slots, or would have
/// them as a replica, or feeds somebody who has.
pub(super) fn is_needed(me: &MemberName, tags: &Tags, use_slots: bool, cfg: &GlobalConfig, view: &ClusterView) -> bool {
    use_slots && cfg.standby_cluster.is_none() && is_needed_by(me, tags, cfg, view, &mut BTreeSet::new())
}

fn is_needed_by<'v>(
    me: &'v MemberName,
    tags: &Tags,
    cfg: &GlobalConfig,
    view: &'v ClusterView,
    seen: &mut BTreeSet<&'v MemberName>,
) -> bool {
    // Streaming in a circle brings feedback to nobody.
    if !seen.insert(me) || slot_on_primary(me, tags, view).is_none() {
        return false;
    }
    let as_replica = Site { me, tags, use_slots: true, leads: false };
    let decodes = wanted(as_replica, cfg, view).slots.values().any(|slot| matches!(slot.kind, Kind::Logical { .. }));
    let feeds = |name: &MemberName, tags: &Tags| tags.replicatefrom() == Some(me.as_str()) && Some(name) != view.leader_name();
    decodes
        || view
            .members
            .iter()
            .filter(|member| feeds(&member.name, &member.record.tags))
            .any(|member| is_needed_by(&member.name, &member.record.tags, cfg, view, seen))
}
