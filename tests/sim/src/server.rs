//! One simulated PostgreSQL: a data directory, and a process on it that goes on by itself, whatever its agent does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use ha_engine::decide::sync::names::{Kind as NamesKind, StandbyNames};
use ha_engine::decide::sync::sample::SyncWord;
use ha_engine::ports::StopMode;
use tokio::sync::watch;

use crate::Name;
use crate::wal::{Kind, Wal};

/// How long a standby waits before it tries its upstream again (`wal_retrieve_retry_interval`).
pub const RETRY: Duration = Duration::from_secs(5);
/// After this time without a word a replication connection is over (`wal_sender_timeout`, `wal_receiver_timeout`).
pub const SILENCE: Duration = Duration::from_secs(60);
/// How often a standby notes in its control file how far it is.
const RESTARTPOINT: Duration = Duration::from_secs(5);
/// After a reload every process has read the configuration within this time.
pub const RELOADED: Duration = Duration::from_millis(100);

/// `Database cluster state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlState {
    InProduction,
    InCrashRecovery,
    InArchiveRecovery,
    ShutDown,
    ShutDownInRecovery,
}

impl ControlState {
    /// In the words of `pg_controldata`.
    pub const fn words(self) -> &'static str {
        match self {
            Self::InProduction => "in production",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
        }
    }
}

/// The control file.
#[derive(Clone, Debug)]
pub struct Control {
    pub state: ControlState,
    /// Where the last checkpoint record begins, and where it ends.
    pub checkpoint: u64,
    pub checkpoint_end: u64,
    pub checkpoint_timeline: u32,
    /// Minimum recovery end.
    pub minimum: u64,
    pub minimum_timeline: u32,
}

/// A data directory.
#[derive(Clone, Debug)]
pub struct Data {
    pub system_id: u64,
    pub wal: Wal,
    pub control: Control,
    /// `standby.signal`
    pub standby: bool,
    pub upstream: Option<Name>,
    pub slot: Option<String>,
    /// `synchronous_standby_names`, as configured.
    pub names: String,
    /// The newest timeline whose history file is here.
    pub known_timeline: u32,
    pub slots: BTreeSet<String>,
}

impl Data {
    /// What `initdb` makes.
    pub fn new(system_id: u64) -> Self {
        let wal = Wal::new();
        let control = Control {
            state: ControlState::ShutDown,
            checkpoint: wal.end() - 100,
            checkpoint_end: wal.end(),
            checkpoint_timeline: 1,
            minimum: 0,
            minimum_timeline: 0,
        };
        Self {
            system_id,
            wal,
            control,
            standby: false,
            upstream: None,
            slot: None,
            names: String::new(),
            known_timeline: 1,
            slots: BTreeSet::new(),
        }
    }

    /// What a base backup of `source` is.
    pub fn copy_of(source: &Self) -> Self {
        let mut copy = Self { standby: true, upstream: None, slot: None, slots: BTreeSet::new(), ..source.clone() };
        copy.wal.truncate(source.wal.flushed);
        copy.control.state = ControlState::InArchiveRecovery;
        copy.control.minimum = copy.wal.end();
        copy.control.minimum_timeline = copy.wal.timeline;
        copy
    }

    /// Writes a checkpoint record of a server that shuts down.
    pub fn shutdown_checkpoint(&mut self) {
        self.control.checkpoint = self.wal.end();
        self.control.checkpoint_end = self.wal.append(Kind::ShutdownCheckpoint, 120);
        self.wal.flush();
        self.control.checkpoint_timeline = self.wal.timeline;
        self.control.state = ControlState::ShutDown;
        (self.control.minimum, self.control.minimum_timeline) = (0, 0);
    }
}

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Replays what is there until `until`, then becomes a primary.
    CrashRecovery { until: Duration },
    /// A standby; accepts connections once it has replayed what it has and is consistent.
    Recovery { redo_until: Duration, accepting: bool },
    /// A standby that becomes a primary.
    Promoting { until: Duration },
    /// A primary.
    Production,
}

/// A stop that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Stopping {
    pub mode: StopMode,
    pub clients_gone_at: Duration,
    pub checkpoint_at: Duration,
    pub gone_at: Duration,
}

/// A row that was written and not acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    pub row: u64,
    pub end: u64,
    pub waits: bool,
}

