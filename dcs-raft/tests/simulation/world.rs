//! The world of one history: nodes with their storage, the network, the clients, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dcs_core::Moment;
use dcs_raft::command::{Foundation, Member};
use dcs_raft::identity::{ClusterId, NodeId};
use dcs_raft::message::{ChangedKey, PeerFrame, Request, Response};
use dcs_raft::replica::{Options, Outlet, Replica};
use dcs_raft::status::NodeRole;
use dcs_raft::storage::Storage;
use dcs_raft::storage::memory::{Fault, MemoryDisk, MemoryStorage};

use fastrand::Rng;

use crate::campaign::Candidate;
use crate::clients::{Client, KEYS};
use crate::linearizable::{Operation, is_linearizable};
use crate::network::Network;

const TICK_MS: u64 = 100;

/// How long things go wrong.
const TROUBLE_MS: u64 = 9_000;

/// How long a healed cluster may take to do everything it was asked for.
const RECOVERY_MS: u64 = 12_000;

/// No more operations than this on one key, because the search for an explanation gets long.
const OPERATIONS: usize = 100;

const CLIENTS: usize = 4;
const CANDIDATES: usize = 2;

/// What happened in a history, so that a test can tell that something did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) histories: u64,
    pub(crate) operations: u64,
    pub(crate) unknown: u64,
    pub(crate) crashes: u64,
    pub(crate) wipes: u64,
    pub(crate) leaders: u64,
    pub(crate) reigns: u64,
    pub(crate) snapshots: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Self) {
        self.histories += other.histories;
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.crashes += other.crashes;
        self.wipes += other.wipes;
        self.leaders += other.leaders;
        self.reigns += other.reigns;
        self.snapshots += other.snapshots;
    }
}

#[derive(Debug)]
enum Event {
    Tick(usize),
    Frame {
        to: usize,
        from: NodeId,
        frame: Box<PeerFrame>,
    },
    Client(usize),
    Candidate(usize),
    Answer {
        token: u64,
        response: Box<Response>,
    },
    Trouble,
    Restart(usize),
    HasRoom(usize),
    Heal,
    /// A node that lost everything asks the others to be let in.
    Join(usize),
}

struct Server {
    id: NodeId,
    address: String,
    disk: MemoryDisk,
    replica: Option<Replica<MemoryStorage>>,
    /// Its clock shows something else than those of the others.
    clock_ahead_ms: u64,
    /// It is stopped until then: nothing reaches it and it does nothing.
    stopped_until: u64,
    /// It lost everything and has not been let in again.
    blank: bool,
}

/// What a replica wanted done, in order.
#[derive(Default)]
struct Wishes {
    frames: Vec<(NodeId, PeerFrame)>,
    answers: Vec<(u64, Response)>,
    changes: Vec<(u64, Vec<ChangedKey>)>,
    replaced: u64,
}

impl Outlet for Wishes {
    fn send(&mut self, to: NodeId, frame: PeerFrame) {
        self.frames.push((to, frame));
    }

    fn answer(&mut self, token: u64, response: Response) {
        self.answers.push((token, response));
    }

    fn changed(&mut self, index: u64, keys: Vec<ChangedKey>) {
        self.changes.push((index, keys));
    }

    fn replaced(&mut self, _: u64) {
        self.replaced += 1;
    }

    fn members(&mut self, _: &BTreeMap<NodeId, Member>) {}
}

