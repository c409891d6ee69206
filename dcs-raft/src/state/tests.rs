//! What each condition and each operation means, one table each, and what time does.

use super::recent::{FORGET_AFTER_MS, MOST_BYTES, MOST_CLIENTS};
use super::*;

const TTL: u64 = 1_000;

fn member(id: u64, address: &str) -> Member {
    Member { id: NodeId(id), address: address.to_owned(), absent: false }
}

fn empty() -> State {
    let absent = Member { absent: true, ..member(2, "two:1") };
    State::founded(&Foundation { cluster: ClusterId(7), members: vec![member(1, "one:1"), absent] })
}

/// A state and the time at which its next entry comes.
struct Log {
    state: State,
    now: u64,
}

impl Log {
    fn new() -> Self {
        Self { state: empty(), now: 100 }
    }

    fn apply(&mut self, proposal: Option<ProposalId>, command: Command) -> Applied {
        let record = Record { time_ms: self.now, proposal, command };
        self.state.apply(self.state.applied() + 1, &record)
    }

    fn transact(&mut self, transaction: Transaction) -> (Reply, Vec<ChangedKey>) {
        let applied = self.apply(None, Command::Transaction(transaction));
        (applied.reply.expect("a transaction is answered"), applied.changes)
    }

    fn perform(&mut self, operations: Vec<Operation>) -> Vec<Done> {
        let (reply, _) = self.transact(Transaction { then: operations, ..Transaction::default() });
        assert!(reply.held, "no condition is always met");
        reply.done
    }

    fn grant(&mut self, ttl_ms: u64) -> u64 {
        let done = self.perform(vec![Operation::Grant { ttl_ms }]);
        assert_eq!(done, [Done::Handle(self.state.applied())], "the name of a handle is its entry");
        self.state.applied()
    }

    fn put(&mut self, key: &str, handle: Option<u64>) -> u64 {
        assert_eq!(self.perform(vec![put(key, "v", handle)]), [Done::Written]);
        self.state.applied()
    }

    fn tick(&mut self, now: u64) -> Vec<ChangedKey> {
        self.now = now;
        let applied = self.apply(None, Command::Tick);
        assert_eq!(applied.reply, None);
        applied.changes
    }

    fn keys(&self) -> Vec<String> {
        self.state.keys_with_prefix("").into_iter().map(|stored| stored.key).collect()
    }
}

fn put(key: &str, value: &str, handle: Option<u64>) -> Operation {
    Operation::Put { key: key.to_owned(), value: value.into(), handle }
}

fn delete(key: &str) -> Operation {
    Operation::Delete { key: key.to_owned() }
}

fn changed(key: &str, index: u64, kind: ChangedHow) -> ChangedKey {
    ChangedKey { key: key.to_owned(), index, kind }
}

#[test]
fn conditions_hold_as_they_say() {
    let mut log = Log::new();
    let handle = log.grant(TTL);
    let other = log.grant(TTL);
    let revision = log.put("/a", Some(handle));
    log.put("/permanent", None);
    let key = |key: &str| key.to_owned();
    let cases = [
        (Condition::Exists { key: key("/a") }, true),
        (Condition::Exists { key: key("/b") }, false),
        (Condition::Exists { key: key("/") }, false),
        (Condition::Absent { key: key("/a") }, false),
        (Condition::Absent { key: key("/b") }, true),
        (Condition::Value { key: key("/a"), value: "v".into() }, true),
        (Condition::Value { key: key("/a"), value: "w".into() }, false),
        (Condition::Value { key: key("/b"), value: "v".into() }, false),
        (Condition::Value { key: key("/b"), value: Vec::new() }, false),
        (Condition::Revision { key: key("/a"), revision }, true),
        (Condition::Revision { key: key("/a"), revision: revision + 1 }, false),
        (Condition::Revision { key: key("/b"), revision }, false),
        (Condition::Revision { key: key("/b"), revision: 0 }, false),
        (Condition::BoundTo { key: key("/a"), handle }, true),
        (Condition::BoundTo { key: key("/a"), handle: other }, false),
        (Condition::BoundTo { key: key("/permanent"), handle }, false),
        (Condition::BoundTo { key: key("/b"), handle }, false),
        (Condition::Alive { handle }, true),
        (Condition::Alive { handle: revision }, false),
    ];
    for (condition, expected) in cases {
        let transaction = Transaction {
            conditions: vec![condition.clone()],
            then: vec![Operation::Get { key: key("/none") }],
            otherwise: vec![delete("/none")],
        };
        let (reply, changes) = log.transact(transaction);
        assert_eq!(reply.held, expected, "{condition:?}");
        assert_eq!(reply.done, [if expected { Done::Found(None) } else { Done::Deleted(0) }], "{condition:?}");
        assert_eq!(changes, []);
    }
}

