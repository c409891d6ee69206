//! A wrapper around any store that delays, drops and repeats its calls, and cuts its client off.
//!
//! What happens to which call comes from a [`Plan`]: scripted ("the next acquire loses its answer"), seeded (the same seed
//! is the same history), or switched (the whole connection is cut or silent until it heals). Several clients may share a
//! plan, which is an outage of the servers; a plan of its own for one client is a partition of that client.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::model::Revision;
use crate::{
    Capabilities, Changes, Consistency, Cursor, Deadline, Deletion, Entry, Error, ErrorKind, Expect, Fate, Handle, KeyValueStore,
    LockAttempt, LockRenewal, Snapshot, Timing, Write,
};

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// It takes this much longer to get there.
    Delay(Duration),
    /// It never arrives; the caller waits in vain.
    DropRequest,
    /// It is carried out; the caller waits in vain.
    DropAnswer,
    /// It arrives twice; the caller gets the first answer.
    Duplicate,
    /// The connection is refused: nothing happens, and the caller knows.
    Refuse,
    /// The server answers that the caller may not do that.
    Deny,
    /// The caller waits in vain, and this long after sending it is carried out all the same.
    Late(Duration),
}

/// One of the calls of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`KeyValueStore::read`]
    Read,
    /// [`KeyValueStore::get`]
    Get,
    /// [`KeyValueStore::put`]
    Put,
    /// [`KeyValueStore::delete`]
    Delete,
    /// [`KeyValueStore::delete_prefix`]
    DeletePrefix,
    /// [`KeyValueStore::ensure_handle`]
    EnsureHandle,
    /// [`KeyValueStore::put_bound`]
    PutBound,
    /// [`KeyValueStore::acquire_lock`]
    Acquire,
    /// [`KeyValueStore::take_lock`]
    Take,
    /// [`KeyValueStore::renew_lock`]
    Renew,
    /// [`KeyValueStore::release_lock`]
    Release,
}

/// Whether the servers can be reached at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// They can.
    Up,
    /// Every call is refused at once, and watches break.
    Cut,
    /// Nothing answers, as if the servers were stopped. A call that is waiting when it heals is carried out.
    Silent,
}

/// How often which fault happens by chance: probabilities between 0 and 1, tried in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Odds {
    /// [`Fault::DropRequest`]
    pub drop_request: f64,
    /// [`Fault::DropAnswer`]
    pub drop_answer: f64,
    /// [`Fault::Duplicate`]
    pub duplicate: f64,
    /// [`Fault::Refuse`]
    pub refuse: f64,
    /// [`Fault::Late`], up to `longest` late
    pub late: f64,
    /// [`Fault::Delay`], up to `longest`
    pub delay: f64,
    /// The longest delay.
    pub longest: Duration,
}

/// What goes wrong, for all clients that share it.
#[derive(Clone)]
pub struct Plan(Arc<Shared>);

struct Shared {
    connection: watch::Sender<Connection>,
    chance: Mutex<Chance>,
    attempt: Duration,
}

struct Chance {
    always: Option<Fault>,
    script: VecDeque<(Option<Call>, Fault)>,
    odds: Odds,
    rng: fastrand::Rng,
    calls: u64,
}

impl Plan {
    /// Nothing goes wrong until it is told to. A call without answer is given up after `attempt`, the share of the
    /// operation's time that one attempt gets.
    pub fn new(attempt: Duration) -> Self {
        Self::by_chance(attempt, 0, Odds::default())
    }

