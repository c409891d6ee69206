//! Situations, and what is decided in them. One test per row of the specification, in the file of its letter.

mod busy;
mod consistency;
mod desired_slots;
mod failsafe;
mod journal;
mod leader;
mod logical_slots;
mod pause;
mod properties;
mod race;
mod reconnect;
mod replica;
mod restart;
mod slots;
mod standby;
mod stopped;
mod store;
mod synchronous;
mod watchdog;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dcs_core::model::{
    ClusterView, DynamicConfig, FailoverKey, FailoverRequest, History, HistoryLine, Leader, Lsn, Member, MemberName, MemberRecord,
    Revision, Role, ServerState, SystemId, Tags, Timeline,
};
use dcs_core::{Acquisition, LeaderLease, Moment, Renewal};
use serde_json::{Map, Value, json};

use super::action::{Answer, Answers, Ask, Decision, Effect, Severity, Step};
use super::failsafe::Extension;
use super::failsafe::exclusion::Promise;
use super::memory::Memory;
use super::observation::{
    DataDir, Monitor, Observation, PeerAnswer, PeerStatus, PeerTarget, Postmaster, PrimaryMonitor, RewindPolicy, RunningTask,
    ServerObservation, StandbyMonitor, StoreFailed, TaskKind, WatchdogObservation,
};
use super::sync::names::{Kind, StandbyNames};
use super::sync::sample::{SyncSample, SyncWord};
use super::{Now, decide};
use crate::ports::{ControlData, DivergenceFacts, RecoveryDiff};
use crate::settings::GlobalConfig;

const SYSTEM_ID: &str = "7000000000000000001";

/// A whole world around one decision: what is seen, and what the answers to questions would be.
pub(super) struct Situation {
    pub(super) obs: Observation,
    pub(super) view: ClusterView,
    pub(super) store_lost: bool,
    pub(super) cfg: GlobalConfig,
    pub(super) memory: Memory,
    pub(super) wall: jiff::Timestamp,
    pub(super) now: Moment,
    pub(super) renewal: Result<Renewal, StoreFailed>,
    pub(super) acquisition: Result<Acquisition, StoreFailed>,
    pub(super) peers: BTreeMap<String, PeerAnswer>,
    pub(super) control: Option<ControlData>,
    /// What this node has promised by the time it asks for the lock.
    pub(super) promised: Option<Promise>,
    /// What asking everybody for their word brings.
    pub(super) word: Option<Extension>,
    pub(super) divergence: Option<DivergenceFacts>,
    pub(super) recovery_diff: RecoveryDiff,
    pub(super) own_timeline: Option<Timeline>,
    pub(super) written: bool,
    /// History files, by the question for them.
    pub(super) files: Vec<(Ask, Answer)>,
    /// Whether `synchronous_standby_names` can be changed.
    pub(super) names_settable: bool,
    /// Whether the watchdog can be armed, or need not be.
    pub(super) watchdog_works: bool,
    /// Every question that was asked.
    pub(super) asked: Vec<Ask>,
}

fn lease() -> LeaderLease {
    LeaderLease::granted(Moment::from_origin(Duration::from_secs(1000)), Duration::from_secs(30))
}

pub(in crate::decide) fn global(document: Value) -> GlobalConfig {
    let Value::Object(document) = document else { panic!("a document is an object") };
    GlobalConfig::from_document(&document).expect("a usable document").0
}

pub(in crate::decide) fn member(name: &str) -> Member {
    Member {
        name: MemberName::from(name),
        revision: Revision::from(1_i64),
        handle: None,
        record: MemberRecord {
            conn_url: Some(format!("postgres://{name}.example:5432/postgres")),
            api_url: Some(format!("http://{name}.example:8008/patroni")),
            state: Some("running".to_owned()),
            role: Some("replica".to_owned()),
            version: Some("4.1.4".to_owned()),
            ..MemberRecord::default()
        },
    }
}

pub(super) fn standby_answer(position: u64) -> PeerAnswer {
    PeerAnswer::Status(PeerStatus {
        in_recovery: true,
        position: Lsn(position),
        timeline: Some(Timeline(1)),
        tags: Tags::default(),
        watchdog_failed: false,
        scope: None,
        system_id: None,
    })
}

