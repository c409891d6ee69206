//! Describing a cluster before it exists.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Cluster, programs};
use crate::agents::Agent;
use crate::checker::Pace;
use crate::node::{Addresses, Links, Node};
use crate::postgres;
use crate::process::Program;
use crate::proxy::Proxy;
use crate::sandbox::Sandbox;
use crate::settings::{self, Local, Times};
use crate::stores::{Guest, Server, Store, StoreKind};

/// The name of the node without a PostgreSQL.
const WITNESS: &str = "witness";

/// What a cluster shall be like.
#[derive(Clone, Debug)]
pub struct Builder {
    agent: Option<Agent>,
    programs: Option<PathBuf>,
    daemon: Option<PathBuf>,
    scope: String,
    prefix: &'static str,
    members: u8,
    store: StoreKind,
    store_servers: u8,
    witness: bool,
    times: Option<Times>,
    dynamic: Value,
    local: Value,
    local_of: Vec<(usize, Value)>,
    links: bool,
    volume: Option<(u8, &'static str)>,
    pace: Pace,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            agent: None,
            programs: None,
            daemon: None,
            scope: "demo".to_owned(),
            prefix: "pg",
            members: 3,
            store: StoreKind::default(),
            store_servers: 1,
            witness: false,
            times: None,
            dynamic: json!({}),
            local: json!({}),
            local_of: Vec::new(),
            links: false,
            volume: None,
            pace: Pace::default(),
        }
    }
}

impl Builder {
    /// Which agent runs it, if not the one that the environment asks for.
    #[must_use]
    pub const fn agent(mut self, agent: Agent) -> Self {
        self.agent = Some(agent);
        self
    }

    /// The directory of the agent's programs, if it is not where they are looked for.
    #[must_use]
    pub fn programs_in(mut self, directory: &Path) -> Self {
        self.programs = Some(directory.to_owned());
        self
    }

    /// Another program that is the agent of each node: it gets the configuration file as its argument.
    #[must_use]
    pub fn daemon(mut self, program: &Path) -> Self {
        self.daemon = Some(program.to_owned());
        self
    }

    /// The cluster's name, and what its nodes' names begin with: two clusters that know of each other have no name in common.
    #[must_use]
    pub fn named(mut self, scope: &str, prefix: &'static str) -> Self {
        self.scope = scope.to_owned();
        self.prefix = prefix;
        self
    }

    /// How many nodes: `pg1`, `pg2` and so on.
    #[must_use]
    pub const fn members(mut self, members: u8) -> Self {
        self.members = members;
        self
    }

    /// Which store it has.
    #[must_use]
    pub const fn store(mut self, store: StoreKind) -> Self {
        self.store = store;
        self
    }

    /// How many servers etcd has; the embedded store has one node in each agent.
    #[must_use]
    pub const fn store_servers(mut self, servers: u8) -> Self {
        self.store_servers = servers;
        self
    }

    /// Adds a node to the embedded store that has no PostgreSQL.
    #[must_use]
    pub const fn with_witness(mut self) -> Self {
        self.witness = true;
        self
    }

    /// The times, if not the short ones.
    #[must_use]
    pub const fn times(mut self, times: Times) -> Self {
        self.times = Some(times);
        self
    }

    /// Merges into the dynamic configuration that it is bootstrapped with.
    #[must_use]
    pub fn dynamic(mut self, patch: &Value) -> Self {
        settings::merge(&mut self.dynamic, patch);
        self
    }

    /// Merges into every node's file.
    #[must_use]
    pub fn local(mut self, patch: &Value) -> Self {
        settings::merge(&mut self.local, patch);
        self
    }

    /// Merges into the file of one node, counted from zero.
    #[must_use]
    pub fn local_of(mut self, node: usize, patch: Value) -> Self {
        self.local_of.push((node, patch));
        self
    }

    /// Puts proxies around every node, so that its links can be cut.
    #[must_use]
    pub const fn with_links(mut self) -> Self {
        self.links = true;
        self
    }

    /// Gives one node, counted from zero, a small file system of its own for its data. It needs root.
    #[must_use]
    pub const fn volume_of(mut self, node: u8, size: &'static str) -> Self {
        self.volume = Some((node, size));
        self
    }

