//! What holds after any sequence of entries.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What a test says about one entry. Handles are named by the entry that would have granted them, a little at random.
#[derive(Clone, Debug)]
struct Step {
    passed_ms: i64,
    proposal: Option<ProposalId>,
    command: Command,
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["/a", "/a/x", "/a/y", "/b", "/b/x"]).prop_map(str::to_owned)
}

fn handle() -> impl Strategy<Value = u64> {
    1..40_u64
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        key().prop_map(|key| Condition::Exists { key }),
        key().prop_map(|key| Condition::Absent { key }),
        (key(), vec(0..2_u8, 0..2)).prop_map(|(key, value)| Condition::Value { key, value }),
        (key(), handle()).prop_map(|(key, revision)| Condition::Revision { key, revision }),
        (key(), handle()).prop_map(|(key, handle)| Condition::BoundTo { key, handle }),
        handle().prop_map(|handle| Condition::Alive { handle }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        2 => key().prop_map(|key| Operation::Get { key }),
        6 => (key(), vec(0..2_u8, 0..2), prop::option::of(handle())).prop_map(|(key, value, handle)| Operation::Put { key, value, handle }),
        1 => key().prop_map(|key| Operation::Delete { key }),
        1 => key().prop_map(|prefix| Operation::DeletePrefix { prefix }),
        6 => (0..500_u64).prop_map(|ttl_ms| Operation::Grant { ttl_ms }),
        2 => handle().prop_map(|handle| Operation::Refresh { handle }),
        1 => handle().prop_map(|handle| Operation::Revoke { handle }),
    ]
}

fn transaction() -> impl Strategy<Value = Transaction> {
    (vec(condition(), 0..2), vec(operation(), 0..4), vec(operation(), 0..3)).prop_map(|(conditions, then, otherwise)| Transaction {
        conditions,
        then,
        otherwise,
    })
}

fn member() -> impl Strategy<Value = Member> {
    (0..5_u64, any::<bool>()).prop_map(|(id, absent)| Member { id: NodeId(id), address: format!("node{id}:1"), absent })
}