#[test]
fn all_conditions_must_hold() {
    let mut log = Log::new();
    log.put("/a", None);
    let exists = |key: &str| Condition::Exists { key: key.to_owned() };
    for (conditions, expected) in [(vec![exists("/a"), exists("/b")], false), (vec![exists("/a"), exists("/a")], true), (vec![], true)] {
        let (reply, _) = log.transact(Transaction { conditions, ..Transaction::default() });
        assert_eq!((reply.held, reply.done), (expected, vec![]));
    }
}

#[test]
fn conditions_are_judged_before_the_first_operation() {
    let mut log = Log::new();
    let conditions = vec![Condition::Absent { key: "/a".to_owned() }];
    let (reply, changes) =
        log.transact(Transaction { conditions, then: vec![put("/a", "1", None), put("/a", "2", None)], otherwise: vec![] });
    assert_eq!(reply.done, [Done::Written, Done::Written]);
    assert_eq!(changes, [changed("/a", 1, ChangedHow::Created), changed("/a", 1, ChangedHow::Written)]);
    let stored = log.state.get("/a").expect("it was written");
    assert_eq!((stored.value, stored.revision), (b"2".to_vec(), 1));
}

#[test]
fn operations_do_as_they_say() {
    let mut log = Log::new();
    let handle = log.grant(TTL);
    let revision = log.put("/x/a", Some(handle));
    log.put("/x/b", None);
    log.put("/y", Some(handle));
    let gone = revision;
    let prefix = |prefix: &str| Operation::DeletePrefix { prefix: prefix.to_owned() };
    let found = StoredKey { key: "/x/a".to_owned(), value: "v".into(), revision, handle: Some(handle) };
    let cases = [
        (Operation::Get { key: "/x/a".to_owned() }, Done::Found(Some(found)), vec![]),
        (Operation::Get { key: "/x".to_owned() }, Done::Found(None), vec![]),
        (put("/x/c", "w", None), Done::Written, vec![("/x/c", ChangedHow::Created)]),
        (put("/x/b", "w", None), Done::Written, vec![("/x/b", ChangedHow::Written)]),
        (put("/x/b", "w", Some(gone)), Done::HandleGone, vec![]),
        (delete("/x/b"), Done::Deleted(1), vec![("/x/b", ChangedHow::Deleted)]),
        (delete("/x"), Done::Deleted(0), vec![]),
        (prefix("/x/"), Done::Deleted(2), vec![("/x/a", ChangedHow::Deleted), ("/x/b", ChangedHow::Deleted)]),
        (prefix("/z"), Done::Deleted(0), vec![]),
        (Operation::Grant { ttl_ms: TTL }, Done::Handle(5), vec![]),
        (Operation::Refresh { handle }, Done::Handle(handle), vec![]),
        (Operation::Refresh { handle: gone }, Done::HandleGone, vec![]),
        (Operation::Revoke { handle }, Done::Handle(handle), vec![("/x/a", ChangedHow::Deleted), ("/y", ChangedHow::Deleted)]),
        (Operation::Revoke { handle: gone }, Done::HandleGone, vec![]),
    ];
    for (operation, done, changes) in cases {
        let mut log = Log { state: log.state.clone(), now: log.now };
        let (reply, seen) = log.transact(Transaction { then: vec![operation.clone()], ..Transaction::default() });
        assert_eq!(reply.done, [done], "{operation:?}");
        let expected: Vec<_> = changes.into_iter().map(|(key, kind)| changed(key, 5, kind)).collect();
        assert_eq!(seen, expected, "{operation:?}");
    }
}

