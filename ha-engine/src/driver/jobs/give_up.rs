//! What a rewind or a new copy throws away: told before it is gone, and kept where an operator wants that.

use std::time::Duration;

use dcs_core::Deadline;

use super::{TaskEvent, Tools};
use crate::decide::journal::{Record, Rule};
use crate::decide::observation::Upstream;
use crate::decide::{Verdict, parted_at, thrown_away, upstream, verdict};
use crate::ports::{DivergenceFacts, Inconclusive, StopHook, StopMode, StopOutcome, StopRequest, WalToKeep};

/// How long comparing with the leader may take.
const COMPARE: Duration = Duration::from_secs(10);

impl Tools {
    /// Tells how much WAL `deed` gives up, and copies it aside if that is configured. `false`: it should be kept and could
    /// not be, so it must not be given up.
    pub(super) async fn account_for_wal(&self, deed: &str, source: Option<&Upstream>) -> bool {
        let keep = self.settings.global.keep_divergent_wal.clone();
        if keep.is_some() && !self.stop_to_copy().await {
            return false;
        }
        let compared = match source {
            Some(source) => self.compare_with(source).await,
            None => match self.leader().await {
                Some(leader) => self.compare_with(&leader).await,
                None => Err(Inconclusive("nobody leads whom it could be compared with".to_owned())),
            },
        };
        let since = match &compared {
            // All it has is somewhere else too.
            Ok(facts) if verdict(facts) == Verdict::NotNeed => return true,
            Ok(facts) => parted_at(facts).map(|lsn| (facts.local_timeline, lsn)),
            Err(_) => None,
        };
        let what = in_words(deed, &compared);
        let record = match &compared {
            Ok(facts) => Record::new(Rule::WalGivenUp, what.clone())
                .fact("my_timeline", facts.local_timeline)
                .fact_if("from", parted_at(facts))
                .fact("up_to", end(facts))
                .fact_if("bytes", thrown_away(facts)),
            Err(_) => Record::new(Rule::WalGivenUp, what.clone()),
        };
        let Some(directory) = keep else {
            tracing::warn!("{what}; it is not kept, because quorate.keep_divergent_wal is not set");
            self.tell(TaskEvent::Note(record.fact("kept", "no"))).await;
            return true;
        };
        match self.postgres.keep_wal(&WalToKeep { directory, since, note: what.clone() }, &self.cancel).await {
            Ok(kept) => {
                let place = kept.directory.display();
                tracing::warn!("{what}; a copy of it is in {place} ({} segments)", kept.segments);
                self.tell(TaskEvent::Note(record.fact("kept", place).fact("segments", kept.segments))).await;
                true
            }
            Err(error) => {
                let what = format!("{what}; it should be kept and could not be, so nothing is done");
                tracing::error!("{what}: {error}");
                self.tell(TaskEvent::Note(Record::new(Rule::WalNotKept, what).fact("error", error))).await;
                false
            }
        }
    }

    async fn compare_with(&self, leader: &Upstream) -> Result<DivergenceFacts, Inconclusive> {
        self.postgres.observe_divergence(leader, Deadline::after(COMPARE)).await
    }

    async fn leader(&self) -> Option<Upstream> {
        let view = self.dcs.load(Deadline::after(self.settings.global.retry_timeout)).await.ok()?;
        view.leader_member().filter(|leader| leader.name != self.me).and_then(upstream)
    }

    /// WAL that a running server still recycles cannot be copied.
    async fn stop_to_copy(&self) -> bool {
        let request =
            StopRequest { mode: StopMode::Fast, checkpoint_first: false, hook: StopHook::Run, timeout: None, part_of_restart: false };
        let stopped = self.postgres.stop(request, None).await != StopOutcome::Failed;
        if !stopped {
            tracing::error!("PostgreSQL could not be stopped to keep its WAL");
        }
        stopped
    }
}

/// The last local position that is known.
fn end(facts: &DivergenceFacts) -> dcs_core::model::Lsn {
    facts.checkpoint_end.unwrap_or(facts.local_lsn).max(facts.local_lsn)
}

fn in_words(deed: &str, compared: &Result<DivergenceFacts, Inconclusive>) -> String {
    let facts = match compared {
        Ok(facts) => facts,
        Err(reason) => return format!("{deed} may give up WAL that no other node has; how much is not known ({reason})"),
    };
    let (timeline, end) = (facts.local_timeline, end(facts));
    match (parted_at(facts), thrown_away(facts)) {
        (Some(from), Some(bytes)) => format!("{deed} gives up {bytes} bytes of WAL on timeline {timeline}: from {from} up to {end}"),
        _ => format!("{deed} gives up the WAL of timeline {timeline}, which the leader never had, up to {end}"),
    }
}

#[cfg(test)]
mod tests {
    use dcs_core::model::{HistoryLine, Lsn, Timeline};

    use super::*;

    #[test]
    fn what_is_given_up_is_told_with_both_ends() {
        let line = |timeline, lsn| HistoryLine { timeline, lsn: Lsn(lsn), reason: String::new(), timestamp: None, new_leader: None };
        let facts = DivergenceFacts {
            local_timeline: Timeline(1),
            local_lsn: Lsn(1000),
            local_in_recovery: false,
            checkpoint_end: Some(Lsn(1200)),
            leader_timeline: Timeline(2),
            leader_history: Some(vec![line(1, 900)]),
        };
        let told = in_words("rewinding to b", &Ok(facts.clone()));
        assert_eq!(told, "rewinding to b gives up 300 bytes of WAL on timeline 1: from 0/384 up to 0/4B0");
        let unknown = DivergenceFacts { local_timeline: Timeline(3), ..facts };
        assert_eq!(
            in_words("rewinding to b", &Ok(unknown)),
            "rewinding to b gives up the WAL of timeline 3, which the leader never had, up to 0/4B0"
        );
    }
}
