//! The safety argument of synchronous modes, tried: a cluster as values, with the real rules on top and nothing else.
//!
//! Nodes have a log of commits; standbys lag, disconnect, stay behind on old timelines and come back; agents die between any
//! two steps; the lock changes hands again and again. Whoever is promoted must have every acknowledged commit. Without any
//! one of the rules the same histories lose some. A change of the text takes its time to come into force, and a write of the
//! key may arrive when nobody expects it any more.

mod server;
mod succession;

use dcs_core::model::{ClusterView, Revision};
use dcs_core::model::{HistoryLine, Lsn, Member, MemberName, SyncRecord, SyncState, Timeline};

use super::electorate::Electorate;
use super::names::{Kind, Names, StandbyNames};
use super::promotion::prepare;
use super::proven::{Proof, Retention};
use super::quorum::{is_safe, quorum_of};
use super::sample::{SyncSample, SyncWord, Walsender};
use super::testing::member;
use super::{Next, Scene, Wanted, awaits_voters, next_move};
use crate::decide::ballot::{Ballot, Said, judge};
use crate::decide::position::{Lineage, Position};
use crate::decide::tests::global;
use crate::settings::{GlobalConfig, SyncMode};

/// Which rules are in force.
#[derive(Clone, Copy, PartialEq)]
struct Rules {
    /// X2: positions on different timelines are compared by what they are worth.
    lineage: bool,
    /// X4: in quorum mode every change of the text starts the proof anew.
    fresh_proof: bool,
    /// X5: `/sync` is rewritten before a promotion.
    key_before_promotion: bool,
    /// X21: a node that was elected by an older `/sync` gives the lock back.
    bound_verdict: bool,
    /// X22: after a write of unknown outcome `/sync` is written once more before anything is built on it.
    confirmed_key: bool,
    /// X23: nobody is proven before commits wait.
    text_in_force: bool,
}

const ALL: Rules =
    Rules { lineage: true, fresh_proof: true, key_before_promotion: true, bound_verdict: true, confirmed_key: true, text_in_force: true };

/// A server and the agent beside it.
#[derive(Clone)]
struct Node {
    name: MemberName,
    /// What it has flushed. Every number is used once, and later ones are larger.
    log: Vec<u32>,
    timeline: u32,
    /// Where the timelines before were left: its history file.
    history: Vec<HistoryLine>,
    up: bool,
    /// Whether it streams from the primary, and what it has told it.
    streams: bool,
    told: Option<u64>,
}

impl Node {
    /// A standby is on the timeline that its position is on, and has the history file of that one.
    fn take_timeline_of(&mut self, source: &Self) {
        let position = length(&self.log);
        let left = source.history.iter().find(|line| position <= line.lsn.0);
        self.timeline = left.map_or(source.timeline, |line| line.timeline);
        self.history = source.history.iter().filter(|line| line.timeline < self.timeline).cloned().collect();
    }
}

/// What can happen.
#[derive(Clone, Copy)]
enum Event {
    Write,
    Receive,
    Tell,
    Move,
    /// The text comes into force.
    Settle,
    /// A write of `/sync` arrives that its writer has given up.
    Arrive,
    Connect,
    Disconnect,
    /// It forgets what was proven.
    RestartAgent,
    /// The primary tells the store about its timelines.
    PublishHistory,
    LosePrimary,
    Down,
    Up,
    Configure,
    Tag,
    Race,
}

/// How often each happens; every history multiplies them by its own factors, so that some have lazy agents, some slow
/// standbys, some a bad network.
const EVENTS: [(Event, u32); 16] = [
    (Event::Write, 20),
    (Event::Receive, 20),
    (Event::Tell, 16),
    (Event::Move, 12),
    (Event::Settle, 8),
    (Event::Arrive, 3),
    (Event::Connect, 12),
    (Event::Disconnect, 2),
    (Event::RestartAgent, 1),
    (Event::PublishHistory, 4),
    (Event::LosePrimary, 5),
    (Event::Down, 3),
    (Event::Up, 3),
    (Event::Configure, 1),
    (Event::Tag, 1),
    (Event::Race, 12),
];

