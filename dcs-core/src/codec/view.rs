//! All keys together: the cluster view.

use serde_json::Value;

use super::{
    Decoded, decode_failover, decode_failsafe, decode_history, decode_member, decode_optime, decode_status, decode_sync, json, kind,
};
use crate::keys::Key;
use crate::model::{ClusterView, Damage, DynamicConfig, FailoverKey, HandleId, History, Leader, Member, MemberName, Revision, SyncState};

/// One stored value, with what the store says about it.
#[derive(Clone, Copy, Debug)]
pub struct RawValue<'a> {
    /// The value.
    pub bytes: &'a [u8],
    /// Its revision.
    pub revision: &'a Revision,
    /// The liveness handle that its key is bound to.
    pub handle: Option<&'a HandleId>,
}

/// Reads the dynamic configuration. Anything but an object is "present but invalid": no data, and the revision to repair
/// it with.
pub fn decode_config(raw: RawValue<'_>) -> Decoded<DynamicConfig> {
    let config = |data| DynamicConfig { revision: raw.revision.clone(), data };
    match json(raw.bytes) {
        Ok(Value::Object(data)) => Decoded::good(config(Some(data))),
        Ok(other) => Decoded::damaged(config(None), format!("it is {}, not an object", kind(&other))),
        Err(problem) => Decoded::damaged(config(None), problem),
    }
}

/// Reads everything that one load returned. Never fails, whatever the values are: what cannot be understood is listed in
/// [`ClusterView::damages`].
pub fn decode_view<'a>(entries: impl IntoIterator<Item = (Key<'a>, RawValue<'a>)>) -> ClusterView {
    let mut reader = Reader::default();
    for (key, raw) in entries {
        reader.read(key, raw);
    }
    reader.finish()
}

#[derive(Default)]
struct Reader<'a> {
    view: ClusterView,
    has_status: bool,
    legacy_optime: Option<RawValue<'a>>,
}

impl<'a> Reader<'a> {
    fn read(&mut self, key: Key<'a>, raw: RawValue<'a>) {
        match key {
            Key::Initialize => self.view.initialize = Some(self.text(key, raw)),
            Key::Config => self.view.config = Some(self.keep(key, decode_config(raw))),
            Key::Leader => {
                let name = self.text(key, raw);
                self.view.leader = (!name.is_empty()).then(|| Leader {
                    name: MemberName::from(name),
                    revision: raw.revision.clone(),
                    handle: raw.handle.cloned(),
                });
            }
            Key::Member(name) => {
                let record = self.keep(key, decode_member(raw.bytes));
                self.view.members.push(Member {
                    name: MemberName::from(name),
                    revision: raw.revision.clone(),
                    handle: raw.handle.cloned(),
                    record,
                });
            }
            Key::Failover => {
                let request = self.keep(key, decode_failover(raw.bytes));
                self.view.failover = (!request.is_empty()).then(|| FailoverKey { revision: raw.revision.clone(), request });
            }
            Key::Sync => {
                let decoded = decode_sync(raw.bytes);
                let damaged = decoded.problem.is_some();
                let record = self.keep(key, decoded);
                self.view.sync = SyncState { revision: Some(raw.revision.clone()), record, damaged };
            }
            Key::History => {
                let (raw_value, lines) = self.keep(key, decode_history(raw.bytes));
                self.view.history = Some(History { revision: raw.revision.clone(), lines, raw: raw_value });
            }
            Key::Status => {
                self.has_status = true;
                self.view.status = self.keep(key, decode_status(raw.bytes));
            }
            Key::LegacyOptime => self.legacy_optime = Some(raw),
            Key::Failsafe => self.view.failsafe = self.keep(key, decode_failsafe(raw.bytes)),
        }
    }

    /// A value that is plain text. A name that cannot be read still means that the key exists.
    fn text(&mut self, key: Key<'_>, raw: RawValue<'_>) -> String {
        let decoded = match std::str::from_utf8(raw.bytes) {
            Ok(text) => Decoded::good(text.to_owned()),
            Err(_) => Decoded::damaged(String::from_utf8_lossy(raw.bytes).into_owned(), "it is not UTF-8"),
        };
        self.keep(key, decoded)
    }

