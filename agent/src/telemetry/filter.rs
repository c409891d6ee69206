//! Which records are wanted.

use std::collections::BTreeMap;

use tracing::Level;

use super::names;
use crate::config::{LogLevel, LogSettings};

/// The level of everything, and of named components.
#[derive(Debug)]
pub(super) struct Filter {
    level: LogLevel,
    loggers: BTreeMap<String, LogLevel>,
}

impl Filter {
    pub(super) fn new(settings: &LogSettings) -> Self {
        Self { level: settings.level, loggers: settings.loggers.clone() }
    }

    /// Whether a record of `target` at `level` is wanted. The most exact name in `log.loggers` decides. Libraries that
    /// nobody named are heard from `WARNING` on.
    pub(super) fn allows(&self, target: &str, level: Level) -> bool {
        let level = match level {
            // What ends the process is an error too, so it passes wherever errors would.
            Level::ERROR => LogLevel::Critical,
            Level::WARN => LogLevel::Warning,
            Level::INFO => LogLevel::Info,
            Level::DEBUG => LogLevel::Debug,
            Level::TRACE => return false,
        };
        let component = names::component(target);
        let wanted = self.named(&component).or_else(|| self.named(&target.replace("::", ".")));
        level >= wanted.unwrap_or(if names::is_ours(&component) { self.level } else { self.level.max(LogLevel::Warning) })
    }

    fn named(&self, component: &str) -> Option<LogLevel> {
        let mut name = component;
        loop {
            if let Some(level) = self.loggers.get(name) {
                return Some(*level);
            }
            name = name.rsplit_once('.')?.0;
        }
    }

    /// The lowest level that anything is logged at.
    pub(super) fn most_talkative(&self) -> LogLevel {
        self.loggers.values().copied().fold(self.level, LogLevel::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(level: LogLevel, loggers: &[(&str, LogLevel)]) -> Filter {
        let loggers = loggers.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect();
        Filter::new(&LogSettings { level, loggers, ..LogSettings::default() })
    }

    #[test]
    fn the_most_exact_name_decides() {
        let filter = filter(
            LogLevel::Info,
            &[("patroni", LogLevel::Warning), ("patroni.postgresql", LogLevel::Debug), ("patroni.postgresql.rewind", LogLevel::Error)],
        );
        assert!(!filter.allows("ha_engine::driver", Level::INFO));
        assert!(filter.allows("ha_engine::driver", Level::WARN));
        assert!(filter.allows("ha_engine::postgres::slots", Level::DEBUG));
        assert!(!filter.allows("ha_engine::postgres::rewind", Level::WARN));
        assert_eq!(filter.most_talkative(), LogLevel::Debug);
    }

    #[test]
    fn libraries_are_quiet_until_they_are_named() {
        let quiet = filter(LogLevel::Debug, &[]);
        assert!(quiet.allows("ha_engine::driver", Level::DEBUG));
        assert!(!quiet.allows("h2::codec", Level::DEBUG));
        assert!(quiet.allows("h2::codec", Level::WARN));
        assert!(filter(LogLevel::Info, &[("h2", LogLevel::Debug)]).allows("h2::codec", Level::DEBUG));
        assert!(filter(LogLevel::Info, &[("urllib3", LogLevel::Debug)]).allows("reqwest::connect", Level::DEBUG));
    }
}