/// What belongs to the one primary.
struct Primary {
    at: usize,
    text: String,
    names: StandbyNames,
    /// What commits go by; the text comes into force later.
    in_force: StandbyNames,
    /// Whether every write of the key has come to an end.
    confirmed: bool,
    /// Up to where clients have their answers.
    answered: usize,
    /// When it was promoted.
    since: usize,
    proof: Proof,
}

struct World {
    rules: Rules,
    dice: fastrand::Rng,
    nodes: Vec<Node>,
    members: Vec<Member>,
    cfg: GlobalConfig,
    sync: SyncRecord,
    revision: u64,
    /// Writes of the key that are under way, and what each expects.
    late: Vec<(SyncRecord, u64)>,
    /// Whether a writer may give up.
    late_writes: bool,
    history: Vec<HistoryLine>,
    primary: Option<Primary>,
    acknowledged: Vec<u32>,
    next: u32,
    events: usize,
    weights: Vec<(Event, u32)>,
    /// How many events a new primary waits for its voters.
    patience: usize,
    /// How often a node is reached in a race, in eighths.
    reach: u8,
}

/// Why a history ended early.
#[derive(Debug)]
#[expect(dead_code, reason = "shown by a failing test")]
enum Lost {
    /// A node was promoted without an acknowledged commit.
    Commit { node: MemberName, commit: u32, sync: SyncRecord },
    /// Somebody could win who need not have what is being acknowledged (SAF9).
    Safety { sync: SyncRecord, in_force: StandbyNames },
    /// All nodes are up, and nobody may lead.
    Leader { sync: SyncRecord },
}

fn length(log: &[u32]) -> u64 {
    u64::try_from(log.len()).expect("short")
}

impl World {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let count = dice.usize(3..=5);
        let names: Vec<String> = ('a'..).take(count).map(String::from).collect();
        let node = |name: &String| Node {
            name: MemberName::from(name.as_str()),
            log: Vec::new(),
            timeline: 1,
            history: Vec::new(),
            up: true,
            streams: false,
            told: None,
        };
        let mut cfg = global(serde_json::json!({}));
        cfg.synchronous_mode = if dice.u8(0..4) == 0 { SyncMode::On } else { SyncMode::Quorum };
        cfg.synchronous_node_count = dice.u32(1..=2);
        cfg.synchronous_mode_strict = dice.bool();
        let primary = Primary {
            at: 0,
            text: String::new(),
            names: StandbyNames::default(),
            in_force: StandbyNames::default(),
            confirmed: false,
            answered: 0,
            since: 0,
            proof: Proof::default(),
        };
        Self {
            rules,
            nodes: names.iter().map(node).collect(),
            members: names.iter().map(|name| member(name)).collect(),
            cfg,
            sync: SyncRecord { leader: Some(MemberName::from("a")), ..SyncRecord::default() },
            revision: 1,
            late: Vec::new(),
            late_writes: true,
            history: Vec::new(),
            primary: Some(primary),
            acknowledged: Vec::new(),
            next: 0,
            events: 0,
            weights: EVENTS.iter().map(|(event, weight)| (*event, weight * [1, 2, 4, 12][dice.usize(0..4)])).collect(),
            patience: dice.usize(0..40),
            reach: dice.u8(3..=8),
            dice,
        }
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.dice.u32(0..one_in) == 0
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    // ---- the store -------------------------------------------------------------------------------------------------

    /// Writes the key if it is as expected.
    fn put(&mut self, record: SyncRecord, expected: u64) {
        if self.revision == expected {
            (self.sync, self.revision) = (record, self.revision + 1);
        }
    }

    /// One of the writes that are under way arrives.
    fn arrive(&mut self) {
        if !self.late.is_empty() {
            let (record, expected) = self.late.swap_remove(self.dice.usize(0..self.late.len()));
            self.put(record, expected);
        }
    }

    /// Nobody can win without what is being acknowledged.
    fn check_safety(&self) -> Result<(), Lost> {
        let Some(primary) = &self.primary else { return Ok(()) };
        let voters: Names = self.sync.standbys.iter().cloned().collect();
        let mine = self.sync.leader.as_ref() == Some(&self.nodes[primary.at].name);
        let (number, named) = (primary.in_force.number_of_named(), primary.in_force.named());
        if mine && is_safe(quorum_of(&self.sync), &voters, number, &named) {
            return Ok(());
        }
        Err(Lost::Safety { sync: self.sync.clone(), in_force: primary.in_force.clone() })
    }

