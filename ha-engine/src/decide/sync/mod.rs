//! Synchronous modes (section 5): commits wait for standbys, and only nodes that have every acknowledged commit may be
//! promoted.
//!
//! Two places must agree: `synchronous_standby_names` in the server says whom commits wait for, `/sync` in the store says
//! who may win. The primary that holds the lock changes one of them at a time, in an order that keeps every winner a holder
//! of every acknowledged commit, whenever the agent dies in between:
//!
//! ```text
//!   sample ─► proven ─► eligible ─► on_mode | quorum ─► one move ─► sample …
//!     ▲                                                   │
//!     └─────────── watch: looks between the cycles ◄──────┘ until nothing is left to do, or a proof is awaited
//! ```

pub(crate) mod duty;
pub(crate) mod electorate;
mod eligible;
#[cfg(test)]
mod model;
pub mod names;
mod on_mode;
pub(crate) mod promotion;
pub mod proven;
mod quorum;
pub mod sample;
#[cfg(test)]
mod testing;
pub mod watch;

use std::collections::BTreeMap;

use dcs_core::Moment;
use dcs_core::model::{Member, MemberName, Revision, SyncRecord};

use self::names::{Kind, Names, StandbyNames};
use self::proven::{Evidence, Proof, Retention};
use self::sample::{SyncSample, SyncWord};
use self::watch::SyncWatch;
use super::action::{Answer, Ask, Effect, Severity, SyncWrite};
use super::cycle::{Cycle, Outcome};
use super::journal::{Record, Rule};
use crate::settings::{GlobalConfig, SyncMode};

/// More changes than any pass makes: three lead to the goal, and a few may precede them when the mode changes. What is left is
/// done by the next cycle.
const MOST_CHANGES: u32 = 12;

/// What a primary remembers about synchronous replication.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SyncMemory {
    /// Which standbys hold every acknowledged commit.
    pub proof: Proof,
    /// When this node was first seen to be the primary.
    pub primary_since: Option<Moment>,
    /// Whether the agent has decided about `synchronous_standby_names`; otherwise the configured value is in force.
    pub decides_names: bool,
    /// Whether every write of `/sync` that this node has sent has come to an end. Otherwise one may still arrive, and nothing
    /// that is read before the next write of its own can be built on.
    pub confirmed: bool,
    /// Whether an operator named this node as the leader: then it leads whatever `/sync` says.
    pub appointed: bool,
}

/// What the operator wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Named standbys or a quorum.
    pub(crate) mode: SyncMode,
    /// Whether commits wait even if there is nobody to wait for.
    pub(crate) strict: bool,
    /// The number of synchronous standbys.
    pub(crate) count: usize,
    /// Who lags more, in bytes, is not eligible; 0 or less: no test.
    pub(crate) maximum_lag: i64,
}

impl Wanted {
    fn of(cfg: &GlobalConfig) -> Self {
        Self {
            mode: cfg.synchronous_mode,
            strict: cfg.synchronous_mode_strict,
            count: usize::try_from(cfg.synchronous_node_count).unwrap_or(usize::MAX),
            maximum_lag: cfg.maximum_lag_on_syncnode,
        }
    }
}

/// Both places, and what is known about the standbys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene<'a> {
    /// This node, the primary.
    pub(crate) me: &'a MemberName,
    /// The members of the cluster.
    pub(crate) members: &'a [Member],
    /// What the operator wants.
    pub(crate) wanted: Wanted,
    /// What `/sync` says.
    pub(crate) record: &'a SyncRecord,
    /// What the server shows.
    pub(crate) sample: &'a SyncSample,
    /// What was proven before.
    pub(crate) proof: &'a Proof,
}

/// What comes next in a pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    /// Nothing; the proof of these is awaited.
    Stop(Names),
    /// Write `/sync`, saying something before and after.
    Write(SyncRecord, Option<(Severity, String)>, Option<String>),
    /// Set `synchronous_standby_names`.
    Set(String, Vec<(Severity, String)>),
}

/// What one look at the scene comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Move {
    /// What is proven now.
    pub(crate) proof: Proof,
    /// A barrier was taken: idle standbys need a WAL record to reach it.
    pub(crate) record_needed: bool,
    /// What comes next.
    pub(crate) next: Next,
}

/// The next move. `retention` is [`Retention::of`] the mode.
pub(crate) fn next_move(scene: &Scene<'_>, names: &StandbyNames, retention: Retention) -> Move {
    let Scene { me, members, wanted, record, sample, .. } = *scene;
    let listed: Names = record.standbys.iter().cloned().collect();
    let evidence = Evidence { sample, names, mode: wanted.mode, listed: &listed, quorum: record.quorum };
    let (proof, record_needed) = scene.proof.after(&evidence, retention);
    let choice = eligible::Choice { members, me, mode: wanted.mode, count: wanted.count, maximum_lag: wanted.maximum_lag };
    let active = eligible::active(sample, &choice);
    let next = match wanted.mode {
        SyncMode::Quorum => quorum_step(scene, names, &active, &proof),
        SyncMode::On | SyncMode::Off => named_step(scene, names, &active, &proof),
    };
    Move { proof, record_needed, next }
}