impl Situation {
    /// Node `a` of `a`, `b` and `c`, PostgreSQL up as `monitor` says; nobody leads.
    fn with(role: Role, monitor: Monitor) -> Self {
        let server = ServerObservation {
            state: ServerState::Running,
            role,
            since: Moment::ZERO,
            postmaster: Postmaster::Running { pid: 42, started_at: 1 },
            data_dir: DataDir::Present { recovery_file: role == Role::Replica, backup_label: false },
            system_id: SystemId::parse(SYSTEM_ID),
            monitor,
            slots: Some(Vec::new()),
            major_version: Some(150_000),
            pending_restart: BTreeMap::new(),
        };
        let view = ClusterView {
            initialize: Some(SYSTEM_ID.to_owned()),
            config: Some(DynamicConfig { revision: Revision::from(1_i64), data: Some(Map::from_iter([("ttl".to_owned(), json!(30))])) }),
            members: vec![member("a"), member("b"), member("c")],
            history: Some(History { revision: Revision::from(1_i64), lines: Vec::new(), raw: json!([]) }),
            ..ClusterView::default()
        };
        Self {
            obs: Observation {
                me: MemberName::from("a"),
                tags: Tags::default(),
                api_url: "http://a.example:8008/patroni".to_owned(),
                view: Err(StoreFailed),
                started_at: Moment::ZERO,
                promise: None,
                server,
                watchdog: WatchdogObservation { wanted: false, running: false, usable: true },
                synchronous: None,
                slot_report: None,
                server_version: None,
                task: None,
                callback_called: false,
                may_bootstrap: true,
                rewind_policy: RewindPolicy { can_rewind: true, rebuild_diverged: false, rebuild_after_failure: false },
                use_slots: true,
                has_leaderless_method: false,
            },
            view,
            store_lost: false,
            cfg: global(json!({})),
            memory: Memory { managed: true, ..Memory::default() },
            wall: jiff::Timestamp::from_second(1_800_000_000).expect("in range"),
            now: Moment::from_origin(Duration::from_secs(1001)),
            renewal: Ok(Renewal::Renewed(lease())),
            acquisition: Ok(Acquisition::Won(lease())),
            peers: BTreeMap::new(),
            control: None,
            promised: None,
            word: None,
            divergence: None,
            recovery_diff: RecoveryDiff::None,
            own_timeline: Some(Timeline(1)),
            written: true,
            files: Vec::new(),
            names_settable: true,
            watchdog_works: true,
            asked: Vec::new(),
        }
    }

    pub(super) fn primary() -> Self {
        Self::with(Role::Primary, Monitor::Primary(PrimaryMonitor { timeline: Timeline(1), lsn: Lsn(1000) }))
    }

    pub(super) fn replica() -> Self {
        let standby = StandbyMonitor {
            replayed: Lsn(1000),
            received: Lsn(1000),
            received_timeline: Some(Timeline(1)),
            replication_state: Some("streaming".to_owned()),
            ..StandbyMonitor::default()
        };
        Self::with(Role::Replica, Monitor::Standby(standby))
    }

    /// PostgreSQL is down; what it was before.
    pub(super) fn stopped(role: Role) -> Self {
        let mut situation = Self::with(role, Monitor::NotAsked);
        situation.obs.server.postmaster = Postmaster::None;
        situation.obs.server.slots = None;
        situation
    }

    pub(super) fn led_by(mut self, name: &str) -> Self {
        self.view.leader = Some(Leader { name: MemberName::from(name), revision: Revision::from(5_i64), handle: None });
        for member in &mut self.view.members {
            if member.name == name {
                member.record.role = Some("primary".to_owned());
                member.record.timeline = Some(Timeline(1));
            }
        }
        if name == "a" {
            self.memory.lease = Some(lease());
        }
        self
    }

    pub(super) fn paused(mut self) -> Self {
        self.cfg.pause = true;
        self.memory.was_paused = true;
        self
    }

    pub(super) fn tagged(mut self, name: &str, value: Value) -> Self {
        self.obs.tags.0.insert(name.to_owned(), value);
        self
    }

    pub(super) fn peer(mut self, name: &str, answer: PeerAnswer) -> Self {
        self.peers.insert(name.to_owned(), answer);
        self
    }

    pub(super) fn requested(mut self, leader: Option<&str>, candidate: Option<&str>) -> Self {
        self.view.failover = Some(FailoverKey {
            revision: Revision::from(7_i64),
            request: FailoverRequest {
                leader: leader.map(MemberName::from),
                candidate: candidate.map(MemberName::from),
                scheduled_at: None,
            },
        });
        self
    }

    pub(super) fn history(mut self, lines: &[(u32, u64)]) -> Self {
        let lines: Vec<HistoryLine> = lines
            .iter()
            .map(|(timeline, lsn)| HistoryLine {
                timeline: *timeline,
                lsn: Lsn(*lsn),
                reason: String::new(),
                timestamp: Some("then".to_owned()),
                new_leader: Some("x".to_owned()),
            })
            .collect();
        self.view.history = Some(History { revision: Revision::from(2_i64), raw: json!([1]), lines });
        self
    }

    pub(super) fn busy(mut self, kind: TaskKind) -> Self {
        self.obs.task = Some(RunningTask { name: "a task".to_owned(), kind, since: self.now });
        self
    }

