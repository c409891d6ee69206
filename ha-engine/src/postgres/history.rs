//! Timeline history files: where each timeline of a server's past ended.

use dcs_core::model::{HistoryLine, Lsn};

/// Reads a history file, or the answer to `TIMELINE_HISTORY`. Lines with three fields separated by tabs count; all others
/// (comments, empty lines, damage) are skipped.
pub(crate) fn parse(text: &str) -> Vec<HistoryLine> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<HistoryLine> {
    let fields: Vec<&str> = line.trim().split('\t').collect();
    let [timeline, lsn, reason] = fields[..] else { return None };
    let timeline: u32 = timeline.trim().parse().ok()?;
    let lsn: Lsn = lsn.parse().ok()?;
    Some(HistoryLine { timeline, lsn, reason: reason.to_owned(), timestamp: None, new_leader: None })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As PostgreSQL writes them.
    fn render(lines: &[HistoryLine]) -> String {
        lines.iter().map(|line| format!("{}\t{}\t{}\n", line.timeline, line.lsn, line.reason)).collect()
    }

    #[test]
    fn a_history_file_is_read_and_written_back() {
        let text = "1\t0/3000148\tno recovery target specified\n2\tA/40000A0\tbefore 2026-01-01 00:00:00+00\n";
        let lines = parse(text);
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[1].timeline, lines[1].lsn), (2, Lsn(0xA_0400_00A0)));
        assert_eq!(lines[1].reason, "before 2026-01-01 00:00:00+00");
        assert_eq!(render(&lines), text);
    }

    #[test]
    fn lines_that_are_no_entries_are_skipped() {
        let text = "# comment\n\n1\t0/3000148\n1\tx\treason\nx\t0/1\treason\n1\t0/1\ta\tb\n3\t0/5\tkept\r\n";
        let lines = parse(text);
        assert_eq!(lines.iter().map(|line| line.timeline).collect::<Vec<_>>(), [3]);
        assert_eq!(lines[0].reason, "kept");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in any::<String>(), fields in "([0-9]{0,12}|x)\t[0-9A-F]{0,10}/[0-9A-F]{0,10}\t.*") {
            let _ = parse(&text);
            let _ = parse(&fields);
        }

        #[test]
        fn what_is_written_can_be_read(timeline in 1u32.., lsn in any::<u64>(), reason in "[a-z][a-z ]{0,20}[a-z]") {
            let line = HistoryLine { timeline, lsn: Lsn(lsn), reason, timestamp: None, new_leader: None };
            prop_assert_eq!(parse(&render(std::slice::from_ref(&line))), vec![line]);
        }
    }
}
