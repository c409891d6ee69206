//! The guard's whole life, in a process of its own.
//!
//! ```text
//!   ┌─► read the record ─► a later agent's: end
//!   │        │
//!   │        ├─ its moment has passed: SIGQUIT, a little later SIGKILL for the postmaster and all its children
//!   │        ├─ the agent is gone and there is nothing to hold, or nothing left to stop: end
//!   └────────┴─ wait: for the moment, for the agent's end, at most a second
//! ```
//!
//! One thread, no runtime, no lock, no allocation that matters, and nothing on the way that waits for a disk before the
//! postmaster that is known has been stopped.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use dcs_core::{Clock, Moment};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::record::{Named, Record};
use crate::postgres::postmaster::Process;
use crate::postgres::processes;

/// The longest wait without looking at the clock that counts suspend, and at the record.
const LOOK: Duration = Duration::from_secs(1);
/// How long a postmaster has to end after SIGQUIT, which its children obey at once.
const MERCY: Duration = Duration::from_millis(350);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a guard works with.
#[derive(Debug)]
pub(super) struct Guard<A> {
    pub(super) clock: &'static dyn Clock,
    pub(super) record: File,
    /// Ends with the agent.
    pub(super) agent: A,
    /// Which agent's.
    pub(super) generation: u64,
    pub(super) data_dir: PathBuf,
    /// Where deeds are told.
    pub(super) say: fn(&str),
}

/// Waits `span`, at most until `agent` ends. Whether it has.
fn wait(agent: Option<&impl AsFd>, span: Duration) -> bool {
    let millis = u16::try_from(span.as_millis() + 1).unwrap_or(u16::MAX);
    let mut watched: Vec<PollFd<'_>> = agent.iter().map(|agent| PollFd::new(agent.as_fd(), PollFlags::empty())).collect();
    // An interruption is a shorter wait.
    let _ = poll(&mut watched, PollTimeout::from(millis));
    let ends = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    watched.first().and_then(PollFd::revents).is_some_and(|seen| seen.intersects(ends))
}

impl<A: AsFd> Guard<A> {
    /// Watches until there is nothing more to watch.
    pub(super) fn watch(self) {
        let mut agent = Some(&self.agent);
        let mut known: Option<(Named, Process)> = None;
        let mut current = Record { generation: self.generation, until: None, postmaster: None };
        loop {
            // One that is not whole is being written: the former one counts until then.
            match Record::read(&self.record) {
                Some(said) if said.generation == self.generation => current = said,
                Some(said) if said.generation > self.generation => return,
                _ => {}
            }
            if let Some(named) = current.postmaster
                && known.as_ref().is_none_or(|(known, _)| *known != named)
            {
                // Held from now on: the pid cannot come to mean another process unnoticed.
                known = Process::of(named.pid).filter(|process| process.start_ticks() == named.start_ticks).map(|process| (named, process));
            }
            let now = self.clock.now();
            let span = match current.until {
                None if agent.is_none() => return,
                None => LOOK,
                Some(until) if now < until => (until - now).min(LOOK),
                Some(until) => {
                    let anything = self.stop(known.as_ref().map(|(_, process)| process), until);
                    if agent.is_none() && !anything {
                        return;
                    }
                    if anything { LOOK_AGAIN } else { LOOK }
                }
            };
            if wait(agent, span) {
                agent = None;
            }
        }
    }

    /// Stops what was started on the data directory before `until`: whoever starts a server later knows what it does. Whether
    /// there was anything.
    fn stop(&self, known: Option<&Process>, until: Moment) -> bool {
        let known = known.filter(|process| process.is_alive());
        if let Some(process) = known {
            self.end(process);
        }
        // It may have been restarted since the agent could say so. Only now: this file is on a disk.
        let owner = Process::owner_of(&self.data_dir).filter(|process| process.is_postmaster() && process.started() <= until);
        if let Some(process) = &owner {
            self.end(process);
        }
        known.is_some() || owner.is_some()
    }

    fn end(&self, process: &Process) {
        let pid = process.pid();
        (self.say)(&format!(
            "the leader lock could not be renewed in time, and the agent does not react: stopping PostgreSQL (postmaster {pid}) before \
             another node can be promoted"
        ));
        process.signal(Signal::SIGQUIT);
        let begin = self.clock.now();
        while process.is_alive() {
            if self.clock.now() - begin >= MERCY {
                (self.say)(&format!("postmaster {pid} does not end: killing it and its children"));
                processes::kill_tree(pid);
                return;
            }
            wait(None::<&A>, LOOK_AGAIN);
        }
    }
}

#[cfg(test)]
mod tests;
