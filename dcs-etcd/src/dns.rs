//! Names of servers as addresses, remembered so that an outage of DNS is not one of the database.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use dcs_core::Deadline;
use futures::future::join_all;
use tokio::time::Instant;

use crate::endpoint::Endpoint;

/// An answer is good for this long, unless everything behind it has failed.
pub(crate) const GOOD_FOR: Duration = Duration::from_secs(600);

/// After a failure nobody is asked for this long.
pub(crate) const BAD_FOR: Duration = Duration::from_secs(30);

/// What DNS said last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer<T> {
    /// It stays when later questions fail.
    told: Option<(Instant, T)>,
    failed: Option<(Instant, String)>,
}

/// The addresses of names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    known: HashMap<Endpoint, Answer<Vec<SocketAddr>>>,
}

/// Whether an answer that is still good has to be asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// The one that is known will do.
    Remembered,
    /// No server works: ask again. A question that failed a moment ago is not repeated all the same.
    Anew,
}

impl<T> Answer<T> {
    /// Whether it is time to ask.
    pub(crate) fn is_due(&self, freshness: Freshness) -> bool {
        if self.failed.as_ref().is_some_and(|(at, _)| at.elapsed() < BAD_FOR) {
            return false;
        }
        freshness == Freshness::Anew || self.told.as_ref().is_none_or(|(at, _)| at.elapsed() >= GOOD_FOR)
    }

    /// Takes in what was found.
    pub(crate) fn take_in(&mut self, found: Result<T, String>) {
        match found {
            Ok(value) => *self = Self { told: Some((Instant::now(), value)), failed: None },
            Err(problem) => self.failed = Some((Instant::now(), problem)),
        }
    }

    /// The last good answer.
    pub(crate) fn value(&self) -> Option<&T> {
        self.told.as_ref().map(|(_, value)| value)
    }

    /// Why the last question was not answered.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.failed.as_ref().map(|(_, problem)| problem.as_str())
    }
}

impl Names {
    /// Which of `endpoints` have to be asked for now.
    pub(crate) fn due(&self, endpoints: impl IntoIterator<Item = Endpoint>, freshness: Freshness) -> Vec<Endpoint> {
        let is_due =
            |endpoint: &Endpoint| endpoint.address().is_none() && self.known.get(endpoint).is_none_or(|answer| answer.is_due(freshness));
        endpoints.into_iter().filter(is_due).collect()
    }

    /// Takes in what was found.
    pub(crate) fn take_in(&mut self, found: Vec<(Endpoint, Result<Vec<SocketAddr>, String>)>) {
        for (endpoint, found) in found {
            self.known.entry(endpoint).or_insert_with(|| Answer { told: None, failed: None }).take_in(found);
        }
    }

    /// The addresses of `endpoint`, or why there are none.
    pub(crate) fn addresses(&self, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, String> {
        if let Some(address) = endpoint.address() {
            return Ok(vec![SocketAddr::new(address, endpoint.port)]);
        }
        let answer = self.known.get(endpoint);
        match answer.and_then(Answer::value) {
            Some(addresses) => Ok(addresses.clone()),
            None => {
                let problem = answer.and_then(Answer::problem).map(str::to_owned);
                Err(problem.unwrap_or_else(|| format!("`{}` was not looked up", endpoint.host)))
            }
        }
    }

    /// Forgets all but `endpoints`.
    pub(crate) fn keep(&mut self, endpoints: &[Endpoint]) {
        self.known.retain(|endpoint, _| endpoints.contains(endpoint));
    }
}

/// Asks the system's resolver.
pub(crate) async fn ask(endpoints: Vec<Endpoint>, deadline: Deadline) -> Vec<(Endpoint, Result<Vec<SocketAddr>, String>)> {
    join_all(endpoints.into_iter().map(|endpoint| async move {
        let found = resolve(&endpoint, deadline).await;
        (endpoint, found)
    }))
    .await
}

async fn resolve(endpoint: &Endpoint, deadline: Deadline) -> Result<Vec<SocketAddr>, String> {
    let host = endpoint.host.as_str();
    let problem = match deadline.bound("the name server did not answer", tokio::net::lookup_host((host, endpoint.port))).await {
        Ok(Ok(found)) => match found.collect::<Vec<_>>() {
            found if found.is_empty() => "it has no address".to_owned(),
            found => return Ok(found),
        },
        Ok(Err(error)) => error.to_string(),
        Err(expired) => expired.to_string(),
    };
    tracing::debug!(host, problem, "cannot resolve the name of an etcd server");
    Err(format!("cannot resolve `{host}`: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Scheme;

    fn named(host: &str) -> Endpoint {
        Endpoint::parse(host, Scheme::Http, 2379).unwrap()
    }

    fn due(names: &Names, freshness: Freshness) -> bool {
        !names.due([named("etcd.example.com")], freshness).is_empty()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_good_for_ten_minutes_unless_everything_failed() {
        let mut names = Names::default();
        assert!(due(&names, Freshness::Remembered));
        let found = vec!["10.0.0.1:2379".parse().unwrap()];
        names.take_in(vec![(named("etcd.example.com"), Ok(found.clone()))]);
        assert!(!due(&names, Freshness::Remembered) && due(&names, Freshness::Anew));
        tokio::time::advance(GOOD_FOR).await;
        assert!(due(&names, Freshness::Remembered));
        assert_eq!(names.addresses(&named("etcd.example.com")), Ok(found), "an old answer is better than none");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_the_last_addresses_stay_and_dns_is_left_alone_for_half_a_minute() {
        let mut names = Names::default();
        let found = vec!["10.0.0.1:2379".parse().unwrap()];
        names.take_in(vec![(named("etcd.example.com"), Ok(found.clone()))]);
        tokio::time::advance(GOOD_FOR).await;
        names.take_in(vec![(named("etcd.example.com"), Err("servfail".to_owned()))]);
        assert_eq!(names.addresses(&named("etcd.example.com")), Ok(found));
        assert!(!due(&names, Freshness::Remembered) && !due(&names, Freshness::Anew));
        tokio::time::advance(BAD_FOR).await;
        assert!(due(&names, Freshness::Remembered));

        names.take_in(vec![(named("other"), Err("servfail".to_owned()))]);
        assert_eq!(names.addresses(&named("other")), Err("servfail".to_owned()));
        names.keep(&[named("etcd.example.com")]);
        assert!(names.addresses(&named("other")).unwrap_err().contains("not looked up"));
    }

    #[test]
    fn addresses_need_no_dns() {
        let names = Names::default();
        let endpoint = named("[::1]:4001");
        assert!(names.due([endpoint.clone()], Freshness::Anew).is_empty());
        assert_eq!(names.addresses(&endpoint), Ok(vec!["[::1]:4001".parse().unwrap()]));
    }
}