/// A standby's connection, as its upstream sees it.
#[derive(Clone, Debug)]
pub struct Walsender {
    /// Which process of the standby it is.
    pub process: u64,
    pub written: u64,
    pub flushed: u64,
    pub replayed: u64,
    pub reported: bool,
    pub caught_up: bool,
    pub silent_since: Option<Duration>,
}

/// A standby's connection, as it sees it.
#[derive(Clone, Debug, Default)]
pub struct Receiver {
    /// Whom it streams from: the node and its process.
    pub connection: Option<(Name, u64)>,
    pub next_attempt: Duration,
    pub arriving: Option<(Duration, u64)>,
    pub report: Option<(Duration, [u64; 3])>,
    pub reported: [u64; 3],
    pub silent_since: Option<Duration>,
    pub has_received: bool,
}

/// A running postmaster.
#[derive(Clone, Debug)]
pub struct Process {
    pub id: u64,
    pub started_at: i64,
    pub phase: Phase,
    pub stopping: Option<Stopping>,
    pub names: StandbyNames,
    pub names_text: String,
    pub names_loaded_at: Duration,
    pub new_names: Option<(Duration, String)>,
    pub commits: Vec<Commit>,
    pub walsenders: BTreeMap<Name, Walsender>,
    pub receiver: Receiver,
    pub next_write: Duration,
    pub accepting_since: Duration,
    pub next_restartpoint: Duration,
}

impl Process {
    /// Whether clients could connect and write now.
    pub fn is_writable(&self, now: Duration) -> bool {
        self.phase == Phase::Production && self.stopping.is_none_or(|stop| now < stop.clients_gone_at)
    }

    /// Whether it answers queries.
    pub fn answers(&self) -> bool {
        self.stopping.is_none()
            && matches!(self.phase, Phase::Production | Phase::Recovery { accepting: true, .. } | Phase::Promoting { .. })
    }

    /// How a standby takes part in synchronous replication.
    pub fn sync_word(&self, name: &str) -> SyncWord {
        let listed = |name: &str| self.names.everybody || self.names.names.contains(name);
        if !listed(name) {
            return SyncWord::Async;
        }
        match self.names.kind {
            NamesKind::Off => SyncWord::Async,
            NamesKind::Quorum => SyncWord::Quorum,
            NamesKind::Priority => {
                let mut candidates =
                    self.walsenders.iter().filter(|(name, sender)| sender.caught_up && listed(name)).map(|(name, _)| *name);
                let rank = candidates.position(|candidate| candidate == name);
                if rank.is_some_and(|rank| rank < self.names.number) { SyncWord::Sync } else { SyncWord::Potential }
            }
        }
    }

    /// Whether enough standbys have flushed up to `end`.
    fn has_copies(&self, end: u64) -> bool {
        if self.names.kind == NamesKind::Off {
            return true;
        }
        let counted = self.walsenders.iter().filter(|(name, sender)| {
            let counts = matches!(self.sync_word(name), SyncWord::Sync | SyncWord::Quorum);
            counts && sender.caught_up && sender.flushed >= end
        });
        counted.count() >= self.names.number.max(1)
    }
}

/// What happened on a server that others want to know.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A client was told that its row is safe.
    Acknowledged { row: u64, end: u64 },
    /// It has become a primary.
    Promoted { timeline: u32, at: u64 },
    /// Worth a line in the history.
    Note(String),
}

/// PostgreSQL on one node.
#[derive(Debug)]
pub struct Server {
    pub name: Name,
    pub data: Option<Data>,
    pub process: Option<Process>,
    /// Counts changes of the process, for who waits for them.
    pub changes: watch::Sender<u64>,
    /// The whole machine stands still.
    pub frozen: bool,
    /// Nothing reaches the disk until then.
    pub disk_stalls_until: Duration,
    processes: u64,
}

fn between(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from..=to))
}

impl Server {
    /// A machine with nothing on it.
    pub fn new(name: Name) -> Self {
        let changes = watch::Sender::new(0);
        Self { name, data: None, process: None, changes, frozen: false, disk_stalls_until: Duration::ZERO, processes: 0 }
    }

    /// Tells who waits that something is different.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Whether a client could write here now.
    pub fn is_writable(&self, now: Duration) -> bool {
        !self.frozen && self.process.as_ref().is_some_and(|process| process.is_writable(now))
    }