    fn keep<T>(&mut self, key: Key<'_>, decoded: Decoded<T>) -> T {
        if let Some(problem) = decoded.problem {
            self.view.damages.push(Damage { key: key.to_string(), problem });
        }
        decoded.value
    }

    fn finish(mut self) -> ClusterView {
        // Only without `status`, even a damaged one: the old key is then older than what the damage hides.
        if let (false, Some(raw)) = (self.has_status, self.legacy_optime) {
            self.view.status.last_lsn = self.keep(Key::LegacyOptime, decode_optime(raw.bytes));
        }
        self.view.members.sort_by(|left, right| left.name.cmp(&right.name));
        self.view
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lsn, MemberRecord};

    fn view(entries: &[(&'static str, &'static [u8])]) -> ClusterView {
        let revision = Revision::from(7_u64);
        let raw = |bytes| RawValue { bytes, revision: &revision, handle: None };
        decode_view(entries.iter().filter_map(|(key, bytes)| Some((Key::parse(key)?, raw(bytes)))))
    }

    #[test]
    fn no_keys_are_the_empty_view() {
        assert!(view(&[]).is_empty());
    }

    #[test]
    fn an_invalid_configuration_keeps_its_revision_for_the_repair() {
        for bytes in [b"x".as_slice(), b"[]", b"5", b"", b"\xff"] {
            let config = view(&[("config", bytes)]).config.unwrap();
            assert_eq!((config.data, config.revision), (None, Revision::from(7_u64)));
        }
        assert!(view(&[("config", b"{\"ttl\":30}")]).config.unwrap().is_usable());
    }

    #[test]
    fn a_damaged_member_is_a_member_without_data() {
        let view = view(&[("members/b", b"{}"), ("members/a", b"\xff")]);
        let names: Vec<_> = view.members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(view.members[0].record, MemberRecord::default());
        assert_eq!(view.damages.len(), 1);
        assert_eq!(view.damages[0].key, "members/a");
    }

    #[test]
    fn a_leader_without_member_key_is_a_leader() {
        let view = view(&[("leader", b"a")]);
        assert_eq!(view.leader_name(), Some(&MemberName::from("a")));
        assert_eq!(view.leader_member(), None);
    }

    #[test]
    fn an_empty_leader_is_no_leader() {
        assert!(view(&[("leader", b"")]).is_unlocked());
    }

    #[test]
    fn the_legacy_position_counts_only_without_status() {
        assert_eq!(view(&[("optime/leader", b"42")]).status.last_lsn, Lsn(42));
        assert_eq!(view(&[("optime/leader", b"42"), ("status", b"{}")]).status.last_lsn, Lsn(0));
        let damaged = view(&[("optime/leader", b"42"), ("status", b"garbage")]);
        assert_eq!((damaged.status.last_lsn, damaged.damages.len()), (Lsn(0), 1));
    }

    #[test]
    fn a_damaged_sync_key_is_empty_and_keeps_its_revision() {
        let sync = view(&[("sync", b"garbage")]).sync;
        assert!(sync.is_empty() && sync.damaged);
        assert_eq!(sync.revision, Some(Revision::from(7_u64)));
        let empty = view(&[("sync", b"{}")]).sync;
        assert!(empty.is_empty() && !empty.damaged && empty.revision.is_some());
    }

    #[test]
    fn a_failover_request_that_cannot_be_used_is_absent_and_reported() {
        let view = view(&[("failover", br#"{"leader":"a","scheduled_at":"soon"}"#)]);
        assert_eq!(view.failover, None);
        assert_eq!(view.damages.len(), 1);
    }

    #[test]
    fn a_damaged_history_has_no_lines_and_an_odd_failsafe_is_kept() {
        let view = view(&[("history", b"{}"), ("failsafe", b"5"), ("initialize", b"\xff")]);
        assert_eq!(view.history.unwrap().lines, []);
        assert_eq!(view.failsafe, Some(Value::from(5)));
        assert!(view.initialize.is_some(), "the key exists, so nobody may bootstrap");
        assert_eq!(view.damages.len(), 3);
    }
}
