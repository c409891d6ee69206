//! The conformance suite on the replicated state and the store around it, in virtual time and without Raft: what fails
//! here is a fault of theirs and of nobody else's.

mod local;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::conformance::{self, InProcess, InVirtualTime, Need, NotOffered, Profile};
use dcs_core::{BoxError, Deadline, Entry, KeyValueStore, Timing};
use dcs_raft::cluster::Cluster;
use dcs_raft::command::{Operation, Transaction};
use dcs_raft::store::MAX_VALUE;

use self::local::Local;

/// Long enough for what is applied at once.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() {
    // Handles live a millisecond longer than their leases.
    let profile = Profile { expiry_granularity: Duration::from_millis(1), too_large: Some(MAX_VALUE), ..Profile::default() };
    let harness = InVirtualTime { name: "raft", profile, found: |clock| OneNode(Local::found(clock)) };
    let arguments = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(&arguments, conformance::trials(Arc::new(harness))).exit();
}

struct OneNode(Arc<Local>);

#[async_trait]
impl InProcess for OneNode {
    fn client(&self, timing: Timing) -> Arc<dyn KeyValueStore> {
        self.0.store(timing)
    }

    fn requests(&self) -> u64 {
        self.0.requests()
    }

    async fn revoke(&self, entry: &Entry) -> Result<(), BoxError> {
        let handle = entry.handle.as_ref().ok_or(NotOffered(Need::Revoke))?.as_str().parse()?;
        let then = vec![Operation::Revoke { handle }];
        self.0.client().propose(Transaction { then, ..Transaction::default() }, Deadline::after(PATIENCE)).await?;
        Ok(())
    }
}
