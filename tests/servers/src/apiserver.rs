//! API servers of Kubernetes over one etcd: 1.20, which `scripts/build-apiserver` builds.
//!
//! There is nothing else of Kubernetes: no scheduler, no controllers, no kubelet. Pods exist because [`Api::make_pod`] says so,
//! and nothing is ever collected. An agent under test runs in no pod: it gets a [`kubeconfig`] through `KUBECONFIG`, and needs a
//! pod of its name with the cluster's labels. Endpoints do not take loopback addresses, so the `pod_ip` of such an agent, and the
//! address of its pod, are made up.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::certificates::{Files, Workshop};
use crate::{Network, Plan, Servers, eventually, program};

/// Of the administrator, who may do everything.
pub const ADMIN: &str = "admin-token";

/// Of the user `alice`, who may do nothing unless a role says so.
pub const ALICE: &str = "alice-token";

/// The first host number of API servers; those of etcd come before.
const SERVERS: u8 = crate::network::SERVERS + 10;

/// Servers are told to give this as their address, unless they have one that others can reach: loopback is refused.
const NOWHERE: &str = "198.51.100.1";

/// How API servers are started.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many.
    pub servers: u8,
    /// They are to be found in the Endpoints `kubernetes`, as a client wants that goes around the Service. That takes an address
    /// of this machine that is not loopback.
    pub listed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { servers: 1, listed: false }
    }
}

/// The program.
///
/// # Errors
///
/// It is not there, and what to do about it.
pub fn installed() -> Result<PathBuf> {
    program("kubernetes/bin/kube-apiserver", "kubernetes")
}

/// Why API servers cannot be started here, and what to do about it; nothing if they can.
#[must_use]
pub fn missing(options: Options) -> Option<String> {
    let etcd = || crate::etcd::Version::default().program();
    if let Err(error) = installed().and_then(|_| etcd()) {
        return Some(error.to_string());
    }
    if crate::on_the_path("openssl").is_none() {
        return Some("no `openssl` on the PATH".to_owned());
    }
    let unreachable = options.listed && reachable_address().is_none();
    unreachable.then(|| "this machine has no address but loopback, which API servers do not take".to_owned())
}

/// An address of this machine that is not loopback. Nothing is sent.
fn reachable_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect((NOWHERE, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback() && !address.is_unspecified())
}

impl Options {
    /// The API servers, and etcd after them.
    ///
    /// # Errors
    ///
    /// A program is not there, or no port is free.
    pub fn plan(&self, network: &Network, directory: &Path) -> Result<Vec<Plan>> {
        let program = installed()?;
        let etcd = crate::etcd::Options::default().plan(network, directory)?;
        let store = format!("http://{}", etcd[0].address);
        let addresses = (0..self.servers).map(|index| self.address(network, index)).collect::<Result<Vec<_>>>()?;
        let keys = Keys::make(&addresses)?;
        let mut plans = Vec::new();
        for (index, address) in addresses.iter().enumerate() {
            let advertised = if address.ip().is_loopback() { NOWHERE.to_owned() } else { address.ip().to_string() };
            let arguments = [
                ("--etcd-servers", store.as_str()),
                ("--bind-address", &address.ip().to_string()),
                ("--secure-port", &address.port().to_string()),
                ("--advertise-address", &advertised),
                // Who is in the Endpoints `kubernetes` is for tests to say.
                ("--endpoint-reconciler-type", "none"),
                ("--tls-cert-file", "server.crt"),
                ("--tls-private-key-file", "server.key"),
                ("--client-ca-file", "ca.crt"),
                ("--token-auth-file", "tokens.csv"),
                ("--authorization-mode", "RBAC"),
                ("--anonymous-auth", "false"),
                ("--service-account-issuer", "https://kubernetes.default.svc"),
                ("--service-account-key-file", "accounts.key"),
                ("--service-account-signing-key-file", "accounts.key"),
                ("--service-cluster-ip-range", "10.96.0.0/16"),
                // Without controllers nobody makes the account that it would give every pod.
                ("--disable-admission-plugins", "ServiceAccount"),
                ("--cert-dir", "."),
                ("--v", "1"),
            ];
            plans.push(Plan {
                name: format!("apiserver{}", index + 1),
                address: *address,
                program: program.clone(),
                arguments: arguments.iter().map(|(option, value)| format!("{option}={value}")).collect(),
                environment: Vec::new(),
                directory: directory.join(format!("apiserver{}", index + 1)),
                files: keys.files(),
                data: "data",
            });
        }
        plans.extend(etcd);
        Ok(plans)
    }