pub(crate) struct World {
    seed: u64,
    rng: Rng,
    now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    events: u64,
    servers: Vec<Server>,
    network: Network,
    clients: Vec<Client>,
    candidates: Vec<Candidate>,
    history: [Vec<Operation>; KEYS],
    /// What each entry changed, as the first node that applied it said.
    changes: BTreeMap<u64, Vec<ChangedKey>>,
    leaders: BTreeMap<u64, NodeId>,
    foundation: Foundation,
    snapshot_entries: u64,
    calm: bool,
    /// Nodes that lose everything come back as who they were, as they must not.
    forgetful: bool,
    report: Report,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = if rng.u8(..3) == 0 { 5 } else { 3 };
        let ids: BTreeSet<u64> = std::iter::repeat_with(|| rng.u64(1..)).take(count).collect();
        let members: Vec<Member> =
            ids.iter().enumerate().map(|(position, id)| Member { id: NodeId(*id), address: address(position), absent: false }).collect();
        let foundation = Foundation { cluster: ClusterId(rng.u128(..)), members };
        let snapshot_entries = [4, 20, 100, 100_000][rng.usize(..4)];
        let servers = foundation
            .members
            .iter()
            .map(|member| {
                let disk = MemoryDisk::new(member.id);
                disk.open().0.found(&foundation).expect("room for the foundation");
                Server {
                    id: member.id,
                    address: member.address.clone(),
                    disk,
                    replica: None,
                    clock_ahead_ms: rng.u64(..100_000_000),
                    stopped_until: 0,
                    blank: false,
                }
            })
            .collect();
        let network = Network::new(&mut rng);
        let clients = std::iter::repeat_with(|| Client::new(&mut rng)).take(CLIENTS).collect();
        let candidates = (0..CANDIDATES).map(|position| Candidate::new(position, &mut rng)).collect();
        let mut world = Self {
            seed,
            rng,
            now: 0,
            queue: BTreeMap::new(),
            events: 0,
            servers,
            network,
            clients,
            candidates,
            history: [const { Vec::new() }; KEYS],
            changes: BTreeMap::new(),
            leaders: BTreeMap::new(),
            foundation,
            snapshot_entries,
            calm: false,
            forgetful: false,
            report: Report { histories: 1, ..Report::default() },
        };
        for position in 0..count {
            world.start(position);
            let offset = world.rng.u64(..TICK_MS);
            world.schedule(offset, Event::Tick(position));
        }
        for client in 0..CLIENTS {
            world.schedule(1_500, Event::Client(client));
        }
        for candidate in 0..CANDIDATES {
            world.schedule(1_500, Event::Candidate(candidate));
        }
        let first = world.rng.u64(500..4_000);
        world.schedule(first, Event::Trouble);
        world
    }

    /// A world in which nodes forget their votes: the checks must find out.
    pub(crate) fn forgetful(seed: u64) -> Self {
        Self { forgetful: true, ..Self::new(seed) }
    }

    /// Tells the history, and checks it.
    pub(crate) fn run(mut self) -> Report {
        self.run_until(TROUBLE_MS);
        self.calm_down();
        let finished: Vec<u64> = self.clients.iter().map(|client| client.finished).collect();
        self.run_until(TROUBLE_MS + RECOVERY_MS);
        for (client, before) in self.clients.iter().zip(finished) {
            assert!(client.finished > before, "seed {}: a healed cluster serves nobody: {:#?}", self.seed, self.statuses());
        }
        self.check()
    }

    fn check(mut self) -> Report {
        for client in &mut self.clients {
            if let Some((key, operation)) = client.give_up() {
                self.history[key].push(operation);
            }
        }
        for (key, history) in self.history.iter().enumerate() {
            assert!(is_linearizable(history), "seed {}: no order explains what clients saw of key {key}: {history:#?}", self.seed);
            self.report.operations += history.len() as u64;
            self.report.unknown += history.iter().filter(|operation| operation.ended == u64::MAX).count() as u64;
        }
        let states: BTreeMap<u64, BTreeSet<Vec<u8>>> =
            self.servers.iter().filter_map(|server| server.replica.as_ref()).fold(BTreeMap::new(), |mut states, replica| {
                states.entry(replica.state().applied()).or_default().insert(replica.state().encode());
                states
            });
        assert!(states.values().all(|same| same.len() == 1), "seed {}: nodes that applied the same differ", self.seed);
        self.report.leaders = self.leaders.len() as u64;
        self.report
    }

    fn statuses(&self) -> Vec<String> {
        let now = self.now;
        let status = |server: &Server| match &server.replica {
            Some(replica) => format!("{:?}", replica.status(moment(now + server.clock_ahead_ms))),
            None => format!("{} is down, blank: {}", server.address, server.blank),
        };
        self.servers.iter().map(status).collect()
    }

    fn schedule(&mut self, after: u64, event: Event) {
        self.events += 1;
        self.queue.insert((self.now + after, self.events), event);
    }

    fn run_until(&mut self, end: u64) {
        while let Some(entry) = self.queue.first_entry() {
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let event = entry.remove();
            self.now = at;
            self.happen(event);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(server) => {
                self.schedule(TICK_MS, Event::Tick(server));
                if self.servers[server].stopped_until <= self.now {
                    self.with(server, |replica, now, wishes| replica.tick(now, wishes));
                }
            }
            Event::Frame { to, from, frame } => {
                let stopped_until = self.servers[to].stopped_until;
                if stopped_until > self.now {
                    // It waits in the socket.
                    return self.schedule(stopped_until - self.now, Event::Frame { to, from, frame });
                }
                self.with(to, |replica, now, wishes| replica.frame(now, from, *frame, wishes));
            }
            Event::Client(client) => self.client(client),
            Event::Candidate(candidate) => {
                self.schedule(50, Event::Candidate(candidate));
                if let Some(request) = self.candidates[candidate].step(self.now) {
                    self.ask(CLIENTS + candidate, request);
                }
            }
            Event::Answer { token, response } => self.answer(token, &response),
            Event::Trouble => self.trouble(),
            Event::Restart(server) => self.start(server),
            Event::HasRoom(server) => self.servers[server].disk.set_fault(None),
            Event::Heal => self.network.heal(),
            Event::Join(server) => self.join(server),
        }
    }

    fn client(&mut self, client: usize) {
        let pause = self.rng.u64(20..400);
        self.schedule(pause, Event::Client(client));
        if self.history.iter().any(|history| history.len() >= OPERATIONS) {
            return;
        }
        let (told, request) = self.clients[client].step(self.now, &mut self.rng);
        if let Some((key, operation)) = told {
            self.history[key].push(operation);
        }
        if let Some(request) = request {
            self.ask(client, request);
        }
    }

    /// Hands a request to some node, if that one is there.
    fn ask(&mut self, asker: usize, request: Request) {
        let server = self.rng.usize(..self.servers.len());
        let token = (asker as u64) | (self.serial(asker) << 8);
        if self.servers[server].stopped_until <= self.now {
            self.with(server, |replica, now, wishes| replica.request(now, token, request, wishes));
        }
    }

    /// Which of its requests somebody waits for: answers to earlier ones come too late.
    fn serial(&self, asker: usize) -> u64 {
        match asker.checked_sub(CLIENTS) {
            None => self.clients[asker].serial,
            Some(candidate) => self.candidates.get(candidate).map_or(0, |candidate| candidate.number),
        }
    }

    fn answer(&mut self, token: u64, response: &Response) {
        let asker = usize::try_from(token & 0xff).expect("a position");
        if token >> 8 != self.serial(asker) {
            return;
        }
        if asker >= CLIENTS + CANDIDATES {
            return self.let_in(asker - CLIENTS - CANDIDATES, response);
        }
        if asker >= CLIENTS {
            let led = self.candidates[asker - CLIENTS].leads(self.now);
            self.candidates[asker - CLIENTS].answered(response);
            let leading = self.candidates.iter().filter(|candidate| candidate.leads(self.now)).count();
            assert!(leading <= 1, "seed {}: two candidates believe at {} that they lead", self.seed, self.now);
            self.report.reigns += u64::from(!led && self.candidates[asker - CLIENTS].leads(self.now));
            return;
        }
        if let Some((key, operation)) = self.clients[asker].answered(response, self.now) {
            self.history[key].push(operation);
        }
    }

    /// Does something with a replica that runs, and carries out what it wants done.
    fn with(&mut self, server: usize, input: impl FnOnce(&mut Replica<MemoryStorage>, Moment, &mut Wishes)) {
        let now = moment(self.now + self.servers[server].clock_ahead_ms);
        let Some(replica) = &mut self.servers[server].replica else { return };
        let mut wishes = Wishes::default();
        input(replica, now, &mut wishes);
        replica.settle(now, &mut wishes).expect("a node that goes on");
        let status = replica.status(now);
        if status.role == NodeRole::Leader {
            let leader = *self.leaders.entry(status.term).or_insert(status.id);
            assert_eq!(leader, status.id, "seed {}: two leaders in term {}", self.seed, status.term);
        }
        self.carry_out(server, wishes);
        if self.servers[server].disk.is_crashed() {
            self.crash(server);
        }
    }

    fn carry_out(&mut self, from: usize, wishes: Wishes) {
        for (to, frame) in wishes.frames {
            let Some(to) = self.servers.iter().position(|server| server.id == to) else { continue };
            let sender = self.servers[from].id;
            for after in self.network.arrivals(from, to, &mut self.rng) {
                let frame = Box::new(frame.clone());
                self.schedule(after, Event::Frame { to, from: sender, frame });
            }
        }
        for (token, response) in wishes.answers {
            let after = self.rng.u64(..5);
            self.schedule(after, Event::Answer { token, response: Box::new(response) });
        }
        self.report.snapshots += wishes.replaced;
        for (index, keys) in wishes.changes {
            let first = self.changes.entry(index).or_insert_with(|| keys.clone());
            assert_eq!(*first, keys, "seed {}: nodes disagree about what entry {index} changed", self.seed);
        }
    }

    fn start(&mut self, server: usize) {
        let now = moment(self.now + self.servers[server].clock_ahead_ms);
        let seed = self.rng.u64(..);
        let state = &mut self.servers[server];
        if state.replica.is_some() || state.blank {
            return;
        }
        let options = Options { address: state.address.clone(), election_ticks: 10, snapshot_entries: self.snapshot_entries, seed };
        let (storage, remembered) = state.disk.open();
        state.replica = Some(Replica::new(remembered, storage, options, now).expect("what was written can be read"));
    }

    fn crash(&mut self, server: usize) {
        self.report.crashes += 1;
        self.servers[server].replica = None;
        let down = self.rng.u64(50..3_000);
        self.schedule(down, Event::Restart(server));
    }

    /// Something goes wrong.
    fn trouble(&mut self) {
        if self.calm {
            return;
        }
        let next = self.rng.u64(200..2_500);
        self.schedule(next, Event::Trouble);
        let server = self.rng.usize(..self.servers.len());
        match self.rng.u8(..16) {
            0..=2 => self.crash(server),
            3..=5 => {
                // In the middle of its next write, which is then there or not.
                let fault = [Fault::CrashBefore, Fault::CrashAfter, Fault::Unsure][self.rng.usize(..3)];
                self.servers[server].disk.set_fault(Some(fault));
            }
            6 => (0..self.servers.len()).for_each(|server| self.crash(server)),
            7..=10 => {
                self.network.part(self.servers.len(), &mut self.rng);
                let heals = self.rng.u64(200..5_000);
                self.schedule(heals, Event::Heal);
            }
            11..=13 => self.servers[server].stopped_until = self.now + self.rng.u64(100..5_000),
            14 => {
                self.servers[server].disk.set_fault(Some(Fault::Full));
                let room = self.rng.u64(200..3_000);
                self.schedule(room, Event::HasRoom(server));
            }
            _ => self.wipe(server),
        }
    }

    /// A node loses everything, if all others are members that vote: of three only one may be without its memory.
    fn wipe(&mut self, server: usize) {
        let everybody_votes = self.servers.iter().all(|server| {
            let votes = |replica: &Replica<MemoryStorage>| {
                let status = replica.status(moment(self.now + server.clock_ahead_ms));
                !status.changing
                    && status.role != NodeRole::Learner
                    && status.peers.len() == self.servers.len() - 1
                    && status.peers.iter().all(|peer| peer.voter)
            };
            !server.blank && server.replica.as_ref().is_some_and(votes)
        });
        if !everybody_votes {
            return;
        }
        self.report.wipes += 1;
        if self.forgetful {
            let disk = MemoryDisk::new(self.servers[server].id);
            disk.open().0.found(&self.foundation).expect("room for the foundation");
            self.servers[server].disk = disk;
            return self.crash(server);
        }
        let id = NodeId(self.rng.u64(1..));
        let wiped = &mut self.servers[server];
        (wiped.id, wiped.disk, wiped.replica, wiped.blank) = (id, MemoryDisk::new(id), None, true);
        self.schedule(500, Event::Join(server));
    }

    fn join(&mut self, server: usize) {
        if !self.servers[server].blank {
            return;
        }
        self.schedule(1_000, Event::Join(server));
        let request = Request::Join { id: self.servers[server].id, address: self.servers[server].address.clone() };
        let asked = (server + 1 + self.rng.usize(..self.servers.len() - 1)) % self.servers.len();
        let token = (CLIENTS + CANDIDATES + server) as u64;
        if self.servers[asked].stopped_until <= self.now {
            self.with(asked, |replica, now, wishes| replica.request(now, token, request, wishes));
        }
    }

    fn let_in(&mut self, server: usize, response: &Response) {
        if let (Response::Joined(foundation), true) = (response, self.servers[server].blank) {
            assert_eq!(foundation, &self.foundation, "seed {}", self.seed);
            // A node that cannot write that down asks to be let in again.
            if self.servers[server].disk.open().0.found(foundation).is_ok() {
                self.servers[server].blank = false;
                self.start(server);
            }
        }
    }

    /// Everything is repaired.
    fn calm_down(&mut self) {
        self.calm = true;
        self.network.calm_down();
        for server in 0..self.servers.len() {
            self.servers[server].stopped_until = 0;
            self.servers[server].disk.set_fault(None);
            self.start(server);
        }
    }
}

fn address(position: usize) -> String {
    format!("10.0.0.{}:2222", position + 1)
}

fn moment(milliseconds: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(milliseconds))
}
