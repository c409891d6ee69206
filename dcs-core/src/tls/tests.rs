//! Handshakes in memory between configurations read from files.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams,
    SerialNumber,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use tempfile::TempDir;

use super::*;

/// A certificate and its key as files.
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

/// Makes certificates in a directory of its own.
struct Workshop(TempDir);

impl Workshop {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path
    }

    /// One certificate for everything, as `openssl req -x509` makes it.
    fn lone(&self, name: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Files {
        let key = KeyPair::generate().unwrap();
        let mut params = params(names);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let cert = params.self_signed(&key).unwrap();
        self.files(name, &cert.pem(), &key)
    }

    /// A CA, and a certificate signed by it.
    fn signed(&self, name: &str, names: &[&str]) -> (PathBuf, Files) {
        let (ca, files, _) = self.issued(name, names);
        (ca, files)
    }

    /// A CA, a certificate with the number 7 signed by it, and the means to sign more.
    fn issued(&self, name: &str, names: &[&str]) -> (PathBuf, Files, Issuer<'static, KeyPair>) {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = params(&[]);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, format!("the CA of {name}"));
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = params(names);
        params.serial_number = Some(SerialNumber::from(7));
        let issuer = Issuer::new(ca, ca_key);
        let cert = params.signed_by(&key, &issuer).unwrap();
        (self.write(&format!("{name}-ca.crt"), &ca_cert.pem()), self.files(name, &cert.pem(), &key), issuer)
    }

    /// A revocation list of `issuer` with these numbers on it.
    fn revoking(&self, name: &str, issuer: &Issuer<'_, KeyPair>, numbers: &[u64]) -> PathBuf {
        let revoked = |&number: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(number),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2200, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: numbers.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write(name, &list.signed_by(issuer).unwrap().pem().unwrap())
    }

    fn files(&self, name: &str, cert: &str, key: &KeyPair) -> Files {
        Files { cert: self.write(&format!("{name}.crt"), cert), key: self.write(&format!("{name}.key"), &key.serialize_pem()) }
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("nobody"));
    params
}

fn server(files: &Files) -> ServerTls {
    ServerTls { cert: files.cert.clone(), key: Some(files.key.clone()), ..ServerTls::default() }
}

fn trusting(ca: &Path) -> ClientTls {
    ClientTls { ca: Some(ca.to_owned()), ..ClientTls::default() }
}

fn as_client(tls: ClientTls, files: &Files) -> ClientTls {
    ClientTls { cert: Some(files.cert.clone()), key: Some(files.key.clone()), ..tls }
}

/// Shakes hands under the name `name`; whether the client showed a certificate, or the first error of either side.
fn handshake(client: &ClientTls, server: &ServerTls, name: &str) -> Result<bool, String> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client.config().unwrap()), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server.config().unwrap())).unwrap();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut input = &wire[..];
        while !input.is_empty() {
            server.read_tls(&mut input).unwrap();
            server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut input = &wire[..];
        while !input.is_empty() {
            client.read_tls(&mut input).unwrap();
            client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        }
    }
    Ok(server.peer_certificates().is_some())
}

#[track_caller]
fn refused(outcome: Result<bool, String>, because: &str) {
    let error = outcome.expect_err("a refused handshake");
    assert!(error.contains(because), "{error}");
}

#[test]
fn a_chain_is_accepted_and_the_name_is_checked() {
    let workshop = Workshop::new();
    let (ca, files) = workshop.signed("db1", &["db1", "127.0.0.1"]);
    let client = trusting(&ca);
    assert_eq!(handshake(&client, &server(&files), "db1"), Ok(false));
    assert_eq!(handshake(&client, &server(&files), "127.0.0.1"), Ok(false));
    refused(handshake(&client, &server(&files), "db2"), "not valid for name");
    refused(handshake(&client, &server(&files), "127.0.0.2"), "not valid for name");
}

#[test]
fn one_certificate_serves_as_ca_server_and_client() {
    let workshop = Workshop::new();
    let lone = workshop.lone("lone", &["db1"], |_| ());
    let client = as_client(trusting(&lone.cert), &lone);
    for clients in [ClientCertificates::Optional, ClientCertificates::Required] {
        let server = ServerTls { ca: Some(lone.cert.clone()), clients, ..server(&lone) };
        assert_eq!(handshake(&client, &server, "db1"), Ok(true), "{clients:?}");
        refused(handshake(&client, &server, "db2"), "not valid for name");
    }
}

