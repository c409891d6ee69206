//! The servers that are known, in the order in which they are tried.
//!
//! ```text
//!   configured, or found by SRV ─┐
//!                                ├─► names ─► addresses ─► targets ─► the rotation
//!   members that etcd names ─────┘   (remembered: dns.rs)
//! ```
//!
//! What is configured stays in front, so that a member that lies about its address costs nobody their connection, and
//! the configuration is always there to start from.

use dcs_core::Deadline;

use crate::config::{Config, Srv};
use crate::connect::Target;
use crate::dns::{self, Answer, Freshness, Names};
use crate::endpoint::Endpoint;
use crate::failure::Failure;

/// What is known of the servers.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    /// In the order in which they are tried. Empty until names have been looked up.
    targets: Vec<Target>,
    /// The one to connect to next.
    next: usize,
    /// How many there probably are: names and addresses of one may both be among the targets.
    count: usize,
    /// Those that etcd names.
    members: Vec<Endpoint>,
    /// Those that DNS names.
    found: Answer<Vec<Endpoint>>,
    names: Names,
}

/// Why servers are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// None are known yet.
    First,
    /// etcd has told who its members are.
    Members(Vec<Endpoint>),
    /// All that are known have failed.
    AllFailed,
}

impl Servers {
    /// Nothing is looked up yet.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            targets: Vec::new(),
            next: 0,
            count: config.endpoints.len(),
            members: Vec::new(),
            found: Answer::default(),
            names: Names::default(),
        }
    }

    /// How many there probably are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// How many addresses are tried before a pause.
    pub(crate) fn targets(&self) -> usize {
        self.targets.len()
    }

    /// The one whose turn it is.
    pub(crate) fn next(&self) -> Option<&Target> {
        self.targets.get(self.next).or(self.targets.first())
    }

    /// Turns to the server after `target`, if that is the one whose turn it is.
    pub(crate) fn skip(&mut self, target: &Target) {
        if self.targets.get(self.next) == Some(target) {
            self.next = (self.next + 1) % self.targets.len();
        }
    }

    /// What is known after asking DNS. To be called without a lock; [`Servers::replace`] puts the result in place.
    pub(crate) async fn look_up(mut self, config: &Config, occasion: Occasion, deadline: Deadline) -> (Self, Result<(), Failure>) {
        let freshness = if occasion == Occasion::AllFailed { Freshness::Anew } else { Freshness::Remembered };
        if let Occasion::Members(members) = occasion {
            self.members = members;
        }
        let mut problems: Vec<String> = Vec::new();
        let start = self.start(config, freshness, deadline, &mut problems).await;
        self.count = start.len().max(self.members.len()).max(1);

        let mut endpoints: Vec<Endpoint> = Vec::new();
        for endpoint in start.iter().chain(&self.members) {
            if !endpoints.contains(endpoint) {
                endpoints.push(endpoint.clone());
            }
        }
        let mut due = self.names.due(start, freshness);
        due.extend(
            self.names
                .due(self.members.iter().cloned(), Freshness::Remembered)
                .into_iter()
                .filter(|e| !due.contains(e))
                .collect::<Vec<_>>(),
        );
        self.names.take_in(dns::ask(due, deadline).await);
        self.names.keep(&endpoints);

        let before = self.next().cloned();
        self.targets.clear();
        for endpoint in endpoints {
            let addresses = self.names.addresses(&endpoint).unwrap_or_else(|problem| {
                problems.push(problem);
                Vec::new()
            });
            for address in addresses {
                let known = |t: &Target| t.address == address && t.endpoint.scheme == endpoint.scheme;
                if !self.targets.iter().any(known) {
                    self.targets.push(Target { endpoint: endpoint.clone(), address });
                }
            }
        }
        self.turn_to(before.as_ref());
        let outcome = if self.targets.is_empty() { Err(Failure::unreachable(problems.join("; "))) } else { Ok(()) };
        (self, outcome)
    }

    /// Takes over what a look-up has found. Where the rotation stands is kept: `in_use` is the server of the connection, if
    /// there is one.
    pub(crate) fn replace(&mut self, new: Self, in_use: Option<&Target>) {
        let at = in_use.cloned().or(self.next().cloned());
        *self = new;
        self.turn_to(at.as_ref());
    }

    fn turn_to(&mut self, target: Option<&Target>) {
        self.next = target.and_then(|target| self.targets.iter().position(|known| known == target)).unwrap_or_default();
    }

    /// What DNS names, if it was to be asked and ever named any; otherwise what is configured.
    async fn start(&mut self, config: &Config, freshness: Freshness, deadline: Deadline, problems: &mut Vec<String>) -> Vec<Endpoint> {
        if let Some(srv) = &config.srv {
            if self.found.is_due(freshness) {
                let found = by_srv(srv, config, deadline).await;
                if let Err(problem) = &found {
                    tracing::warn!(domain = srv.domain, problem, "no etcd servers were found in DNS");
                }
                self.found.take_in(found);
            }
            problems.extend(self.found.problem().map(str::to_owned));
            if let Some(found) = self.found.value() {
                return found.clone();
            }
        }
        config.endpoints.clone()
    }
}

