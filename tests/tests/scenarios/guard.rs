//! What stops PostgreSQL when the agent cannot: the lease guard, and the watchdog.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use serde_json::json;
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, Node, StoreKind, process};

on_every_store! {
    etcd_and_raft: [
        the_postgresql_of_a_frozen_agent_is_stopped_before_another_is_promoted,
        an_agent_that_dies_and_returns_within_the_ttl_takes_lock_and_guard_over,
    ]
}

/// The guards that run for a node.
fn guards(node: &Node) -> Vec<Pid> {
    let is_guard = |pid: &Pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"lease-guard") && process::is_alive(*pid)
    };
    process::working_in(&node.directory).into_iter().filter(is_guard).collect()
}

async fn the_postgresql_of_a_frozen_agent_is_stopped_before_another_is_promoted(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let old = cluster.leader().await?;

    old.signal_agent(Signal::SIGSTOP)?;

    let new = cluster.eventually_leader_other_than(old).await?;
    ensure!(old.postmaster().is_none(), "PostgreSQL of {} runs although {} leads", old.name, new.name);
    cluster.eventually_writes().await?;
    old.signal_agent(Signal::SIGCONT)?;
    cluster.eventually_follows(old, new).await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

async fn an_agent_that_dies_and_returns_within_the_ttl_takes_lock_and_guard_over(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let postmaster = leader.postmaster();
    let former = guards(leader);
    ensure!(former.len() == 1, "{former:?}");

    leader.kill_agent().await?;
    ensure!(guards(leader) == former, "the guard has not survived its agent");
    leader.start()?;

    cluster.eventually_leads(leader).await?;
    poll::until("one guard has taken over from the other", PATIENCE, async || {
        let now = guards(leader);
        ensure!(now.len() == 1 && now != former, "{former:?}, {now:?}");
        Ok(())
    })
    .await?;
    // The deadline that the former guard held passes.
    tokio::time::sleep(cluster.times.ttl + Duration::from_secs(2)).await;
    ensure!(leader.postmaster() == postmaster, "PostgreSQL was stopped");
    ensure!(leader.timeline().await? == 1);
    cluster.finish(Loss::None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_guard_the_postgresql_of_a_frozen_agent_goes_on() -> Result<()> {
    let cluster = Cluster::builder().store(StoreKind::Etcd).dynamic(&json!({"quorate": {"lease_guard": "off"}})).start().await?;
    let old = cluster.leader().await?;
    let (timeline, postmaster) = (old.timeline().await?, old.postmaster());

    old.signal_agent(Signal::SIGSTOP)?;

    let new = cluster.eventually_leader_other_than(old).await?;
    ensure!(postmaster.is_some() && old.postmaster() == postmaster, "PostgreSQL was stopped");
    old.signal_agent(Signal::SIGCONT)?;
    cluster.eventually_follows(old, new).await?;
    cluster.finish_after_an_unguarded_primary(timeline).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_pause_the_guard_leaves_the_postgresql_of_a_dead_agent_alone() -> Result<()> {
    let cluster = Cluster::builder().store(StoreKind::Etcd).start().await?;
    let leader = cluster.leader().await?;
    let postmaster = leader.postmaster();
    cluster.patch_config(&json!({"pause": true})).await?;
    poll::until("it is paused", PATIENCE, async || {
        ensure!(leader.status().await?.get("pause").is_some(), "not yet");
        Ok(())
    })
    .await?;

    leader.kill_agent().await?;
    poll::until("its guard has ended", PATIENCE, async || {
        ensure!(guards(leader).is_empty(), "{:?}", guards(leader));
        Ok(())
    })
    .await?;
    ensure!(postmaster.is_some() && leader.postmaster() == postmaster, "PostgreSQL was stopped");

    leader.start()?;
    cluster.eventually_leads(leader).await?;
    cluster.patch_config(&json!({"pause": null})).await?;
    cluster.eventually_settled().await?;
    ensure!(leader.postmaster() == postmaster && leader.timeline().await? == 1);
    cluster.finish(Loss::None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_is_killed_is_replaced() -> Result<()> {
    let cluster = Cluster::builder().store(StoreKind::Etcd).start().await?;
    let leader = cluster.leader().await?;
    let former = guards(leader);

    kill(*former.first().context("a guard")?, Signal::SIGKILL)?;

    poll::until("another guard runs", PATIENCE, async || {
        let now = guards(leader);
        ensure!(now.len() == 1 && now != former, "{now:?}");
        Ok(())
    })
    .await?;
    leader.signal_agent(Signal::SIGSTOP)?;
    let new = cluster.eventually_leader_other_than(leader).await?;
    ensure!(leader.postmaster().is_none(), "it guards nothing");
    leader.signal_agent(Signal::SIGCONT)?;
    cluster.eventually_follows(leader, new).await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

/// A named pipe in the place of a watchdog device, and what was written to it.
struct Device {
    pipe: File,
    said: String,
}

impl Device {
    /// Puts one beside `node`, and tells the node to require it.
    fn beside(node: &Node) -> Result<Self> {
        let path = node.directory.join("watchdog");
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        node.program(&path).account.own(&path)?;
        node.change_file(|settings| settings["watchdog"] = json!({"mode": "required", "driver": "testing", "device": path}))?;
        // Open for writing as well, so that it never ends.
        let pipe = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path)?;
        Ok(Self { pipe, said: String::new() })
    }

    /// Everything that was said so far.
    fn heard(&mut self) -> &str {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = self.pipe.read(&mut bytes) {
            self.said.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        &self.said
    }

    async fn eventually(&mut self, what: &str, holds: impl Fn(&str) -> bool) -> Result<()> {
        let heard = std::sync::Mutex::new(self);
        poll::until(what, PATIENCE, async || {
            let mut device = heard.lock().unwrap();
            let said = device.heard();
            ensure!(holds(said), "{said:?}");
            Ok(())
        })
        .await
    }
}

/// Must hold: postgresql.md 20 (P20-2, P20-3, P20-4, P20-6).
#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_armed_on_the_leader_alone_let_go_in_order_and_left_to_fire_when_the_agent_hangs() -> Result<()> {
    // Without the guard, to see what the watchdog does.
    let mut cluster = Cluster::builder().store(StoreKind::Etcd).dynamic(&json!({"quorate": {"lease_guard": "off"}})).assemble().await?;
    let mut devices = cluster.nodes().iter().map(|node| Ok((node.name.clone(), Device::beside(node)?))).collect::<Result<Vec<_>>>()?;
    cluster.start_all()?;
    cluster.eventually_settled().await?;
    cluster.begin_checking().await?;
    let leader = cluster.leader().await?;
    let place = devices.iter().position(|(name, _)| *name == leader.name).context("its device")?;
    let (_, mut device) = devices.swap_remove(place);
    let margin = 5;

    let timeout = format!("Ctimeout={}\n", cluster.times.ttl.as_secs() - margin);
    device.eventually("the device is armed and fed", |said| said.starts_with(&timeout) && said.ends_with("11")).await?;
    for (name, other) in &mut devices {
        ensure!(other.heard().is_empty(), "{name} is a replica: {:?}", other.heard());
    }

    cluster.patch_config(&json!({"ttl": cluster.times.ttl.as_secs() + 2})).await?;
    let longer = format!("Ctimeout={}\n", cluster.times.ttl.as_secs() + 2 - margin);
    device.eventually("the device has the new timeout", |said| said.contains(&longer)).await?;

    cluster.patch_config(&json!({"pause": true})).await?;
    device.eventually("the device is let go", |said| said.ends_with('V')).await?;
    cluster.patch_config(&json!({"pause": null})).await?;
    device.eventually("the device is armed again", |said| said.ends_with("11")).await?;

    leader.signal_agent(Signal::SIGSTOP)?;
    let new = cluster.eventually_leader_other_than(leader).await?;
    let silent = device.heard().to_owned();
    ensure!(silent.ends_with('1'), "the device would not fire: {silent:?}");
    leader.signal_agent(Signal::SIGCONT)?;
    cluster.eventually_follows(leader, new).await?;
    device.eventually("the former leader has let its device go", |said| said.ends_with('V')).await?;

    let (_, device) = devices.iter_mut().find(|(name, _)| *name == new.name).context("its device")?;
    device.eventually("the new leader has armed its own", |said| said.ends_with("11")).await?;
    new.stop().await?;
    device.eventually("it was let go at the orderly end", |said| said.ends_with('V')).await?;
    cluster.finish_unchecked();
    Ok(())
}