#[test]
fn a_put_that_is_refused_leaves_the_key_as_it_was() {
    let mut log = Log::new();
    log.put("/a", None);
    let before = log.state.get("/a");
    assert_eq!(log.perform(vec![put("/a", "other", Some(99))]), [Done::HandleGone]);
    assert_eq!(log.state.get("/a"), before);
}

#[test]
fn a_key_lives_with_the_handle_that_it_was_last_written_with() {
    let mut log = Log::new();
    let (short, long) = (log.grant(TTL), log.grant(TTL * 10));
    log.put("/moved", Some(short));
    log.put("/moved", Some(long));
    log.put("/freed", Some(short));
    log.put("/freed", None);
    log.put("/bound", None);
    log.put("/bound", Some(short));
    log.tick(log.now + TTL);
    assert_eq!(log.keys(), ["/freed", "/moved"]);
    log.tick(log.now + TTL * 10);
    assert_eq!(log.keys(), ["/freed"]);
}

#[test]
fn handles_end_at_their_time_before_the_entry_does_anything_and_in_the_order_of_the_keys() {
    let mut log = Log::new();
    let (late, soon) = (log.grant(TTL), log.grant(TTL - 1));
    for (key, handle) in [("/c", late), ("/a", soon), ("/b", late)] {
        log.put(key, Some(handle));
    }
    assert_eq!(log.state.due_ms(), Some(log.now + TTL - 1));
    assert_eq!(log.tick(log.now + TTL - 2), []);
    log.now += 2;
    let conditions = vec![Condition::Absent { key: "/a".to_owned() }, Condition::Absent { key: "/c".to_owned() }];
    let transaction = Transaction { conditions, then: vec![put("/b", "new", None)], otherwise: vec![] };
    let (reply, changes) = log.transact(transaction);
    assert!(reply.held, "they had expired when the conditions were judged");
    let index = log.state.applied();
    let deleted = |key| changed(key, index, ChangedHow::Deleted);
    assert_eq!(changes, [deleted("/a"), deleted("/b"), deleted("/c"), changed("/b", index, ChangedHow::Created)]);
    assert_eq!(log.state.due_ms(), None);
}

#[test]
fn a_refreshed_handle_lives_its_whole_time_from_then_on() {
    let mut log = Log::new();
    let handle = log.grant(TTL);
    log.put("/a", Some(handle));
    log.now += TTL - 1;
    assert_eq!(log.perform(vec![Operation::Refresh { handle }]), [Done::Handle(handle)]);
    assert_eq!(log.state.due_ms(), Some(log.now + TTL));
    assert_eq!(log.tick(log.now + TTL - 1), []);
    assert_eq!(log.tick(log.now + 1).len(), 1);
    assert_eq!(log.perform(vec![Operation::Refresh { handle }]), [Done::HandleGone]);
}

#[test]
fn one_transaction_grants_one_handle() {
    let mut log = Log::new();
    let grant = || Operation::Grant { ttl_ms: TTL };
    assert_eq!(log.perform(vec![grant(), grant(), grant()]), [Done::Handle(1), Done::HandleGone, Done::HandleGone]);
    assert_eq!(log.perform(vec![grant()]), [Done::Handle(2)]);
}

#[test]
fn a_handle_without_a_time_to_live_lives_for_a_millisecond() {
    let mut log = Log::new();
    let handle = log.grant(0);
    log.put("/a", Some(handle));
    assert_eq!(log.tick(log.now + 1).len(), 1);
}

#[test]
fn a_clock_at_its_end_does_not_overflow() {
    let mut log = Log::new();
    log.now = u64::MAX - 1;
    let handle = log.grant(u64::MAX);
    log.put("/a", Some(handle));
    assert_eq!(log.tick(u64::MAX), [changed("/a", 3, ChangedHow::Deleted)]);
}

#[test]
fn prefixes_are_compared_byte_by_byte() {
    let mut log = Log::new();
    for key in ["/a", "/a/", "/a/b", "/a0", "/b", "/ä"] {
        log.put(key, None);
    }
    let found = |prefix: &str| log.state.keys_with_prefix(prefix).into_iter().map(|stored| stored.key).collect::<Vec<_>>();
    assert_eq!(found("/a/"), ["/a/", "/a/b"]);
    assert_eq!(found("/ä"), ["/ä"]);
    assert_eq!(found("/c"), [""; 0]);
    assert_eq!(found("").len(), 6);
}

