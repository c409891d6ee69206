//! What an election promises, over the store in memory with faults and in paused time.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

mod simulation;

use std::sync::Arc;
use std::time::Duration;

use dcs_core::adapter::KeyValueDcs;
use dcs_core::election::{Election, Leadership, Lost, Seen};
use dcs_core::fault::{Call, Connection, Fault, FaultyStore, Plan};
use dcs_core::keys::ClusterPath;
use dcs_core::memory::Server;
use dcs_core::{Deadline, ErrorKind, Expect, KeyValueStore, Timing, TokioClock};
use tokio::time::{Instant, timeout};

const TIMING: Timing = Timing { ttl: Duration::from_secs(20), loop_wait: Duration::from_secs(5), retry_timeout: Duration::from_secs(5) };
/// The margin that is used unless another one is asked for.
const MARGIN: Duration = Duration::from_secs(2);
/// How long one request waits for its answer.
const ATTEMPT: Duration = Duration::from_millis(1_500);
const LOCK: &str = "/service/task/leader";

fn server() -> Arc<Server> {
    Server::new(Arc::new(TokioClock::default()))
}

/// A candidate whose connection to the store is as `plan` says.
fn candidate(server: &Arc<Server>, name: &str, plan: &Plan) -> Election {
    let clock = Arc::clone(server.clock());
    let store = FaultyStore::new(server.client(TIMING), plan.clone());
    let dcs = KeyValueDcs::new(store, Arc::clone(&clock), ClusterPath::new(None, "task"), name.into(), TIMING).with_seed(1);
    Election::start(Arc::new(dcs), name.into(), clock, TIMING)
}

/// A plan by which nothing goes wrong yet.
fn plan() -> Plan {
    Plan::new(ATTEMPT)
}

/// Whose name is on the lock.
fn owner(server: &Server) -> Option<String> {
    server.entries().into_iter().find(|entry| entry.key == LOCK).map(|entry| String::from_utf8(entry.value).unwrap())
}

/// Wins an election that nothing stands in the way of.
async fn wins(election: &Election) -> Leadership {
    timeout(Duration::from_secs(1), election.campaign()).await.expect("a free lock is won at once").unwrap()
}

/// Waits until a leadership is over, which must be before its last lease can have ended.
async fn loses(leadership: &Leadership) -> Lost {
    timeout(TIMING.ttl, leadership.lost()).await.expect("a leadership that is not renewed ends before its lease")
}

#[tokio::test(start_paused = true)]
async fn who_is_alone_leads_at_once_with_a_lease_counted_from_before_it_was_asked_for() {
    let server = server();
    let plan = plan();
    let alice = candidate(&server, "alice", &plan);
    let asked = server.clock().now();
    plan.next(Some(Call::Acquire), Fault::Delay(Duration::from_millis(700)));
    let leadership = wins(&alice).await;
    let lease = leadership.lease().unwrap();
    assert!(server.clock().now() >= asked + Duration::from_millis(700));
    assert!(lease.valid_until() <= asked + TIMING.ttl, "{lease:?}");
    assert_eq!(owner(&server).as_deref(), Some("alice"));
}

