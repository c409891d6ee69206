//! Real clusters under real faults, each with clients that write and watch; see the crate `tests`.

/// Makes tests of scenarios: each one on etcd, as `etcd::NAME`, and on the embedded store, as `raft::NAME`.
macro_rules! on_every_store {
    ($($scenario:ident,)+) => {
        mod etcd {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() -> anyhow::Result<()> {
                    super::$scenario(tests::StoreKind::Etcd).await
                }
            )+
        }

        mod raft {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() -> anyhow::Result<()> {
                    if tests::skip::unless_quorate("another agent does not have the embedded store")? {
                        return Ok(());
                    }
                    super::$scenario(tests::StoreKind::Raft).await
                }
            )+
        }
    };
}

mod bootstrap;
mod damage;
mod disk;
mod embedding;
mod failover;
mod partition;
mod pause;
mod raft;
mod reinit;
mod rejoin;
mod replication;
mod restart;
mod store;
mod switchover;
mod sync;
