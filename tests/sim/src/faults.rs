//! What goes wrong, and when.

use std::fmt;
use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{FailoverRequest, MemberName};
use fastrand::Rng;
use ha_engine::RestartRequest;

use crate::network::{PLANES, Plane, Weather};
use crate::run::Simulation;
use crate::world::StoreMode;
use crate::{Name, STORE};

/// Whom it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Whoever holds the lock when it begins.
    Leader,
    Node(Name),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The node and the store do not hear each other.
    CutFromStore(Whom),
    /// Only one direction: to the store, or from it.
    DeafToStore(Whom, bool),
    /// The node's agent and the others' do not hear each other.
    CutFromPeers(Whom),
    /// The node's PostgreSQL and the others' do not hear each other.
    CutReplication(Whom),
    /// All of it.
    Isolated(Whom),
    /// All of it but the store.
    OnlyStore(Whom),
    StoreSilent,
    StoreRefuses,
    /// Messages to and from the node are lost, doubled and late.
    BadWeather(Whom, Plane),
    /// The agent is stopped (SIGSTOP).
    AgentStalls(Whom),
    /// The agent is told to end, which stops PostgreSQL, and started again in the end.
    AgentEnds(Whom),
    /// The agent is killed, and started again in the end.
    AgentDies(Whom),
    PostgresDies(Whom),
    /// Power is lost; what was not on disk is gone.
    MachineDies(Whom),
    /// The whole machine sleeps.
    MachineSleeps(Whom),
    /// Nothing reaches the disk.
    DiskStalls(Whom),
    /// Somebody asks for a switchover, to whoever is best.
    Switchover,
    /// Somebody restarts the node's PostgreSQL.
    Restart(Whom),
    /// Somebody builds the node anew.
    Reinitialize(Whom),
}

/// Something that goes wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// After the cluster was complete.
    pub at: Duration,
    pub lasts: Duration,
    pub what: What,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:>7.2} s for {:>6.2} s: {:?}", self.at.as_secs_f64(), self.lasts.as_secs_f64(), self.what)
    }
}

/// A schedule.
pub fn schedule(rng: &mut Rng, nodes: &[Name], span: Duration) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at = Duration::from_secs(1);
    while at < span {
        let lasts = match rng.u8(0..4) {
            0 => Duration::from_millis(rng.u64(100..3_000)),
            1 | 2 => Duration::from_millis(rng.u64(3_000..25_000)),
            _ => Duration::from_millis(rng.u64(25_000..70_000)),
        };
        faults.push(Fault { at, lasts, what: what(rng, nodes) });
        // Some come together, others leave the cluster time to recover.
        at += match rng.u8(0..3) {
            0 => Duration::from_millis(rng.u64(0..1_500)),
            1 => Duration::from_millis(rng.u64(1_500..20_000)),
            _ => Duration::from_millis(rng.u64(20_000..60_000)),
        };
    }
    faults
}

fn what(rng: &mut Rng, nodes: &[Name]) -> What {
    let whom = if rng.bool() { Whom::Leader } else { Whom::Node(nodes[rng.usize(..nodes.len())]) };
    match rng.u8(0..24) {
        0 | 1 => What::CutFromStore(whom),
        2 => What::DeafToStore(whom, rng.bool()),
        3 => What::CutFromPeers(whom),
        4 | 5 => What::CutReplication(whom),
        6 | 7 => What::Isolated(whom),
        8 => What::OnlyStore(whom),
        9 => What::StoreSilent,
        10 => What::StoreRefuses,
        11 => What::BadWeather(whom, PLANES[rng.usize(..2)]),
        12 | 13 => What::AgentStalls(whom),
        14 => What::AgentDies(whom),
        15 => What::AgentEnds(whom),
        16 => What::PostgresDies(whom),
        17 | 18 => What::MachineDies(whom),
        19 => What::MachineSleeps(whom),
        20 => What::DiskStalls(whom),
        21 => What::Switchover,
        22 => What::Restart(whom),
        _ => What::Reinitialize(whom),
    }
}

impl Whom {
    fn resolve(self, sim: &Simulation) -> Option<Name> {
        match self {
            Self::Node(name) => Some(name),
            Self::Leader => sim.world.lock().lock_owner().and_then(|owner| crate::name_of(&owner)),
        }
    }
}

