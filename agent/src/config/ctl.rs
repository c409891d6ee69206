//! The `ctl` section: how other members are called, by the control tool and by the agent.

use std::path::PathBuf;

use ha_engine::settings::Secret;

use super::error::KeyError;
use super::rest_api::{BasicAuth, RestApiSettings, basic_auth};
use super::section::Section;

/// The `ctl` section, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CtlSettings {
    /// Credentials; those of the REST API by default.
    pub authentication: Option<BasicAuth>,
    /// Whether server certificates are not verified. The agent itself always behaves as if it were true.
    pub insecure: bool,
    /// Who signs server certificates; the REST API's `cafile` by default.
    pub cacert: Option<PathBuf>,
    /// The client certificate.
    pub certfile: Option<PathBuf>,
    /// Its key, if it is not in `certfile`.
    pub keyfile: Option<PathBuf>,
    /// The key's passphrase.
    pub keyfile_password: Option<Secret>,
}

impl CtlSettings {
    /// Reads the section from the root of the local configuration.
    pub(super) fn read(root: &Section<'_>) -> Result<Self, KeyError> {
        let mut settings = match root.section("ctl")? {
            None => Self::default(),
            Some(section) => Self {
                authentication: basic_auth(&section)?,
                insecure: section.switch("insecure"),
                cacert: section.path("cacert")?,
                certfile: section.path("certfile")?,
                keyfile: section.path("keyfile")?,
                keyfile_password: section.text("keyfile_password")?.map(Secret::new),
            },
        };
        if settings.authentication.is_none()
            && let Some(restapi) = root.section("restapi")?
        {
            settings.authentication = basic_auth(&restapi)?;
        }
        if settings.cacert.is_none() {
            settings.cacert = RestApiSettings::cafile(root)?;
        }
        Ok(settings)
    }
}
