//! Writing what the server reads: `postgresql.conf`, `pg_hba.conf`, `pg_ident.conf`, and the password file.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use dcs_core::Deadline;
use dcs_core::model::{Role, ServerState};

use super::book::{Addresses, Binary, Stage};
use super::conf::PostgresqlConf;
use super::conninfo::{self, ConnInfo};
use super::control::Identity;
use super::parameters::{self, Parameters, SyncNames};
use super::recovery::Recovery;
use super::report::Line;
use super::runner::Program;
use super::{LocalPostgres, PROGRAM, blocking, conf, files, hba, local_address};
use crate::cancel::Cancel;
use crate::settings::{EffectiveSettings, SyncMode};

impl LocalPostgres {
    /// Puts the server parameters together from the settings in force.
    pub(super) fn assemble_parameters(&self) {
        let settings = self.settings();
        let major = self.book().major;
        let assembled = parameters::assemble(&settings.postgresql, major, &self.sync_names(&settings));
        let mut book = self.book();
        (book.parameters, book.recovery_conf) = (assembled.parameters, assembled.recovery_conf);
    }

    /// Who decides about `synchronous_standby_names`.
    pub(super) fn sync_names(&self, settings: &EffectiveSettings) -> SyncNames {
        if let Some(text) = &self.book().synchronous_names {
            return SyncNames::Decided(text.clone());
        }
        if settings.global.synchronous_mode == SyncMode::Off {
            return SyncNames::Configured;
        }
        if self.role() == Role::Primary && self.server_state() == ServerState::Running {
            // The agent was started after the server: whoever is in `/sync` is there because commits wait for them.
            return SyncNames::Decided(self.book().parameters.get(SyncNames::PARAMETER).unwrap_or_default().to_owned());
        }
        let primary = matches!(self.role(), Role::Primary | Role::Promoted);
        SyncNames::Undecided { wait_for_all: primary && settings.global.synchronous_mode_strict }
    }

    /// Works out where the agent's connections go, and publishes how others reach the server.
    pub(super) fn resolve_addresses(&self) {
        let settings = self.settings();
        let found = {
            let mut book = self.book();
            let found = local_address::local_addresses(&settings.postgresql, &book.parameters);
            book.addresses = Addresses {
                sql: found.sql.host.unwrap_or_default(),
                replication: found.replication.host.unwrap_or_default(),
                port: found.sql.port.parse().unwrap_or(settings.postgresql.listen.port),
            };
            (found.conn_url, found.proxy_url)
        };
        self.state.send_if_modified(|local| {
            let changed = (&local.conn_url, &local.proxy_url) != (&found.0, &found.1);
            (local.conn_url, local.proxy_url) = found;
            changed
        });
    }

    /// The version that parameters are checked against.
    pub(super) async fn known_version(&self) -> Option<u32> {
        let running = self.book().running_version;
        let major = self.major().await;
        let binary = if running.is_some() { None } else { self.binary().await.version };
        parameters::effective_version(running, binary, major)
    }

    /// What the `postgres` program says about itself; asked again only if the file is another one.
    async fn binary(&self) -> Arc<Binary> {
        let program = self.program("postgres");
        let path = program.clone();
        let file = blocking(move || Identity::of(&on_path(path))).await;
        let known = self.book().binary.clone();
        if let Some(known) = known.filter(|known| known.file.is_some() && known.file == file) {
            return known;
        }
        let ask = async |argument: &str| {
            let program = Program::new(&program).arg(argument);
            match program.run(&Cancel::never(), Some(Deadline::after(PROGRAM))).await {
                Ok(done) if done.success() => Some(done.stdout),
                Ok(done) => {
                    tracing::error!("Failed to execute {program}: exit code {}", done.code());
                    None
                }
                Err(error) => {
                    tracing::error!("{}", dcs_core::chain(&error));
                    None
                }
            }
        };
        let version = ask("--version").await.and_then(|text| parameters::parse_version_output(&text));
        let described = ask("--describe-config").await.map(|text| parameters::parse_describe_config(&text));
        let binary = Arc::new(Binary { file, version, described: described.unwrap_or_default() });
        self.book().binary = Some(Arc::clone(&binary));
        binary
    }

