//! The store cannot be used (rows D of section 1.6).

use super::action::{DemoteKind, Effect};
use super::journal::{Record, Rule};
use super::memory::Memory;
use super::observation::{Observation, TaskKind};
use crate::settings::GlobalConfig;

/// What to do without the store: effects, and the line of the cycle. A primary stops, whether it holds the lock or not: it
/// must be down before the lock can expire.
pub(super) fn decide(obs: &Observation, cfg: &GlobalConfig, memory: &mut Memory) -> (Vec<Effect>, String) {
    use super::action::Severity;

    // D1, D2. With hardening rule X10 a promotion under way counts as a primary.
    // A new cluster has no lock yet that could be lost.
    if cfg.pause || memory.bootstrapping || !obs.server.postmaster.is_running() || !obs.server.is_or_becomes_primary() {
        return (Vec::new(), "DCS is not accessible".to_owned());
    }
    let mut effects = Vec::new();
    // D4
    effects.push(Effect::Log(Severity::Info, "demoting self because DCS is not accessible and I was a leader".to_owned()));
    if obs.rewind_policy.can_act() && memory.rewind != super::memory::RewindState::Need {
        memory.rewind = super::memory::RewindState::Check;
    }
    match &obs.task {
        // A demotion that is under way already goes on; doubling it would help nobody.
        Some(task) if task.kind == TaskKind::Demote => {}
        // Hardening rule X9: the task must not start the server again behind our back.
        Some(_) => {
            effects.push(Effect::CancelTask);
            effects.push(Effect::Demote(DemoteKind::Offline));
        }
        None => effects.push(Effect::Demote(DemoteKind::Offline)),
    }
    (effects, "demoted self because DCS is not accessible and I was a leader".to_owned())
}

/// What the journal says about it.
pub(super) fn record(obs: &Observation, effects: &[Effect]) -> Vec<Record> {
    let (rule, what) = match effects {
        [] => (Rule::StoreLost, "the store cannot be reached: nothing is changed here, and nobody can be elected from here"),
        _ => (Rule::DemoteStoreLost, "demoting self because DCS is not accessible and I was a leader"),
    };
    let record = Record::new(rule, what)
        .fact("my_role", obs.server.role)
        .fact_if("my_position", obs.server.monitor.lsn())
        .fact_if("task", obs.task.as_ref().map(|task| task.name.clone()));
    vec![record]
}
