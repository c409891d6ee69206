//! Making a new cluster.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use dcs_core::model::ServerState;
use dcs_core::{Deadline, chain};

use super::book::Stage;
use super::connection::{Connection, PATIENT_OPTIONS};
use super::conninfo::ConnInfo;
use super::options::{self, MethodContext};
use super::runner::Program;
use super::start::{Callback, Start};
use super::{LocalPostgres, blocking, files, recovery, shown};
use crate::cancel::Cancel;
use crate::ports::{OperationFailed, StartOutcome};
use crate::settings::{BootstrapMethod, BootstrapSettings, CommandLine};

/// Bound of the statements that make users; they take their time on a slow disk.
const USERS: Duration = Duration::from_secs(60);

fn failed(reason: impl Into<String>) -> OperationFailed {
    OperationFailed(reason.into())
}

impl LocalPostgres {
    pub(super) async fn make_cluster(&self, how: &BootstrapSettings, cancel: &Cancel) -> Result<(), OperationFailed> {
        self.forget_version();
        match &how.method {
            BootstrapMethod::Initdb => {
                self.book().stage = Stage::Initdb;
                self.run_initdb(how, cancel).await?;
            }
            BootstrapMethod::Custom { keep_existing_recovery_conf, .. } => {
                self.book().stage = Stage::Custom { keep_existing_recovery_conf: *keep_existing_recovery_conf };
                self.run_custom_method(how, cancel).await?;
            }
        }
        self.append_hba(&how.pg_hba).await.map_err(|error| failed(format!("pg_hba.conf could not be written: {error}")))?;
        self.save_backups().await;
        let start = Start { role: None, timeout: None, callback: Callback::OnStart };
        match self.start_server(start, cancel).await {
            StartOutcome::Running => Ok(()),
            // A recovery of the operator's backup may take its time; a directory that initdb made has nothing to recover.
            StartOutcome::StillStarting if how.method != BootstrapMethod::Initdb && !cancel.is_cancelled() => Ok(()),
            StartOutcome::StillStarting | StartOutcome::Failed => Err(failed("the new cluster did not start")),
        }
    }

    async fn run_initdb(&self, how: &BootstrapSettings, cancel: &Cancel) -> Result<(), OperationFailed> {
        self.enter(ServerState::InitializingNewCluster);
        let result = self.initdb(how, cancel).await;
        if let Err(error) = &result {
            tracing::error!("{error}");
            self.enter(ServerState::InitdbFailed);
        }
        result
    }

    async fn initdb(&self, how: &BootstrapSettings, cancel: &Cancel) -> Result<(), OperationFailed> {
        let settings = self.settings();
        let superuser = &settings.postgresql.authentication.superuser;
        let mut program = Program::new(self.program("initdb")).args(options::initdb(&how.initdb).map_err(failed)?).loud();
        if let Some(username) = &superuser.username {
            program = program.arg(format!("--username={username}"));
        }
        let password = superuser.password.as_ref().map(|password| password.expose().to_owned());
        let file = match password.filter(|password| !password.is_empty()) {
            Some(password) => {
                let file = blocking(move || PasswordFile::write(&password)).await;
                Some(file.map_err(|error| failed(format!("the password file of initdb could not be written: {error}")))?)
            }
            None => None,
        };
        if let Some(file) = &file {
            program = program.arg(format!("--pwfile={}", shown(&file.0)));
        }
        let done = program.arg(&settings.postgresql.data_dir).run(cancel, None).await;
        if let Some(file) = file {
            blocking(move || drop(file)).await;
        }
        let done = done.map_err(|error| failed(chain(&error)))?;
        if !done.success() {
            return Err(failed(format!("initdb exited with code {}", done.code())));
        }
        self.forget_version();
        self.major().await.map(drop).ok_or_else(|| failed("initdb left no PG_VERSION"))
    }

