//! Who may change something.
//!
//! Reading is open to everybody whom TLS lets in. Every other request passes three checks, in this order: where it comes
//! from, whether it has a client certificate, whether it knows the password. The first failure answers.

use std::net::IpAddr;
use std::time::Duration;

use dcs_core::model::ClusterView;
use dcs_core::tls::ClientCertificates;
use futures::future::join_all;
use http::HeaderValue;
use http::StatusCode;
use ipnet::IpNet;
use subtle::ConstantTimeEq as _;

use super::reply::Reply;
use super::settings::RestSettings;

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
    pub async fn new(settings: &RestSettings) -> Self {
        let resolved = join_all(settings.allowlist.iter().map(|entry| networks(entry))).await;
        let clients = settings.tls.as_ref().map_or(ClientCertificates::Ignored, |tls| tls.clients);
        Self {
            allowlist: (!settings.allowlist.is_empty()).then(|| resolved.into_iter().flatten().collect()),
            include_members: settings.allowlist_include_members,
            certificate_needed: clients != ClientCertificates::Ignored,
            credentials: settings.credentials.as_ref().map(crate::http_client::BasicCredentials::encoded),
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
            if !listed && !(members_count && is_member(caller.address, view).await) {
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
mod tests {
    use dcs_core::model::{Member, MemberRecord, Revision};
    use dcs_core::tls::ServerTls;
    use ha_engine::settings::Secret;

    use super::*;
    use crate::http_client::BasicCredentials;

    fn settings() -> RestSettings {
        RestSettings::at("127.0.0.1:0".parse().unwrap())
    }

    fn with_list(allowlist: &[&str], allowlist_include_members: bool) -> RestSettings {
        let allowlist = allowlist.iter().map(|&entry| entry.to_owned()).collect();
        RestSettings { allowlist, allowlist_include_members, ..settings() }
    }

    fn from(address: &str) -> Caller {
        Caller { address: address.parse().unwrap(), has_certificate: false }
    }

    fn view(api_url: &str) -> ClusterView {
        let record = MemberRecord { api_url: Some(api_url.to_owned()), ..MemberRecord::default() };
        let member = Member { name: "a".into(), revision: Revision::from(1_u64), handle: None, record };
        ClusterView { members: vec![member], ..ClusterView::default() }
    }

    async fn status(settings: &RestSettings, caller: Caller, header: Option<&str>, view: Option<&ClusterView>) -> u16 {
        let header = header.map(|text| HeaderValue::from_str(text).unwrap());
        let access = Access::new(settings).await;
        match access.check(caller, header.as_ref(), Members::Count, view).await {
            Ok(()) => 200,
            Err(reply) => reply.status().as_u16(),
        }
    }

    #[tokio::test]
    async fn without_any_setting_everybody_may() {
        assert_eq!(status(&settings(), from("203.0.113.9"), None, None).await, 200);
    }

    #[tokio::test]
    async fn lists_of_addresses_networks_and_names() {
        let list = with_list(&["10.0.0.1", "192.168.7.9/24", "172.16.0.0/255.240.0.0", "localhost", "fd00::/8"], false);
        for (address, expected) in [
            ("10.0.0.1", 200),
            ("10.0.0.2", 403),
            ("192.168.7.200", 200),
            ("192.168.8.1", 403),
            ("172.31.255.255", 200),
            ("127.0.0.1", 200),
            ("fd12::1", 200),
            ("fe80::1", 403),
        ] {
            assert_eq!(status(&list, from(address), None, None).await, expected, "{address}");
        }
    }

    #[tokio::test]
    async fn a_list_of_nothing_but_mistakes_lets_nobody_in() {
        let list = with_list(&["10.0.0.0/99", "no such host"], false);
        assert_eq!(status(&list, from("10.0.0.1"), None, None).await, 403);
    }

    #[tokio::test]
    async fn members_may_if_that_is_configured() {
        let (view, stranger) = (view("https://10.0.0.7:8008/patroni"), from("10.0.0.8"));
        let members = with_list(&[], true);
        assert_eq!(status(&members, from("10.0.0.7"), None, Some(&view)).await, 200);
        assert_eq!(status(&members, stranger, None, Some(&view)).await, 403);
        assert_eq!(status(&members, from("10.0.0.7"), None, None).await, 403);
        let both = with_list(&["10.0.0.8"], true);
        assert_eq!(status(&both, stranger, None, None).await, 200);
        assert_eq!(status(&with_list(&["10.0.0.8"], false), from("10.0.0.7"), None, Some(&view)).await, 403);
    }

    #[tokio::test]
    async fn a_call_that_members_make_without_a_view_ignores_them() {
        let check = async |settings: &RestSettings, address| {
            Access::new(settings).await.check(from(address), None, Members::DoNotCount, None).await.is_ok()
        };
        assert!(check(&with_list(&[], true), "10.0.0.7").await);
        assert!(check(&with_list(&["10.0.0.7"], true), "10.0.0.7").await);
        assert!(!check(&with_list(&["10.0.0.1"], true), "10.0.0.7").await);
    }

    #[tokio::test]
    async fn credentials_must_be_exact() {
        let credentials = BasicCredentials { username: "admin".to_owned(), password: Secret::new("se:cret") };
        let settings = RestSettings { credentials: Some(credentials.clone()), ..settings() };
        let good = format!("Basic {}", credentials.encoded());
        for (header, expected) in [
            (Some(good.as_str()), 200),
            (None, 401),
            (Some("Basic"), 401),
            (Some("Basic "), 401),
            (Some("Basic YWRtaW46c2U6Y3JldA"), 401),
            (Some(&good.replace("Basic", "basic")), 401),
            (Some("Bearer x"), 401),
        ] {
            assert_eq!(status(&settings, from("10.0.0.1"), header, None).await, expected, "{header:?}");
        }
    }

    #[tokio::test]
    async fn the_first_failing_check_answers() {
        let tls = |clients| Some(ServerTls { clients, ..ServerTls::default() });
        let credentials = Some(BasicCredentials { username: "u".to_owned(), password: Secret::new("p") });
        let all = RestSettings { tls: tls(ClientCertificates::Optional), credentials, ..with_list(&["10.0.0.1"], false) };
        let reply = async |caller| {
            let refused = Access::new(&all).await.check(caller, None, Members::Count, None).await.unwrap_err();
            let response = refused.into_response(&super::super::reply::Decoration::default());
            let code = response.status().as_u16();
            let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
            (code, String::from_utf8(body.to_vec()).unwrap())
        };
        assert_eq!(reply(from("10.0.0.2")).await, (403, "Access is denied".to_owned()));
        assert_eq!(reply(from("10.0.0.1")).await, (403, "client certificate required".to_owned()));
        let known = Caller { has_certificate: true, ..from("10.0.0.1") };
        assert_eq!(reply(known).await, (401, "no auth header received".to_owned()));
        let ignored = RestSettings { tls: tls(ClientCertificates::Ignored), ..settings() };
        assert_eq!(status(&ignored, from("10.0.0.1"), None, None).await, 200);
    }
}
