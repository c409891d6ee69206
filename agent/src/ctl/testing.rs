//! What the tests of the tool share: a whole tool over a store in memory, with scripted answers and agents.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::codec::{RawValue, decode_view};
use dcs_core::keys::{ClusterPath, Key};
use dcs_core::memory::Server;
use dcs_core::model::{ClusterView, MemberName, Revision};
use dcs_core::{Dcs, Deadline, Expect, KeyValueStore, Timing, TokioClock};
use http::Method;
use jiff::tz::{Offset, TimeZone};
use serde_json::Value;

use super::agents::{Agents, Answer, Unreachable};
use super::arguments::{Invocation, Parsed};
use super::context::{Context, Stores};
use super::editor::Programs;
use super::failure::Failure;
use super::prompt::{Answers, Console};
use super::settings::Settings;
use super::time::LocalTime;
use super::tool::execute;

/// The view of a cluster whose store holds these keys, relative to its path.
pub(crate) fn view(keys: &[(&str, &str)]) -> ClusterView {
    let revision = Revision::new("1");
    decode_view(keys.iter().map(|(key, value)| {
        let key = Key::parse(key).expect("a key of the cluster");
        (key, RawValue { bytes: value.as_bytes(), revision: &revision, handle: None })
    }))
}

/// A leader and two standbys with agents at `http://<name>:8008`.
pub(crate) const DEMO: [(&str, &str); 6] = [
    ("initialize", "7710433467121207389"),
    ("leader", "pg0"),
    ("status", r#"{"optime":67171424}"#),
    (
        "members/pg0",
        r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://pg0:8008/patroni","state":"running",
            "role":"primary","version":"4.1.4","xlog_location":67171424,"timeline":1}"#,
    ),
    (
        "members/pg1",
        r#"{"conn_url":"postgres://10.0.0.2:5432/postgres","api_url":"http://pg1:8008/patroni","state":"running",
            "role":"replica","version":"4.1.4","xlog_location":67171424,"receive_lsn":67171424,"replay_lsn":67171424,
            "replication_state":"streaming","timeline":1}"#,
    ),
    (
        "members/pg2",
        r#"{"conn_url":"postgres://10.0.0.3:5432/postgres","api_url":"http://pg2:8008/patroni","state":"running",
            "role":"replica","version":"4.1.4","xlog_location":67171424,"receive_lsn":67171424,"replay_lsn":67171424,
            "replication_state":"streaming","timeline":1,"tags":{"nofailover":true}}"#,
    ),
];

/// A tool with everything around it.
pub(crate) struct Tool {
    pub(crate) settings: Settings,
    pub(crate) programs: Programs,
    server: Arc<Server>,
    answers: Vec<Step>,
    agents: Scripted,
    printed: Captured,
    #[cfg(feature = "raft")]
    pub(crate) raft: Result<dcs_raft::Config, String>,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Everything on standard output.
    pub(crate) printed: String,
    /// Why it failed, if it did.
    pub(crate) failure: Option<Failure>,
    /// The requests that agents got.
    pub(crate) requests: Vec<String>,
}

impl Outcome {
    /// Standard output, with standard error and the exit status below it.
    pub(crate) fn whole(&self) -> String {
        let report = self.failure.as_ref().and_then(Failure::report).unwrap_or_default();
        let status = self.failure.as_ref().map_or(0, Failure::exit_status);
        format!("{}\n--- stderr\n{report}--- exit {status}\n", self.printed)
    }

    /// The message of the failure.
    pub(crate) fn error(&self) -> String {
        self.failure.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// What was printed after the first member table.
    pub(crate) fn after_table(&self) -> &str {
        let last_rule = self.printed.rfind("-+\n").map_or(0, |at| at + 3);
        &self.printed[last_rule..]
    }
}

enum Step {
    Say(String),
    Put(Arc<Server>, String, String),
}

impl Tool {
    /// A tool over a store in which the cluster `demo` has these keys.
    pub(crate) async fn with(keys: &[(&str, &str)]) -> Self {
        let wall = "2030-01-01T10:00:00.123456Z".parse().expect("a timestamp");
        let server = Server::new(Arc::new(TokioClock::starting_at(wall)));
        let tool = Self {
            settings: Settings { servers: "memory".to_owned(), ..Settings::default() },
            programs: Programs::default(),
            server,
            answers: Vec::new(),
            agents: Scripted::default(),
            printed: Captured::default(),
            #[cfg(feature = "raft")]
            raft: Err("no nodes".to_owned()),
        };
        for (key, value) in keys {
            put(&tool.server, key, value).await;
        }
        tool
    }

    /// The same with these answers at the prompts; then the input ends.
    pub(crate) fn answering(mut self, answers: &[&str]) -> Self {
        self.answers.extend(answers.iter().map(|answer| Step::Say((*answer).to_owned())));
        self
    }

    /// The same with somebody else changing a key before the next answer.
    pub(crate) fn meanwhile(mut self, key: &str, value: &str) -> Self {
        self.answers.push(Step::Put(Arc::clone(&self.server), key.to_owned(), value.to_owned()));
        self
    }

    /// The same with an agent that answers requests such as `POST http://pg0:8008/reload`. Several answers to the same
    /// request come one after the other; the last one stays.
    pub(crate) fn agent(self, request: &str, status: u16, text: &str) -> Self {
        let answer = Answer { status, text: text.to_owned() };
        self.agents.lock().scripts.push((request.to_owned(), answer));
        self
    }

