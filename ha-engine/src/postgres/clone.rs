//! Making the data directory a copy of another node.

use std::path::PathBuf;
use std::time::Duration;

use dcs_core::model::{Role, ServerState};
use serde_json::Value;

use super::conninfo::ConnInfo;
use super::options::{self, MethodContext};
use super::runner::Program;
use super::{LocalPostgres, blocking, data_dir, files, shown};
use crate::cancel::Cancel;
use crate::ports::{CloneSource, OperationFailed};
use crate::settings::{CommandLine, ReplicaMethod};

/// How often a base backup is tried.
const ATTEMPTS: u32 = 2;

/// The pause between attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a copy may neither read nor write anything. A base backup waits for a checkpoint first, which takes as long as
/// the source's `checkpoint_timeout` says.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// What every method works with.
struct Source {
    connstring: String,
    passfile: Option<PathBuf>,
    fast_checkpoint: bool,
}

/// A custom method in detail.
struct Custom<'a> {
    name: &'a str,
    command: &'a CommandLine,
    no_params: bool,
    keep_data: bool,
    parameters: &'a [(String, Value)],
}

impl LocalPostgres {
    pub(super) async fn copy_from(&self, source: &CloneSource, cancel: &Cancel) -> Result<(), OperationFailed> {
        self.enter(ServerState::CreatingReplica);
        self.forget_version();
        let settings = self.settings();
        let conninfo = source
            .node
            .as_ref()
            .map(|node| ConnInfo::for_upstream(node, &settings.postgresql.authentication.replication, &settings.postgresql.database));
        let prepared = match conninfo {
            Some(conninfo) => Source {
                passfile: self.write_passfile(&conninfo).await,
                connstring: conninfo.without("password").format(self.known_version().await.unwrap_or_default()),
                fast_checkpoint: source.fast_checkpoint,
            },
            None => Source { connstring: String::new(), passfile: None, fast_checkpoint: false },
        };
        let mut copied = false;
        for method in &source.methods {
            if cancel.is_cancelled() {
                break;
            }
            copied = match method {
                ReplicaMethod::BaseBackup(_) if source.node.is_none() => continue,
                ReplicaMethod::Custom { no_leader: false, .. } if source.node.is_none() => continue,
                ReplicaMethod::BaseBackup(options) => {
                    let copied = self.base_backup(&prepared, options, cancel).await;
                    if copied {
                        tracing::info!("replica has been created using basebackup");
                    }
                    copied
                }
                ReplicaMethod::Custom { name, command, no_params, keep_data, parameters, .. } => {
                    let method = Custom { name, command, no_params: *no_params, keep_data: *keep_data, parameters };
                    self.custom_copy(&prepared, &method, cancel).await
                }
            };
            if copied {
                break;
            }
        }
        self.enter(ServerState::Stopped);
        if !copied {
            return Err(OperationFailed(if cancel.is_cancelled() {
                "the copy was cancelled".to_owned()
            } else {
                "no method was able to make a copy".to_owned()
            }));
        }
        self.after_restore().await;
        Ok(())
    }

    /// A data directory was made by somebody else: missing configuration is put back, and nothing must promote it.
    pub(super) async fn after_restore(&self) {
        self.forget_version();
        self.restore_backups().await;
        self.major().await;
        let (path, trigger) = (self.data_dir(), self.book().recovery_conf.get("promote_trigger_file").cloned());
        if let Err(error) = blocking(move || files::remove_trigger_file(&path, trigger.as_deref())).await {
            tracing::warn!("the promote trigger file could not be removed: {error}");
        }
    }

