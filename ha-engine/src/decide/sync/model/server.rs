//! The model's server: what it shows, whom commits wait for, and how its log reaches the standbys.

use super::*;

impl World {
    pub(super) fn walsenders(&self) -> Vec<Walsender> {
        let Some(primary) = &self.primary else { return Vec::new() };
        let mut left = primary.in_force.number;
        self.nodes
            .iter()
            .filter(|node| node.up && node.streams)
            .map(|node| {
                let named = primary.in_force.everybody || primary.in_force.names.contains(node.name.as_str());
                let sync = match primary.in_force.kind {
                    _ if !named => SyncWord::Async,
                    Kind::Quorum => SyncWord::Quorum,
                    Kind::Priority if left > 0 => {
                        left -= 1;
                        SyncWord::Sync
                    }
                    Kind::Priority | Kind::Off => SyncWord::Potential,
                };
                let position = node.told.map(Lsn);
                Walsender { application_name: node.name.to_string(), sync, written: position, flushed: position, replayed: position }
            })
            .collect()
    }

    pub(super) fn sample(&self) -> SyncSample {
        let Some(primary) = &self.primary else { return SyncSample::default() };
        SyncSample {
            names: primary.text.clone(),
            settled: primary.names == primary.in_force || !self.rules.text_in_force,
            flushed: Lsn(length(&self.nodes[primary.at].log)),
            walsenders: self.walsenders(),
            ..SyncSample::default()
        }
    }

    /// Clients get their answers, in order, as far as the standbys have told.
    pub(super) fn answer(&mut self) {
        let senders = self.walsenders();
        let Some(primary) = &mut self.primary else { return };
        let log = &self.nodes[primary.at].log;
        while let Some(commit) = log.get(primary.answered) {
            let position = Lsn(u64::try_from(primary.answered).expect("short") + 1);
            let has = |sender: &&Walsender| sender.flushed.is_some_and(|flushed| flushed >= position);
            let number = primary.in_force.number;
            let enough = match primary.in_force.kind {
                Kind::Off => true,
                Kind::Quorum => senders.iter().filter(|sender| sender.sync == SyncWord::Quorum).filter(has).count() >= number,
                Kind::Priority => senders.iter().filter(|sender| sender.sync == SyncWord::Sync).filter(has).count() >= number,
            };
            if !enough {
                break;
            }
            self.acknowledged.push(*commit);
            primary.answered += 1;
        }
    }

    pub(super) fn set_names(&mut self, text: &str) {
        let names = StandbyNames::parse(text).expect("the rules write what can be read");
        if let Some(primary) = &mut self.primary {
            (primary.text, primary.names) = (text.to_owned(), names);
        }
        // Every process has read it at once, or something keeps them from it.
        if self.dice.bool() {
            self.settle_text();
        }
    }

    pub(super) fn settle_text(&mut self) {
        if let Some(primary) = &mut self.primary {
            primary.in_force = primary.names.clone();
        }
        self.answer();
    }
}
