//! One node of the replicated store, without threads, sockets and clocks: what happens to it goes in, what it wants done
//! comes out through an [`Outlet`], and what it must not forget goes to a [`Storage`].
//!
//! ```text
//!   tick, frame, request ──► Node (Raft) ──► settle: write ──► apply ──► answers, frames, changed keys
//! ```
//!
//! Inputs only queue. [`Replica::settle`] does the work, so that whoever owns the replica can hand in many inputs and
//! pay for one write. A simulation drives it exactly as [`driver`](crate::driver) does.

mod apply;
mod duties;
mod log_clock;
mod questions;
mod status;

use std::collections::BTreeMap;

use dcs_core::Moment;

use self::log_clock::LogClock;
use self::questions::Questions;
use crate::command::{Foundation, Member};
use crate::identity::NodeId;
use crate::message::{ChangedKey, Configuration, PeerFrame, Request, Response, SnapshotData};
use crate::node::{Node, NodeError, Pace, Role, Work};
use crate::state::{DecodeError, State};
use crate::storage::{Batch, Remembered, Storage};

/// How a replica is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where this node is reached, `host:port`.
    pub address: String,
    /// How many ticks without a sign of the leader make a node ask for votes; at most twice as many.
    pub election_ticks: u32,
    /// After how many entries a snapshot takes the place of the log.
    pub snapshot_entries: u64,
    /// Chance: another one for each node, and for each time that a node starts. Makes the election timeouts of nodes differ
    /// from each other, and the questions of a node from those that it asked before it was started anew: answers to them
    /// may still come.
    pub seed: u64,
}

/// Why a node cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The node has no cluster yet.
    #[error("the node does not belong to a cluster yet")]
    NotFounded,
    /// The Raft library refuses the log.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The snapshot cannot be read.
    #[error("the snapshot at entry {index} cannot be read")]
    Snapshot {
        /// The last entry in it.
        index: u64,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// An entry of the log cannot be read: it was written by a newer version.
    #[error("entry {index} of the log cannot be read: {problem}\n\nhint: all nodes must run a version that knows it")]
    Record {
        /// The entry.
        index: u64,
        /// Why.
        problem: String,
    },
}

/// What a replica wants done.
pub trait Outlet {
    /// Sends a frame to another node. It may be lost.
    fn send(&mut self, to: NodeId, frame: PeerFrame);
    /// Answers the request that came with this token. Each is answered once.
    fn answer(&mut self, token: u64, response: Response);
    /// These keys changed, in this order; everything up to `index` is applied.
    fn changed(&mut self, index: u64, keys: Vec<ChangedKey>);
    /// A snapshot took the place of the state: any key may have changed.
    fn replaced(&mut self, index: u64);
    /// These are the members from now on.
    fn members(&mut self, members: &BTreeMap<NodeId, Member>);
}

/// What has to be written before anything else happens.
#[derive(Debug)]
enum Unwritten {
    Work(Box<Work>),
    Compaction(SnapshotData),
}

/// A write that failed.
#[derive(Debug)]
struct Stuck {
    unwritten: Unwritten,
    problem: String,
    /// When it was tried last.
    tick: u64,
}

/// One node.
#[derive(Debug)]
pub struct Replica<S> {
    id: NodeId,
    options: Options,
    foundation: Foundation,
    node: Node,
    storage: S,
    state: State,
    clock: LogClock,
    questions: Questions,
    /// What could not be written yet. Nothing else happens as long as there is something.
    stuck: Option<Stuck>,
    /// When each other node was last heard of.
    heard: BTreeMap<NodeId, Moment>,
    /// What was last said in the log about who leads.
    announced: Option<(u64, Option<NodeId>)>,
    started: Moment,
    ticks: u64,
}

