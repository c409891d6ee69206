//! The agent under test, and where its programs are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use store_servers::on_the_path;

/// Names the agent that scenarios run with: `quorate` (default) or `patroni`.
pub const CHOICE: &str = "QUORATE_TEST_AGENT";

/// The directory with `patroni` and `patronictl`, if it is not the search path.
pub const PATRONI: &str = "QUORATE_TEST_PATRONI";

/// Which agent runs the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// Ours.
    Quorate,
    /// The one whose place it takes.
    Patroni,
}

impl Agent {
    /// The agent that the environment asks for.
    ///
    /// # Errors
    ///
    /// If it asks for one that does not exist.
    pub fn from_environment() -> Result<Self> {
        match std::env::var(CHOICE).as_deref() {
            Err(_) | Ok("" | "quorate") => Ok(Self::Quorate),
            Ok("patroni") => Ok(Self::Patroni),
            Ok(other) => bail!("{CHOICE} is `{other}`, but the agents are `quorate` and `patroni`"),
        }
    }

    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quorate => "Quorate",
            Self::Patroni => "Patroni",
        }
    }

    /// Its programs in a directory: the one that runs on each node, and the control tool.
    #[must_use]
    pub fn programs_in(self, directory: &Path) -> (PathBuf, PathBuf) {
        match self {
            Self::Quorate => (directory.join("quorate"), directory.join("quoratectl")),
            Self::Patroni => (directory.join("patroni"), directory.join("patronictl")),
        }
    }

    /// The program that runs on each node.
    ///
    /// # Errors
    ///
    /// If it is not installed.
    pub fn daemon(self) -> Result<PathBuf> {
        match self {
            Self::Quorate => beside_us("quorate"),
            Self::Patroni => patroni("patroni"),
        }
    }

    /// The control tool.
    ///
    /// # Errors
    ///
    /// If it is not installed.
    pub fn control_tool(self) -> Result<PathBuf> {
        match self {
            Self::Quorate => beside_us("quoratectl"),
            Self::Patroni => patroni("patronictl"),
        }
    }
}

/// A program of the workspace: beside the running one, or beside the directory of test programs.
///
/// # Errors
///
/// If it has not been built.
pub fn beside_us(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    this.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file()).with_context(|| {
        format!(
            "`{name}` is not built beside {}\n\nhint: `cargo build --workspace --bins --examples`, with the same profile",
            this.display()
        )
    })
}

fn patroni(name: &str) -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os(PATRONI) {
        return Ok(PathBuf::from(directory).join(name));
    }
    on_the_path(name)
        .with_context(|| format!("`{name}` is not installed\n\nhint: `pip install patroni[etcd3]`, and its directory in {PATRONI}"))
}

/// Whether any user can enter this directory, or run this program: a checkout below root's home is closed to the user that runs agents.
#[must_use]
pub fn is_open_to_all(path: &Path) -> bool {
    path.ancestors().all(|part| fs::metadata(part).is_ok_and(|found| found.permissions().mode() & 0o001 != 0))
}

/// The program itself if everybody can run it where it is, or else a copy in `directory`.
///
/// # Errors
///
/// If it cannot be copied.
pub fn runnable_by_all(program: &Path, directory: &Path) -> Result<PathBuf> {
    if is_open_to_all(program) {
        return Ok(program.to_owned());
    }
    let name = program.file_name().context("a program has a name")?;
    let copy = directory.join(name);
    if !copy.exists() {
        // A link costs nothing, but works only within one file system.
        if fs::hard_link(program, &copy).is_err() {
            fs::copy(program, &copy).with_context(|| format!("cannot copy {} to {}", program.display(), copy.display()))?;
        }
    }
    Ok(copy)
}

/// A Python that every user can run, also those that root's own is closed to.
#[must_use]
pub fn python() -> Option<PathBuf> {
    let candidates = [Some(PathBuf::from("/usr/bin/python3")), on_the_path("python3")];
    candidates.into_iter().flatten().find(|python| fs::canonicalize(python).is_ok_and(|program| is_open_to_all(&program)))
}
