//! What `pg_waldump` prints about the records at the end of the log.
//!
//! A cleanly stopped primary ends with a shutdown checkpoint. Where that record ends is what decides whether a new primary's
//! timeline branched off behind it; and with archiving, PostgreSQL switches to a new segment right before it, so that standbys
//! may rightly end at the switch.

use dcs_core::model::Lsn;

use crate::ports::ShutdownPosition;

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The resource manager, e.g. `XLOG`.
    pub(crate) rmgr: String,
    /// Where it begins.
    pub(crate) lsn: Lsn,
    /// Where the record before it begins.
    pub(crate) prev: Lsn,
    /// What it is.
    pub(crate) desc: String,
}

impl Record {
    fn is_shutdown_checkpoint(&self) -> bool {
        let desc = self.desc.trim().to_lowercase();
        self.rmgr == "XLOG" && desc.starts_with("checkpoint") && desc.ends_with("shutdown")
    }

    fn is_switch(&self) -> bool {
        // Up to 9.4 it was called `xlog switch`.
        self.rmgr == "XLOG" && matches!(self.desc.trim(), "SWITCH" | "xlog switch")
    }
}

/// Reads the first line that `pg_waldump -n 1` printed. With anything on stderr the output is not to be trusted; the caller
/// passes an empty text then.
pub(crate) fn parse_record(stdout: &str) -> Option<Record> {
    let line = stdout.lines().next()?;
    let rest = line.trim_start().strip_prefix("rmgr:")?;
    let (rmgr, rest) = rest.split_once("len (rec/tot):")?;
    let (_, rest) = rest.split_once("lsn: ")?;
    let (lsn, rest) = rest.split_once(',')?;
    let (_, rest) = rest.split_once("prev ")?;
    let (prev, rest) = rest.split_once(',')?;
    let (_, desc) = rest.split_once("desc: ")?;
    Some(Record { rmgr: rmgr.trim().to_owned(), lsn: lsn.parse().ok()?, prev: prev.parse().ok()?, desc: desc.trim().to_owned() })
}

/// The record to read next: the one before the shutdown checkpoint at `checkpoint`. Nothing if `record` is something else.
pub(crate) fn previous_to_read(checkpoint: Lsn, record: &Record) -> Option<Lsn> {
    (record.lsn == checkpoint && record.is_shutdown_checkpoint() && !record.prev.is_zero()).then_some(record.prev)
}

/// Where a primary that was shut down at `checkpoint` ended. `record` is the one at `checkpoint`, `previous` the one before
/// it, `end` the end of the checkpoint record, each if it could be read.
pub(crate) fn shutdown_position(checkpoint: Lsn, record: Option<&Record>, previous: Option<&Record>, end: Option<Lsn>) -> ShutdownPosition {
    let switch = record
        .and_then(|record| previous_to_read(checkpoint, record))
        .filter(|lsn| previous.is_some_and(|previous| previous.lsn == *lsn && previous.is_switch()));
    ShutdownPosition { checkpoint, checkpoint_end: end.unwrap_or(checkpoint), final_lsn: switch.unwrap_or(checkpoint) }
}

