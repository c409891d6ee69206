//! The timeline history in the store (section 13).

use dcs_core::model::{History, HistoryLine, Timeline};
use serde_json::{Value, json};

use super::action::{Answer, Ask, Effect};
use super::cycle::{Cycle, Outcome};
use super::journal::{Record, Rule};
use super::observation::Monitor;

/// Whether the stored history is complete for a primary on `timeline`.
fn is_complete(stored: Option<&History>, timeline: Timeline) -> bool {
    let Some(stored) = stored else {
        return timeline.0 == 1;
    };
    if timeline.0 == 1 {
        return matches!(&stored.raw, Value::Array(entries) if entries.is_empty());
    }
    stored.lines.last().is_some_and(|last| last.timeline + 1 == timeline.0 && last.timestamp.is_some() && last.new_leader.is_some())
}

/// The history to store: the local file's lines; older ones keep time and leader as stored, the newest gets the file's
/// time and `me`.
pub(crate) fn rebuild(
    file: &[HistoryLine],
    written_at: &str,
    stored: Option<&History>,
    timeline: Timeline,
    me: &str,
    keep: usize,
) -> Value {
    let known = |line: &HistoryLine| stored?.lines.iter().find(|known| known.timeline == line.timeline && known.lsn == line.lsn);
    let newest = timeline.0.saturating_sub(1);
    let entries: Vec<Value> = file
        .iter()
        .map(|line| {
            let mut entry = vec![json!(line.timeline), json!(line.lsn.0), json!(line.reason)];
            let (timestamp, leader) = match known(line) {
                Some(known) => (known.timestamp.clone(), known.new_leader.clone()),
                None if line.timeline == newest => (Some(written_at.to_owned()), Some(me.to_owned())),
                None => (None, None),
            };
            let (timestamp, leader) = match (timestamp, leader) {
                (Some(timestamp), Some(leader)) => (Some(timestamp), Some(leader)),
                (timestamp, None) if line.timeline == newest => (timestamp.or_else(|| Some(written_at.to_owned())), Some(me.to_owned())),
                partial => partial,
            };
            entry.extend(timestamp.map(Value::from));
            entry.extend(leader.map(Value::from));
            Value::Array(entry)
        })
        .collect();
    let skip = if keep == 0 { 0 } else { entries.len().saturating_sub(keep) };
    Value::Array(entries.into_iter().skip(skip).collect())
}

/// E4: the primary that holds the lock keeps the history.
pub(super) fn maintain(c: &mut Cycle<'_>) -> Outcome<()> {
    let Monitor::Primary(primary) = &c.obs.server.monitor else {
        return Ok(());
    };
    let timeline = primary.timeline;
    if is_complete(c.view.history.as_ref(), timeline) {
        return Ok(());
    }
    if timeline.0 == 1 {
        c.push(Effect::WriteHistory(json!([])));
        c.note(Record::new(Rule::HistoryKey, "the history in the store is emptied: the primary is on its first timeline"));
        return Ok(());
    }
    if let Answer::HistoryFile(Some((file, written_at))) = c.need(Ask::HistoryFile(timeline))? {
        let value = rebuild(file, written_at, c.view.history.as_ref(), timeline, c.me().as_str(), c.cfg.max_timelines_history);
        c.push(Effect::WriteHistory(value));
        c.note(Record::new(Rule::HistoryKey, format!("the history in the store is brought up to timeline {timeline}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dcs_core::model::{Lsn, Revision};

    use super::*;

    fn line(timeline: u32, lsn: u64, told: Option<(&str, &str)>) -> HistoryLine {
        HistoryLine {
            timeline,
            lsn: Lsn(lsn),
            reason: "no recovery target specified".to_owned(),
            timestamp: told.map(|(time, _)| time.to_owned()),
            new_leader: told.map(|(_, leader)| leader.to_owned()),
        }
    }

    fn stored(lines: Vec<HistoryLine>) -> History {
        History { revision: Revision::from(1_i64), raw: json!([1]), lines }
    }

    #[test]
    fn the_newest_line_gets_time_and_leader_and_older_ones_keep_theirs() {
        let before = stored(vec![line(1, 10, Some(("then", "a")))]);
        let value = rebuild(&[line(1, 10, None), line(2, 20, None)], "now", Some(&before), Timeline(3), "b", 0);
        assert_eq!(
            value,
            json!([[1, 10, "no recovery target specified", "then", "a"], [2, 20, "no recovery target specified", "now", "b"]])
        );
    }

    #[test]
    fn only_as_many_lines_as_configured_are_kept() {
        let value = rebuild(&[line(1, 10, None), line(2, 20, None)], "now", None, Timeline(3), "b", 1);
        assert_eq!(value.as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn a_history_is_complete_when_its_last_line_is_for_the_timeline_before() {
        let complete = stored(vec![line(1, 10, Some(("then", "a")))]);
        assert!(is_complete(Some(&complete), Timeline(2)));
        assert!(!is_complete(Some(&complete), Timeline(3)));
        assert!(!is_complete(Some(&stored(vec![line(1, 10, None)])), Timeline(2)), "old agents wrote less");
        assert!(is_complete(None, Timeline(1)), "a missing key stays missing on the first timeline");
        assert!(!is_complete(None, Timeline(2)));
    }
}
