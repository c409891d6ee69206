//! The harness itself: what a test starts ends with it, whatever it does to get away.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tests::agents;
use tests::poll;
use tests::process::{self, Program};
use tests::sandbox::Sandbox;

#[tokio::test]
async fn a_daemon_in_a_session_of_its_own_ends_with_the_sandbox() -> Result<()> {
    let sandbox = Sandbox::create()?;
    let directory = sandbox.directory().to_owned();
    let home = sandbox.make("daemon")?;
    let Some(setsid) = agents::on_the_path("setsid") else { anyhow::bail!("there is no `setsid` on the search path") };
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
    let Some(sleep) = agents::on_the_path("sleep") else { anyhow::bail!("there is no `sleep` on the search path") };
    let mut child = Program::new(&sleep, &home, sandbox.account()).arguments(["600"]).spawn(&home.join("log"))?;
    process::signal_all(&process::working_in(&home), Signal::SIGSTOP);

    drop(sandbox);

    let ended = tokio::time::timeout(Duration::from_secs(10), child.wait()).await??;
    ensure!(!ended.success(), "{ended}");
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