    fn write(&mut self) {
        let number = self.number();
        if let Some(primary) = &self.primary {
            self.nodes[primary.at].log.push(number);
        }
        self.answer();
    }

    /// A standby connects; what the primary does not have is rewound.
    fn connect(&mut self, standby: usize) {
        let Some(primary) = &self.primary else { return };
        let source = self.nodes[primary.at].clone();
        let node = &mut self.nodes[standby];
        if standby == primary.at || !node.up {
            return;
        }
        let common = node.log.iter().zip(&source.log).take_while(|(own, theirs)| own == theirs).count();
        node.log.truncate(common);
        node.take_timeline_of(&source);
        (node.streams, node.told) = (true, None);
    }

    fn receive(&mut self, standby: usize, most: usize) {
        let Some(primary) = &self.primary else { return };
        let source = self.nodes[primary.at].clone();
        let node = &mut self.nodes[standby];
        if node.up && node.streams {
            let end = source.log.len().min(node.log.len() + most);
            let begin = node.log.len();
            node.log.extend_from_slice(&source.log[begin..end]);
            node.take_timeline_of(&source);
        }
    }

    fn tell(&mut self, standby: usize) {
        let node = &mut self.nodes[standby];
        if node.up && node.streams {
            node.told = Some(length(&node.log));
        }
        self.answer();
    }

    // ---- the agent of the primary ----------------------------------------------------------------------------------

    fn wanted(&self) -> Wanted {
        Wanted::of(&self.cfg)
    }

    /// One move of the pass; false if there was nothing to do.
    fn make_move(&mut self) -> bool {
        if self.rules.confirmed_key && self.primary.as_ref().is_some_and(|primary| !primary.confirmed) {
            self.revision += 1;
        }
        let expected = self.revision;
        let given_up = self.late_writes && self.dice.u8(0..4) == 0;
        let sample = self.sample();
        let Some(primary) = &self.primary else { return false };
        let led_by_me = self.sync.leader.as_ref() == Some(&self.nodes[primary.at].name) || !self.rules.key_before_promotion;
        let early = self.events < primary.since + self.patience;
        if early && awaits_voters(self.cfg.synchronous_mode, led_by_me, &primary.names, &sample) {
            return false;
        }
        let scene = Scene {
            me: &self.nodes[primary.at].name.clone(),
            members: &self.members,
            wanted: self.wanted(),
            record: &self.sync,
            sample: &sample,
            proof: &primary.proof,
        };
        let retention = if self.rules.fresh_proof { Retention::of(self.cfg.synchronous_mode) } else { Retention::Careless };
        let made = next_move(&scene, &primary.names, retention);
        if let Some(primary) = &mut self.primary {
            (primary.proof, primary.confirmed) = (made.proof, true);
        }
        if made.record_needed {
            self.write();
        }
        match made.next {
            Next::Stop(_) => return false,
            Next::Write(record, ..) if given_up => {
                self.late.push((record, expected));
                if let Some(primary) = &mut self.primary {
                    primary.confirmed = false;
                }
                // What keeps the store from answering may keep standbys from streaming as well.
                if self.dice.bool() {
                    for node in &mut self.nodes {
                        if self.dice.bool() {
                            (node.streams, node.told) = (false, None);
                        }
                    }
                }
            }
            Next::Write(record, ..) => self.put(record, expected),
            Next::Set(text, _) => self.set_names(&text),
        }
        true
    }

    /// The primary is gone: fenced, crashed, or only cut off. Its data stays as it is.
    fn lose_primary(&mut self, crashed: bool) {
        if let Some(primary) = self.primary.take() {
            self.nodes[primary.at].up = !crashed;
        }
        for node in &mut self.nodes {
            (node.streams, node.told) = (false, None);
        }
    }

    // ---- what happens ------------------------------------------------------------------------------------------------

