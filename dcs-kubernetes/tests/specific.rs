//! What only Kubernetes can do or get wrong: conflicts, subsets, labels, watches that expire, tokens, rights, and answers of every
//! kind to every request.
//!
//! All of these share one API server, which takes its time to start: under nextest, which runs every test in a process of its own,
//! they are one test. One alone: `cargo test -p dcs-kubernetes --test specific -- NAME`.

mod support;

#[path = "specific/access.rs"]
mod access;
#[path = "specific/faults.rs"]
mod faults;
#[path = "specific/lock.rs"]
mod lock;
#[path = "specific/pods.rs"]
mod pods;
#[path = "specific/rights.rs"]
mod rights;
#[path = "specific/values.rs"]
mod values;
#[path = "specific/watching.rs"]
mod watching;

use std::pin::Pin;
use std::sync::Arc;

use dcs_core::model::{Leader, MemberRecord};
use dcs_core::{Acquisition, BootClock, BoxError, Dcs, Deadline, Error, LeaderLease, Renewal};
use dcs_kubernetes::{Config, Kubernetes, Who};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Map, Value, json};
use store_servers::apiserver::{ADMIN, Api, Options, missing};
use store_servers::{Servers, report_not_run};
use support::middle::Middle;
use support::{TIMING, admin, as_admin, labels, plural, section, with_kubeconfig};

const SCOPE: &str = "demo";

macro_rules! tests {
    ($($module:ident: { $($name:ident,)+ })+) => {
        vec![$($((stringify!($name), (|servers| Box::pin($module::$name(servers))) as Test),)+)+]
    };
}

type Outcome = Result<(), BoxError>;
type Test = fn(Arc<Servers>) -> Pin<Box<dyn Future<Output = Outcome>>>;

fn all() -> Vec<(&'static str, Test)> {
    tests! {
        lock: {
            leader_and_address_change_in_one_request,
            transitions_count_changes_of_leader_and_acquire_time_stays,
            a_newcomer_waits_a_whole_ttl_before_it_takes_a_lock_that_nobody_renews,
            a_renewal_whose_answer_was_lost_is_a_renewal,
            an_acquisition_whose_answer_was_lost_is_won,
            a_renewal_that_somebody_else_overtook_looks_and_goes_on,
            a_deleted_lock_is_made_anew_by_its_holder,
            a_leader_cycle_needs_three_requests_at_most,
            an_election_without_pods_hands_the_lock_over,
        }
        pods: {
            labels_and_status_change_in_one_request_and_only_when_they_must,
            a_member_without_a_pod_says_so,
        }
        values: {
            configuration_history_and_initialize_do_not_remove_each_other,
            two_clusters_in_one_namespace_do_not_mix,
            groups_have_objects_of_their_own,
            the_service_that_keeps_endpoints_is_made_once,
            a_failover_request_replaces_one_that_was_not_seen,
        }
        watching: {
            an_expired_watch_is_listed_again_and_loses_nothing,
            a_watch_that_ends_goes_on,
            a_list_is_asked_for_again_in_the_next_cycle_whatever_pause_was_asked_for,
            a_watch_that_tells_nothing_any_more_is_found_out,
            a_cycle_asks_nothing_but_the_renewal_while_there_is_one_and_something_otherwise,
        }
        access: {
            a_token_that_was_exchanged_is_read_again_at_once,
            kubeconfigs_say_who_we_are_in_many_ways,
            an_authority_that_nobody_knows_is_refused_by_name,
            a_pod_finds_its_credentials_where_pods_do,
            a_warning_of_the_server_is_passed_on_once,
            no_error_tells_what_is_secret,
            a_credential_program_that_hangs_is_run_once,
        }
        rights: {
            the_manifests_are_accepted_and_their_rights_are_enough,
            every_right_that_is_missing_is_told_and_never_costs_the_lock,
            without_the_right_to_see_the_api_servers_the_service_is_used,
        }
        faults: {
            no_answer_to_any_request_is_taken_for_a_lost_lock,
            a_no_that_is_not_kubernetes_own_proves_nothing,
            a_server_that_asks_to_wait_is_given_the_time,
            configured_codes_are_tried_again,
            the_server_says_no_in_the_words_that_the_table_of_errors_knows,
        }
    }
}

