//! What the tests of the tool share.

use dcs_core::codec::{RawValue, decode_view};
use dcs_core::keys::Key;
use dcs_core::model::{ClusterView, Revision};

/// The view of a cluster whose store holds these keys, relative to its path.
pub(crate) fn view(keys: &[(&str, &str)]) -> ClusterView {
    let revision = Revision::new("1");
    decode_view(keys.iter().map(|(key, value)| {
        let key = Key::parse(key).expect("a key of the cluster");
        (key, RawValue { bytes: value.as_bytes(), revision: &revision, handle: None })
    }))
}