fn named_step(scene: &Scene<'_>, names: &StandbyNames, active: &Names, proof: &Proof) -> Next {
    let is_sync = |name: &str| scene.sample.walsender(name).is_some_and(|sender| sender.sync == SyncWord::Sync);
    let confirmed: Names = active.intersection(proof.proven()).iter().filter(|name| is_sync(name.as_str())).cloned().collect();
    let state = on_mode::State { me: scene.me, record: scene.record, names, active, confirmed: &confirmed, strict: scene.wanted.strict };
    match on_mode::next(&state) {
        on_mode::Step::Done => Next::Stop(Names::default()),
        on_mode::Step::Wait(awaited) => Next::Stop(awaited),
        on_mode::Step::Write { standbys, before, after } => Next::Write(record_of(scene.me, 0, &standbys), before, after),
        on_mode::Step::SetNames { text, before } => Next::Set(text, before),
    }
}

fn quorum_step(scene: &Scene<'_>, names: &StandbyNames, active: &Names, proof: &Proof) -> Next {
    let Scene { me, record, wanted, .. } = *scene;
    let (number, named) = (names.number_of_named(), names.named());
    if record.leader.is_none() {
        return Next::Write(record_of(me, 0, &Names::default()), None, Some("Enabled synchronous replication".to_owned()));
    }
    let voters = record.standbys.iter().cloned().collect::<Names>().without(me.as_str());
    let transition = if let Some(transition) = quorum::take_over(me, record, number, &named) {
        transition
    } else if names.kind == Kind::Priority && !named.is_empty() {
        // What named mode, or the operator, left: the same promise in the other form, so that it can be proven.
        quorum::Transition::Sync { number, names: named }
    } else {
        quorum::next(&quorum::State {
            quorum: quorum::quorum_of(record),
            voters: &voters,
            number,
            names: &named,
            active,
            count: wanted.count,
            proven: proof.proven(),
        })
    };
    match transition {
        quorum::Transition::Goal => {
            // With nobody to name, the text may still be that of another setting of strict mode.
            let nobody = promotion::names_of_nobody(SyncMode::Quorum, wanted.strict);
            let differs = active.is_empty() && StandbyNames::parse(&nobody).as_ref() != Ok(names);
            if differs { set_quorum_names(wanted, 0, active) } else { Next::Stop(Names::default()) }
        }
        quorum::Transition::Wait(awaited) => Next::Stop(awaited),
        quorum::Transition::Sync { number, names } => set_quorum_names(wanted, number, &names),
        quorum::Transition::Quorum { quorum, voters } => {
            let said = format!("Setting leader to {me}, quorum to {quorum} of {} ({voters})", voters.len());
            Next::Write(record_of(me, quorum, &voters), Some((Severity::Info, said)), None)
        }
    }
}

fn set_quorum_names(wanted: Wanted, number: usize, names: &Names) -> Next {
    let least = usize::from(wanted.strict);
    let mut said = vec![(Severity::Info, format!("Setting synchronous replication to {number} of {} ({names})", names.len()))];
    if number < least {
        let line =
            format!("Replication factor {} requested, but {number} synchronous standbys available. Commits will be delayed.", least + 1);
        said.push((Severity::Warning, line));
    }
    Next::Set(names::any_of(number.max(least), names), said)
}

/// What the journal says about a change of `/sync`.
fn note_record(c: &mut Cycle<'_>, before: &SyncRecord, after: &SyncRecord) {
    let who = if after.standbys.is_empty() { "nobody".to_owned() } else { after.standbys.join(", ") };
    let what = format!("if this primary fails, those who may take over by themselves are: {who}");
    c.note(Record::new(Rule::SyncKey, what).fact("quorum", after.quorum).fact("before", before.standbys.join(",")));
}

fn record_of(me: &MemberName, quorum: usize, standbys: &Names) -> SyncRecord {
    SyncRecord { leader: Some(me.clone()), standbys: standbys.sorted(), quorum: u64::try_from(quorum).unwrap_or(u64::MAX) }
}

/// A pass under way.
struct Pass {
    record: SyncRecord,
    revision: Option<Revision>,
    sample: SyncSample,
}

