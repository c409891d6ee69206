//! The network between the nodes: it delays, drops, doubles and reorders, and can be cut.

use std::collections::BTreeSet;

use fastrand::Rng;

/// How bad it is.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    drop: f64,
    double: f64,
    slowest_ms: u64,
    /// Pairs between which nothing passes, in this direction.
    cut: BTreeSet<(usize, usize)>,
}

impl Network {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let drop = [0.0, 0.0, 0.01, 0.05, 0.2];
        let double = [0.0, 0.0, 0.05, 0.2];
        let slowest = [2, 10, 30, 120];
        Self {
            drop: drop[rng.usize(..drop.len())],
            double: double[rng.usize(..double.len())],
            slowest_ms: slowest[rng.usize(..slowest.len())],
            cut: BTreeSet::new(),
        }
    }

    /// After how many milliseconds what is sent now arrives: once, twice or never.
    pub(crate) fn arrivals(&self, from: usize, to: usize, rng: &mut Rng) -> Vec<u64> {
        if self.cut.contains(&(from, to)) || rng.f64() < self.drop {
            return Vec::new();
        }
        let mut arrivals = vec![rng.u64(0..=self.slowest_ms)];
        if rng.f64() < self.double {
            arrivals.push(rng.u64(0..=self.slowest_ms * 4));
        }
        arrivals
    }

    /// Cuts the nodes into two parts, or cuts some pairs in one direction only.
    pub(crate) fn part(&mut self, nodes: usize, rng: &mut Rng) {
        self.cut.clear();
        if rng.u8(..4) == 0 {
            for _ in 0..rng.usize(1..=nodes) {
                self.cut.insert((rng.usize(..nodes), rng.usize(..nodes)));
            }
            return;
        }
        let side: Vec<bool> = (0..nodes).map(|_| rng.bool()).collect();
        for (from, a) in side.iter().enumerate() {
            for (to, b) in side.iter().enumerate() {
                if a != b {
                    self.cut.insert((from, to));
                }
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// From now on everything arrives, soon.
    pub(crate) fn calm_down(&mut self) {
        self.heal();
        (self.drop, self.double, self.slowest_ms) = (0.0, 0.0, 5);
    }
}