    /// Starts a process on the data; as a standby, or as the primary that it was. `false`: there is no data.
    pub fn launch(&mut self, standby: bool, now: Duration, rng: &mut Rng) -> bool {
        let Some(data) = &mut self.data else { return false };
        if self.process.is_some() {
            return true;
        }
        self.processes += 1;
        data.standby = standby;
        let clean = matches!(data.control.state, ControlState::ShutDown | ControlState::ShutDownInRecovery);
        let redo = now + if clean { between(rng, 30, 150) } else { between(rng, 100, 2_000) };
        let phase = if standby {
            data.control.state = ControlState::InArchiveRecovery;
            Phase::Recovery { redo_until: redo, accepting: false }
        } else {
            if !clean {
                data.control.state = ControlState::InCrashRecovery;
            }
            Phase::CrashRecovery { until: redo }
        };
        let names_text = data.names.clone();
        self.process = Some(Process {
            id: self.processes,
            started_at: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            phase,
            stopping: None,
            names: StandbyNames::parse(&names_text).unwrap_or_default(),
            names_text,
            names_loaded_at: now,
            new_names: None,
            commits: Vec::new(),
            walsenders: BTreeMap::new(),
            receiver: Receiver { next_attempt: redo, ..Receiver::default() },
            next_write: now,
            accepting_since: now,
            next_restartpoint: now + RESTARTPOINT,
        });
        self.changed();
        true
    }

    /// The process ends without a word; what was not safe on disk may be gone.
    pub fn crash(&mut self, rng: &mut Rng) {
        if self.process.take().is_some()
            && let Some(data) = &mut self.data
        {
            let kept = rng.u64(data.wal.flushed..=data.wal.end().max(data.wal.flushed));
            data.wal.truncate(kept);
            data.wal.flushed = data.wal.end();
        }
        self.changed();
    }

    /// Sends the signal of a stop. A harsher one replaces a gentle one.
    pub fn stop(&mut self, mode: StopMode, now: Duration, rng: &mut Rng) {
        let Some(process) = &mut self.process else { return };
        if process.stopping.is_some_and(|stop| stop.mode == mode || stop.mode == StopMode::Immediate) {
            return;
        }
        let clients_gone_at = now + between(rng, 10, 200);
        let stopping = match mode {
            StopMode::Immediate => {
                Stopping { mode, clients_gone_at, checkpoint_at: Duration::MAX, gone_at: clients_gone_at + between(rng, 10, 100) }
            }
            StopMode::Fast => {
                let checkpoint_at = clients_gone_at + between(rng, 20, 1_500);
                Stopping { mode, clients_gone_at, checkpoint_at, gone_at: checkpoint_at + between(rng, 20, 200) }
            }
        };
        process.stopping = Some(stopping);
        process.receiver.connection = None;
        self.changed();
    }

    /// Requests a promotion. `false`: this is no standby.
    pub fn promote(&mut self, now: Duration, rng: &mut Rng) -> bool {
        let Some(process) = self.process.as_mut().filter(|process| process.stopping.is_none()) else { return false };
        match process.phase {
            Phase::Promoting { .. } | Phase::Production => return true,
            Phase::Recovery { .. } => {}
            Phase::CrashRecovery { .. } => return false,
        }
        process.phase = Phase::Promoting { until: now + between(rng, 30, 800) };
        process.receiver = Receiver::default();
        self.changed();
        true
    }

