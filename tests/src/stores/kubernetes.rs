//! API servers of Kubernetes, and pods that are nothing but entries in them: agents run beside, each with a kubeconfig.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use serde_json::{Value, json};
use store_servers::Plan;
use store_servers::apiserver::{self, ADMIN, Api, Options};

use super::server::Server;
use super::{Guest, Store};
use crate::process::Account;
use crate::sandbox::Sandbox;

const NAMESPACE: &str = "/api/v1/namespaces/default";

/// Where the state of a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objects {
    /// In Endpoints.
    Endpoints,
    /// In ConfigMaps.
    ConfigMaps,
}

/// The API servers.
#[derive(Debug)]
pub struct Kubernetes {
    objects: Objects,
    plans: Vec<Plan>,
    servers: Vec<Server>,
    /// Where they keep everything; it is never disturbed.
    _etcd: Vec<Server>,
    account: Account,
}

impl Kubernetes {
    /// Starts `count` API servers, and waits until all of them serve. Three are asked without a Service before them, as `bypass_api_service`
    /// has it.
    ///
    /// # Errors
    ///
    /// If they are not installed or do not start.
    pub async fn start(sandbox: &Sandbox, count: u8, objects: Objects) -> Result<Self> {
        let options = Options { servers: count, listed: count > 1 };
        let mut plans = options.plan(sandbox.network(), sandbox.directory())?;
        let (addresses, mut servers) = Server::start_all(plans.clone(), sandbox)?;
        let etcd = servers.split_off(count.into());
        plans.truncate(count.into());
        let store = Self { objects, plans, servers, _etcd: etcd, account: sandbox.account().clone() };
        for plan in &store.plans {
            Api::at(plan, ADMIN)?.serves().await;
        }
        if options.listed {
            apiserver::list(&store.api()?, &addresses[..count.into()]).await?;
        }
        Ok(store)
    }

    fn api(&self) -> Result<Api> {
        Api::at(self.plans.first().context("there are API servers")?, ADMIN)
    }
}

#[async_trait]
impl Store for Kubernetes {
    fn servers(&self) -> &[Server] {
        &self.servers
    }

    fn endpoints(&self) -> Vec<SocketAddr> {
        self.plans.iter().take(1).map(|plan| plan.address).collect()
    }

    /// Makes the pod of the node, and writes where the API is into its home directory.
    async fn welcome(&self, node: &Guest<'_>) -> Result<(&'static str, Value)> {
        let labels = json!({"application": "quorate"});
        let pod = json!({"application": "quorate", "cluster-name": node.scope});
        // Loopback is no address that Endpoints may have; nobody connects to this one.
        let ip = format!("10.0.0.{}", node.index + 1);
        self.api()?.make_pod("default", node.name, &pod, &ip).await?;

        let plan = self.plans.first().context("there are API servers")?;
        let address = node.through.and_then(|through| through.first()).copied().unwrap_or(plan.address);
        let mut kubeconfig = apiserver::kubeconfig_for(plan, address, &json!({"token": ADMIN}));
        // The certificate does not know the proxy.
        kubeconfig["clusters"][0]["cluster"]["tls-server-name"] = json!(plan.address.ip().to_string());
        let directory = node.directory.join(".kube");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("config"), kubeconfig.to_string())?;
        self.account.own(&directory)?;
        self.account.own(&directory.join("config"))?;
        let section = json!({
            "labels": labels,
            "use_endpoints": self.objects == Objects::Endpoints,
            "pod_ip": ip,
            "bypass_api_service": self.plans.len() > 1,
        });
        Ok(("kubernetes", section))
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        let key = key.strip_prefix("/service/").context("a key of a cluster")?;
        let (scope, key) = key.split_once('/').context("a key of a cluster")?;
        let collection = if self.objects == Objects::Endpoints { "endpoints" } else { "configmaps" };
        let (path, annotation) = match key {
            "leader" if self.objects == Objects::Endpoints => (format!("endpoints/{scope}"), "leader"),
            "leader" => (format!("configmaps/{scope}-leader"), "leader"),
            "config" | "initialize" | "history" => (format!("{collection}/{scope}-config"), key),
            _ => match key.strip_prefix("members/") {
                Some(member) => (format!("pods/{member}"), "status"),
                None => bail!("nobody has asked for {key} in Kubernetes yet"),
            },
        };
        let object = self.api()?.get(&format!("{NAMESPACE}/{path}")).await?;
        Ok(object.and_then(|object| object["metadata"]["annotations"][annotation].as_str().map(str::to_owned)))
    }

    async fn all_healthy(&self) -> Result<()> {
        for plan in &self.plans {
            let (code, answer) = Api::at(plan, ADMIN)?.ask("GET", "/readyz", "", None).await?;
            ensure!(code == 200, "{}: {code} {answer}", plan.name);
        }
        Ok(())
    }

    /// Of the objects that a cluster consists of, as the servers count them; watches when they end.
    async fn requests(&self) -> Result<u64> {
        let mut sum = 0;
        for plan in &self.plans {
            let (_, metrics) = Api::at(plan, ADMIN)?.ask("GET", "/metrics", "", None).await?;
            let lines = metrics.as_str().context("text")?.lines().filter(|line| line.starts_with("apiserver_request_total{"));
            let objects = ["configmaps", "endpoints", "pods", "services"].map(|resource| format!("resource=\"{resource}\""));
            let ours = lines.filter(|line| objects.iter().any(|resource| line.contains(resource)));
            sum += ours.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(sum)
    }
}
