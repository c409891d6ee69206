//! Who is let in, and what somebody in between can do.

use dcs_core::tls::ClientTls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::super::material::{APPLICATION, Material, Tls, no_name};
use super::super::preamble::{self, Kind};
use super::certificates::Authority;
use super::*;

const HOST: &str = "127.0.0.1";

fn password(password: &str) -> SecuritySettings {
    SecuritySettings { password: Some(password.to_owned()), tls: None }
}

fn only_tls(tls: TlsFiles) -> SecuritySettings {
    SecuritySettings { password: None, tls: Some(tls) }
}

/// TLS with a key of its own, as somebody has it who does not know the password.
async fn keys_of_a_stranger() -> Tls {
    let material = tokio::task::spawn_blocking(|| Material::prepare(&password("a guess"))).await.unwrap();
    material.unwrap().tls.unwrap()
}

#[tokio::test]
async fn frames_and_requests_arrive_under_every_kind_of_security() {
    let authority = Authority::new("ca");
    let tls = authority.signs(HOST);
    for (password, tls) in [(None, None), (Some("secret"), None), (None, Some(tls.clone())), (Some("secret"), Some(tls))] {
        let security = security(password, tls).await;
        let mut house = House::open(&security).await;
        let links = links_to(&house.address(), &security);
        links.send(NodeId(2), raft(1));
        links.send(NodeId(2), raft(2));
        assert_eq!(house.next_frame().await, (NodeId(1), raft(1)));
        assert_eq!(house.next_frame().await, (NodeId(1), raft(2)));
        house.serves(&security).await;
    }
}

#[tokio::test]
async fn another_password_is_refused_by_both_sides_and_both_say_so() {
    let (logs, _guard) = Logs::capture();
    let (ours, theirs) = (security(Some("secret"), None).await, security(Some("Secret"), None).await);
    let house = House::open(&ours).await;
    let error = house.client_refused(&theirs).await;
    assert!(matches!(error, TransportError::Password), "{error}");
    logs.shows("a connection to the embedded store was refused: the other side has another password").await;

    let links = links_to(&house.address(), &theirs);
    logs.shows("no connection to another node of the embedded store: the other side has another password").await;
    assert!(!is_connected(&links));
    house.serves(&ours).await;
    assert!(!logs.text().to_lowercase().contains("secret"), "{}", logs.text());
}

#[tokio::test]
async fn sides_that_are_set_up_differently_refuse_each_other_and_say_what_differs() {
    let authority = Authority::new("ca");
    let kinds = [
        (plain().await, "neither password nor TLS"),
        (security(Some("secret"), None).await, "a password and without TLS certificates"),
        (security(None, Some(authority.signs(HOST))).await, "TLS certificates and without a password"),
        (security(Some("secret"), Some(authority.signs(HOST))).await, "a password and TLS certificates"),
    ];
    for (accepting, accepting_words) in &kinds {
        for (connecting, connecting_words) in &kinds {
            let (logs, _guard) = Logs::capture();
            let house = House::open(accepting).await;
            if accepting_words == connecting_words {
                house.serves(connecting).await;
                continue;
            }
            let error = house.client_refused(connecting).await.to_string();
            assert!(
                error.contains(&format!("this side is set up with {connecting_words}, the other side with {accepting_words}")),
                "{error}"
            );
            logs.shows(&format!("this side is set up with {accepting_words}, the other side with {connecting_words}")).await;
        }
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_on_either_side() {
    let (logs, _guard) = Logs::capture();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let house = House::open(&security(None, Some(ours.signs(HOST))).await).await;

    let stranger = TlsFiles { ca: ours.ca().to_owned(), ..theirs.signs(HOST) };
    let error = house.client_refused(&*security(None, Some(stranger)).await).await;
    assert!(matches!(error, TransportError::Tls(_)) && error.chain().contains("alert"), "{}", error.chain());
    logs.shows("invalid peer certificate").await;

    let distrustful = TlsFiles { ca: theirs.ca().to_owned(), ..ours.signs(HOST) };
    let error = house.client_refused(&*security(None, Some(distrustful)).await).await;
    assert!(error.chain().contains("invalid peer certificate"), "{}", error.chain());
}

#[tokio::test]
async fn nobody_gets_in_without_a_certificate() {
    let (logs, _guard) = Logs::capture();
    let authority = Authority::new("ca");
    let secured = security(None, Some(authority.signs(HOST))).await;
    let house = House::open(&secured).await;
    let mut tcp = TcpStream::connect(house.listener.local_address()).await.unwrap();
    preamble::connect(&mut tcp, Kind::of(false, true), in_time()).await.unwrap();
    let mut bare = ClientTls { ca: Some(authority.ca().to_owned()), ..ClientTls::default() }.config().unwrap();
    bare.alpn_protocols = vec![APPLICATION.to_vec()];
    let mut tls = TlsConnector::from(Arc::new(bare)).connect(HOST.try_into().unwrap(), tcp).await.unwrap();
    let error = tls.read_u8().await.unwrap_err().to_string();
    assert!(error.contains("alert"), "{error}");
    logs.shows("peer sent no certificates").await;
    house.serves(&secured).await;
}

#[tokio::test]
async fn tls_for_something_else_with_the_same_certificates_is_refused() {
    let authority = Authority::new("ca");
    let files = authority.signs(HOST);
    let secured = security(None, Some(files.clone())).await;
    let house = House::open(&secured).await;
    for (application, version) in [(None, &rustls::version::TLS13), (Some(APPLICATION), &rustls::version::TLS12)] {
        let mut tcp = TcpStream::connect(house.listener.local_address()).await.unwrap();
        preamble::connect(&mut tcp, Kind::of(false, true), in_time()).await.unwrap();
        let mut other = client_of(version, &files);
        other.alpn_protocols = application.map(<[u8]>::to_vec).into_iter().collect();
        let mut tls = TlsConnector::from(Arc::new(other)).connect(HOST.try_into().unwrap(), tcp).await.unwrap();
        assert!(tls.read_u8().await.is_err(), "it goes on with {application:?} over {version:?}");
    }
    house.serves(&secured).await;
}

fn client_of(version: &'static rustls::SupportedProtocolVersion, files: &TlsFiles) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca).unwrap()).unwrap();
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(&files.cert).unwrap()],
            PrivateKeyDer::from_pem_file(&files.cert).unwrap(),
        )
        .unwrap()
}

