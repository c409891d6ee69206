//! A guard on a thread, and programs that pretend to be a postmaster.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use dcs_core::BootClock;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::*;

static CLOCK: BootClock = BootClock;
const GENERATION: u64 = 7;
const PATIENCE: Duration = Duration::from_secs(60);

/// A guard, and what its agent has of it.
struct Scene {
    _directory: tempfile::TempDir,
    record: File,
    agent: Option<UnixStream>,
    ended: mpsc::Receiver<()>,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("record");
        let record = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).expect("a file");
        let (agent, theirs) = UnixStream::pair().expect("two sockets");
        let guard = Guard {
            clock: &CLOCK,
            record: record.try_clone().expect("cloned"),
            agent: theirs,
            generation: GENERATION,
            data_dir: directory.path().to_owned(),
            say: |_| (),
        };
        let (end, ended) = mpsc::channel();
        std::thread::spawn(move || {
            guard.watch();
            let _ = end.send(());
        });
        Self { _directory: directory, record, agent: Some(agent), ended }
    }

    fn say(&self, generation: u64, until: Option<Moment>, postmaster: &Postmaster) {
        Record { generation, until, postmaster: Some(postmaster.named()) }.write(&self.record).expect("written");
    }

    fn hold(&self, span: Duration, postmaster: &Postmaster) -> Moment {
        let until = CLOCK.now() + span;
        self.say(GENERATION, Some(until), postmaster);
        until
    }

    fn agent_dies(&mut self) {
        self.agent = None;
    }

    fn has_ended(&self, within: Duration) -> bool {
        self.ended.recv_timeout(within).is_ok()
    }
}

/// A program that does with SIGQUIT as it likes, and a child of it.
struct Postmaster(Child, Pid);

impl Postmaster {
    fn that(on_quit: &str) -> Self {
        let script = format!("trap '{on_quit}' QUIT; sleep 1000 & echo $!; while :; do wait; done");
        let mut child = Command::new("/bin/sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut said).expect("it says its child");
        Self(child, Pid::from_raw(said.trim().parse().expect("a pid")))
    }

    fn obedient() -> Self {
        Self::that("kill $!; exit 3")
    }

    fn deaf() -> Self {
        Self::that("")
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    fn named(&self) -> Named {
        let process = Process::of(self.pid()).expect("it runs");
        Named { pid: self.pid(), start_ticks: process.start_ticks() }
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("it is ours")
    }

    /// How it ended, and when that was seen.
    fn eventually_ends(&mut self) -> (ExitStatus, Moment) {
        let begin = CLOCK.now();
        loop {
            if let Some(status) = self.status() {
                return (status, CLOCK.now());
            }
            assert!(CLOCK.now() - begin < PATIENCE, "it goes on");
            pause(LOOK_AGAIN);
        }
    }

    fn child_is_alive(&self) -> bool {
        Process::of(self.1.as_raw()).is_some_and(|process| process.is_alive())
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        if self.child_is_alive() {
            let _ = kill(self.1, Signal::SIGKILL);
        }
    }
}

fn pause(span: Duration) {
    wait(None::<&UnixStream>, span);
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begin = CLOCK.now();
    while !condition() {
        assert!(CLOCK.now() - begin < PATIENCE, "{what}");
        pause(LOOK_AGAIN);
    }
}

#[test]
fn a_server_is_stopped_when_the_moment_has_come_and_not_before() {
    let (scene, mut server) = (Scene::new(), Postmaster::obedient());
    let until = scene.hold(Duration::from_millis(1500), &server);
    let (status, ended) = server.eventually_ends();
    assert_eq!(status.code(), Some(3), "it was asked, and obeyed");
    assert!(ended >= until);
    assert!(!scene.has_ended(Duration::from_millis(10)), "its agent may come back");
}

#[test]
fn as_long_as_the_moment_is_put_off_nothing_happens() {
    let (scene, mut server) = (Scene::new(), Postmaster::obedient());
    let begin = CLOCK.now();
    while CLOCK.now() - begin < Duration::from_secs(4) {
        scene.hold(Duration::from_secs(3), &server);
        pause(Duration::from_millis(50));
        assert!(server.status().is_none());
    }
    scene.say(GENERATION, None, &server);
    pause(Duration::from_secs(4));
    assert!(server.status().is_none(), "nothing is held any more");
}

#[test]
fn a_server_that_is_deaf_or_stopped_is_killed_with_its_children() {
    for stopped in [false, true] {
        let (scene, mut server) = (Scene::new(), if stopped { Postmaster::obedient() } else { Postmaster::deaf() });
        if stopped {
            kill(Pid::from_raw(server.pid()), Signal::SIGSTOP).expect("it runs");
        }
        scene.hold(Duration::from_millis(100), &server);
        let (status, _) = server.eventually_ends();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
        eventually("its child is killed too", || !server.child_is_alive());
    }
}

#[test]
fn a_guard_outlives_its_agent_as_long_as_there_is_something_to_hold() {
    let (mut scene, mut server) = (Scene::new(), Postmaster::obedient());
    let until = scene.hold(Duration::from_secs(2), &server);
    scene.agent_dies();
    assert!(!scene.has_ended(Duration::from_millis(1000)) || CLOCK.now() >= until);
    let (status, ended) = server.eventually_ends();
    assert!(status.code() == Some(3) && ended >= until);
    assert!(scene.has_ended(PATIENCE), "there is nothing left to do");

    let (mut idle, mut server) = (Scene::new(), Postmaster::obedient());
    idle.say(GENERATION, None, &server);
    idle.agent_dies();
    assert!(idle.has_ended(PATIENCE));
    assert!(server.status().is_none());
}

#[test]
fn the_next_agents_first_word_ends_the_former_guard_and_a_former_agents_word_changes_nothing() {
    let (mut scene, mut server) = (Scene::new(), Postmaster::obedient());
    scene.hold(Duration::from_secs(3), &server);
    scene.agent_dies();
    pause(Duration::from_millis(1200));
    scene.say(GENERATION + 1, None, &server);
    assert!(scene.has_ended(PATIENCE));
    assert!(server.status().is_none());

    let scene = Scene::new();
    let until = scene.hold(Duration::from_secs(3), &server);
    pause(Duration::from_millis(1200));
    scene.say(GENERATION - 1, None, &server);
    let (status, ended) = server.eventually_ends();
    assert!(status.code() == Some(3) && ended >= until);
}

#[test]
fn a_process_that_got_the_pid_of_the_postmaster_is_left_alone() {
    let (mut scene, mut bystander) = (Scene::new(), Postmaster::obedient());
    let mut named = bystander.named();
    named.start_ticks -= 1;
    Record { generation: GENERATION, until: Some(CLOCK.now()), postmaster: Some(named) }.write(&scene.record).expect("written");
    scene.agent_dies();
    assert!(scene.has_ended(PATIENCE));
    assert!(bystander.status().is_none());
}

#[test]
fn what_is_not_whole_changes_nothing() {
    use std::os::unix::fs::FileExt;

    let (scene, mut server) = (Scene::new(), Postmaster::obedient());
    let until = scene.hold(Duration::from_secs(3), &server);
    pause(Duration::from_millis(1200));
    scene.record.write_all_at(&[0xff; 8], 16).expect("written");
    let (_, ended) = server.eventually_ends();
    assert!(ended >= until);
}
