//! What one simulation is about: how many nodes, which mode, which faults.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use ha_engine::settings::{Authentication, BootstrapSettings, InCode, PostgresSettings, ServerAddress};
use serde_json::json;

use crate::faults::{self, Fault};
use crate::{NODES, Name, SCOPE};

/// How commits wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Async,
    On,
    Strict,
    Quorum,
}

/// All modes.
pub const MODES: [Mode; 4] = [Mode::Async, Mode::On, Mode::Strict, Mode::Quorum];

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Async => "async",
            Self::On => "on",
            Self::Strict => "strict",
            Self::Quorum => "quorum",
        })
    }
}

/// One simulation. The same scenario is the same history.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub mode: Mode,
    pub nodes: usize,
    /// Standbys that a commit waits for.
    pub count: u32,
    pub use_pg_rewind: bool,
    /// ttl, loop_wait, retry_timeout
    pub timing: [u64; 3],
    /// `maximum_lag_on_failover`
    pub maximum_lag: u64,
    /// Whether a promotion that does not know of another one may choose the same timeline (hard case 58). Nothing tells two
    /// such servers apart, so that one damages itself when it follows the other.
    pub same_timelines: bool,
    pub faults: Vec<Fault>,
    /// How long faults may begin.
    pub span: Duration,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn random(seed: u64, mode: Mode, span: Duration) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x51_u64.rotate_left(32));
        let nodes = if rng.bool() { 3 } else { rng.usize(3..=5) };
        let mut scenario = Self {
            seed,
            mode,
            nodes,
            count: if nodes > 3 { rng.u32(1..=2) } else { 1 },
            use_pg_rewind: rng.u8(..) < 200,
            timing: if rng.bool() { [30, 10, 10] } else { [20, 5, 5] },
            maximum_lag: if rng.bool() { 1_048_576 } else { 4_000 },
            same_timelines: false,
            faults: Vec::new(),
            span,
        };
        scenario.faults = faults::schedule(&mut rng, scenario.names(), span);
        scenario
    }

    /// Three nodes with the usual settings and these faults.
    pub fn with(mode: Mode, faults: Vec<Fault>) -> Self {
        let span = faults.iter().map(|fault| fault.at + fault.lasts).max().unwrap_or_default();
        Self {
            seed: 1,
            mode,
            nodes: 3,
            count: 1,
            use_pg_rewind: true,
            timing: [30, 10, 10],
            maximum_lag: 1_048_576,
            same_timelines: false,
            faults,
            span,
        }
    }

    /// The names of its nodes.
    pub fn names(&self) -> &'static [Name] {
        &NODES[..self.nodes]
    }

    /// The time to live of the lock.
    pub fn ttl(&self) -> Duration {
        Duration::from_secs(self.timing[0])
    }

    /// The period of the loop.
    pub fn loop_wait(&self) -> Duration {
        Duration::from_secs(self.timing[1])
    }

    /// The settings of the agent on `name`.
    ///
    /// # Errors
    ///
    /// They cannot be used.
    pub fn settings(&self, name: Name) -> Result<InCode, String> {
        let [ttl, loop_wait, retry_timeout] = self.timing;
        let mode = match self.mode {
            Mode::Async => json!(false),
            Mode::On | Mode::Strict => json!(true),
            Mode::Quorum => json!("quorum"),
        };
        let document = json!({
            "ttl": ttl,
            "loop_wait": loop_wait,
            "retry_timeout": retry_timeout,
            "synchronous_mode": mode,
            "synchronous_mode_strict": self.mode == Mode::Strict,
            "synchronous_node_count": self.count,
            "maximum_lag_on_failover": self.maximum_lag,
        });
        let dcs = document.as_object().cloned().unwrap_or_default();
        let bootstrap = BootstrapSettings { dcs, ..BootstrapSettings::default() };
        let listen = ServerAddress { hosts: vec![name.to_owned()], port: 5432 };
        let mut postgresql = PostgresSettings::new(SCOPE, "data", listen, Authentication::default());
        postgresql.use_pg_rewind = self.use_pg_rewind;
        postgresql.remove_data_directory_on_diverged_timelines = true;
        InCode::new(name.into(), SCOPE, &format!("http://{name}:8008/patroni"), bootstrap, postgresql).map_err(|error| error.to_string())
    }
}
