//! Streaming replication between the simulated servers.

use std::time::Duration;

use fastrand::Rng;

use crate::Name;
use crate::network::{Network, Plane};
use crate::server::{Data, Phase, Process, RETRY, SILENCE, Server, Walsender};
use crate::world::Inner;

/// What a connection attempt came to.
enum Attempt {
    Accepted,
    Refused,
    /// PostgreSQL accepts it, and the two have different content: data would be damaged.
    Damage(String),
}

/// One step of everybody's replication.
pub fn step(world: &mut Inner) {
    let names: Vec<Name> = world.servers.keys().copied().collect();
    for name in &names {
        let Some(mut standby) = world.servers.remove(name) else { continue };
        let upstream = standby.data.as_ref().and_then(|data| data.upstream).filter(|upstream| upstream != name);
        let mut source = upstream.and_then(|upstream| world.servers.remove(upstream));
        let mut damage = None;
        if !standby.frozen {
            damage = receive(&mut standby, source.as_mut(), &world.network, world.now, &mut world.rng);
        }
        if let Some(source) = source {
            world.servers.insert(source.name, source);
        }
        world.servers.insert(*name, standby);
        if let Some(damage) = damage {
            world.violation(format!("SAF12: {name}: {damage}"));
        }
    }
    for name in &names {
        forget_dead_standbys(world, name);
    }
}

fn latency(rng: &mut Rng) -> Duration {
    Duration::from_millis(rng.u64(1..=30))
}

fn receive(standby: &mut Server, source: Option<&mut Server>, network: &Network, now: Duration, rng: &mut Rng) -> Option<String> {
    let me = standby.name;
    let (Some(data), Some(process)) = (&mut standby.data, &mut standby.process) else { return None };
    let streams = process.stopping.is_none() && matches!(process.phase, Phase::Recovery { redo_until, .. } if redo_until <= now);
    let Some(source) = source.filter(|_| streams) else {
        process.receiver.connection = None;
        return None;
    };
    let open = !source.frozen && network.is_open_both_ways(Plane::Postgres, me, source.name);
    let receiver = &mut process.receiver;
    if let Some((from, id)) = receiver.connection {
        let lives = from == source.name && source.process.as_ref().is_some_and(|other| other.id == id);
        if from != source.name || (open && (!lives || source.process.as_ref().is_none_or(|other| !other.walsenders.contains_key(me)))) {
            drop_connection(receiver, now, from != source.name);
        } else if !open {
            let since = *receiver.silent_since.get_or_insert(now);
            if now.saturating_sub(since) >= SILENCE {
                drop_connection(receiver, now, false);
            }
            return None;
        } else {
            receiver.silent_since = None;
        }
    }
    if receiver.connection.is_none() {
        if receiver.next_attempt > now {
            return None;
        }
        receiver.next_attempt = now + RETRY;
        if !open {
            return None;
        }
        match attempt(data, source, now) {
            Attempt::Refused => return None,
            Attempt::Damage(what) => return Some(what),
            Attempt::Accepted => {}
        }
        let (Some(their_data), Some(other)) = (&source.data, &mut source.process) else { return None };
        data.known_timeline = data.known_timeline.max(their_data.wal.timeline);
        receiver.connection = Some((source.name, other.id));
        receiver.has_received = true;
        (receiver.arriving, receiver.report, receiver.reported) = (None, None, [0; 3]);
        other.walsenders.insert(
            me,
            Walsender { process: process.id, written: 0, flushed: 0, replayed: 0, reported: false, caught_up: false, silent_since: None },
        );
    }
    let (Some(their_data), Some(other)) = (&source.data, &mut source.process) else { return None };
    flow(data, process, me, their_data, other, now, rng);
    None
}

fn drop_connection(receiver: &mut crate::server::Receiver, now: Duration, at_once: bool) {
    receiver.connection = None;
    receiver.silent_since = None;
    receiver.next_attempt = if at_once { now } else { now + RETRY };
}

/// What PostgreSQL checks before it streams, and what it cannot check.
fn attempt(data: &Data, source: &Server, now: Duration) -> Attempt {
    let (Some(theirs), Some(other)) = (&source.data, &source.process) else { return Attempt::Refused };
    let (wal, their_wal) = (&data.wal, &theirs.wal);
    let slot_is_there = data.slot.as_ref().is_none_or(|slot| theirs.slots.contains(slot));
    if !other.answers() || matches!(other.phase, Phase::Promoting { .. }) || !slot_is_there || theirs.system_id != data.system_id {
        return Attempt::Refused;
    }
    let fits = match their_wal.timeline.cmp(&wal.timeline) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => wal.end() <= their_wal.flushed,
        std::cmp::Ordering::Greater => their_wal.left_at(wal.timeline).is_some_and(|at| wal.end() <= at),
    };
    if !fits {
        return Attempt::Refused;
    }
    if !wal.agrees_with(their_wal) {
        let (own, end) = (wal.timeline, wal.end());
        return Attempt::Damage(format!(
            "streams from {} at {:.3} although its own log (timeline {own}, up to {end}) has other content",
            source.name,
            now.as_secs_f64()
        ));
    }
    Attempt::Accepted
}

/// Records one way, positions the other.
fn flow(data: &mut Data, process: &mut Process, me: Name, theirs: &Data, other: &mut Process, now: Duration, rng: &mut Rng) {
    let receiver = &mut process.receiver;
    if let Some((_, up_to)) = receiver.arriving.take_if(|(at, _)| *at <= now) {
        data.wal.receive(&theirs.wal, up_to);
        data.known_timeline = data.known_timeline.max(data.wal.timeline);
    }
    if receiver.arriving.is_none() && theirs.wal.flushed > data.wal.end() {
        receiver.arriving = Some((now + latency(rng), theirs.wal.flushed));
    }
    if let Some((_, positions)) = receiver.report.take_if(|(at, _)| *at <= now)
        && let Some(sender) = other.walsenders.get_mut(me)
    {
        [sender.written, sender.flushed, sender.replayed] = positions;
        sender.reported = true;
        sender.caught_up |= sender.written >= theirs.wal.flushed.saturating_sub(300);
    }
    let positions = [data.wal.end(), data.wal.flushed, data.wal.replayed];
    if receiver.report.is_none() && receiver.reported != positions {
        receiver.report = Some((now + latency(rng), positions));
        receiver.reported = positions;
    }
}

/// A standby that is gone is forgotten at once if its machine says so, otherwise after a while.
fn forget_dead_standbys(world: &mut Inner, name: Name) {
    let Some(mut server) = world.servers.remove(name) else { return };
    if let Some(process) = server.process.as_mut().filter(|_| !server.frozen) {
        let id = process.id;
        process.walsenders.retain(|standby, sender| {
            let other = world.servers.get(standby);
            let reachable = other.is_some_and(|other| !other.frozen) && world.network.is_open_both_ways(Plane::Postgres, name, standby);
            let connected = other
                .and_then(|other| other.process.as_ref())
                .is_some_and(|process| process.id == sender.process && process.receiver.connection == Some((name, id)));
            if reachable {
                sender.silent_since = None;
                return connected;
            }
            world.now.saturating_sub(*sender.silent_since.get_or_insert(world.now)) < SILENCE
        });
    }
    world.servers.insert(name, server);
}
