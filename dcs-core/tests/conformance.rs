//! The conformance suite on the store in memory, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::conformance::{self, InProcess, InVirtualTime, Need, NotOffered, Profile};
use dcs_core::memory::{MAX_VALUE, Server};
use dcs_core::{BoxError, Entry, KeyValueStore, Timing};

fn main() {
    let profile = Profile { expiry_granularity: Duration::ZERO, too_large: Some(MAX_VALUE), ..Profile::default() };
    let harness = InVirtualTime { name: "memory", profile, found: |clock| Memory(Server::new(clock)) };
    let arguments = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(&arguments, conformance::trials(Arc::new(harness))).exit();
}

struct Memory(Arc<Server>);

#[async_trait]
impl InProcess for Memory {
    fn client(&self, timing: Timing) -> Arc<dyn KeyValueStore> {
        self.0.client(timing)
    }

    fn requests(&self) -> u64 {
        self.0.requests()
    }

    async fn revoke(&self, entry: &Entry) -> Result<(), BoxError> {
        let handle = entry.handle.as_ref().ok_or(NotOffered(Need::Revoke))?;
        self.0.revoke(handle);
        Ok(())
    }
}
