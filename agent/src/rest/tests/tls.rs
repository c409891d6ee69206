//! HTTPS, with and without client certificates.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::config::{RestApiSettings, RestTls, VerifyClient};
use crate::http_client::HttpClientSettings;
use crate::rest::connection::Acceptor;
use crate::rest::testing::{Node, settings};
use crate::rest::tls;

/// One certificate for everything, and its key.
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

fn lone(directory: &TempDir, name: &str) -> Files {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let files = Files { cert: directory.path().join(format!("{name}.crt")), key: directory.path().join(format!("{name}.key")) };
    std::fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

fn https(files: &Files, ca: &Path, verify_client: VerifyClient) -> RestApiSettings {
    let tls = RestTls {
        certfile: files.cert.clone(),
        keyfile: Some(files.key.clone()),
        keyfile_password: None,
        cafile: Some(ca.to_owned()),
        ciphers: Some("ECDHE+AESGCM".to_owned()),
    };
    RestApiSettings { tls: Some(tls), verify_client, ..settings() }
}

fn client(ca: &Path, identity: Option<&Files>) -> reqwest::Client {
    let settings = HttpClientSettings {
        ca: Some(ca.to_owned()),
        cert: identity.map(|files| files.cert.clone()),
        key: identity.map(|files| files.key.clone()),
        ..HttpClientSettings::default()
    };
    settings.client().unwrap()
}

impl Node {
    async fn https(&self, client: &reqwest::Client, method: &str, target: &str) -> Option<(u16, String)> {
        let answer = self.send_with(client, "https", method, target, None).await.ok()?;
        Some((answer.status, answer.body))
    }
}

#[tokio::test]
async fn optional_certificates_are_needed_only_for_changes() {
    let directory = TempDir::new().unwrap();
    let (files, stranger) = (lone(&directory, "node"), lone(&directory, "stranger"));
    let node = Node::with(&https(&files, &files.cert, VerifyClient::Optional)).await;
    let (bare, known) = (client(&files.cert, None), client(&files.cert, Some(&files)));
    assert_eq!(node.https(&bare, "GET", "/patroni").await.unwrap().0, 200);
    assert_eq!(node.https(&bare, "POST", "/reload").await, Some((403, "client certificate required".to_owned())));
    assert_eq!(node.https(&known, "POST", "/reload").await, Some((202, "reload scheduled".to_owned())));
    let unknown = client(&files.cert, Some(&stranger));
    assert_eq!(node.https(&unknown, "GET", "/patroni").await, None);
}

#[tokio::test]
async fn required_certificates_are_needed_for_everything() {
    let directory = TempDir::new().unwrap();
    let files = lone(&directory, "node");
    let node = Node::with(&https(&files, &files.cert, VerifyClient::Required)).await;
    assert_eq!(node.https(&client(&files.cert, None), "GET", "/patroni").await, None);
    let known = client(&files.cert, Some(&files));
    assert_eq!(node.https(&known, "GET", "/patroni").await.unwrap().0, 200);
    assert_eq!(node.https(&known, "POST", "/reload").await.unwrap().0, 202);
}

#[tokio::test]
async fn without_verification_nobody_is_asked() {
    let directory = TempDir::new().unwrap();
    let files = lone(&directory, "node");
    let node = Node::with(&https(&files, &files.cert, VerifyClient::None)).await;
    assert_eq!(node.https(&client(&files.cert, None), "POST", "/reload").await.unwrap().0, 202);
}

#[tokio::test]
async fn a_certificate_of_openssl_works_as_ca_server_and_client() {
    let directory = TempDir::new().unwrap();
    let files = Files { cert: directory.path().join("node.crt"), key: directory.path().join("node.key") };
    let made = Command::new("openssl")
        .args(["req", "-nodes", "-new", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=batman"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-out"])
        .arg(&files.cert)
        .arg("-keyout")
        .arg(&files.key)
        .output();
    match made {
        Err(error) => return eprintln!("skipped: the program `openssl` is not there ({error})"),
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
    }
    let node = Node::with(&https(&files, &files.cert, VerifyClient::Required)).await;
    let known = client(&files.cert, Some(&files));
    assert_eq!(node.https(&known, "POST", "/reload").await.unwrap().0, 202);
}

#[tokio::test]
async fn a_renewed_certificate_is_served_after_a_reload_without_losing_requests() {
    let directory = TempDir::new().unwrap();
    let old = lone(&directory, "node");
    let settings = https(&old, &old.cert, VerifyClient::None);
    let node = Node::with(&settings).await;
    let trusting_old = client(&old.cert, None);
    assert_eq!(node.https(&trusting_old, "GET", "/liveness").await.unwrap().0, 200);
    let new = lone(&directory, "node");
    let trusting_new = client(&new.cert, None);
    assert_eq!(node.https(&trusting_new, "GET", "/liveness").await, None);
    node.server.reload(&settings).await.unwrap();
    assert_eq!(node.server.local_addr().await, node.address);
    assert_eq!(node.https(&trusting_new, "GET", "/liveness").await.unwrap().0, 200);
    assert_eq!(node.https(&trusting_old, "GET", "/liveness").await, None);
}

#[tokio::test]
async fn a_renewed_certificate_is_noticed_and_a_half_written_one_is_not_served() {
    let directory = TempDir::new().unwrap();
    let files = lone(&directory, "node");
    let settings = https(&files, &files.cert, VerifyClient::None);
    let acceptor = Acceptor::new(tls::config(&settings).await.unwrap());
    let first = acceptor.tls().unwrap();
    let watch = tls::watch(&settings, acceptor.clone(), Duration::from_millis(20)).unwrap();
    let whole = std::fs::read(&files.cert).unwrap();
    std::fs::write(&files.cert, &whole[..whole.len() / 2]).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(Arc::ptr_eq(&first, &acceptor.tls().unwrap()));
    lone(&directory, "node");
    let renewed = async {
        while Arc::ptr_eq(&first, &acceptor.tls().unwrap()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), renewed).await.expect("the new certificate is served");
    watch.abort();
}

#[tokio::test]
async fn a_damaged_certificate_leaves_the_former_one_in_place() {
    let directory = TempDir::new().unwrap();
    let files = lone(&directory, "node");
    let settings = https(&files, &files.cert, VerifyClient::None);
    let node = Node::with(&settings).await;
    let trusting = client(&files.cert, None);
    std::fs::write(&files.key, "nonsense").unwrap();
    let error = node.server.reload(&settings).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("node.key"), "{cause}");
    assert_eq!(node.https(&trusting, "GET", "/liveness").await.unwrap().0, 200);
}

#[tokio::test]
async fn tls_can_be_turned_on_and_off() {
    let directory = TempDir::new().unwrap();
    let files = lone(&directory, "node");
    let node = Node::start().await;
    let trusting = client(&files.cert, None);
    node.server.reload(&https(&files, &files.cert, VerifyClient::None)).await.unwrap();
    assert_eq!(node.https(&trusting, "GET", "/liveness").await.unwrap().0, 200);
    node.server.reload(&settings()).await.unwrap();
    assert_eq!(node.get("/liveness").await.status, 200);
}

#[tokio::test]
async fn silent_clients_hold_up_nobodys_handshake() {
    let directory = TempDir::new().unwrap();
    let files = lone(&directory, "node");
    let node = Node::with(&https(&files, &files.cert, VerifyClient::None)).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(node.address).await.unwrap());
    }
    assert_eq!(node.https(&client(&files.cert, None), "GET", "/liveness").await.unwrap().0, 200);
    // They are hung up on when their time is over.
    let mut answer = Vec::new();
    let patience = Duration::from_secs(8);
    let closed = tokio::time::timeout(patience, silent[0].read_to_end(&mut answer)).await;
    assert!(closed.is_ok() && answer.is_empty());
}