    pub(super) fn control_state(mut self, state: &str) -> Self {
        self.control = Some(ControlData {
            lines: vec![("Database cluster state".to_owned(), state.to_owned())],
            cluster_state: state.to_owned(),
            checkpoint: Lsn(900),
            checkpoint_timeline: Some(Timeline(1)),
            minimum_recovery_end: Lsn(0),
            minimum_recovery_timeline: None,
            rewindable: true,
        });
        self
    }

    /// What the server shows once it has `text`: whoever is named takes part.
    fn sample_with(&self, text: &str) -> Option<SyncSample> {
        let names = StandbyNames::parse(text).expect("usable");
        let word = if names.kind == Kind::Quorum { SyncWord::Quorum } else { SyncWord::Sync };
        let mut sample = self.obs.synchronous.clone()?;
        sample.names = text.to_owned();
        for sender in &mut sample.walsenders {
            sender.sync = if names.names.contains(&sender.application_name) { word } else { SyncWord::Async };
        }
        Some(sample)
    }

    fn answer(&self, ask: &Ask) -> Answer {
        match ask {
            Ask::RenewLock => Answer::Renewal(self.renewal),
            Ask::AcquireLock | Ask::TakeLock => match &self.promised {
                Some(promise) => Answer::Promised(promise.clone()),
                None => Answer::Acquisition(self.acquisition.clone()),
            },
            Ask::Load(_) => Answer::View(Ok(Arc::new(self.view.clone()))),
            Ask::ClaimBootstrap | Ask::WriteFailover(..) | Ask::DeleteSync(_) => Answer::Written(self.written),
            Ask::WriteSync(..) => Answer::SyncWritten(self.written.then(|| Revision::from(99_i64))),
            Ask::SetSynchronousNames { text, .. } => Answer::NamesSet { done: self.names_settable, sample: self.sample_with(text) },
            Ask::Poll(targets) => Answer::Peers(
                targets
                    .iter()
                    .map(|PeerTarget { name, .. }| {
                        (name.clone(), self.peers.get(name.as_str()).cloned().unwrap_or(PeerAnswer::Unreachable))
                    })
                    .collect(),
            ),
            Ask::Word(_) => Answer::Word(self.word.clone()),
            Ask::ControlData => Answer::ControlData(self.control.clone()),
            Ask::Divergence(_) => Answer::Divergence(self.divergence.clone()),
            Ask::RecoveryDiff(_) => Answer::RecoveryDiff(self.recovery_diff),
            Ask::WaitForLock(_) => Answer::Waited,
            Ask::OwnTimeline => Answer::OwnTimeline(self.own_timeline),
            Ask::HistoryFile(_) => {
                let known = self.files.iter().find(|(asked, _)| asked == ask);
                known.map_or(Answer::HistoryFile(None), |(_, file)| file.clone())
            }
            Ask::ActivateWatchdog => Answer::WatchdogActivated(self.watchdog_works),
        }
    }

    /// Decides, answering every question on the way.
    pub(super) fn decide(&mut self) -> Decision {
        self.obs.view = if self.store_lost { Err(StoreFailed) } else { Ok(Arc::new(self.view.clone())) };
        let now = Now { moment: self.now, wall: self.wall };
        let mut answers = Answers::default();
        for _ in 0..32 {
            match decide(&self.obs, &self.cfg, &self.memory, now, &answers) {
                Step::Done(decision) => {
                    let again = decide(&self.obs, &self.cfg, &self.memory, now, &answers);
                    assert_eq!(
                        format!("{again:?}"),
                        format!("{:?}", Step::Done(decision.clone())),
                        "the same arguments give the same step"
                    );
                    return *decision;
                }
                Step::Ask(asks) => {
                    assert!(!asks.is_empty(), "an empty list of questions would never end");
                    for ask in asks {
                        self.asked.push(ask.clone());
                        let answer = self.answer(&ask);
                        answers.add(ask, answer);
                    }
                }
            }
        }
        panic!("the decision keeps asking: {:?}", self.asked);
    }

    /// Decides, and returns the line of the cycle.
    pub(super) fn line(&mut self) -> String {
        self.decide().message
    }
}

/// The effects that change something: no log lines, no publishing.
pub(super) fn deeds(decision: &Decision) -> Vec<&Effect> {
    decision.effects.iter().filter(|effect| !matches!(effect, Effect::Log(..) | Effect::TouchMember | Effect::WriteStatus(_))).collect()
}

pub(super) fn says(decision: &Decision, severity: Severity, text: &str) -> bool {
    decision.effects.iter().any(|effect| matches!(effect, Effect::Log(level, line) if *level == severity && line.contains(text)))
}