    fn address(&self, network: &Network, index: u8) -> Result<SocketAddr> {
        if !self.listed {
            return network.free(SERVERS + index, 6443);
        }
        let address = reachable_address().context("this machine has no address but loopback")?;
        Ok(TcpListener::bind((address, 0))?.local_addr()?)
    }

    /// Starts them and waits until all of them serve.
    ///
    /// # Errors
    ///
    /// They cannot be started.
    pub async fn start(&self) -> Result<Servers> {
        let servers = Servers::start(|network, directory| self.plan(network, directory))?;
        for index in 0..self.servers.into() {
            Api::of(&servers, index, ADMIN)?.serves().await;
        }
        if self.listed {
            list(&Api::of(&servers, 0, ADMIN)?, &servers.addresses()[..self.servers.into()]).await?;
        }
        Ok(servers)
    }
}

/// Writes the servers at these addresses into the Endpoints that name them.
///
/// # Errors
///
/// They are not named then.
pub async fn list(api: &Api, servers: &[SocketAddr]) -> Result<()> {
    let subset = |address: &SocketAddr| {
        let ports = json!([{"name": "https", "port": address.port(), "protocol": "TCP"}]);
        json!({"addresses": [{"ip": address.ip().to_string()}], "ports": ports})
    };
    let subsets: Vec<_> = servers.iter().map(subset).collect();
    let endpoints = json!({"metadata": {"name": "kubernetes"}, "subsets": subsets});
    api.create("/api/v1/namespaces/default/endpoints", &endpoints).await
}

/// Certificates, keys and users.
struct Keys(Vec<(&'static str, Vec<u8>)>);

impl Keys {
    fn make(addresses: &[SocketAddr]) -> Result<Self> {
        let workshop = Workshop::open().context("no `openssl` on the PATH")?;
        let authority = workshop.self_signed("ca", "DNS:authority");
        // Proxies before them listen on 127.0.0.1.
        let mut names = vec!["DNS:kubernetes.default.svc".to_owned(), "IP:127.0.0.1".to_owned()];
        names.extend(addresses.iter().map(|address| format!("IP:{}", address.ip())));
        let server = workshop.signed_by(&authority, "server", &names.join(","), "10");
        let accounts = workshop.self_signed("accounts", "DNS:accounts");
        let tokens = format!("{ADMIN},admin,1,\"system:masters\"\n{ALICE},alice,2,\n");
        let read = |path: &Path| std::fs::read(path).context("a file that was just made");
        Ok(Self(vec![
            ("ca.crt", read(&authority.cert)?),
            ("ca.key", read(&authority.key)?),
            ("server.crt", read(&server.cert)?),
            ("server.key", read(&server.key)?),
            ("accounts.key", read(&accounts.key)?),
            ("tokens.csv", tokens.into_bytes()),
        ]))
    }

    fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        self.0.clone()
    }
}

/// The certificate and key of the authority that signs whoever the servers know.
#[must_use]
pub fn authority(plan: &Plan) -> Files {
    Files { cert: plan.directory.join("ca.crt"), key: plan.directory.join("ca.key") }
}

/// A kubeconfig with one context, `kind-kind`, for the user who has `token`.
#[must_use]
pub fn kubeconfig(plan: &Plan, token: &str) -> Value {
    kubeconfig_for(plan, plan.address, &json!({"token": token}))
}

/// The same with another address and any way to say who one is.
#[must_use]
pub fn kubeconfig_for(plan: &Plan, address: SocketAddr, user: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": format!("https://{address}"), "certificate-authority": authority(plan).cert}}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "kind-kind", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "kind-kind",
    })
}

/// What a test does with an API server, as one of its users.
#[derive(Clone, Debug)]
pub struct Api {
    client: reqwest::Client,
    base: String,
    token: String,
}

impl Api {
    /// The one of `servers` with this number.
    ///
    /// # Errors
    ///
    /// Its certificate cannot be read.
    pub fn of(servers: &Servers, index: usize, token: &str) -> Result<Self> {
        Self::at(servers.plan(index), token)
    }