#[tokio::test]
async fn a_node_with_the_certificate_of_another_host_is_refused() {
    let authority = Authority::new("ca");
    let house = House::open(&security(None, Some(authority.signs("db9"))).await).await;
    let error = house.client_refused(&*security(None, Some(authority.signs(HOST))).await).await;
    assert!(error.chain().contains("not valid for name"), "{}", error.chain());
}

#[tokio::test]
async fn a_certificate_does_not_replace_the_password() {
    let tls = Authority::new("ca");
    let house = House::open(&security(Some("secret"), Some(tls.signs(HOST))).await).await;
    let error = house.client_refused(&*security(Some("guess"), Some(tls.signs(HOST))).await).await;
    assert!(matches!(error, TransportError::Password), "{error}");
}

#[tokio::test]
async fn the_password_does_not_replace_a_certificate() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let house = House::open(&security(Some("secret"), Some(ours.signs(HOST))).await).await;
    let stranger = TlsFiles { ca: ours.ca().to_owned(), ..theirs.signs(HOST) };
    let error = house.client_refused(&*security(Some("secret"), Some(stranger)).await).await;
    assert!(matches!(error, TransportError::Tls(_)), "{error}");
}

#[tokio::test]
async fn somebody_in_between_with_keys_of_their_own_is_refused_by_both_sides() {
    let (logs, _guard) = Logs::capture();
    let secured = security(Some("secret"), None).await;
    let house = House::open(&secured).await;
    let between = TcpListener::bind((HOST, 0)).await.unwrap();
    let address = Address::from(between.local_addr().unwrap());
    let server = house.listener.local_address();
    let keys = keys_of_a_stranger().await;
    let relay = Task(tokio::spawn(async move {
        let (mut near, _) = between.accept().await.unwrap();
        let mut far = TcpStream::connect(server).await.unwrap();
        let mut said = [0; preamble::LENGTH];
        near.read_exact(&mut said).await.unwrap();
        far.write_all(&said).await.unwrap();
        far.read_exact(&mut said).await.unwrap();
        near.write_all(&said).await.unwrap();
        // Both handshakes succeed: nobody knows anybody's key. Then every byte is passed on as it is.
        let mut near = TlsAcceptor::from(keys.server).accept(near).await.unwrap();
        let mut far = TlsConnector::from(keys.client).connect(no_name(), far).await.unwrap();
        let _ended = copy_bidirectional(&mut near, &mut far).await;
    }));
    let error = ClientConnection::open(&address, &secured, in_time()).await.unwrap_err();
    assert!(matches!(error, TransportError::Password), "{error}");
    logs.shows("a connection to the embedded store was refused: the other side has another password").await;
    drop(relay);
    house.serves(&secured).await;
}

#[tokio::test]
async fn a_server_that_only_pretends_to_know_the_password_is_refused() {
    let secured = security(Some("secret"), None).await;
    let pretender = TcpListener::bind((HOST, 0)).await.unwrap();
    let address = Address::from(pretender.local_addr().unwrap());
    let keys = keys_of_a_stranger().await;
    let _task = Task(tokio::spawn(async move {
        let (mut tcp, _) = pretender.accept().await.unwrap();
        let mut said = [0; preamble::LENGTH];
        tcp.read_exact(&mut said).await.unwrap();
        tcp.write_all(&said).await.unwrap();
        let mut tls = TlsAcceptor::from(keys.server).accept(tcp).await.unwrap();
        tls.write_all(&[1]).await.unwrap();
        let mut proof = [0; 32];
        tls.read_exact(&mut proof).await.unwrap();
        // The best it has is what the client said itself.
        tls.write_all(&[&[1], &proof[..]].concat()).await.unwrap();
        let _ended = tls.read(&mut proof).await;
    }));
    let error = ClientConnection::open(&address, &secured, in_time()).await.unwrap_err();
    assert!(matches!(error, TransportError::Password), "{error}");
}

