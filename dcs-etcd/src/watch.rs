//! A watch of the gRPC API: one stream on the prefix.

use std::sync::Arc;

use async_trait::async_trait;
use dcs_core::model::Revision;
use dcs_core::{Change, ChangeKind, Deadline};
use etcd_client::{EventType, WatchOptions, WatchResponse};

use crate::client::Client;
use crate::connect::Connection;
use crate::failure::Failure;
use crate::history::{Header, Proof, Standing};
use crate::store::entry;
use crate::watcher::{Ended, Log, Watches, give_up, switched};
use crate::wire::Wire;

#[async_trait]
impl Watches for Connection {
    async fn watch(client: &Client<Self>, connection: &Arc<Self>, prefix: &str, log: &Log) -> Ended {
        let ended = stream(client, connection, prefix, log).await;
        log.hears_nothing();
        ended
    }
}

async fn stream(client: &Client<Connection>, connection: &Connection, prefix: &str, log: &Log) -> Ended {
    let mut in_use = client.in_use();
    let seen = log.seen();
    let from = client.revision(seen);
    let start = from.and_then(|revision| i64::try_from(revision).ok()).map_or(0, |revision| revision + 1);
    let options = WatchOptions::new().with_prefix().with_progress_notify().with_start_revision(start);

    // Opening the stream and the first answer on it together get one server's share of time.
    let deadline = Deadline::after(client.share());
    let opening = async {
        let mut stream = connection.watch().watch(prefix, Some(options)).await?;
        let first = stream.message().await?;
        Ok::<_, etcd_client::Error>((stream, first))
    };
    let (mut stream, mut next) = match deadline.bound("open a watch", opening).await {
        Ok(Ok((stream, first))) => (stream, first),
        Ok(Err(error)) => return give_up(client, connection, error.into()),
        Err(expired) => return give_up(client, connection, Failure::lost(expired)),
    };
    if from.is_none() {
        // The cluster has begun another history. This watch begins now; what was before has no name.
        let now = next.as_ref().and_then(WatchResponse::header).map(Header::from).unwrap_or_default();
        log.skip_to(client.cursor(now.revision));
    }
    loop {
        let Some(response) = next else { return give_up(client, connection, Failure::lost("the watch has ended")) };
        if let Some(ended) = take_in(client, connection, &response, log) {
            return ended;
        }
        next = tokio::select! {
            message = stream.message() => match message {
                Ok(message) => message,
                Err(error) => return give_up(client, connection, error.into()),
            },
            () = switched(&mut in_use, connection.serial()) => return Ended::Again,
            () = log.has_to_renew() => return Ended::Again,
        };
    }
}

fn take_in(client: &Client<Connection>, connection: &Connection, response: &WatchResponse, log: &Log) -> Option<Ended> {
    let header = response.header().map(Header::from).unwrap_or_default();
    if client.observe(header, Proof::OneServer { floor: 0 }) == Standing::Behind {
        return Some(give_up(client, connection, Failure::lost("it is behind the other servers")));
    }
    if response.canceled() {
        if response.compact_revision() > 0 {
            let oldest = u64::try_from(response.compact_revision()).unwrap_or_default();
            tracing::debug!(oldest, "what the watch missed was compacted away");
            log.skip_to(client.cursor(oldest.saturating_sub(1)));
            return Some(Ended::Again);
        }
        let status = tonic::Status::unknown(response.cancel_reason());
        return Some(give_up(client, connection, etcd_client::Error::GRpcStatus(status).into()));
    }
    log.hears(connection.serial(), header.term);
    let mut changes = Vec::new();
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        let kind = match event.event_type() {
            EventType::Delete => ChangeKind::Deleted,
            EventType::Put if kv.create_revision() == kv.mod_revision() => ChangeKind::Created,
            EventType::Put => ChangeKind::Changed,
        };
        // A key that is not valid UTF-8 is somebody else's; that something happened is told all the same.
        let key = String::from_utf8_lossy(kv.key()).into_owned();
        let at = client.cursor(u64::try_from(kv.mod_revision()).unwrap_or_default());
        let entry = if kind == ChangeKind::Deleted { None } else { entry(kv) };
        changes.push((at, Change { key, kind, revision: Some(Revision::from(kv.mod_revision())), entry }));
    }
    if !changes.is_empty() {
        log.add(changes);
    }
    // Only a message without events says how far the server has come: one with events may be followed by older ones than
    // its header.
    if response.events().is_empty() && !response.created() {
        log.advance(client.cursor(header.revision));
    }
    None
}