    /// How often clients come.
    #[must_use]
    pub const fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Starts the store and prepares the nodes, but starts no agent.
    ///
    /// # Errors
    ///
    /// If something that is needed is not installed.
    pub async fn assemble(self) -> Result<Cluster> {
        let agent = match self.agent {
            Some(agent) => agent,
            None => Agent::from_environment()?,
        };
        let times = self.times.unwrap_or_else(|| Times::low(agent));
        let bin_dir = postgres::bin_dir()?;
        let sandbox = Sandbox::create()?;
        let (daemon, control_tool) = programs(agent, self.programs.as_deref(), self.daemon.as_deref(), &sandbox)?;
        let store = self.start_store(agent, &sandbox).await?;
        let mut dynamic = settings::dynamic(times);
        settings::merge(&mut dynamic, &self.dynamic);
        let mut nodes = Vec::new();
        for index in 0..self.members {
            nodes.push(self.node(index, &sandbox, &*store, &daemon, &bin_dir, &dynamic).await?);
        }
        let witness = if self.witness { Some(self.witness(&sandbox, &*store, &daemon)?) } else { None };
        Ok(Cluster {
            checker: None,
            nodes,
            store,
            witness,
            scope: self.scope,
            times,
            agent,
            pace: self.pace,
            control_tool,
            passed: false,
            sandbox,
        })
    }

    /// Starts everything, and returns when one node leads, all others follow, and clients write.
    ///
    /// # Errors
    ///
    /// If it does not come to that.
    pub async fn start(self) -> Result<Cluster> {
        let mut cluster = self.assemble().await?;
        cluster.start_all()?;
        cluster.eventually_settled().await?;
        cluster.begin_checking().await?;
        Ok(cluster)
    }

    async fn start_store(&self, agent: Agent, sandbox: &Sandbox) -> Result<Box<dyn Store>> {
        if self.store == StoreKind::Raft {
            ensure!(agent == Agent::Quorate, "only Quorate has this embedded store; that of {} is another one", agent.name());
        }
        let witness = self.witness.then(|| WITNESS.to_owned());
        let names = (0..self.members).map(|index| self.name_of(index)).chain(witness);
        let directories = names.map(|name| sandbox.make(&name)).collect::<Result<Vec<_>>>()?;
        self.store.start(sandbox, self.store_servers, &directories, self.links).await
    }

    /// Starts the node without a PostgreSQL.
    fn witness(&self, sandbox: &Sandbox, store: &dyn Store, daemon: &Path) -> Result<Server> {
        let witness = store.raft()?.witness(self.members.into(), &sandbox.make(WITNESS)?, daemon, sandbox)?;
        witness.start()?;
        Ok(witness)
    }

    fn name_of(&self, index: u8) -> String {
        format!("{}{}", self.prefix, index + 1)
    }

    async fn node(&self, index: u8, sandbox: &Sandbox, store: &dyn Store, daemon: &Path, bin_dir: &Path, dynamic: &Value) -> Result<Node> {
        let name = self.name_of(index);
        let directory = sandbox.make(&name)?;
        let volume = match self.volume {
            Some((node, size)) if node == index => sandbox.make_volume(&format!("{name}/volume"), size)?,
            _ => directory.clone(),
        };
        let addresses = Addresses {
            postgres: sandbox.network().free(1 + index, 5432)?,
            rest: sandbox.network().free(1 + index, 8008)?,
            data_dir: volume.join("data"),
        };
        let links = if self.links { Some(links(index, sandbox, store, &addresses).await?) } else { None };
        let (rest, postgres) = links.as_ref().map_or((addresses.rest, addresses.postgres), |links| {
            let [rest, postgres] = &links.inbound;
            (rest.address(), postgres.address())
        });
        let through = links.as_ref().map(|links| links.store.iter().map(Proxy::address).collect::<Vec<_>>());
        let guest = Guest { index: index.into(), name: &name, scope: &self.scope, directory: &directory, through: through.as_deref() };
        let section = store.welcome(&guest).await?;
        let mut settings = settings::local(&Local {
            scope: &self.scope,
            name: &name,
            rest: (addresses.rest, rest),
            postgres: (addresses.postgres, postgres),
            store: (section.0, &section.1),
            directory: &directory,
            data_dir: &addresses.data_dir,
            bin_dir,
            dynamic,
        });
        settings::merge(&mut settings, &self.local);
        for (_, patch) in self.local_of.iter().filter(|(node, _)| *node == usize::from(index)) {
            settings::merge(&mut settings, patch);
        }
        let data_dir = settings.pointer("/postgresql/data_dir").and_then(Value::as_str).map(PathBuf::from);
        let addresses = Addresses { data_dir: data_dir.unwrap_or(addresses.data_dir), ..addresses };
        Node::prepare(&name, daemon, addresses, settings, Program::new(daemon, &directory, sandbox.account()), links)
    }
}

async fn links(index: u8, sandbox: &Sandbox, store: &dyn Store, addresses: &Addresses) -> Result<Links> {
    let network = sandbox.network();
    let mut to_store = Vec::new();
    for endpoint in store.endpoints() {
        to_store.push(Proxy::start((network.address(151 + index), 0).into(), endpoint).await?);
    }
    let inbound = (network.address(51 + index), 0);
    Ok(Links {
        store: to_store,
        inbound: [Proxy::start(inbound.into(), addresses.rest).await?, Proxy::start(inbound.into(), addresses.postgres).await?],
    })
}