    async fn base_backup(&self, source: &Source, options: &Value, cancel: &Cancel) -> bool {
        let version = self.known_version().await.unwrap_or_default();
        let options = options::basebackup(options, version);
        for error in &options.errors {
            tracing::error!("{error}");
        }
        let mut program = Program::new(self.program("pg_basebackup"))
            .arg(format!("--pgdata={}", shown(&self.data_dir())))
            .args(["-X", "stream"])
            .arg(format!("--dbname={}", source.connstring))
            .args(&options.arguments)
            .patience(PATIENCE)
            .loud();
        // A spread checkpoint takes seconds on an idle cluster and minutes on a busy one. A brand new primary has nobody
        // whom a fast one could disturb.
        if source.fast_checkpoint && !options.arguments.iter().any(|option| option.starts_with("--checkpoint")) {
            program = program.arg("--checkpoint=fast");
        }
        program = self.for_libpq(program, source.passfile.as_deref());
        if cancel.is_cancelled() {
            return false;
        }
        for attempt in 1..=ATTEMPTS {
            if !self.empty_data_directory().await {
                return false;
            }
            match program.run(cancel, None).await {
                Ok(done) if done.success() => return true,
                Ok(done) => tracing::error!("Error when fetching backup: pg_basebackup exited with code={}", done.code()),
                Err(error) => tracing::error!("Error when fetching backup with pg_basebackup: {}", dcs_core::chain(&error)),
            }
            if attempt < ATTEMPTS && !cancel.is_cancelled() {
                tracing::warn!("Trying again in {} seconds", PAUSE.as_secs());
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = cancel.cancelled() => {}
                }
            }
            if cancel.is_cancelled() {
                break;
            }
        }
        // Half a copy must not be taken for a data directory.
        self.empty_data_directory().await;
        false
    }

    async fn custom_copy(&self, source: &Source, method: &Custom<'_>, cancel: &Cancel) -> bool {
        if method.keep_data {
            if !self.is_data_directory_empty().await {
                tracing::info!("Leaving data directory uncleaned");
            }
        } else if !self.empty_data_directory().await {
            return false;
        }
        let settings = self.settings();
        let data_dir = shown(&settings.postgresql.data_dir);
        let context = MethodContext { scope: &settings.scope, data_dir: &data_dir, connstring: &source.connstring };
        let arguments = options::replica_method(method.command, method.parameters, method.no_params, context);
        let program =
            self.for_libpq(Program::new(&method.command.program).args(arguments).patience(PATIENCE).loud(), source.passfile.as_deref());
        match program.run(cancel, None).await {
            Ok(done) if done.success() => {
                tracing::info!("replica has been created using {}", method.name);
                return true;
            }
            Ok(done) => tracing::error!(
                "Error creating replica using method {}: {} exited with code={}",
                method.name,
                method.command.program,
                done.code()
            ),
            Err(error) => {
                tracing::error!("Error creating replica using method {}: {}", method.name, dcs_core::chain(&error));
            }
        }
        if !method.keep_data {
            self.empty_data_directory().await;
        }
        false
    }

    async fn is_data_directory_empty(&self) -> bool {
        let path = self.data_dir();
        blocking(move || data_dir::is_empty(&path)).await.unwrap_or(false)
    }

    /// Removes what is in the way; false if it could not be removed.
    async fn empty_data_directory(&self) -> bool {
        self.is_data_directory_empty().await || self.discard_data_directory().await.is_ok()
    }

    pub(super) async fn discard_data_directory(&self) -> Result<(), OperationFailed> {
        if self.postmaster().await.is_some() {
            return Err(OperationFailed("the data directory of a running server is not removed".to_owned()));
        }
        self.state.send_modify(|local| local.role = Role::Uninitialized);
        let path = self.data_dir();
        let removed = blocking(move || data_dir::remove(&path)).await;
        self.after_removal();
        removed.map_err(|error| OperationFailed(format!("the data directory could not be removed: {error}")))
    }

    pub(super) async fn set_data_directory_aside(&self) -> Result<(), OperationFailed> {
        if self.postmaster().await.is_some() {
            return Err(OperationFailed("the data directory of a running server is not renamed".to_owned()));
        }
        let path = self.data_dir();
        let moved = blocking(move || data_dir::move_aside(&path)).await;
        self.after_removal();
        moved.map_err(|error| OperationFailed(format!("the data directory could not be renamed: {error}")))
    }

    fn after_removal(&self) {
        self.forget_version();
        let mut book = self.book();
        book.stage = super::book::Stage::Normal;
        book.recovery = None;
    }
}