    /// Writes `postgresql.conf` with these parameters, or those in force.
    pub(super) async fn write_postgresql_conf(&self, parameters: Option<&Parameters>) -> io::Result<()> {
        let version = self.known_version().await.ok_or_else(|| io::Error::other("the version of PostgreSQL is unknown"))?;
        let binary = self.binary().await;
        let described = &binary.described;
        let _writing = self.writing.lock().await;
        let (parameters, recovery, stage) = {
            let book = self.book();
            let mut parameters = parameters.unwrap_or(&book.parameters).clone();
            if book.feedback_enforced {
                parameters.insert("hot_standby_feedback", "on");
            }
            (parameters, book.recovery.clone(), book.stage)
        };
        let validated = parameters::validate(version, &parameters, described);
        validated.lines.iter().for_each(Line::emit);
        let passfile = match &recovery {
            Some(Recovery { primary_conninfo: Some(conninfo), .. }) => self.write_passfile(conninfo).await,
            _ => None,
        };
        let recovery = recovery.map(|recovery| recovery.render(version, described, passfile.as_deref())).unwrap_or_default();
        recovery.lines.iter().for_each(Line::emit);
        let (paths, modes) = (self.paths(), self.modes);
        let keeps_recovery = matches!(stage, Stage::Custom { keep_existing_recovery_conf: true });
        blocking(move || {
            let text = conf::render(&PostgresqlConf {
                include: &paths.include,
                parameters: &validated.kept,
                hba_file: (stage.is_custom() || !parameters.contains("hba_file")).then_some(&*paths.pg_hba),
                ident_file: (!parameters.contains("ident_file")).then_some(&*paths.pg_ident),
                recovery: &recovery.kept,
            });
            files::keep_original_conf(&paths, modes)?;
            files::write(&paths, modes, &paths.postgresql_conf, text.as_bytes())?;
            if !keeps_recovery {
                files::clean_auto_conf(&paths, modes);
            }
            Ok(())
        })
        .await
    }

    /// Writes `pg_hba.conf` if it is ours to write; true if it was written.
    pub(super) async fn write_hba(&self) -> io::Result<bool> {
        let settings = self.settings();
        let (paths, modes) = (self.paths(), self.modes);
        let (custom, redirected) = {
            let book = self.book();
            (book.stage.is_custom(), paths.hba_redirected(book.parameters.get("hba_file")))
        };
        let text = if custom {
            let authentication = &settings.postgresql.authentication;
            let replication = authentication.replication.username.clone().unwrap_or_default();
            let superuser = authentication.superuser.username.clone();
            let addresses = self.replication_addresses().await;
            hba::render_trust(&replication, superuser.as_deref(), &addresses)
        } else if let Some(lines) = settings.postgresql.pg_hba.as_deref().filter(|lines| !lines.is_empty() && !redirected) {
            hba::render_lines(lines)
        } else {
            return Ok(false);
        };
        blocking(move || files::write(&paths, modes, &paths.pg_hba, text.as_bytes())).await.map(|()| true)
    }

    /// Where local replication connections come from, if they do not use a socket.
    async fn replication_addresses(&self) -> Vec<IpAddr> {
        let Addresses { replication, port, .. } = self.book().addresses.clone();
        if replication.is_empty() || replication.starts_with('/') {
            return Vec::new();
        }
        let resolved = blocking(move || {
            let found = (replication.as_str(), port).to_socket_addrs();
            found.map(|found| found.map(|address| address.ip()).collect::<BTreeSet<_>>())
        });
        resolved.await.map(|found| found.into_iter().collect()).unwrap_or_default()
    }

    /// Writes `pg_ident.conf` if it is ours to write; true if it was written.
    pub(super) async fn write_ident(&self) -> io::Result<bool> {
        let settings = self.settings();
        let (paths, modes) = (self.paths(), self.modes);
        if paths.ident_redirected(self.book().parameters.get("ident_file")) {
            return Ok(false);
        }
        let Some(lines) = settings.postgresql.pg_ident.as_deref().filter(|lines| !lines.is_empty()) else { return Ok(false) };
        let text = hba::render_lines(lines);
        blocking(move || files::write(&paths, modes, &paths.pg_ident, text.as_bytes())).await.map(|()| true)
    }

    /// Writes both access files; true if at least one was written. Failures are logged.
    pub(super) async fn write_access_files(&self) -> bool {
        let mut written = false;
        for (file, result) in [("pg_hba.conf", self.write_hba().await), ("pg_ident.conf", self.write_ident().await)] {
            match result {
                Ok(done) => written |= done,
                Err(error) => tracing::error!("{file} could not be written: {error}"),
            }
        }
        written
    }

