//! Three nodes, a store and a network that delays, loses and repeats: at most one of them is ever allowed to write.
//!
//! As long as the lock goes only by expiry, that holds without any doubt. A lock that vanishes (an operator deletes it, a
//! session ends early) lets the next node in while the former leader counts on its last renewal; then the least that must
//! hold is that nobody's word prolongs that: no node goes on without the store while another one has the lock, or gets it.

use super::*;

/// In moments of the model.
const TTL: u64 = 60;
/// How long before its lease ends a primary is stopped.
const GUARD: u64 = 2;
const NODES: usize = 3;
const SEEDS: u64 = 1500;
const STEPS: usize = 1000;

fn span(units: u64) -> Duration {
    Duration::from_millis(units)
}

fn moment(time: u64) -> Moment {
    Moment::from_origin(span(1_000_000 + time))
}

fn call(from: usize) -> FailsafeCall {
    FailsafeCall { name: format!("n{from}").as_str().into(), conn_url: String::new(), api_url: String::new(), slots: None }
}

/// A rule that is left out, to see that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Promises although a request for the lock is under way.
    AnswersWhileAsking,
    /// Promises although the lock is its own, and not yet a primary.
    AnswersWhileHolding,
    /// Asks for the lock although it has promised not to.
    AsksAlthoughPromised,
    /// Ends its promise early.
    ForgetsEarly,
    /// Counts the word of others from their last answer and not from its question.
    CountsFromTheAnswers,
    /// Goes on when most agree.
    ContentWithMost,
}

#[derive(Debug, Default)]
struct Node {
    exclusion: Exclusion,
    lease: Option<LeaderLease>,
    /// What the word of others is worth.
    extension: Option<LeaderLease>,
    primary: bool,
    /// The request under way, its number, and when it was sent.
    request: Option<(Request, u64, u64)>,
    /// The poll under way: its number, when it began, who has agreed.
    poll: Option<(u64, u64, [bool; NODES])>,
}

#[derive(Clone, Copy, Debug)]
enum Message {
    /// To the store: make the lock the sender's.
    Ask {
        node: usize,
        number: u64,
        wanted: Wanted,
    },
    /// From the store.
    Told {
        node: usize,
        number: u64,
        won: bool,
    },
    /// From a leader without the store.
    Appeal {
        from: usize,
        to: usize,
        number: u64,
    },
    Word {
        from: usize,
        to: usize,
        number: u64,
        given: bool,
    },
}

struct Model {
    broken: Broken,
    /// Whether the lock may vanish before it expires.
    vanishing: bool,
    overlap: bool,
    rng: fastrand::Rng,
    time: u64,
    nodes: [Node; NODES],
    /// Who holds the lock, and until when.
    lock: Option<(usize, u64)>,
    messages: Vec<Message>,
    counter: u64,
    history: Vec<String>,
    promotions: u64,
    extensions: u64,
}

