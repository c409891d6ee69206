//! Everything that a command may touch.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use serde_json::Value;

use dcs_core::model::{ClusterView, Member};
use dcs_core::{Dcs, Deadline, Error};

use super::agents::{self, Agents, Answer, Unreachable};
use super::arguments::{self, Target};
use super::editor::Programs;
use super::failure::Failure;
use super::member_table::{self, Shown};
use super::output::Format;
use super::prompt::Console;
use super::settings::Settings;
use super::time::LocalTime;

/// Where clusters are found.
#[async_trait]
pub trait Stores: Send + Sync {
    /// A client for one cluster, or one group of it, that never holds a lock, a lease or a session.
    ///
    /// # Errors
    ///
    /// The configuration names no store, or one that cannot be used.
    async fn open(&self, scope: &str, group: Option<u32>) -> Result<Arc<dyn Dcs>, Failure>;
}

/// What a command works with. Tests put their own parts in.
pub struct Context {
    /// The name that the tool was called by.
    pub program: String,
    /// The command's name, for messages about its usage.
    pub command: &'static str,
    /// What the configuration says.
    pub settings: Settings,
    /// The conversation with the user.
    pub console: Console,
    /// The user's clock.
    pub time: LocalTime,
    /// The stores.
    pub stores: Box<dyn Stores>,
    /// The nodes of the embedded store, or why they are not known.
    #[cfg(feature = "raft")]
    pub raft: Result<dcs_raft::Config, String>,
    /// The agents.
    pub agents: Box<dyn Agents>,
    /// Editors and pagers.
    pub programs: Programs,
}

/// One cluster, opened.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// The Citus group, or that there is no Citus.
    pub group: Option<u32>,
    /// Its store.
    pub dcs: Arc<dyn Dcs>,
    patience: Duration,
    servers: String,
}

impl Context {
    /// The cluster's name: what was given, or the configured scope.
    ///
    /// # Errors
    ///
    /// There is neither.
    pub fn cluster_name(&self, target: &Target) -> Result<String, Failure> {
        let name = target.cluster.as_ref().or(self.settings.scope.as_ref());
        name.cloned().ok_or_else(|| arguments::missing_cluster(&self.program, self.command))
    }

    /// Opens the cluster that is meant.
    ///
    /// # Errors
    ///
    /// No cluster is named, or its store cannot be used.
    pub async fn open(&self, target: &Target) -> Result<Cluster, Failure> {
        let name = self.cluster_name(target)?;
        let configured = if target.group_from_configuration { self.settings.citus_group } else { None };
        self.open_group(&name, target.group.or(configured)).await
    }

    /// Opens the cluster `name`, or the given group of it.
    ///
    /// # Errors
    ///
    /// As for [`Context::open`].
    pub async fn open_group(&self, name: &str, group: Option<u32>) -> Result<Cluster, Failure> {
        if self.settings.citus && group.is_none() {
            return Err(Failure::error(
                "The configuration has a `citus` section, and all groups at once cannot be shown yet. \
                 Name one with --group",
            ));
        }
        Ok(Cluster {
            name: name.to_owned(),
            group,
            dcs: self.stores.open(name, group).await?,
            patience: self.settings.patience(),
            servers: self.settings.servers.clone(),
        })
    }

    /// Prints the member table.
    ///
    /// # Errors
    ///
    /// The output cannot be written.
    pub fn show_members(&mut self, cluster: &Cluster, view: &ClusterView) -> Result<(), Failure> {
        let shown = Shown { name: &cluster.name, group: cluster.group, extended: false, format: Format::Pretty };
        self.console.write(&member_table::render(view, shown))
    }

    /// Asks the member's agent.
    ///
    /// # Errors
    ///
    /// It publishes no address, or does not answer.
    pub async fn call(&self, member: &Member, method: Method, endpoint: Option<&str>, body: Option<&Value>) -> Result<Answer, Unreachable> {
        self.agents.call(method, &agents::url(member, endpoint)?, body).await
    }
}

impl Cluster {
    /// What the store says now.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub async fn load(&self) -> Result<ClusterView, Failure> {
        self.dcs.load(self.deadline()).await.map_err(|error| self.unusable(&error))
    }

    /// The bound of one store operation.
    pub fn deadline(&self) -> Deadline {
        Deadline::after(self.patience)
    }

    /// The failure for a store that could not do what was asked.
    pub fn unusable(&self, error: &Error) -> Failure {
        Failure::error(format!("cluster {}: {} ({})", self.name, error.chain(), self.servers))
    }
}
