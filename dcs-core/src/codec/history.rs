//! `history`.

use serde_json::Value;

use super::{Decoded, json, kind, numbers};
use crate::model::HistoryLine;

/// The lines as a JSON array of arrays; absent parts at the end are left out.
pub fn encode_history_lines(lines: &[HistoryLine]) -> Value {
    Value::Array(lines.iter().map(encode_line).collect())
}

/// Reads the history: the value as it is (null if it is not JSON), and the lines that can be understood.
///
/// A line that cannot be read is left out, but if it is the last one there are no lines at all: the one before it says
/// something about another timeline.
pub fn decode_history(bytes: &[u8]) -> Decoded<(Value, Vec<HistoryLine>)> {
    let raw = match json(bytes) {
        Ok(raw) => raw,
        Err(problem) => return Decoded::damaged((Value::Null, Vec::new()), problem),
    };
    let Value::Array(entries) = &raw else {
        let problem = format!("it is {}, not a list", kind(&raw));
        return Decoded::damaged((raw, Vec::new()), problem);
    };
    let lines: Vec<_> = entries.iter().map(decode_line).collect();
    let unreadable = lines.iter().filter(|line| line.is_none()).count();
    let last_is_good = lines.last().is_none_or(Option::is_some);
    let lines = if last_is_good { lines.into_iter().flatten().collect() } else { Vec::new() };
    let problem = (unreadable > 0).then(|| format!("{unreadable} of its entries cannot be understood"));
    Decoded::with((raw, lines), problem)
}

fn encode_line(line: &HistoryLine) -> Value {
    let mut entry = vec![line.timeline.into(), line.lsn.0.into(), line.reason.as_str().into()];
    if line.timestamp.is_some() || line.new_leader.is_some() {
        entry.push(line.timestamp.as_deref().into());
    }
    if let Some(leader) = &line.new_leader {
        entry.push(leader.as_str().into());
    }
    Value::Array(entry)
}

fn decode_line(entry: &Value) -> Option<HistoryLine> {
    let entry = entry.as_array()?;
    let text = |index: usize| entry.get(index).and_then(Value::as_str).map(str::to_owned);
    Some(HistoryLine {
        timeline: u32::try_from(numbers::unsigned(entry.first()?)?).ok()?,
        lsn: numbers::lsn(entry.get(1)?)?,
        reason: text(2).unwrap_or_default(),
        timestamp: text(3),
        new_leader: text(4),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json as value;

    use super::*;
    use crate::model::{History, Lsn, Revision, Timeline};

    fn cluster_timeline(text: &str) -> Option<Timeline> {
        let (raw, lines) = decode_history(text.as_bytes()).value;
        History { revision: Revision::from(1_u64), lines, raw }.cluster_timeline()
    }

    #[test]
    fn full_and_short_entries_come_back_as_they_were() {
        let raw = value!([
            [1, 67_108_864, "no recovery target specified"],
            [2, 83_886_080, "no recovery target specified", "2030-01-01T00:00:00+00:00"],
            [3, 100_663_296, "no recovery target specified", "2030-01-02T00:00:00+00:00", "a"],
        ]);
        let decoded = decode_history(raw.to_string().as_bytes());
        assert_eq!(decoded.problem, None);
        assert_eq!(decoded.value.0, raw);
        assert_eq!(encode_history_lines(&decoded.value.1), raw);
        assert_eq!(decoded.value.1[2].lsn, Lsn(100_663_296));
    }

    #[test]
    fn the_timeline_is_known_only_from_a_good_value() {
        assert_eq!(cluster_timeline(r#"[[1,100,"x"],[2,200,"y"]]"#), Some(Timeline(3)));
        assert_eq!(cluster_timeline("[]"), Some(Timeline(1)));
        for text in ["", "x", "{}", "5", "null", r#"[[1,100,"x"],"y"]"#, "[[]]", r#"[["x",1,"y"]]"#] {
            assert_eq!(cluster_timeline(text), None, "{text}");
        }
    }

    #[test]
    fn an_unreadable_entry_between_good_ones_is_left_out_and_reported() {
        let decoded = decode_history(br#"[[1,1,"x"],7,[3,3,"z"]]"#);
        assert_eq!(decoded.value.1.len(), 2);
        assert!(decoded.problem.is_some());
    }
}
