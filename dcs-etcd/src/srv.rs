//! Servers named by DNS service records.
//!
//! | asked for | scheme | what the records name |
//! | --- | --- | --- |
//! | `_etcd-client-ssl`, `_etcd-ssl` | https | servers |
//! | `_etcd-client`, `_etcd` | http | servers |
//! | `_etcd-server-ssl` | https | peers, whose `/members` names the servers |
//! | `_etcd-server` | http | the same |
//!
//! The first name that gives any server counts. The order is that of the specification, which is Patroni's.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::tls::{ClientTls, Verify};
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use serde_json::Value;

use crate::config::Srv;
use crate::endpoint::{Endpoint, Scheme};
use crate::failure::text_of;
use crate::members;

/// What stands in front of the suffix and `._tcp.<domain>`, in order.
const SERVICES: [(&str, Scheme, Names); 6] = [
    ("_etcd-client-ssl", Scheme::Https, Names::Servers),
    ("_etcd-client", Scheme::Http, Names::Servers),
    ("_etcd-ssl", Scheme::Https, Names::Servers),
    ("_etcd", Scheme::Http, Names::Servers),
    ("_etcd-server-ssl", Scheme::Https, Names::Peers),
    ("_etcd-server", Scheme::Http, Names::Peers),
];

/// A peer that is silent must not use up the time of the others.
const PATIENCE_WITH_A_PEER: Duration = Duration::from_secs(2);

/// What the records of a service name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Servers,
    Peers,
}

/// The servers that DNS names under the domain. Fails if it names none, or cannot be asked.
pub(crate) async fn find(srv: &Srv, tls: &ClientTls, deadline: Deadline) -> Result<Vec<Endpoint>, String> {
    let resolver = resolver(srv).await?;
    let mut problems = Vec::new();
    for (service, scheme, names) in SERVICES {
        let name = service_name(service, srv);
        let hosts = match deadline.bound("the name server did not answer", resolver.srv_lookup(name.as_str())).await {
            Err(expired) => return Err(format!("cannot look up `{name}`: {expired}")),
            Ok(Ok(answer)) => targets(answer.answers().iter().map(|record| &record.data)),
            Ok(Err(error)) => {
                // "No such name" is the usual answer to all but one of them.
                tracing::debug!(name, error = text_of(&error), "no service records");
                problems.push(format!("`{name}`: {}", text_of(&error)));
                continue;
            }
        };
        let endpoints: Vec<Endpoint> = hosts.into_iter().map(|(host, port)| Endpoint { scheme, host, port }).collect();
        let found = match names {
            Names::Servers => endpoints,
            Names::Peers => of_peers(&endpoints, scheme, tls, deadline).await,
        };
        if !found.is_empty() {
            tracing::info!(name, servers = ?found, "found etcd servers in DNS");
            return Ok(found);
        }
        problems.push(format!("`{name}` names no server"));
    }
    Err(problems.join("; "))
}

fn service_name(service: &str, srv: &Srv) -> String {
    let suffix = srv.suffix.as_ref().map(|suffix| format!("-{suffix}")).unwrap_or_default();
    // The dot at the end keeps the search list of this machine out of it.
    format!("{service}{suffix}._tcp.{}.", srv.domain.trim_end_matches('.'))
}

/// Host and port of each record, best first. A record with the root as its target says that there is no such service.
fn targets<'a>(records: impl Iterator<Item = &'a RData>) -> Vec<(String, u16)> {
    let mut found: Vec<_> = records
        .filter_map(|data| match data {
            RData::SRV(srv) if !srv.target.is_root() && srv.port > 0 => Some(srv),
            _ => None,
        })
        .collect();
    found.sort_by_key(|srv| (srv.priority, u16::MAX - srv.weight));
    found.iter().map(|srv| (srv.target.to_ascii().trim_end_matches('.').to_owned(), srv.port)).collect()
}

async fn resolver(srv: &Srv) -> Result<TokioResolver, String> {
    #[cfg(test)]
    if let Some(name_server) = srv.name_server {
        return tests::resolver(name_server);
    }
    let _ = srv;
    let build = || TokioResolver::builder_tokio().and_then(|builder| builder.build()).map_err(|error| text_of(&error));
    // The system's configuration is a file, and may change.
    tokio::task::spawn_blocking(build).await.map_err(|error| error.to_string())?
}

/// The servers that the first peer to answer names.
async fn of_peers(peers: &[Endpoint], scheme: Scheme, tls: &ClientTls, deadline: Deadline) -> Vec<Endpoint> {
    // Peers have certificates of their own kind. What they name are addresses, and whoever listens there has to prove
    // itself by what is configured.
    let tls = ClientTls { verify: Verify::Nothing, ..tls.clone() };
    let client = tokio::task::spawn_blocking(move || crate::http::builder(&tls)).await;
    let client = match client {
        Ok(Ok(builder)) => builder.build().map_err(|error| text_of(&error)),
        Ok(Err(error)) => Err(error.chain()),
        Err(error) => Err(error.to_string()),
    };
    let client = match client {
        Ok(client) => client,
        Err(problem) => {
            tracing::warn!(problem, "cannot ask etcd's peers for its members");
            return Vec::new();
        }
    };
    for peer in peers {
        let url = format!("{}/members", peer.url());
        let ask = async {
            let answer = client.get(&url).send().await?.error_for_status()?;
            answer.json::<Value>().await
        };
        match deadline.at_most(PATIENCE_WITH_A_PEER).bound("the peer did not answer", ask).await {
            Ok(Ok(list)) => {
                let found = members::usable(client_urls(&list), scheme);
                if !found.is_empty() {
                    return found;
                }
                tracing::debug!(url, "this peer names no server");
            }
            Ok(Err(error)) => tracing::debug!(url, error = text_of(&error), "cannot ask a peer for the members"),
            Err(expired) => tracing::debug!(url, error = %expired, "cannot ask a peer for the members"),
        }
    }
    Vec::new()
}

/// The `clientURLs` of all members in `[{"clientURLs": [..], ..}, ..]`.
fn client_urls(list: &Value) -> impl Iterator<Item = &str> {
    let members = list.as_array().into_iter().flatten();
    members.filter_map(|member| member.get("clientURLs")?.as_array()).flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests;