fn main() {
    let arguments = Arguments::from_args();
    if let Some(lacking) = missing(Options::default()) {
        report_not_run("what only Kubernetes can do or get wrong", &lacking);
        return;
    }
    // Servers end with the thread that started them, which is this one.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let start = || Arc::new(runtime.block_on(Options::default().start()).expect("the API server starts"));
    // Who only asks for the names need not wait for it.
    let servers = (!arguments.list).then(start);
    let trials = |servers: &Option<Arc<Servers>>| {
        let trial = |(name, test): (&'static str, Test)| {
            let servers = servers.clone();
            Trial::test(name, move || {
                let servers = servers.ok_or("nothing runs while names are listed")?;
                let runtime = tokio::runtime::Runtime::new()?;
                Ok(runtime.block_on(test(servers)).map_err(|error| error.to_string())?)
            })
        };
        all().into_iter().map(trial).collect::<Vec<_>>()
    };
    let trials = if std::env::var_os("NEXTEST").is_some() {
        let servers = servers.clone();
        let whole = move || {
            let conclusion = libtest_mimic::run(&Arguments { test_threads: Some(8), ..Arguments::default() }, trials(&servers));
            if conclusion.num_failed == 0 { Ok(()) } else { Err("some failed; they are named above".into()) }
        };
        vec![Trial::test("on_one_api_server", whole)]
    } else {
        trials(&servers)
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Ending the process at once would leave the servers' data behind.
    drop(servers);
    conclusion.exit()
}

/// A namespace of one test.
struct Place {
    servers: Arc<Servers>,
    api: Api,
    namespace: String,
    use_endpoints: bool,
}

impl Place {
    async fn with_endpoints(servers: Arc<Servers>) -> Result<Self, BoxError> {
        Self::new(servers, true).await
    }

    async fn with_config_maps(servers: Arc<Servers>) -> Result<Self, BoxError> {
        Self::new(servers, false).await
    }

    async fn new(servers: Arc<Servers>, use_endpoints: bool) -> Result<Self, BoxError> {
        let namespace = format!("test-{:016x}", fastrand::u64(..));
        let api = admin(&servers)?;
        api.make_namespace(&namespace).await?;
        Ok(Self { servers, api, namespace, use_endpoints })
    }

    fn section(&self) -> Map<String, Value> {
        section(&self.namespace, self.use_endpoints)
    }

    /// A member with a pod, which has loaded once and so observes.
    async fn member(&self, name: &str, ip: &str) -> Result<Member, BoxError> {
        self.member_with(name, ip, as_admin(&self.servers, &self.section())?).await
    }

    /// A member that reaches the server through `middle`.
    async fn member_behind(&self, name: &str, middle: &Middle) -> Result<Member, BoxError> {
        self.member_with(name, "10.0.0.9", self.config_through(middle, &json!({"token": ADMIN}), &self.section())?).await
    }

    fn config_through(&self, middle: &Middle, user: &Value, section: &Map<String, Value>) -> Result<Config, BoxError> {
        let config = support::kubeconfig_by_http(&self.servers, middle.address(), user)?;
        Ok(Config::from_section(section)?.with_kubeconfig(config))
    }

    async fn member_with(&self, name: &str, ip: &str, config: Config) -> Result<Member, BoxError> {
        self.api.make_pod(&self.namespace, name, &labels(SCOPE), ip).await?;
        let member = self.without_pod(name, config);
        member.dcs.load(member.soon()).await?;
        Ok(member)
    }

    fn without_pod(&self, name: &str, config: Config) -> Member {
        self.of(SCOPE, None, name, config)
    }

    fn of(&self, scope: &str, group: Option<u32>, name: &str, config: Config) -> Member {
        let dcs = Kubernetes::new(config, scope, group, name.into(), TIMING, Arc::new(BootClock), Who::Agent);
        Member { dcs: Arc::new(dcs), name: name.to_owned() }
    }

    fn object_path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/{}/{name}", self.namespace, plural(self.use_endpoints))
    }

    fn leader_path(&self) -> String {
        self.object_path(if self.use_endpoints { SCOPE } else { "demo-leader" })
    }

    async fn object(&self, path: &str) -> Result<Value, BoxError> {
        Ok(self.api.get(path).await?.ok_or_else(|| format!("there is no {path}"))?)
    }

    async fn pod(&self, name: &str) -> Result<Value, BoxError> {
        self.object(&format!("/api/v1/namespaces/{}/pods/{name}", self.namespace)).await
    }
}

#[derive(Clone)]
struct Member {
    dcs: Arc<Kubernetes>,
    name: String,
}

impl Member {
    fn soon(&self) -> Deadline {
        Deadline::after(TIMING.retry_timeout)
    }

    async fn wins(&self) -> Result<LeaderLease, BoxError> {
        match self.dcs.attempt_to_acquire_leader(self.soon()).await? {
            Acquisition::Won(lease) => Ok(lease),
            Acquisition::Lost(holder) => Err(format!("{} lost the lock to {holder:?}", self.name).into()),
        }
    }

    fn seen(&self) -> Leader {
        Leader { name: self.name.as_str().into(), revision: 0_u64.into(), handle: None }
    }

    async fn renews(&self) -> Result<Renewal, Error> {
        self.dcs.renew_leader(&self.seen(), self.soon()).await
    }

    async fn keeps(&self) -> Outcome {
        match self.renews().await? {
            Renewal::Renewed(_) => Ok(()),
            Renewal::Lost => Err(format!("{} lost the lock", self.name).into()),
        }
    }

    async fn leader(&self) -> Result<Option<String>, BoxError> {
        Ok(self.dcs.load(self.soon()).await?.leader.map(|leader| leader.name.to_string()))
    }

    fn record(&self, state: &str, role: &str) -> MemberRecord {
        MemberRecord { state: Some(state.to_owned()), role: Some(role.to_owned()), ..MemberRecord::default() }
    }

    async fn touches(&self, state: &str, role: &str) -> Result<dcs_core::Touched, Error> {
        self.dcs.touch_member(&self.record(state, role), self.soon()).await
    }
}

/// An annotation, as text.
fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][name].as_str()
}
