//! Everything outside the agents, at one virtual moment: servers, store, messages under way, and what clients were told.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::memory::State;
use dcs_core::{Changes, Cursor, Moment};
use fastrand::Rng;
use ha_engine::decide::observation::PeerAnswer;
use tokio::sync::{mpsc, oneshot};

use crate::checker::Checker;
use crate::network::{Network, Plane};
use crate::server::{Happening, Server};
use crate::trace::SharedTrace;
use crate::{Name, STORE, replication};

/// How the store behaves as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreMode {
    #[default]
    Up,
    /// Connections are refused.
    Refusing,
    /// Nothing answers.
    Silent,
}

/// What comes back from a request that was not lost.
#[derive(Debug)]
pub enum Reply<R> {
    Answer(R),
    /// There was nobody: certainly nothing happened.
    Refused,
}

/// A question of one agent to another.
#[derive(Debug)]
pub struct PeerCall {
    from: Name,
    to: Name,
    reply: oneshot::Sender<Reply<PeerAnswer>>,
}

struct Watcher {
    client: Name,
    prefix: String,
    after: Cursor,
    reply: oneshot::Sender<Reply<Changes>>,
}

/// What a client wants of the store, which may arrive twice.
type Request<R> = Arc<dyn Fn(&mut State, Moment) -> R + Send + Sync>;

type Event = Box<dyn FnOnce(&mut Inner) + Send>;

/// The world, shared by all agents of one simulation.
#[derive(Clone)]
pub struct World(Arc<Mutex<Inner>>);

/// What is in it.
pub struct Inner {
    /// Time since the beginning.
    pub now: Duration,
    pub rng: Rng,
    pub network: Network,
    pub store: State,
    pub store_mode: StoreMode,
    pub servers: BTreeMap<Name, Server>,
    pub trace: SharedTrace,
    pub checker: Checker,
    /// Whether clients write.
    pub busy: bool,
    pub rows: u64,
    /// The newest timeline of all, if promotions may not choose one that somebody has chosen before.
    pub newest_timeline: Option<u32>,
    watchers: Vec<Watcher>,
    inboxes: BTreeMap<Name, mpsc::UnboundedSender<PeerCall>>,
    events: BTreeMap<(Duration, u64), Event>,
    scheduled: u64,
    /// Requests are sent while an agent runs, in no exact moment of this span.
    quantum: Duration,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl World {
    /// A world with one empty machine for each of `nodes`.
    pub fn new(seed: u64, nodes: &[Name], quantum: Duration, checker: Checker, trace: SharedTrace) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            now: Duration::ZERO,
            rng: Rng::with_seed(seed),
            network: Network::default(),
            store: State::default(),
            store_mode: StoreMode::Up,
            servers: nodes.iter().map(|name| (*name, Server::new(name))).collect(),
            trace,
            checker,
            busy: true,
            rows: 0,
            newest_timeline: Some(1),
            watchers: Vec::new(),
            inboxes: BTreeMap::new(),
            events: BTreeMap::new(),
            scheduled: 0,
            quantum,
        })))
    }

    /// The inside. Never held across an await.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request to the store.
    pub fn ask_store<R: Send + 'static>(
        &self,
        from: Name,
        request: impl Fn(&mut State, Moment) -> R + Send + Sync + 'static,
    ) -> oneshot::Receiver<Reply<R>> {
        let (reply, answer) = oneshot::channel();
        self.lock().ask_store(from, Arc::new(request), reply);
        answer
    }

    /// Asks the store to tell when something under `prefix` changes.
    pub fn watch_store(&self, from: Name, prefix: &str, after: Cursor) -> oneshot::Receiver<Reply<Changes>> {
        let (reply, answer) = oneshot::channel();
        let watcher = Watcher { client: from, prefix: prefix.to_owned(), after, reply };
        let mut world = self.lock();
        world.send(Plane::Store, from, STORE, move |world| match world.store_mode {
            StoreMode::Up => {
                world.watchers.push(watcher);
                world.tell_watchers();
            }
            StoreMode::Refusing => world.refuse(from, watcher.reply),
            StoreMode::Silent => {}
        });
        answer
    }

    /// Asks the agent on `to` for its state.
    pub fn ask_peer(&self, from: Name, to: Name) -> oneshot::Receiver<Reply<PeerAnswer>> {
        let (reply, answer) = oneshot::channel();
        let mut world = self.lock();
        world.send(Plane::Peers, from, to, move |world| {
            let call = PeerCall { from, to, reply };
            let undelivered = match world.inboxes.get(to) {
                Some(inbox) => inbox.send(call).err().map(|error| error.0),
                None => Some(call),
            };
            if let Some(call) = undelivered {
                // The machine is there, and nobody listens.
                world.send(Plane::Peers, to, from, move |_| drop(call.reply.send(Reply::Refused)));
            }
        });
        answer
    }

    /// Sends the answer to a question.
    pub fn answer_peer(&self, call: PeerCall, answer: PeerAnswer) {
        let PeerCall { from, to, reply } = call;
        self.lock().send(Plane::Peers, to, from, move |_| drop(reply.send(Reply::Answer(answer))));
    }

    /// Listens for questions to the agent on `node`, in place of a former one.
    pub fn listen(&self, node: Name) -> mpsc::UnboundedReceiver<PeerCall> {
        // Unbounded: a peer asks at most a few times a second, and an agent that has died drops its end.
        let (inbox, questions) = mpsc::unbounded_channel();
        self.lock().inboxes.insert(node, inbox);
        questions
    }
}