    /// The nodes that `event` can happen to.
    fn concerned(&self, event: Event) -> Vec<usize> {
        let primary = self.primary.as_ref().map(|primary| primary.at);
        let fits = |at: usize, node: &Node| match event {
            Event::Receive | Event::Tell | Event::Disconnect => node.up && node.streams,
            Event::Connect => primary.is_some_and(|primary| primary != at) && node.up && !node.streams,
            Event::Write | Event::Move | Event::Settle | Event::RestartAgent | Event::PublishHistory | Event::LosePrimary => {
                primary == Some(at)
            }
            Event::Down => node.up && primary != Some(at),
            Event::Up => !node.up,
            Event::Race => primary.is_none() && node.up,
            Event::Arrive => !self.late.is_empty(),
            Event::Configure | Event::Tag => true,
        };
        self.nodes.iter().enumerate().filter(|(at, node)| fits(*at, node)).map(|(at, _)| at).collect()
    }

    fn event(&mut self) -> Result<(), Lost> {
        self.events += 1;
        let possible: Vec<(Event, u32, Vec<usize>)> = self
            .weights
            .iter()
            .map(|(event, weight)| (*event, *weight, self.concerned(*event)))
            .filter(|(_, _, nodes)| !nodes.is_empty())
            .collect();
        let mut drawn = self.dice.u32(0..possible.iter().map(|(_, weight, _)| weight).sum());
        let chosen = possible.iter().find(|(_, weight, _)| {
            let hit = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            hit
        });
        let Some((event, _, nodes)) = chosen else { return Ok(()) };
        let node = nodes[self.dice.usize(0..nodes.len())];
        match event {
            Event::Write => self.write(),
            Event::Receive => {
                let most = self.dice.usize(1..=6);
                self.receive(node, most);
                if self.dice.bool() {
                    self.tell(node);
                }
            }
            Event::Tell => self.tell(node),
            Event::Move => drop(self.make_move()),
            Event::Settle => self.settle_text(),
            Event::Arrive => self.arrive(),
            Event::Connect => self.connect(node),
            Event::Disconnect => (self.nodes[node].streams, self.nodes[node].told) = (false, None),
            Event::RestartAgent => {
                if let Some(primary) = &mut self.primary {
                    (primary.proof, primary.confirmed) = (Proof::default(), false);
                }
            }
            Event::PublishHistory => {
                if let Some(primary) = &self.primary {
                    self.history.clone_from(&self.nodes[primary.at].history);
                }
            }
            Event::LosePrimary => {
                let crashed = self.dice.bool();
                self.lose_primary(crashed);
            }
            Event::Down => {
                self.nodes[node].up = false;
                (self.nodes[node].streams, self.nodes[node].told) = (false, None);
            }
            Event::Up => self.nodes[node].up = true,
            Event::Configure => match self.dice.u8(0..8) {
                0 => {
                    let quorum = self.cfg.synchronous_mode == SyncMode::Quorum;
                    self.cfg.synchronous_mode = if quorum { SyncMode::On } else { SyncMode::Quorum };
                }
                1..4 => self.cfg.synchronous_node_count = self.dice.u32(1..=2),
                _ => self.cfg.synchronous_mode_strict = self.dice.bool(),
            },
            Event::Tag => {
                let nosync = self.dice.bool();
                self.members[node].record.tags.0.insert("nosync".to_owned(), nosync.into());
            }
            Event::Race => self.race(node, true)?,
        }
        Ok(())
    }

    /// Everybody connects, receives everything and says so.
    fn flow(&mut self) {
        for at in 0..self.nodes.len() {
            if !self.nodes[at].streams {
                self.connect(at);
            }
            self.receive(at, 10_000);
            self.tell(at);
        }
    }

    /// Everything is up and connected from now on: how many moves the goal takes.
    fn settle(&mut self) -> Result<usize, Lost> {
        for at in 0..self.nodes.len() {
            self.nodes[at].up = true;
            self.members[at].record.tags.0.clear();
        }
        self.late_writes = false;
        while !self.late.is_empty() {
            self.arrive();
        }
        for _ in 0..2 {
            for at in 0..self.nodes.len() {
                self.race(at, false)?;
            }
        }
        if self.primary.is_none() {
            return Err(Lost::Leader { sync: self.sync.clone() });
        }
        // What a change of the mode leaves behind takes one move more.
        let primary = self.primary.as_ref();
        let mixed = primary.is_some_and(|primary| match self.cfg.synchronous_mode {
            SyncMode::Quorum => primary.names.kind == Kind::Priority,
            _ => primary.names.kind == Kind::Quorum || self.sync.quorum > 0,
        });
        let (mut moves, mut idle) = (0_usize, 0);
        self.settle_text();
        self.flow();
        while idle < 3 {
            if self.make_move() {
                (moves, idle) = (moves + 1, 0);
            } else {
                idle += 1;
            }
            self.settle_text();
            self.flow();
            assert!(moves < 20, "the goal is not reached: /sync {:?}, {:?}", self.sync, self.primary.as_ref().map(|primary| &primary.text));
        }
        self.late_writes = true;
        Ok(moves.saturating_sub(usize::from(mixed)))
    }
}

