//! The node in this process: its storage, its connections, its thread, and the task that sees to it that it has a cluster.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::{Clock, Deadline, chain};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::{Ask, AskError, Client};
use crate::cluster::Cluster;
use crate::command::{Foundation, Member};
use crate::config::Config;
use crate::driver::Driver;
use crate::identity::{ClusterId, NodeId};
use crate::membership::{self, Step};
use crate::message::{Identity, PeerFrame, Request, Response, Welcome};
use crate::replica::{Options, Replica, ReplicaError};
use crate::status::{NodeRole, Status};
use crate::storage::{OpenError, RedbStorage, Remembered, Storage as _, WriteError};
use crate::transport::{
    Accept, Address, ClientConnection, Introduction, Limits, Listener, LocalNode, PeerLinks, Security, SecurityError, TransportError,
};

/// How long one node may take to say who it is, or to let another one in.
const ASK: Duration = Duration::from_secs(3);

/// The pause between two looks at the others.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// How long a founder that hears from a majority waits for the rest. A node that comes later is one that cannot be lost
/// until then.
const WAIT_FOR_ALL: Duration = Duration::from_secs(5);

/// How often the log says that a node still has no cluster.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// How often a node that has a cluster looks whether the others know it as it is.
const CHECK: Duration = Duration::from_secs(10);

/// The longest that a client is let wait in one request.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// How long a leader that stops may take to hand over.
const HAND_OVER: Duration = Duration::from_secs(1);

/// How long its thread may take to end.
const STOP: Duration = Duration::from_secs(5);

/// A node cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A node needs `self_addr`.
    #[error("`raft.self_addr` is missing: a node needs an address under which the others reach it")]
    NoAddress,
    /// Its storage cannot be opened.
    #[error(transparent)]
    Storage(#[from] OpenError),
    /// Passwords or certificates cannot be used.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] TransportError),
}

/// The node in this process. It works as long as this lives.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    listener: Listener,
    assembling: Assembling,
}

/// What connections, clients and the assembling task have in common.
#[derive(Debug)]
struct Shared {
    config: Config,
    address: Address,
    id: NodeId,
    security: Arc<Security>,
    clock: Arc<dyn Clock>,
    /// Set once, when the node has a cluster.
    member: OnceLock<Membership>,
    /// Why it has none yet.
    waiting_for: watch::Sender<String>,
    /// Why it takes part no more, if so.
    ended: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct Membership {
    cluster: ClusterId,
    driver: Driver,
    links: Arc<PeerLinks>,
}

impl Node {
    /// Opens the storage, listens, and goes on in the background: finds the others, founds a cluster with them or joins
    /// the one they have. Until then requests are answered that nothing is known, and wait.
    ///
    /// # Errors
    ///
    /// The node cannot open its storage, use its certificates, or listen.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let address = config.self_addr.clone().ok_or(StartError::NoAddress)?;
        let directory = config.data_dir.clone();
        let (storage, remembered) = blocking(move || RedbStorage::open(&directory)).await?;
        let security = Arc::new(Security::new(config.security.clone()).await?);
        let bind = config.bind_addr.clone().unwrap_or_else(|| address.clone());
        let shared = Arc::new(Shared {
            config,
            address,
            id: remembered.id,
            security: Arc::clone(&security),
            clock,
            member: OnceLock::new(),
            waiting_for: watch::Sender::new("the other nodes have not been asked yet".to_owned()),
            ended: watch::Sender::new(None),
        });
        let door = Arc::new(Door(Arc::clone(&shared)));
        let listener = Listener::start(&bind, security, door, Limits::default()).await?;
        let assembling = Assembling(tokio::spawn(Arc::clone(&shared).assemble(storage, remembered)));
        Ok(Self { shared, listener, assembling })
    }

    /// Where the others reach it.
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    /// Asks the node. Without a cluster most requests are answered that nothing is known.
    pub async fn request(&self, request: Request) -> Response {
        self.shared.answer(request).await
    }

    /// A handle for asking how the node is.
    pub fn handle(&self) -> NodeHandle {
        NodeHandle(Arc::clone(&self.shared))
    }

