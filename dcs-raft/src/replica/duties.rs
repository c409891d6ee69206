//! What a leader does without being asked: lets leases expire, lets new nodes vote. And what it does about members when
//! it is asked.

use dcs_core::Moment;

use super::Replica;
use crate::command::{Command, Member, MembershipChange};
use crate::identity::NodeId;
use crate::message::Response;
use crate::node::Role;
use crate::storage::Storage;

/// A new node votes when it lacks fewer entries than this.
const CAUGHT_UP: u64 = 64;

impl<S: Storage> Replica<S> {
    pub(super) fn do_duties(&mut self, now: Moment) {
        if self.node.role() != Role::Leader || !self.node.has_committed_in_its_term() {
            return;
        }
        self.let_expire(now);
        self.let_vote(now);
    }

    /// Expiry is an entry of the log like any other, so that all nodes agree on what had expired before what.
    fn let_expire(&mut self, now: Moment) {
        let everything_applied = self.state.applied() == self.node.last_index();
        let Some(due_ms) = self.state.due_ms() else { return };
        // While entries are on their way their times may do it.
        if everything_applied && self.clock.stamp(now).is_some_and(|now_ms| now_ms >= due_ms) {
            self.propose(now, None, Command::Tick);
        }
    }

    /// Lets a node vote that has caught up, in the place of the one that had its address before.
    fn let_vote(&mut self, now: Moment) {
        if self.node.is_changing() {
            return;
        }
        let last = self.node.last_index();
        let ready = self.node.configuration().learners.into_iter().map(NodeId).find(|id| {
            self.node.progress(*id).is_some_and(|progress| progress.active && progress.matched + CAUGHT_UP > last && progress.matched > 0)
        });
        let Some(member) = ready.and_then(|id| self.state.members().get(&id)) else { return };
        let instead_of = self.others_at(member).next();
        let change = MembershipChange::Promote { id: member.id, instead_of };
        tracing::info!("{} has caught up and votes from now on", member.address);
        self.propose(now, None, Command::Membership(change));
    }

    fn others_at<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = NodeId> + 'a {
        self.state.members().values().filter(|other| other.address == member.address && other.id != member.id).map(|other| other.id)
    }

    /// A node asks to be added. Whether it is a member already.
    pub(super) fn take_join(&mut self, now: Moment, id: NodeId, address: String) -> Result<bool, Response> {
        if self.state.members().contains_key(&id) {
            // It is reached somewhere else than it was.
            self.change_members(now, MembershipChange::Move { id, address })?;
            return Ok(true);
        }
        if self.state.was_removed(id) {
            let text = format!("{address} was removed from the cluster; to let it join again, stop it and move its data directory away");
            return Err(Response::Refused(text));
        }
        let taken = self
            .state
            .members()
            .values()
            .find(|member| member.address == address && !member.absent && (member.id == self.id || self.is_active(member.id)));
        if taken.is_some() {
            return Err(Response::Refused(format!("{address} is the address of a member that is alive")));
        }
        self.change_members(now, MembershipChange::Add(Member { id, address: address.clone(), absent: false }))?;
        tracing::info!("{address} joins the Raft cluster");
        Ok(false)
    }

    /// An operator removes a node.
    pub(super) fn take_removal(&mut self, now: Moment, address: &str) -> Result<NodeId, Response> {
        let configuration = self.node.configuration();
        let Some(member) = self.state.members().values().find(|member| member.address == address).cloned() else {
            let known: Vec<&str> = self.state.members().values().map(|member| member.address.as_str()).collect();
            return Err(Response::Refused(format!("{address} is not a member; members are {}", known.join(", "))));
        };
        let left: Vec<NodeId> = configuration.voters.iter().copied().map(NodeId).filter(|id| *id != member.id).collect();
        let active = left.iter().filter(|id| **id == self.id || self.is_active(**id)).count();
        if active <= left.len() / 2 {
            let text = format!("without {address} only {active} of {} voters would be there, which is no majority", left.len());
            return Err(Response::Refused(text));
        }
        if member.id == self.id {
            self.hand_over(None);
            return Err(Response::Unknown("the leader hands over before it goes".to_owned()));
        }
        self.change_members(now, MembershipChange::Remove(member.id))?;
        Ok(member.id)
    }

    fn change_members(&mut self, now: Moment, change: MembershipChange) -> Result<(), Response> {
        if self.node.is_changing() {
            return Err(Response::Unknown("another change of the members is under way".to_owned()));
        }
        if self.propose(now, None, Command::Membership(change)) {
            Ok(())
        } else {
            Err(Response::Unknown("the leader did not take the change".to_owned()))
        }
    }

    /// Hands over to `to`, or to whoever has most of the log.
    pub(super) fn hand_over(&mut self, to: Option<NodeId>) -> Response {
        let voters = self.node.configuration().voters;
        let best = voters
            .into_iter()
            .map(NodeId)
            .filter(|id| *id != self.id && to.is_none_or(|to| to == *id) && self.is_active(*id))
            .max_by_key(|id| self.node.progress(*id).map(|progress| progress.matched));
        match best {
            Some(node) => {
                self.node.transfer_to(node);
                Response::Done
            }
            None => Response::Refused("there is no other voter to hand over to".to_owned()),
        }
    }

    /// Whether the leader heard of a node lately.
    pub(super) fn is_active(&self, node: NodeId) -> bool {
        self.node.progress(node).is_some_and(|progress| progress.active)
    }
}