    /// Runs a command line, without the program's name.
    pub(crate) async fn run(&mut self, arguments: &[&str]) -> Outcome {
        let line = std::iter::once(&"quoratectl").chain(arguments).map(OsString::from);
        let (command, name) = match Invocation::parse(line) {
            Ok(Parsed::Run(invocation)) => {
                let name = invocation.command.name();
                (invocation.command, name)
            }
            Ok(Parsed::Help(printed)) => return Outcome { printed, failure: None, requests: Vec::new() },
            Err(failure) => return Outcome { printed: String::new(), failure: Some(failure), requests: Vec::new() },
        };
        let printed = Captured::default();
        self.printed = printed.clone();
        let answers = ScriptedAnswers(self.answers.drain(..).collect());
        let mut context = Context {
            program: "quoratectl".to_owned(),
            command: name,
            settings: self.settings.clone(),
            console: Console::new(Box::new(printed.clone()), false, Box::new(answers)),
            time: LocalTime::new(Arc::clone(self.server.clock()), TimeZone::fixed(Offset::constant(2))),
            stores: Box::new(MemoryStores(Arc::clone(&self.server))),
            #[cfg(feature = "raft")]
            raft: self.raft.clone(),
            agents: Box::new(self.agents.clone()),
            programs: self.programs.clone(),
        };
        let failure = execute(&mut context, command).await.err();
        let requests = std::mem::take(&mut self.agents.lock().seen);
        Outcome { printed: printed.text(), failure, requests }
    }

    /// What the last command has printed, even if it did not end.
    pub(crate) fn printed_so_far(&self) -> String {
        self.printed.text()
    }

    /// Everything in the store, as one text.
    pub(crate) fn everything_stored(&self) -> String {
        format!("{:?}", self.server.entries())
    }

    /// A stored value, relative to the cluster's path.
    pub(crate) fn stored(&self, key: &str) -> Option<String> {
        let key = format!("/service/demo/{key}");
        let entry = self.server.entries().into_iter().find(|entry| entry.key == key)?;
        String::from_utf8(entry.value).ok()
    }

    /// Somebody else changes a key now.
    pub(crate) fn put_later(&self, key: &'static str, value: &'static str, after: Duration) {
        let server = Arc::clone(&self.server);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            put(&server, key, value).await;
        });
    }
}

async fn put(server: &Arc<Server>, key: &str, value: &str) {
    let client = server.client(timing());
    let key = format!("/service/demo/{key}");
    let deadline = Deadline::after(Duration::from_secs(1));
    client.put(&key, value.as_bytes(), Expect::Any, deadline).await.expect("the store in memory works");
}

fn timing() -> Timing {
    let seconds = Duration::from_secs;
    Timing { ttl: seconds(30), loop_wait: seconds(10), retry_timeout: seconds(10) }
}

struct MemoryStores(Arc<Server>);

#[async_trait]
impl Stores for MemoryStores {
    async fn open(&self, scope: &str, group: Option<u32>) -> Result<Arc<dyn Dcs>, Failure> {
        let path = ClusterPath::new(None, scope);
        let path = group.map_or(path.clone(), |group| path.group(group));
        Ok(self.0.dcs(path, MemberName::from(""), timing()))
    }
}

/// Output that a test reads.
#[derive(Clone, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).expect("the output is text")
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A conversation with these answers; then the input ends.
#[cfg(feature = "raft")]
pub(crate) fn console(printed: &Captured, answers: &[&str]) -> Console {
    let answers = ScriptedAnswers(answers.iter().map(|answer| Step::Say((*answer).to_owned())).collect());
    Console::new(Box::new(printed.clone()), false, Box::new(answers))
}

struct ScriptedAnswers(VecDeque<Step>);

#[async_trait]
impl Answers for ScriptedAnswers {
    async fn line(&mut self) -> io::Result<Option<String>> {
        while let Some(step) = self.0.pop_front() {
            match step {
                Step::Say(answer) => return Ok(Some(answer)),
                Step::Put(server, key, value) => put(&server, &key, &value).await,
            }
        }
        Ok(None)
    }

    async fn rest(&mut self) -> io::Result<String> {
        let mut text = String::new();
        while let Some(line) = self.line().await? {
            text.push_str(&line);
            text.push('\n');
        }
        Ok(text)
    }
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    scripts: Vec<(String, Answer)>,
    seen: Vec<String>,
}

impl Scripted {
    fn lock(&self) -> std::sync::MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Agents for Scripted {
    async fn call(&self, method: Method, url: &str, body: Option<&Value>) -> Result<Answer, Unreachable> {
        let request = format!("{method} {url}");
        let mut script = self.lock();
        script.seen.push(body.map_or_else(|| request.clone(), |body| format!("{request} {body}")));
        let matching: Vec<usize> = (0..script.scripts.len()).filter(|index| script.scripts[*index].0 == request).collect();
        match matching.as_slice() {
            [] => Err(Unreachable(format!("{url}: connection refused"))),
            [last] => Ok(script.scripts[*last].1.clone()),
            [first, ..] => Ok(script.scripts.remove(*first).1),
        }
    }
}