/// The end of the last record, the shutdown checkpoint at `checkpoint`, from the output of `pg_waldump -n 2`: one line for
/// the record, and one error, because nothing follows. The error names the place where the next record would begin:
///
/// ```text
/// up to 15:  … error in WAL record at 0/182E220: invalid record length at 0/182E298: wanted 24, got 0
/// from 16:   … error in WAL record at 0/182E220: invalid record length at 0/182E298: expected at least 24, got 0
/// ```
///
/// Nothing if the output is any different.
pub(crate) fn checkpoint_end(stdout: &str, stderr: &str, checkpoint: Lsn) -> Option<Lsn> {
    let (stdout, stderr) = (stdout.trim_end(), stderr.trim_end());
    if stdout.lines().count() != 1 || stderr.lines().count() != 1 {
        return None;
    }
    if parse_record(stdout)?.lsn != checkpoint {
        return None;
    }
    let (_, rest) = stderr.split_once("error in WAL record at ")?;
    let (at, rest) = rest.split_once(": invalid record length at ")?;
    if at.parse() != Ok(checkpoint) {
        return None;
    }
    let (end, rest) = rest.split_once(": ")?;
    let known = rest.starts_with("wanted ") || rest.starts_with("expected at least ");
    known.then(|| end.parse().ok())?.filter(|end: &Lsn| *end > checkpoint)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHECKPOINT: &str = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/0182E220, prev \
        0/0182E1E8, desc: CHECKPOINT_SHUTDOWN redo 0/182E220; tli 1; prev tli 1; fpw true; xid 0:730; oid 12709; multi 1; \
        offset 0; oldest xid 716 in DB 1; oldest multi 1 in DB 1; oldest/newest commit timestamp xid: 0/0; oldest running \
        xid 0; shutdown\n";
    const SWITCH: &str = "rmgr: XLOG        len (rec/tot):     24/    24, tx:          0, lsn: 0/0182E1E8, prev \
        0/0182E1B0, desc: SWITCH \n";
    const HEAP: &str = "rmgr: Heap        len (rec/tot):     54/    54, tx:        730, lsn: 0/0182E1E8, prev 0/0182E1B0, \
        desc: INSERT off 1 flags 0x00, blkref #0: rel 1663/5/1259 blk 0\n";
    const AT: Lsn = Lsn(0x182_E220);
    const PREVIOUS: Lsn = Lsn(0x182_E1E8);
    const END: Lsn = Lsn(0x182_E298);

    fn complaint(words: &str) -> String {
        format!("pg_waldump: error: error in WAL record at 0/182E220: invalid record length at 0/182E298: {words} 24, got 0\n")
    }

    #[test]
    fn a_record_is_read() {
        let record = parse_record(HEAP).expect("a record");
        assert_eq!((record.rmgr.as_str(), record.lsn, record.prev), ("Heap", PREVIOUS, Lsn(0x182_E1B0)));
        assert_eq!(record.desc, "INSERT off 1 flags 0x00, blkref #0: rel 1663/5/1259 blk 0");
        for garbage in ["", "rmgr: XLOG", "rmgr: XLOG len (rec/tot): 1/1, lsn: x, prev 0/0, desc: y"] {
            assert_eq!(parse_record(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn a_switch_right_before_the_checkpoint_is_the_last_position() {
        let (record, previous) = (parse_record(CHECKPOINT), parse_record(SWITCH));
        assert_eq!(previous_to_read(AT, record.as_ref().expect("a record")), Some(PREVIOUS));
        let position = shutdown_position(AT, record.as_ref(), previous.as_ref(), Some(END));
        assert_eq!(position, ShutdownPosition { checkpoint: AT, checkpoint_end: END, final_lsn: PREVIOUS });
    }

    #[test]
    fn anything_else_before_the_checkpoint_leaves_its_own_position() {
        let plain = ShutdownPosition { checkpoint: AT, checkpoint_end: AT, final_lsn: AT };
        let (record, previous) = (parse_record(CHECKPOINT), parse_record(HEAP));
        assert_eq!(shutdown_position(AT, record.as_ref(), previous.as_ref(), None), plain);
        assert_eq!(shutdown_position(AT, record.as_ref(), None, None), plain);
        assert_eq!(shutdown_position(AT, None, parse_record(SWITCH).as_ref(), None), plain);
        let online = CHECKPOINT.replace("shutdown\n", "online\n").replace("SHUTDOWN", "ONLINE");
        let (online, switch) = (parse_record(&online), parse_record(SWITCH));
        assert_eq!(shutdown_position(AT, online.as_ref(), switch.as_ref(), None), plain);
        let elsewhere = shutdown_position(END, record.as_ref(), switch.as_ref(), None);
        assert_eq!(elsewhere.final_lsn, END);
    }

    #[test]
    fn the_end_of_the_checkpoint_is_read_in_both_wordings() {
        for words in ["wanted", "expected at least"] {
            assert_eq!(checkpoint_end(CHECKPOINT, &complaint(words), AT), Some(END), "{words}");
        }
    }

    #[test]
    fn an_unexpected_end_is_no_end() {
        let stderr = complaint("wanted");
        let two = format!("{CHECKPOINT}{HEAP}");
        let cases = [
            ("", stderr.as_str(), AT),
            (CHECKPOINT, "", AT),
            (two.as_str(), stderr.as_str(), AT),
            (CHECKPOINT, stderr.as_str(), END),
            (HEAP, stderr.as_str(), AT),
            (CHECKPOINT, "pg_waldump: error: could not find file", AT),
        ];
        for (stdout, stderr, at) in cases {
            assert_eq!(checkpoint_end(stdout, stderr, at), None, "{stdout} {stderr}");
        }
        assert_eq!(checkpoint_end(CHECKPOINT, &complaint("surprised by"), AT), None);
        assert_eq!(checkpoint_end(CHECKPOINT, &format!("{stderr}more\n"), AT), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(stdout in any::<String>(), stderr in any::<String>(), cut in 0usize..400) {
            let _ = parse_record(&stdout);
            let _ = checkpoint_end(&stdout, &stderr, AT);
            let half: String = CHECKPOINT.chars().take(cut).collect();
            let _ = parse_record(&half);
            let _ = checkpoint_end(&half, &complaint("wanted"), AT);
        }
    }
}
