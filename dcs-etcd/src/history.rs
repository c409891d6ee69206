//! What the answers so far prove about the cluster behind them, and whether another one fits.
//!
//! Every answer of etcd carries the cluster's id, the raft term and the store's revision. A server that answers with an
//! older term, or shows less than we have seen, has lost touch with its cluster; what it says alone counts for nothing.

use dcs_core::Cursor;

/// What an answer says about the server it came from. A term of zero is one that it did not tell (errors of the v2 API).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) cluster: u64,
    pub(crate) term: u64,
    pub(crate) revision: u64,
}

impl From<&etcd_client::ResponseHeader> for Header {
    fn from(header: &etcd_client::ResponseHeader) -> Self {
        Self { cluster: header.cluster_id(), term: header.raft_term(), revision: u64::try_from(header.revision()).unwrap_or_default() }
    }
}

/// Who stands behind an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A majority: the request was part of the log, or of a linearizable read, and was sent when `floor` was the newest
    /// revision that we had seen.
    Majority {
        /// See [`Memory::floor`].
        floor: u64,
    },
    /// The server alone; it must not show less than `floor`.
    OneServer {
        /// See [`Memory::floor`]; zero if the revision does not matter.
        floor: u64,
    },
}

/// Whether an answer can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It fits what we know.
    Current,
    /// The server is behind what we have seen.
    Behind,
}

/// What we know.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    newest: Header,
    /// Added to revisions to make cursors, so that those never go back, even if the store's history does.
    base: u64,
}

impl Memory {
    /// The newest revision seen. To be asked *before* a request is sent.
    pub(crate) const fn floor(&self) -> u64 {
        self.newest.revision
    }

    /// The newest term seen.
    pub(crate) const fn term(&self) -> u64 {
        self.newest.term
    }

    /// Takes note of an answer.
    pub(crate) fn observe(&mut self, header: Header, proof: Proof) -> Standing {
        if header == Header::default() {
            // Some intermediaries leave it out. Nothing can be said then.
            return Standing::Current;
        }
        if self.newest.cluster == 0 {
            self.newest = header;
            return Standing::Current;
        }
        if header.cluster != self.newest.cluster {
            tracing::warn!(
                old = format_args!("{:x}", self.newest.cluster),
                new = format_args!("{:x}", header.cluster),
                "the id of the etcd cluster has changed"
            );
            self.begin_anew(header);
            return Standing::Current;
        }
        match proof {
            Proof::OneServer { floor } if self.is_older(header.term) || header.revision < floor => {
                tracing::debug!(?header, newest = ?self.newest, "an etcd server is behind");
                Standing::Behind
            }
            Proof::Majority { floor } if header.revision < floor => {
                tracing::warn!(
                    seen = floor,
                    now = header.revision,
                    "the history of the etcd cluster has gone back: its data were restored or wiped"
                );
                self.begin_anew(header);
                Standing::Current
            }
            // A majority may also lower the term: the higher one was seen on a server that had been cut off.
            Proof::Majority { .. } | Proof::OneServer { .. } => {
                if header.term != 0 {
                    self.newest.term = header.term;
                }
                self.newest.revision = self.newest.revision.max(header.revision);
                Standing::Current
            }
        }
    }

    const fn is_older(&self, term: u64) -> bool {
        term != 0 && term < self.newest.term
    }

    fn begin_anew(&mut self, header: Header) {
        self.base = self.cursor(self.newest.revision).0 + 1;
        self.newest = header;
    }

    /// The position of `revision` in the stream of changes.
    pub(crate) const fn cursor(&self, revision: u64) -> Cursor {
        Cursor(self.base + revision)
    }

    /// The revision at `cursor`; nothing if it belongs to a history that is over.
    pub(crate) const fn revision(&self, cursor: Cursor) -> Option<u64> {
        cursor.0.checked_sub(self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Proof = Proof::OneServer { floor: 0 };

    fn header(cluster: u64, term: u64, revision: u64) -> Header {
        Header { cluster, term, revision }
    }

    #[test]
    fn a_server_with_an_older_term_is_behind() {
        let mut memory = Memory::default();
        assert_eq!(memory.observe(header(1, 5, 10), ONE), Standing::Current);
        assert_eq!(memory.observe(header(1, 6, 10), ONE), Standing::Current);
        assert_eq!(memory.observe(header(1, 5, 99), ONE), Standing::Behind);
        assert_eq!(memory.floor(), 10, "what it says does not count");
    }

    #[test]
    fn a_read_from_one_server_must_show_what_was_seen_before_it_was_sent() {
        let mut memory = Memory::default();
        memory.observe(header(1, 5, 10), Proof::Majority { floor: 0 });
        let floor = memory.floor();
        assert_eq!(memory.observe(header(1, 5, 9), Proof::OneServer { floor }), Standing::Behind);
        assert_eq!(memory.observe(header(1, 5, 9), ONE), Standing::Current, "a keepalive may come from a slower server");
    }

    #[test]
    fn a_majority_overrules_a_term_seen_on_a_server_that_was_cut_off() {
        let mut memory = Memory::default();
        memory.observe(header(1, 5, 10), ONE);
        memory.observe(header(1, 50, 10), ONE);
        assert_eq!(memory.observe(header(1, 5, 11), Proof::Majority { floor: 10 }), Standing::Current);
        assert_eq!(memory.observe(header(1, 5, 12), ONE), Standing::Current);
    }

    #[test]
    fn cursors_never_go_back_even_if_history_does() {
        let mut memory = Memory::default();
        memory.observe(header(1, 5, 100), ONE);
        let old = memory.cursor(100);
        // Restored under the same id: term and revision are lower, and a majority says so.
        assert_eq!(memory.observe(header(1, 2, 7), Proof::Majority { floor: 100 }), Standing::Current);
        assert!(memory.cursor(7) > old);
        assert_eq!(memory.revision(old), None);
        assert_eq!(memory.revision(memory.cursor(7)), Some(7));
        // Another cluster at the same addresses.
        let old = memory.cursor(7);
        assert_eq!(memory.observe(header(2, 2, 3), ONE), Standing::Current);
        assert!(memory.cursor(3) > old);
    }

    #[test]
    fn an_answer_without_a_term_is_judged_by_its_revision() {
        let mut memory = Memory::default();
        memory.observe(header(1, 5, 10), ONE);
        assert_eq!(memory.observe(header(1, 0, 10), Proof::OneServer { floor: 10 }), Standing::Current);
        assert_eq!(memory.observe(header(1, 0, 9), Proof::OneServer { floor: 10 }), Standing::Behind);
        assert_eq!(memory.observe(header(1, 4, 11), ONE), Standing::Behind, "the term is still known");
    }

    #[test]
    fn answers_may_overtake_each_other() {
        let mut memory = Memory::default();
        let floor = memory.floor();
        memory.observe(header(1, 5, 11), Proof::Majority { floor });
        assert_eq!(memory.observe(header(1, 5, 10), Proof::Majority { floor }), Standing::Current);
        assert_eq!(memory.floor(), 11);
    }
}