impl What {
    /// Whom it hits, decided when it begins.
    pub fn resolved(self, sim: &Simulation) -> Option<Self> {
        let at = |whom: Whom| whom.resolve(sim).map(Whom::Node);
        Some(match self {
            Self::CutFromStore(whom) => Self::CutFromStore(at(whom)?),
            Self::DeafToStore(whom, to) => Self::DeafToStore(at(whom)?, to),
            Self::CutFromPeers(whom) => Self::CutFromPeers(at(whom)?),
            Self::CutReplication(whom) => Self::CutReplication(at(whom)?),
            Self::Isolated(whom) => Self::Isolated(at(whom)?),
            Self::OnlyStore(whom) => Self::OnlyStore(at(whom)?),
            Self::BadWeather(whom, plane) => Self::BadWeather(at(whom)?, plane),
            Self::AgentStalls(whom) => Self::AgentStalls(at(whom)?),
            Self::AgentDies(whom) => Self::AgentDies(at(whom)?),
            Self::AgentEnds(whom) => Self::AgentEnds(at(whom)?),
            Self::PostgresDies(whom) => Self::PostgresDies(at(whom)?),
            Self::MachineDies(whom) => Self::MachineDies(at(whom)?),
            Self::MachineSleeps(whom) => Self::MachineSleeps(at(whom)?),
            Self::DiskStalls(whom) => Self::DiskStalls(at(whom)?),
            Self::Restart(whom) => Self::Restart(at(whom)?),
            Self::Reinitialize(whom) => Self::Reinitialize(at(whom)?),
            Self::StoreSilent | Self::StoreRefuses | Self::Switchover => self,
        })
    }

    /// It begins (`begins`), or it ends. Whom it hits has been resolved.
    pub fn apply(self, sim: &mut Simulation, begins: bool, lasts: Duration) {
        match self {
            Self::CutFromStore(Whom::Node(node)) => sim.cut(Plane::Store, node, begins),
            Self::DeafToStore(Whom::Node(node), to_store) => {
                let (from, to) = if to_store { (node, STORE) } else { (STORE, node) };
                sim.cut_way(Plane::Store, from, to, begins);
            }
            Self::CutFromPeers(Whom::Node(node)) => sim.cut(Plane::Peers, node, begins),
            Self::CutReplication(Whom::Node(node)) => sim.cut(Plane::Postgres, node, begins),
            Self::Isolated(Whom::Node(node)) => PLANES.iter().for_each(|plane| sim.cut(*plane, node, begins)),
            Self::OnlyStore(Whom::Node(node)) => {
                sim.cut(Plane::Peers, node, begins);
                sim.cut(Plane::Postgres, node, begins);
            }
            Self::StoreSilent => sim.world.lock().store_mode = if begins { StoreMode::Silent } else { StoreMode::Up },
            Self::StoreRefuses => sim.world.lock().store_mode = if begins { StoreMode::Refusing } else { StoreMode::Up },
            Self::BadWeather(Whom::Node(node), plane) => {
                let bad = Weather { lost: 0.15, doubled: 0.1, delay: Duration::from_millis(1_500) };
                let mut world = sim.world.lock();
                world.network.changed_at = world.now;
                world.network.set_weather(plane, node, if begins { bad } else { Weather::default() });
            }
            Self::AgentStalls(Whom::Node(node)) => sim.host(node).stall(begins),
            Self::AgentEnds(Whom::Node(node)) => {
                if begins {
                    sim.host(node).end();
                } else {
                    let now = sim.now();
                    sim.host(node).start_at(now);
                }
            }
            Self::AgentDies(Whom::Node(node)) => {
                if begins {
                    sim.host(node).kill();
                } else {
                    let now = sim.now();
                    sim.host(node).start_at(now);
                }
            }
            Self::PostgresDies(Whom::Node(node)) if begins => sim.crash_server(node),
            Self::MachineDies(Whom::Node(node)) => {
                if begins {
                    sim.host(node).kill();
                    sim.crash_server(node);
                    sim.isolate(node, true);
                } else {
                    sim.isolate(node, false);
                    let now = sim.now();
                    sim.host(node).start_at(now);
                }
            }
            Self::MachineSleeps(Whom::Node(node)) => {
                sim.host(node).sleep(begins);
                sim.with_server(node, |server| server.frozen = begins);
            }
            Self::DiskStalls(Whom::Node(node)) => {
                let until = if begins { sim.now() + lasts } else { Duration::ZERO };
                sim.with_server(node, |server| server.disk_stalls_until = until);
            }
            Self::Switchover if begins => switchover(sim),
            Self::Restart(Whom::Node(node)) if begins => {
                if let Some(handle) = sim.host(node).handle() {
                    sim.host(node).spawn(async move { drop(handle.restart(RestartRequest::default()).await) });
                }
            }
            Self::Reinitialize(Whom::Node(node)) if begins => {
                if let Some(handle) = sim.host(node).handle() {
                    sim.host(node).spawn(async move { drop(handle.reinitialize(false, false).await) });
                }
            }
            _ => {}
        }
    }
}

/// What `POST /switchover` on the leader does.
fn switchover(sim: &mut Simulation) {
    let Some(leader) = Whom::Leader.resolve(sim) else { return };
    let Some(handle) = sim.host(leader).handle() else { return };
    let request = FailoverRequest { leader: Some(MemberName::from(leader)), candidate: None, scheduled_at: None };
    sim.host(leader).spawn(async move {
        let written = handle.dcs().set_failover(&request, None, Deadline::after(Duration::from_secs(5))).await;
        if written.is_ok() {
            handle.wake();
        }
    });
}
