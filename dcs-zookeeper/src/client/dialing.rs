//! Dialing: which server is tried, with which session, and for how long.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dcs_core::{Deadline, Timing};
use zookeeper_client as zk;

use super::{Client, Hosts, ROOT, Settings, end_when_idle};
use crate::connection::{Connection, connect};
use crate::diagnosis;
use crate::error::Failure;
use crate::host::Host;
use crate::session::Session;

impl Client {
    /// Goes through the servers once, beginning after the one that was used last.
    pub(super) async fn go_through_servers(&self) -> Result<(), Failure> {
        let hosts = match &self.0.hosts {
            Hosts::Fixed(hosts) => hosts.clone(),
            Hosts::Exhibitor(exhibitor) => exhibitor.servers().await?,
        };
        let settings = self.settings().clone();
        let first = *self.slot().first.get_or_insert_with(|| fastrand::usize(..hosts.len().max(1)));
        let (mut unreachable, mut lasting) = (None, None);
        for offset in 0..hosts.len() {
            let index = (first + offset) % hosts.len();
            loop {
                match self.try_host(&hosts[index], &settings).await {
                    Ok(connection) => {
                        if self.use_from_now_on(connection, index) {
                            return Ok(());
                        }
                        // Its session was left meanwhile: once more, with another one.
                        continue;
                    }
                    Err(Failure::Unreachable(said)) => {
                        tracing::debug!("cannot use a server of ZooKeeper: {said}");
                        unreachable.get_or_insert(index);
                    }
                    Err(failure) => lasting = Some(failure),
                }
                break;
            }
        }
        Err(match (lasting, unreachable) {
            (Some(failure), _) => failure,
            // The library keeps the cause to itself. Looking for it takes time, which the next server must not wait for.
            (None, Some(index)) => Failure::Unreachable(diagnosis::of(&hosts[index], settings.access.tls.as_ref()).await),
            (None, None) => Failure::NoHosts("no server is known".to_owned()),
        })
    }

    /// `false`: its session was left while it was being resumed.
    fn use_from_now_on(&self, connection: Connection, index: usize) -> bool {
        let mut slot = self.slot();
        if slot.disowned.contains(&connection.session.id) {
            connection.give_up(&"its session is left");
            return false;
        }
        // After this one fails, the next one is tried first.
        slot.first = Some(index + 1);
        slot.session = Some(Arc::clone(&connection.session));
        tracing::debug!(server = connection.server, session = format!("{:#x}", connection.session.id), "connected to ZooKeeper");
        let serial = connection.serial;
        let connection = Arc::new(connection);
        tokio::spawn(end_when_idle(Arc::downgrade(&self.0), Arc::downgrade(&connection)));
        slot.connection = Some(connection);
        drop(slot);
        self.0.in_use.send_replace(serial);
        true
    }

    /// Connects to one host: to each of its addresses in turn, or by its name where a certificate has to be for it.
    async fn try_host(&self, host: &Host, settings: &Settings) -> Result<Connection, Failure> {
        let limit = connect_timeout(settings.timing);
        let unreachable = |error: &dyn fmt::Display| Failure::Unreachable(format!("{host}: {error}"));
        let targets = if settings.access.tls.is_some() {
            vec![format!("tcp+tls://{host}")]
        } else {
            let looked_up = Deadline::after(limit).bound("look up a name", tokio::net::lookup_host((host.name.as_str(), host.port)));
            let addresses = looked_up.await.map_err(|late| unreachable(&late))?.map_err(|error| unreachable(&error))?;
            addresses.map(|address| format!("tcp://{address}")).collect()
        };
        let mut failure = unreachable(&"the name has no address");
        for target in targets {
            match Deadline::after(limit).bound("connect", self.try_target(&target, host, settings)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => failure = error,
                Err(late) => failure = unreachable(&late),
            }
        }
        Err(failure)
    }

    async fn try_target(&self, target: &str, host: &Host, settings: &Settings) -> Result<Connection, Failure> {
        let session = self.session();
        if let Some(session) = session {
            match self.establish(target, host, settings, Some(&session)).await {
                Err(failure) if failure.is_expiry() => {
                    tracing::info!(session = format!("{:#x}", session.id), "our session is gone from ZooKeeper");
                    self.forget(&session);
                }
                outcome => return outcome,
            }
        }
        self.establish(target, host, settings, None).await
    }

    fn forget(&self, session: &Session) {
        let mut slot = self.slot();
        if slot.session.as_ref().is_some_and(|current| current.id == session.id) {
            slot.session = None;
        }
    }

