//! What a member's service in Consul's catalogue looks like, out of its record. Nothing here is sent.

use std::time::Duration;

use dcs_core::model::{MemberRecord, Role, ServerState};
use reqwest::Url;

use crate::api::{HealthCheck, Service};
use crate::config::Registration;

/// DNS allows 253 characters, of which `standby-leader.` and `.service.consul` are taken; as before, those of `replica.` count.
const LONGEST_NAME: usize = 230;

/// What should be in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// This service.
    Registered(Box<Service>),
    /// None.
    Absent,
    /// Whatever is there now.
    Unchanged,
    /// It cannot be said: this is missing in the record, or of no use.
    Unclear(&'static str),
}

/// The service's name in DNS: the scope, without what DNS cannot have.
pub(crate) fn service_name(scope: &str) -> String {
    let mut name = String::new();
    for character in scope.to_lowercase().chars() {
        match character {
            'a'..='z' | '0'..='9' | '-' => name.push(character),
            '.' | '_' | ' ' => name.push('-'),
            other => name.push_str(&format!("u{:04}", u32::from(other))),
        }
    }
    name.truncate(LONGEST_NAME);
    name
}

/// The id under which the agent knows it.
pub(crate) fn service_id(scope: &str, member: &str) -> String {
    format!("{scope}/{member}")
}

/// What should be registered for the member that publishes `record`, whose session has `session_ttl`.
pub(crate) fn wanted(scope: &str, member: &str, record: &MemberRecord, settings: &Registration, session_ttl: Duration) -> Wanted {
    if record.state.as_deref() == Some(ServerState::Stopped.as_str()) {
        return Wanted::Absent;
    }
    let Some(role) = record.role() else { return Wanted::Unclear("its role") };
    if !record.is_running() || !matches!(role, Role::Primary | Role::Replica | Role::StandbyLeader) {
        return Wanted::Unchanged;
    }
    let role_name = role.as_str().replace('_', "-");
    let Some(mut check) = record.api_url.as_deref().and_then(|url| Url::parse(url).ok()) else {
        return Wanted::Unclear("a usable `api_url`");
    };
    check.set_path(&role_name);
    let connection = record.conn_url.as_deref().and_then(|url| Url::parse(url).ok());
    let Some((Some(host), port)) = connection.as_ref().map(|url| (url.host_str(), url.port())) else {
        return Wanted::Unclear("a usable `conn_url`");
    };
    let mut tags = settings.tags.clone();
    tags.push(role_name);
    if role == Role::Primary {
        // What it was called before; people's queries name it so.
        tags.push("master".to_owned());
    }
    Wanted::Registered(Box::new(Service {
        id: service_id(scope, member),
        name: service_name(scope),
        address: host.trim_matches(['[', ']']).to_owned(),
        port,
        tags,
        enable_tag_override: true,
        check: HealthCheck {
            http: check.into(),
            interval: settings.check_interval.clone(),
            deregister_critical_service_after: format!("{:?}s", session_ttl.as_secs_f64() * 10.0),
            tls_server_name: settings.check_tls_server_name.clone(),
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION_TTL: Duration = Duration::from_secs(15);

    fn settings() -> Registration {
        Registration { enabled: true, tags: vec!["a".to_owned()], check_interval: "5s".to_owned(), check_tls_server_name: None }
    }

    fn record(role: Role, state: &str) -> MemberRecord {
        MemberRecord {
            role: Some(role.as_str().to_owned()),
            state: Some(state.to_owned()),
            api_url: Some("https://10.0.0.1:8008/patroni".to_owned()),
            conn_url: Some("postgres://10.0.0.1:5432/postgres".to_owned()),
            ..MemberRecord::default()
        }
    }

    fn of(record: &MemberRecord) -> Wanted {
        wanted("demo", "n1", record, &settings(), SESSION_TTL)
    }

    fn registered(record: &MemberRecord) -> Service {
        match of(record) {
            Wanted::Registered(service) => *service,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_scope_becomes_a_name_that_dns_can_have() {
        let cases = [("demo", "demo"), ("My_Cluster.1", "my-cluster-1"), ("a b", "a-b"), ("ö/x", "u0246u0047x"), ("日", "u26085")];
        for (scope, name) in cases {
            assert_eq!(service_name(scope), name);
        }
        assert_eq!(service_name(&"x".repeat(300)).len(), 230);
    }

    #[test]
    fn the_role_decides_about_tags_and_check() {
        let cases = [
            (Role::Primary, vec!["a", "primary", "master"], "https://10.0.0.1:8008/primary"),
            (Role::Replica, vec!["a", "replica"], "https://10.0.0.1:8008/replica"),
            (Role::StandbyLeader, vec!["a", "standby-leader"], "https://10.0.0.1:8008/standby-leader"),
        ];
        for (role, tags, check) in cases {
            let service = registered(&record(role, "running"));
            assert_eq!((service.id.as_str(), service.name.as_str()), ("demo/n1", "demo"));
            assert_eq!((service.address.as_str(), service.port), ("10.0.0.1", Some(5432)));
            assert_eq!(service.tags, tags);
            assert_eq!(service.check.http, check);
            assert_eq!(service.check.deregister_critical_service_after, "150.0s");
            assert!(service.enable_tag_override);
        }
    }

    #[test]
    fn a_literal_ipv6_address_stands_without_brackets() {
        let conn_url = Some("postgres://[fd00::1]:5433/postgres".to_owned());
        let service = registered(&MemberRecord { conn_url, ..record(Role::Replica, "running") });
        assert_eq!((service.address.as_str(), service.port), ("fd00::1", Some(5433)));
    }

    #[test]
    fn only_a_running_member_with_a_role_for_clients_is_registered() {
        assert_eq!(of(&record(Role::Primary, "stopped")), Wanted::Absent);
        assert_eq!(of(&record(Role::Replica, "starting")), Wanted::Unchanged);
        assert_eq!(of(&record(Role::Demoted, "running")), Wanted::Unchanged);
        assert_eq!(of(&record(Role::Uninitialized, "initdb failed")), Wanted::Unchanged);
        assert_eq!(of(&MemberRecord { role: None, ..record(Role::Replica, "running") }), Wanted::Unclear("its role"));
        let no_urls = MemberRecord { api_url: None, ..record(Role::Replica, "running") };
        assert_eq!(of(&no_urls), Wanted::Unclear("a usable `api_url`"));
        let damaged = MemberRecord { conn_url: Some("nonsense".to_owned()), ..record(Role::Replica, "running") };
        assert_eq!(of(&damaged), Wanted::Unclear("a usable `conn_url`"));
    }
}