    /// Faults by chance; the same seed and the same calls are the same history.
    pub fn by_chance(attempt: Duration, seed: u64, odds: Odds) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let chance = Chance { always: None, script: VecDeque::new(), odds, rng, calls: 0 };
        Self(Arc::new(Shared { connection: watch::Sender::new(Connection::Up), chance: Mutex::new(chance), attempt }))
    }

    /// The next call (of this kind, if given) meets `fault`. Comes before chance; several stand in a queue.
    pub fn next(&self, call: Option<Call>, fault: Fault) {
        self.chance().script.push_back((call, fault));
    }

    /// From now on every call that the script does not speak of meets `fault`; nothing leaves it to chance again.
    pub fn always(&self, fault: Option<Fault>) {
        self.chance().always = fault;
    }

    /// Cuts, silences or heals the connection.
    pub fn set_connection(&self, connection: Connection) {
        self.0.connection.send_replace(connection);
    }

    /// Changes how often things go wrong by chance.
    pub fn set_odds(&self, odds: Odds) {
        self.chance().odds = odds;
    }

    /// How many calls were made, waits not counted.
    pub fn calls(&self) -> u64 {
        self.chance().calls
    }

    fn chance(&self) -> MutexGuard<'_, Chance> {
        self.0.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, call: Call) -> Option<Fault> {
        let mut chance = self.chance();
        chance.calls += 1;
        let scripted = chance.script.iter().position(|(wanted, _)| wanted.is_none_or(|wanted| wanted == call));
        if let Some((_, fault)) = scripted.and_then(|index| chance.script.remove(index)) {
            return Some(fault);
        }
        if let Some(fault) = chance.always {
            return Some(fault);
        }
        let odds = chance.odds;
        let span = odds.longest.mul_f64(chance.rng.f64());
        let faults = [
            (odds.drop_request, Fault::DropRequest),
            (odds.drop_answer, Fault::DropAnswer),
            (odds.duplicate, Fault::Duplicate),
            (odds.refuse, Fault::Refuse),
            (odds.late, Fault::Late(span)),
            (odds.delay, Fault::Delay(span)),
        ];
        let mut drawn = chance.rng.f64();
        for (probability, fault) in faults {
            if drawn < probability {
                return Some(fault);
            }
            drawn -= probability;
        }
        None
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Plan").field(&*self.0.connection.borrow()).finish()
    }
}

/// A store whose calls go wrong as a [`Plan`] says.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn KeyValueStore>,
    plan: Plan,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

impl FaultyStore {
    /// `inner` with the faults of `plan`.
    pub fn new(inner: Arc<dyn KeyValueStore>, plan: Plan) -> Arc<Self> {
        Arc::new(Self { inner, plan })
    }

    fn error(&self, what: &'static str, fate: Fate) -> Error {
        Error::new(self.inner.name(), "reach the server", ErrorKind::Unavailable, fate).because(what)
    }

    /// Waits as a client waits for an answer that never comes.
    async fn in_vain(&self, deadline: Deadline) -> Error {
        tokio::time::sleep_until(deadline.at_most(self.plan.0.attempt).instant()).await;
        self.error("no answer (injected)", Fate::Unknown)
    }

    async fn run<T: Send + 'static>(
        &self,
        call: Call,
        deadline: Deadline,
        request: impl Fn(Arc<dyn KeyValueStore>) -> Answer<T> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let fault = self.plan.draw(call);
        let send = || request(Arc::clone(&self.inner));
        self.connected(deadline).await?;
        match fault {
            None => send().await,
            Some(Fault::Refuse) => Err(self.error("connection refused (injected)", Fate::NotApplied)),
            Some(Fault::Deny) => {
                Err(Error::new(self.inner.name(), "reach the server", ErrorKind::Denied, Fate::NotApplied).because("denied (injected)"))
            }
            Some(Fault::Delay(span)) if span < self.plan.0.attempt && span < deadline.remaining() => {
                tokio::time::sleep(span).await;
                send().await
            }
            Some(Fault::Delay(span) | Fault::Late(span)) => {
                let request = send();
                tokio::spawn(async move {
                    tokio::time::sleep(span).await;
                    // Nobody is there any more to hear the answer.
                    drop(request.await);
                });
                Err(self.in_vain(deadline).await)
            }
            Some(Fault::DropRequest) => Err(self.in_vain(deadline).await),
            Some(Fault::DropAnswer) => {
                drop(send().await);
                Err(self.in_vain(deadline).await)
            }
            Some(Fault::Duplicate) => {
                let first = send().await;
                drop(send().await);
                first
            }
        }
    }

    /// Returns when the servers can be reached; fails when they refuse, or stay silent for the time of an attempt.
    async fn connected(&self, deadline: Deadline) -> Result<(), Error> {
        let mut connection = self.plan.0.connection.subscribe();
        let until = deadline.at_most(self.plan.0.attempt);
        loop {
            match *connection.borrow_and_update() {
                Connection::Up => return Ok(()),
                Connection::Cut => return Err(self.error("connection refused (injected)", Fate::NotApplied)),
                Connection::Silent => {}
            }
            if until.bound("wait for the server", connection.changed()).await.is_err() {
                return Err(self.error("no answer (injected)", Fate::Unknown));
            }
        }
    }
}

/// [`Expect`], owned.
#[derive(Clone)]
enum Expected {
    Any,
    Absent,
    Revision(Revision),
}

