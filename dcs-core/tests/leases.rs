//! The one promise that everything stands on: two members never hold a valid lease at the same time, whatever the
//! network does. Checked over the store in memory with faults, in paused time; one seed is one history.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dcs_core::adapter::KeyValueDcs;
use dcs_core::fault::{Connection, FaultyStore, Odds, Plan};
use dcs_core::keys::ClusterPath;
use dcs_core::memory::Server;
use dcs_core::model::{Lsn, MemberRecord, Status};
use dcs_core::{Acquisition, Clock, Dcs, Deadline, Fate, Interest, LeaderLease, Moment, Renewal, Timing, TokioClock};

const TIMING: Timing = Timing { ttl: Duration::from_secs(20), loop_wait: Duration::from_secs(5), retry_timeout: Duration::from_secs(5) };
const MEMBERS: usize = 3;
const STEPS: usize = 120;

/// What every member believes, and what went wrong with it.
#[derive(Default)]
struct Beliefs {
    leases: [Option<LeaderLease>; MEMBERS],
    terms: usize,
    contradictions: Vec<String>,
}

impl Beliefs {
    fn believe(&mut self, member: usize, lease: LeaderLease, now: Moment) {
        self.terms += usize::from(self.leases[member].is_none_or(|lease| !lease.is_valid(now)));
        self.leases[member] = Some(lease);
        for (other, held) in self.leases.iter().enumerate() {
            if other != member && lease.is_valid(now) && held.is_some_and(|held| held.is_valid(now)) {
                self.contradictions.push(format!("{now:?}: members {member} and {other} both hold the lock"));
            }
        }
    }
}

/// One member that does what comes into its head, but stops believing before it releases and when it is told "lost".
async fn member(index: usize, seed: u64, plan: Plan, server: Arc<Server>, beliefs: Arc<Mutex<Beliefs>>) {
    let mut rng = fastrand::Rng::with_seed(seed ^ (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let clock = Arc::clone(server.clock());
    let connect = |seed| {
        let store = FaultyStore::new(server.client(TIMING), plan.clone());
        let name = format!("member{index}").into();
        KeyValueDcs::new(store, Arc::clone(&clock), ClusterPath::new(None, "demo"), name, TIMING).with_seed(seed)
    };
    let mut dcs = connect(seed);
    for step in 0..STEPS {
        let deadline = Deadline::after(TIMING.retry_timeout);
        let patience = Duration::from_millis(rng.u64(1..8_000));
        match rng.u32(0..100) {
            0..30 => {
                let attempt = dcs.attempt_to_acquire_leader(deadline);
                if let Ok(Ok(Acquisition::Won(lease))) = tokio::time::timeout(patience, attempt).await {
                    beliefs.lock().unwrap().believe(index, lease, clock.now());
                }
            }
            30..60 => {
                let Ok(view) = dcs.load(deadline).await else { continue };
                let Some(leader) = view.leader.filter(|leader| leader.name == format!("member{index}")[..]) else {
                    // Somebody else was seen to lead, or nobody: the lease of ours, if any, ends by itself.
                    continue;
                };
                match tokio::time::timeout(patience, dcs.renew_leader(&leader, deadline)).await {
                    Ok(Ok(Renewal::Renewed(lease))) => beliefs.lock().unwrap().believe(index, lease, clock.now()),
                    Ok(Ok(Renewal::Lost)) => beliefs.lock().unwrap().leases[index] = None,
                    Ok(Err(error)) => assert!(matches!(error.fate, Fate::Unknown | Fate::NotApplied)),
                    Err(_) => {}
                }
            }
            60..70 => {
                beliefs.lock().unwrap().leases[index] = None;
                let _ = tokio::time::timeout(patience, dcs.release_leader(Some(Lsn(step as u64)), deadline)).await;
            }
            70..85 => {
                let record = MemberRecord { timeline: None, pause: rng.bool(), ..MemberRecord::default() };
                let _ = tokio::time::timeout(patience, dcs.touch_member(&record, deadline)).await;
            }
            85..90 => {
                let status = Status { last_lsn: Lsn(step as u64), ..Status::default() };
                let _ = dcs.write_status(&status, false, deadline).await;
            }
            90..93 => {
                let ttl = Duration::from_secs(rng.u64(20..30));
                let lease = &mut beliefs.lock().unwrap().leases[index];
                *lease = lease.map(|lease| lease.shortened_to(ttl));
                dcs.set_timing(Timing { ttl, ..TIMING });
            }
            // The process dies with its beliefs and is started again.
            93..95 => {
                beliefs.lock().unwrap().leases[index] = None;
                dcs = connect(seed + step as u64);
            }
            95..97 => {
                plan.set_connection(if rng.bool() { Connection::Cut } else { Connection::Silent });
                tokio::time::sleep(Duration::from_millis(rng.u64(100..40_000))).await;
                plan.set_connection(Connection::Up);
            }
            _ => {
                dcs.wait(Interest::FOLLOWER, patience).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(0..3_000))).await;
    }
}

async fn history(seed: u64) -> Beliefs {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
    let server = Server::new(clock);
    let beliefs = Arc::new(Mutex::new(Beliefs::default()));
    let odds = Odds {
        drop_request: 0.05,
        drop_answer: 0.05,
        duplicate: 0.05,
        refuse: 0.05,
        late: 0.05,
        delay: 0.2,
        longest: Duration::from_secs(8),
    };
    let members = (0..MEMBERS).map(|index| {
        let plan = Plan::by_chance(Duration::from_millis(1_500), seed.wrapping_mul(31) + index as u64, odds);
        member(index, seed, plan, Arc::clone(&server), Arc::clone(&beliefs))
    });
    futures::future::join_all(members).await;
    std::mem::take(&mut *beliefs.lock().unwrap())
}

fn run(seed: u64) -> Beliefs {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(history(seed))
}

#[test]
fn two_members_never_hold_a_valid_lease_at_the_same_time() {
    // One history again, or more of them than usual.
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, last) = match number("QUORATE_SEED") {
        Some(seed) => (seed, seed),
        None => (0, number("QUORATE_SEEDS").unwrap_or(300)),
    };
    let mut terms = 0;
    for seed in first..=last {
        let beliefs = run(seed);
        assert!(beliefs.contradictions.is_empty(), "QUORATE_SEED={seed}: {:#?}", beliefs.contradictions);
        terms += beliefs.terms;
    }
    assert!(terms as u64 > 5 * (last - first + 1), "only {terms} terms: the histories show nothing");
}

#[test]
fn one_seed_is_one_history() {
    assert_eq!(run(7).leases, run(7).leases);
}
