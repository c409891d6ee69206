//! Component names: what people write into `log.loggers` and see as `%(name)s`, for our own modules.

/// The component that a record's `target` (a module path, or a component name given outright) belongs to.
pub(super) fn component(target: &str) -> String {
    if target == "patroni" || target.starts_with("patroni.") {
        return target.to_owned();
    }
    let mut parts = target.split("::");
    let package = parts.next().unwrap_or_default();
    let module = parts.next().unwrap_or_default();
    let inner = parts.next().unwrap_or_default();
    let name = match (package, module) {
        ("ha_engine", "postgres") => match inner {
            "bootstrap" | "clone" => "patroni.postgresql.bootstrap",
            "callbacks" => "patroni.postgresql.callback_executor",
            "processes" | "runner" => "patroni.postgresql.cancellable",
            "conf" | "files" | "hba" | "parameters" | "recovery" | "reload" => "patroni.postgresql.config",
            "connection" | "walsender" | "tls" => "patroni.postgresql.connection",
            "postmaster" => "patroni.postgresql.postmaster",
            "rewind" | "single_user" => "patroni.postgresql.rewind",
            "slots" => "patroni.postgresql.slots",
            "gucs" => "patroni.postgresql.validator",
            _ => "patroni.postgresql",
        },
        ("ha_engine", "watchdog") => "patroni.watchdog.base",
        ("ha_engine", "driver") if inner == "watchdog" => "patroni.watchdog.base",
        ("ha_engine", _) => "patroni.ha",
        ("dcs_core", _) => "patroni.dcs",
        ("dcs_etcd", _) => "patroni.dcs.etcd3",
        ("dcs_consul", _) => "patroni.dcs.consul",
        ("dcs_kubernetes", _) => "patroni.dcs.kubernetes",
        ("dcs_raft", _) => "patroni.dcs.raft",
        ("dcs_zookeeper", _) => "patroni.dcs.zookeeper",
        ("agent", "rest") => "patroni.api",
        ("agent", "config") => "patroni.config",
        ("agent", "ctl") => "patroni.ctl",
        ("agent", "telemetry") => "patroni.log",
        ("agent", "peers" | "client") => "patroni.request",
        ("agent", "supervise") => "patroni.daemon",
        ("agent" | "quorate" | "quoratectl", _) => "patroni.__main__",
        ("hyper" | "hyper_util" | "reqwest", _) => "urllib3",
        _ => return target.replace("::", "."),
    };
    name.to_owned()
}

/// Whether records of `component` come from the loop that decides, whose routine lines are thinned.
pub(super) fn is_engine(component: &str) -> bool {
    component == "patroni.ha" || component.starts_with("patroni.postgresql")
}

/// Whether `component` is one of ours. Libraries are quiet unless they are named in `log.loggers`.
pub(super) fn is_ours(component: &str) -> bool {
    component == "patroni" || component.starts_with("patroni.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_have_the_names_that_people_know() {
        for (target, name) in [
            ("ha_engine::driver::act", "patroni.ha"),
            ("ha_engine::driver::watchdog", "patroni.watchdog.base"),
            ("ha_engine::postgres::rewind", "patroni.postgresql.rewind"),
            ("ha_engine::postgres", "patroni.postgresql"),
            ("dcs_etcd::client", "patroni.dcs.etcd3"),
            ("agent::rest::server", "patroni.api"),
            ("quorate", "patroni.__main__"),
            ("patroni.quorum", "patroni.quorum"),
            ("reqwest::connect", "urllib3"),
            ("tokio_postgres::connection", "tokio_postgres.connection"),
        ] {
            assert_eq!(component(target), name);
        }
        assert!(is_ours("patroni.api") && !is_ours("urllib3"));
    }
}
