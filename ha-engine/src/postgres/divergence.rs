//! What two servers' histories look like.

use dcs_core::model::{HistoryLine, Lsn, Timeline};
use dcs_core::{Deadline, chain};

use super::connection::{CONNECT_TIMEOUT, Connection, SHORT_OPTIONS, SqlError, Target};
use super::control_data::LocalPosition;
use super::walsender::Walsender;
use super::{LocalPostgres, history, waldump};
use crate::decide::observation::{Monitor, Upstream};
use crate::ports::{DivergenceFacts, Inconclusive};
use crate::settings::Credentials;

/// Lines of history shown before the relevant one.
const BEFORE: usize = 3;

fn inconclusive(reason: impl Into<String>) -> Inconclusive {
    Inconclusive(reason.into())
}

impl LocalPostgres {
    /// `upstream` as seen by a user.
    pub(super) fn upstream_target(&self, upstream: &Upstream, credentials: &Credentials) -> Target {
        let settings = self.settings();
        let dbname = upstream.dbname.as_deref().filter(|name| !name.is_empty()).unwrap_or(&settings.postgresql.database);
        Target::new(&upstream.host, upstream.port.unwrap_or(5432), credentials, dbname)
    }

    /// The leader of another node, as the user for rewinding.
    pub(super) fn leader_target(&self, leader: &Upstream) -> Target {
        let settings = self.settings();
        self.upstream_target(leader, settings.postgresql.authentication.rewind()).writable()
    }

    pub(super) async fn compare_histories(&self, leader: &Upstream, deadline: Deadline) -> Result<DivergenceFacts, Inconclusive> {
        let (local, checkpoint_end) = self.local_position(deadline).await?;
        if !self.is_not_in_recovery(leader, deadline).await {
            return Err(inconclusive(format!("{} cannot be used for a comparison now", leader.name)));
        }
        let (leader_timeline, leader_history) = self.ask_leader(leader, local.timeline, deadline).await?;
        Ok(DivergenceFacts {
            local_timeline: local.timeline,
            local_lsn: local.lsn,
            local_in_recovery: local.in_recovery,
            checkpoint_end,
            leader_timeline,
            leader_history,
        })
    }

    /// The local position, and the end of the checkpoint record of a former primary.
    async fn local_position(&self, deadline: Deadline) -> Result<(LocalPosition, Option<Lsn>), Inconclusive> {
        let mut running = None;
        if self.postmaster().await.is_some() {
            running = self.running_position(deadline).await;
            if running.is_none() {
                if !self.server_state().is_starting() {
                    return Err(inconclusive("the local server cannot be asked for its position"));
                }
                tracing::info!("PostgreSQL is still starting, will use pg_controldata as a fallback");
            }
        }
        let position = match running {
            Some(position) => Some(position),
            None => self.read_control_data(deadline).await.ok().and_then(|data| data.local_position()),
        };
        let shown = |value: Option<String>| value.unwrap_or_else(|| "None".to_owned());
        tracing::info!(
            "Local timeline={} lsn={}",
            shown(position.map(|position| position.timeline.to_string())),
            shown(position.map(|position| position.lsn.to_string()))
        );
        let position = position.ok_or_else(|| inconclusive("the local position is unknown"))?;
        let end = if position.in_recovery { None } else { self.checkpoint_end(position.timeline, position.lsn).await };
        Ok((position, end))
    }

    async fn running_position(&self, deadline: Deadline) -> Option<LocalPosition> {
        let timeline = self.identify_own_timeline(deadline).await?;
        match self.ask_monitor(false, deadline).await {
            Ok((Monitor::Standby(standby), _)) => Some(LocalPosition { in_recovery: true, timeline, lsn: standby.replayed }),
            // A primary that runs is not the one to be compared with a leader.
            Ok(_) => None,
            Err(error) => {
                tracing::debug!("the replay position could not be read: {error}");
                None
            }
        }
    }

    /// Where the last checkpoint record of a cleanly stopped primary ends.
    async fn checkpoint_end(&self, timeline: Timeline, checkpoint: Lsn) -> Option<Lsn> {
        let (stdout, stderr) = self.dump_wal(timeline, checkpoint, 2).await?;
        let end = waldump::checkpoint_end(&stdout, &stderr, checkpoint);
        if end.is_none() {
            tracing::error!("Failed to parse pg_waldump output");
            tracing::error!(" stdout={stdout}");
            tracing::error!(" stderr={stderr}");
        }
        end
    }

    /// Whether `leader` accepts writes.
    pub(super) async fn is_not_in_recovery(&self, leader: &Upstream, deadline: Deadline) -> bool {
        let sql = "SELECT pg_catalog.pg_is_in_recovery()";
        let ask = async {
            let deadline = deadline.at_most(CONNECT_TIMEOUT * 2);
            let mut connection = Connection::open(&self.leader_target(leader), "Patroni", SHORT_OPTIONS, deadline).await?;
            connection.query(sql, deadline).await
        };
        match ask.await {
            Ok(rows) if rows.first().is_some_and(|row| !row.flag(0)) => true,
            Ok(_) => {
                tracing::info!("Leader is still in_recovery and therefore can't be used for rewind");
                false
            }
            Err(SqlError::Connect { reason, .. }) if reason.contains("does not allow writes") => {
                tracing::info!("Leader is still in_recovery and therefore can't be used for rewind");
                false
            }
            Err(error) => {
                tracing::error!("Exception when working with leader: {error}");
                false
            }
        }
    }

    async fn ask_leader(
        &self,
        leader: &Upstream,
        local: Timeline,
        deadline: Deadline,
    ) -> Result<(Timeline, Option<Vec<HistoryLine>>), Inconclusive> {
        let settings = self.settings();
        let target = self.upstream_target(leader, &settings.postgresql.authentication.replication).writable();
        let ask = async {
            let mut walsender = Walsender::open(&target, deadline).await?;
            let timeline = walsender.identify(deadline).await?.timeline;
            tracing::info!("primary_timeline={timeline}");
            let history = if local < timeline { walsender.history(timeline, deadline).await? } else { None };
            Ok::<_, super::walsender::WalsenderError>((timeline, history))
        };
        let (timeline, history) = ask.await.map_err(|error| {
            let reason = chain(&error);
            tracing::error!("Exception when working with primary via replication connection: {reason}");
            inconclusive(reason)
        })?;
        if local >= timeline {
            return Ok((timeline, None));
        }
        let lines = history.map(|text| history::parse(&text)).unwrap_or_default();
        if lines.is_empty() {
            return Err(inconclusive(format!("{} has no history of its timeline {timeline}", leader.name)));
        }
        log_history(&lines, local);
        Ok((timeline, Some(lines)))
    }
}

/// Shows the part of the leader's history that matters here.
fn log_history(lines: &[HistoryLine], local: Timeline) {
    let shown = |line: &HistoryLine| format!("{}\t{}\t{}", line.timeline, line.lsn, line.reason);
    let relevant = lines.iter().position(|line| line.timeline >= local.0).unwrap_or(lines.len());
    let first = relevant.saturating_sub(BEFORE);
    let end = if relevant + BEFORE + 1 >= lines.len() { lines.len() } else { relevant + 2 };
    let mut text: Vec<String> = lines[first..end].iter().map(shown).collect();
    if let Some(last) = lines.last().filter(|_| end < lines.len()) {
        text.extend(["...".to_owned(), shown(last)]);
    }
    tracing::info!("primary: history={}", text.join("\n"));
}
