//! The section `watchdog`.

use ha_engine::settings::{WatchdogDriver, WatchdogMode, WatchdogSettings, values};

use super::error::KeyError;
use super::section::Section;

/// What is configured, and what is doubtful about it.
pub(super) fn read(root: &Section<'_>) -> Result<(WatchdogSettings, Option<String>), KeyError> {
    let mut settings = WatchdogSettings::default();
    let Some(section) = root.section("watchdog")? else { return Ok((settings, None)) };
    let mut doubt = None;
    if let Some(mode) = section.get("mode") {
        settings.mode = WatchdogMode::parse(mode).unwrap_or_else(|| {
            doubt = Some(format!("Watchdog mode {} not recognized, disabling watchdog", values::text(mode).to_lowercase()));
            WatchdogMode::Off
        });
    }
    if let Some(device) = section.path("device")? {
        settings.device = device;
    }
    if let Some(margin) = section.integer("safety_margin")? {
        settings.safety_margin = margin;
    }
    settings.driver = match section.text("driver")?.as_deref() {
        None | Some("default") if cfg!(target_os = "linux") => WatchdogDriver::Linux,
        Some("testing") => WatchdogDriver::Testing,
        _ => WatchdogDriver::Unknown,
    };
    Ok((settings, doubt))
}

/// Refuses to start without a way to the watchdog that is required.
pub(super) fn check(root: &Section<'_>) -> Result<(), KeyError> {
    let (settings, _) = read(root)?;
    if settings.mode == WatchdogMode::Required && settings.driver == WatchdogDriver::Unknown {
        return Err(root.error(
            "watchdog.driver",
            "Configuration requires a watchdog, but watchdog is not supported on this platform.".to_owned(),
            Some("remove `driver`, or use `mode: automatic`".to_owned()),
        ));
    }
    Ok(())
}
