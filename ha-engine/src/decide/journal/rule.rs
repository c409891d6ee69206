//! The names of the rules: the only place that has them.

/// What kind of record a rule leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Something is done.
    Changed,
    /// Something is not done.
    Refused,
    /// Something was found out.
    Noticed,
}

impl Outcome {
    /// The word in the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Refused => "refused",
            Self::Noticed => "noticed",
        }
    }
}

/// Declares the rules: the comment is the meaning that operators read, then the name, the row of the specification where
/// there is one, and what kind of record it leaves.
macro_rules! rules {
    ($($(#[doc = $meaning:literal])+ $rule:ident = $name:literal, $row:literal, $outcome:ident;)*) => {
        /// A rule that leaves records in the journal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rule {
            $($(#[doc = $meaning])+ $rule,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$rule,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$rule => $name,)*
                }
            }

            /// Its rows in the specification; empty for what has none.
            pub const fn rows(self) -> &'static str {
                match self {
                    $(Self::$rule => $row,)*
                }
            }

            /// What kind of record it leaves.
            pub const fn outcome(self) -> Outcome {
                match self {
                    $(Self::$rule => Outcome::$outcome,)*
                }
            }

            /// What it is about, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$rule => concat!($($meaning,)+),)*
                }
            }
        }
    };
}