impl Model {
    fn new(seed: u64, broken: Broken, vanishing: bool) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self {
            broken,
            vanishing,
            overlap: false,
            rng,
            time: 0,
            nodes: Default::default(),
            lock: None,
            messages: Vec::new(),
            counter: 0,
            history: Vec::new(),
            promotions: 0,
            extensions: 0,
        }
    }

    fn owner(&self) -> Option<usize> {
        self.lock.filter(|(_, until)| self.time < *until).map(|(owner, _)| owner)
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Whether another node has a lease, `only_extended`: one that rests on words.
    fn other_leads(&self, node: usize, only_extended: bool) -> bool {
        let (now, others) = (moment(self.time), self.nodes.iter().enumerate().filter(|(other, _)| *other != node));
        let mut leases = others
            .filter(|(_, other)| other.lease.is_some())
            .flat_map(|(_, other)| [other.extension, other.lease.filter(|_| !only_extended)]);
        leases.any(|lease| lease.is_some_and(|lease| lease.is_valid(now)))
    }

    fn ttl(&self) -> Duration {
        span(if self.broken == Broken::ForgetsEarly { TTL / 2 } else { TTL })
    }

    /// A node reads the store, and does what follows from that.
    fn load(&mut self, node: usize) {
        if self.nodes[node].request.is_some() {
            return;
        }
        let (owner, now, ttl, number) = (self.owner(), moment(self.time), self.ttl(), self.next());
        let broken = self.broken;
        let me = &mut self.nodes[node];
        me.exclusion.see(owner == Some(node), ttl, now);
        if broken == Broken::ForgetsEarly
            && let Some(promise) = &mut me.exclusion.promise
        {
            promise.until = promise.until.min(promise.made_at + ttl);
        }
        let wanted = match owner {
            None => Wanted::New,
            Some(owner) if owner == node => Wanted::Again,
            Some(_) => {
                // The lock is elsewhere: what was a primary is stopped.
                me.primary = false;
                me.lease = None;
                return;
            }
        };
        if broken == Broken::AsksAlthoughPromised {
            me.exclusion.promise = None;
        }
        if let Ok(request) = me.exclusion.begin(wanted, ttl, now) {
            me.request = Some((request, number, self.time));
            self.messages.push(Message::Ask { node, number, wanted });
            self.history.push(format!("{} n{node} asks for the lock", self.time));
        }
    }

    fn give_up_request(&mut self, node: usize) {
        if let Some((request, ..)) = self.nodes[node].request.take() {
            self.nodes[node].exclusion.settle(request, Settled::Unknown);
            self.history.push(format!("{} n{node} gives its request up", self.time));
        }
    }

    fn appeal(&mut self, node: usize) {
        let number = self.next();
        let me = &mut self.nodes[node];
        if !me.primary || me.request.is_some() || me.poll.is_some() {
            return;
        }
        let mut agreed = [false; NODES];
        agreed[node] = true;
        me.poll = Some((number, self.time, agreed));
        self.history.push(format!("{} n{node} asks everybody", self.time));
        self.messages.extend((0..NODES).filter(|to| *to != node).map(|to| Message::Appeal { from: node, to, number }));
    }

    fn deliver(&mut self, message: Message) {
        let now = moment(self.time);
        let ttl = self.ttl();
        match message {
            Message::Ask { node, number, wanted } => {
                let won = match self.owner() {
                    Some(owner) => owner == node,
                    None => wanted == Wanted::New || self.lock.is_none_or(|(owner, _)| owner == node),
                };
                if won {
                    self.lock = Some((node, self.time + TTL));
                }
                self.history.push(format!("{} the store hears n{node}: {won}", self.time));
                self.messages.push(Message::Told { node, number, won });
            }
            Message::Told { node, number, won } => {
                let me = &mut self.nodes[node];
                let Some((_, _, sent_at)) = me.request.as_ref().filter(|(_, asked, _)| *asked == number) else { return };
                let lease = LeaderLease::granted(moment(*sent_at), span(TTL));
                let Some((request, ..)) = me.request.take() else { return };
                if !won {
                    me.exclusion.settle(request, Settled::NotOurs);
                    (me.primary, me.lease) = (false, None);
                } else if lease.is_valid(now) {
                    me.exclusion.settle(request, Settled::Ours(lease));
                    me.lease = Some(me.lease.map_or(lease, |known| known.latest(lease)));
                    self.overlap |= self.other_leads(node, true);
                    self.history.push(format!("{} n{node} has the lock", self.time));
                } else {
                    me.exclusion.settle(request, Settled::Unknown);
                }
            }
            Message::Appeal { from, to, number } => {
                let broken = self.broken;
                let me = &mut self.nodes[to];
                if (broken == Broken::AnswersWhileAsking && me.exclusion.under_way) || broken == Broken::AnswersWhileHolding {
                    let (under_way, ours_until) = (me.exclusion.under_way, me.exclusion.ours_until);
                    if broken == Broken::AnswersWhileAsking {
                        me.exclusion.under_way = false;
                    } else {
                        me.exclusion.ours_until = None;
                    }
                    let given = !me.primary && me.exclusion.answer(call(from), ttl, now).is_ok();
                    (me.exclusion.under_way, me.exclusion.ours_until) = (under_way, ours_until);
                    self.messages.push(Message::Word { from: to, to: from, number, given });
                    return;
                }
                let given = !me.primary && me.exclusion.answer(call(from), ttl, now).is_ok();
                self.history.push(format!("{} n{to} answers n{from}: {given}", self.time));
                self.messages.push(Message::Word { from: to, to: from, number, given });
            }
            Message::Word { from, to, number, given } => {
                let broken = self.broken;
                let me = &mut self.nodes[to];
                let Some((_, began, agreed)) = me.poll.as_mut().filter(|(asked, ..)| *asked == number) else { return };
                if !given && broken != Broken::ContentWithMost {
                    me.poll = None;
                    (me.primary, me.lease) = (false, None);
                    return;
                }
                agreed[from] = given;
                let enough = match broken {
                    Broken::ContentWithMost => agreed.iter().filter(|agreed| **agreed).count() > NODES / 2,
                    _ => *agreed == [true; NODES],
                };
                if !enough {
                    return;
                }
                let counted = if broken == Broken::CountsFromTheAnswers { now } else { moment(*began) };
                me.poll = None;
                if me.primary {
                    let lease = LeaderLease::granted(counted, span(TTL));
                    me.lease = Some(me.lease.map_or(lease, |known| known.latest(lease)));
                    me.extension = Some(lease);
                    self.overlap |= self.other_leads(to, false);
                    self.extensions += 1;
                    self.history.push(format!("{} n{to} goes on without the store", self.time));
                }
            }
        }
    }

    fn step(&mut self) {
        let node = self.rng.usize(..NODES);
        match self.rng.u8(..100) {
            0..25 => {
                self.time += self.rng.u64(1..8);
                let stops_at = moment(self.time + GUARD);
                for node in &mut self.nodes {
                    if node.lease.is_none_or(|lease| lease.valid_until() <= stops_at) {
                        node.primary = false;
                    }
                }
            }
            25..40 => self.load(node),
            40..46 => self.give_up_request(node),
            46..58 => self.appeal(node),
            58..59 => self.nodes[node].poll = None,
            59 if self.vanishing => {
                self.history.push(format!("{} the lock vanishes", self.time));
                self.lock = None;
            }
            59..68 => {
                // What has the lock may be promoted now, or later.
                let (now, me) = (moment(self.time + GUARD), &mut self.nodes[node]);
                if !me.primary && me.lease.is_some_and(|lease| now < lease.valid_until()) {
                    me.primary = true;
                    self.promotions += 1;
                    self.history.push(format!("{} n{node} is a primary", self.time));
                }
            }
            _ if self.messages.is_empty() => {}
            chance => {
                let message = self.messages.swap_remove(self.rng.usize(..self.messages.len()));
                // Some are lost, some come twice.
                if chance >= 96 {
                    return;
                }
                if chance >= 93 {
                    self.messages.push(message);
                }
                self.deliver(message);
            }
        }
    }

    /// How often somebody was promoted, and went on without the store; the history, if something happened that must not.
    fn run(mut self, steps: usize) -> Result<(u64, u64), String> {
        for _ in 0..steps {
            self.step();
            let primaries = self.nodes.iter().filter(|node| node.primary).count();
            if self.overlap || (primaries > 1 && !self.vanishing) {
                return Err(self.history.join("\n"));
            }
        }
        Ok((self.promotions, self.extensions))
    }
}

