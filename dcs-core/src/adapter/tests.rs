//! The adapter over the store in memory, with faults and with paused time.

use std::sync::Arc;
use std::time::Duration;

use crate::adapter::KeyValueDcs;
use crate::fault::{Call, Connection, Fault, FaultyStore, Odds, Plan};
use crate::keys::{ClusterPath, Key};
use crate::memory::Server;
use crate::model::{FailoverRequest, Leader, Lsn, MemberRecord, Status, SyncRecord};
use crate::{
    Acquisition, Clock, Consistency, Dcs, Deadline, Entry, Error, ErrorKind, Expect, Fate as Fates, InitializeWrite, Interest,
    KeyValueStore, LockRenewal, MemberInterest, Renewal, Timing, TokioClock, Touched, Wake, Write,
};

const TTL: Duration = Duration::from_secs(20);
const ATTEMPT: Duration = Duration::from_millis(1_500);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn timing() -> Timing {
    Timing { ttl: TTL, loop_wait: secs(5), retry_timeout: secs(5) }
}

fn soon() -> Deadline {
    Deadline::after(secs(5))
}

/// Two members of one cluster; the calls of `a` go through `plan`.
struct World {
    server: Arc<Server>,
    clock: Arc<dyn Clock>,
    plan: Plan,
    a: KeyValueDcs,
    b: KeyValueDcs,
}

impl World {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let server = Server::new(Arc::clone(&clock));
        let plan = Plan::new(ATTEMPT);
        let a = Self::member(&server, &plan, "a");
        let b = Self::member(&server, &Plan::new(ATTEMPT), "b");
        Self { server, clock, plan, a, b }
    }

    fn member(server: &Arc<Server>, plan: &Plan, name: &str) -> KeyValueDcs {
        let store = FaultyStore::new(server.client(timing()), plan.clone());
        KeyValueDcs::new(store, Arc::clone(server.clock()), path(), name.into(), timing()).with_seed(7)
    }

    /// The hand of somebody else in the store.
    fn outside(&self) -> Arc<dyn KeyValueStore> {
        self.server.client(timing())
    }

    fn text(&self, key: Key<'_>) -> Option<String> {
        let key = path().key(key);
        let entry = self.server.entries().into_iter().find(|entry| entry.key == key)?;
        Some(String::from_utf8(entry.value).unwrap())
    }
}

fn path() -> ClusterPath {
    ClusterPath::new(None, "demo")
}

fn won(outcome: Result<Acquisition, Error>) -> bool {
    matches!(outcome, Ok(Acquisition::Won(_)))
}