#[test]
fn an_entry_that_is_in_the_state_already_does_nothing() {
    let mut log = Log::new();
    log.put("/a", None);
    let before = log.state.clone();
    let record = Record { time_ms: 1 << 40, proposal: None, command: Command::Tick };
    assert_eq!(log.state.apply(1, &record), Applied::default());
    log.state.skip(1);
    assert_eq!(log.state, before);
    log.state.skip(3);
    assert_eq!(log.state.applied(), 3);
}

#[test]
fn members_come_are_promoted_move_and_go() {
    let mut log = Log::new();
    let mut change = |change| {
        let applied = log.apply(None, Command::Membership(change));
        assert_eq!(applied.changes, []);
        assert!(applied.reply.is_some_and(|reply| reply.held && reply.done.is_empty()));
        log.state.members().values().map(|member| (member.id.0, member.address.clone(), member.absent)).collect::<Vec<_>>()
    };
    let entry = |id, address: &str, absent| (id, address.to_owned(), absent);
    let first = entry(1, "one:1", false);

    let added = change(MembershipChange::Add(member(3, "two:1")));
    assert_eq!(added, [first.clone(), entry(2, "two:1", true), entry(3, "two:1", false)]);
    let promoted = change(MembershipChange::Promote { id: NodeId(3), instead_of: Some(NodeId(2)) });
    assert_eq!(promoted, [first.clone(), entry(3, "two:1", false)]);
    let moved = change(MembershipChange::Move { id: NodeId(3), address: "two:2".to_owned() });
    assert_eq!(moved, [first.clone(), entry(3, "two:2", false)]);
    // Somebody who is not there.
    assert_eq!(change(MembershipChange::Promote { id: NodeId(9), instead_of: Some(NodeId(1)) }), moved);
    assert_eq!(change(MembershipChange::Move { id: NodeId(9), address: "x:1".to_owned() }), moved);
    assert_eq!(change(MembershipChange::Remove(NodeId(9))), moved);
    assert_eq!(change(MembershipChange::Promote { id: NodeId(3), instead_of: Some(NodeId(3)) }), moved);
    assert_eq!(change(MembershipChange::Remove(NodeId(3))), [first]);
    assert_eq!(log.state.cluster(), ClusterId(7));
}

fn proposal(client: u64, number: u64) -> Option<ProposalId> {
    Some(ProposalId { client, number })
}

fn append(key: &str) -> Command {
    Command::Transaction(Transaction { then: vec![put(key, "v", None)], ..Transaction::default() })
}

#[test]
fn a_repeated_proposal_is_answered_again_and_not_applied_again() {
    let mut log = Log::new();
    let first = log.apply(proposal(1, 1), append("/a"));
    log.perform(vec![delete("/a")]);
    let again = log.apply(proposal(1, 1), append("/a"));
    assert_eq!(again, Applied { reply: first.reply.clone(), changes: vec![] });
    assert_eq!(log.state.recall(ProposalId { client: 1, number: 1 }), first.reply);
    assert_eq!(log.keys(), [""; 0]);
    // That of another client is another one.
    assert_eq!(log.apply(proposal(2, 1), append("/a")).changes.len(), 1);
}

#[test]
fn what_is_due_expires_even_when_a_proposal_is_repeated() {
    let mut log = Log::new();
    log.apply(proposal(1, 1), append("/a"));
    let handle = log.grant(TTL);
    log.put("/b", Some(handle));
    log.now += TTL;
    let again = log.apply(proposal(1, 1), append("/a"));
    assert_eq!(again.changes, [changed("/b", log.state.applied(), ChangedHow::Deleted)]);
    assert!(again.reply.is_some());
}

#[test]
fn proposals_of_one_client_may_come_in_any_order() {
    let mut log = Log::new();
    let window = ProposalId::WINDOW as u64;
    assert_eq!(log.apply(proposal(1, window), append("/last")).changes.len(), 1);
    assert_eq!(log.apply(proposal(1, 1), append("/first")).changes.len(), 1);
}

