//! Certificates of the REST API, and renewed ones while it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dcs_core::tls::{ClientCertificates, ServerTls, TlsError};
use tokio::task::JoinHandle;

use super::connection::Acceptor;
use crate::config::{RestApiSettings, VerifyClient};

/// How often the files are looked at.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// What the settings say about TLS; nothing for plain HTTP.
fn server_tls(settings: &RestApiSettings) -> Option<ServerTls> {
    let tls = settings.tls.as_ref()?;
    if tls.ciphers.is_some() {
        tracing::warn!("restapi.ciphers is ignored: the cipher suites are those of TLS 1.3 and the safe ones of TLS 1.2");
    }
    Some(ServerTls {
        cert: tls.certfile.clone(),
        key: tls.keyfile.clone(),
        key_password: tls.keyfile_password.as_ref().map(|password| password.expose().to_owned()),
        ca: tls.cafile.clone(),
        clients: match settings.verify_client {
            VerifyClient::None => ClientCertificates::Ignored,
            VerifyClient::Optional => ClientCertificates::Optional,
            VerifyClient::Required => ClientCertificates::Required,
        },
    })
}

/// Reads the certificates; nothing for plain HTTP.
pub(super) async fn config(settings: &RestApiSettings) -> Result<Option<Arc<rustls::ServerConfig>>, TlsError> {
    match server_tls(settings) {
        Some(tls) => read(tls).await.map(Some),
        None => Ok(None),
    }
}

async fn read(tls: ServerTls) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    // Beside the tasks that must not wait for a disk.
    let config = tokio::task::spawn_blocking(move || tls.config()).await;
    let mut config = config.map_err(|panic| TlsError::Setup(Box::new(panic)))??;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Looks at the files every `period`, and serves renewed certificates as soon as they are there. What cannot be used
/// leaves the former ones in place.
pub(super) fn watch(settings: &RestApiSettings, acceptor: Acceptor, period: Duration) -> Option<JoinHandle<()>> {
    let tls = server_tls(settings)?;
    let files: Vec<PathBuf> = tls.files().into_iter().map(PathBuf::from).collect();
    Some(tokio::spawn(async move {
        let mut known = marks(&files).await;
        loop {
            tokio::time::sleep(period).await;
            let marks = marks(&files).await;
            if marks == known {
                continue;
            }
            known = marks;
            match read(tls.clone()).await {
                Ok(config) => {
                    tracing::info!("The certificates of the REST API have changed, using the new ones");
                    acceptor.set_tls(Some(config));
                }
                Err(error) => tracing::warn!(
                    "The certificates of the REST API have changed and cannot be used, keeping the former ones: {}",
                    error.chain()
                ),
            }
        }
    }))
}

/// What changes when a file does.
async fn marks(files: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let mut marks = Vec::with_capacity(files.len());
    for file in files {
        let metadata = tokio::fs::metadata(file).await.ok();
        marks.push(metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len()))));
    }
    marks
}