/// E4: the primary that holds the lock looks after both places.
pub(super) fn maintain(c: &mut Cycle<'_>) -> Outcome<()> {
    if c.cfg.synchronous_mode == SyncMode::Off {
        return turn_off(c).map(drop);
    }
    let Some(sample) = c.obs.synchronous.clone() else {
        // A server that does not answer changes nothing, and nothing is known about it.
        return Ok(());
    };
    let since = *c.memory.sync.primary_since.get_or_insert(c.now.moment);
    let mut pass = Pass { record: c.view.sync.record.clone(), revision: c.view.sync.revision.clone(), sample };
    if !c.memory.sync.decides_names {
        // What is in force stays in force until something else is decided, and not longer than that.
        let text = pass.sample.names.clone();
        c.memory.sync.decides_names = matches!(c.need(Ask::SetSynchronousNames { step: 0, text })?, Answer::NamesSet { done: true, .. });
    }
    let awaited =
        if !confirm_key(c, &mut pass)? || waits_for_reconnection(c, &pass, since) { Names::default() } else { run(c, &mut pass)? };
    look_out(c, pass, awaited);
    Ok(())
}

/// Hardening rule X22: the same is written again, so that a write that is still under way, made for the revision before this
/// one, is refused. False if that did not work.
fn confirm_key(c: &mut Cycle<'_>, pass: &mut Pass) -> Outcome<bool> {
    if c.memory.sync.confirmed || pass.record.leader.is_none() {
        return Ok(true);
    }
    let Some(revision) = write_key(c, &pass.record, pass.revision.as_ref())? else {
        c.warn("Updating sync state failed");
        return Ok(false);
    };
    pass.revision = Some(revision);
    Ok(true)
}