impl Expected {
    fn of(expect: Expect<'_>) -> Self {
        match expect {
            Expect::Any => Self::Any,
            Expect::Absent => Self::Absent,
            Expect::Revision(revision) => Self::Revision(revision.clone()),
        }
    }

    fn as_expect(&self) -> Expect<'_> {
        match self {
            Self::Any => Expect::Any,
            Self::Absent => Expect::Absent,
            Self::Revision(revision) => Expect::Revision(revision),
        }
    }
}

/// Makes the owned, repeatable request that a fault may carry out later or twice.
macro_rules! request {
    (|$store:ident $(, $argument:ident)*| $call:expr) => {{
        $(let $argument = $argument.to_owned();)*
        move |$store: Arc<dyn KeyValueStore>| {
            $(let $argument = $argument.clone();)*
            Box::pin(async move { $call.await }) as Answer<_>
        }
    }};
}

#[async_trait]
impl KeyValueStore for FaultyStore {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn set_timing(&self, timing: Timing) {
        self.inner.set_timing(timing);
    }

    async fn read(&self, prefix: &str, consistency: Consistency, deadline: Deadline) -> Result<Snapshot, Error> {
        self.run(Call::Read, deadline, request!(|store, prefix| store.read(&prefix, consistency, deadline))).await
    }

    async fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Entry>, Error> {
        self.run(Call::Get, deadline, request!(|store, key| store.get(&key, deadline))).await
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect<'_>, deadline: Deadline) -> Result<Write, Error> {
        let expect = Expected::of(expect);
        let request = request!(|store, key, value, expect| store.put(&key, &value, expect.as_expect(), deadline));
        self.run(Call::Put, deadline, request).await
    }

    async fn delete(&self, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Error> {
        let expect = Expected::of(expect);
        let request = request!(|store, key, expect| store.delete(&key, expect.as_expect(), deadline));
        self.run(Call::Delete, deadline, request).await
    }

    async fn delete_prefix(&self, prefix: &str, deadline: Deadline) -> Result<(), Error> {
        self.run(Call::DeletePrefix, deadline, request!(|store, prefix| store.delete_prefix(&prefix, deadline))).await
    }

    fn handle(&self) -> Option<Handle> {
        self.inner.handle()
    }

    async fn ensure_handle(&self, deadline: Deadline) -> Result<Handle, Error> {
        self.run(Call::EnsureHandle, deadline, request!(|store| store.ensure_handle(deadline))).await
    }

    async fn put_bound(&self, key: &str, value: &[u8], deadline: Deadline) -> Result<Revision, Error> {
        self.run(Call::PutBound, deadline, request!(|store, key, value| store.put_bound(&key, &value, deadline))).await
    }

    async fn acquire_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        self.run(Call::Acquire, deadline, request!(|store, key, owner| store.acquire_lock(&key, &owner, deadline))).await
    }

    async fn take_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        self.run(Call::Take, deadline, request!(|store, key, owner| store.take_lock(&key, &owner, deadline))).await
    }

    async fn renew_lock(&self, key: &str, owner: &str, seen: &Entry, deadline: Deadline) -> Result<LockRenewal, Error> {
        let seen = seen.clone();
        let request = request!(|store, key, owner, seen| store.renew_lock(&key, &owner, &seen, deadline));
        self.run(Call::Renew, deadline, request).await
    }

    async fn release_lock(&self, key: &str, held: &Entry, deadline: Deadline) -> Result<Deletion, Error> {
        let held = held.clone();
        self.run(Call::Release, deadline, request!(|store, key, held| store.release_lock(&key, &held, deadline))).await
    }

    async fn wait_for_changes(&self, prefix: &str, after: Cursor, deadline: Deadline) -> Result<Changes, Error> {
        loop {
            let mut connection = self.plan.0.connection.subscribe();
            let now = *connection.borrow_and_update();
            match now {
                Connection::Cut => return Err(self.error("connection refused (injected)", Fate::NotApplied)),
                Connection::Silent => {
                    let healed = deadline.bound("wait for the server", connection.changed()).await;
                    if healed.is_err() {
                        return Ok(Changes { cursor: after, ..Changes::default() });
                    }
                }
                // In order, so that one seed is one history.
                Connection::Up => tokio::select! {
                    biased;
                    changes = self.inner.wait_for_changes(prefix, after, deadline) => return changes,
                    _ = connection.changed() => {}
                },
            }
        }
    }
}