/// Passes one connection on, and keeps what the connecting side says.
async fn record(listener: TcpListener, server: std::net::SocketAddr) -> Vec<u8> {
    let (mut near, _) = listener.accept().await.unwrap();
    let mut far = TcpStream::connect(server).await.unwrap();
    let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.split(), far.split());
    let mut recorded = Vec::new();
    let mut said = [0; 4096];
    let forward = async {
        while let Ok(length @ 1..) = from_near.read(&mut said).await {
            recorded.extend_from_slice(&said[..length]);
            to_far.write_all(&said[..length]).await.unwrap();
        }
    };
    tokio::select! {
        () = forward => {}
        _ = tokio::io::copy(&mut from_far, &mut to_near) => {}
    }
    recorded
}

#[tokio::test]
async fn what_was_recorded_is_of_no_use_later() {
    let tls = Authority::new("ca");
    for (password, tls) in [(Some("secret"), None), (None, Some(tls.signs(HOST)))] {
        let secured = security(password, tls).await;
        let mut house = House::open(&secured).await;
        let relay = TcpListener::bind((HOST, 0)).await.unwrap();
        let address = Address::from(relay.local_addr().unwrap());
        let recording = tokio::spawn(record(relay, house.listener.local_address()));
        let links = links_to(&address, &secured);
        links.send(NodeId(2), raft(1));
        assert_eq!(house.next_frame().await, (NodeId(1), raft(1)), "it works while it is recorded");
        drop(links);
        let recorded = in_time().bound("the recording", recording).await.unwrap().unwrap();

        let (logs, _guard) = Logs::capture();
        let mut again = TcpStream::connect(house.listener.local_address()).await.unwrap();
        again.write_all(&recorded).await.unwrap();
        until_closed(&mut again).await;
        logs.shows("a connection to the embedded store was refused: TLS failed").await;
        house.serves(&secured).await;
        assert!(house.frames.try_recv().is_err(), "a recorded frame was taken");
    }
}

async fn until_closed(io: &mut (impl AsyncRead + Unpin)) {
    let mut said = Vec::new();
    // With or without a reset: it is over.
    let _ended = in_time().bound("the end of the connection", io.read_to_end(&mut said)).await.unwrap();
}

#[tokio::test]
async fn new_connections_use_what_was_reloaded_and_old_ones_go_on() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = old.signs(HOST);
    let (server, client) = (security(None, Some(files.clone())).await, security(None, Some(old.signs(HOST))).await);
    let house = House::open(&server).await;
    let connection = house.client(&client).await;

    // The files stay where they are, and others are put in their place.
    let replacement = new.signs(HOST);
    std::fs::copy(&replacement.cert, &files.cert).unwrap();
    std::fs::copy(&replacement.ca, &files.ca).unwrap();
    house.serves(&client).await;
    server.reload(only_tls(files)).await.unwrap();

    assert!(matches!(house.client_refused(&client).await, TransportError::Tls(_)));
    client.reload(only_tls(replacement)).await.unwrap();
    house.serves(&client).await;
    assert_eq!(connection.request(&echo("still there"), in_time()).await.unwrap(), echoed("still there"));
}

#[tokio::test]
async fn a_new_password_counts_from_the_next_connection_on() {
    let (server, client) = (security(Some("old"), None).await, security(Some("old"), None).await);
    let house = House::open(&server).await;
    server.reload(password("new")).await.unwrap();
    assert!(matches!(house.client_refused(&client).await, TransportError::Password));
    client.reload(password("new")).await.unwrap();
    house.serves(&client).await;
}

#[tokio::test]
async fn what_cannot_be_read_again_leaves_everything_as_it_was() {
    let authority = Authority::new("ca");
    let files = authority.signs(HOST);
    let secured = security(None, Some(files.clone())).await;
    let house = House::open(&secured).await;
    std::fs::write(&files.cert, "not a certificate").unwrap();
    let error = secured.reload(only_tls(files)).await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("127.0.0.1.crt"), "{error:?}");
    house.serves(&secured).await;
}

#[tokio::test]
async fn an_empty_password_is_none_and_not_a_secret() {
    let error = Security::new(password("")).await.unwrap_err();
    assert!(matches!(error, SecurityError::EmptyPassword), "{error}");
}

#[tokio::test]
async fn secrets_are_not_shown() {
    let settings = password("hunter2");
    let shown = format!("{settings:?} {:?}", Security::new(settings.clone()).await.unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
}
