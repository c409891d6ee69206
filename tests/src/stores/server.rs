//! A program of a store that can be killed and started again: a server of etcd, or a witness of the embedded store.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use store_servers::Plan;
use tokio::process::Child;

use crate::poll::{self, PATIENCE};
use crate::process::{self, Program};
use crate::sandbox::Sandbox;

/// One server of a store.
#[derive(Debug)]
pub struct Server {
    name: String,
    program: Program,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Server {
    /// One that does not run yet. Its log goes where it works.
    pub(super) fn new(name: &str, program: Program) -> Self {
        Self { name: name.to_owned(), log: program.directory.join("log"), program, child: Mutex::new(None) }
    }

    /// Starts what is planned, in a sandbox. Returns the addresses for clients, and the servers.
    ///
    /// # Errors
    ///
    /// If a directory cannot be made, or a server not be started.
    pub(super) fn start_all(plans: Vec<Plan>, sandbox: &Sandbox) -> Result<(Vec<SocketAddr>, Vec<Self>)> {
        let addresses = plans.iter().map(|plan| plan.address).collect();
        let servers = plans.into_iter().map(|plan| Self::planned(plan, sandbox)).collect::<Result<Vec<_>>>()?;
        servers.iter().try_for_each(Self::start)?;
        Ok((addresses, servers))
    }

    /// A planned one that does not run yet, in a sandbox.
    ///
    /// # Errors
    ///
    /// If its directory cannot be made.
    fn planned(plan: Plan, sandbox: &Sandbox) -> Result<Self> {
        std::fs::create_dir_all(&plan.directory).with_context(|| format!("cannot make {}", plan.directory.display()))?;
        sandbox.account().own(&plan.directory)?;
        for (name, content) in &plan.files {
            let path = plan.directory.join(name);
            std::fs::write(&path, content)?;
            sandbox.account().own(&path)?;
        }
        let mut program = Program::new(&plan.program, &plan.directory, sandbox.account()).arguments(plan.arguments);
        program.environment = plan.environment;
        Ok(Self::new(&plan.name, program))
    }

    /// What it says.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it again after it was killed. A process that was killed has its addresses until it has ended.
    ///
    /// # Errors
    ///
    /// If the former one does not end, or this one cannot be started.
    pub(super) async fn resurrect(&self) -> Result<()> {
        let former = self.child.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(Child::id);
        if let Some(former) = former.map(|id| Pid::from_raw(id.cast_signed())) {
            poll::until(&format!("{} has ended", self.name), PATIENCE, async || {
                ensure!(!process::is_alive(former), "{former} lives");
                Ok(())
            })
            .await?;
        }
        self.start()
    }

    /// Starts it, for the first time.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(&self) -> Result<()> {
        let child = self.program.spawn(&self.log)?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = child.as_ref().and_then(Child::id).with_context(|| format!("{} does not run", self.name))?;
        kill(Pid::from_raw(pid.cast_signed()), signal)?;
        Ok(())
    }
}
