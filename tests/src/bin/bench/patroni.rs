//! Patroni from PyPI, in an environment of its own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::agents;
use tokio::process::Command;

/// The directory with `patroni` and `patronictl`; they are installed once, in a cache directory.
pub(crate) async fn installed() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os(agents::PATRONI) {
        return Ok(directory.into());
    }
    let home = cache_dir()?.join("patroni-with-every-store");
    let programs = home.join("bin");
    if programs.join("patroni").is_file() {
        return Ok(programs);
    }
    println!("Installing Patroni from PyPI into {}", home.display());
    let python = agents::python().context("there is no `python3` that every user can run\n\nhint: `apt-get install python3-venv`")?;
    run(Command::new(&python).args(["-m", "venv", "--clear"]).arg(&home)).await?;
    run(Command::new(programs.join("pip")).args(["install", "--quiet", "patroni[consul,etcd3,kubernetes,psycopg3,zookeeper]"])).await?;
    Ok(programs)
}

/// What it calls itself.
pub(crate) async fn version(programs: &Path) -> Result<String> {
    let output = Command::new(programs.join("patroni")).arg("--version").output().await?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().replace("patroni", "Patroni"))
}

/// Root's own cache is closed to the user that runs the agents.
fn cache_dir() -> Result<PathBuf> {
    let base = if nix::unistd::Uid::effective().is_root() {
        PathBuf::from("/var/cache")
    } else if let Some(base) = std::env::var_os("XDG_CACHE_HOME") {
        base.into()
    } else {
        PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache")
    };
    let directory = base.join("quorate");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

async fn run(command: &mut Command) -> Result<()> {
    let output = command.output().await?;
    ensure!(
        output.status.success(),
        "{:?}: {}\n{}{}",
        command.as_std(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
