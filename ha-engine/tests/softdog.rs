//! The watchdog on a real device. Whatever goes wrong here resets the machine, so none of this runs by itself: it is for a small
//! virtual machine with `softdog`, in which this program is run with `--ignored` and the name of a test.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::{BootClock, Clock};
use ha_engine::ports::Watchdog;
use ha_engine::settings::WatchdogSettings;
use ha_engine::watchdog::MachineWatchdog;

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: i64 = 3;

async fn armed() -> MachineWatchdog {
    let watchdog = MachineWatchdog::new(Arc::new(BootClock));
    let settings = WatchdogSettings::default();
    assert!(watchdog.is_usable(&settings).await, "there is no device");
    let info = watchdog.open(&settings).await.expect("it opens");
    assert_eq!((info.identity.as_str(), info.can_set_timeout), ("Software Watchdog", true));
    watchdog.set_timeout(TIMEOUT).await.expect("set");
    assert_eq!(watchdog.timeout().await, Ok(TIMEOUT));
    watchdog
}

#[tokio::test]
#[ignore = "needs a machine that may be reset"]
async fn a_device_that_is_fed_and_let_go_does_nothing() {
    let watchdog = armed().await;
    for _ in 0..12 {
        tokio::time::sleep(SECOND / 2).await;
        assert_eq!(watchdog.keepalive(BootClock.now() + SECOND).await, Ok(true));
    }
    watchdog.set_timeout(TIMEOUT * 2).await.expect("it can be set while it runs");
    assert_eq!(watchdog.timeout().await, Ok(TIMEOUT * 2));
    watchdog.close().await.expect("closed");
    // Longer than any of its timeouts: who reads this is still there.
    tokio::time::sleep(SECOND * 8).await;
    watchdog.open(&WatchdogSettings::default()).await.expect("it opens again");
    watchdog.close().await.expect("closed");
}

#[tokio::test]
#[ignore = "resets the machine"]
async fn a_device_whose_agent_is_gone_resets_the_machine() {
    drop(armed().await);
    tokio::time::sleep(SECOND * 30).await;
    panic!("the machine is still there");
}
