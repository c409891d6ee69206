//! A small replicated key-value store. One process is one node; a terminal each.
//!
//! ```sh
//! cargo run -p dcs-raft --example store -- 127.0.0.1:7001 127.0.0.1:7002,127.0.0.1:7003 /tmp/store1
//! cargo run -p dcs-raft --example store -- 127.0.0.1:7002 127.0.0.1:7001,127.0.0.1:7003 /tmp/store2
//! cargo run -p dcs-raft --example store -- 127.0.0.1:7003 127.0.0.1:7001,127.0.0.1:7002 /tmp/store3
//! ```
//!
//! Each reads commands: `put KEY VALUE`, `get KEY`, `delete KEY`, `list [PREFIX]`, `status`. What one of them writes the
//! others read at once, and it is still there when all of them were stopped. Without arguments it is a node alone that keeps
//! its files only while it runs.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::{BootClock, Consistency, Deadline, Expect, KeyValueStore, Timing};
use dcs_raft::message::{Request, Response};
use dcs_raft::{Config, Node, RaftStore};
use tokio::io::{AsyncBufReadExt as _, BufReader};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const TIMING: Timing = Timing { ttl: Duration::from_secs(30), loop_wait: Duration::from_secs(10), retry_timeout: Duration::from_secs(10) };

async fn answer(line: &str, node: &Node, store: &RaftStore) -> Outcome<String> {
    let deadline = Deadline::after(TIMING.retry_timeout);
    let mut words = line.splitn(3, ' ');
    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
    Ok(match (words.next().unwrap_or_default(), words.next(), words.next()) {
        ("put", Some(key), Some(value)) => format!("{:?}", store.put(key, value.as_bytes(), Expect::Any, deadline).await?),
        ("get", Some(key), None) => store.get(key, deadline).await?.map_or("nothing".to_owned(), |entry| text(entry.value)),
        ("delete", Some(key), None) => format!("{:?}", store.delete(key, Expect::Any, deadline).await?),
        ("list", prefix, None) => {
            let snapshot = store.read(prefix.unwrap_or_default(), Consistency::Linearizable, deadline).await?;
            let lines = snapshot.entries.into_iter().map(|entry| format!("{} = {}", entry.key, text(entry.value)));
            lines.collect::<Vec<_>>().join("\n")
        }
        ("status", None, None) => match node.request(Request::Status).await {
            Response::Status(status) => {
                let leader = status.leader.as_deref().unwrap_or("nobody");
                format!(
                    "{:?} in term {}, led by {leader}, {} of {} entries applied",
                    status.role, status.term, status.applied, status.last_index
                )
            }
            Response::Unknown(why) => why,
            _ => "no answer".to_owned(),
        },
        _ => "put KEY VALUE, get KEY, delete KEY, list [PREFIX], status".to_owned(),
    })
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let temporary = tempfile::tempdir()?;
    let mut arguments = std::env::args().skip(1);
    let section = serde_json::json!({
        "self_addr": arguments.next().unwrap_or_else(|| "127.0.0.1:7001".to_owned()),
        "partner_addrs": arguments.next().unwrap_or_default(),
        "data_dir": arguments.next().map_or_else(|| temporary.path().to_owned(), Into::into),
        "password": "a long random text",
    });
    let config = Config::from_section(section.as_object().ok_or("a section")?)?;
    let node = Node::start(config, Arc::new(BootClock)).await?;
    let store = RaftStore::new(node.cluster(), TIMING, Arc::new(BootClock));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match answer(line.trim(), &node, &store).await {
            Ok(text) => println!("{text}"),
            Err(error) => println!("error: {error}"),
        }
    }
    node.stop().await;
    Ok(())
}
