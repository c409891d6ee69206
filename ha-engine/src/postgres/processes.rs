//! The process table, as far as it is needed: `/proc`, read without any privilege.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use dcs_core::Moment;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kernel clock ticks per second as `/proc` counts them. A constant of Linux's user-space interface on all architectures
/// that this runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What `/proc/<pid>/stat` says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// The process.
    pub(super) pid: i32,
    /// Its parent.
    pub(super) parent: i32,
    /// Whether it has ended and only waits to be reaped.
    pub(super) ended: bool,
    /// Start time in clock ticks since boot: together with the pid it names one process for ever.
    pub(super) start_ticks: u64,
}

impl Stat {
    /// Looks a process up.
    pub(super) fn of(pid: i32) -> Option<Self> {
        Self::parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is the program's name in parentheses and may contain anything, so fields are counted from the last
    /// closing parenthesis.
    fn parse(pid: i32, text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
        Some(Self {
            pid,
            ended: matches!(*fields.first()?, "Z" | "X" | "x"),
            parent: fields.get(1)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }

    /// Start time on the clock that counts suspend.
    pub(super) fn started(&self) -> Moment {
        Moment::from_origin(Duration::from_millis(self.start_ticks.saturating_mul(1000 / TICKS_PER_SECOND)))
    }

    /// Start time in seconds since the epoch.
    pub(super) fn started_at(&self) -> Option<f64> {
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        #[expect(clippy::cast_precision_loss, reason = "ticks since boot are far below 2^52")]
        Some(boot + self.start_ticks as f64 / TICKS_PER_SECOND as f64)
    }
}

/// All processes, by pid.
pub(super) fn all() -> BTreeMap<i32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(|pid| Some((pid, Stat::of(pid)?))).collect()
}

/// The children of `pid` that have not ended.
pub(super) fn children(pid: i32) -> Vec<Stat> {
    // The kernel lists children per thread; a postmaster has one thread. The file is missing on kernels built without it.
    match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(list) => list.split_ascii_whitespace().filter_map(|pid| Stat::of(pid.parse().ok()?)).collect(),
        Err(_) => all().into_values().filter(|stat| stat.parent == pid).collect::<Vec<_>>(),
    }
    .into_iter()
    .filter(|stat| !stat.ended)
    .collect()
}

/// All descendants of `pid`, nearest first.
pub(super) fn descendants(pid: i32) -> Vec<Stat> {
    let table = all();
    let mut found: Vec<Stat> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for stat in table.values().filter(|stat| stat.parent == parent && stat.pid != pid) {
            found.push(*stat);
            parents.push(stat.pid);
        }
    }
    found
}

/// How much `pid` and each of its descendants have read and written so far; nothing if that cannot be seen.
pub(super) fn traffic(pid: i32) -> Option<Vec<(i32, u64)>> {
    let of = |pid: i32| -> Option<(i32, u64)> {
        let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        let count = |label: &str| text.lines().find_map(|line| line.strip_prefix(label))?.trim().parse::<u64>().ok();
        Some((pid, count("rchar:")?.wrapping_add(count("wchar:")?)))
    };
    let own = of(pid)?;
    let mut all: Vec<(i32, u64)> = descendants(pid).iter().filter_map(|stat| of(stat.pid)).collect();
    all.push(own);
    all.sort_unstable();
    Some(all)
}

/// The command line of a process, as PostgreSQL rewrites it: its first argument.
pub(super) fn title(pid: i32) -> Option<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = raw.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(first).trim_end().to_owned())
}

/// Stops `pid` so that it makes no more children, then kills its descendants and itself. Returns those that were killed.
pub(super) fn kill_tree(pid: i32) -> Vec<Stat> {
    let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
    let mut killed = descendants(pid);
    killed.extend(Stat::of(pid));
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    for stat in &killed {
        // A pid may have been given to another process since the table was read.
        if Stat::of(stat.pid).is_some_and(|now| now.start_ticks == stat.start_ticks) {
            let _ = kill(Pid::from_raw(stat.pid), Signal::SIGKILL);
        }
    }
    killed
}

/// Whether the very process of `stat` is still alive. A zombie is not.
pub(super) fn is_alive(stat: &Stat) -> bool {
    Stat::of(stat.pid).is_some_and(|now| now.start_ticks == stat.start_ticks && !now.ended)
}

/// The agent's own configuration variables, passwords among them, which no program that it calls may see.
pub(super) fn configuration_variables() -> Vec<std::ffi::OsString> {
    std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("PATRONI_")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Stat, is_alive, title};

    #[test]
    fn names_with_blanks_and_parentheses_do_not_shift_the_fields() {
        let text = "42 (a) b (c) Z 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 0 0 18446744073709551615";
        assert_eq!(Stat::parse(42, text), Some(Stat { pid: 42, parent: 7, ended: true, start_ticks: 98_765 }));
    }

    #[test]
    fn this_process_is_alive_and_started_in_the_past() {
        let me = Stat::of(i32::try_from(std::process::id()).expect("a pid")).expect("/proc knows us");
        assert!(is_alive(&me));
        let now = jiff::Timestamp::now().as_second();
        let started = me.started_at().expect("a start time") as i64;
        assert!((now - 3600..=now + 1).contains(&started), "{started} is not shortly before {now}");
        assert!(title(me.pid).is_some());
    }
}