    async fn run_custom_method(&self, how: &BootstrapSettings, cancel: &Cancel) -> Result<(), OperationFailed> {
        let BootstrapMethod::Custom { command, no_params, keep_existing_recovery_conf, recovery_conf, parameters, .. } = &how.method else {
            return Ok(());
        };
        self.enter(ServerState::RunningCustomBootstrap);
        let settings = self.settings();
        let data_dir = shown(&settings.postgresql.data_dir);
        let context = MethodContext { scope: &settings.scope, data_dir: &data_dir, connstring: "" };
        let program = Program::new(&command.program).args(options::bootstrap_method(command, parameters, *no_params, context)).loud();
        tracing::info!("Running custom bootstrap script: {}", as_configured(command));
        let done = program.run(cancel, None).await.map_err(|error| chain(&error));
        let reason = match done {
            Ok(done) if done.success() => None,
            Ok(done) => Some(format!("the custom bootstrap script exited with code {}", done.code())),
            Err(error) => Some(error),
        };
        if let Some(reason) = reason {
            tracing::error!("{reason}");
            self.enter(ServerState::CustomBootstrapFailed);
            return Err(failed(reason));
        }
        self.after_restore().await;
        if let Some(wanted) = recovery_conf {
            self.set_recovery(recovery::Recovery::from_recovery_conf(wanted)).await
        } else if *keep_existing_recovery_conf {
            Ok(())
        } else {
            self.remove_recovery().await
        }
        .map_err(|error| failed(format!("recovery settings could not be written: {error}")))
    }

    pub(super) async fn finish_cluster(&self, how: &BootstrapSettings, cancel: &Cancel) -> Result<(), OperationFailed> {
        let result = self.finish(how, cancel).await;
        match &result {
            Ok(()) => self.book().stage = Stage::Normal,
            Err(error) => tracing::error!("post_bootstrap: {error}"),
        }
        result
    }

    async fn finish(&self, how: &BootstrapSettings, cancel: &Cancel) -> Result<(), OperationFailed> {
        let settings = self.settings();
        let authentication = &settings.postgresql.authentication;
        let deadline = Deadline::after(USERS);
        let mut connection =
            Connection::open(&self.target(), "Patroni", PATIENT_OPTIONS, deadline).await.map_err(|error| failed(error.to_string()))?;
        let sql = |error: super::connection::SqlError| failed(error.to_string());
        if authentication.superuser.username.is_some() && authentication.superuser.password.is_some() {
            self.ensure_role(&mut connection, &authentication.superuser, "SUPERUSER", deadline).await.map_err(sql)?;
        }
        drop(connection);
        self.call_post_bootstrap(how.post_bootstrap.as_ref(), cancel).await?;

        let deadline = Deadline::after(USERS);
        let mut connection = Connection::open(&self.target(), "Patroni", PATIENT_OPTIONS, deadline).await.map_err(sql)?;
        self.ensure_role(&mut connection, &authentication.replication, "REPLICATION", deadline).await.map_err(sql)?;
        if let Some(rewind) = authentication.rewind.as_ref().filter(|rewind| **rewind != authentication.superuser) {
            self.ensure_role(&mut connection, rewind, "", deadline).await.map_err(sql)?;
            if let Some(name) = &rewind.username {
                self.grant_rewind(&mut connection, name, deadline).await.map_err(sql)?;
            }
        }
        drop(connection);
        if self.book().stage.is_custom() {
            self.close_custom_bootstrap(cancel).await?;
        }
        Ok(())
    }