    /// Waits until the node can take part no more (its storage is damaged, say), and says why. It is not restarted by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn ended(&self) -> String {
        let mut ended = self.shared.ended.subscribe();
        // The sender lives as long as this node.
        let why = ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        why.unwrap_or_default()
    }

    /// Reads certificates and password again, for connections that are made from now on.
    ///
    /// # Errors
    ///
    /// They cannot be used; what there was stays in force.
    pub async fn reload(&self, config: &Config) -> Result<(), SecurityError> {
        self.shared.security.reload(config.security.clone()).await
    }

    /// The cluster as this node sees it, for a [`RaftStore`](crate::store::RaftStore). May outlive the node: then nothing is
    /// answered any more.
    pub fn cluster(&self) -> Arc<dyn Cluster> {
        Arc::new(Client::new(Local(Arc::clone(&self.shared))))
    }

    /// Hands over if it leads, and ends. Its files are closed when this returns.
    pub async fn stop(self) {
        self.hand_over().await;
        drop(self.assembling);
        self.listener.stop().await;
        // The others hold no driver of their own: whoever still asks is answered that the node has ended.
        if let Some(member) = self.shared.member.get() {
            member.driver.stop(Deadline::after(STOP)).await;
        }
    }

    async fn hand_over(&self) {
        let deadline = Deadline::after(HAND_OVER);
        let leads = async || match self.request(Request::Status).await {
            Response::Status(status) => status.role == NodeRole::Leader && status.peers.iter().any(|peer| peer.voter),
            _ => false,
        };
        let handed_over = async {
            if !leads().await || !matches!(self.request(Request::Transfer { to: None }).await, Response::Done) {
                return;
            }
            while leads().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if deadline.bound("hand over", handed_over).await.is_err() {
            tracing::info!("nobody took over the leadership of the Raft cluster in time; the others elect somebody");
        }
    }
}

/// Asks a node in this process how it is. May outlive the node.
#[derive(Clone, Debug)]
pub struct NodeHandle(Arc<Shared>);

impl NodeHandle {
    /// How the node is.
    ///
    /// # Errors
    ///
    /// It has no cluster yet, has ended, or does not answer in time; in words.
    pub async fn status(&self, deadline: Deadline) -> Result<Status, String> {
        match deadline.bound("ask the Raft node", self.0.answer(Request::Status)).await {
            Ok(Response::Status(status)) => Ok(*status),
            Ok(Response::Unknown(problem) | Response::Refused(problem)) => Err(problem),
            Ok(_) => Err("its answer makes no sense".to_owned()),
            Err(expired) => Err(expired.to_string()),
        }
    }
}

/// The task that sees to it that a node has a cluster. Ends with the node.
#[derive(Debug)]
struct Assembling(JoinHandle<()>);

impl Drop for Assembling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shared {
    fn identity(&self) -> Identity {
        let members = self.member.get().map(|member| member.driver.members()).unwrap_or_default();
        Identity {
            id: self.id,
            address: self.address.to_string(),
            cluster: self.member.get().map(|member| member.cluster),
            members: members.into_values().map(|member| member.address).collect(),
            partners: self.config.partners.iter().map(Address::to_string).collect(),
        }
    }

    async fn answer(&self, request: Request) -> Response {
        match (request, self.member.get()) {
            (Request::Discover, _) => Response::Identity(self.identity()),
            (Request::Wait { prefix, after, milliseconds }, Some(member)) => {
                let deadline = Deadline::after(Duration::from_millis(milliseconds).min(LONGEST_WAIT));
                Response::Changes(member.driver.changes().wait(&prefix, after, deadline).await)
            }
            (request, Some(member)) => member.driver.request(request).await,
            (_, None) => Response::Unknown(self.waiting_for.borrow().clone()),
        }
    }

    /// Sees to it that the node has a cluster, and afterwards that the others know it as it is.
    async fn assemble(self: Arc<Self>, storage: RedbStorage, remembered: Remembered) {
        if let Err(error) = self.become_member(storage, remembered).await {
            let problem = chain(&error);
            tracing::error!("this node cannot take part in the Raft cluster: {problem}");
            self.waiting_for.send_replace(problem.clone());
            self.ended.send_replace(Some(problem));
            return;
        }
        let ended = async {
            match self.member.get() {
                Some(member) => member.driver.ended().await,
                None => std::future::pending().await,
            }
        };
        let mut ended = std::pin::pin!(ended);
        loop {
            tokio::select! {
                why = &mut ended => {
                    self.ended.send_replace(Some(why));
                    return;
                }
                () = tokio::time::sleep(CHECK) => self.check_membership().await,
            }
        }
    }

