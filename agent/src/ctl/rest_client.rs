//! The agents' REST API over the network.

use async_trait::async_trait;
use dcs_core::chain;
use http::Method;
use serde_json::Value;

use crate::config::{CtlSettings, LocalConfig};
use crate::http_client::{BasicCredentials, HttpClientSettings, explain};

use super::agents::{Agents, Answer, Unreachable};
use super::failure::Failure;
use super::settings;

/// How often it is tried to make a connection.
const ATTEMPTS: usize = 4;

/// Calls agents as the `ctl` section says. The client is made when the first one is called, so that commands which only
/// read the store do not need usable certificates.
#[derive(Debug)]
pub(super) struct RestClient {
    settings: HttpClientSettings,
    client: tokio::sync::OnceCell<reqwest::Client>,
}

impl RestClient {
    /// A client with the credentials and certificates of `config`.
    ///
    /// # Errors
    ///
    /// The `ctl` or `restapi` section has an unusable value.
    pub(super) fn new(config: &LocalConfig, insecure: bool) -> Result<Self, Failure> {
        let CtlSettings { authentication, insecure: configured, cacert, certfile, keyfile, keyfile_password } =
            config.ctl().map_err(|error| settings::unusable(&error))?;
        let settings = HttpClientSettings {
            credentials: authentication.map(|basic| BasicCredentials { username: basic.username, password: basic.password }),
            ca: cacert,
            cert: certfile,
            key: keyfile,
            key_password: keyfile_password,
            insecure: insecure || configured,
        };
        Ok(Self { settings, client: tokio::sync::OnceCell::new() })
    }

    async fn client(&self) -> Result<&reqwest::Client, Unreachable> {
        let make = || async {
            let settings = self.settings.clone();
            let made = tokio::task::spawn_blocking(move || settings.client()).await;
            made.map_err(|error| Unreachable(error.to_string()))?.map_err(|error| Unreachable(chain(&error)))
        };
        self.client.get_or_try_init(make).await
    }
}

#[async_trait]
impl Agents for RestClient {
    async fn call(&self, method: Method, url: &str, body: Option<&Value>) -> Result<Answer, Unreachable> {
        let client = self.client().await?;
        let mut attempt = 1;
        let response = loop {
            let mut request = client.request(method.clone(), url);
            if let Some(body) = body {
                request = request.json(body);
            }
            match request.send().await {
                Ok(response) => break response,
                // Only what certainly never arrived is sent again.
                Err(error) if error.is_connect() && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(Unreachable(format!("{url}: {}", explain(error)))),
            }
        };
        let status = response.status().as_u16();
        let text = response.text().await.map_err(|error| Unreachable(format!("{url}: {}", explain(error))))?;
        Ok(Answer { status, text })
    }
}

#[cfg(test)]
mod tests;
