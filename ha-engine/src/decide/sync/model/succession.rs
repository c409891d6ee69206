//! How the model's lock changes hands: who may win, by the real rules, and what is checked when somebody is promoted.

use super::*;

impl World {
    fn view(&self) -> ClusterView {
        ClusterView {
            sync: SyncState { revision: Some(Revision::from(self.revision)), record: self.sync.clone(), damaged: false },
            ..ClusterView::default()
        }
    }

    /// Whether `candidate` finds that it may lead, when it reaches `reached`.
    pub(super) fn wins(&self, candidate: usize, reached: &[usize]) -> bool {
        let electorate = Electorate::of(&self.view(), &self.cfg).expect("the key is never empty here");
        let me = &self.nodes[candidate];
        if !electorate.lets_race(&me.name) {
            return false;
        }
        let mut lineage = Lineage::default();
        if self.rules.lineage {
            lineage.learn(&self.history);
            lineage.learn(&me.history);
        }
        let place = |node: &Node| Position {
            lsn: Lsn(length(&node.log)),
            timeline: if self.rules.lineage { Timeline(node.timeline) } else { Timeline(1) },
        };
        lineage.note(place(me).timeline);
        let others: Vec<&Node> = reached.iter().map(|at| &self.nodes[*at]).filter(|node| electorate.includes(&node.name)).collect();
        others.iter().for_each(|node| lineage.note(place(node).timeline));
        let said: Vec<(&MemberName, Said)> = others
            .iter()
            .filter(|node| !node.log.is_empty())
            .map(|node| (&node.name, Said::Standby { position: place(node), priority: 1 }))
            .collect();
        let ballot = Ballot {
            me: &me.name,
            mine: place(me),
            priority: 1,
            lineage: &lineage,
            former_leader: electorate.leader(),
            electorate: Some(&electorate),
        };
        judge(&ballot, &said).refusal.is_none()
    }

    /// `candidate` races, and is promoted if it wins. With `mortal` it may die at any moment.
    pub(super) fn race(&mut self, candidate: usize, mortal: bool) -> Result<(), Lost> {
        if self.primary.is_some() || !self.nodes[candidate].up {
            return Ok(());
        }
        let all: Vec<usize> = (0..self.nodes.len()).filter(|at| *at != candidate && self.nodes[*at].up).collect();
        let reached: Vec<usize> = all.into_iter().filter(|_| !mortal || self.dice.u8(0..8) < self.reach).collect();
        let elected_by = self.revision;
        if !self.wins(candidate, &reached) {
            return Ok(());
        }
        // What the former leader has sent arrives while the winner takes the lock.
        if self.dice.bool() {
            self.arrive();
        }
        // Or somebody else was faster, led for a while, and is gone again.
        if mortal && self.chance(8) {
            self.somebody_else_reigns(candidate)?;
        }
        if !self.nodes[candidate].up {
            return Ok(());
        }
        if self.rules.bound_verdict && self.revision != elected_by {
            return Ok(());
        }
        let dies = |world: &mut Self| mortal && world.chance(16);
        if dies(self) {
            self.nodes[candidate].up = false;
            return Ok(());
        }
        let name = self.nodes[candidate].name.clone();
        let prepared = prepare(&name, &self.sync, self.cfg.synchronous_mode, self.cfg.synchronous_mode_strict);
        // The named mode has no safety without its write.
        let writes = self.rules.key_before_promotion || self.cfg.synchronous_mode == SyncMode::On;
        if let Some(record) = prepared.record.filter(|_| writes) {
            self.put(record, self.revision);
        }
        if dies(self) {
            self.nodes[candidate].up = false;
            return Ok(());
        }
        self.promote(candidate, &prepared.names)
    }

    /// One of the others takes the lock, commits, and dies.
    fn somebody_else_reigns(&mut self, candidate: usize) -> Result<(), Lost> {
        let others: Vec<usize> = (0..self.nodes.len()).filter(|at| *at != candidate && self.nodes[*at].up).collect();
        if others.is_empty() {
            return Ok(());
        }
        let other = others[self.dice.usize(0..others.len())];
        self.race(other, true)?;
        for _ in 0..self.dice.usize(0..8) {
            let at = self.dice.usize(0..self.nodes.len());
            match self.dice.u8(0..4) {
                // Whoever races does not stream from somebody else meanwhile.
                0 if at != candidate => self.connect(at),
                1 => self.receive(at, 3),
                2 => self.tell(at),
                _ => drop(self.make_move()),
            }
            self.settle_text();
            self.write();
        }
        self.lose_primary(true);
        Ok(())
    }

    pub(super) fn promote(&mut self, at: usize, text: &str) -> Result<(), Lost> {
        let number = self.number();
        let newest = self.nodes.iter().map(|node| node.timeline).max().unwrap_or(1);
        let node = &mut self.nodes[at];
        if let Some(missing) = self.acknowledged.iter().find(|commit| node.log.binary_search(commit).is_err()) {
            return Err(Lost::Commit { node: node.name.clone(), commit: *missing, sync: self.sync.clone() });
        }
        let switch =
            HistoryLine { timeline: node.timeline, lsn: Lsn(length(&node.log)), reason: String::new(), timestamp: None, new_leader: None };
        // A node that has never heard of a timeline may use its number again; the store keeps that from happening as soon
        // as it knows. The next number stands for both.
        while node.history.last().map_or(1, |line| line.timeline + 1) < newest {
            let timeline = node.history.last().map_or(1, |line| line.timeline + 1);
            node.history.push(HistoryLine { timeline, ..switch.clone() });
        }
        node.history.push(HistoryLine { timeline: newest, ..switch });
        node.timeline = newest + 1;
        let answered = node.log.len();
        node.log.push(number);
        let names = StandbyNames::parse(text).expect("the rules write what can be read");
        self.primary = Some(Primary {
            at,
            text: text.to_owned(),
            in_force: names.clone(),
            names,
            confirmed: false,
            answered,
            since: self.events,
            proof: Proof::default(),
        });
        self.answer();
        Ok(())
    }
}
