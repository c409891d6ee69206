//! The replication protocol, as far as it answers questions: `IDENTIFY_SYSTEM` and `TIMELINE_HISTORY`; and the first words
//! of the protocol, which tell whether a server accepts connections.
//!
//! The SQL client cannot open replication connections, so the start of the protocol is spoken here: trust, clear-text,
//! MD5 and SCRAM authentication, with and without TLS.

use std::io;
use std::path::Path;

use bytes::BytesMut;
use dcs_core::Deadline;
use dcs_core::model::Timeline;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::connection::{CONNECT_TIMEOUT, Place, Target};
use super::tls::{self, Attempt};

/// The server is starting up, shutting down or recovering.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// Answers larger than this are not believed.
const LIMIT: usize = 16 << 20;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Something went wrong; the reason in words.
#[derive(Debug, thiserror::Error)]
pub(super) enum WalsenderError {
    /// Reading or writing failed, or the server said something unexpected.
    #[error("replication connection to {target}")]
    Io {
        /// The server.
        target: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server refused.
    #[error("replication connection to {target}: {message}")]
    Refused {
        /// The server.
        target: String,
        /// The server's words.
        message: String,
    },
    /// The deadline passed.
    #[error("replication connection to {0}: no answer in time")]
    Late(String),
}

/// What `IDENTIFY_SYSTEM` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The system identifier.
    pub(super) system_id: String,
    /// The current timeline.
    pub(super) timeline: Timeline,
}

/// An open replication connection.
pub(super) struct Walsender {
    wire: Wire,
    target: String,
}

impl Walsender {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`WalsenderError`] of the last way that was tried.
    pub(super) async fn open(target: &Target, deadline: Deadline) -> Result<Self, WalsenderError> {
        let name = target.to_string();
        let io = |source| WalsenderError::Io { target: name.clone(), source };
        let attempts = tls::attempts(&target.tls).map_err(|error| io(io::Error::other(error.to_string())))?;
        let mut last = io(io::Error::other("no host is configured"));
        for place in target.places() {
            let plain_only = [Attempt::Plain];
            let attempts = if matches!(place, Place::Socket(_)) { &plain_only[..] } else { &attempts[..] };
            for attempt in attempts {
                let limit = deadline.at_most(CONNECT_TIMEOUT);
                let opening = async {
                    let mut wire = Wire::open(&place, target.port, Some(attempt)).await?;
                    wire.log_in(target).await?;
                    if target.writable && wire.is_read_only().await? {
                        return Err(Trouble::unexpected("the server does not allow writes"));
                    }
                    Ok::<_, Trouble>(wire)
                };
                match limit.bound("a replication connection", opening).await {
                    Ok(Ok(wire)) => return Ok(Self { wire, target: name }),
                    Ok(Err(trouble)) => last = trouble.about(&name),
                    Err(_) => last = WalsenderError::Late(name.clone()),
                }
            }
        }
        Err(last)
    }

    /// Which system this is, and on which timeline.
    ///
    /// # Errors
    ///
    /// [`WalsenderError`]
    pub(super) async fn identify(&mut self, deadline: Deadline) -> Result<Identity, WalsenderError> {
        let row = self.ask("IDENTIFY_SYSTEM", deadline).await?.unwrap_or_default();
        let text = |column: usize| row.get(column).and_then(Option::as_ref).map(|value| String::from_utf8_lossy(value));
        let timeline = text(1).and_then(|text| text.parse().ok()).and_then(Timeline::known);
        match (text(0), timeline) {
            (Some(system_id), Some(timeline)) => Ok(Identity { system_id: system_id.into_owned(), timeline }),
            _ => {
                Err(WalsenderError::Io { target: self.target.clone(), source: io::Error::other("an unexpected answer to IDENTIFY_SYSTEM") })
            }
        }
    }

    /// The history file of `timeline`.
    ///
    /// # Errors
    ///
    /// [`WalsenderError`]; also if the server has no such file.
    pub(super) async fn history(&mut self, timeline: Timeline, deadline: Deadline) -> Result<Option<String>, WalsenderError> {
        let row = self.ask(&format!("TIMELINE_HISTORY {timeline}"), deadline).await?;
        Ok(row
            .and_then(|mut row| (row.len() > 1).then(|| row.swap_remove(1))?)
            .map(|content| String::from_utf8_lossy(&content).into_owned()))
    }

    async fn ask(&mut self, command: &str, deadline: Deadline) -> Result<Option<RowValues>, WalsenderError> {
        match deadline.bound("an answer of the WAL sender", self.wire.ask(command)).await {
            Ok(answer) => answer.map_err(|trouble| trouble.about(&self.target)),
            Err(_) => Err(WalsenderError::Late(self.target.clone())),
        }
    }
}

/// What a server says to somebody who knocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It accepts connections.
    Accepting,
    /// It is there and turns everybody away for now.
    Rejecting,
    /// Nobody answers.
    Silent,
}

