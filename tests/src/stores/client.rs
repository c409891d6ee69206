//! One client of a store, with connections of its own.

use std::time::Duration;

use anyhow::Result;
use dcs_core::Deadline;
use dcs_raft::RemoteCluster;
use dcs_raft::command::{Operation, Transaction};

/// How long a put may take: the clients are there to measure it.
const PUT: Duration = Duration::from_secs(10);

/// One client.
pub struct Client(Kind);

enum Kind {
    Etcd(Box<etcd_client::Client>),
    Raft(RemoteCluster),
}

impl Client {
    pub(super) fn etcd(client: etcd_client::Client) -> Self {
        Self(Kind::Etcd(Box::new(client)))
    }

    pub(super) const fn raft(client: RemoteCluster) -> Self {
        Self(Kind::Raft(client))
    }

    /// Writes a key, in one commit.
    ///
    /// # Errors
    ///
    /// If the store does not acknowledge it.
    pub async fn put(&mut self, key: &str, value: &str) -> Result<()> {
        match &mut self.0 {
            Kind::Etcd(client) => {
                client.put(key, value, None).await?;
            }
            Kind::Raft(client) => {
                let put = Operation::Put { key: key.to_owned(), value: value.as_bytes().to_vec(), handle: None };
                let transaction = Transaction { then: vec![put], ..Transaction::default() };
                client.cluster().propose(transaction, Deadline::after(PUT)).await?;
            }
        }
        Ok(())
    }
}