    /// Writes `synchronous_standby_names` and reloads.
    pub fn set_names(&mut self, text: &str, now: Duration, rng: &mut Rng) {
        let Some(data) = &mut self.data else { return };
        text.clone_into(&mut data.names);
        if let Some(process) = &mut self.process {
            process.new_names = Some((now + between(rng, 0, 60), text.to_owned()));
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Duration, rng: &mut Rng, rows: &mut u64, busy: bool, newest: &mut Option<u32>) -> Vec<Happening> {
        let mut happenings = Vec::new();
        if self.frozen {
            return happenings;
        }
        let disk = now >= self.disk_stalls_until;
        let (Some(data), Some(process)) = (&mut self.data, &mut self.process) else { return happenings };
        if let Some((_, text)) = process.new_names.take_if(|(at, _)| *at <= now) {
            process.names = StandbyNames::parse(&text).unwrap_or_default();
            process.names_text = text;
            process.names_loaded_at = now;
        }
        let mut changed = false;
        match process.phase {
            Phase::CrashRecovery { until } if until <= now && disk => {
                data.wal.append(Kind::Noop, 60);
                data.wal.flush();
                data.control.state = ControlState::InProduction;
                data.control.checkpoint_timeline = data.wal.timeline;
                process.phase = Phase::Production;
                changed = true;
            }
            Phase::Recovery { redo_until, accepting } => {
                if disk {
                    data.wal.flushed = data.wal.end();
                }
                if redo_until <= now {
                    data.wal.replayed = data.wal.flushed;
                    if !accepting && data.wal.replayed >= data.control.minimum {
                        process.phase = Phase::Recovery { redo_until, accepting: true };
                        process.accepting_since = now;
                        changed = true;
                    }
                }
                if process.next_restartpoint <= now && disk {
                    process.next_restartpoint = now + RESTARTPOINT;
                    data.control.minimum = data.control.minimum.max(data.wal.replayed);
                    data.control.minimum_timeline = data.wal.timeline;
                }
            }
            Phase::Promoting { until } if until <= now && disk => {
                data.wal.flush();
                let at = data.wal.end();
                data.known_timeline = data.known_timeline.max(data.wal.timeline).max(newest.unwrap_or(0)) + 1;
                if newest.is_some() {
                    *newest = Some(data.known_timeline);
                }
                data.wal.switch_to(data.known_timeline);
                data.wal.flush();
                data.control.state = ControlState::InProduction;
                (data.control.minimum, data.control.minimum_timeline) = (0, 0);
                data.standby = false;
                process.phase = Phase::Production;
                happenings.push(Happening::Promoted { timeline: data.wal.timeline, at });
                changed = true;
            }
            _ => {}
        }
        if process.phase == Phase::Production {
            if busy && process.is_writable(now) && process.stopping.is_none() && process.next_write <= now {
                process.next_write = now + between(rng, 50, 800);
                *rows += 1;
                let end = data.wal.append(Kind::Row(*rows), rng.u64(60..200));
                process.commits.push(Commit { row: *rows, end, waits: false });
            }
            if disk && rng.u8(..) < 200 {
                data.wal.flush();
            }
            if process.is_writable(now) {
                // A backend looks once whether there is somebody to wait for; then only enough copies end its wait, or
                // that nobody is to be waited for any more.
                let mut commits = std::mem::take(&mut process.commits);
                commits.retain_mut(|commit| {
                    if commit.end > data.wal.flushed {
                        return true;
                    }
                    let waits = !process.has_copies(commit.end);
                    commit.waits = waits;
                    if !waits {
                        happenings.push(Happening::Acknowledged { row: commit.row, end: commit.end });
                    }
                    waits
                });
                process.commits = commits;
            } else {
                process.commits.clear();
            }
        }
        changed |= self.progress_of_stop(now, disk, &mut happenings);
        if changed {
            self.changed();
        }
        happenings
    }

    fn progress_of_stop(&mut self, now: Duration, disk: bool, happenings: &mut Vec<Happening>) -> bool {
        let (Some(data), Some(process)) = (&mut self.data, &mut self.process) else { return false };
        let Some(stop) = process.stopping else { return false };
        let primary = process.phase == Phase::Production;
        let mut changed = false;
        if stop.mode == StopMode::Fast && now >= stop.checkpoint_at && disk && data.control.state == ControlState::InProduction && primary {
            data.wal.flush();
            data.shutdown_checkpoint();
            changed = true;
        }
        let shipped = process.walsenders.values().all(|sender| sender.flushed >= data.wal.end());
        let waits = stop.mode == StopMode::Fast && primary && (!shipped || data.control.state != ControlState::ShutDown);
        if now < stop.gone_at || (!disk && stop.mode == StopMode::Fast) || waits {
            return changed;
        }
        if stop.mode == StopMode::Fast && matches!(process.phase, Phase::Recovery { .. }) {
            data.wal.flush();
            data.control.state = ControlState::ShutDownInRecovery;
            data.control.minimum = data.control.minimum.max(data.wal.replayed);
            data.control.minimum_timeline = data.wal.timeline;
        }
        happenings.push(Happening::Note(format!("postmaster has ended, {}", data.control.state.words())));
        let kept = data.wal.flushed;
        data.wal.truncate(kept);
        self.process = None;
        true
    }
}
