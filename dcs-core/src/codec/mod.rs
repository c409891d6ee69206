//! The text forms of what stands in the store, byte for byte as existing clusters write and read them.
//!
//! Every reader takes any bytes whatever and never fails: what cannot be understood becomes what the specification says
//! for it, and the problem is told beside it ([`Decoded::problem`]). Every writer produces compact JSON. Fields that this
//! version does not know are kept.
//!
//! | module | keys |
//! | --- | --- |
//! | `member` | `members/<name>` |
//! | `status` | `status`, `optime/leader`, `failsafe` |
//! | `requests` | `failover` |
//! | `sync` | `sync` |
//! | `history` | `history` |
//! | `view` | all of them together, and `initialize`, `leader`, `config` |
//! | `text` | equality by text and the merge patch, used by the REST API and the control tool too |
//! | `time` | points in time as people write them |

mod history;
mod member;
mod numbers;
mod requests;
mod status;
mod sync;
mod text;
mod time;
mod view;

pub use self::history::{decode_history, encode_history_lines};
pub use self::member::{decode_member, encode_member, member_object};
pub use self::requests::{decode_failover, encode_failover};
pub use self::status::{decode_failsafe, decode_optime, decode_status, encode_status};
pub use self::sync::{decode_sync, encode_sync};
pub use self::text::{merge_patch, same_object, same_value};
pub use self::time::{ScheduleError, parse_schedule};
pub use self::view::{RawValue, decode_config, decode_view};

/// What a stored value reads as, and what is wrong with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded<T> {
    /// What it reads as; what the specification says for damaged content, if it is damaged.
    pub value: T,
    /// What is wrong, in words for the log; nothing if the value is as it should be.
    pub problem: Option<String>,
}

impl<T> Decoded<T> {
    fn good(value: T) -> Self {
        Self { value, problem: None }
    }

    fn damaged(value: T, problem: impl Into<String>) -> Self {
        Self { value, problem: Some(problem.into()) }
    }

    fn with(value: T, problem: Option<String>) -> Self {
        Self { value, problem }
    }
}

/// Reads JSON; the problem in words if it is none.
fn json(bytes: &[u8]) -> Result<serde_json::Value, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("it is not JSON ({error})"))
}

/// What kind of JSON value it is, for messages.
fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "a list",
        serde_json::Value::Object(_) => "an object",
    }
}
