//! Asking the cluster: again and again under the same name until there is an answer, so that a lost answer costs time and
//! nothing else.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::{BoxError, Deadline};
use tokio::sync::Semaphore;

use crate::cluster::{Cluster, ClusterError, Keys};
use crate::command::{Reply, Transaction};
use crate::identity::ProposalId;
use crate::message::{ChangedKeys, Request, Response};

/// How long one attempt may take, at most. Asking again, elsewhere, does not start anything anew.
const ATTEMPT: Duration = Duration::from_millis(1_200);

/// The pause before asking again.
const PAUSE: Duration = Duration::from_millis(50);

/// Proposals that are under way at once: what nodes remember of a client's proposals is bounded.
const AT_ONCE: usize = ProposalId::WINDOW / 2;

/// Somebody who can be asked: the node in this process, or one somewhere else.
#[async_trait]
pub(crate) trait Ask: Send + Sync + fmt::Debug {
    /// Asks once.
    async fn ask(&self, request: &Request, deadline: Deadline) -> Result<Response, AskError>;
}

/// There is no answer.
#[derive(Debug)]
pub(crate) enum AskError {
    /// Nobody was asked.
    NotSent(BoxError),
    /// Nobody may be asked: passwords or certificates do not fit.
    Denied(BoxError),
    /// Somebody may have been asked.
    Unanswered(BoxError),
}

/// What a client is, whomever it asks.
#[derive(Debug)]
pub(crate) struct Client<A> {
    ask: A,
    id: u64,
    last: AtomicU64,
    places: Semaphore,
}

impl<A: Ask> Client<A> {
    pub(crate) fn new(ask: A) -> Self {
        Self { ask, id: fastrand::u64(1..), last: AtomicU64::new(0), places: Semaphore::new(AT_ONCE) }
    }

    /// Who is asked.
    pub(crate) fn asked(&self) -> &A {
        &self.ask
    }

    /// Asks until somebody answers. Fate: whether any attempt may have been taken.
    pub(crate) async fn ask_until_answered(&self, request: &Request, deadline: Deadline) -> Result<Response, ClusterError> {
        let mut may_be_taken = false;
        loop {
            let attempt = if may_be_repeated(request) { deadline.at_most(ATTEMPT) } else { deadline };
            let problem = match self.ask.ask(request, attempt).await {
                Ok(Response::Unknown(problem)) => {
                    may_be_taken = true;
                    tracing::debug!("not known what became of a request, it is sent again: {problem}");
                    problem.into()
                }
                Ok(Response::Refused(problem)) => {
                    let problem = problem.into();
                    return Err(if may_be_taken { ClusterError::NoAnswer(problem) } else { ClusterError::NotTaken(problem) });
                }
                Ok(response) => return Ok(response),
                Err(AskError::NotSent(problem)) => problem,
                Err(AskError::Denied(problem)) if !may_be_taken => return Err(ClusterError::Denied(problem)),
                Err(AskError::Denied(problem) | AskError::Unanswered(problem)) => {
                    may_be_taken = true;
                    problem
                }
            };
            if deadline.remaining() <= PAUSE {
                return Err(if may_be_taken { ClusterError::NoAnswer(problem) } else { ClusterError::NotTaken(problem) });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether asking somebody else, while the first one may still be at it, comes to the same. A change of the members that
/// was carried out is refused when it is asked for again.
fn may_be_repeated(request: &Request) -> bool {
    match request {
        Request::Propose { .. } | Request::Read { .. } | Request::Discover | Request::Status | Request::Wait { .. } => true,
        Request::Join { .. } | Request::Remove { .. } | Request::Transfer { .. } => false,
    }
}

#[async_trait]
impl<A: Ask> Cluster for Client<A> {
    async fn propose(&self, transaction: Transaction, deadline: Deadline) -> Result<Reply, ClusterError> {
        let late = |expired: dcs_core::DeadlineExpired| ClusterError::NotTaken(expired.into());
        let waited = deadline.bound("wait for earlier proposals", self.places.acquire()).await.map_err(late)?;
        let _place = waited.map_err(|closed| ClusterError::NotTaken(closed.into()))?;
        let proposal = ProposalId { client: self.id, number: self.last.fetch_add(1, Ordering::Relaxed) + 1 };
        match self.ask_until_answered(&Request::Propose { proposal, transaction }, deadline).await? {
            Response::Applied(reply) => Ok(reply),
            _ => Err(ClusterError::Nonsense),
        }
    }

    async fn read(&self, prefix: &str, deadline: Deadline) -> Result<Keys, ClusterError> {
        match self.ask_until_answered(&Request::Read { prefix: prefix.to_owned() }, deadline).await? {
            Response::Keys { keys, index } => Ok(Keys { keys, index }),
            _ => Err(ClusterError::Nonsense),
        }
    }

    async fn wait(&self, prefix: &str, after: u64, deadline: Deadline) -> Result<ChangedKeys, ClusterError> {
        let milliseconds = u64::try_from(deadline.remaining().as_millis()).unwrap_or(u64::MAX);
        let request = Request::Wait { prefix: prefix.to_owned(), after, milliseconds };
        // The answer takes as long as the wait, and its way.
        let answered = self.ask.ask(&request, Deadline::after(deadline.remaining() + ATTEMPT)).await;
        match answered {
            Ok(Response::Changes(changes)) => Ok(changes),
            Ok(Response::Unknown(problem) | Response::Refused(problem)) => Err(ClusterError::NoAnswer(problem.into())),
            Ok(_) => Err(ClusterError::Nonsense),
            Err(AskError::Denied(problem)) => Err(ClusterError::Denied(problem)),
            Err(AskError::NotSent(problem) | AskError::Unanswered(problem)) => Err(ClusterError::NoAnswer(problem)),
        }
    }
}