    async fn become_member(&self, mut storage: RedbStorage, mut remembered: Remembered) -> Result<(), AssembleError> {
        let foundation = match remembered.foundation.clone() {
            Some(foundation) => foundation,
            None => {
                let foundation = self.find_cluster().await;
                storage = write_foundation(storage, foundation.clone()).await?;
                remembered.foundation = Some(foundation.clone());
                foundation
            }
        };
        let ticks = self.config.election.as_millis() / self.config.heartbeat.as_millis().max(1);
        let options = Options {
            address: self.address.to_string(),
            election_ticks: u32::try_from(ticks).unwrap_or(u32::MAX),
            snapshot_entries: self.config.snapshot_entries,
            seed: fastrand::u64(..),
        };
        let now = self.clock.now();
        let replica = blocking(move || Replica::new(remembered, storage, options, now)).await?;
        self.check_files(foundation.cluster, replica.state().members()).await?;
        let local = LocalNode { id: self.id, address: self.address.to_string(), cluster: foundation.cluster };
        let links = Arc::new(PeerLinks::new(local, Arc::clone(&self.security), tokio::runtime::Handle::current()));
        let driver = Driver::start(replica, Arc::clone(&links), Arc::clone(&self.clock), self.config.heartbeat)?;
        // It is empty: only this task fills it, once.
        let _ = self.member.set(Membership { cluster: foundation.cluster, driver, links });
        Ok(())
    }

