//! What a node does with another node's PostgreSQL: asking it, copying it, rewinding to it.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{Role, ServerState};
use ha_engine::Cancel;
use ha_engine::decide::observation::Upstream;
use ha_engine::ports::{CloneSource, OperationFailed, Postgres, RewindOutcome, StopHook, StopMode, StopRequest};

use crate::local::LocalServer;
use crate::network::Plane;
use crate::server::{ControlState, Data, Phase, Process};
use crate::world::Inner;

/// How often work that goes on for a while looks whether its source is still there.
const LOOK: Duration = Duration::from_millis(200);

/// Whether the PostgreSQL of `node` can be reached and answers, and what it says.
fn reach<T>(world: &Inner, me: &str, node: &str, ask: impl FnOnce(&Process, &Data) -> T) -> Option<T> {
    let (me, node) = (crate::name_of(me)?, crate::name_of(node)?);
    let server = world.servers.get(node)?;
    let reachable = world.network.is_open_both_ways(Plane::Postgres, me, node) && !server.frozen;
    let (process, data) = (server.process.as_ref()?, server.data.as_ref()?);
    (reachable && process.answers()).then(|| ask(process, data))
}

/// Asks the PostgreSQL of another node; nothing if it does not answer.
pub async fn ask<T>(me: &LocalServer, node: &str, deadline: Deadline, ask: impl FnOnce(&Process, &Data) -> T) -> Option<T> {
    let open = crate::name_of(node).is_some_and(|node| me.world.lock().network.is_open_both_ways(Plane::Postgres, me.me, node));
    if !open {
        // Nobody says that nobody will answer.
        tokio::time::sleep_until(deadline.at_most(Duration::from_secs(3)).instant()).await;
    }
    reach(&me.world.lock(), me.me, node, ask)
}

/// Lets time pass while the source stays reachable; `false` if it did not, or if somebody cancelled.
async fn work(me: &LocalServer, source: &str, span: Duration, cancel: &Cancel) -> bool {
    let until = tokio::time::Instant::now() + span;
    loop {
        if cancel.is_cancelled() || reach(&me.world.lock(), me.me, source, |_, _| ()).is_none() {
            return false;
        }
        if tokio::time::Instant::now() >= until {
            return true;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A base backup.
pub async fn copy(me: &LocalServer, source: &CloneSource, cancel: &Cancel) -> Result<(), OperationFailed> {
    let Some(source) = &source.node else { return Err(OperationFailed("no method works without a node".to_owned())) };
    remove(me)?;
    me.enter(ServerState::CreatingReplica);
    let span = Duration::from_millis(me.world.lock().rng.u64(500..4_000));
    let done = work(me, &source.name, span, cancel).await;
    let copy = if done { reach(&me.world.lock(), me.me, &source.name, |_, data| Data::copy_of(data)) } else { None };
    me.enter(ServerState::Stopped);
    let Some(copy) = copy else { return Err(OperationFailed(format!("{} could not be copied", source.name))) };
    me.change(|server, _, _| {
        if server.process.is_some() {
            return Err(OperationFailed("a server runs on the data directory".to_owned()));
        }
        server.data = Some(copy);
        Ok(())
    })
}

/// Removes the data directory.
pub fn remove(me: &LocalServer) -> Result<(), OperationFailed> {
    me.change(|server, _, _| {
        if server.process.is_some() {
            return Err(OperationFailed("a server runs on the data directory".to_owned()));
        }
        server.data = None;
        Ok(())
    })?;
    me.set_role(Role::Uninitialized);
    Ok(())
}

/// `pg_rewind`.
pub async fn rewind(me: &LocalServer, source: &Upstream, cancel: &Cancel) -> RewindOutcome {
    let stop = StopRequest { mode: StopMode::Fast, checkpoint_first: false, hook: StopHook::Run, timeout: None, part_of_restart: false };
    me.stop(stop, None).await;
    let unreachable = || RewindOutcome::NotYet(format!("{} cannot be reached for a rewind", source.name));
    let span = Duration::from_millis(me.world.lock().rng.u64(200..2_500));
    if !work(me, &source.name, span, cancel).await {
        return unreachable();
    }
    let mut world = me.world.lock();
    let seen = reach(&world, me.me, &source.name, |process, data| {
        let checkpointed = process.phase == Phase::Production && data.control.checkpoint_timeline == data.wal.timeline;
        (checkpointed, data.clone())
    });
    let Some((checkpointed, theirs)) = seen else { return unreachable() };
    if !checkpointed {
        let now = world.now.as_secs_f64();
        world.violation(format!("SAF13: {} rewinds from {} at {now:.3}, which has not finished its checkpoint", me.me, source.name));
    }
    let Some(server) = world.servers.get_mut(me.me) else { return RewindOutcome::Failed };
    let Some(data) = server.data.as_mut().filter(|_| server.process.is_none()) else { return RewindOutcome::Failed };
    if let Some(fork) = data.wal.fork_by_history(&theirs.wal) {
        let lost = data.wal.end().saturating_sub(fork);
        data.wal.truncate(fork);
        data.wal.timeline = data.wal.records.last().map_or(1, |record| record.timeline);
        let kept = data.wal.timeline;
        data.wal.history.retain(|(left, _)| *left < kept);
        data.wal.receive(&theirs.wal, theirs.wal.flushed);
        data.wal.flush();
        data.known_timeline = theirs.wal.timeline;
        data.control.state = ControlState::InArchiveRecovery;
        data.control.minimum = data.wal.end();
        data.control.minimum_timeline = data.wal.timeline;
        let now = world.now;
        world.trace.note(now, me.me, &format!("rewound to {}: {lost} bytes thrown away", source.name));
    }
    RewindOutcome::Done
}
