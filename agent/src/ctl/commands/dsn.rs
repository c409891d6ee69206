//! `dsn`: where to connect.

use ha_engine::endpoint::ConnUrl;

use crate::ctl::arguments::{Role, Target};
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::members;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// Any member of this role.
    pub role: Option<Role>,
    /// This member.
    pub member: Option<String>,
}

/// Prints host and port of the first member that fits; of the leader, if nothing else is asked for.
///
/// # Errors
///
/// Nobody fits, or role and member are both given.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let view = context.open(&options.target).await?.load().await?;
    let candidates = match (options.role, &options.member) {
        (Some(_), Some(_)) => return Err(Failure::error("--role and --member are mutually exclusive options")),
        (None, Some(_)) => members::of_role(&view, Role::Any),
        (role, None) => members::of_role(&view, role.unwrap_or(Role::Leader)),
    };
    let wanted = options.member.as_deref();
    let found = candidates.iter().find(|member| wanted.is_none_or(|name| member.name == name));
    let address = found.and_then(|member| ConnUrl::parse(member.record.conn_url.as_deref()?));
    let address = address.ok_or_else(|| Failure::error("Can not find a suitable member"))?;
    context.console.line(format!("host={} port={}", address.host, address.port))
}
