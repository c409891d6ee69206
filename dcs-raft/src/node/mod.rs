//! The Raft protocol of one node: the only module that knows the `raft` crate.
//!
//! It computes and does nothing: what has to be written and sent comes out as [`Work`], and goes on when [`Node::written`]
//! says that it was written. Version 0.7.0 of the crate asks for some care, which is taken here: proposals of followers
//! are never forwarded by it, reads are confirmed by a majority, and chance in election timeouts is replaced by a
//! function of seed and term, so that a simulated history can be told again.

mod convert;
mod log;
mod logger;

use std::collections::BTreeMap;

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry, EntryType, MessageType};
use raft::{Config, ProgressState, RawNode, ReadOnlyOption, Ready, SnapshotStatus, StateRole};

use self::log::Log;
use crate::command::MembershipChange;
use crate::identity::NodeId;
use crate::message::{Configuration, LogEntry, RaftMessage, SnapshotData};
use crate::storage::{Batch, HardState, Remembered};

/// How large one message of log entries gets, about, in bytes.
const MESSAGE_SIZE: u64 = 1 << 20;

/// How many bytes of proposals a leader takes before a majority has any of them.
const UNCOMMITTED: u64 = 64 << 20;

/// Messages to one follower that are under way at once.
const INFLIGHT: usize = 128;

/// A tick is one heartbeat.
const HEARTBEAT_TICKS: usize = 1;

/// How long a follower waits for its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// The shortest time without a heartbeat after which a follower asks for votes, in ticks.
    pub(crate) election_ticks: usize,
    /// What makes the nodes' timeouts differ from each other.
    pub(crate) seed: u64,
}

/// What the protocol cannot go on from.
#[derive(Debug, thiserror::Error)]
#[error("the Raft log cannot be used: {0}")]
pub struct NodeError(String);

/// What a node is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Leader,
    Follower,
    Candidate,
}

/// What has to be done now. First `at_once` is sent, then `batch` is written, then [`Node::written`] tells the rest.
#[derive(Debug)]
pub(crate) struct Work {
    /// May be sent before anything is written.
    pub(crate) at_once: Vec<RaftMessage>,
    /// What must be on stable storage before anything else happens. Nothing, if nothing must.
    pub(crate) batch: Option<Batch>,
    /// A snapshot of the leader that takes the place of the state.
    pub(crate) snapshot: Option<SnapshotData>,
    /// Reads that may be served once everything up to an entry is applied.
    pub(crate) reads: Vec<(Vec<u8>, u64)>,
    ready: Ready,
}

/// What may be done once the work was written.
pub(crate) struct Written {
    pub(crate) messages: Vec<RaftMessage>,
    /// Entries to apply, in order.
    pub(crate) committed: Vec<Committed>,
}

/// An entry that a majority has.
pub(crate) struct Committed {
    pub(crate) index: u64,
    /// What the entry holds; nothing in the first entry of a term, and at the end of a joint configuration.
    pub(crate) record: Option<Vec<u8>>,
    /// The change of voters, to be handed to [`Node::apply_change`].
    pub(crate) change: Option<ConfChangeV2>,
}

/// What the leader knows about the log of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerProgress {
    pub(crate) matched: u64,
    pub(crate) next: u64,
    /// It was heard of within the last election timeout.
    pub(crate) active: bool,
}

pub(crate) struct Node {
    raw: RawNode<Log>,
    pace: Pace,
    /// For how many ticks each of these nodes has been about to receive a snapshot.
    receiving: BTreeMap<u64, usize>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.raw.raft.id).field("term", &self.raw.raft.term).finish_non_exhaustive()
    }
}

impl Node {
    /// The node as it was when it last wrote. `configuration` is that of its snapshot, or of its foundation.
    pub(crate) fn new(remembered: &Remembered, configuration: &Configuration, pace: Pace) -> Result<Self, NodeError> {
        let log = Log::new(remembered, configuration);
        let config = Config {
            id: remembered.id.0,
            election_tick: pace.election_ticks,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: log.snapshot_index(),
            max_size_per_msg: MESSAGE_SIZE,
            max_inflight_msgs: INFLIGHT,
            max_uncommitted_size: UNCOMMITTED,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            ..Config::default()
        };
        let raw = RawNode::new(&config, log, &logger::into_tracing()).map_err(|error| NodeError(error.to_string()))?;
        let mut node = Self { raw, pace, receiving: BTreeMap::new() };
        node.set_timeout();
        Ok(node)
    }

    /// One heartbeat's time has passed.
    pub(crate) fn tick(&mut self) {
        self.raw.tick();
        self.notice_lost_snapshots();
        self.set_timeout();
    }

