//! The thread that owns a replica. Writing to stable storage blocks, so it happens here and not in the runtime; and as
//! one thread owns everything, nothing is shared.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dcs_core::{Clock, Deadline, Moment, chain};
use tokio::sync::{oneshot, watch};

use crate::changes::ChangeLog;
use crate::command::Member;
use crate::identity::NodeId;
use crate::message::{ChangedKey, PeerFrame, Request, Response};
use crate::replica::{Outlet, Replica, ReplicaError};
use crate::storage::Storage;
use crate::transport::{LinkReport, PeerLinks};

/// How many inputs wait. Frames beyond that are lost, as on any network; requests are answered that nothing is known.
const WAITING: usize = 4096;

/// How many inputs are taken before what they made necessary is written, all at once.
const TOGETHER: usize = 512;

enum Input {
    Frame(NodeId, Box<PeerFrame>),
    Request(Request, oneshot::Sender<Response>),
    Stop,
}

/// The replica in its thread. Ends with its owner.
#[derive(Debug)]
pub(crate) struct Driver {
    inputs: SyncSender<Input>,
    thread: Mutex<Option<JoinHandle<()>>>,
    ended: watch::Receiver<Option<String>>,
    members: watch::Receiver<BTreeMap<NodeId, Member>>,
    changes: ChangeLog,
}

impl Driver {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system has no room for another thread.
    pub(crate) fn start<S: Storage + 'static>(
        replica: Replica<S>,
        links: Arc<PeerLinks>,
        clock: Arc<dyn Clock>,
        heartbeat: Duration,
    ) -> std::io::Result<Self> {
        let (inputs, queue) = sync_channel(WAITING);
        let changes = ChangeLog::new(replica.state().applied());
        let (members_sender, members) = watch::channel(replica.state().members().clone());
        let (ended_sender, ended) = watch::channel(None);
        let mut post = Post { links, changes: changes.clone(), members: members_sender, asked: HashMap::new(), last_token: 0 };
        let thread = std::thread::Builder::new().name("raft".to_owned()).spawn(move || {
            post.members(replica.state().members());
            let why = match run(replica, &queue, &mut post, &*clock, heartbeat) {
                Ok(()) => "it was stopped".to_owned(),
                Err(error) => {
                    let problem = chain(&error);
                    tracing::error!("the Raft node of this agent has ended: {problem}");
                    problem
                }
            };
            ended_sender.send_replace(Some(why));
        })?;
        Ok(Self { inputs, thread: Mutex::new(Some(thread)), ended, members, changes })
    }

    /// Hands in a frame of another node.
    pub(crate) fn frame(&self, from: NodeId, frame: PeerFrame) {
        if let Err(TrySendError::Full(_)) = self.inputs.try_send(Input::Frame(from, Box::new(frame))) {
            tracing::debug!("too much to do: a frame of node {from} was dropped");
        }
    }

    /// Asks the replica, which answers in its own time, or says that nothing is known.
    pub(crate) async fn request(&self, request: Request) -> Response {
        let (answer, answered) = oneshot::channel();
        match self.inputs.try_send(Input::Request(request, answer)) {
            Ok(()) => answered.await.unwrap_or_else(|_| self.unknown()),
            Err(TrySendError::Full(_)) => Response::Unknown("this node has too much to do".to_owned()),
            Err(TrySendError::Disconnected(_)) => self.unknown(),
        }
    }

    fn unknown(&self) -> Response {
        let why = self.ended.borrow().clone();
        Response::Unknown(format!("the Raft node has ended: {}", why.as_deref().unwrap_or("its thread is gone")))
    }

    /// Which keys changed lately.
    pub(crate) fn changes(&self) -> &ChangeLog {
        &self.changes
    }

    /// The members, as of the last applied entry.
    pub(crate) fn members(&self) -> BTreeMap<NodeId, Member> {
        self.members.borrow().clone()
    }

    /// Waits until the thread has ended, and says why.
    pub(crate) async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "its thread is gone".to_owned(),
        }
    }

    /// Ends the thread, and waits until it has, or until the deadline: a thread that waits for a disk which does not answer
    /// cannot be ended.
    pub(crate) async fn stop(&self, deadline: Deadline) {
        let inputs = self.inputs.clone();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = tokio::task::spawn_blocking(move || {
            // It errs if the thread has ended by itself.
            let _ = inputs.send(Input::Stop);
            thread.map(JoinHandle::join)
        });
        if deadline.bound("stop the Raft node", ended).await.is_err() {
            tracing::warn!("the Raft node has not ended in time: its disk does not answer");
        }
    }
}

fn run<S: Storage>(
    mut replica: Replica<S>,
    queue: &Receiver<Input>,
    post: &mut Post,
    clock: &dyn Clock,
    heartbeat: Duration,
) -> Result<(), ReplicaError> {
    let mut next_tick: Moment = clock.now() + heartbeat;
    loop {
        let mut input = match queue.recv_timeout(next_tick.saturating_since(clock.now())) {
            Ok(input) => Some(input),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let now = clock.now();
        for _ in 0..TOGETHER {
            match input.take() {
                Some(Input::Frame(from, frame)) => {
                    post.links.heard(from);
                    replica.frame(now, from, *frame, post);
                }
                Some(Input::Request(request, answer)) => {
                    let token = post.expect(answer);
                    replica.request(now, token, request, post);
                }
                Some(Input::Stop) => return Ok(()),
                None => break,
            }
            input = queue.try_recv().ok();
        }
        if now >= next_tick {
            // After a long sleep of the machine or of the process one tick is due, not hundreds: whoever leads is to be
            // heard before anybody else is elected.
            next_tick = now + heartbeat;
            replica.tick(now, post);
            for (node, report) in post.links.take_reports() {
                match report {
                    LinkReport::FramesLost => replica.lost_frames(node),
                    LinkReport::SnapshotLost => replica.lost_snapshot(node),
                    // Whether it arrived shows in what the node answers.
                    LinkReport::SnapshotSent => {}
                }
            }
        }
        replica.settle(now, post)?;
    }
}

/// Where the wishes of the replica go.
struct Post {
    links: Arc<PeerLinks>,
    changes: ChangeLog,
    members: watch::Sender<BTreeMap<NodeId, Member>>,
    /// Who waits for the answer to which request.
    asked: HashMap<u64, oneshot::Sender<Response>>,
    last_token: u64,
}

impl Post {
    fn expect(&mut self, answer: oneshot::Sender<Response>) -> u64 {
        self.last_token += 1;
        self.asked.insert(self.last_token, answer);
        self.last_token
    }
}

impl Outlet for Post {
    fn send(&mut self, to: NodeId, frame: PeerFrame) {
        self.links.send(to, frame);
    }

    fn answer(&mut self, token: u64, mut response: Response) {
        if let Response::Status(status) = &mut response {
            let links = self.links.status();
            for peer in &mut status.peers {
                peer.connected = links.get(&peer.id).is_some_and(|link| link.connected);
            }
        }
        if let Some(answer) = self.asked.remove(&token) {
            // Whoever asked may have gone away.
            let _ = answer.send(response);
        }
    }

    fn changed(&mut self, index: u64, keys: Vec<ChangedKey>) {
        self.changes.append(index, keys);
    }

    fn replaced(&mut self, index: u64) {
        self.changes.reset(index);
    }

    fn members(&mut self, members: &BTreeMap<NodeId, Member>) {
        let reached = members.values().filter(|member| !member.absent).map(|member| (member.id, member.address.clone())).collect();
        self.links.set_peers(&reached);
        self.members.send_replace(members.clone());
    }
}
