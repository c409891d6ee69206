//! Asking agents over their REST API.

use async_trait::async_trait;
use http::Method;
use serde_json::Value;

use dcs_core::model::Member;

/// What an agent answered. A refusal is an answer too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub text: String,
}

/// Nobody answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// The agents of a cluster, as the tool reaches them.
#[async_trait]
pub trait Agents: Send + Sync {
    /// Sends one request and waits for its answer, however long that takes: a restart or a switchover answers when it is
    /// done.
    ///
    /// # Errors
    ///
    /// No connection could be made, or it broke before the answer was complete.
    async fn call(&self, method: Method, url: &str, body: Option<&Value>) -> Result<Answer, Unreachable>;
}

/// The address of one of the agent's endpoints; of what it publishes itself, without endpoint.
///
/// # Errors
///
/// The member publishes no address, or one that is not a URL.
pub fn url(member: &Member, endpoint: Option<&str>) -> Result<String, Unreachable> {
    let published = member.record.api_url.as_deref().filter(|url| !url.is_empty());
    let published = published.ok_or_else(|| Unreachable("it publishes no api_url".to_owned()))?;
    let Some(endpoint) = endpoint else { return Ok(published.to_owned()) };
    let (scheme, rest) = published.split_once("://").ok_or_else(|| Unreachable(format!("`{published}` is not a URL")))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    Ok(format!("{scheme}://{authority}/{endpoint}"))
}

#[cfg(test)]
mod tests {
    use super::url;
    use crate::ctl::testing::view;

    #[test]
    fn endpoints_stand_at_the_root_of_the_published_address() {
        let view = view(&[
            ("members/a", r#"{"api_url":"https://[::1]:8008/patroni?x=1"}"#),
            ("members/b", r#"{"api_url":"10.0.0.1"}"#),
            ("members/c", "{}"),
        ]);
        let [a, b, c] = view.members.as_slice() else { panic!("three members") };
        assert_eq!(url(a, Some("switchover")).as_deref(), Ok("https://[::1]:8008/switchover"));
        assert_eq!(url(a, None).as_deref(), Ok("https://[::1]:8008/patroni?x=1"));
        assert!(url(b, Some("config")).is_err() && url(c, None).is_err());
    }
}
