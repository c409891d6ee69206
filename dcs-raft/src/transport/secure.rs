//! From a TCP connection to one whose other side is known to belong here.

use std::sync::{Arc, PoisonError, RwLock};

use dcs_core::Deadline;
use rustls::pki_types::ServerName;
use rustls::{CommonState, ConnectionCommon, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::error::TransportError;
use super::frame::{FrameReader, FrameWriter};
use super::material::{self, Material, SecurityError, SecuritySettings};
use super::preamble::{self, Exchanged};
use super::proof::{self, Binding, ProofKey, Side};

/// The accepting side found nothing wrong with the TLS handshake. In TLS 1.3 the connecting side would otherwise learn of
/// a certificate that was not accepted only after it went on.
const READY: u8 = 1;
/// The accepting side proves that it knows the password.
const PROVED: u8 = 1;
/// The proof of the connecting side was wrong.
const WRONG: u8 = 0;

/// What protects connections. Shared by everything that makes them.
#[derive(Debug)]
pub struct Security {
    current: RwLock<Arc<Material>>,
}

impl Security {
    /// Reads the files and derives the key from the password.
    ///
    /// # Errors
    ///
    /// The settings cannot be used; the error names the file.
    pub async fn new(settings: SecuritySettings) -> Result<Self, SecurityError> {
        Ok(Self { current: RwLock::new(prepared(settings).await?) })
    }

    /// Reads everything again, for the connections that are made from now on. Those that exist go on.
    ///
    /// # Errors
    ///
    /// The settings cannot be used; what was read before stays in force.
    ///
    /// # Cancel safety
    ///
    /// What was read before stays in force.
    pub async fn reload(&self, settings: SecuritySettings) -> Result<(), SecurityError> {
        let material = prepared(settings).await?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = material;
        Ok(())
    }

    fn current(&self) -> Arc<Material> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Protects a connection that this side made to `host`.
    pub(super) async fn connect(&self, mut tcp: TcpStream, host: &str, deadline: Deadline) -> Result<Channel, TransportError> {
        let material = self.current();
        let exchanged = preamble::connect(&mut tcp, material.kind, deadline).await?;
        let Some(tls) = &material.tls else { return Ok(Channel::plain(tcp)) };
        let name = if tls.named { server_name(host)? } else { material::no_name() };
        let handshake = TlsConnector::from(Arc::clone(&tls.client)).connect(name, tcp);
        let mut stream = deadline.bound("agree on TLS", handshake).await?.map_err(tls_error)?;
        let binding = bind(stream.get_ref().1, &exchanged)?;
        if bounded_u8(&mut stream, deadline).await? != READY {
            return Err(TransportError::Foreign);
        }
        if let Some(key) = &material.proof {
            prove_first(&mut stream, key, &binding, deadline).await?;
        }
        Ok(Channel::encrypted(stream))
    }

    /// Protects a connection that the other side made.
    pub(super) async fn accept(&self, mut tcp: TcpStream, deadline: Deadline) -> Result<Channel, TransportError> {
        let material = self.current();
        let exchanged = preamble::accept(&mut tcp, material.kind, deadline).await?;
        let Some(tls) = &material.tls else { return Ok(Channel::plain(tcp)) };
        let handshake = TlsAcceptor::from(Arc::clone(&tls.server)).accept(tcp);
        let mut stream = deadline.bound("agree on TLS", handshake).await?.map_err(tls_error)?;
        let binding = bind(stream.get_ref().1, &exchanged)?;
        say(&mut stream, &[READY], deadline).await?;
        if let Some(key) = &material.proof {
            prove_second(&mut stream, key, &binding, deadline).await?;
        }
        Ok(Channel::encrypted(stream))
    }
}

async fn prepared(settings: SecuritySettings) -> Result<Arc<Material>, SecurityError> {
    let prepared = tokio::task::spawn_blocking(move || Material::prepare(&settings)).await;
    prepared.map_err(|error| SecurityError::Key(error.into()))?.map(Arc::new)
}

async fn prove_first<S>(stream: &mut S, key: &ProofKey, binding: &Binding, deadline: Deadline) -> Result<(), TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    say(stream, &key.proof(Side::Connecting, binding), deadline).await?;
    if bounded_u8(stream, deadline).await? != PROVED {
        return Err(TransportError::Password);
    }
    let theirs = hear_proof(stream, deadline).await?;
    if key.is_proved_by(Side::Accepting, binding, &theirs) { Ok(()) } else { Err(TransportError::Password) }
}

async fn prove_second<S>(stream: &mut S, key: &ProofKey, binding: &Binding, deadline: Deadline) -> Result<(), TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let theirs = hear_proof(stream, deadline).await?;
    if !key.is_proved_by(Side::Connecting, binding, &theirs) {
        say(stream, &[WRONG], deadline).await?;
        return Err(TransportError::Password);
    }
    let mut answer = [PROVED; 1 + proof::LENGTH];
    answer[1..].copy_from_slice(&key.proof(Side::Accepting, binding));
    say(stream, &answer, deadline).await
}

async fn hear_proof<S: AsyncRead + Unpin>(stream: &mut S, deadline: Deadline) -> Result<[u8; proof::LENGTH], TransportError> {
    let mut proof = [0; proof::LENGTH];
    let read = stream.read_exact(&mut proof);
    deadline.bound("hear the proof of the password", read).await?.map_err(TransportError::from_io)?;
    Ok(proof)
}

async fn bounded_u8<S: AsyncRead + Unpin>(stream: &mut S, deadline: Deadline) -> Result<u8, TransportError> {
    deadline.bound("hear that the other side goes on", stream.read_u8()).await?.map_err(TransportError::from_io)
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8], deadline: Deadline) -> Result<(), TransportError> {
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    deadline.bound("go on with the handshake", write).await?.map_err(TransportError::from_io)
}

fn tls_error(error: std::io::Error) -> TransportError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => TransportError::Closed,
        _ => TransportError::Tls(error),
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, TransportError> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| TransportError::Address { address: host.to_owned(), problem: "no certificate can be for such a host" })
}

/// What stands for this session alone, after checking that it is one that can be stood for.
fn bind<D>(connection: &ConnectionCommon<D>, exchanged: &Exchanged) -> Result<Binding, TransportError> {
    let state: &CommonState = connection;
    if state.protocol_version() != Some(ProtocolVersion::TLSv1_3) || state.alpn_protocol() != Some(material::APPLICATION) {
        return Err(TransportError::Foreign);
    }
    connection
        .export_keying_material([0; 32], proof::BINDING_LABEL, Some(exchanged))
        .map_err(|error| TransportError::Tls(std::io::Error::other(error)))
}

/// A connection, whatever protects it.
pub(super) struct Channel {
    io: Box<dyn Io>,
    checksummed: bool,
}

/// What a connection consists of.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The reading half of a connection.
pub(super) type Reader = FrameReader<ReadHalf<Box<dyn Io>>>;
/// The writing half of a connection.
pub(super) type Writer = FrameWriter<WriteHalf<Box<dyn Io>>>;

impl Channel {
    fn plain(tcp: TcpStream) -> Self {
        Self { io: Box::new(tcp), checksummed: true }
    }

    fn encrypted(stream: impl Io + 'static) -> Self {
        Self { io: Box::new(stream), checksummed: false }
    }

    /// Both directions.
    pub(super) fn split(self) -> (Reader, Writer) {
        let (reader, writer) = tokio::io::split(self.io);
        (FrameReader::new(reader, self.checksummed), FrameWriter::new(writer, self.checksummed))
    }
}
