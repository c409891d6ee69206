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

/// Makes tests of scenarios: `etcd::NAME`, `raft::NAME` and so on. What an agent does with a store is tried on every one of them, and the
/// plainest of it also in the older forms that two of them have; what it does with PostgreSQL, on etcd and on the embedded store.
macro_rules! on_every_store {
    ($(every_form: [$($form:ident,)+])? $(every_store: [$($every:ident,)+])? $(etcd_and_raft: [$($most:ident,)+])?) => {
        on!(etcd, Etcd, $($($form,)+)? $($($every,)+)? $($($most,)+)?);
        on!(etcd_v2, EtcdV2, $($($form,)+)?);
        on!(raft, Raft, $($($form,)+)? $($($every,)+)? $($($most,)+)?);
        on!(consul, Consul, $($($form,)+)? $($($every,)+)?);
        on!(zookeeper, ZooKeeper, $($($form,)+)? $($($every,)+)?);
        on!(kubernetes, Kubernetes, $($($form,)+)? $($($every,)+)?);
        on!(kubernetes_configmaps, ConfigMaps, $($($form,)+)?);
    };
}

/// The same for what happens to a store that has servers of its own.
macro_rules! on_every_outside_store {
    ($($scenario:ident,)+) => {
        on!(etcd, Etcd, $($scenario,)+);
        on!(consul, Consul, $($scenario,)+);
        on!(zookeeper, ZooKeeper, $($scenario,)+);
        on!(kubernetes, Kubernetes, $($scenario,)+);
    };
}

mod bootstrap;
mod control_tool;
mod damage;
mod disk;
mod embedding;
mod failover;
mod moving;
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
mod why;
