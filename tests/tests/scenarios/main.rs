//! Real clusters under real faults, each with clients that write and watch; see the crate `tests`.

/// A module with tests of scenarios on one store.
macro_rules! on {
    ($module:ident, $kind:ident, $($scenario:ident,)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() -> anyhow::Result<()> {
                    if tests::skip::unless_there(tests::StoreKind::$kind, 1)? {
                        return Ok(());
                    }
                    super::$scenario(tests::StoreKind::$kind).await
                }
            )*
        }
    };
}

/// Makes tests of scenarios: `etcd::NAME`, `raft::NAME` and so on. What an agent does with a store is tried on every one of them, and in both
/// forms that two of them have; what it does with PostgreSQL, on etcd and on the embedded store.
macro_rules! on_every_store {
    ($(every_store: [$($every:ident,)+])? $(etcd_and_raft: [$($most:ident,)+])?) => {
        on!(etcd, Etcd, $($($every,)+)? $($($most,)+)?);
        on!(etcd_v2, EtcdV2, $($($every,)+)?);
        on!(raft, Raft, $($($every,)+)? $($($most,)+)?);
        on!(consul, Consul, $($($every,)+)?);
        on!(zookeeper, ZooKeeper, $($($every,)+)?);
        on!(kubernetes, Kubernetes, $($($every,)+)?);
        on!(kubernetes_configmaps, ConfigMaps, $($($every,)+)?);
    };
}

/// The same for what happens to a store that has servers of its own.
macro_rules! on_every_outside_store {
    ($($scenario:ident,)+) => {
        on!(etcd, Etcd, $($scenario,)+);
        on!(etcd_v2, EtcdV2, $($scenario,)+);
        on!(consul, Consul, $($scenario,)+);
        on!(zookeeper, ZooKeeper, $($scenario,)+);
        on!(kubernetes, Kubernetes, $($scenario,)+);
        on!(kubernetes_configmaps, ConfigMaps, $($scenario,)+);
    };
}

mod bootstrap;
mod control_tool;
mod damage;
mod disk;
mod embedding;
mod failover;
mod failsafe;
mod guard;
mod moving;
mod partition;
mod pause;
mod raft;
mod reinit;
mod rejoin;
mod replication;
mod restart;
mod slots;
mod standby;
mod store;
mod switchover;
mod sync;
mod why;