    /// The protocol sends nothing to a node that is to receive a snapshot, until it hears what became of it. One that has
    /// not arrived in an election's time is taken for lost, and what the node has is found out anew.
    fn notice_lost_snapshots(&mut self) {
        let leads = self.role() == Role::Leader;
        let receive = |state: ProgressState| leads && state == ProgressState::Snapshot;
        let receiving: Vec<u64> = self.raw.raft.prs().iter().filter(|(_, progress)| receive(progress.state)).map(|(id, _)| *id).collect();
        self.receiving.retain(|id, _| receiving.contains(id));
        for id in receiving {
            let ticks = self.receiving.entry(id).or_default();
            *ticks += 1;
            if *ticks > self.pace.election_ticks {
                self.receiving.remove(&id);
                self.raw.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
    }

    /// Takes a message of another node.
    pub(crate) fn step(&mut self, message: RaftMessage) {
        let Some(message) = convert::to_raft(message) else {
            tracing::debug!("a Raft message of an unknown kind was dropped");
            return;
        };
        // Proposals are forwarded by `replica`, which knows whether they were done. What only a node may tell itself is
        // refused by the crate.
        if message.msg_type == MessageType::MsgPropose {
            return;
        }
        if let Err(error) = self.raw.step(message) {
            tracing::trace!("a Raft message was not taken: {error}");
        }
        self.set_timeout();
    }

    /// Puts an entry at the end of the log. Only a leader can; the answer is whether it did.
    pub(crate) fn propose(&mut self, data: Vec<u8>) -> bool {
        self.role() == Role::Leader && self.raw.propose(Vec::new(), data).is_ok()
    }

    /// Puts a change of voters at the end of the log, together with what it holds. Only a leader can, one at a time.
    pub(crate) fn propose_change(&mut self, change: &MembershipChange, data: Vec<u8>) -> bool {
        let Some(change) = configuration_change(change) else {
            return self.propose(data);
        };
        self.role() == Role::Leader && !self.is_changing() && self.raw.propose_conf_change(data, change).is_ok()
    }

    /// Whether a change of voters is under way.
    pub(crate) fn is_changing(&self) -> bool {
        self.raw.raft.has_pending_conf() || !self.raw.raft.prs().conf().to_conf_state().voters_outgoing.is_empty()
    }

    /// Asks a majority whether the leader is still the leader. The answer is in [`Work::reads`]; there may be none.
    pub(crate) fn read_index(&mut self, context: Vec<u8>) {
        self.raw.read_index(context);
    }

    /// Hands over to another node that is up to date, if this one leads.
    pub(crate) fn transfer_to(&mut self, node: NodeId) {
        self.raw.transfer_leader(node.0);
    }

    /// Asks for votes now, for instance because there is nobody else.
    pub(crate) fn campaign(&mut self) {
        if let Err(error) = self.raw.campaign() {
            tracing::debug!("no election: {error}");
        }
        self.set_timeout();
    }

    /// A snapshot did not arrive.
    pub(crate) fn lost_snapshot(&mut self, node: NodeId) {
        self.receiving.remove(&node.0);
        self.raw.report_snapshot(node.0, SnapshotStatus::Failure);
    }

    /// Messages to a node were lost.
    pub(crate) fn is_unreachable(&mut self, node: NodeId) {
        self.raw.report_unreachable(node.0);
    }

    /// What has to be done now.
    pub(crate) fn work(&mut self) -> Option<Work> {
        if !self.raw.has_ready() {
            return None;
        }
        let mut ready = self.raw.ready();
        let snapshot = (!ready.snapshot().is_empty()).then(|| convert::snapshot_from_raft(ready.snapshot()));
        let mut batch = None;
        if ready.must_sync() || snapshot.is_some() {
            batch = Some(Batch {
                hard_state: ready.hs().map(convert::hard_state_from_raft),
                forget_through: snapshot.as_ref().map(|_| u64::MAX),
                snapshot: snapshot.clone(),
                entries: ready.entries().iter().cloned().map(convert::entry_from_raft).collect(),
            });
        }
        let reads = ready.take_read_states().into_iter().map(|state| (state.request_ctx, state.index)).collect();
        Some(Work { at_once: convert::messages(ready.take_messages()), batch, snapshot, reads, ready })
    }

    /// Goes on after the work was written.
    pub(crate) fn written(&mut self, work: Work) -> Written {
        let mut ready = work.ready;
        self.raw.mut_store().take(&ready);
        let mut messages = convert::messages(ready.take_persisted_messages());
        let mut committed = ready.take_committed_entries();
        let mut light = self.raw.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().set_commit(commit);
        }
        messages.extend(convert::messages(light.take_messages()));
        committed.extend(light.take_committed_entries());
        self.set_timeout();
        Written { messages, committed: committed.into_iter().map(read_entry).collect() }
    }

    /// Everything up to this entry was applied.
    pub(crate) fn applied(&mut self, index: u64) {
        self.raw.advance_apply_to(index);
    }

    /// Carries out a change of voters that was committed.
    pub(crate) fn apply_change(&mut self, change: &ConfChangeV2) -> Result<(), NodeError> {
        let state = self.raw.apply_conf_change(change).map_err(|error| NodeError(error.to_string()))?;
        self.raw.mut_store().set_configuration(state);
        Ok(())
    }

    /// The log up to the entry of this snapshot is forgotten, once the snapshot was written.
    pub(crate) fn compacted(&mut self, snapshot: &SnapshotData) {
        self.raw.mut_store().compact(snapshot);
    }

    /// The term of an entry that is still in the log.
    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        self.raw.raft.raft_log.term(index).ok()
    }

