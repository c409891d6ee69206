//! Agents that ask each other, over the simulated network.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::Deadline;
use dcs_core::model::{Lsn, MemberName};
use ha_engine::EngineHandle;
use ha_engine::decide::failsafe::exclusion::FailsafeCall;
use ha_engine::decide::observation::{PeerAnswer, PeerTarget};
use ha_engine::ports::Peers;

use crate::Name;
use crate::world::{Reply, World};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The other agents, as seen from one.
#[derive(Debug)]
pub struct OtherAgents {
    me: Name,
    world: World,
}

impl OtherAgents {
    /// Those that `me` can ask.
    pub fn new(me: Name, world: World) -> Self {
        Self { me, world }
    }
}

/// The node in `http://NODE:8008/patroni`.
fn node_in(api_url: &str) -> Option<Name> {
    crate::name_of(api_url.strip_prefix("http://")?.split(':').next()?)
}

#[async_trait]
impl Peers for OtherAgents {
    async fn poll(&self, targets: &[PeerTarget], deadline: Deadline) -> Vec<(MemberName, PeerAnswer)> {
        let until = deadline.at_most(PATIENCE);
        let asked: Vec<_> = targets
            .iter()
            .map(|target| (target.name.clone(), node_in(&target.api_url).map(|node| self.world.ask_peer(self.me, node))))
            .collect();
        let mut answers = Vec::new();
        for (name, answer) in asked {
            let answer = match answer {
                None => PeerAnswer::Unreachable,
                Some(answer) => match until.bound("ask a member", answer).await {
                    Ok(Ok(Reply::Answer(answer))) => answer,
                    Ok(Ok(Reply::Refused)) | Err(_) => PeerAnswer::Unreachable,
                    Ok(Err(_)) => {
                        // Lost on the way: nobody tells.
                        tokio::time::sleep_until(until.instant()).await;
                        PeerAnswer::Unreachable
                    }
                },
            };
            answers.push((name, answer));
        }
        answers
    }

    /// Failsafe mode is off in every scenario here.
    async fn ask_for_word(&self, _: &[PeerTarget], _: &FailsafeCall, _: Deadline) -> Option<BTreeMap<MemberName, Lsn>> {
        None
    }

    async fn is_alive(&self, api_url: &str, deadline: Deadline) -> bool {
        let Some(node) = node_in(api_url).filter(|node| *node != self.me) else { return false };
        let answer = self.world.ask_peer(self.me, node);
        matches!(deadline.bound("ask a member", answer).await, Ok(Ok(Reply::Answer(_))))
    }
}

/// Answers the questions of others, for as long as this agent lives.
pub async fn answer_others(me: Name, world: World, handle: EngineHandle) {
    let mut questions = world.listen(me);
    while let Some(question) = questions.recv().await {
        let (world, handle) = (world.clone(), handle.clone());
        // Detached: it ends by its deadline.
        drop(tokio::spawn(async move {
            let answer = handle.answer_peer(Deadline::after(PATIENCE)).await;
            world.answer_peer(question, answer);
        }));
    }
}