rules! {
    /// Nobody holds the leader lock: its holder gave it back, or did not renew it in time.
    LockFree = "lock.free", "C21", Noticed;
    /// Another node than before holds the leader lock.
    LockHeld = "lock.held", "C22", Noticed;

    /// This node took the free leader lock.
    RaceWon = "race.won", "U5", Changed;
    /// Somebody else was faster to take the free lock.
    RaceLost = "race.lost", "U4", Refused;
    /// After a failed pre_promote script this node stays out of the race for the length of ttl.
    RaceBackoff = "race.backoff", "Q1", Refused;
    /// PostgreSQL is still starting.
    RaceStarting = "race.starting", "Q3", Refused;
    /// In maintenance mode a primary of another cluster does not take the lock.
    RaceForeign = "race.foreign", "Q4", Refused;
    /// In maintenance mode nobody is promoted without a request.
    RacePaused = "race.paused", "Q7", Refused;
    /// The node's tags forbid a promotion.
    RaceNoFailover = "race.nofailover", "Q8", Refused;
    /// The synchronous state in the store is damaged, so nobody knows who has every commit.
    RaceSyncDamaged = "race.sync_damaged", "X8", Refused;
    /// In synchronous mode only nodes listed in the /sync key may take over.
    RaceNotSynchronous = "race.not_synchronous", "Q9 Q13 K4", Refused;
    /// The node does not know its own WAL position.
    RaceNoPosition = "race.no_position", "", Refused;
    /// The node is further behind the last known position of the leader than maximum_lag_on_failover allows.
    RaceLag = "race.lag", "G1", Refused;
    /// check_timeline is on, and the node does not know its own timeline.
    RaceNoTimeline = "race.no_timeline", "G2", Refused;
    /// The node is on an older timeline than the cluster.
    RaceOldTimeline = "race.old_timeline", "G3 Q5", Refused;
    /// Another node answered that it is a primary.
    RacePrimaryAlive = "race.primary_alive", "G4", Refused;
    /// Another node that could take over has more WAL.
    RaceBehind = "race.behind", "G5", Refused;
    /// Another node has as much WAL and a higher failover_priority.
    RacePriority = "race.priority", "G8", Refused;
    /// In quorum mode too few voters were seen to have no more WAL than this node.
    RaceNoQuorum = "race.no_quorum", "G9", Refused;
    /// Failsafe mode: the node is not in the map of those who may take over without the store.
    RaceNotInFailsafe = "race.not_in_failsafe", "Q12", Refused;
    /// Failsafe mode: the node has promised a leader without the store not to take over, or may have.
    RacePromised = "race.promised", "X20", Refused;
    /// A request names another candidate, and that one is able to take over.
    RaceForCandidate = "race.for_candidate", "K3 K5", Refused;
    /// In maintenance mode a request without a candidate promotes nobody.
    RaceNoCandidate = "race.no_candidate", "K7", Refused;
    /// This node has stepped down on request, and leaves the lock to others who are able.
    RaceSteppedDown = "race.stepped_down", "K8", Refused;

    /// The leader is promoted to primary.
    Promote = "promote", "E7", Changed;
    /// The promotion waits because the synchronous state could not be taken over.
    PromotePostponed = "promote.postponed", "E6", Refused;
    /// The pre_promote script failed, and the lock is given back.
    PrePromoteFailed = "promote.script_failed", "E3", Changed;
    /// The lock was lost before the promotion began.
    PromoteCancelled = "promote.cancelled", "A3", Changed;
    /// The renewal of the lock was refused while this node was not a primary yet.
    PromoteWithoutLock = "promote.lock_lost", "H8", Refused;

    /// A primary stops because the store said that the lock is not its own any more.
    DemoteLockLost = "demote.lock_lost", "H7 A4 S1", Changed;
    /// A primary in maintenance mode goes on although the renewal of its lock was refused.
    DemotePaused = "demote.paused", "H6 F1", Refused;
    /// A primary stops because it does not hold the lock.
    DemoteNoLock = "demote.no_lock", "F4", Changed;
    /// A primary stops because the store cannot be reached, so that its lock cannot be renewed.
    DemoteStoreLost = "demote.store_lost", "D4", Changed;
    /// The store cannot be reached, every member gives its word not to take over, and the primary goes on: failsafe mode.
    FailsafeGoesOn = "failsafe.goes_on", "D3", Refused;
    /// PostgreSQL was stopped because the lease on the lock was about to end.
    DemoteLeaseEnded = "demote.lease_ended", "X1", Changed;
    /// A start or crash recovery takes too long, and somebody else can take over.
    DemoteTooSlow = "demote.too_slow", "A1 S2", Changed;
    /// A start takes too long, and nobody else can take over.
    DemoteNobodyElse = "demote.nobody_else", "S3", Refused;
    /// The primary has crashed, primary_start_timeout is 0, and somebody else can take over.
    DemoteCrashed = "demote.crashed", "R4", Changed;

    /// The lock is given back, in maintenance mode: PostgreSQL is not a running primary.
    ReleaseNotPrimary = "release.not_primary", "H2 R1", Changed;
    /// The lock is given back: PostgreSQL could not be started.
    ReleaseStartFailed = "release.start_failed", "P1", Changed;
    /// The lock is given back: there is no data, or it cannot be read.
    ReleaseNoData = "release.no_data", "C14", Changed;
    /// The lock is given back: another node was promised to stay the leader without the store.
    ReleasePromised = "release.promised", "X20", Changed;
    /// The lock is given back: the data belong to another cluster.
    ReleaseForeign = "release.foreign", "C16", Changed;

    /// A switchover or failover that was asked for begins: the leader steps down.
    RequestAccepted = "request.accepted", "M6", Changed;
    /// A scheduled switchover was missed for too long to be meant any more.
    RequestStale = "request.stale", "M2", Refused;
    /// A request names another leader than the one there is.
    RequestWrongLeader = "request.wrong_leader", "M3", Refused;
    /// A request names the leader as the candidate.
    RequestAlreadyLeader = "request.already_leader", "M4", Refused;
    /// In maintenance mode a request needs a candidate.
    RequestPaused = "request.paused", "M5", Refused;
    /// Nobody is able to take over.
    RequestImpossible = "request.impossible", "M7", Refused;
    /// A request is dropped because its candidate is not there.
    RequestDropped = "request.dropped", "K2", Refused;
    /// A REST request for a switchover or failover was refused before it reached the leader.
    RequestRefused = "request.refused", "4.2", Refused;

    /// The node follows another node than before, or in another way.
    Follow = "follow", "F9 F10", Changed;
    /// PostgreSQL does not run and is started as a standby.
    StartStandby = "start.standby", "R15", Changed;
    /// PostgreSQL does not run on the node that holds the lock, and is started read-only first.
    StartReadOnly = "start.read_only", "R11", Changed;
    /// PostgreSQL of the primary has crashed and is started again as the primary.
    StartPrimary = "start.primary", "R6 X11", Changed;
    /// PostgreSQL was not stopped cleanly and recovers in single-user mode first.
    CrashRecovery = "start.crash_recovery", "R9 W1", Changed;
    /// PostgreSQL could not be started.
    StartFailed = "start.failed", "P2", Noticed;

    /// The node's history has left the leader's: what it wrote after that point is on no other node.
    Diverged = "rewind.diverged", "1.17", Noticed;
    /// The node's history is a part of the leader's.
    SameHistory = "rewind.same_history", "1.17", Noticed;
    /// The node is rewound: what it wrote after the histories parted is given up.
    Rewind = "rewind.run", "W2", Changed;
    /// A rewind waits until the leader has written its checkpoint after the promotion.
    RewindWaits = "rewind.waits", "W2", Refused;
    /// The node is built anew because its history has diverged and it cannot be rewound.
    Rebuild = "rewind.rebuild", "W3", Changed;
    /// The node has diverged, and neither a rewind nor building it anew is possible or allowed.
    RewindForbidden = "rewind.forbidden", "W4", Refused;
    /// A rewind or a new copy throws WAL away that the leader does not have.
    WalGivenUp = "rewind.wal_given_up", "", Changed;
    /// WAL should be kept before it is thrown away, and could not be: nothing is thrown away.
    WalNotKept = "rewind.wal_not_kept", "", Refused;
    /// A rewind has failed, and no setting allows to build the node anew: it is not started on what the rewind has left.
    RewindFailed = "rewind.failed", "1.17", Refused;
    /// After a failed rewind a setting says that the data directory is removed.
    RewindRemoved = "rewind.data_removed", "1.17", Changed;

    /// A new cluster is made.
    Bootstrap = "bootstrap", "N2", Changed;
    /// Another node is making the new cluster.
    BootstrapElsewhere = "bootstrap.elsewhere", "N3", Refused;
    /// The new cluster is there, and this node leads it.
    BootstrapDone = "bootstrap.done", "B4", Changed;
    /// The new cluster could not be made.
    BootstrapFailed = "bootstrap.failed", "B1", Changed;
    /// The node has no data and copies another one.
    Clone = "clone", "N4 N5", Changed;
    /// The node has no data, and there is nobody to copy yet.
    CloneWaits = "clone.waits", "N6", Refused;

    /// The data belong to another cluster: the agent ends.
    ForeignData = "identity.foreign", "C17", Changed;
    /// The system identifier of the data cannot be read.
    UnreadableIdentity = "identity.unreadable", "C15", Refused;
    /// The store knows nothing of the cluster and this node is a replica: the agent ends rather than guess.
    UnknownCluster = "identity.unknown_cluster", "C18", Changed;

    /// The /sync key, which says who may take over in synchronous mode, is changed.
    SyncKey = "sync.key", "5.5 5.7", Changed;
    /// synchronous_standby_names, which says whom commits wait for, is changed.
    SyncNames = "sync.names", "5.5 5.7", Changed;
    /// The /sync key was not changed because somebody else had changed it.
    SyncRefused = "sync.refused", "5.5", Refused;
    /// The timeline history in the store is brought up to date.
    HistoryKey = "history.key", "E4", Changed;

    /// The store cannot be reached, and there is nothing here that must stop because of it.
    StoreLost = "store.lost", "D1 D2", Noticed;
    /// What the store has lost of the cluster is written again: its identity, or its configuration.
    StoreRepaired = "store.repaired", "C8 C9 C19", Changed;
    /// WAL replay had paused itself and is resumed.
    ReplayResumed = "follow.replay_resumed", "F7", Changed;

    /// A scheduled restart begins.
    RestartDue = "restart.due", "11.3", Changed;
    /// A restart was asked for and begins.
    RestartAsked = "restart.asked", "11.1", Changed;
    /// A restart is not done: its conditions are not met, or something else is in progress.
    RestartRefused = "restart.refused", "11.1 11.3", Refused;
    /// A scheduled restart is dropped: PostgreSQL was restarted meanwhile, or its time passed long ago.
    RestartDropped = "restart.dropped", "11.3", Refused;
    /// A restart was scheduled.
    RestartScheduled = "restart.scheduled", "11.3", Changed;
    /// A scheduled restart was cancelled on request.
    RestartCancelled = "restart.cancelled", "11.3", Changed;
    /// The node is built anew on request.
    Reinitialize = "reinitialize", "10", Changed;
    /// The node is not built anew.
    ReinitializeRefused = "reinitialize.refused", "10", Refused;

    /// A long task has ended.
    TaskEnded = "task.ended", "1.14", Noticed;
    /// The agent began; what was before it is not in its journal.
    AgentStarted = "agent.started", "14.1", Noticed;
    /// A task was begun for which no rule left a record of its own.
    Task = "task", "", Changed;
    /// Something was done for which no rule left a record of its own.
    Effect = "effect", "", Changed;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Rule;

    #[test]
    fn every_rule_has_a_name_of_its_own_and_a_meaning() {
        let names: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        assert_eq!(names.len(), Rule::ALL.len());
        for rule in Rule::ALL {
            assert!(rule.meaning().trim().ends_with('.'), "{rule:?} has no sentence that says what it is about");
        }
    }

    /// What `docs/why.md` says about a rule.
    fn line_in_the_documentation(rule: Rule) -> String {
        format!("| `{}` | {} |", rule.name(), rule.meaning().trim())
    }

    #[test]
    fn every_rule_stands_in_the_documentation() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/why.md")).expect("the page is there");
        let missing: Vec<String> =
            Rule::ALL.iter().map(|rule| line_in_the_documentation(*rule)).filter(|line| !page.contains(line)).collect();
        assert!(missing.is_empty(), "docs/why.md lacks:\n{}", missing.join("\n"));
    }

    #[test]
    fn every_rule_is_used_somewhere() {
        let mut sources = String::new();
        let mut directories =
            vec![concat!(env!("CARGO_MANIFEST_DIR"), "/src").into(), concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/src").into()];
        while let Some(directory) = directories.pop() {
            let directory: std::path::PathBuf = directory;
            for entry in std::fs::read_dir(directory).expect("a directory of sources").flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                if path.is_dir() && name != "tests" {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") && name != "rule.rs" {
                    sources.push_str(&std::fs::read_to_string(path).expect("readable"));
                }
            }
        }
        let unused: Vec<&Rule> = Rule::ALL.iter().filter(|rule| !sources.contains(&format!("Rule::{rule:?}"))).collect();
        assert!(unused.is_empty(), "nothing leaves a record by {unused:?}");
    }
}
