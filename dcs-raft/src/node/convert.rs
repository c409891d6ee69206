//! Between the forms of the `raft` crate and ours.

use protobuf::{Message as _, ProtobufEnum as _};
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot};

use crate::message::{Configuration, LogEntry, RaftMessage, SnapshotData};

pub(super) fn messages(messages: Vec<Message>) -> Vec<RaftMessage> {
    messages.into_iter().map(from_raft).collect()
}

fn from_raft(mut message: Message) -> RaftMessage {
    RaftMessage {
        kind: u8::try_from(message.msg_type.value()).unwrap_or(u8::MAX),
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.take_entries().into_iter().map(entry_from_raft).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot: message.snapshot.as_ref().map(snapshot_from_raft),
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context.to_vec(),
        priority: message.priority,
    }
}

/// Nothing if the message is of a kind that this version does not know.
pub(super) fn to_raft(message: RaftMessage) -> Option<Message> {
    let entries: Option<Vec<Entry>> = message.entries.into_iter().map(entry_to_raft).collect();
    Some(Message {
        msg_type: MessageType::from_i32(i32::from(message.kind))?,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: entries?.into(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot: message.snapshot.as_ref().map(snapshot_to_raft).into(),
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context.into(),
        priority: message.priority,
        ..Message::default()
    })
}

pub(super) fn entry_from_raft(entry: Entry) -> LogEntry {
    LogEntry {
        index: entry.index,
        term: entry.term,
        kind: u8::try_from(entry.entry_type.value()).unwrap_or(u8::MAX),
        data: entry.data.to_vec(),
        context: entry.context.to_vec(),
    }
}

pub(super) fn entry_to_raft(entry: LogEntry) -> Option<Entry> {
    Some(Entry {
        index: entry.index,
        term: entry.term,
        entry_type: EntryType::from_i32(i32::from(entry.kind))?,
        data: entry.data.into(),
        context: entry.context.into(),
        ..Entry::default()
    })
}

pub(super) fn snapshot_from_raft(snapshot: &Snapshot) -> SnapshotData {
    let metadata = snapshot.get_metadata();
    SnapshotData {
        index: metadata.index,
        term: metadata.term,
        configuration: configuration_from_raft(metadata.get_conf_state().clone()),
        state: snapshot.data.to_vec(),
    }
}

pub(super) fn snapshot_to_raft(snapshot: &SnapshotData) -> Snapshot {
    let mut result = Snapshot::default();
    let metadata = result.mut_metadata();
    metadata.index = snapshot.index;
    metadata.term = snapshot.term;
    metadata.set_conf_state(configuration_to_raft(&snapshot.configuration));
    result.data = snapshot.state.clone().into();
    result
}

pub(super) fn configuration_from_raft(state: ConfState) -> Configuration {
    Configuration {
        voters: state.voters,
        learners: state.learners,
        voters_outgoing: state.voters_outgoing,
        learners_next: state.learners_next,
        auto_leave: state.auto_leave,
    }
}

pub(super) fn configuration_to_raft(configuration: &Configuration) -> ConfState {
    ConfState {
        voters: configuration.voters.clone(),
        learners: configuration.learners.clone(),
        voters_outgoing: configuration.voters_outgoing.clone(),
        learners_next: configuration.learners_next.clone(),
        auto_leave: configuration.auto_leave,
        ..ConfState::default()
    }
}

pub(super) fn hard_state_from_raft(state: &HardState) -> crate::storage::HardState {
    crate::storage::HardState { term: state.term, vote: state.vote, commit: state.commit }
}

pub(super) fn hard_state_to_raft(state: crate::storage::HardState) -> HardState {
    HardState { term: state.term, vote: state.vote, commit: state.commit, ..HardState::default() }
}

/// The change of voters that a committed entry asks for. An empty one ends a joint configuration.
pub(super) fn change_from_entry(entry: &Entry) -> Option<ConfChangeV2> {
    // Changes of the first version are never proposed. The bytes were made by the same crate on the leader and carry the
    // storage's checksum: nothing else is known to get here.
    let parsed = ConfChangeV2::parse_from_bytes(&entry.data);
    parsed.inspect_err(|error| tracing::error!("entry {} changes the voters in a form that is not understood: {error}", entry.index)).ok()
}