    async fn establish(
        &self,
        target: &str,
        host: &Host,
        settings: &Settings,
        resume: Option<&Arc<Session>>,
    ) -> Result<Connection, Failure> {
        let asked = resume.map_or(settings.timing.ttl, |session| session.asked);
        let silence = silence(settings.timing);
        let mut connector =
            zk::Client::connector().with_session_timeout(asked).with_connection_timeout(silence).with_fail_eagerly().with_detached();
        for (scheme, credential) in &settings.access.auth {
            connector = connector.with_auth(scheme, credential.as_bytes());
        }
        if let Some(tls) = &settings.access.tls {
            let (settings, of) = (tls.clone(), host.clone());
            let options = tokio::task::spawn_blocking(move || crate::tls::options(&settings, &of)).await;
            let options = options.map_err(|error| Failure::Unreachable(error.to_string()))?;
            connector = connector.with_tls(options.map_err(|error| Failure::Tls(Arc::new(error)))?);
        }
        if let Some(session) = resume {
            connector = connector.with_session(session.info.clone());
        }
        let sent_at = self.now();
        let connected = connect(connector, target).await.map_err(|error| match error {
            zk::Error::SessionExpired if resume.is_some() => error.into(),
            zk::Error::AuthFailed => Failure::Credentials,
            error => Failure::Unreachable(format!("{host}: {error}")),
        })?;
        let granted = connected.client.session_timeout();
        let idle = ping_interval(silence, granted);
        let (session, before) = match resume {
            Some(session) => (Arc::clone(session), session.is_resumed(granted, idle, sent_at)),
            None => (Arc::new(Session::new(connected.client.session().clone(), asked, granted, idle, sent_at)), asked),
        };
        if granted < asked && granted != before {
            tracing::warn!(
                server = %host,
                ?asked,
                ?granted,
                "ZooKeeper grants a shorter session than the ttl, and the leader lock is believed in only as long as that; see `maxSessionTimeout` and `tickTime`"
            );
        }
        let connection = Connection::new(self.next_serial(), host.to_string(), session, settings.version, connected);
        // A server may be behind the last one that we have read from. It must not show us an older state.
        let caught_up = self
            .ask_on(&connection, Deadline::after(connect_timeout(settings.timing)), |client| async move { Ok(client.sync(ROOT).await?) });
        caught_up.await.map_err(|failure| match failure {
            failure if failure.is_expiry() => failure,
            failure => Failure::Unreachable(format!("{host}: {failure}")),
        })?;
        Ok(connection)
    }

    fn next_serial(&self) -> u64 {
        let mut slot = self.slot();
        slot.serial += 1;
        slot.serial
    }
}

/// How long connecting to one server may take.
fn connect_timeout(timing: Timing) -> Duration {
    (timing.retry_timeout / 2).max(Duration::from_secs(1))
}

/// How long a server may be silent, pings included.
fn silence(timing: Timing) -> Duration {
    connect_timeout(timing)
}

/// How often the library pings a server that was told to be given up after `silence`.
fn ping_interval(silence: Duration, granted: Duration) -> Duration {
    let silence = if silence > granted * 3 / 5 { granted * 2 / 5 } else { silence };
    (silence * 3 / 8).min(Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::*;
    use super::*;

    /// A connection to a server that grants everybody the same session, and then is gone.
    async fn connection(serial: u64) -> Connection {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("tcp://{}", listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut answer = Vec::new();
            for number in [37_i32, 0, 8000] {
                answer.extend(number.to_be_bytes());
            }
            answer.extend(7_i64.to_be_bytes());
            answer.extend(16_i32.to_be_bytes());
            answer.extend([1; 16]);
            answer.push(0);
            // A session, and then a ping's answer.
            for answer in [answer, [16_i32, -2, 0, 0, 0].map(i32::to_be_bytes).concat()] {
                let length = stream.read_i32().await.unwrap();
                stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        };
        let ((), connected) = tokio::join!(serve, connect(zk::Client::connector().with_detached(), &target));
        let connected = connected.unwrap();
        let second = Duration::from_secs(1);
        let session = Session::new(connected.client.session().clone(), 8 * second, 8 * second, second, Moment::ZERO);
        Connection::new(serial, target, Arc::new(session), 0, connected)
    }

    #[tokio::test]
    async fn a_session_that_was_left_is_not_brought_back_by_a_dial_that_was_under_way() {
        let section = serde_json::json!({"hosts": "a"});
        let config = Config::from_section(section.as_object().unwrap()).unwrap();
        let second = Duration::from_secs(1);
        let timing = Timing { ttl: 8 * second, loop_wait: second, retry_timeout: second };
        let client = Client::new(&config, timing, Arc::new(dcs_core::BootClock));
        assert!(client.use_from_now_on(connection(1).await, 0));
        let first = client.slot().connection.clone().unwrap();
        assert_eq!(client.session().map(|session| session.id), Some(7));
        client.disown(&first);
        assert!(client.session().is_none());
        assert!(!client.use_from_now_on(connection(2).await, 0));
        assert!(client.session().is_none());
        assert_eq!(client.slot().connection.as_ref().map(|connection| connection.serial), Some(1));
        client.slot().session = Some(Arc::clone(&first.session));
        assert!(client.session().is_none());
    }

    #[test]
    fn a_silent_server_is_noticed_well_within_the_session() {
        let seconds = Duration::from_secs;
        let timing = |ttl, loop_wait, retry_timeout| Timing {
            ttl: seconds(ttl),
            loop_wait: seconds(loop_wait),
            retry_timeout: seconds(retry_timeout),
        };
        assert_eq!(silence(timing(30, 10, 10)), seconds(5));
        assert_eq!(silence(timing(5, 1, 1)), seconds(1));
        assert_eq!(ping_interval(seconds(5), seconds(30)), Duration::from_millis(1875));
        // The library takes two fifths of a session that is too short for what it was told.
        assert_eq!(ping_interval(seconds(5), seconds(4)), Duration::from_millis(600));
    }
}
