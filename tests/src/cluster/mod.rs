//! A cluster: its store, its nodes, the clients that watch it, and the questions a scenario asks.

mod builder;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::agents::{self, Agent};
use crate::checker::{self, Checker, Pace, Target};
use crate::history::{History, Loss};
use crate::node::{self, Answer, Node};
use crate::poll::{self, PATIENCE};
use crate::process::{self, Finished};
use crate::proxy::Condition;
use crate::sandbox::Sandbox;
use crate::settings::{self, Times};
use crate::stores::{Guest, Server, Store, StoreKind};

pub use builder::Builder;

/// What connects a node with the rest of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Its way to the store.
    Store,
    /// The others' way to its REST API and its PostgreSQL. Its own way to the others is not covered: a node that is cut from the store has no
    /// use for them.
    Peers,
    /// Both.
    All,
}

/// A running cluster and everything that belongs to it.
///
/// The order of the fields is the order in which they end: clients, nodes and store, and last of all the sandbox, which kills what is left.
#[derive(Debug)]
pub struct Cluster {
    checker: Option<Checker>,
    nodes: Vec<Node>,
    /// The store.
    pub store: Box<dyn Store>,
    /// A node of the embedded store without a PostgreSQL, if one was asked for.
    pub witness: Option<Server>,
    /// The cluster's name.
    pub scope: String,
    /// The times it was built with.
    pub times: Times,
    /// Which agent runs it.
    pub agent: Agent,
    pace: Pace,
    control_tool: PathBuf,
    passed: bool,
    sandbox: Sandbox,
}

impl Cluster {
    /// Describes a cluster of three nodes with short times; see [`Builder`] for what can be different.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Its directory.
    #[must_use]
    pub const fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    // ---- who is who