    /// The server of `plan`, wherever it is run.
    ///
    /// # Errors
    ///
    /// Its certificate cannot be read.
    pub fn at(plan: &Plan, token: &str) -> Result<Self> {
        let authority = plan.files.iter().find(|(name, _)| *name == "ca.crt").context("it is no API server")?;
        let authority = reqwest::Certificate::from_pem(&authority.1)?;
        let client = reqwest::Client::builder().tls_certs_only([authority]).timeout(Duration::from_secs(30)).no_proxy().build()?;
        Ok(Self { client, base: format!("https://{}", plan.address), token: token.to_owned() })
    }

    /// The same server as somebody else.
    #[must_use]
    pub fn as_user(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// Sends a request; the code and the body of the answer.
    ///
    /// # Errors
    ///
    /// There is no answer, or it is no JSON.
    pub async fn ask(&self, method: &str, path: &str, media: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let mut request = self.client.request(method.parse()?, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("Content-Type", media).body(body.to_string());
        }
        let response = request.send().await?;
        let code = response.status().as_u16();
        let text = response.text().await?;
        Ok((code, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Reads; nothing if there is no such thing.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub async fn get(&self, path: &str) -> Result<Option<Value>> {
        match self.ask("GET", path, "", None).await? {
            (200, value) => Ok(Some(value)),
            (404, _) => Ok(None),
            (code, value) => anyhow::bail!("GET {path}: {code} {value}"),
        }
    }

    /// Creates something, unless it exists.
    ///
    /// # Errors
    ///
    /// It does not exist then.
    pub async fn create(&self, collection: &str, object: &Value) -> Result<()> {
        let (code, answer) = self.ask("POST", collection, "application/json", Some(object)).await?;
        ensure!(matches!(code, 200 | 201 | 409), "POST {collection}: {code} {answer}");
        Ok(())
    }

    /// Changes something by a merge patch.
    ///
    /// # Errors
    ///
    /// It was not changed.
    pub async fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        let (code, answer) = self.ask("PATCH", path, "application/merge-patch+json", Some(patch)).await?;
        ensure!(code == 200, "PATCH {path}: {code} {answer}");
        Ok(answer)
    }

    /// Deletes something, if it exists, at once.
    ///
    /// # Errors
    ///
    /// It exists still.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let now = json!({"gracePeriodSeconds": 0});
        let (code, answer) = self.ask("DELETE", path, "application/json", Some(&now)).await?;
        ensure!(matches!(code, 200 | 202 | 404), "DELETE {path}: {code} {answer}");
        Ok(())
    }

    /// Makes a namespace.
    ///
    /// # Errors
    ///
    /// There is none then.
    pub async fn make_namespace(&self, name: &str) -> Result<()> {
        self.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await
    }

    /// Makes a pod that runs, as far as one can see, at `ip`.
    ///
    /// # Errors
    ///
    /// There is none then.
    pub async fn make_pod(&self, namespace: &str, name: &str, labels: &Value, ip: &str) -> Result<()> {
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        let spec = json!({"containers": [{"name": "postgresql", "image": "postgresql"}]});
        self.create(&pods, &json!({"metadata": {"name": name, "labels": labels}, "spec": spec})).await?;
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        self.patch(&format!("{pods}/{name}/status"), &status).await.map(drop)
    }

    /// A service account, and a token of it as a pod would find it.
    ///
    /// # Errors
    ///
    /// There is none then.
    pub async fn make_account(&self, namespace: &str, name: &str) -> Result<String> {
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        self.create(&accounts, &json!({"metadata": {"name": name}})).await?;
        self.account_token(namespace, name).await
    }

    /// Another token of a service account.
    ///
    /// # Errors
    ///
    /// There is none then.
    pub async fn account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        // Two of the same second and for the same time would be one.
        let seconds = 3600 + fastrand::u32(..100_000);
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}});
        let (code, answer) = self.ask("POST", &path, "application/json", Some(&request)).await?;
        ensure!(code == 201, "POST {path}: {code} {answer}");
        Ok(answer["status"]["token"].as_str().context("a token")?.to_owned())
    }

    /// Waits until the server is ready, its roles and namespaces included.
    ///
    /// # Panics
    ///
    /// It is not, after a minute.
    pub async fn serves(&self) {
        eventually("the API server is ready", Duration::from_secs(90), || async {
            for path in ["/readyz", "/api/v1/namespaces/default"] {
                match self.ask("GET", path, "", None).await {
                    Ok((200, _)) => {}
                    Ok((code, answer)) => return Err(format!("{path}: {code} {answer}")),
                    Err(error) => return Err(format!("{path}: {error:#}")),
                }
            }
            Ok(())
        })
        .await;
    }
}
