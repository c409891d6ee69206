//! Short forms for the tables of the rules.

use dcs_core::model::{Lsn, MemberName};

use super::names::Names;
use super::sample::{SyncWord, Walsender};

pub(super) use crate::decide::tests::member;

/// `"b c"` as a set; `"-"` is none.
pub(super) fn names(list: &str) -> Names {
    list.split_whitespace().filter(|name| *name != "-").map(MemberName::from).collect()
}

/// `"bc"` as a set of nodes with one letter each; `"-"` is none.
pub(super) fn letters(list: &str) -> Names {
    list.chars().filter(|letter| *letter != '-').map(|letter| MemberName::from(letter.to_string())).collect()
}

/// A standby that has written, flushed and replayed everything up to `position`.
pub(super) fn sender(name: &str, sync: SyncWord, position: u64) -> Walsender {
    let position = Some(Lsn(position));
    Walsender { application_name: name.to_owned(), sync, written: position, flushed: position, replayed: position }
}