    /// All nodes, in the order of their names.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of that name.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("there is no node {name}"))
    }

    /// All nodes but one.
    pub fn others<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(|other| other.name != node.name)
    }

    /// Some node but this one.
    ///
    /// # Errors
    ///
    /// If there is no other.
    pub fn another<'a>(&'a self, node: &'a Node) -> Result<&'a Node> {
        self.others(node).next().context("the cluster has one node only")
    }

    /// The leader, as soon as there is one.
    ///
    /// # Errors
    ///
    /// If there is none in time.
    pub async fn leader(&self) -> Result<&Node> {
        poll::until("there is one leader", PATIENCE, async || self.leader_now(None).await).await
    }

    /// The leader, as soon as it is another than `former`.
    ///
    /// # Errors
    ///
    /// If there is none in time.
    pub async fn eventually_leader_other_than(&self, former: &Node) -> Result<&Node> {
        let what = format!("there is one leader, and it is not {}", former.name);
        poll::until(&what, PATIENCE, async || self.leader_now(Some(former)).await).await
    }

    /// Waits until `node` leads.
    ///
    /// # Errors
    ///
    /// If it does not in time.
    pub async fn eventually_leads(&self, node: &Node) -> Result<()> {
        poll::until(&format!("{} leads", node.name), PATIENCE, async || {
            let leader = self.leader_now(None).await?;
            ensure!(leader.name == node.name, "{} leads", leader.name);
            Ok(())
        })
        .await
    }

    /// The one node that answers as primary and whose PostgreSQL takes writes.
    async fn leader_now(&self, former: Option<&Node>) -> Result<&Node> {
        let mut found: Option<&Node> = None;
        let mut seen = Vec::new();
        for node in &self.nodes {
            let answer = node.get("/primary").await;
            seen.push(match &answer {
                Ok(answer) => format!("{}: {} {}", node.name, answer.status, role_and_state(&answer.body)),
                Err(error) => format!("{}: {}", node.name, error.root_cause()),
            });
            if answer.is_ok_and(|answer| answer.status == 200) {
                ensure!(found.is_none(), "two nodes answer as primary");
                found = Some(node);
            }
        }
        let seen = seen.join("; ");
        let Some(leader) = found else { bail!("nobody answers as primary ({seen})") };
        if let Some(former) = former {
            ensure!(leader.name != former.name, "still {} ({seen})", former.name);
        }
        let recovering = leader.ask("SELECT pg_is_in_recovery()").await?;
        ensure!(recovering == "f", "{} has the lock but is in recovery ({seen})", leader.name);
        Ok(leader)
    }

    /// Waits until `node` streams from `leader` on its timeline.
    ///
    /// # Errors
    ///
    /// If it does not in time.
    pub async fn eventually_follows(&self, node: &Node, leader: &Node) -> Result<()> {
        let what = format!("{} follows {}", node.name, leader.name);
        poll::until(&what, PATIENCE, async || self.follows_now(node, leader).await).await
    }

    async fn follows_now(&self, node: &Node, leader: &Node) -> Result<()> {
        let replica = node.get("/replica").await?;
        ensure!(replica.status == 200, "{} answers {} {}", node.name, replica.status, role_and_state(&replica.body));
        let query = format!("SELECT state FROM pg_stat_replication WHERE application_name = '{}'", node.name);
        let state = leader.ask(&query).await?;
        ensure!(state == "streaming", "{} sees {} as {state:?}", leader.name, node.name);
        let (theirs, ours) = (leader.timeline().await?, node.timeline().await?);
        ensure!(theirs == ours, "{} is on timeline {theirs}, {} on {ours}", leader.name, node.name);
        Ok(())
    }

    /// Waits until there is one leader and every other node whose agent runs follows it; returns the leader.
    ///
    /// # Errors
    ///
    /// If that is not so in time.
    pub async fn eventually_settled(&self) -> Result<&Node> {
        poll::until("one node leads and the others follow", PATIENCE * 2, async || {
            let leader = self.leader_now(None).await?;
            for node in self.others(leader).filter(|node| node.is_agent_running()) {
                self.follows_now(node, leader).await?;
            }
            Ok(leader)
        })
        .await
    }

    // ---- what can be done to it

    /// Starts every agent that does not run.
    ///
    /// # Errors
    ///
    /// If one cannot be started.
    pub fn start_all(&self) -> Result<()> {
        self.nodes.iter().filter(|node| !node.is_agent_running()).try_for_each(Node::start)
    }

    /// Kills every node at once, as a power cut does. The store goes on.
    ///
    /// # Errors
    ///
    /// If something survives.
    pub async fn kill_all(&self) -> Result<()> {
        let processes: Vec<_> = self.nodes.iter().flat_map(|node| process::working_in(&node.directory)).collect();
        process::signal_all(&processes, Signal::SIGKILL);
        for node in &self.nodes {
            node.kill().await?;
        }
        Ok(())
    }

    /// The node whose agent leads the embedded store, as soon as there is one.
    ///
    /// # Errors
    ///
    /// If there is none in time, or the store is another one.
    pub async fn raft_leader(&self) -> Result<&Node> {
        let raft = self.store.raft()?;
        let leader = poll::until("a node leads the Raft cluster", PATIENCE, async || raft.leader().await).await?;
        self.nodes.get(leader).context("the Raft leader is no node of the cluster")
    }

    /// Lets the agent of this node lead the embedded store.
    ///
    /// # Errors
    ///
    /// If it does not get that far in time, or the store is another one.
    pub async fn let_lead_raft(&self, node: &Node) -> Result<()> {
        let raft = self.store.raft()?;
        let index = self.nodes.iter().position(|other| other.name == node.name).context("a node of this cluster")?;
        poll::until(&format!("{} leads the Raft cluster", node.name), PATIENCE, async || raft.hand_over_to(index).await).await
    }

    /// Waits until all nodes of the embedded store, the witness among them, have what its leader has.
    ///
    /// # Errors
    ///
    /// If they do not in time, or the store is another one.
    pub async fn eventually_all_vote(&self) -> Result<()> {
        let raft = self.store.raft()?;
        poll::until("all nodes of the Raft cluster are up to date", PATIENCE, async || raft.all_healthy().await).await
    }

    /// Asks `via` for a switchover, and returns its answer.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub async fn switchover(&self, via: &Node, leader: &str, candidate: Option<&str>) -> Result<Answer> {
        via.send("POST", "/switchover", &json!({"leader": leader, "candidate": candidate})).await
    }

    /// Starts the clients that write and watch. Scenarios that begin with a running cluster have them already.
    ///
    /// # Errors
    ///
    /// If their tables cannot be made.
    pub async fn begin_checking(&mut self) -> Result<()> {
        self.leader().await?.execute(checker::TABLES).await?;
        let targets: Vec<Target> =
            self.nodes.iter().map(|node| Target { name: node.name.clone(), postgres: node.postgres.clone(), rest: node.rest }).collect();
        self.checker = Some(Checker::start(&targets, self.pace));
        self.eventually_writes().await
    }

    /// Waits until clients that come now can write.
    ///
    /// # Errors
    ///
    /// If they cannot in time.
    pub async fn eventually_writes(&self) -> Result<()> {
        let before = self.history()?.count();
        poll::until("clients can write", PATIENCE, async || {
            ensure!(self.history()?.count() > before, "{before} rows as before");
            Ok(())
        })
        .await
    }

    /// What the clients have seen.
    ///
    /// # Errors
    ///
    /// If there are none.
    pub fn history(&self) -> Result<&History> {
        Ok(self.checker.as_ref().context("nobody checks this cluster: `begin_checking` was not called")?.history())
    }

    /// Cuts a link of a node: everything on it hangs, nothing is refused.
    ///
    /// # Errors
    ///
    /// If the cluster was built without [`Builder::with_links`].
    pub fn cut(&self, node: &Node, link: Link) -> Result<()> {
        self.set_links(node, link, Condition::Cut)
    }

    /// Restores all links of a node.
    ///
    /// # Errors
    ///
    /// If the cluster was built without [`Builder::with_links`].
    pub fn heal(&self, node: &Node) -> Result<()> {
        self.set_links(node, Link::All, Condition::Healthy)
    }

    fn set_links(&self, node: &Node, link: Link, condition: Condition) -> Result<()> {
        let links = node.links.as_ref().context("this cluster was built without links to cut")?;
        if link != Link::Peers {
            links.store.iter().for_each(|proxy| proxy.set(condition));
            if let Ok(raft) = self.store.raft() {
                for (other, proxy) in self.nodes.iter().zip(raft.proxies()) {
                    if other.name == node.name {
                        proxy.set(condition);
                    } else {
                        proxy.set_for(&node.directory, condition);
                    }
                }
            }
        }
        if link != Link::Store {
            links.inbound.iter().for_each(|proxy| proxy.set(condition));
        }
        Ok(())
    }

    /// Merges into the dynamic configuration.
    ///
    /// # Errors
    ///
    /// If the agent refuses.
    pub async fn patch_config(&self, patch: &Value) -> Result<()> {
        let answer = self.leader().await?.send("PATCH", "/config", patch).await?;
        ensure!(answer.status == 200, "PATCH /config: {} {}", answer.status, answer.body);
        Ok(())
    }

    /// Starts a store of another kind beside the one there is, writes it into every node's file, and returns the former. The agents know
    /// nothing of it before they are started anew.
    ///
    /// # Errors
    ///
    /// If something that is needed is not installed.
    pub async fn write_another_store_into_the_files(&mut self, kind: StoreKind) -> Result<Box<dyn Store>> {
        let directories: Vec<PathBuf> = self.nodes.iter().map(|node| node.directory.clone()).collect();
        let store = kind.start(&self.sandbox, 1, &directories, false).await?;
        for (index, node) in self.nodes.iter().enumerate() {
            let guest = Guest { index, name: &node.name, scope: &self.scope, directory: &node.directory, through: None };
            let (section, options) = store.welcome(&guest).await?;
            node.change_file(|settings| settings::exchange_store(settings, section, options))?;
        }
        Ok(std::mem::replace(&mut self.store, store))
    }

    /// Runs the control tool with the configuration of the first node.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<Finished> {
        let node = self.nodes.first().context("a cluster has nodes")?;
        let program = node.program(&self.control_tool).arguments(["-c".into(), node.file().into_os_string()]);
        program.arguments(arguments).run().await
    }

    /// Runs the control tool with another file, and answers its questions with these lines.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub async fn ctl_with(&self, file: &Path, arguments: &[&str], answers: &[&str]) -> Result<Finished> {
        let node = self.nodes.first().context("a cluster has nodes")?;
        let script = r#"answers=$1; shift; printf '%s' "$answers" | "$@""#;
        let answers: String = answers.iter().map(|answer| format!("{answer}\n")).collect();
        let program = node.program(Path::new("/bin/sh")).arguments(["-c", script, "sh", &answers]);
        let program = program.arguments([self.control_tool.clone().into_os_string(), "-c".into(), file.as_os_str().to_owned()]);
        program.arguments(arguments).run().await
    }

    /// The name of one of the cluster's keys in the store, for example of `leader`.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("/service/{}/{name}", self.scope)
    }

    // ---- the end

    /// Waits until one node leads and all running ones follow, and checks everything that clients saw: never two primaries, no row missing on
    /// any node that should not be, and no agent that panicked.
    ///
    /// # Errors
    ///
    /// If one of these is not so.
    pub async fn finish(mut self, loss: Loss) -> Result<()> {
        let leader = self.eventually_settled().await?.name.clone();
        // Only a client that writes now shows that the cluster takes writes.
        self.eventually_writes().await?;
        self.checker.as_mut().context("nobody checked this cluster")?.stop().await;
        let history = self.history()?;
        history.assert_never_two_primaries()?;
        let expected = rows_of(self.node(&leader)?).await?;
        history.assert_no_acknowledged_row_missing(&expected, loss)?;
        for node in self.nodes.iter().filter(|node| node.is_agent_running()) {
            poll::until(&format!("{} has the rows that {leader} has", node.name), Duration::from_secs(30), async || {
                let rows = rows_of(node).await?;
                ensure!(rows == expected, "these differ: {:?}", rows.symmetric_difference(&expected).take(5).collect::<Vec<_>>());
                Ok(())
            })
            .await?;
        }
        for node in &self.nodes {
            let log = node.read_log();
            if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
                bail!("the agent of {} panicked: {line}", node.name);
            }
        }
        self.passed = true;
        Ok(())
    }

    /// The general checks for a scenario in which an agent was stopped or dead for longer than its lock lives, while its PostgreSQL was on
    /// `timeline`. Without a watchdog or a guard beside the agent nothing can stop that PostgreSQL (`docs/fencing.md`): it may take writes
    /// that are lost. Never two valid leases, though, and nothing lost that the cluster acknowledged after it moved on.
    ///
    /// # Errors
    ///
    /// If one of these is not so.
    pub async fn finish_after_an_unguarded_primary(mut self, timeline: u32) -> Result<()> {
        let leader = self.eventually_settled().await?.name.clone();
        self.eventually_writes().await?;
        self.checker.as_mut().context("nobody checked this cluster")?.stop().await;
        let history = self.history()?;
        history.assert_never_two_leases()?;
        let present = rows_of(self.node(&leader)?).await?;
        let missing: Vec<i64> = history.acknowledged_after(timeline).difference(&present).copied().take(5).collect();
        ensure!(missing.is_empty(), "rows that the new leader acknowledged are gone: {missing:?}");
        self.passed = true;
        Ok(())
    }

    /// Ends a scenario whose assertions were all of its own, without the general ones.
    pub fn finish_unchecked(mut self) {
        self.passed = true;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.passed {
            return;
        }
        let agents = self.nodes.iter().map(Node::log);
        let witness = self.witness.iter().map(|witness| witness.log().to_owned());
        for log in agents.chain(self.store.logs()).chain(witness) {
            let lines = if log.ends_with("agent.log") { 80 } else { 5 };
            eprintln!("---- the end of {}\n{}", log.display(), node::tail(&log, lines));
        }
    }
}

async fn rows_of(node: &Node) -> Result<BTreeSet<i64>> {
    let numbers = node.ask("SELECT string_agg(number::text, ' ') FROM ledger").await?;
    numbers.split_whitespace().map(|number| number.parse().context("a number")).collect()
}

/// What a person wants to know of the JSON of a health check.
fn role_and_state(body: &str) -> String {
    let status: Value = serde_json::from_str(body).unwrap_or_default();
    let field = |name: &str| status.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    format!("{} {}", field("role"), field("state"))
}

/// The programs of an agent, made reachable for the user that runs them.
fn programs(agent: Agent, directory: Option<&Path>, daemon: Option<&Path>, sandbox: &Sandbox) -> Result<(PathBuf, PathBuf)> {
    let (of_agent, control_tool) = match directory {
        Some(directory) => agent.programs_in(directory),
        None => (agent.daemon()?, agent.control_tool()?),
    };
    let daemon = daemon.map_or(of_agent, Path::to_owned);
    let directory = sandbox.make("bin")?;
    Ok((agents::runnable_by_all(&daemon, &directory)?, agents::runnable_by_all(&control_tool, &directory)?))
}