/// Must hold: X20, SAF1. Polls, answers, acquisitions that are sent, answered and lost, expiry, in any order.
#[test]
fn two_primaries_are_never_allowed_whatever_the_order_of_events() {
    let (mut promotions, mut extensions) = (0_u64, 0_u64);
    for (seed, vanishing) in (0..SEEDS).flat_map(|seed| [(seed, false), (seed, true)]) {
        match Model::new(seed, Broken::Nothing, vanishing).run(STEPS) {
            Ok((promoted, extended)) => (promotions, extensions) = (promotions + promoted, extensions + extended),
            Err(history) => panic!("seed {seed}, vanishing: {vanishing}:\n{history}"),
        }
    }
    // The model does what it is about.
    assert!(promotions > SEEDS && extensions > SEEDS, "{promotions} promotions, {extensions} extensions");
}

#[test]
fn the_model_notices_every_rule_that_is_left_out() {
    for broken in [
        Broken::AnswersWhileAsking,
        Broken::AnswersWhileHolding,
        Broken::AsksAlthoughPromised,
        Broken::ForgetsEarly,
        Broken::CountsFromTheAnswers,
        Broken::ContentWithMost,
    ] {
        let caught =
            (0..SEEDS).find(|seed| [false, true].into_iter().any(|vanishing| Model::new(*seed, broken, vanishing).run(STEPS).is_err()));
        assert!(caught.is_some(), "{broken:?} goes unnoticed");
    }
}

