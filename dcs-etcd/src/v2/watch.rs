//! A watch of the v2 API: one long poll after the other on the lock.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::model::Revision;
use dcs_core::{Change, ChangeKind, Deadline};

use super::answer::{Event, code};
use super::connection::{Connection, Request, header_of};
use crate::client::Client;
use crate::failure::Failure;
use crate::history::{Proof, Standing};
use crate::watcher::{Ended, Log, Watches, give_up, switched};
use crate::wire::Wire;

/// After a renewal by the leader, which writes its status next: whoever is woken by it shall see that, too.
const AFTER_A_RENEWAL: Duration = Duration::from_millis(10);

#[async_trait]
impl Watches for Connection {
    async fn watch(client: &Client<Self>, connection: &Arc<Self>, prefix: &str, log: &Log) -> Ended {
        let key = format!("{prefix}leader");
        let mut in_use = client.in_use();
        tokio::select! {
            ended = poll(client, connection, &key, log) => ended,
            () = switched(&mut in_use, connection.serial()) => Ended::Again,
        }
    }
}

/// One long poll. A leader's renewals end it every `loop_wait`; it ends by itself a while later, because nothing else tells a
/// silent connection from a quiet store.
async fn poll(client: &Client<Connection>, connection: &Connection, key: &str, log: &Log) -> Ended {
    let from = client.revision(log.seen());
    let request = Request::get(key).with("wait", true);
    let request = match from {
        Some(index) => request.with("waitIndex", index + 1),
        None => request,
    };
    let opening = Deadline::after(client.share());
    let response = match opening.bound("a watch", connection.begin(&request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(failure)) => return give_up(client, connection, connection.explain(failure)),
        Err(expired) => return give_up(client, connection, Failure::lost(expired)),
    };
    let header = header_of(response.headers());
    if client.observe(header, Proof::OneServer { floor: 0 }) == Standing::Behind {
        return give_up(client, connection, Failure::lost("it is behind the other servers"));
    }
    if from.is_none() {
        // The cluster has begun another history. This watch begins now; what was before has no name.
        log.skip_to(client.cursor(header.revision));
    }
    let timing = client.timing();
    let end = Deadline::after(timing.loop_wait + timing.retry_timeout);
    let reply = match end.bound("a change", connection.finish(response)).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(failure)) => return give_up(client, connection, failure),
        Err(_) => return Ended::Again,
    };
    match reply.outcome {
        Ok(event) => {
            if event.action == "compareAndSwap" {
                tokio::time::sleep(AFTER_A_RENEWAL).await;
            }
            let index = event.node.modified_index;
            let change = Change { key: key.to_owned(), kind: kind_of(&event), revision: Some(Revision::from(index)), entry: None };
            log.add(vec![(client.cursor(index), change)]);
            Ended::Again
        }
        Err(problem) if problem.error_code == code::INDEX_CLEARED => {
            tracing::debug!(now = problem.index, "what the watch missed is forgotten");
            log.skip_to(client.cursor(problem.index));
            Ended::Again
        }
        Err(problem) => give_up(client, connection, super::error::failure(problem)),
    }
}

fn kind_of(event: &Event) -> ChangeKind {
    match event.action.as_str() {
        "delete" | "expire" | "compareAndDelete" => ChangeKind::Deleted,
        "create" => ChangeKind::Created,
        "set" if event.prev_node.is_none() => ChangeKind::Created,
        _ => ChangeKind::Changed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_told_by_the_action() {
        let cases = [
            ("create", false, ChangeKind::Created),
            ("set", false, ChangeKind::Created),
            ("set", true, ChangeKind::Changed),
            ("update", true, ChangeKind::Changed),
            ("compareAndSwap", true, ChangeKind::Changed),
            ("compareAndDelete", true, ChangeKind::Deleted),
            ("delete", true, ChangeKind::Deleted),
            ("expire", true, ChangeKind::Deleted),
        ];
        for (action, existed, kind) in cases {
            let event = Event { action: action.to_owned(), node: Default::default(), prev_node: existed.then(Default::default) };
            assert_eq!(kind_of(&event), kind, "{action}");
        }
    }
}