    /// Runs the operator's command in the new cluster.
    async fn call_post_bootstrap(&self, command: Option<&CommandLine>, cancel: &Cancel) -> Result<(), OperationFailed> {
        let Some(command) = command else { return Ok(()) };
        let settings = self.settings();
        let addresses = self.book().addresses.clone();
        let mut conninfo = ConnInfo::default();
        if !addresses.sql.is_empty() {
            conninfo.set("host", &addresses.sql);
        }
        conninfo.set("port", addresses.port.to_string());
        conninfo.set("dbname", &settings.postgresql.database);
        conninfo.add_credentials(&settings.postgresql.authentication.superuser);
        // In a password file `localhost` stands for the default socket too.
        let entry = if addresses.sql.is_empty() { conninfo.clone().with("host", "localhost") } else { conninfo.clone() };
        let passfile = self.write_passfile(&entry).await;
        let program = Program::new(&command.program)
            .args(&command.arguments)
            .arg(conninfo.without("password").format(self.major().await.unwrap_or_default()))
            .env("PGOPTIONS", "-c synchronous_commit=local -c statement_timeout=0")
            .loud();
        let program = self.for_libpq(program, passfile.as_deref());
        let shown = as_configured(command);
        match program.run(cancel, None).await {
            Ok(done) if done.success() => Ok(()),
            Ok(done) => Err(failed(format!("post_init script {shown} returned non-zero code {}", done.code()))),
            Err(error) => Err(failed(format!("post_init script {shown} failed: {}", chain(&error)))),
        }
    }

    /// The superuser's password is known now: the open access ends, and the final configuration is put in place.
    async fn close_custom_bootstrap(&self, cancel: &Cancel) -> Result<(), OperationFailed> {
        // The callbacks stay silent until the cluster is complete; everything else is as always.
        self.book().stage = Stage::Initdb;
        let io = |error: std::io::Error| failed(format!("the final configuration could not be written: {error}"));
        if self.settings().postgresql.pg_hba.is_none() {
            let path = self.paths().pg_hba;
            blocking(move || match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            })
            .await
            .map_err(io)?;
            self.restore_backups().await;
        }
        self.remove_recovery().await.map_err(io)?;
        self.write_postgresql_conf(None).await.map_err(io)?;
        self.write_ident().await.map_err(io)?;
        let redirected = self.paths().hba_redirected(self.book().parameters.get("hba_file"));
        if !redirected {
            self.write_hba().await.map_err(io)?;
        }
        if redirected || !self.state.borrow().pending_restart.is_empty() {
            let timeout = self.settings().postgresql.pg_ctl_timeout;
            let start = Start { role: Some(self.role()), timeout: Some(timeout), callback: Callback::OnRestart };
            return match self.restart_server(start, cancel).await {
                StartOutcome::Running => Ok(()),
                StartOutcome::StillStarting | StartOutcome::Failed => Err(failed("the new cluster could not be restarted")),
            };
        }
        self.reload_server(false).await;
        self.close_connections().await;
        self.wait_for_connection().await;
        Ok(())
    }

    /// After access was closed: every backend of the server learns of it by itself. Waits until our user gets in.
    async fn wait_for_connection(&self) {
        let limit = Deadline::after(Duration::from_secs(5));
        while !limit.has_passed() && self.ask_monitor(false, limit).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Removes recovery settings: the next start is that of a primary.
    pub(super) async fn remove_recovery(&self) -> std::io::Result<()> {
        let paths = self.paths();
        self.book().recovery = None;
        blocking(move || files::remove_recovery_files(&paths)).await
    }
}

fn as_configured(command: &CommandLine) -> String {
    [std::slice::from_ref(&command.program), &command.arguments].concat().join(" ")
}

/// A password in a file that only we can read, for as long as the value lives.
struct PasswordFile(PathBuf);

impl PasswordFile {
    fn write(password: &str) -> std::io::Result<Self> {
        let directory = std::env::temp_dir();
        for _ in 0..16 {
            let path = directory.join(format!("quorate-{}-{:016x}", std::process::id(), fastrand::u64(..)));
            match std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path) {
                Ok(mut file) => {
                    let written = Self(path);
                    file.write_all(password.as_bytes())?;
                    return Ok(written);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(std::io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for PasswordFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!("the password file {} could not be removed: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::PasswordFile;

    #[test]
    fn the_password_file_is_private_and_short_lived() {
        let file = PasswordFile::write("secret").expect("a temporary file");
        let path = file.0.clone();
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!((mode & 0o777, std::fs::read_to_string(&path).expect("it is there").as_str()), (0o600, "secret"));
        drop(file);
        assert!(!path.exists());
    }
}