fn command() -> impl Strategy<Value = Command> {
    let node = || (0..5_u64).prop_map(NodeId);
    let membership = prop_oneof![
        member().prop_map(MembershipChange::Add),
        (node(), prop::option::of(node())).prop_map(|(id, instead_of)| MembershipChange::Promote { id, instead_of }),
        node().prop_map(MembershipChange::Remove),
        (node(), "[a-z]{1,3}:1").prop_map(|(id, address)| MembershipChange::Move { id, address }),
    ];
    prop_oneof![
        1 => Just(Command::Tick),
        12 => transaction().prop_map(Command::Transaction),
        1 => membership.prop_map(Command::Membership),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let proposal = prop::option::of((0..3_u64, 1..100_u64).prop_map(|(client, number)| ProposalId { client, number }));
    let passed = prop_oneof![20 => 0..100_i64, 2 => -200..0_i64, 1 => Just(10 * 60 * 1000)];
    (passed, proposal, command()).prop_map(|(passed_ms, proposal, command)| Step { passed_ms, proposal, command })
}

/// The entries of a log. Its times may go back, as those of a leader that breaks its promise would.
fn log() -> impl Strategy<Value = Vec<Record>> {
    vec(step(), 0..60).prop_map(|steps| {
        let mut time_ms = 0_u64;
        let record = |step: Step| {
            time_ms = time_ms.saturating_add_signed(step.passed_ms);
            Record { time_ms, proposal: step.proposal, command: step.command }
        };
        steps.into_iter().map(record).collect()
    })
}

fn founded() -> State {
    let member = Member { id: NodeId(1), address: "one:1".to_owned(), absent: false };
    State::founded(&Foundation { cluster: ClusterId(1), members: vec![member] })
}

/// Applies the records behind what is in `state`.
fn run(state: &mut State, log: &[Record]) -> Vec<Applied> {
    (1..).zip(log).skip(usize::try_from(state.applied()).unwrap()).map(|(index, record)| state.apply(index, record)).collect()
}

proptest! {
    #[test]
    fn the_same_log_leads_to_the_same_bytes(log in log()) {
        let (mut one, mut other) = (founded(), founded());
        prop_assert_eq!(run(&mut one, &log), run(&mut other, &log));
        prop_assert_eq!(one.encode(), other.encode());
    }

    #[test]
    fn a_snapshot_anywhere_makes_no_difference(log in log(), at in any::<prop::sample::Index>()) {
        let at = at.index(log.len() + 1);
        let mut straight = founded();
        let answers = run(&mut straight, &log);
        let mut before = founded();
        run(&mut before, &log[..at]);
        let mut after = State::decode(&before.encode()).unwrap();
        prop_assert_eq!(&after, &before);
        prop_assert_eq!(run(&mut after, &log), &answers[at..]);
        prop_assert_eq!(after.encode(), straight.encode());
        prop_assert_eq!(after, straight);
    }

    #[test]
    fn no_key_outlives_its_handle_and_no_handle_its_time(log in log()) {
        let mut state = founded();
        for (index, record) in (1..).zip(&log) {
            let mut granted = state.handles.clone();
            state.apply(index, record);
            prop_assert!(state.keys.values().filter_map(|stored| stored.handle).all(|handle| state.handles.contains_key(&handle)));
            prop_assert!(state.due_ms().is_none_or(|due| due > state.clock_ms()));
            // Whoever was not due and not revoked is still there.
            granted.retain(|_, life| life.expires_at_ms > state.clock_ms());
            let revokes = matches!(&record.command, Command::Transaction(transaction)
                if transaction.then.iter().chain(&transaction.otherwise).any(|operation| matches!(operation, Operation::Revoke { .. })));
            prop_assert!(revokes || granted.keys().all(|handle| state.handles.contains_key(handle)));
        }
    }

    #[test]
    fn the_log_clock_never_goes_back(log in log()) {
        let mut state = founded();
        let mut latest = 0;
        for (index, record) in (1..).zip(&log) {
            latest = latest.max(record.time_ms);
            state.apply(index, record);
            prop_assert_eq!(state.clock_ms(), latest);
        }
    }

    #[test]
    fn the_changes_tell_everything_that_changed(log in log()) {
        let mut state = founded();
        for (index, record) in (1..).zip(&log) {
            let before = state.keys.clone();
            let changes = state.apply(index, record).changes;
            let mut existing: std::collections::BTreeSet<String> = before.keys().cloned().collect();
            for change in &changes {
                prop_assert_eq!(change.index, index);
                let existed = match change.kind {
                    ChangedHow::Deleted => existing.remove(&change.key),
                    ChangedHow::Created | ChangedHow::Written => !existing.insert(change.key.clone()),
                };
                prop_assert_eq!(existed, change.kind != ChangedHow::Created, "{:?}", change);
            }
            prop_assert!(existing.iter().eq(state.keys.keys()));
            let named = |key: &String| changes.iter().any(|change| change.key == *key);
            let untouched = |(key, stored): (&String, &Stored)| named(key) || before.get(key) == Some(stored);
            prop_assert!(state.keys.iter().all(untouched));
        }
    }

    #[test]
    fn a_repeated_proposal_changes_nothing_and_is_answered_the_same(log in log(), again in any::<prop::sample::Index>()) {
        let mut state = founded();
        let answers = run(&mut state, &log);
        let Some(last) = log.last() else { return Ok(()) };
        let again = again.index(log.len());
        let Some(proposal) = log[again].proposal else { return Ok(()) };
        // The first entry that had this proposal, if it was applied and is remembered.
        let first = log.iter().position(|record| record.proposal == Some(proposal)).unwrap();
        let (before, remembered) = (state.clone(), state.recall(proposal));
        let record = Record { time_ms: last.time_ms, ..log[again].clone() };
        let applied = state.apply(before.applied() + 1, &record);
        if let Some(reply) = remembered {
            prop_assert_eq!(Some(&reply), applied.reply.as_ref());
            let same = answers.iter().zip(&log).any(|(answer, record)| record.proposal == Some(proposal) && answer.reply.as_ref() == Some(&reply));
            prop_assert!(same, "it is the answer that was given");
            prop_assert!(first < usize::try_from(reply.index).unwrap());
            prop_assert_eq!(applied.changes, []);
            prop_assert_eq!((&state.keys, &state.handles, &state.members), (&before.keys, &before.handles, &before.members));
        }
    }

    #[test]
    fn garbage_is_refused_or_read_and_never_a_panic(mut bytes in vec(any::<u8>(), 0..400)) {
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
        if let Ok(mut state) = State::decode(&bytes) {
            let index = state.applied().saturating_add(1);
            state.apply(index, &Record { time_ms: u64::MAX, proposal: None, command: Command::Tick });
        }
    }

    #[test]
    fn a_flipped_bit_is_refused_or_read_and_never_a_panic(log in log(), place in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut state = founded();
        run(&mut state, &log);
        let mut bytes = state.encode();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        if let Ok(mut state) = State::decode(&bytes) {
            let index = state.applied().saturating_add(1);
            let record = Record { time_ms: u64::MAX, proposal: Some(ProposalId { client: 0, number: u64::MAX }), command: Command::Tick };
            state.apply(index, &record);
        }
    }
}
