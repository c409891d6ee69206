//! Every row of the access rules.

use dcs_core::model::{Member, MemberRecord, Revision};
use ha_engine::settings::Secret;

use super::*;
use crate::config::{BasicAuth, RestTls};
use crate::rest::testing::settings;

fn with_list(allowlist: &[&str], allowlist_include_members: bool) -> RestApiSettings {
    let allowlist = allowlist.iter().map(|&entry| entry.to_owned()).collect();
    RestApiSettings { allowlist, allowlist_include_members, ..settings() }
}

fn from(address: &str) -> Caller {
    Caller { address: address.parse().unwrap(), has_certificate: false }
}

fn view(api_url: &str) -> ClusterView {
    let record = MemberRecord { api_url: Some(api_url.to_owned()), ..MemberRecord::default() };
    let member = Member { name: "a".into(), revision: Revision::from(1_u64), handle: None, record };
    ClusterView { members: vec![member], ..ClusterView::default() }
}

async fn status(settings: &RestApiSettings, caller: Caller, header: Option<&str>, view: Option<&ClusterView>) -> u16 {
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
    let check = async |settings: &RestApiSettings, address| {
        Access::new(settings).await.check(from(address), None, Members::DoNotCount, None).await.is_ok()
    };
    assert!(check(&with_list(&[], true), "10.0.0.7").await);
    assert!(check(&with_list(&["10.0.0.7"], true), "10.0.0.7").await);
    assert!(!check(&with_list(&["10.0.0.1"], true), "10.0.0.7").await);
}

#[tokio::test]
async fn credentials_must_be_exact() {
    let auth = BasicAuth { username: "admin".to_owned(), password: Secret::new("se:cret") };
    let settings = RestApiSettings { authentication: Some(auth.clone()), ..settings() };
    let good = format!("Basic {}", BasicCredentials::from(&auth).encoded());
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
    let tls = RestTls { certfile: "unused".into(), keyfile: None, keyfile_password: None, cafile: None, ciphers: None };
    let all = RestApiSettings {
        tls: Some(tls.clone()),
        verify_client: VerifyClient::Optional,
        authentication: Some(BasicAuth { username: "u".to_owned(), password: Secret::new("p") }),
        ..with_list(&["10.0.0.1"], false)
    };
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
    let ignored = RestApiSettings { tls: Some(tls), ..settings() };
    assert_eq!(status(&ignored, from("10.0.0.1"), None, None).await, 200);
    let plain = RestApiSettings { verify_client: VerifyClient::Required, ..settings() };
    assert_eq!(status(&plain, from("10.0.0.1"), None, None).await, 200);
}