async fn leader_of(dcs: &KeyValueDcs) -> Leader {
    dcs.load(soon()).await.unwrap().leader.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_an_applied_acquire_is_read_back_as_won() {
    let world = World::new();
    world.plan.next(Some(Call::Acquire), Fault::DropAnswer);
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
}

#[tokio::test(start_paused = true)]
async fn a_lost_request_is_sent_again() {
    let world = World::new();
    world.plan.next(Some(Call::Acquire), Fault::DropRequest);
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_and_then_no_way_to_look_is_unknown() {
    let world = World::new();
    world.plan.next(Some(Call::Acquire), Fault::DropAnswer);
    for _ in 0..20 {
        world.plan.next(None, Fault::DropRequest);
    }
    let error = world.a.attempt_to_acquire_leader(soon()).await.unwrap_err();
    assert_eq!((error.kind, error.fate), (ErrorKind::Unavailable, Fates::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_leaves_no_doubt() {
    let world = World::new();
    world.plan.set_connection(Connection::Cut);
    let error = world.a.attempt_to_acquire_leader(soon()).await.unwrap_err();
    assert_eq!((error.kind, error.fate), (ErrorKind::Unavailable, Fates::NotApplied));
}

#[tokio::test(start_paused = true)]
async fn every_operation_ends_by_its_deadline_when_nothing_answers() {
    let world = World::new();
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    let leader = leader_of(&world.a).await;
    world.plan.set_connection(Connection::Silent);
    for operation in ["load", "renew", "acquire", "release", "touch", "config"] {
        let begun = world.clock.now();
        let failed = match operation {
            "load" => world.a.load(soon()).await.is_err(),
            "renew" => world.a.renew_leader(&leader, soon()).await.is_err(),
            "acquire" => world.a.attempt_to_acquire_leader(soon()).await.is_err(),
            "release" => world.a.release_leader(Some(Lsn(1)), soon()).await.is_err(),
            "touch" => world.a.touch_member(&MemberRecord::default(), soon()).await.is_err(),
            _ => world.a.set_config(&serde_json::Map::new(), None, soon()).await.is_err(),
        };
        assert!(failed, "{operation}");
        let took = world.clock.now() - begun;
        assert!(took >= ATTEMPT && took <= secs(5) + Duration::from_millis(10), "{operation} took {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_waits_when_the_servers_come_back_succeeds() {
    let world = World::new();
    world.plan.set_connection(Connection::Silent);
    let plan = world.plan.clone();
    tokio::spawn(async move {
        tokio::time::sleep(secs(3)).await;
        plan.set_connection(Connection::Up);
    });
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_counted_from_before_the_request_was_sent() {
    let world = World::new();
    world.plan.next(Some(Call::Acquire), Fault::Delay(secs(1)));
    let sent = world.clock.now();
    let Acquisition::Won(lease) = world.a.attempt_to_acquire_leader(soon()).await.unwrap() else { panic!("lost") };
    assert_eq!((lease.sent_at(), lease.valid_until()), (sent, sent + TTL));

    tokio::time::sleep(secs(5)).await;
    let leader = leader_of(&world.a).await;
    world.plan.next(Some(Call::Renew), Fault::Delay(secs(1)));
    let sent = world.clock.now();
    let Renewal::Renewed(lease) = world.a.renew_leader(&leader, soon()).await.unwrap() else { panic!("lost") };
    assert_eq!((lease.sent_at(), lease.valid_until()), (sent, sent + TTL));
}

#[tokio::test(start_paused = true)]
async fn acquiring_again_does_not_extend_the_belief() {
    let world = World::new();
    let Acquisition::Won(first) = world.a.attempt_to_acquire_leader(soon()).await.unwrap() else { panic!("lost") };
    tokio::time::sleep(secs(2)).await;
    assert_eq!(world.a.attempt_to_acquire_leader(soon()).await.unwrap(), Acquisition::Won(first));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_takes_its_lock_over_by_renewal_and_not_by_acquiring() {
    let world = World::new();
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    world.a.touch_member(&MemberRecord::default(), soon()).await.unwrap();
    let before = leader_of(&world.b).await;

    let again = World::member(&world.server, &Plan::new(ATTEMPT), "a");
    assert_eq!(again.attempt_to_acquire_leader(soon()).await.unwrap(), Acquisition::Lost(Some("a".into())));
    assert!(matches!(again.renew_leader(&before, soon()).await, Ok(Renewal::Renewed(_))));
    assert_eq!(again.touch_member(&MemberRecord::default(), soon()).await.unwrap(), Touched::Written);
    let after = leader_of(&world.b).await;
    assert_ne!(before.handle, after.handle);

    tokio::time::sleep(TTL - secs(1)).await;
    assert!(matches!(again.renew_leader(&after, soon()).await, Ok(Renewal::Renewed(_))));
    tokio::time::sleep(secs(2)).await;
    let view = world.b.load(soon()).await.unwrap();
    assert_eq!((view.leader_name(), view.members.len()), (Some(&"a".into()), 1), "the old handle took nothing along");
}

#[tokio::test(start_paused = true)]
async fn releasing_writes_the_position_beside_the_slots_that_were_there() {
    let world = World::new();
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    let text = r#"{"optime":7,"slots":{"b":5},"retain_slots":["c"]}"#;
    world.outside().put("/service/demo/status", text.as_bytes(), Expect::Any, soon()).await.unwrap();
    assert!(world.a.release_leader(Some(Lsn(42)), soon()).await.unwrap());
    assert_eq!(world.text(Key::Status).unwrap(), r#"{"optime":42,"slots":{"b":5},"retain_slots":["c"]}"#);
    assert_eq!(world.text(Key::Leader), None);
}

#[tokio::test(start_paused = true)]
async fn releasing_what_one_does_not_hold_changes_nothing() {
    let world = World::new();
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    assert!(!world.b.release_leader(Some(Lsn(42)), soon()).await.unwrap());
    assert_eq!((world.text(Key::Leader).as_deref(), world.text(Key::Status)), (Some("a"), None));
}

#[tokio::test(start_paused = true)]
async fn a_release_whose_answer_got_lost_is_a_release() {
    let world = World::new();
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    world.plan.next(Some(Call::Release), Fault::DropAnswer);
    assert!(world.a.release_leader(None, soon()).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_release_that_comes_late_does_not_end_the_next_term() {
    let world = World::new();
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    world.plan.next(Some(Call::Release), Fault::Late(secs(4)));
    assert!(world.a.release_leader(None, soon()).await.unwrap(), "the second attempt did it");
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    tokio::time::sleep(secs(6)).await;
    assert_eq!(world.text(Key::Leader).as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_release_without_answer_is_finished_before_the_lock_is_believed_again() {
    // Found by seed 21 of tests/leases.rs: the release arrived after a renewal, which leaves the key as it is.
    let world = World::new();
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    let leader = leader_of(&world.a).await;
    world.plan.next(Some(Call::Release), Fault::Late(secs(8)));
    let release = world.a.release_leader(None, soon());
    assert!(tokio::time::timeout(secs(1), release).await.is_err());
    assert!(matches!(world.a.renew_leader(&leader, soon()).await, Ok(Renewal::Renewed(_))));
    tokio::time::sleep(secs(10)).await;
    assert_eq!(world.text(Key::Leader).as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_of_an_earlier_process_that_comes_late_does_not_take_the_lock_back() {
    let world = World::new();
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    let first = leader_of(&world.a).await;
    let second = World::member(&world.server, &Plan::new(ATTEMPT), "a");
    assert!(matches!(second.renew_leader(&first, soon()).await, Ok(Renewal::Renewed(_))));
    let after = leader_of(&world.b).await;
    // What the first process had sent with what it had seen.
    let seen = Entry { key: path().key(Key::Leader), value: b"a".to_vec(), revision: first.revision.clone(), handle: first.handle.clone() };
    let dead = world.server.client(timing());
    let late = dead.renew_lock(&seen.key, "a", &seen, soon()).await.unwrap();
    assert!(matches!(late, LockRenewal::Moved(_)), "{late:?}");
    assert_eq!(leader_of(&world.b).await, after);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_conditional_write_is_read_back() {
    let world = World::new();
    let sync = SyncRecord { leader: Some("a".into()), standbys: vec!["b".into()], quorum: 0 };
    let Write::Applied(first) = world.a.set_sync(&sync, None, soon()).await.unwrap() else { panic!("refused") };
    world.plan.next(Some(Call::Put), Fault::DropAnswer);
    let changed = SyncRecord { standbys: Vec::new(), ..sync.clone() };
    let Write::Applied(second) = world.a.set_sync(&changed, Some(&first), soon()).await.unwrap() else { panic!("refused") };
    assert_eq!(world.a.set_sync(&sync, Some(&first), soon()).await.unwrap(), Write::Refused);
    assert!(world.a.set_sync(&sync, Some(&second), soon()).await.unwrap().is_applied());
}

#[tokio::test(start_paused = true)]
async fn a_node_never_believes_in_a_bootstrap_race_that_it_may_have_lost() {
    let world = World::new();
    world.plan.next(Some(Call::Put), Fault::DropAnswer);
    let error = world.a.initialize(InitializeWrite::CreateOnly, "", soon()).await.unwrap_err();
    assert_eq!(error.fate, Fates::Unknown, "everybody writes the same empty text");
    assert_eq!(world.b.initialize(InitializeWrite::CreateOnly, "", soon()).await.unwrap(), Write::Refused);
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_already_is_not_written_again() {
    let world = World::new();
    let record = MemberRecord { state: Some("running".into()), ..MemberRecord::default() };
    let status = Status { last_lsn: Lsn(5), ..Status::default() };
    let serde_json::Value::Object(failsafe) = serde_json::json!({"a": "u"}) else { unreachable!() };
    assert_eq!(world.a.touch_member(&record, soon()).await.unwrap(), Touched::Written);
    assert!(world.a.write_status(&status, true, soon()).await.unwrap());
    assert!(world.a.write_failsafe(&failsafe, soon()).await.unwrap());
    assert_eq!(world.text(Key::LegacyOptime).as_deref(), Some("5"));

    // Neither from memory nor from what another client of the same name loads.
    let again = World::member(&world.server, &Plan::new(ATTEMPT), "a");
    again.load(soon()).await.unwrap();
    for dcs in [&world.a, &again] {
        let before = world.server.entries();
        assert!(!dcs.write_status(&status, true, soon()).await.unwrap());
        assert!(!dcs.write_failsafe(&failsafe, soon()).await.unwrap());
        assert_eq!(world.server.entries(), before);
    }
    assert_eq!(world.a.touch_member(&record, soon()).await.unwrap(), Touched::Unchanged);
}

#[tokio::test(start_paused = true)]
async fn a_write_without_answer_is_not_taken_for_known() {
    let world = World::new();
    let first = Status { last_lsn: Lsn(1), ..Status::default() };
    let second = Status { last_lsn: Lsn(2), ..Status::default() };
    world.a.write_status(&first, false, soon()).await.unwrap();
    // Dropped on its way back: the call was cancelled.
    world.plan.next(Some(Call::Put), Fault::DropAnswer);
    let write = world.a.write_status(&second, false, soon());
    assert!(tokio::time::timeout(Duration::from_millis(100), write).await.is_err());
    assert_eq!(world.text(Key::Status).as_deref(), Some(r#"{"optime":2}"#));
    assert!(world.a.write_status(&first, false, soon()).await.unwrap());
    assert_eq!(world.text(Key::Status).as_deref(), Some(r#"{"optime":1}"#));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_handle_is_replaced_and_the_keys_come_back() {
    let world = World::new();
    let record = MemberRecord::default();
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    world.a.touch_member(&record, soon()).await.unwrap();
    let leader = leader_of(&world.a).await;
    assert!(world.server.revoke(&leader.handle.clone().unwrap()));
    assert!(matches!(world.a.renew_leader(&leader, soon()).await, Ok(Renewal::Renewed(_))));
    assert_eq!(world.a.touch_member(&record, soon()).await.unwrap(), Touched::Written);
    let view = world.b.load(soon()).await.unwrap();
    assert_eq!(view.leader.unwrap().handle, view.members[0].handle);
}

#[tokio::test(start_paused = true)]
async fn a_new_ttl_moves_both_keys_to_a_new_handle_and_wakes_once() {
    let world = World::new();
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    world.a.touch_member(&MemberRecord::default(), soon()).await.unwrap();
    let leader = leader_of(&world.a).await;
    world.a.set_timing(Timing { ttl: secs(40), ..timing() });
    assert_eq!(world.a.wait(Interest::LEADER, secs(5)).await, Wake::Changed);
    assert_eq!(world.a.wait(Interest::LEADER, secs(5)).await, Wake::TimedOut);
    let Renewal::Renewed(lease) = world.a.renew_leader(&leader, soon()).await.unwrap() else { panic!("lost") };
    assert_eq!(lease.valid_until(), lease.sent_at() + secs(40));
    assert_eq!(world.a.touch_member(&MemberRecord::default(), soon()).await.unwrap(), Touched::Written);
    tokio::time::sleep(secs(30)).await;
    let view = world.b.load(soon()).await.unwrap();
    assert_eq!((view.leader_name(), view.members.len()), (Some(&"a".into()), 1));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_for_what_is_of_interest_and_for_nothing_else() {
    let world = World::new();
    let none = Interest { members: MemberInterest::None, ..Interest::FOLLOWER };
    let any = Interest { members: MemberInterest::Any, ..Interest::FOLLOWER };
    let synchronous = Interest { sync: true, ..Interest::LEADER };
    let cases = [
        ("leader", "b", Interest::LEADER, true),
        ("config", "{}", Interest::LEADER, true),
        ("failover", "{}", Interest::LEADER, true),
        ("status", "{\"optime\":1}", Interest::LEADER, false),
        ("status", "{\"optime\":2}", Interest::FOLLOWER, true),
        ("sync", "{}", Interest::FOLLOWER, false),
        ("sync", "{\"leader\":\"b\"}", synchronous, true),
        ("members/b", "{}", none, false),
        ("members/c", "{\"state\":\"running\"}", Interest::LEADER, true),
        ("members/c", "{\"state\":\"running\",\"xlog_location\":7}", Interest::LEADER, false),
        ("members/c", "{\"state\":\"starting\"}", Interest::LEADER, true),
        ("members/c", "{\"state\":\"running\"}", Interest::FOLLOWER, true),
        ("members/c", "{\"state\":\"running\",\"xlog_location\":8}", any, true),
        ("members/c", "{\"state\":\"stopped\"}", none, false),
        ("members/c", "{\"state\":\"stopped\",\"xlog_location\":9}", Interest::LEADER, false),
        ("members/a", "{}", any, false),
        ("history", "[]", any, false),
        ("initialize", "", any, false),
        ("foreign", "x", any, false),
    ];
    for (key, value, interest, wakes) in cases {
        world.a.load(soon()).await.unwrap();
        let key = format!("/service/demo/{key}");
        world.outside().put(&key, value.as_bytes(), Expect::Any, soon()).await.unwrap();
        let wake = world.a.wait(interest, secs(3)).await;
        assert_eq!(wake == Wake::Changed, wakes, "{key} {interest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn own_writes_do_not_wake() {
    let world = World::new();
    world.a.load(soon()).await.unwrap();
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    world.a.write_status(&Status { last_lsn: Lsn(1), ..Status::default() }, false, soon()).await.unwrap();
    world.a.set_failover(&FailoverRequest::default(), None, soon()).await.unwrap();
    world.a.set_config(&serde_json::Map::new(), None, soon()).await.unwrap();
    assert_eq!(world.a.wait(Interest::FOLLOWER, secs(3)).await, Wake::TimedOut);
    assert!(world.a.release_leader(None, soon()).await.unwrap());
    assert_eq!(world.a.wait(Interest::FOLLOWER, secs(3)).await, Wake::TimedOut);
    world.b.set_failover(&FailoverRequest::default(), None, soon()).await.unwrap();
    assert_eq!(world.a.wait(Interest::LEADER, secs(3)).await, Wake::Changed);
}

#[tokio::test(start_paused = true)]
async fn a_wake_before_the_wait_ends_it_and_only_it() {
    let world = World::new();
    world.a.wake();
    world.a.wake();
    assert_eq!(world.a.wait(Interest::LEADER, secs(3)).await, Wake::Changed);
    let begun = world.clock.now();
    assert_eq!(world.a.wait(Interest::LEADER, secs(3)).await, Wake::TimedOut);
    assert_eq!(world.clock.now() - begun, secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_compacted_watch_reads_again_and_finds_what_changed() {
    let world = World::new();
    world.a.load(soon()).await.unwrap();
    world.outside().put("/service/demo/history", b"[]", Expect::Any, soon()).await.unwrap();
    world.server.compact();
    assert_eq!(world.a.wait(Interest::LEADER, secs(3)).await, Wake::TimedOut, "nothing of interest");
    world.outside().put("/service/demo/config", b"{}", Expect::Any, soon()).await.unwrap();
    world.server.compact();
    assert_eq!(world.a.wait(Interest::LEADER, secs(3)).await, Wake::Changed);
}

#[tokio::test(start_paused = true)]
async fn a_dead_store_times_out_without_spinning() {
    let world = World::new();
    world.a.load(soon()).await.unwrap();
    world.plan.set_connection(Connection::Cut);
    let begun = world.clock.now();
    assert_eq!(world.a.wait(Interest::FOLLOWER, secs(10)).await, Wake::TimedOut);
    assert_eq!(world.clock.now() - begun, secs(10));
    assert!(world.plan.calls() < 5, "{} calls", world.plan.calls());
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_read_wakes_once() {
    let world = World::new();
    world.a.load(soon()).await.unwrap();
    world.outside().put("/service/demo/config", b"{}", Expect::Any, soon()).await.unwrap();
    assert_eq!(world.a.wait(Interest::LEADER, secs(3)).await, Wake::Changed);
    assert_eq!(world.a.wait(Interest::LEADER, secs(3)).await, Wake::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_value_beyond_the_limit_is_refused_for_good_and_damages_nothing() {
    let world = World::new();
    world.a.set_config(&serde_json::Map::new(), None, soon()).await.unwrap();
    let huge = serde_json::Map::from_iter([("x".to_owned(), "y".repeat(crate::memory::MAX_VALUE).into())]);
    let error = world.a.set_config(&huge, None, soon()).await.unwrap_err();
    assert_eq!((error.kind, error.fate), (ErrorKind::Misconfigured, Fates::NotApplied));
    assert_eq!(world.text(Key::Config).as_deref(), Some("{}"));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_began_before_an_own_write_does_not_undo_what_is_known() {
    let world = World::new();
    let status = |lsn| Status { last_lsn: Lsn(lsn), ..Status::default() };
    world.a.write_status(&status(1), false, soon()).await.unwrap();
    let slow = Plan::new(ATTEMPT);
    let a = World::member(&world.server, &slow, "a").with_consistency(Consistency::Linearizable);
    a.load(soon()).await.unwrap();
    // The read is answered from before the write, and arrives after it.
    let load = a.load(soon());
    let write = async {
        a.write_status(&status(2), false, soon()).await.unwrap();
    };
    let (view, ()) = tokio::join!(load, write);
    view.unwrap();
    assert!(a.write_status(&status(1), false, soon()).await.unwrap(), "1 is not what is stored");
    assert!(!a.write_status(&status(1), false, soon()).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn duplicated_requests_change_no_outcome() {
    let world = World::new();
    world.plan.set_odds(Odds { duplicate: 1.0, ..Odds::default() });
    assert!(won(world.a.attempt_to_acquire_leader(soon()).await));
    let Write::Applied(revision) = world.a.set_config(&serde_json::Map::new(), None, soon()).await.unwrap() else { panic!("refused") };
    // The second of two unconditional writes made another revision: then the first one's is old, which is refused.
    assert_eq!(world.a.set_config(&serde_json::Map::new(), Some(&revision), soon()).await.unwrap(), Write::Refused);
    assert!(world.a.release_leader(None, soon()).await.unwrap());
    assert_eq!(world.text(Key::Leader), None);
}
