//! Who may change something.
//!
//! Reading is open to everybody whom TLS lets in. Every other request passes three checks, in this order: where it comes
//! from, whether it has a client certificate, whether it knows the password. The first failure answers.

use std::net::IpAddr;
use std::time::Duration;

use dcs_core::model::ClusterView;
use futures::future::join_all;
use http::HeaderValue;
use http::StatusCode;
use ipnet::IpNet;
use subtle::ConstantTimeEq as _;

use super::reply::Reply;
use crate::config::{RestApiSettings, VerifyClient};
use crate::http_client::BasicCredentials;

/// How long the names of members may take to resolve within one request.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The address.
    pub address: IpAddr,
    /// Whether a valid client certificate was presented.
    pub has_certificate: bool,
}

/// Whether members count as allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// They do, if that is configured.
    Count,
    /// They do not: the request comes at a time when nobody may know them.
    DoNotCount,
}

/// The rules in force.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Networks that may; nothing if there is no such list.
    allowlist: Option<Vec<IpNet>>,
    include_members: bool,
    certificate_needed: bool,
    /// What must stand after `Basic `.
    credentials: Option<String>,
}

impl Access {
    /// The rules that `settings` make. Names are resolved now; entries that mean nothing are reported and let nobody in.
    pub async fn new(settings: &RestApiSettings) -> Self {
        let resolved = join_all(settings.allowlist.iter().map(|entry| networks(entry))).await;
        Self {
            allowlist: (!settings.allowlist.is_empty()).then(|| resolved.into_iter().flatten().collect()),
            include_members: settings.allowlist_include_members,
            certificate_needed: settings.tls.is_some() && settings.verify_client != VerifyClient::None,
            credentials: settings.authentication.as_ref().map(|auth| BasicCredentials::from(auth).encoded()),
        }
    }

    /// Checks a request that would change something.
    ///
    /// # Errors
    ///
    /// The answer to a request that must not.
    pub async fn check(
        &self,
        caller: Caller,
        authorization: Option<&HeaderValue>,
        members: Members,
        view: Option<&ClusterView>,
    ) -> Result<(), Reply> {
        let members_count = self.include_members && members == Members::Count;
        if self.allowlist.is_some() || members_count {
            let listed = self.allowlist.iter().flatten().any(|network| network.contains(&caller.address));
            let allowed = listed || (members_count && is_member(caller.address, view).await);
            if !allowed {
                return Err(Reply::text(StatusCode::FORBIDDEN, "Access is denied"));
            }
        }
        if self.certificate_needed && !caller.has_certificate {
            return Err(Reply::text(StatusCode::FORBIDDEN, "client certificate required"));
        }
        let Some(credentials) = &self.credentials else { return Ok(()) };
        let Some(header) = authorization else { return Err(Reply::unauthorized("no auth header received")) };
        let given = header.as_bytes().strip_prefix(b"Basic ");
        // Compared in constant time, so that nobody learns the password from how long a refusal takes.
        if given.is_some_and(|given| bool::from(given.ct_eq(credentials.as_bytes()))) {
            Ok(())
        } else {
            Err(Reply::unauthorized("not authenticated"))
        }
    }
}

/// The networks that an entry of the allowlist means.
async fn networks(entry: &str) -> Vec<IpNet> {
    if entry.contains('/') {
        return parse_network(entry).into_iter().collect();
    }
    let addresses = resolve(entry, 8080).await;
    if addresses.is_empty() {
        tracing::error!("Failed to resolve `{entry}` in restapi.allowlist, ignoring it");
    }
    addresses.into_iter().map(IpNet::from).collect()
}

fn parse_network(entry: &str) -> Option<IpNet> {
    let with_mask = || {
        let (address, mask) = entry.split_once('/')?;
        IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()
    };
    let network = entry.parse().ok().or_else(with_mask);
    if network.is_none() {
        tracing::error!("Invalid value `{entry}` in restapi.allowlist, ignoring it");
    }
    network
}

/// Whether `address` is one that a member of `view` publishes.
async fn is_member(address: IpAddr, view: Option<&ClusterView>) -> bool {
    let urls = view.into_iter().flat_map(|view| &view.members).filter_map(|member| member.record.api_url.as_deref());
    let hosts: Vec<(String, u16)> = urls.filter_map(host_and_port).collect();
    let resolved = join_all(hosts.iter().map(|(host, port)| resolve(host, *port)));
    let Ok(resolved) = tokio::time::timeout(RESOLVE_LIMIT, resolved).await else { return false };
    resolved.into_iter().flatten().any(|member| member == address)
}

fn host_and_port(url: &str) -> Option<(String, u16)> {
    let url = reqwest::Url::parse(url).ok()?;
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((host, url.port_or_known_default().unwrap_or(80)))
}

/// The addresses of a host; none if it is unknown.
async fn resolve(host: &str, port: u16) -> Vec<IpAddr> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return vec![address.to_canonical()];
    }
    match tokio::net::lookup_host((host, port)).await {
        Ok(addresses) => addresses.map(|address| address.ip().to_canonical()).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
