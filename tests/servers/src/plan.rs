//! What starting a server takes.

use std::net::SocketAddr;
use std::path::PathBuf;

/// One server that does not run yet. Whoever runs it makes its directory, writes its files, and starts the program there.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name among the servers.
    pub name: String,
    /// Where its clients connect.
    pub address: SocketAddr,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, beside `PATH` and `HOME`.
    pub environment: Vec<(String, String)>,
    /// Where it works. Whatever it keeps is in here.
    pub directory: PathBuf,
    /// Files that it finds there when it is started for the first time.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// What it keeps, as a directory in `directory`: removed to start anew without data.
    pub data: &'static str,
}

impl Plan {
    /// Where it says what it does.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }
}
