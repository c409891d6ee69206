//! Answering what a decision asks.

use futures::future::join_all;

use dcs_core::{Deadline, InitializeWrite, Interest, MemberInterest, Wake, Write};

use super::Engine;
use super::failsafe::settled_by_acquisition;
use crate::decide::action::{Answer, Ask};
use crate::decide::failsafe::exclusion::Wanted;
use crate::decide::observation::StoreFailed;

/// A peer has this long to answer.
const PEER: std::time::Duration = std::time::Duration::from_secs(2);
/// Reading the control file, a history file, or comparing histories.
const LOOK: std::time::Duration = std::time::Duration::from_secs(10);

/// Writing `synchronous_standby_names`, and waiting until the server has read it.
const SET_NAMES: std::time::Duration = std::time::Duration::from_secs(2);

impl Engine {
    /// Answers all questions of one step. Those that only look run at once; those that write run one after another.
    pub(super) async fn answer(&mut self, asks: Vec<Ask>) -> Vec<(Ask, Answer)> {
        let (looking, writing): (Vec<Ask>, Vec<Ask>) = asks.into_iter().partition(only_looks);
        let mut answers = Vec::with_capacity(looking.len() + writing.len());
        let looks = join_all(looking.iter().map(|ask| self.look(ask))).await;
        answers.extend(looking.into_iter().zip(looks).filter_map(|(ask, answer)| Some((ask, answer?))));
        for ask in writing {
            let answer = self.write(&ask).await;
            answers.push((ask, answer));
        }
        answers
    }

    /// A standby leader compares with another cluster, which may be far away; its lock must not be lost over that.
    fn for_a_look_elsewhere(&self, deadline: Deadline) -> Deadline {
        match self.stop_at() {
            Some(_) => deadline.at_most(self.deadline_before_renewal(self.clock.now()).remaining()),
            None => deadline,
        }
    }

    async fn look(&self, ask: &Ask) -> Option<Answer> {
        let deadline = Deadline::after(LOOK);
        Some(match ask {
            Ask::Poll(targets) => Answer::Peers(self.peers.poll(targets, Deadline::after(PEER)).await),
            Ask::Word(appeal) => self.ask_for_word(appeal).await,
            Ask::ControlData => Answer::ControlData(self.postgres.control_data(deadline).await.ok()),
            Ask::Divergence(leader) => match self.postgres.observe_divergence(leader, self.for_a_look_elsewhere(deadline)).await {
                Ok(facts) => Answer::Divergence(Some(facts)),
                Err(reason) => {
                    tracing::info!("{reason}");
                    Answer::Divergence(None)
                }
            },
            Ask::RecoveryDiff(plan) => Answer::RecoveryDiff(self.postgres.recovery_diff(plan, deadline).await),
            Ask::OwnTimeline => Answer::OwnTimeline(self.postgres.own_timeline(Deadline::after(PEER)).await),
            Ask::HistoryFile(timeline) => {
                let file = self.postgres.history_file(*timeline).await;
                Answer::HistoryFile(file.map(|(lines, written)| (lines, dcs_core::model::ScheduledTime::from(&written).to_string())))
            }
            Ask::WaitForLock(limit) => {
                let interest = Interest { members: MemberInterest::None, ..Interest::FOLLOWER };
                let _: Wake = self.dcs.wait(interest, *limit).await;
                Answer::Waited
            }
            _ => return None,
        })
    }

    async fn write(&mut self, ask: &Ask) -> Answer {
        match ask {
            Ask::RenewLock => {
                let view = self.view.clone();
                Answer::Renewal(match view {
                    Some(view) => self.renew(&view).await,
                    None => Err(StoreFailed),
                })
            }
            Ask::AcquireLock | Ask::TakeLock => {
                let request = match self.begin(Wanted::New) {
                    Ok(request) => request,
                    Err(promise) => return Answer::Promised(promise),
                };
                let deadline = self.store_deadline();
                let outcome = match ask {
                    Ask::TakeLock => self.dcs.take_leader(deadline).await,
                    _ => self.dcs.attempt_to_acquire_leader(deadline).await,
                };
                self.exclusion.settle(request, settled_by_acquisition(&outcome));
                Answer::Acquisition(outcome.map_err(|error| self.store_failed(&error)))
            }
            Ask::Load(_) => Answer::View(match self.dcs.load(self.store_deadline()).await {
                Ok(view) => Ok(self.take_view(view)),
                Err(error) => Err(self.store_failed(&error)),
            }),
            Ask::ClaimBootstrap => {
                let outcome = self.dcs.initialize(InitializeWrite::CreateOnly, "", self.store_deadline()).await;
                self.written("claim the bootstrap", outcome)
            }
            Ask::WriteFailover(request, expected) => {
                let outcome = self.dcs.set_failover(request, expected.as_ref(), self.short_write()).await;
                self.written("write the failover key", outcome)
            }
            Ask::DeleteSync(expected) => match self.dcs.delete_sync(expected.as_ref(), self.short_write()).await {
                Ok(deleted) => Answer::Written(deleted),
                Err(error) => {
                    tracing::error!("{}", error.chain());
                    Answer::Written(false)
                }
            },
            Ask::WriteSync(record, expected) => {
                Answer::SyncWritten(match self.dcs.set_sync(record, expected.as_ref(), self.store_deadline()).await {
                    Ok(Write::Applied(revision)) => Some(revision),
                    Ok(Write::Refused) => {
                        tracing::info!("Synchronous replication key updated by someone else");
                        None
                    }
                    Err(error) => {
                        tracing::error!("could not write the synchronous state: {}", error.chain());
                        None
                    }
                })
            }
            // The first change of a cycle may be what a promotion waits for; the others can wait.
            Ask::SetSynchronousNames { step: 1.., .. } if self.cycle_is_overdue() => Answer::NamesSet { done: false, sample: None },
            Ask::SetSynchronousNames { text, .. } => {
                let deadline = self.within_lease(Deadline::after(SET_NAMES));
                match self.postgres.set_synchronous_names(Some(text), deadline).await {
                    Ok(sample) => Answer::NamesSet { done: true, sample },
                    Err(error) => {
                        tracing::warn!("synchronous_standby_names could not be set to '{text}': {error}");
                        Answer::NamesSet { done: false, sample: None }
                    }
                }
            }
            Ask::ActivateWatchdog => Answer::WatchdogActivated(self.watchdog.activate(self.store_deadline()).await),
            // The others only look.
            _ => Answer::Waited,
        }
    }

    fn written(&self, what: &str, outcome: Result<Write, dcs_core::Error>) -> Answer {
        Answer::Written(match outcome {
            Ok(write) => write.is_applied(),
            Err(error) => {
                tracing::error!("could not {what}: {}", error.chain());
                false
            }
        })
    }
}

const fn only_looks(ask: &Ask) -> bool {
    matches!(
        ask,
        Ask::Poll(_)
            | Ask::Word(_)
            | Ask::ControlData
            | Ask::Divergence(_)
            | Ask::RecoveryDiff(_)
            | Ask::OwnTimeline
            | Ask::HistoryFile(_)
            | Ask::WaitForLock(_)
    )
}