/// Knocks at a server without logging in, as `pg_isready` does.
pub(super) async fn knock(target: &Target, deadline: Deadline) -> Readiness {
    let mut readiness = Readiness::Silent;
    for place in target.places() {
        let knocking = async {
            let mut wire = Wire::open(&place, target.port, None).await?;
            wire.say_hello(&[("user", &target.user_name()), ("database", &target.dbname)]).await?;
            wire.read().await
        };
        readiness = match deadline.at_most(CONNECT_TIMEOUT).bound("an answer to a knock", knocking).await {
            Ok(Ok(_)) => Readiness::Accepting,
            Ok(Err(Trouble::Refused { code, .. })) if code == CANNOT_CONNECT_NOW => Readiness::Rejecting,
            // Whatever else it refuses, it is able to judge who may connect.
            Ok(Err(Trouble::Refused { .. })) => Readiness::Accepting,
            Ok(Err(Trouble::Io(_))) | Err(_) => Readiness::Silent,
        };
        if readiness != Readiness::Silent {
            break;
        }
    }
    readiness
}

type RowValues = Vec<Option<Vec<u8>>>;

enum Trouble {
    Io(io::Error),
    Refused { code: String, message: String },
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Trouble {
    fn unexpected(what: &str) -> Self {
        Self::Io(io::Error::other(what.to_owned()))
    }

    fn about(self, target: &str) -> WalsenderError {
        let target = target.to_owned();
        match self {
            Self::Io(source) => WalsenderError::Io { target, source },
            Self::Refused { message, .. } => WalsenderError::Refused { target, message },
        }
    }
}

/// The bytes of one connection.
struct Wire {
    stream: Box<dyn Stream>,
    input: BytesMut,
}

impl Wire {
    async fn open(place: &Place, port: u16, attempt: Option<&Attempt>) -> Result<Self, Trouble> {
        let stream: Box<dyn Stream> = match place {
            Place::Socket(directory) => Box::new(UnixStream::connect(socket(directory, port)).await?),
            Place::Host(host) => {
                let stream = TcpStream::connect((host.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                match attempt {
                    None | Some(Attempt::Plain) => Box::new(stream),
                    Some(Attempt::Tls { config, required }) => match Self::encrypt(stream, host, config, *required).await? {
                        Ok(encrypted) => Box::new(encrypted),
                        Err(plain) => Box::new(plain),
                    },
                }
            }
        };
        Ok(Self { stream, input: BytesMut::with_capacity(4096) })
    }

    /// The encrypted stream, or the stream as it was if the server has no TLS and it is not required.
    async fn encrypt(
        mut stream: TcpStream,
        host: &str,
        config: &std::sync::Arc<rustls::ClientConfig>,
        required: bool,
    ) -> Result<Result<tokio_rustls::client::TlsStream<TcpStream>, TcpStream>, Trouble> {
        let mut hello = BytesMut::new();
        frontend::ssl_request(&mut hello);
        stream.write_all(&hello).await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await?;
        if &answer != b"S" {
            return if required { Err(Trouble::unexpected("the server does not support TLS")) } else { Ok(Err(stream)) };
        }
        let name = rustls_pki_types::ServerName::try_from(host.to_owned())
            .map_err(|_| Trouble::unexpected("the host name cannot be used for TLS"))?;
        Ok(Ok(tokio_rustls::TlsConnector::from(std::sync::Arc::clone(config)).connect(name, stream).await?))
    }

    async fn say_hello(&mut self, parameters: &[(&str, &str)]) -> Result<(), Trouble> {
        let mut output = BytesMut::new();
        frontend::startup_message(parameters.iter().copied(), &mut output)?;
        Ok(self.stream.write_all(&output).await?)
    }

    async fn say(&mut self, encode: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), Trouble> {
        let mut output = BytesMut::new();
        encode(&mut output)?;
        Ok(self.stream.write_all(&output).await?)
    }

    /// The next message; errors of the server are errors, notices are skipped.
    async fn read(&mut self) -> Result<Message, Trouble> {
        loop {
            loop {
                let error = self.complete_error().map(refusal);
                let Some(message) = Message::parse(&mut self.input)? else { break };
                match message {
                    Message::ErrorResponse(_) => {
                        return Err(error.unwrap_or_else(|| Trouble::unexpected("an unreadable error")));
                    }
                    Message::NoticeResponse(_) | Message::ParameterStatus(_) | Message::BackendKeyData(_) => {}
                    message => return Ok(message),
                }
            }
            if self.input.len() > LIMIT {
                return Err(Trouble::unexpected("an oversized answer"));
            }
            self.input.reserve(4096);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(Trouble::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The content of the error response at the beginning of the input, if there is a complete one. The decoder only shows
    /// its fields through a trait of another crate.
    fn complete_error(&self) -> Option<&[u8]> {
        let rest = self.input.strip_prefix(b"E")?;
        let length = usize::try_from(i32::from_be_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
        rest.get(4..length)
    }

    async fn log_in(&mut self, target: &Target) -> Result<(), Trouble> {
        let user = target.user_name();
        self.say_hello(&[("user", &user), ("replication", "true"), ("application_name", "Patroni")]).await?;
        let password =
            || target.password_text().ok_or_else(|| Trouble::unexpected("the server asks for a password, and none is configured"));
        loop {
            match self.read().await? {
                Message::AuthenticationOk => {}
                Message::AuthenticationCleartextPassword => {
                    let password = password()?;
                    self.say(|output| frontend::password_message(password.as_bytes(), output)).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(user.as_bytes(), password()?.as_bytes(), body.salt());
                    self.say(|output| frontend::password_message(hash.as_bytes(), output)).await?;
                }
                Message::AuthenticationSasl(_) => self.scram(&password()?).await?,
                Message::ReadyForQuery(_) => return Ok(()),
                _ => return Err(Trouble::unexpected("an authentication method that is not supported")),
            }
        }
    }

    /// SCRAM-SHA-256 without channel binding, which every server that offers the variant with it accepts too.
    async fn scram(&mut self, password: &str) -> Result<(), Trouble> {
        let mut scram = sasl::ScramSha256::new(password.as_bytes(), sasl::ChannelBinding::unsupported());
        self.say(|output| frontend::sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), output)).await?;
        let Message::AuthenticationSaslContinue(body) = self.read().await? else {
            return Err(Trouble::unexpected("SCRAM was not continued"));
        };
        scram.update(body.data())?;
        self.say(|output| frontend::sasl_response(scram.message(), output)).await?;
        let Message::AuthenticationSaslFinal(body) = self.read().await? else {
            return Err(Trouble::unexpected("SCRAM was not finished"));
        };
        Ok(scram.finish(body.data())?)
    }

    /// Whether the server refuses writes: of several hosts that are named, only the primary's histories count.
    async fn is_read_only(&mut self) -> Result<bool, Trouble> {
        let row = self.ask("SHOW transaction_read_only").await?.unwrap_or_default();
        Ok(row.first().and_then(Option::as_deref) != Some(b"off"))
    }

    /// Runs a command; the values of its last row.
    async fn ask(&mut self, command: &str) -> Result<Option<RowValues>, Trouble> {
        self.say(|output| frontend::query(command, output)).await?;
        let mut last = None;
        loop {
            match self.read().await? {
                Message::DataRow(body) => {
                    last = Some(values(body.buffer()).ok_or_else(|| Trouble::unexpected("a torn row"))?);
                }
                Message::ReadyForQuery(_) => return Ok(last),
                _ => {}
            }
        }
    }
}

/// The values of a data row: a length and that many bytes each; length -1 is NULL.
fn values(mut row: &[u8]) -> Option<RowValues> {
    let mut values = Vec::new();
    while !row.is_empty() {
        let (length, rest) = row.split_at_checked(4)?;
        let length = i32::from_be_bytes(length.try_into().ok()?);
        row = rest;
        if let Ok(length) = usize::try_from(length) {
            let (value, rest) = row.split_at_checked(length)?;
            values.push(Some(value.to_vec()));
            row = rest;
        } else {
            values.push(None);
        }
    }
    Some(values)
}

/// What the server says in an error response: a list of a kind and a zero-terminated text each.
fn refusal(frame: &[u8]) -> Trouble {
    let field = |kind: u8| {
        frame
            .split(|byte| *byte == 0)
            .find_map(|field| field.strip_prefix(&[kind]))
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .unwrap_or_default()
    };
    Trouble::Refused { code: field(b'C'), message: field(b'M') }
}

fn socket(directory: &Path, port: u16) -> std::path::PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

#[cfg(test)]
mod tests {
    use dcs_core::Deadline;
    use std::time::Duration;

    use super::{Readiness, Trouble, knock, refusal, values};
    use crate::postgres::connection::Target;
    use crate::settings::Credentials;

    #[test]
    fn rows_and_errors_are_taken_apart() {
        assert_eq!(values(b"\0\0\0\x02hi\xff\xff\xff\xff"), Some(vec![Some(b"hi".to_vec()), None]));
        assert_eq!(values(b"\0\0\0\x09hi"), None);
        let Trouble::Refused { code, message } = refusal(b"SFATAL\0C57P03\0Mgo away\0\0") else { panic!("not refused") };
        assert_eq!((code.as_str(), message.as_str()), ("57P03", "go away"));
    }

    #[tokio::test]
    async fn nobody_answers_on_an_unused_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let target = Target::new("127.0.0.1", port, &Credentials::default(), "postgres");
        assert_eq!(knock(&target, Deadline::after(Duration::from_secs(5))).await, Readiness::Silent);
    }
}