    /// Adds the first lines of a new cluster to `pg_hba.conf`, unless it is configured anyway.
    pub(super) async fn append_hba(&self, lines: &[String]) -> io::Result<()> {
        let (paths, modes, lines) = (self.paths(), self.modes, lines.to_vec());
        let configured = self.settings().postgresql.pg_hba.as_ref().is_some_and(|lines| !lines.is_empty());
        if lines.is_empty() || configured || paths.hba_redirected(self.book().parameters.get("hba_file")) {
            return Ok(());
        }
        blocking(move || {
            let existing = std::fs::read_to_string(&paths.pg_hba)?;
            files::write(&paths, modes, &paths.pg_hba, hba::appended(&existing, &lines).as_bytes())
        })
        .await
    }

    /// Everything that is written before a start.
    pub(super) async fn write_configuration_for_start(&self, parameters: &Parameters) -> Result<(), String> {
        let written = |file: &str, error: io::Error| format!("cannot start PostgreSQL: {file} could not be written: {error}");
        self.write_postgresql_conf(Some(parameters)).await.map_err(|error| written("postgresql.conf", error))?;
        self.resolve_addresses();
        self.write_hba().await.map_err(|error| written("pg_hba.conf", error))?;
        self.write_ident().await.map_err(|error| written("pg_ident.conf", error))?;
        Ok(())
    }

    /// Directories that must exist before a start.
    pub(super) async fn check_directories(&self, parameters: &Parameters) -> Result<(), String> {
        let settings = self.settings();
        let (data_dir, parameters) = (self.data_dir(), parameters.clone());
        blocking(move || {
            let passfile = settings.postgresql.krbsrvname.is_none().then_some(&*settings.postgresql.pgpass);
            files::ensure_directories(&data_dir, &parameters, passfile).map_err(|error| error.to_string())
        })
        .await
    }

    /// The server cannot become a hot standby in a recovery that ends by itself if a parameter was raised meanwhile.
    pub(super) fn disable_hot_standby_for_bootstrap(&self, parameters: &mut Parameters) {
        let book = self.book();
        let disable = match book.stage {
            Stage::Custom { keep_existing_recovery_conf: true } => true,
            Stage::Custom { .. } => book.recovery.as_ref().is_some_and(Recovery::ends_in_promotion),
            Stage::Normal | Stage::Initdb => false,
        };
        if disable {
            parameters.insert("hot_standby", "off");
        }
    }

    /// Copies configuration files into the data directory. Failures are logged.
    pub(super) async fn save_backups(&self) {
        let (paths, modes) = (self.paths(), self.modes);
        let (hba, ident) = self.redirected(&paths);
        blocking(move || files::save_backups(&paths, modes, hba, ident)).await;
    }

    /// Puts missing configuration files back. Failures are logged.
    pub(super) async fn restore_backups(&self) {
        let (paths, modes) = (self.paths(), self.modes);
        let (hba, ident) = self.redirected(&paths);
        blocking(move || files::restore_backups(&paths, modes, hba, ident)).await;
    }

    fn redirected(&self, paths: &files::Paths) -> (bool, bool) {
        let book = self.book();
        (paths.hba_redirected(book.parameters.get("hba_file")), paths.ident_redirected(book.parameters.get("ident_file")))
    }

    /// Puts the credentials of `conninfo` into the password file; its path, if there is a password.
    pub(super) async fn write_passfile(&self, conninfo: &ConnInfo) -> Option<PathBuf> {
        let lines = conninfo.passfile_lines()?;
        let path = self.settings().postgresql.pgpass.clone();
        let target = path.clone();
        match blocking(move || conninfo::write_passfile(&target, &lines)).await {
            Ok(()) => Some(path),
            Err(error) => {
                tracing::error!("the password file {} could not be written: {error}", path.display());
                None
            }
        }
    }

    /// Takes over recovery settings and the signal file that goes with them; they are written with the next
    /// `postgresql.conf`.
    pub(super) async fn set_recovery(&self, recovery: Recovery) -> io::Result<()> {
        let (paths, modes, standby) = (self.paths(), self.modes, recovery.standby);
        self.book().recovery = Some(recovery);
        blocking(move || files::write_signal(&paths, modes, standby)).await
    }
}

/// The file that runs when `program` is called: names without a directory are looked up.
fn on_path(program: PathBuf) -> PathBuf {
    if program.components().count() > 1 {
        return program;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(&program)).find(|file| file.is_file()).unwrap_or(program)
}
