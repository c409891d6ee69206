//! Five candidates, a network that loses, doubles and delays, partitions of each, and processes that come and go: at no
//! instant two of them hold a good proof. One seed is one history.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dcs_core::adapter::KeyValueDcs;
use dcs_core::election::{Election, Leadership};
use dcs_core::fault::{Connection, FaultyStore, Odds, Plan};
use dcs_core::keys::ClusterPath;
use dcs_core::memory::Server;
use dcs_core::{LeaderLease, Moment};
use tokio::time::timeout;

use super::{ATTEMPT, TIMING, server};

const CANDIDATES: usize = 5;
const STEPS: usize = 40;

/// The last proof that each candidate acted upon, and what went wrong with that.
#[derive(Default)]
struct Acts {
    proofs: [Option<LeaderLease>; CANDIDATES],
    leaderships: usize,
    lost: usize,
    contradictions: Vec<String>,
}

impl Acts {
    fn act(&mut self, candidate: usize, lease: LeaderLease, now: Moment) {
        if !lease.is_valid(now) {
            self.contradictions.push(format!("{now:?}: candidate {candidate} was given {lease:?}"));
        }
        for (other, proof) in self.proofs.iter().enumerate() {
            if other != candidate && proof.is_some_and(|proof| proof.is_valid(now)) {
                self.contradictions.push(format!("{now:?}: candidates {other} and {candidate} both lead"));
            }
        }
        self.proofs[candidate] = Some(lease);
    }
}

/// One candidate, through all of its processes.
struct Life {
    index: usize,
    rng: fastrand::Rng,
    server: Arc<Server>,
    acts: Arc<Mutex<Acts>>,
    odds: Odds,
    processes: u64,
}

impl Life {
    /// A new process with a connection of its own, under a name that no earlier one had.
    fn begin(&mut self) -> (Election, Plan) {
        self.processes += 1;
        let plan = Plan::by_chance(ATTEMPT, self.rng.u64(..), self.odds);
        let clock = Arc::clone(self.server.clock());
        let store = FaultyStore::new(self.server.client(TIMING), plan.clone());
        let name = format!("candidate{}.{}", self.index, self.processes);
        let dcs = KeyValueDcs::new(store, Arc::clone(&clock), ClusterPath::new(None, "task"), name.as_str().into(), TIMING)
            .with_seed(self.rng.u64(..));
        (Election::start(Arc::new(dcs), name.into(), clock, TIMING), plan)
    }

    fn span(&mut self, longest: u64) -> Duration {
        Duration::from_millis(self.rng.u64(1..longest))
    }

    async fn live(mut self) {
        let (mut election, mut plan) = self.begin();
        for _ in 0..STEPS {
            let patience = self.span(60_000);
            match self.rng.u32(0..100) {
                0..60 => {
                    if let Ok(Ok(leadership)) = timeout(patience, election.campaign()).await {
                        self.acts.lock().unwrap().leaderships += 1;
                        self.lead(leadership, &plan).await;
                    }
                }
                60..75 => self.cut(&plan).await,
                // The process dies: nothing more of it reaches the store, and it acts no more.
                75..85 => {
                    plan.set_connection(Connection::Cut);
                    self.acts.lock().unwrap().proofs[self.index] = None;
                    (election, plan) = self.begin();
                }
                _ => tokio::time::sleep(patience).await,
            }
        }
        plan.set_odds(Odds::default());
    }

    /// Acts as leader until it has enough, or until that is over.
    async fn lead(&mut self, leadership: Leadership, plan: &Plan) {
        let clock = Arc::clone(self.server.clock());
        for _ in 0..self.rng.u32(1..30) {
            let Ok(lease) = leadership.lease() else { break };
            self.acts.lock().unwrap().act(self.index, lease, clock.now());
            if self.rng.u32(0..20) == 0 {
                self.cut(plan).await;
            }
            let pause = self.span(6_000);
            if let Ok(lost) = timeout(pause, leadership.lost()).await {
                let now = clock.now();
                let mut acts = self.acts.lock().unwrap();
                acts.lost += 1;
                if leadership.lease() != Err(lost) {
                    acts.contradictions.push(format!("{now:?}: candidate {} has found again what it had lost", self.index));
                }
                break;
            }
        }
        match self.rng.u32(0..3) {
            // It has stopped acting, and says so.
            0 => {
                self.acts.lock().unwrap().proofs[self.index] = None;
                let _ = timeout(self.span(10_000), leadership.resign()).await;
            }
            // It has not stopped: something that it started goes on for as long as the proof allows.
            1 => drop(leadership),
            // It works on, as long as it may.
            _ => drop(leadership.hold(tokio::time::sleep(self.span(30_000))).await),
        }
    }

    async fn cut(&mut self, plan: &Plan) {
        plan.set_connection(if self.rng.bool() { Connection::Cut } else { Connection::Silent });
        tokio::time::sleep(self.span(40_000)).await;
        plan.set_connection(Connection::Up);
    }
}

async fn history(seed: u64) -> Acts {
    let server = server();
    let acts = Arc::new(Mutex::new(Acts::default()));
    let odds = Odds {
        drop_request: 0.05,
        drop_answer: 0.05,
        duplicate: 0.05,
        refuse: 0.05,
        late: 0.05,
        delay: 0.2,
        longest: Duration::from_secs(8),
    };
    let lives = (0..CANDIDATES).map(|index| {
        let rng = fastrand::Rng::with_seed(seed ^ (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Life { index, rng, server: Arc::clone(&server), acts: Arc::clone(&acts), odds, processes: 0 }.live()
    });
    futures::future::join_all(lives).await;
    // Whatever happened, whoever comes now leads when the last lock has expired.
    let (last, _) =
        Life { index: 0, rng: fastrand::Rng::with_seed(seed), server, acts: Arc::clone(&acts), odds: Odds::default(), processes: 1_000 }
            .begin();
    if timeout(TIMING.ttl * 3, last.campaign()).await.is_err() {
        acts.lock().unwrap().contradictions.push("nobody can lead any more".to_owned());
    }
    std::mem::take(&mut *acts.lock().unwrap())
}

fn run(seed: u64) -> Acts {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(history(seed))
}

#[test]
fn at_no_instant_two_candidates_lead() {
    // One history again, or more of them than usual.
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, last) = match number("QUORATE_SEED") {
        Some(seed) => (seed, seed),
        None => (0, number("QUORATE_SEEDS").unwrap_or(60)),
    };
    let (mut leaderships, mut lost) = (0, 0);
    for seed in first..=last {
        let acts = run(seed);
        assert!(acts.contradictions.is_empty(), "QUORATE_SEED={seed}: {:#?}", acts.contradictions);
        leaderships += acts.leaderships;
        lost += acts.lost;
    }
    let histories = (last - first + 1) as usize;
    println!("{histories} histories, {leaderships} leaderships, {lost} of them lost");
    assert!(leaderships > 5 * histories && lost > histories, "{leaderships} leaderships, {lost} lost: the histories show nothing");
}

#[test]
fn one_seed_is_one_history() {
    let (one, other) = (run(7), run(7));
    assert_eq!((one.proofs, one.leaderships, one.lost), (other.proofs, other.leaderships, other.lost));
}
