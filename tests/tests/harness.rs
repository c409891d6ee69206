//! The harness itself: what a test starts ends with it, whatever it does to get away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tests::agents;
use tests::poll;
use tests::process::{self, Program};
use tests::sandbox::Sandbox;
use tests::skip;

#[tokio::test]
async fn a_daemon_in_a_session_of_its_own_ends_with_the_sandbox() -> Result<()> {
    let sandbox = Sandbox::create()?;
    let directory = sandbox.directory().to_owned();
    let home = sandbox.make("daemon")?;
    let Some(setsid) = store_servers::on_the_path("setsid") else { anyhow::bail!("there is no `setsid` on the search path") };
    // As a postmaster does: its parent ends, and the session is its own. This one even works elsewhere, and only its environment tells.
    let program = Program::new(&setsid, &home, sandbox.account()).arguments(["--fork", "sh", "-c", "cd /; exec sleep 600 >/dev/null 2>&1"]);
    program.run().await?.success()?;
    poll::until("the daemon runs", Duration::from_secs(10), async || {
        ensure!(!process::working_in(&home).is_empty(), "nothing runs");
        Ok(())
    })
    .await?;

    drop(sandbox);

    ensure!(process::working_in(&home).is_empty(), "it still runs");
    ensure!(!directory.exists(), "{} is still there", directory.display());
    Ok(())
}

#[tokio::test]
async fn a_frozen_process_ends_with_the_sandbox() -> Result<()> {
    let sandbox = Sandbox::create()?;
    let home = sandbox.make("frozen")?;
    let Some(sleep) = store_servers::on_the_path("sleep") else { anyhow::bail!("there is no `sleep` on the search path") };
    let mut child = Program::new(&sleep, &home, sandbox.account()).arguments(["600"]).spawn(&home.join("log"))?;
    process::signal_all(&process::working_in(&home), Signal::SIGSTOP);

    drop(sandbox);

    let ended = tokio::time::timeout(Duration::from_secs(10), child.wait()).await??;
    ensure!(!ended.success(), "{ended}");
    Ok(())
}

#[tokio::test]
async fn a_process_whose_first_thread_is_over_still_works_in_its_directory() -> Result<()> {
    let Some(python) = agents::python() else {
        skip::report("no `python3` that every user can run; `apt-get install python3` installs it");
        return Ok(());
    };
    let sandbox = Sandbox::create()?;
    let directory = sandbox.directory().to_owned();
    let home = sandbox.make("threads")?;
    // What a killed process looks like while one of its threads waits for the disk. The system call ends the calling thread alone.
    let end_of_first_thread = "import ctypes, platform, threading, time\n\
         threading.Thread(target=time.sleep, args=(600,)).start()\n\
         ctypes.CDLL(None).syscall({'x86_64': 60}.get(platform.machine(), 93), 0)";
    let mut child = Program::new(&python, &home, sandbox.account()).arguments(["-c", end_of_first_thread]).spawn(&home.join("log"))?;
    let pid = Pid::from_raw(child.id().context("it runs")?.cast_signed());
    poll::until("the first thread is over", Duration::from_secs(10), async || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        ensure!(stat.contains(") Z "), "{stat}");
        Ok(())
    })
    .await?;

    ensure!(process::is_alive(pid), "it counts as over");
    ensure!(process::working_in(&home) == [pid], "it is not found");
    drop(sandbox);

    ensure!(!directory.exists(), "{} is still there", directory.display());
    tokio::time::timeout(Duration::from_secs(10), child.wait()).await??;
    Ok(())
}

#[tokio::test]
async fn two_sandboxes_never_share_a_network() -> Result<()> {
    let (one, other) = (Sandbox::create()?, Sandbox::create()?);
    ensure!(one.network().address(1) != other.network().address(1));
    let usual = one.network().free(1, 5432)?;
    let _taken = std::net::TcpListener::bind(usual)?;
    ensure!(one.network().free(1, usual.port())? != usual, "a port that somebody listens on is not free");
    Ok(())
}
