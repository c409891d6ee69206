//! The `watchdog` section of a node.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::values;

/// Whether a watchdog device is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchdogMode {
    /// Never.
    Off,
    /// If there is one that works.
    #[default]
    Automatic,
    /// This node only leads with one.
    Required,
}

impl WatchdogMode {
    /// Reads a mode by any of its words, also as the boolean that YAML makes of `off`. Nothing: it is none of them.
    pub fn parse(value: &Value) -> Option<Self> {
        if *value == Value::Bool(false) {
            return Some(Self::Off);
        }
        match values::text(value).to_lowercase().as_str() {
            "required" | "require" => Some(Self::Required),
            "automatic" | "auto" => Some(Self::Automatic),
            "off" | "disable" | "disabled" => Some(Self::Off),
            _ => None,
        }
    }
}

/// How the device is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchdogDriver {
    /// Linux's watchdog interface.
    #[default]
    Linux,
    /// Everything is written to the device's path, so that a test can read it from a named pipe.
    Testing,
    /// A name that nothing is known of.
    Unknown,
}

/// How this node uses a watchdog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogSettings {
    /// Whether it does.
    pub mode: WatchdogMode,
    /// The device.
    pub device: PathBuf,
    /// How it is spoken to.
    pub driver: WatchdogDriver,
    /// Seconds by which the device is to fire before the leader lock can expire; -1: half of the `ttl`.
    pub safety_margin: i64,
}

impl WatchdogSettings {
    /// The device that is used if none is configured.
    pub const DEFAULT_DEVICE: &str = "/dev/watchdog";

    /// No watchdog at all.
    pub fn off() -> Self {
        Self { mode: WatchdogMode::Off, ..Self::default() }
    }

    /// Whether both speak to the same device in the same way.
    pub fn is_same_device_as(&self, other: &Self) -> bool {
        self.driver == other.driver && self.device == other.device
    }

    /// Whether the device is the one that is used if none is configured.
    pub fn is_default_device(&self) -> bool {
        self.device == Path::new(Self::DEFAULT_DEVICE)
    }
}

impl Default for WatchdogSettings {
    fn default() -> Self {
        Self { mode: WatchdogMode::Automatic, device: PathBuf::from(Self::DEFAULT_DEVICE), driver: WatchdogDriver::Linux, safety_margin: 5 }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::WatchdogMode::{self, Automatic, Off, Required};

    #[test]
    fn every_word_of_a_mode_is_understood_and_no_other() {
        for (value, mode) in [
            (json!("required"), Some(Required)),
            (json!("Require"), Some(Required)),
            (json!("AUTO"), Some(Automatic)),
            (json!("automatic"), Some(Automatic)),
            (json!("off"), Some(Off)),
            (json!("disable"), Some(Off)),
            (json!("disabled"), Some(Off)),
            // `mode: off` in YAML.
            (json!(false), Some(Off)),
            (json!(true), None),
            (json!("on"), None),
            (json!(1), None),
        ] {
            assert_eq!(WatchdogMode::parse(&value), mode, "{value}");
        }
    }
}