#[test]
fn a_certificate_that_is_an_anchor_still_has_to_be_in_its_time() {
    let workshop = Workshop::new();
    let past = workshop.lone("past", &["db1"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    refused(handshake(&trusting(&past.cert), &server(&past), "db1"), "certificate expired");
    let future = workshop.lone("future", &["db1"], |params| {
        params.not_before = rcgen::date_time_ymd(2200, 1, 1);
        params.not_after = rcgen::date_time_ymd(2201, 1, 1);
    });
    refused(handshake(&trusting(&future.cert), &server(&future), "db1"), "not valid yet");

    let good = workshop.lone("good", &["db1"], |_| ());
    let wants_past = ServerTls { ca: Some(past.cert.clone()), clients: ClientCertificates::Required, ..server(&good) };
    refused(handshake(&as_client(trusting(&good.cert), &past), &wants_past, "db1"), "certificate expired");
}

#[test]
fn a_stolen_certificate_without_its_key_is_of_no_use() {
    let workshop = Workshop::new();
    let lone = workshop.lone("lone", &["db1"], |_| ());
    let other = workshop.lone("other", &["db1"], |_| ());
    let mixed = ServerTls { key: Some(other.key.clone()), ..server(&lone) };
    let error = mixed.config().expect_err("the key is another one");
    assert!(error.chain().contains("lone.crt") && error.chain().contains("other.key"), "{}", error.chain());
}

#[test]
fn another_lone_certificate_of_the_same_name_is_not_trusted() {
    let workshop = Workshop::new();
    let lone = workshop.lone("lone", &["db1"], |_| ());
    let impostor = workshop.lone("impostor", &["db1"], |_| ());
    refused(handshake(&trusting(&lone.cert), &server(&impostor), "db1"), "client: invalid peer certificate");
    let wary = ServerTls { ca: Some(lone.cert.clone()), clients: ClientCertificates::Optional, ..server(&lone) };
    refused(handshake(&as_client(trusting(&lone.cert), &impostor), &wary, "db1"), "server: invalid peer certificate");
}

#[test]
fn the_common_name_counts_only_for_an_anchor_without_other_names() {
    let workshop = Workshop::new();
    let named = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        move |params: &mut CertificateParams| {
            params.subject_alt_names = CertificateParams::new(names).unwrap().subject_alt_names;
            params.distinguished_name.push(DnType::CommonName, "DB1");
        }
    };
    let old = workshop.lone("old", &["x"], named(&[]));
    assert_eq!(handshake(&trusting(&old.cert), &server(&old), "db1"), Ok(false));
    refused(handshake(&trusting(&old.cert), &server(&old), "db2"), "not valid for name");
    let new = workshop.lone("new", &["x"], named(&["db2"]));
    refused(handshake(&trusting(&new.cert), &server(&new), "db1"), "not valid for name");
}

#[test]
fn less_can_be_checked_if_that_is_wanted() {
    let workshop = Workshop::new();
    let (ca, files) = workshop.signed("db1", &["db1"]);
    let lone = workshop.lone("lone", &["db1"], |_| ());
    let chain = |ca: &Path| ClientTls { verify: Verify::Chain, ..trusting(ca) };
    assert_eq!(handshake(&chain(&ca), &server(&files), "elsewhere"), Ok(false));
    assert_eq!(handshake(&chain(&lone.cert), &server(&lone), "elsewhere"), Ok(false));
    refused(handshake(&chain(&lone.cert), &server(&files), "db1"), "invalid peer certificate");
    let nothing = ClientTls { verify: Verify::Nothing, ..ClientTls::default() };
    assert_eq!(handshake(&nothing, &server(&files), "elsewhere"), Ok(false));
}

#[test]
fn a_revoked_certificate_is_refused_even_if_it_is_an_anchor() {
    let workshop = Workshop::new();
    let (ca, files, issuer) = workshop.issued("db1", &["db1"]);
    let (_, _, stranger) = workshop.issued("db2", &["db2"]);
    let listed = workshop.revoking("listed.crl", &issuer, &[6, 7]);
    let unlisted = workshop.revoking("unlisted.crl", &issuer, &[6]);
    let unrelated = workshop.revoking("unrelated.crl", &stranger, &[7]);
    let both = std::fs::read_to_string(&ca).unwrap() + &std::fs::read_to_string(&files.cert).unwrap();
    let both = workshop.write("both.crt", &both);
    for verify in [Verify::Full, Verify::Chain] {
        let client = |ca: &Path, crl: &Path| ClientTls { crl: Some(crl.to_owned()), verify, ..trusting(ca) };
        for ca in [&ca, &both] {
            refused(handshake(&client(ca, &listed), &server(&files), "db1"), "Revoked");
            assert_eq!(handshake(&client(ca, &unlisted), &server(&files), "db1"), Ok(false), "{verify:?}");
            assert_eq!(handshake(&client(ca, &unrelated), &server(&files), "db1"), Ok(false), "{verify:?}");
        }
    }
    let nothing = ClientTls { crl: Some(listed), verify: Verify::Nothing, ..ClientTls::default() };
    assert_eq!(handshake(&nothing, &server(&files), "db1"), Ok(false));
}

#[test]
fn a_certificate_that_is_its_own_authority_is_accepted_beside_a_revocation_list() {
    let workshop = Workshop::new();
    let (_, _, stranger) = workshop.issued("db2", &["db2"]);
    let lone = workshop.lone("lone", &["db1"], |_| ());
    let client = ClientTls { crl: Some(workshop.revoking("other.crl", &stranger, &[1])), ..trusting(&lone.cert) };
    assert_eq!(handshake(&client, &server(&lone), "db1"), Ok(false));
    refused(handshake(&client, &server(&lone), "db2"), "not valid for name");
}

#[test]
fn what_is_wanted_from_clients_is_what_they_have_to_show() {
    let workshop = Workshop::new();
    let (ca, files) = workshop.signed("db1", &["db1"]);
    let server = |clients| ServerTls { ca: Some(ca.clone()), clients, ..server(&files) };
    let bare = trusting(&ca);
    let with = as_client(trusting(&ca), &files);
    assert_eq!(handshake(&bare, &server(ClientCertificates::Ignored), "db1"), Ok(false));
    assert_eq!(handshake(&with, &server(ClientCertificates::Ignored), "db1"), Ok(false));
    assert_eq!(handshake(&bare, &server(ClientCertificates::Optional), "db1"), Ok(false));
    assert_eq!(handshake(&with, &server(ClientCertificates::Optional), "db1"), Ok(true));
    refused(handshake(&bare, &server(ClientCertificates::Required), "db1"), "peer sent no certificates");
    assert_eq!(handshake(&with, &server(ClientCertificates::Required), "db1"), Ok(true));
}

#[test]
fn the_key_may_stand_in_the_file_of_the_certificate() {
    let workshop = Workshop::new();
    let lone = workshop.lone("lone", &["db1"], |_| ());
    let both = std::fs::read_to_string(&lone.key).unwrap() + &std::fs::read_to_string(&lone.cert).unwrap();
    let both = workshop.write("both.pem", &both);
    let server = ServerTls { cert: both.clone(), key: None, ..ServerTls::default() };
    assert_eq!(handshake(&trusting(&both), &server, "db1"), Ok(false));
}

#[test]
fn errors_name_the_file_and_what_is_wrong_with_it() {
    let workshop = Workshop::new();
    let lone = workshop.lone("lone", &["db1"], |_| ());
    let with_key = |key: &Path| ServerTls { key: Some(key.to_owned()), ..server(&lone) }.config().unwrap_err().chain();

    let missing = workshop.0.path().join("missing.key");
    assert!(with_key(&missing).contains("missing.key`: No such file"), "{}", with_key(&missing));
    assert!(with_key(&lone.cert).contains("no private key in"), "{}", with_key(&lone.cert));
    let encrypted = workshop.write("enc.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n");
    assert!(with_key(&encrypted).contains("openssl pkey -in"), "{}", with_key(&encrypted));
    let damaged = workshop.write("bad.key", "-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----\n");
    assert!(with_key(&damaged).contains("bad.key` is damaged"), "{}", with_key(&damaged));

    let empty = workshop.write("empty.crt", "");
    assert!(trusting(&empty).config().unwrap_err().chain().contains("no certificate in"));
    let not_der = workshop.write("odd.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert!(trusting(&not_der).config().unwrap_err().chain().contains("trust anchor"));
    let bad_list = workshop.write("bad.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    let error = ClientTls { crl: Some(bad_list), ..trusting(&lone.cert) }.config().unwrap_err().chain();
    assert!(error.contains("bad.crl` is damaged"), "{error}");
}

#[test]
fn settings_do_not_show_the_password_of_a_key() {
    let secret = Some("hunter2".to_owned());
    let client = ClientTls { key_password: secret.clone(), ..ClientTls::default() };
    let server = ServerTls { key_password: secret, ..ServerTls::default() };
    assert!(!format!("{client:?} {server:?}").contains("hunter2"));
}

/// The command of countless guides, with the names where `extra` puts them.
fn openssl(directory: &Path, extra: &[&str]) -> Option<Files> {
    let files = Files { cert: directory.join("openssl.crt"), key: directory.join("openssl.key") };
    let made = Command::new("openssl")
        .args(["req", "-nodes", "-new", "-x509", "-days", "2", "-newkey", "rsa:2048"])
        .args(extra)
        .arg("-out")
        .arg(&files.cert)
        .arg("-keyout")
        .arg(&files.key)
        .output();
    match made {
        Ok(output) if output.status.success() => Some(files),
        Ok(output) => panic!("openssl failed: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("skipped: the program `openssl` is not there ({error})");
            None
        }
    }
}

#[test]
fn what_openssl_makes_works_on_both_sides() {
    let workshop = Workshop::new();
    for extra in [&["-subj", "/CN=db1", "-addext", "subjectAltName=DNS:db1,IP:127.0.0.1"][..], &["-subj", "/CN=db1"]] {
        let Some(lone) = openssl(workshop.0.path(), extra) else { return };
        let client = as_client(trusting(&lone.cert), &lone);
        let server = ServerTls { ca: Some(lone.cert.clone()), clients: ClientCertificates::Required, ..server(&lone) };
        assert_eq!(handshake(&client, &server, "db1"), Ok(true), "{extra:?}");
        refused(handshake(&client, &server, "db2"), "not valid for name");
    }
}
