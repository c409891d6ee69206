//! Who can reach whom, and how long it takes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Name;

/// What kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plane {
    /// Agents and the store.
    Store,
    /// Agents among themselves.
    Peers,
    /// PostgreSQL among themselves, and agents that work on another node's PostgreSQL.
    Postgres,
}

/// All planes.
pub const PLANES: [Plane; 3] = [Plane::Store, Plane::Peers, Plane::Postgres];

/// How bad the messages of one plane to or from one node fare.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// The share of messages that vanish.
    pub lost: f64,
    /// The share of messages that arrive twice.
    pub doubled: f64,
    /// The longest additional delay.
    pub delay: Duration,
}

/// The network.
#[derive(Debug, Default)]
pub struct Network {
    /// How many faults keep a direction closed.
    closed: BTreeMap<(Plane, Name, Name), u32>,
    weather: BTreeMap<(Plane, Name), Weather>,
    /// When anything of this was last changed.
    pub changed_at: Duration,
}

impl Network {
    /// Closes one direction; as often as it is closed it must be opened.
    pub fn close(&mut self, plane: Plane, from: Name, to: Name) {
        *self.closed.entry((plane, from, to)).or_default() += 1;
    }

    /// Undoes one [`Network::close`].
    pub fn open(&mut self, plane: Plane, from: Name, to: Name) {
        if let Some(count) = self.closed.get_mut(&(plane, from, to)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Whether a message gets through now.
    pub fn is_open(&self, plane: Plane, from: Name, to: Name) -> bool {
        self.closed.get(&(plane, from, to)).is_none_or(|count| *count == 0)
    }

    /// Whether questions get there and answers back.
    pub fn is_open_both_ways(&self, plane: Plane, one: Name, other: Name) -> bool {
        self.is_open(plane, one, other) && self.is_open(plane, other, one)
    }

    /// Sets the weather of a node.
    pub fn set_weather(&mut self, plane: Plane, node: Name, weather: Weather) {
        self.weather.insert((plane, node), weather);
    }

    /// The weather of a node.
    pub fn weather(&self, plane: Plane, node: Name) -> Weather {
        self.weather.get(&(plane, node)).copied().unwrap_or_default()
    }
}