#[cfg(feature = "srv")]
async fn by_srv(srv: &Srv, config: &Config, deadline: Deadline) -> Result<Vec<Endpoint>, String> {
    crate::srv::find(srv, &config.access.tls, deadline).await
}

/// The section was refused already.
#[cfg(not(feature = "srv"))]
async fn by_srv(_: &Srv, _: &Config, _: Deadline) -> Result<Vec<Endpoint>, String> {
    Err("this program was built without DNS service records".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::endpoint::Scheme;

    fn endpoint(text: &str) -> Endpoint {
        Endpoint::parse(text, Scheme::Http, 2379).unwrap()
    }

    fn config(hosts: &str) -> Config {
        Config::from_section(serde_json::json!({ "hosts": hosts }).as_object().unwrap()).unwrap()
    }

    async fn looked_up(servers: Servers, config: &Config, occasion: Occasion) -> Servers {
        let (servers, outcome) = servers.look_up(config, occasion, Deadline::after(Duration::from_secs(5))).await;
        outcome.unwrap();
        servers
    }

    fn order(servers: &Servers) -> Vec<String> {
        servers.targets.iter().map(|target| target.endpoint.to_string()).collect()
    }

    #[tokio::test]
    async fn members_come_after_what_is_configured_and_leave_again() {
        let config = config("10.0.0.1,10.0.0.2");
        let mut servers = looked_up(Servers::new(&config), &config, Occasion::First).await;
        assert_eq!((order(&servers), servers.count()), (vec!["10.0.0.1:2379".to_owned(), "10.0.0.2:2379".to_owned()], 2));
        let members = ["10.0.0.2", "10.0.0.3", "10.0.0.4"].map(endpoint).to_vec();
        servers = looked_up(servers, &config, Occasion::Members(members)).await;
        assert_eq!(order(&servers), ["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379", "10.0.0.4:2379"]);
        assert_eq!(servers.count(), 3);
        // When all have failed nobody is forgotten.
        servers = looked_up(servers, &config, Occasion::AllFailed).await;
        assert_eq!(servers.targets(), 4);
        servers = looked_up(servers, &config, Occasion::Members(vec![endpoint("10.0.0.2")])).await;
        assert_eq!(servers.targets(), 2);
    }

    #[tokio::test]
    async fn a_look_up_keeps_the_place_in_the_rotation() {
        let config = config("10.0.0.1,10.0.0.2,10.0.0.3");
        let mut servers = looked_up(Servers::new(&config), &config, Occasion::First).await;
        let first = servers.next().unwrap().clone();
        servers.skip(&first);
        servers.skip(&first);
        assert_eq!(servers.next().unwrap().endpoint, endpoint("10.0.0.2"), "only who has the turn can lose it");
        let new = looked_up(servers.clone(), &config, Occasion::Members(vec![endpoint("10.0.0.9")])).await;
        servers.replace(new.clone(), None);
        assert_eq!(servers.next().unwrap().endpoint, endpoint("10.0.0.2"));
        servers.replace(new, Some(&first));
        assert_eq!(servers.next().unwrap(), &first);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_named_in_the_failure() {
        let config = config("nowhere.invalid");
        let (servers, outcome) = Servers::new(&config).look_up(&config, Occasion::First, Deadline::after(Duration::from_secs(5))).await;
        assert_eq!(servers.targets(), 0);
        assert!(outcome.unwrap_err().cause.to_string().contains("`nowhere.invalid`"));
    }
}