impl Inner {
    /// The store's clock.
    pub fn store_now(&self) -> Moment {
        Moment::from_origin(self.now)
    }

    /// Runs `event` at `at`.
    pub fn schedule(&mut self, at: Duration, event: impl FnOnce(&mut Self) + Send + 'static) {
        self.scheduled += 1;
        self.events.insert((at, self.scheduled), Box::new(event));
    }

    /// Sends a message, which arrives, or does not.
    pub fn send(&mut self, plane: Plane, from: Name, to: Name, arrival: impl FnOnce(&mut Self) + Send + 'static) {
        let node = if from == STORE { to } else { from };
        let weather = self.network.weather(plane, node);
        let lost = weather.lost > 0.0 && self.rng.f64() < weather.lost;
        let frozen = self.servers.get(from).is_some_and(|server| server.frozen);
        if lost || frozen || !self.network.is_open(plane, from, to) {
            return;
        }
        let extra = u64::try_from(weather.delay.as_millis()).unwrap_or(0);
        let delay = Duration::from_millis(self.rng.u64(0..=8) + if extra > 0 { self.rng.u64(0..=extra) } else { 0 });
        self.schedule(self.now + self.quantum + delay, move |world| {
            let frozen = world.servers.get(to).is_some_and(|server| server.frozen);
            if world.network.is_open(plane, from, to) && !frozen {
                arrival(world);
            }
        });
    }

    fn refuse<R: Send + 'static>(&mut self, client: Name, reply: oneshot::Sender<Reply<R>>) {
        self.send(Plane::Store, STORE, client, move |_| drop(reply.send(Reply::Refused)));
    }

    fn ask_store<R: Send + 'static>(&mut self, from: Name, request: Request<R>, reply: oneshot::Sender<Reply<R>>) {
        let doubled = self.network.weather(Plane::Store, from).doubled;
        if doubled > 0.0 && self.rng.f64() < doubled {
            let again = Arc::clone(&request);
            self.send(Plane::Store, from, STORE, move |world| {
                if world.store_mode == StoreMode::Up {
                    world.change_store(|state, now| drop(again(state, now)));
                }
            });
        }
        self.send(Plane::Store, from, STORE, move |world| match world.store_mode {
            StoreMode::Up => {
                let answer = world.change_store(|state, now| request(state, now));
                world.send(Plane::Store, STORE, from, move |_| drop(reply.send(Reply::Answer(answer))));
            }
            StoreMode::Refusing => world.refuse(from, reply),
            StoreMode::Silent => {}
        });
    }

    /// Changes the store, as a request or an operator does.
    pub fn change_store<R>(&mut self, change: impl FnOnce(&mut State, Moment) -> R) -> R {
        let now = self.store_now();
        self.store.expire(now);
        let answer = change(&mut self.store, now);
        self.tell_watchers();
        answer
    }

    fn tell_watchers(&mut self) {
        let watchers = std::mem::take(&mut self.watchers);
        for watcher in watchers {
            if watcher.reply.is_closed() {
                continue;
            }
            let changes = self.store.changes_after(&watcher.prefix, watcher.after);
            if changes.as_ref().is_some_and(Vec::is_empty) {
                self.watchers.push(watcher);
                continue;
            }
            let unnamed = changes.is_none();
            let changes = Changes { keys: changes.unwrap_or_default(), unnamed, cursor: Cursor(self.store.revision()) };
            if self.store_mode == StoreMode::Up {
                let reply = watcher.reply;
                self.send(Plane::Store, STORE, watcher.client, move |_| drop(reply.send(Reply::Answer(changes))));
            }
        }
    }

    /// Lets `span` pass.
    pub fn advance(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(next) = self.events.first_entry().filter(|entry| entry.key().0 <= until) {
            self.now = self.now.max(next.key().0);
            let event = next.remove();
            event(self);
        }
        self.now = until;
        self.change_store(|_, _| ());
        let names: Vec<Name> = self.servers.keys().copied().collect();
        for name in names {
            let Some(mut server) = self.servers.remove(name) else { continue };
            let happenings = server.tick(self.now, &mut self.rng, &mut self.rows, self.busy, &mut self.newest_timeline);
            self.servers.insert(name, server);
            for happening in happenings {
                self.happened(name, happening);
            }
        }
        replication::step(self);
        self.check();
    }

    fn happened(&mut self, node: Name, happening: Happening) {
        match happening {
            Happening::Note(text) => self.trace.note(self.now, node, &text),
            Happening::Acknowledged { row, end } => {
                self.trace.note(self.now, node, &format!("row {row} acknowledged, at {end}"));
                self.check_acknowledgement(node, row, end);
            }
            Happening::Promoted { timeline, at } => {
                self.trace.note(self.now, node, &format!("PROMOTED to timeline {timeline} at {at}"));
                self.check_promotion(node, timeline);
            }
        }
    }

    /// Notes a broken invariant.
    pub fn violation(&mut self, what: String) {
        self.trace.note(self.now, "!!", &what);
        self.checker.violations.push(format!("{:.3}: {what}", self.now.as_secs_f64()));
    }

    /// Who holds the leader lock in the store.
    pub fn lock_owner(&self) -> Option<String> {
        self.store.get(&crate::key("leader")).map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
    }
}