/// One history; how many moves led to the goal at its end, or what was lost.
fn live(seed: u64, rules: Rules) -> Result<usize, Lost> {
    let mut world = World::new(seed, rules);
    if world.dice.u8(0..4) != 0 {
        world.settle()?;
    }
    let events = world.dice.usize(30..200);
    for _ in 0..events {
        world.event()?;
        if rules == ALL {
            world.check_safety()?;
        }
    }
    let moves = world.settle()?;
    let primary = world.primary.as_ref().expect("somebody leads");
    let others = world.nodes.len() - 1;
    let wanted = usize::try_from(world.cfg.synchronous_node_count).expect("small").min(others);
    let (listed, quorum) = match world.cfg.synchronous_mode {
        SyncMode::Quorum => (others, others - wanted),
        _ => (wanted, 0),
    };
    assert_eq!((world.sync.standbys.len(), world.sync.quorum), (listed, u64::try_from(quorum).expect("small")), "seed {seed}");
    assert_eq!((primary.names.names.len(), primary.names.number), (listed, wanted), "seed {seed}");
    Ok(moves)
}

/// Tries `seeds` histories on all processors; the first loss, and the most moves that a goal took.
fn try_histories(seeds: u64, rules: Rules) -> Result<usize, (u64, Lost)> {
    let workers = std::thread::available_parallelism().map_or(1, |count| u64::try_from(count.get()).unwrap_or(1));
    let results: Vec<Result<usize, (u64, Lost)>> = std::thread::scope(|scope| {
        let work = |first: u64| {
            let mut most = 0;
            for seed in (first..seeds).step_by(usize::try_from(workers).unwrap_or(1)) {
                most = most.max(live(seed, rules).map_err(|lost| (seed, lost))?);
            }
            Ok(most)
        };
        let handles: Vec<_> = (0..workers).map(|first| scope.spawn(move || work(first))).collect();
        handles.into_iter().map(|handle| handle.join().expect("a history panicked")).collect()
    });
    results.into_iter().try_fold(0, |most, result| result.map(|moves| most.max(moves)))
}

#[test]
fn ten_thousand_histories_lose_no_acknowledged_commit_and_reach_their_goal() {
    match try_histories(10_000, ALL) {
        Ok(moves) => assert!(moves <= 3, "{moves} moves to the goal"),
        Err((seed, lost)) => panic!("seed {seed}: {lost:?}"),
    }
}

/// Some history loses a commit under `rules`.
fn commits_are_lost(rules: Rules) {
    match try_histories(10_000, rules) {
        Err((_, Lost::Commit { .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_comparing_timelines_commits_are_lost() {
    commits_are_lost(Rules { lineage: false, ..ALL });
}

#[test]
fn without_a_fresh_proof_at_every_change_commits_are_lost() {
    commits_are_lost(Rules { fresh_proof: false, ..ALL });
}

#[test]
fn without_rewriting_the_key_before_a_promotion_commits_are_lost() {
    commits_are_lost(Rules { key_before_promotion: false, ..ALL });
}

#[test]
fn with_a_verdict_on_an_older_key_commits_are_lost() {
    commits_are_lost(Rules { bound_verdict: false, ..ALL });
}

#[test]
fn with_a_key_that_is_built_on_while_a_write_is_under_way_commits_are_lost() {
    commits_are_lost(Rules { confirmed_key: false, ..ALL });
}

#[test]
fn with_a_proof_before_commits_wait_commits_are_lost() {
    commits_are_lost(Rules { text_in_force: false, ..ALL });
}