    /// Waits until there is a cluster to be part of.
    async fn find_cluster(&self) -> Foundation {
        let partners: Vec<String> = self.config.partners.iter().map(Address::to_string).collect();
        let address = self.address.to_string();
        let mut said: Option<tokio::time::Instant> = None;
        let mut majority_since: Option<tokio::time::Instant> = None;
        loop {
            let Answers { answers, refusals } = self.ask_partners().await;
            let majority = membership::is_majority_there(&partners, &answers);
            majority_since = majority_since.filter(|_| majority).or_else(|| majority.then(tokio::time::Instant::now));
            let patient = majority_since.is_none_or(|since| since.elapsed() < WAIT_FOR_ALL);
            let mut problem = match membership::next_step(self.id, &address, &partners, &answers, patient) {
                Step::Found(nodes) => {
                    tracing::info!("this node founds a Raft cluster of {} nodes", nodes.len());
                    return membership::foundation(ClusterId(fastrand::u128(..)), nodes, || NodeId(fastrand::u64(1..)));
                }
                Step::JoinThrough(member) => match self.join_through(&member).await {
                    Ok(foundation) => {
                        tracing::info!("this node joins the Raft cluster of {member}");
                        return foundation;
                    }
                    Err(problem) => format!("{member} has a cluster and does not let this node in: {problem}"),
                },
                Step::Wait(why) => why,
            };
            // Without these it would look as if the others were not there.
            refusals.iter().for_each(|refusal| problem.push_str(&format!("; {refusal}")));
            if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                said = Some(tokio::time::Instant::now());
                if refusals.is_empty() {
                    tracing::info!("{problem}");
                } else {
                    tracing::warn!("{problem}");
                }
            }
            self.waiting_for.send_replace(problem);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn ask_partners(&self) -> Answers {
        let questions = self.config.partners.iter().map(|partner| async move { (partner, self.ask(partner, &Request::Discover).await) });
        let mut all = Answers::default();
        for (partner, answer) in futures::future::join_all(questions).await {
            match answer {
                Ok(Response::Identity(identity)) => all.answers.push(identity),
                Ok(_) => {}
                Err(Unanswered { problem, needs_a_person: true }) => all.refusals.push(format!("{partner}: {problem}")),
                Err(Unanswered { problem, .. }) => tracing::debug!("{partner} does not say who it is: {problem}"),
            }
        }
        all.answers = membership::of_others(self.id, all.answers);
        all
    }

    /// The files may be those of a node of another cluster. If the partners have one, this node must not serve another
    /// beside it: clients would be answered by the wrong one. Nobody is asked as long as the files and the configuration
    /// agree about who is a member.
    async fn check_files(&self, cluster: ClusterId, members: &BTreeMap<NodeId, Member>) -> Result<(), AssembleError> {
        let is_member = |address: &Address| members.values().any(|member| member.address == address.to_string());
        if is_member(&self.address) && self.config.partners.iter().all(is_member) {
            return Ok(());
        }
        let Answers { answers, .. } = self.ask_partners().await;
        if answers.iter().any(|answer| answer.cluster == Some(cluster)) {
            return Ok(());
        }
        match answers.into_iter().find_map(|answer| Some((answer.address, answer.cluster?))) {
            Some((partner, theirs)) => Err(AssembleError::OtherCluster { ours: cluster, partner, theirs }),
            None => Ok(()),
        }
    }

    async fn join_through(&self, member: &str) -> Result<Foundation, String> {
        let member = member.parse::<Address>().map_err(|error| error.chain())?;
        let request = Request::Join { id: self.id, address: self.address.to_string() };
        match self.ask(&member, &request).await.map_err(|unanswered| unanswered.problem)? {
            Response::Joined(foundation) => Ok(foundation),
            Response::Refused(problem) | Response::Unknown(problem) => Err(problem),
            _ => Err("its answer makes no sense".to_owned()),
        }
    }

    async fn ask(&self, node: &Address, request: &Request) -> Result<Response, Unanswered> {
        let deadline = Deadline::after(ASK);
        let connection = ClientConnection::open(node, &self.security, deadline)
            .await
            .map_err(|error| Unanswered { problem: error.chain(), needs_a_person: error.needs_a_person() })?;
        connection.request(request, deadline).await.map_err(|error| Unanswered { problem: chain(&error), needs_a_person: false })
    }

    /// A node that hears of no leader may have been removed, or be reached somewhere else than the others believe.
    async fn check_membership(&self) {
        let Some(member) = self.member.get() else { return };
        let Response::Status(status) = member.driver.request(Request::Status).await else { return };
        if status.role == NodeRole::Removed {
            tracing::warn!(
                "this node was removed from the Raft cluster; to let it join again, stop the agent and move `raft.data_dir` away"
            );
            return;
        }
        let address = self.address.to_string();
        let known_here = member.driver.members().get(&self.id).is_some_and(|known| known.address == address);
        if status.leader.is_some() && known_here {
            return;
        }
        let Answers { answers, .. } = self.ask_partners().await;
        for answer in answers.into_iter().filter(|answer| answer.cluster == Some(member.cluster)) {
            if answer.members.contains(&address) {
                return;
            }
            if known_here {
                tracing::warn!("{} does not count this node as a member: it may have been removed", answer.address);
            }
            match self.join_through(&answer.address).await {
                Ok(_) => return,
                Err(problem) => tracing::warn!("{} does not take note of {address}: {problem}", answer.address),
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum AssembleError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    #[error("cannot start a thread")]
    Thread(#[from] io::Error),
    #[error(
        "its files are those of another cluster, {ours}: {partner} belongs to {theirs}\n\n\
         hint: stop the agent, move what is in `raft.data_dir` away and start it again: the node then joins the cluster of \
         its partners; or correct `raft.partner_addrs`"
    )]
    OtherCluster { ours: ClusterId, partner: String, theirs: ClusterId },
}

/// What the partners say.
#[derive(Debug, Default)]
struct Answers {
    answers: Vec<Identity>,
    /// Those who are there and do not talk to this node until somebody changes a setting.
    refusals: Vec<String>,
}

/// A node did not answer.
#[derive(Debug)]
struct Unanswered {
    problem: String,
    needs_a_person: bool,
}

async fn write_foundation(mut storage: RedbStorage, foundation: Foundation) -> Result<RedbStorage, WriteError> {
    blocking(move || {
        storage.found(&foundation)?;
        Ok(storage)
    })
    .await
}

/// Does something that blocks, beside the runtime.
async fn blocking<T: Send + 'static>(action: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(action).await.expect("the action does not panic, and the runtime lives as long as its tasks")
}

/// Who connects to this node.
struct Door(Arc<Shared>);

#[async_trait]
impl Accept for Door {
    async fn welcome(&self, introduction: &Introduction) -> Welcome {
        let Some(member) = self.0.member.get() else {
            return Welcome::Refused(format!("this node takes part in no cluster: {}", *self.0.waiting_for.borrow()));
        };
        if introduction.cluster != member.cluster {
            return Welcome::Refused(format!(
                "this node belongs to another cluster, {}; if that one was formed anew after a majority was lost, \
                 stop the agent that is refused and move its `raft.data_dir` away: then it joins",
                member.cluster
            ));
        }
        if introduction.to != self.0.id {
            return Welcome::Refused(format!("this is node {}: the one that was here has lost its files or has moved", self.0.id));
        }
        member.links.introduce(introduction.from, &introduction.address);
        Welcome::Accepted
    }

    async fn frame(&self, from: NodeId, frame: PeerFrame) {
        if let Some(member) = self.0.member.get() {
            member.driver.frame(from, frame);
        }
    }

    async fn answer(&self, request: Request) -> Response {
        self.0.answer(request).await
    }
}

/// The node in this process, as its own agent asks it.
#[derive(Debug)]
struct Local(Arc<Shared>);

#[async_trait]
impl Ask for Local {
    async fn ask(&self, request: &Request, deadline: Deadline) -> Result<Response, AskError> {
        let answered = deadline.bound("ask the Raft node", self.0.answer(request.clone())).await;
        answered.map_err(|expired| AskError::Unanswered(expired.into()))
    }
}