#[tokio::test(start_paused = true)]
async fn a_leader_goes_on_for_as_long_as_it_is_there() {
    let server = server();
    let alice = candidate(&server, "alice", &plan());
    let leadership = wins(&alice).await;
    let held = leadership.hold(tokio::time::sleep(TIMING.ttl * 100)).await;
    assert_eq!(held, Ok(()));
    assert!(leadership.lease().unwrap().remaining(server.clock().now()) >= TIMING.ttl - TIMING.loop_wait - Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn resigning_lets_the_next_one_in_at_once() {
    let server = server();
    let (alice, bob) = (candidate(&server, "alice", &plan()), candidate(&server, "bob", &plan()));
    let leadership = wins(&alice).await;
    let waiting = tokio::spawn(async move { bob.campaign().await });
    tokio::time::sleep(TIMING.loop_wait / 2).await;
    assert!(!waiting.is_finished());
    let resigned = Instant::now();
    leadership.resign().await.unwrap();
    let leadership = waiting.await.unwrap().unwrap();
    assert!(resigned.elapsed() < Duration::from_millis(100), "{:?}: woken, not found by polling", resigned.elapsed());
    assert!(leadership.lease().is_ok());
    assert_eq!(owner(&server).as_deref(), Some("bob"));
}

#[tokio::test(start_paused = true)]
async fn who_has_resigned_lets_others_go_first_but_not_for_long() {
    let server = server();
    let plan = plan();
    let (alice, bob) = (candidate(&server, "alice", &self::plan()), candidate(&server, "bob", &plan));
    let leadership = wins(&alice).await;
    // Whatever bob is told and says takes a while.
    plan.always(Some(Fault::Delay(Duration::from_millis(200))));
    let waiting = tokio::spawn(async move { (bob.campaign().await.unwrap(), bob) });
    tokio::time::sleep(TIMING.loop_wait / 2).await;
    leadership.resign().await.unwrap();
    let again = tokio::spawn(async move { (alice.campaign().await.unwrap(), alice) });
    let (leadership, _bob) = timeout(TIMING.loop_wait, waiting).await.expect("bob is next").unwrap();
    assert!(!again.is_finished());
    leadership.resign().await.unwrap();
    let (leadership, alice) = timeout(TIMING.loop_wait, again).await.expect("then alice").unwrap();
    leadership.resign().await.unwrap();
    let resigned = Instant::now();
    let _leadership = timeout(TIMING.loop_wait, alice.campaign()).await.expect("nobody else wants to").unwrap();
    assert!(resigned.elapsed() <= Duration::from_millis(1_100), "{:?}", resigned.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_leadership_keeps_others_out_until_its_lease_has_ended() {
    let server = server();
    let (alice, bob) = (candidate(&server, "alice", &plan()), candidate(&server, "bob", &plan()));
    let leadership = wins(&alice).await;
    tokio::time::sleep(TIMING.loop_wait * 3).await;
    let lease = leadership.lease().unwrap();
    drop(leadership);
    let won = bob.campaign().await.unwrap();
    assert!(won.lease().unwrap().sent_at() >= lease.valid_until());
    assert!(server.clock().now() <= lease.valid_until() + Duration::from_secs(1), "and no longer");
}

#[tokio::test(start_paused = true)]
async fn the_same_candidate_leads_again_only_after_what_it_dropped_has_ended() {
    let server = server();
    let alice = candidate(&server, "alice", &plan());
    let leadership = wins(&alice).await;
    let lease = leadership.lease().unwrap();
    // A second campaign waits for its turn even while the first leadership is there.
    assert!(timeout(TIMING.ttl * 3, alice.campaign()).await.is_err());
    let latest = leadership.lease().unwrap();
    assert!(latest.valid_until() > lease.valid_until());
    drop(leadership);
    let again = alice.campaign().await.unwrap();
    assert!(again.lease().unwrap().sent_at() >= latest.valid_until());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_a_margin_before_its_lease_ends_and_before_anybody_else_leads() {
    for connection in [Connection::Cut, Connection::Silent] {
        let server = server();
        let plan = plan();
        let (alice, bob) = (candidate(&server, "alice", &plan), candidate(&server, "bob", &self::plan()));
        let leadership = wins(&alice).await;
        let campaign = tokio::spawn(async move { (bob.campaign().await.unwrap(), bob) });
        tokio::time::sleep(TIMING.loop_wait * 5).await;
        let lease = leadership.lease().unwrap();
        plan.set_connection(connection);
        assert_eq!(loses(&leadership).await, Lost::NotRenewed);
        let now = server.clock().now();
        assert_eq!(lease.valid_until().saturating_since(now), MARGIN, "{connection:?}: {lease:?} lost at {now:?}");
        assert_eq!(leadership.lease(), Err(Lost::NotRenewed));
        let (next, _bob) = campaign.await.unwrap();
        assert!(next.lease().unwrap().sent_at() >= lease.valid_until());
    }
}

#[tokio::test(start_paused = true)]
async fn the_margin_is_as_long_as_the_work_needs_but_never_more_than_half_of_the_lease() {
    for (asked, given) in [(Duration::ZERO, Duration::ZERO), (Duration::from_secs(7), Duration::from_secs(7)), (TIMING.ttl, TIMING.ttl / 2)]
    {
        let server = server();
        let plan = plan();
        let alice = candidate(&server, "alice", &plan).with_margin(asked);
        let leadership = wins(&alice).await;
        let lease = leadership.lease().unwrap();
        plan.set_connection(Connection::Silent);
        loses(&leadership).await;
        assert_eq!(lease.valid_until().saturating_since(server.clock().now()), given);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_is_not_found_again() {
    let server = server();
    let plan = plan();
    let alice = candidate(&server, "alice", &plan);
    let leadership = wins(&alice).await;
    let lease = leadership.lease().unwrap();
    plan.set_connection(Connection::Silent);
    // Nobody asks while it runs out, and the store is back before the lock itself expires.
    tokio::time::sleep(lease.remaining(server.clock().now()) - MARGIN / 2).await;
    plan.set_connection(Connection::Up);
    tokio::time::sleep(TIMING.loop_wait).await;
    assert_eq!(leadership.lease(), Err(Lost::NotRenewed));
}

#[tokio::test(start_paused = true)]
async fn work_ends_with_the_leadership() {
    let server = server();
    let plan = plan();
    let alice = candidate(&server, "alice", &plan);
    let leadership = wins(&alice).await;
    plan.set_connection(Connection::Cut);
    let (mut steps, clock) = (0, server.clock());
    let lease = leadership.lease().unwrap();
    let work = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            steps += 1;
            assert!(lease.is_valid(clock.now()));
        }
    };
    assert_eq!(leadership.hold::<()>(work).await, Err(Lost::NotRenewed));
    assert!(steps > 100, "{steps}");
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_taken_away_ends_the_leadership_as_soon_as_it_is_seen() {
    let server = server();
    let alice = candidate(&server, "alice", &plan());
    for taken_by in [None, Some("mallory")] {
        let leadership = wins(&alice).await;
        // Between two renewals, so that only the watch can tell.
        tokio::time::sleep(TIMING.loop_wait / 2).await;
        let hand = server.client(TIMING);
        let deadline = Deadline::after(TIMING.retry_timeout);
        match taken_by {
            None => drop(hand.delete(LOCK, Expect::Any, deadline).await.unwrap()),
            Some(name) => drop(hand.put(LOCK, name.as_bytes(), Expect::Any, deadline).await.unwrap()),
        }
        let begun = Instant::now();
        assert_eq!(loses(&leadership).await, Lost::TakenAway);
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        assert_eq!(leadership.lease(), Err(Lost::TakenAway));
        assert_eq!(owner(&server).as_deref(), taken_by, "and is not taken back");
        leadership.resign().await.unwrap();
        assert_eq!(owner(&server).as_deref(), taken_by, "nor released for somebody else");
    }
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_without_an_answer_is_not_leadership_until_the_store_confirms_it() {
    let server = server();
    let plan = plan();
    let alice = candidate(&server, "alice", &plan);
    plan.next(Some(Call::Acquire), Fault::DropAnswer);
    // Nothing more gets through until the operation has failed.
    let campaign = alice.campaign();
    let mut campaign = std::pin::pin!(campaign);
    assert!(timeout(Duration::from_secs(1), &mut campaign).await.is_err());
    plan.set_connection(Connection::Silent);
    assert_eq!(owner(&server).as_deref(), Some("alice"), "the lock is its own, and it does not know");
    assert!(timeout(TIMING.retry_timeout, &mut campaign).await.is_err());
    plan.set_connection(Connection::Up);
    let leadership = timeout(TIMING.loop_wait, campaign).await.expect("the lock of its own is recognized").unwrap();
    assert!(leadership.lease().unwrap().valid_until() <= server.clock().now() + TIMING.ttl);
}

#[tokio::test(start_paused = true)]
async fn renewals_without_an_answer_prolong_nothing() {
    let server = server();
    let plan = plan();
    let alice = candidate(&server, "alice", &plan);
    let leadership = wins(&alice).await;
    let lease = leadership.lease().unwrap();
    // The store can be read, and every renewal is carried out. Only nobody hears of it.
    for _ in 0..100 {
        plan.next(Some(Call::Renew), Fault::DropAnswer);
    }
    assert_eq!(loses(&leadership).await, Lost::NotRenewed);
    assert_eq!(lease.valid_until().saturating_since(server.clock().now()), MARGIN);
    assert_eq!(owner(&server).as_deref(), Some("alice"));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_counts_from_before_it_was_sent() {
    let server = server();
    let plan = plan();
    let alice = candidate(&server, "alice", &plan);
    let leadership = wins(&alice).await;
    let (first, delay) = (leadership.lease().unwrap(), Duration::from_millis(1_400));
    plan.next(Some(Call::Renew), Fault::Delay(delay));
    tokio::time::sleep(TIMING.loop_wait + delay * 2).await;
    let second = leadership.lease().unwrap();
    let sent = first.sent_at() + TIMING.loop_wait;
    assert!(second.sent_at() >= sent && second.sent_at() < sent + delay / 2, "{first:?}, then {second:?}");
    assert_eq!(second.valid_until(), second.sent_at() + TIMING.ttl);
}

#[tokio::test(start_paused = true)]
async fn a_campaign_that_is_given_up_leaves_no_lock_behind() {
    for fault in [None, Some(Fault::DropAnswer), Some(Fault::Delay(Duration::from_millis(900)))] {
        let server = server();
        let plan = plan();
        let (alice, bob) = (candidate(&server, "alice", &plan), candidate(&server, "bob", &self::plan()));
        if let Some(fault) = fault {
            plan.next(Some(Call::Acquire), fault);
            assert!(timeout(Duration::from_millis(500), alice.campaign()).await.is_err());
        } else {
            let mut campaign = Box::pin(alice.campaign());
            // Up to the point where the lock is taken, and no further.
            while owner(&server).is_none() {
                assert!(futures::poll!(&mut campaign).is_pending());
                tokio::task::yield_now().await;
            }
            drop(campaign);
        }
        timeout(TIMING.retry_timeout * 2, bob.campaign()).await.unwrap_or_else(|_| panic!("{fault:?}: {:?}", owner(&server))).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_campaign_waits_for_a_store_that_is_away() {
    let server = server();
    let plan = plan();
    plan.set_connection(Connection::Silent);
    let alice = candidate(&server, "alice", &plan);
    let mut campaign = std::pin::pin!(alice.campaign());
    assert!(timeout(TIMING.ttl * 10, &mut campaign).await.is_err());
    plan.set_connection(Connection::Up);
    timeout(TIMING.loop_wait, campaign).await.expect("soon after the store is back").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_access_ends_the_campaign_but_not_a_leadership() {
    let server = server();
    let plan = plan();
    let alice = candidate(&server, "alice", &plan);
    plan.always(Some(Fault::Deny));
    let error = timeout(TIMING.ttl, alice.campaign()).await.expect("no use to wait").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    plan.always(None);
    let leadership = wins(&alice).await;
    plan.always(Some(Fault::Deny));
    tokio::time::sleep(TIMING.loop_wait * 2).await;
    plan.always(None);
    // Somebody has mended the password before the lease was over.
    let held = leadership.hold(tokio::time::sleep(TIMING.ttl * 2)).await;
    assert_eq!(held, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_release_without_an_answer_is_said_and_tried_again() {
    let server = server();
    let plan = plan();
    let (alice, bob) = (candidate(&server, "alice", &plan), candidate(&server, "bob", &self::plan()));
    let leadership = wins(&alice).await;
    plan.set_connection(Connection::Cut);
    let error = leadership.resign().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(owner(&server).as_deref(), Some("alice"));
    plan.set_connection(Connection::Up);
    timeout(Duration::from_secs(2), bob.campaign()).await.expect("released as soon as the store is back").unwrap();
}

#[tokio::test(start_paused = true)]
async fn observers_see_who_leads_and_when_that_is_not_known() {
    let server = server();
    let plan = plan();
    let watcher = candidate(&server, "watcher", &plan);
    let (alice, bob) = (candidate(&server, "alice", &self::plan()), candidate(&server, "bob", &self::plan()));
    let mut observer = watcher.observe();
    assert_eq!(observer.next().await, Some(Seen::Unknown));
    assert_eq!(observer.next().await, Some(Seen::Nobody));
    let leadership = wins(&alice).await;
    assert_eq!(observer.next().await, Some(Seen::Leader("alice".into())));
    leadership.resign().await.unwrap();
    assert_eq!(observer.next().await, Some(Seen::Nobody));
    let leadership = wins(&bob).await;
    assert_eq!(observer.next().await, Some(Seen::Leader("bob".into())));
    plan.set_connection(Connection::Silent);
    assert!(timeout(TIMING.ttl, observer.next()).await.is_err(), "a store that is away for a moment changes nothing");
    assert_eq!(observer.next().await, Some(Seen::Unknown));
    leadership.resign().await.unwrap();
    plan.set_connection(Connection::Up);
    assert_eq!(observer.next().await, Some(Seen::Nobody));
    watcher.leave().await;
    assert_eq!(observer.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_has_let_go_of_the_lock() {
    let server = server();
    let alice = candidate(&server, "alice", &plan());
    let leadership = wins(&alice).await;
    let lease = leadership.lease().unwrap();
    leadership.resign().await.unwrap();
    let begun = Instant::now();
    alice.leave().await;
    assert!(begun.elapsed() < Duration::from_millis(100));
    assert_eq!(owner(&server), None);

    let alice = candidate(&server, "alice", &plan());
    let leadership = wins(&alice).await;
    drop(leadership);
    alice.leave().await;
    assert_eq!(owner(&server), None);
    assert!(server.clock().now() >= lease.valid_until(), "not before the lease has ended");
}

#[tokio::test(start_paused = true)]
async fn a_lock_with_our_name_from_an_earlier_process_is_left_to_expire() {
    let server = server();
    let plan = plan();
    let earlier = candidate(&server, "alice", &plan);
    let leadership = wins(&earlier).await;
    let lease = leadership.lease().unwrap();
    // The process is gone: nothing of it reaches the store any more.
    plan.set_connection(Connection::Cut);
    let later = candidate(&server, "alice", &self::plan());
    let won = timeout(TIMING.ttl * 2, later.campaign()).await.unwrap().unwrap();
    assert!(won.lease().unwrap().sent_at() >= lease.valid_until());
}

#[tokio::test(start_paused = true)]
async fn an_idle_leader_reads_and_renews_once_a_cycle_and_an_idle_candidate_only_reads() {
    let server = server();
    let (leader, candidate_plan) = (plan(), plan());
    let (alice, bob) = (candidate(&server, "alice", &leader), candidate(&server, "bob", &candidate_plan));
    let _leadership = wins(&alice).await;
    let _campaign = tokio::spawn(async move { bob.campaign().await });
    tokio::time::sleep(TIMING.loop_wait).await;
    let before = (leader.calls(), candidate_plan.calls());
    tokio::time::sleep(TIMING.loop_wait * 100).await;
    let calls = (leader.calls() - before.0, candidate_plan.calls() - before.1);
    assert!((190..=202).contains(&calls.0), "a read and a renewal each: {calls:?}");
    assert!((95..=101).contains(&calls.1), "a read each: {calls:?}");
}
