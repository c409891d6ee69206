//! Why a server does not let us in. The client library keeps that to itself, so the way there is gone once more, without it.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::tls::ClientTls;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::host::Host;

/// How long looking may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What stands in the way to `host`, in words.
///
/// # Cancel safety
///
/// Dropping the future has no effect.
pub(crate) async fn of(host: &Host, tls: Option<&ClientTls>) -> String {
    let found = Deadline::after(PATIENCE).bound("a connection", look(host, tls)).await;
    let found = found.unwrap_or_else(|_| format!("it does not answer in {PATIENCE:?}"));
    format!("{host}: {found}")
}

async fn look(host: &Host, tls: Option<&ClientTls>) -> String {
    let stream = match TcpStream::connect((host.name.as_str(), host.port)).await {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    let Some(tls) = tls else { return "it accepts connections, and does not serve".to_owned() };
    let settings = tls.clone();
    let config = match tokio::task::spawn_blocking(move || settings.config()).await {
        Ok(Ok(config)) => config,
        Ok(Err(error)) => return error.chain(),
        Err(error) => return error.to_string(),
    };
    let name = match rustls_pki_types::ServerName::try_from(host.name.clone()) {
        Ok(name) => name,
        Err(error) => return error.to_string(),
    };
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(_) => {
            "it speaks TLS, and does not serve; perhaps it wants another client certificate, or its own is that of an authority".to_owned()
        }
        Err(error) => error.to_string(),
    }
}