#[test]
fn a_node_that_has_the_lock_or_may_have_it_gives_no_word() {
    let (ttl, now) = (span(TTL), moment(0));
    let mut node = Exclusion::default();
    let request = node.begin(Wanted::New, ttl, now).expect("nothing was promised");
    assert_eq!(node.answer(call(1), ttl, now), Err(Claimed), "it is being asked for");
    node.settle(request, Settled::Unknown);
    assert_eq!(node.answer(call(1), ttl, now + 10 * ttl), Err(Claimed), "nobody knows what became of it");
    node.see(true, ttl, now);
    assert_eq!(node.answer(call(1), ttl, now), Err(Claimed), "a view says that the lock is its own");
    node.see(false, ttl, now);
    assert_eq!(node.answer(call(1), ttl, now), Ok(()));
}

#[test]
fn a_lock_that_was_lost_by_expiry_is_no_reason_to_refuse_the_next_leader() {
    let (ttl, now) = (span(TTL), moment(0));
    let mut node = Exclusion::default();
    let request = node.begin(Wanted::New, ttl, now).expect("nothing was promised");
    node.settle(request, Settled::Ours(LeaderLease::granted(now, ttl)));
    // The store is lost, and a renewal with it.
    let request = node.begin(Wanted::Again, ttl, now + ttl / 2).expect("nothing was promised");
    node.settle(request, Settled::Unknown);
    assert_eq!(node.answer(call(1), ttl, now + ttl / 2), Err(Claimed));
    assert_eq!(node.answer(call(1), ttl, now + ttl), Ok(()));
}

#[test]
fn a_lock_that_was_let_go_or_refused_is_no_reason_to_refuse_the_next_leader() {
    let (ttl, now) = (span(TTL), moment(0));
    let mut node = Exclusion::default();
    let request = node.begin(Wanted::New, ttl, now).expect("nothing was promised");
    node.settle(request, Settled::NotOurs);
    assert_eq!(node.clone().answer(call(1), ttl, now), Ok(()));
    let request = node.begin(Wanted::New, ttl, now).expect("nothing was promised");
    node.settle(request, Settled::Ours(LeaderLease::granted(now, ttl)));
    node.let_go();
    assert_eq!(node.answer(call(1), ttl, now), Ok(()));
}

#[test]
fn a_promise_binds_for_the_longest_ttl_that_its_leader_may_know_of() {
    let (ttl, now) = (span(TTL), moment(0));
    let mut node = Exclusion::default();
    node.answer(call(1), ttl, now).expect("it claims nothing");
    let just_before = moment(TTL - 1);
    for known in [ttl / 2, ttl] {
        assert_eq!(node.begin(Wanted::New, known, just_before).err().map(|promise| promise.to), Some(Arc::new(call(1))));
        assert!(node.promise(known, now + ttl).is_none());
    }
    assert!(node.promise(ttl * 2, now + ttl).is_some());
    // A leader that asks again does not shorten it either.
    node.answer(call(2), ttl / 4, now + ttl / 2).expect("it claims nothing");
    assert_eq!(node.promise(ttl / 4, just_before).map(|promise| &*promise.to), Some(&call(2)));
    assert!(node.begin(Wanted::New, ttl / 4, now + ttl).is_ok());
}