#[test]
fn a_proposal_that_is_too_old_to_tell_is_not_applied() {
    let mut log = Log::new();
    let window = ProposalId::WINDOW as u64;
    for number in 2..=window + 1 {
        assert_eq!(log.apply(proposal(1, number), append("/a")).changes.len(), 1);
    }
    assert_eq!(log.apply(proposal(1, 1), append("/never")), Applied::default(), "its client cannot be waiting for it any more");
    assert!(log.apply(proposal(1, 2), append("/never")).reply.is_some(), "this one is remembered");
    log.apply(proposal(1, window + 2), append("/a"));
    assert_eq!(log.apply(proposal(1, 2), append("/never")), Applied::default(), "now it is not");
    assert_eq!(log.keys(), ["/a"]);
}

#[test]
fn a_silent_client_is_forgotten() {
    let mut log = Log::new();
    log.apply(proposal(1, 1), append("/a"));
    log.apply(proposal(2, 1), append("/a"));
    log.now += FORGET_AFTER_MS - 1;
    // To ask again is a sign of life as well.
    assert!(log.apply(proposal(1, 1), append("/a")).reply.is_some());
    log.tick(log.now + 1);
    assert!(log.state.recall(ProposalId { client: 1, number: 1 }).is_some());
    assert_eq!(log.state.recall(ProposalId { client: 2, number: 1 }), None);
    log.tick(log.now + FORGET_AFTER_MS);
    assert_eq!(log.state.recent, Recent::default(), "nothing is left of either");
}

#[test]
fn of_too_many_clients_the_longest_silent_are_forgotten() {
    let mut log = Log::new();
    for client in 0..MOST_CLIENTS as u64 {
        log.apply(proposal(client, 1), Command::Transaction(Transaction::default()));
    }
    log.apply(proposal(0, 2), Command::Transaction(Transaction::default()));
    log.apply(proposal(u64::MAX, 1), Command::Transaction(Transaction::default()));
    let knows = |client| log.state.recall(ProposalId { client, number: 1 }).is_some();
    assert_eq!([0, 1, 2, u64::MAX].map(knows), [true, false, true, true]);
}

#[test]
fn large_answers_are_forgotten_first_come_first_but_never_applied_again() {
    let mut log = Log::new();
    let large = "x".repeat(MOST_BYTES / 3);
    log.perform(vec![put("/large", &large, None)]);
    let read = || {
        let then = vec![Operation::Get { key: "/large".to_owned() }, put("/read", "", None)];
        Command::Transaction(Transaction { then, ..Transaction::default() })
    };
    for number in 1..=3 {
        log.apply(proposal(1, number), read());
    }
    let revision = log.state.get("/read").map(|stored| stored.revision);
    assert_eq!(log.apply(proposal(1, 1), read()), Applied::default());
    assert!(log.apply(proposal(1, 3), read()).reply.is_some());
    assert_eq!(log.state.get("/read").map(|stored| stored.revision), revision);
    assert!(log.state.encode().len() < MOST_BYTES + 2 * large.len());
    let decoded = State::decode(&log.state.encode());
    assert_eq!(decoded, Ok(log.state), "a snapshot counts them the same");
}

#[test]
fn bytes_that_are_no_state_are_refused_with_a_reason() {
    let mut log = Log::new();
    let handle = log.grant(TTL);
    log.put("/a", Some(handle));
    let good = log.state.encode();
    assert_eq!(State::decode(&good), Ok(log.state.clone()));

    let mut newer = good.clone();
    newer[0] = 2;
    assert_eq!(State::decode(&newer), Err(DecodeError::UnknownVersion { found: 2, known: 1 }));
    assert_eq!(State::decode(&newer).unwrap_err().to_string(), "it has version 2, and this program knows version 1");
    assert_eq!(State::decode(&[]), Err(DecodeError::Damaged("it is empty")));
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(State::decode(&longer), Err(DecodeError::Damaged("something follows its end")));
    for end in 1..good.len() {
        assert!(matches!(State::decode(&good[..end]), Err(DecodeError::Unreadable(_))), "cut off at {end}");
    }
    log.state.handles.clear();
    let orphaned = State::decode(&log.state.encode());
    assert_eq!(orphaned, Err(DecodeError::Damaged("a key is bound to a handle that does not exist")));
}
