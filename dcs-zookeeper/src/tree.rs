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
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) path: String,
    pub(crate) data: Vec<u8>,
    pub(crate) stat: zk::Stat,
}

impl Node {
    /// Whether it is only there because there is something below it.
    pub(crate) fn is_directory(&self) -> bool {
        self.stat.num_children > 0 && self.data.is_empty()
    }
}

/// Which nodes were there last time, and whether they had children, by path read.
#[derive(Debug, Default)]
pub(crate) struct Shapes(Mutex<HashMap<String, Shape>>);

type Shape = BTreeMap<String, bool>;

/// One question about one path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Question {
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

/// A read of every node below a path, which is not among them.
#[derive(Debug)]
pub(crate) struct Reading {
    nodes: BTreeMap<String, Node>,
    asked: BTreeSet<Question>,
    next: Vec<Question>,
}

impl Reading {
    /// Reads what is below `root`, where there was `shape` last time.
    pub(crate) fn of(root: &str, shape: Shape) -> Self {
        let mut next = vec![Question::Children(root.to_owned())];
        for (path, has_children) in shape {
            if has_children {
                next.push(Question::Children(path.clone()));
            }
            next.push(Question::Data(path));
        }
        Self { nodes: BTreeMap::new(), asked: BTreeSet::new(), next }
    }

    /// What is to be asked next; nothing if everything is known.
    pub(crate) fn questions(&self) -> Option<&[Question]> {
        (!self.next.is_empty()).then_some(self.next.as_slice())
    }

    /// Takes in the answers to [`Reading::questions`].
    pub(crate) fn take(&mut self, answers: Vec<zk::MultiReadResult>) -> Result<(), Failure> {
        let questions = std::mem::take(&mut self.next);
        for (question, answer) in questions.iter().zip(answers) {
            match (question, answer) {
                (Question::Data(path), zk::MultiReadResult::Data { data, stat }) => {
                    if stat.num_children > 0 {
                        self.next.push(Question::Children(path.clone()));
                    }
                    self.nodes.insert(path.clone(), Node { path: path.clone(), data, stat });
                }
                (Question::Children(path), zk::MultiReadResult::Children { children }) => {
                    self.next.extend(children.into_iter().map(|child| Question::Data(format!("{path}/{child}"))));
                }
                // It has vanished, or was never there.
                (_, zk::MultiReadResult::Error { err: zk::Error::NoNode }) => {}
                (_, zk::MultiReadResult::Error { err }) => return Err(err.into()),
                _ => return Err(Failure::Malformed("the server answered another question")),
            }
        }
        self.asked.extend(questions);
        let Self { asked, next, .. } = self;
        next.retain(|question| !asked.contains(question));
        next.sort();
        next.dedup();
        Ok(())
    }

    /// Everything that was there, in the order of the paths.
    pub(crate) fn nodes(self) -> Vec<Node> {
        self.nodes.into_values().collect()
    }
}

/// Reads one node.
pub(crate) async fn node(client: &zk::Client, path: &str) -> Result<Option<Node>, Failure> {
    let question = [Question::Data(path.to_owned())];
    match ask(client, &question).await?.pop() {
        Some(zk::MultiReadResult::Data { data, stat }) => Ok(Some(Node { path: path.to_owned(), data, stat })),
        Some(zk::MultiReadResult::Error { err: zk::Error::NoNode }) => Ok(None),
        Some(zk::MultiReadResult::Error { err }) => Err(err.into()),
        _ => Err(Failure::Malformed("the server answered another question")),
    }
}

/// Sends all questions before it waits for the first answer.
pub(crate) async fn ask(client: &zk::Client, questions: &[Question]) -> Result<Vec<zk::MultiReadResult>, Failure> {
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
        found.extend(answers);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(num_children: i32) -> zk::Stat {
        zk::Stat {
            czxid: 1,
            mzxid: 1,
            pzxid: 1,
            ctime: 0,
            mtime: 0,
            version: 0,
            cversion: 0,
            aversion: 0,
            ephemeral_owner: 0,
            data_length: 0,
            num_children,
        }
    }

    /// A server that has these nodes.
    fn answers(there: &[&str], questions: &[Question]) -> Vec<zk::MultiReadResult> {
        let below = |path: &str| -> Vec<String> {
            let children = there.iter().filter_map(|node| node.strip_prefix(path)?.strip_prefix('/'));
            children.filter(|name| !name.contains('/')).map(str::to_owned).collect()
        };
        let answer = |question: &Question| match question {
            Question::Data(path) if there.contains(&path.as_str()) => {
                zk::MultiReadResult::Data { data: path.clone().into_bytes(), stat: stat(below(path).len() as i32) }
            }
            Question::Children(path) if there.contains(&path.as_str()) => zk::MultiReadResult::Children { children: below(path) },
            _ => zk::MultiReadResult::Error { err: zk::Error::NoNode },
        };
        questions.iter().map(answer).collect()
    }

    fn read(there: &[&str], shape: Shape) -> (usize, Vec<String>, Shapes) {
        let mut reading = Reading::of("/d", shape);
        let mut rounds = 0;
        while let Some(questions) = reading.questions() {
            rounds += 1;
            let answers = answers(there, questions);
            reading.take(answers).unwrap();
        }
        let nodes = reading.nodes();
        let shapes = Shapes::default();
        shapes.remember("/d", &nodes);
        (rounds, nodes.into_iter().map(|node| node.path).collect(), shapes)
    }

    #[test]
    fn what_was_there_before_is_read_in_one_round() {
        let there = ["/d", "/d/config", "/d/members", "/d/members/a", "/d/members/b", "/other"];
        let (_, paths, shapes) = read(&there, Shape::new());
        assert_eq!(paths, &there[1..5]);
        let (rounds, again, _) = read(&there, shapes.of("/d"));
        assert_eq!((rounds, again), (1, paths));
    }

    #[test]
    fn what_is_new_is_found_and_what_has_vanished_is_not_there() {
        let (_, _, shapes) = read(&["/d", "/d/config", "/d/members", "/d/members/a"], Shape::new());
        let there = ["/d", "/d/leader", "/d/members", "/d/members/b", "/d/optime", "/d/optime/leader"];
        let (_, paths, _) = read(&there, shapes.of("/d"));
        assert_eq!(paths, &there[1..]);
        assert_eq!(read(&[], shapes.of("/d")).1, Vec::<String>::new());
    }

    #[test]
    fn an_answer_to_another_question_is_an_error() {
        let mut reading = Reading::of("/d", Shape::new());
        let answer = zk::MultiReadResult::Data { data: Vec::new(), stat: stat(0) };
        assert!(matches!(reading.take(vec![answer]), Err(Failure::Malformed(_))));
        let mut reading = Reading::of("/d", Shape::new());
        let answer = zk::MultiReadResult::Error { err: zk::Error::NoAuth };
        assert!(matches!(reading.take(vec![answer]), Err(Failure::Client(zk::Error::NoAuth))));
    }
}
