//! Everything under a path, in as few questions as possible.
//!
//! A load asks for what was there last time, all in one request, which the server answers as of one moment. Only what is new
//! costs another one. A node that vanishes meanwhile is not there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use zookeeper_client as zk;

use crate::error::Failure;

/// Questions in one request. Clusters have a few dozen keys; the limit is against a prefix that is somebody's dump.
const MOST_AT_ONCE: usize = 2000;

/// Prefixes whose shape is remembered. A coordinator reads two.
const MOST_SHAPES: usize = 8;

/// A node that was there.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) path: String,
    pub(crate) data: Vec<u8>,
    pub(crate) stat: zk::Stat,
}

/// Which nodes were there last time, and whether they had children, by path read.
#[derive(Debug, Default)]
pub(crate) struct Shapes(Mutex<HashMap<String, Shape>>);

type Shape = BTreeMap<String, bool>;

/// One question about one path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    Data(String),
    Children(String),
}

impl Shapes {
    pub(crate) fn of(&self, path: &str) -> Shape {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned().unwrap_or_default()
    }

    pub(crate) fn remember(&self, path: &str, nodes: &[Node]) {
        let shape = nodes.iter().map(|node| (node.path.clone(), node.stat.num_children > 0)).collect();
        let mut shapes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shapes.len() >= MOST_SHAPES && !shapes.contains_key(path) {
            shapes.clear();
        }
        shapes.insert(path.to_owned(), shape);
    }
}

/// Reads every node below `root`, which is not among them.
///
/// # Cancel safety
///
/// Dropping the future has no effect.
pub(crate) async fn below(client: &zk::Client, root: &str, shape: Shape) -> Result<Vec<Node>, Failure> {
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    let mut asked: BTreeSet<Question> = BTreeSet::new();
    let mut next = vec![Question::Children(root.to_owned())];
    for (path, has_children) in shape {
        if has_children {
            next.push(Question::Children(path.clone()));
        }
        next.push(Question::Data(path));
    }
    while !next.is_empty() {
        let mut new = Vec::new();
        for (question, answer) in ask(client, &next).await? {
            match (question, answer) {
                (Question::Data(path), zk::MultiReadResult::Data { data, stat }) => {
                    if stat.num_children > 0 {
                        new.push(Question::Children(path.clone()));
                    }
                    nodes.insert(path.clone(), Node { path, data, stat });
                }
                (Question::Children(path), zk::MultiReadResult::Children { children }) => {
                    new.extend(children.into_iter().map(|child| Question::Data(format!("{path}/{child}"))));
                }
                // It has vanished, or was never there.
                (_, zk::MultiReadResult::Error { err: zk::Error::NoNode }) => {}
                (_, zk::MultiReadResult::Error { err }) => return Err(err.into()),
                _ => return Err(Failure::Malformed("the server answered another question")),
            }
        }
        asked.extend(next);
        new.retain(|question| !asked.contains(question));
        new.sort();
        new.dedup();
        next = new;
    }
    Ok(nodes.into_values().collect())
}

/// Reads one node.
pub(crate) async fn node(client: &zk::Client, path: &str) -> Result<Option<Node>, Failure> {
    let question = [Question::Data(path.to_owned())];
    match ask(client, &question).await?.pop() {
        Some((_, zk::MultiReadResult::Data { data, stat })) => Ok(Some(Node { path: path.to_owned(), data, stat })),
        Some((_, zk::MultiReadResult::Error { err: zk::Error::NoNode })) => Ok(None),
        Some((_, zk::MultiReadResult::Error { err })) => Err(err.into()),
        _ => Err(Failure::Malformed("the server answered another question")),
    }
}

/// Sends all questions before it waits for the first answer.
async fn ask(client: &zk::Client, questions: &[Question]) -> Result<Vec<(Question, zk::MultiReadResult)>, Failure> {
    let mut requests = Vec::new();
    for chunk in questions.chunks(MOST_AT_ONCE) {
        let mut reader = client.new_multi_reader();
        for question in chunk {
            match question {
                Question::Data(path) => reader.add_get_data(path)?,
                Question::Children(path) => reader.add_get_children(path)?,
            }
        }
        requests.push((chunk, reader.commit()));
    }
    let mut found = Vec::with_capacity(questions.len());
    for (chunk, request) in requests {
        let answers = request.await?;
        if answers.len() != chunk.len() {
            return Err(Failure::Malformed("the server left questions unanswered"));
        }
        found.extend(chunk.iter().cloned().zip(answers));
    }
    Ok(found)
}