    /// What the entries behind `index` hold, as far as they are records.
    pub(crate) fn records_after(&self, index: u64) -> Vec<Vec<u8>> {
        let log = &self.raw.raft.raft_log;
        let entries = log.slice(index + 1, log.last_index() + 1, None, raft::GetEntriesContext::empty(false)).unwrap_or_default();
        entries.into_iter().filter_map(|entry| read_entry(entry).record).collect()
    }

    pub(crate) fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    /// The leader that it knows of.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        (self.raw.raft.leader_id != raft::INVALID_ID).then_some(NodeId(self.raw.raft.leader_id))
    }

    pub(crate) fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub(crate) fn commit(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    pub(crate) fn snapshot_index(&self) -> u64 {
        self.raw.store().snapshot_index()
    }

    /// Whether there is a snapshot, made before one of the nodes was added: the protocol does not let it take that.
    pub(crate) fn snapshot_lacks_a_node(&self) -> bool {
        let Some(named) = self.raw.store().snapshot_configuration() else { return false };
        let Configuration { voters, learners, .. } = self.configuration();
        let names = |id: &u64| named.voters.contains(id) || named.learners.contains(id) || named.voters_outgoing.contains(id);
        !voters.iter().chain(&learners).all(names)
    }

    /// Whether the leader has an entry of its own term that a majority has: before that it does not know what is
    /// committed.
    pub(crate) fn has_committed_in_its_term(&self) -> bool {
        self.raw.raft.commit_to_current_term()
    }

    pub(crate) fn configuration(&self) -> Configuration {
        convert::configuration_from_raft(self.raw.raft.prs().conf().to_conf_state())
    }

    /// What the leader knows about another node.
    pub(crate) fn progress(&self, node: NodeId) -> Option<PeerProgress> {
        if self.role() != Role::Leader {
            return None;
        }
        let progress = self.raw.raft.prs().get(node.0)?;
        Some(PeerProgress { matched: progress.matched, next: progress.next_idx, active: progress.recent_active })
    }

    pub(crate) fn hard_state(&self) -> HardState {
        convert::hard_state_from_raft(&self.raw.raft.hard_state())
    }

    /// Chance is a function of seed and term here, so that a history can be told again.
    fn set_timeout(&mut self) {
        let raft = &mut self.raw.raft;
        let spread = self.pace.election_ticks as u64;
        let drawn = mix(self.pace.seed ^ mix(raft.term)) % spread;
        raft.set_randomized_election_timeout(self.pace.election_ticks + usize::try_from(drawn).unwrap_or_default());
    }
}

/// A well mixed function of one number (the finalizer of SplitMix64).
fn mix(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The change of voters that goes with a change of members; nothing if voters do not change.
fn configuration_change(change: &MembershipChange) -> Option<ConfChangeV2> {
    let single =
        |kind: ConfChangeType, node: NodeId| ConfChangeSingle { change_type: kind, node_id: node.0, ..ConfChangeSingle::default() };
    let changes = match change {
        MembershipChange::Add(member) => vec![single(ConfChangeType::AddLearnerNode, member.id)],
        MembershipChange::Promote { id, instead_of } => {
            let mut changes = vec![single(ConfChangeType::AddNode, *id)];
            changes.extend(instead_of.map(|old| single(ConfChangeType::RemoveNode, old)));
            changes
        }
        MembershipChange::Remove(node) => vec![single(ConfChangeType::RemoveNode, *node)],
        MembershipChange::Move { .. } => return None,
    };
    Some(ConfChangeV2 { transition: ConfChangeTransition::Auto, changes: changes.into(), ..ConfChangeV2::default() })
}

/// What an entry of the log holds; an error if it is of a kind that this version does not know.
pub(crate) fn record_of(entry: &LogEntry) -> Result<Option<Vec<u8>>, NodeError> {
    let unknown = || NodeError(format!("entry {} is of an unknown kind, {}", entry.index, entry.kind));
    convert::entry_to_raft(entry.clone()).map(|entry| read_entry(entry).record).ok_or_else(unknown)
}

fn read_entry(entry: Entry) -> Committed {
    let index = entry.index;
    match entry.entry_type {
        EntryType::EntryNormal => Committed { index, record: (!entry.data.is_empty()).then(|| entry.data.to_vec()), change: None },
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            let change = convert::change_from_entry(&entry);
            Committed { index, record: (!entry.context.is_empty()).then(|| entry.context.to_vec()), change }
        }
    }
}
