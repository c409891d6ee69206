//! Who may win when nobody leads, as far as `/sync` decides (sections 2.2, 2.3, 2.7 and 5.10).

use dcs_core::model::{ClusterView, MemberName, SyncState};

use crate::settings::{GlobalConfig, SyncMode};

/// The synchronous state that a race goes by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Electorate {
    sync: SyncState,
    quorum: bool,
}

impl Electorate {
    /// The electorate; nothing if `/sync` restricts nobody: it is not in use, or not in force yet.
    pub(crate) fn of(view: &ClusterView, cfg: &GlobalConfig) -> Option<Self> {
        let active = cfg.synchronous_mode != SyncMode::Off && !view.sync.is_empty();
        // A quorum in the key counts whatever the mode is by now: until a leader has rewritten the key, not everybody in it has
        // every acknowledged commit.
        let quorum = cfg.synchronous_mode == SyncMode::Quorum || view.sync.record.quorum > 0;
        active.then(|| Self { sync: view.sync.clone(), quorum })
    }

    /// Whether votes are counted.
    pub(crate) fn counts_votes(&self) -> bool {
        self.quorum
    }

    /// Whether `name` is the leader that wrote the key, or one of its standbys.
    pub(crate) fn includes(&self, name: &MemberName) -> bool {
        self.sync.lists_or_leads(name)
    }

    /// Q13: whether `name` may race at all; where votes are counted, they decide.
    pub(crate) fn lets_race(&self, name: &MemberName) -> bool {
        self.counts_votes() || self.includes(name)
    }

    /// Whether `name` is one of the standbys.
    pub(crate) fn lists(&self, name: &MemberName) -> bool {
        self.sync.lists(name)
    }

    /// The leader that wrote the key.
    pub(crate) fn leader(&self) -> Option<&MemberName> {
        self.sync.record.leader.as_ref()
    }

    /// Whether `name` is the leader that wrote the key.
    pub(crate) fn is_led_by(&self, name: &MemberName) -> bool {
        self.leader().is_some_and(|leader| leader.same_as_standby(name.as_str()))
    }

    /// The standbys, as messages list them.
    pub(crate) fn standbys(&self) -> String {
        let names: Vec<&str> = self.sync.record.standbys.iter().map(MemberName::as_str).collect();
        names.join(",")
    }

    /// How many others a winner must have seen; 0 where votes are not counted.
    pub(crate) fn quorum(&self) -> i64 {
        if self.quorum { i64::try_from(self.sync.record.quorum).unwrap_or(i64::MAX) } else { 0 }
    }
}