impl<S: Storage> Replica<S> {
    /// The node as it remembers itself.
    ///
    /// # Errors
    ///
    /// It belongs to no cluster, or what it remembers cannot be used.
    pub fn new(remembered: Remembered, storage: S, options: Options, now: Moment) -> Result<Self, ReplicaError> {
        let foundation = remembered.foundation.clone().ok_or(ReplicaError::NotFounded)?;
        let (state, configuration) = match &remembered.snapshot {
            Some(snapshot) => {
                let state = State::decode(&snapshot.state).map_err(|source| ReplicaError::Snapshot { index: snapshot.index, source })?;
                (state, snapshot.configuration.clone())
            }
            None => (State::founded(&foundation), founding_configuration(&foundation)),
        };
        let pace = Pace { election_ticks: options.election_ticks.max(2) as usize, seed: options.seed ^ remembered.id.0 };
        let mut node = Node::new(&remembered, &configuration, pace)?;
        // Nobody else's vote is needed: the election need not wait.
        if configuration.voters == [remembered.id.0] && configuration.voters_outgoing.is_empty() {
            node.campaign();
        }
        Ok(Self {
            id: remembered.id,
            questions: Questions::numbered_from(options.seed),
            options,
            foundation,
            node,
            storage,
            state,
            clock: LogClock::default(),
            stuck: None,
            heard: BTreeMap::new(),
            announced: None,
            started: now,
            ticks: 0,
        })
    }

    /// The node.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// What its cluster began with.
    pub fn foundation(&self) -> &Foundation {
        &self.foundation
    }

    /// The replicated state as of the last applied entry.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Ends the replica; what it remembered is in here.
    pub fn into_storage(self) -> S {
        self.storage
    }

    /// One heartbeat's time has passed.
    pub fn tick(&mut self, now: Moment, outlet: &mut impl Outlet) {
        self.ticks += 1;
        if self.stuck.is_some() {
            // A node that cannot write keeps silent, so that others can take over.
            self.questions.expire(self.ticks, self.patience(), outlet);
            return;
        }
        self.node.tick();
        self.questions.expire(self.ticks, self.patience(), outlet);
        self.repeat_reads();
        self.do_duties(now);
    }

    /// A frame of another node came.
    pub fn frame(&mut self, now: Moment, from: NodeId, frame: PeerFrame, outlet: &mut impl Outlet) {
        self.heard.insert(from, now);
        if self.stuck.is_some() {
            return;
        }
        match frame {
            PeerFrame::Raft(message) => {
                if message.from == from.0 && message.to == self.id.0 {
                    self.node.step(message);
                }
            }
            PeerFrame::Forward { token, request } => self.serve(now, questions::Asker::Node { node: from, token }, request, outlet),
            PeerFrame::Answer { token, response } => self.questions.answered(token, response, outlet),
        }
    }

    /// Somebody on this node asks. The answer comes through the outlet, with the same token.
    pub fn request(&mut self, now: Moment, token: u64, request: Request, outlet: &mut impl Outlet) {
        self.serve(now, questions::Asker::Here(token), request, outlet);
    }

    /// Frames for a node were lost, or may have been.
    pub fn lost_frames(&mut self, node: NodeId) {
        if self.stuck.is_none() {
            self.node.is_unreachable(node);
        }
    }

    /// A snapshot for a node was lost, or may have been.
    pub fn lost_snapshot(&mut self, node: NodeId) {
        if self.stuck.is_none() {
            self.node.lost_snapshot(node);
        }
    }

    /// Does what the inputs since the last time made necessary: writes, sends, applies, answers.
    ///
    /// # Errors
    ///
    /// The node cannot go on. (A write that fails is not such an error: it is tried again after the next tick.)
    pub fn settle(&mut self, now: Moment, outlet: &mut impl Outlet) -> Result<(), ReplicaError> {
        let ticks = self.ticks;
        if let Some(stuck) = self.stuck.take_if(|stuck| stuck.tick != ticks) {
            self.write(stuck.unwritten, Some(stuck.problem), outlet)?;
        }
        while self.stuck.is_none() {
            self.notice_leader(now, outlet);
            let Some(mut work) = self.node.work() else {
                match self.due_snapshot() {
                    Some(snapshot) => self.write(Unwritten::Compaction(snapshot), None, outlet)?,
                    None => break,
                }
                continue;
            };
            for message in std::mem::take(&mut work.at_once) {
                outlet.send(NodeId(message.to), PeerFrame::Raft(message));
            }
            self.write(Unwritten::Work(Box::new(work)), None, outlet)?;
        }
        Ok(())
    }

