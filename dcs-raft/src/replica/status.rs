//! How a node is, for operators.

use dcs_core::Moment;

use super::Replica;
use crate::message::Identity;
use crate::node::Role;
use crate::status::{NodeRole, PeerStatus, Status};
use crate::storage::Storage;

impl<S: Storage> Replica<S> {
    /// Who the node is.
    pub fn identity(&self) -> Identity {
        Identity {
            id: self.id,
            address: self.options.address.clone(),
            cluster: Some(self.foundation.cluster),
            members: self.state.members().values().map(|member| member.address.clone()).collect(),
            partners: Vec::new(),
        }
    }

    /// How the node is. Whether there are connections only their owner knows.
    pub fn status(&self, now: Moment) -> Status {
        let configuration = self.node.configuration();
        let votes = |id: u64| configuration.voters.contains(&id) || configuration.voters_outgoing.contains(&id);
        // A node that cannot write takes no part, and knows nothing of what the others do meanwhile.
        let takes_part = self.stuck.is_none();
        // Who has applied nothing was let in, and has not heard of it yet.
        let role = if !self.state.members().contains_key(&self.id) && self.state.applied() > 0 {
            NodeRole::Removed
        } else if !votes(self.id.0) {
            NodeRole::Learner
        } else {
            match self.node.role() {
                Role::Leader if takes_part => NodeRole::Leader,
                Role::Leader => NodeRole::Follower,
                Role::Follower => NodeRole::Follower,
                Role::Candidate => NodeRole::Candidate,
            }
        };
        let active = configuration.voters.iter().filter(|id| **id == self.id.0 || self.is_active(crate::identity::NodeId(**id))).count();
        let leader = self.node.leader().filter(|_| takes_part);
        let has_quorum = takes_part
            && match self.node.role() {
                Role::Leader => active > configuration.voters.len() / 2,
                Role::Follower => self.node.leader().is_some(),
                Role::Candidate => false,
            };
        let peers = self.state.members().values().filter(|member| member.id != self.id).map(|member| {
            let progress = self.node.progress(member.id);
            PeerStatus {
                id: member.id,
                address: member.address.clone(),
                voter: votes(member.id.0),
                absent: member.absent,
                connected: false,
                match_index: progress.map(|progress| progress.matched),
                next_index: progress.map(|progress| progress.next),
                last_contact_ms: self.heard.get(&member.id).map(|heard| milliseconds(now, *heard)),
            }
        });
        Status {
            id: self.id,
            address: self.options.address.clone(),
            cluster: self.foundation.cluster,
            role,
            leader: leader.and_then(|leader| self.state.members().get(&leader)).map(|member| member.address.clone()),
            term: self.node.term(),
            commit: self.node.commit(),
            applied: self.state.applied(),
            last_index: self.node.last_index(),
            snapshot_index: self.node.snapshot_index(),
            has_quorum,
            changing: self.node.is_changing(),
            clock_ms: self.state.clock_ms(),
            peers: peers.collect(),
            uptime_ms: milliseconds(now, self.started),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            storage_problem: self.stuck.as_ref().map(|stuck| stuck.problem.clone()),
        }
    }
}

fn milliseconds(now: Moment, then: Moment) -> u64 {
    u64::try_from((now - then).as_millis()).unwrap_or(u64::MAX)
}