/// Writes `/sync`. Nothing if it was not written, or nobody knows.
fn write_key(c: &mut Cycle<'_>, record: &SyncRecord, expected: Option<&Revision>) -> Outcome<Option<Revision>> {
    match c.need(Ask::WriteSync(record.clone(), expected.cloned()))? {
        Answer::SyncWritten(SyncWrite::Applied(revision)) => {
            c.memory.sync.confirmed = true;
            Ok(Some(revision.clone()))
        }
        Answer::SyncWritten(SyncWrite::Unknown) => {
            c.memory.sync.confirmed = false;
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Synchronous mode is off: nobody may go by `/sync` any more, then the operator's value comes into force. False if the key
/// could not be cleared, or the value is not in force yet.
pub(super) fn turn_off(c: &mut Cycle<'_>) -> Outcome<bool> {
    (c.memory.sync.proof, c.memory.sync.confirmed) = (Proof::default(), false);
    if !c.view.sync.is_empty() {
        let revision = c.view.sync.revision.clone();
        if !c.written(Ask::DeleteSync(revision))? {
            return Ok(false);
        }
        c.info("Disabled synchronous replication");
        c.note(Record::new(Rule::SyncKey, "synchronous mode is off: the /sync key is emptied"));
    }
    if c.memory.sync.decides_names {
        c.memory.sync.decides_names = !matches!(c.need(Ask::UseConfiguredNames)?, Answer::NamesSet { done: true, .. });
        if !c.memory.sync.decides_names {
            c.note(Record::new(Rule::SyncNames, "the configured synchronous_standby_names come into force"));
        }
    }
    Ok(!c.memory.sync.decides_names)
}

/// What came of the preparation of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prepared {
    /// Everything is in place.
    Done,
    /// `/sync` is not what this node was elected by, or is not known to be: somebody else may be the one by now.
    Outdated,
    /// Something is not in place yet.
    NotYet,
}

/// 5.8: what must be in place before a promotion.
pub(super) fn prepare_promotion(c: &mut Cycle<'_>) -> Outcome<Prepared> {
    let mode = c.cfg.synchronous_mode;
    let prepared = |done| if done { Prepared::Done } else { Prepared::NotYet };
    if mode == SyncMode::Off {
        return turn_off(c).map(prepared);
    }
    let promotion::Preparation { record, names } = promotion::prepare(c.me(), &c.view.sync.record, mode, c.cfg.synchronous_mode_strict);
    // Also what is there already is written: so it is known to be what this node was elected by.
    let expected = c.view.sync.revision.clone();
    if let Some(record) = record {
        if write_key(c, &record, expected.as_ref())?.is_none() {
            return Ok(Prepared::Outdated);
        }
        let before = c.view.sync.record.clone();
        note_record(c, &before, &record);
    }
    let done = matches!(c.need(Ask::SetSynchronousNames { step: 0, text: names })?, Answer::NamesSet { done: true, .. });
    c.memory.sync.decides_names |= done;
    Ok(prepared(done))
}

/// B4: a new cluster begins without synchronous standbys; in strict mode nothing is acknowledged before there is one.
pub(super) fn begin(c: &mut Cycle<'_>) -> Outcome<()> {
    let mode = c.cfg.synchronous_mode;
    if mode != SyncMode::Off {
        let text = promotion::names_of_nobody(mode, c.cfg.synchronous_mode_strict);
        c.memory.sync.decides_names = matches!(c.need(Ask::SetSynchronousNames { step: 0, text })?, Answer::NamesSet { done: true, .. });
    }
    Ok(())
}

/// Whether there are voters and none of them has come yet. `mine`: the key says that I lead.
fn awaits_voters(mode: SyncMode, mine: bool, names: &StandbyNames, sample: &SyncSample) -> bool {
    let named = names.named();
    let nobody_streams = named.iter().all(|name| sample.walsender(name.as_str()).is_none());
    mode == SyncMode::Quorum && mine && !named.is_empty() && nobody_streams
}

/// After a promotion voters need a moment to connect to the new primary; a pass before that would strike them all off.
fn waits_for_reconnection(c: &mut Cycle<'_>, pass: &Pass, since: Moment) -> bool {
    let Ok(names) = StandbyNames::parse(&pass.sample.names) else { return false };
    let until = since + c.cfg.loop_wait;
    let mine = pass.record.leader.as_ref().is_some_and(|leader| leader.same_as_standby(c.me().as_str()));
    let waits = c.now.moment < until && awaits_voters(c.cfg.synchronous_mode, mine, &names, &pass.sample);
    if waits {
        c.wake_at(until);
    }
    waits
}

/// Changes one thing after the other until nothing is left to do, or the cycle has lasted for a period: the lock comes first,
/// and the next cycle goes on. The standbys whose proof is awaited.
fn run(c: &mut Cycle<'_>, pass: &mut Pass) -> Outcome<Names> {
    let wanted = Wanted::of(c.cfg);
    let until = c.obs.cycle_started + c.cfg.loop_wait;
    for step in 1..=MOST_CHANGES {
        let names = StandbyNames::parse(&pass.sample.names).unwrap_or_else(|unparsable| {
            c.warn(unparsable.to_string());
            StandbyNames::default()
        });
        let scene =
            Scene { me: c.me(), members: &c.view.members, wanted, record: &pass.record, sample: &pass.sample, proof: &c.memory.sync.proof };
        let Move { proof, record_needed, next } = next_move(&scene, &names, Retention::of(wanted.mode));
        c.memory.sync.proof = proof;
        if record_needed && !c.effects.contains(&Effect::WriteWalRecord) {
            c.push(Effect::WriteWalRecord);
        }
        match next {
            Next::Stop(awaited) => return Ok(awaited),
            Next::Write(record, before, after) => {
                if !c.has_time_for(&Ask::WriteSync(record.clone(), pass.revision.clone()), until) {
                    return Ok(names.named());
                }
                c.effects.extend(before.map(|(severity, line)| Effect::Log(severity, line)));
                let Some(revision) = write_key(c, &record, pass.revision.as_ref())? else {
                    c.warn("Updating sync state failed");
                    c.note(Record::new(
                        Rule::SyncRefused,
                        "the /sync key was not changed: somebody else has changed it, or the store did not answer",
                    ));
                    return Ok(Names::default());
                };
                note_record(c, &pass.record, &record);
                (pass.record, pass.revision) = (record, Some(revision));
                if let Some(line) = after {
                    c.info(line);
                }
            }
            Next::Set(text, before) => {
                let ask = Ask::SetSynchronousNames { step, text };
                if !c.has_time_for(&ask, until) {
                    return Ok(names.named());
                }
                c.effects.extend(before.into_iter().map(|(severity, line)| Effect::Log(severity, line)));
                let Answer::NamesSet { done: true, sample: Some(sample) } = c.need(ask)? else {
                    return Ok(names.named());
                };
                let what = format!("synchronous_standby_names is '{}' now", sample.names);
                c.note(Record::new(Rule::SyncNames, what).fact("before", &pass.sample.names));
                pass.sample = sample.clone();
            }
        }
    }
    Ok(Names::default())
}

/// Says what would make another pass worth while before the period is over.
fn look_out(c: &mut Cycle<'_>, pass: Pass, awaited: Names) {
    let able: Names = eligible::may_have_duty(&c.view.members, c.me()).map(|member| member.name.clone()).collect();
    let streaming = able.iter().filter(|name| pass.sample.walsender(name.as_str()).is_some()).cloned().collect();
    c.sync_watch = Some(SyncWatch {
        since: c.now.moment,
        mode: c.cfg.synchronous_mode,
        record: pass.record,
        text: pass.sample.names,
        proof: c.memory.sync.proof.clone(),
        awaited,
        able,
        streaming,
        gone: BTreeMap::new(),
    });
}