    /// Writes, and goes on with what may happen only then. What cannot be written stays; `before` is why it could not be
    /// the last time.
    fn write(&mut self, unwritten: Unwritten, before: Option<String>, outlet: &mut impl Outlet) -> Result<(), ReplicaError> {
        let written = match &unwritten {
            Unwritten::Work(work) => work.batch.as_ref().map_or(Ok(()), |batch| self.storage.write(batch)),
            Unwritten::Compaction(snapshot) => self.storage.write(&Batch {
                snapshot: Some(snapshot.clone()),
                forget_through: Some(snapshot.index),
                hard_state: Some(self.node.hard_state()),
                entries: Vec::new(),
            }),
        };
        if let Err(error) = written {
            let problem = dcs_core::Error::new(crate::STORE, "write", dcs_core::ErrorKind::Unavailable, dcs_core::Fate::Unknown)
                .because(error)
                .chain();
            if before.as_ref() != Some(&problem) {
                tracing::error!("{problem}; this node takes no part until it can write again");
            }
            self.questions.give_up_all("the Raft storage of this node cannot be written to", outlet);
            self.stuck = Some(Stuck { unwritten, problem, tick: self.ticks });
            return Ok(());
        }
        if before.is_some() {
            tracing::info!("this node can write to its Raft storage again, and takes part again");
        }
        match unwritten {
            Unwritten::Work(work) => self.go_on(*work, outlet),
            Unwritten::Compaction(snapshot) => {
                tracing::debug!("the log up to entry {} is in a snapshot now", snapshot.index);
                self.node.compacted(&snapshot);
                Ok(())
            }
        }
    }

    /// Goes on after a write.
    fn go_on(&mut self, mut work: Work, outlet: &mut impl Outlet) -> Result<(), ReplicaError> {
        let (snapshot, reads) = (work.snapshot.take(), std::mem::take(&mut work.reads));
        let written = self.node.written(work);
        for message in written.messages {
            outlet.send(NodeId(message.to), PeerFrame::Raft(message));
        }
        if let Some(snapshot) = snapshot {
            self.install(&snapshot, outlet)?;
        }
        for (context, index) in reads {
            self.questions.confirmed(&context, index);
        }
        for entry in written.committed {
            self.apply(entry, outlet)?;
        }
        self.questions.read(&self.state, outlet);
        Ok(())
    }

    /// Says once who leads, and stops waiting for answers that cannot come any more.
    fn notice_leader(&mut self, now: Moment, outlet: &mut impl Outlet) {
        let leads = self.node.role() == Role::Leader;
        if !leads {
            self.clock.stop();
            self.questions.give_up_proposals("the node that took it does not lead any more", outlet);
        } else if !self.clock.runs_in(self.node.term()) {
            let last = self.node.records_after(self.state.applied()).iter().filter_map(|bytes| crate::record::time_of(bytes)).max();
            self.clock.start(self.node.term(), last.unwrap_or_default().max(self.state.clock_ms()), now);
        }
        let now_known = (self.node.term(), self.node.leader());
        if self.announced != Some(now_known) && now_known.1.is_some() {
            self.announced = Some(now_known);
            if leads {
                tracing::info!("this node leads the Raft cluster, term {}", now_known.0);
            } else {
                let leader = now_known.1.and_then(|leader| self.state.members().get(&leader));
                tracing::info!(
                    "the Raft cluster is led by {}, term {}",
                    leader.map_or("an unknown node", |member| &member.address),
                    now_known.0
                );
            }
        }
        self.ask_parked(now, outlet);
    }

    /// A snapshot of the own state, if the log has become long, or somebody was added after the last one: a node takes no
    /// snapshot that does not name it.
    fn due_snapshot(&self) -> Option<SnapshotData> {
        let applied = self.state.applied();
        let since = applied.saturating_sub(self.node.snapshot_index());
        if since < self.options.snapshot_entries && !(since > 0 && self.node.snapshot_lacks_a_node()) {
            return None;
        }
        let term = self.node.term_of(applied)?;
        Some(SnapshotData { index: applied, term, configuration: self.node.configuration(), state: self.state.encode() })
    }

    /// After how many ticks a request is answered that nothing is known about it: two elections' time.
    fn patience(&self) -> u64 {
        u64::from(self.options.election_ticks) * 4
    }
}

fn founding_configuration(foundation: &Foundation) -> Configuration {
    Configuration { voters: foundation.members.iter().map(|member| member.id.0).collect(), ..Configuration::default() }
}
