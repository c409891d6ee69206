//! Watchdog devices: Linux's, and one for tests that says on a named pipe what it would do.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::{Clock, Moment};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, access};
use tokio::time::Instant;

use crate::ports::{Watchdog, WatchdogError, WatchdogInfo};
use crate::settings::{WatchdogDriver, WatchdogSettings};

/// The option bits that count.
const CAN_SET_TIMEOUT: u32 = 0x80;
const CLOSES_BY_MAGIC: u32 = 0x100;
/// The byte that feeds a device, and the one that, written before it is closed, stops it.
const FEED: &[u8] = b"1";
const STOP: &[u8] = b"V";
/// The timeout of the pretended device until it is set.
const TESTING_TIMEOUT: i64 = 60;
/// How long a named pipe may be without a reader: who reads it opens it again after every close.
const READER: Duration = Duration::from_secs(2);
const LOOK_FOR_READER: Duration = Duration::from_millis(20);

/// Linux's watchdog interface, as far as it is used here.
mod ioctl {
    /// `struct watchdog_info`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default)]
    pub(super) struct Support {
        pub(super) options: u32,
        pub(super) firmware_version: u32,
        pub(super) identity: [u8; 32],
    }

    nix::ioctl_read!(get_support, b'W', 0, Support);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, i32);
    nix::ioctl_read!(get_timeout, b'W', 7, i32);
}

/// The watchdog of this machine.
#[derive(Clone, Debug)]
pub struct MachineWatchdog {
    clock: Arc<dyn Clock>,
    open: Arc<Mutex<Option<Device>>>,
}

/// An open device. Dropped without [`Device::stop`] it goes on, and fires.
#[derive(Debug)]
struct Device {
    file: File,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Linux,
    /// The timeout that was set last.
    Testing(i64),
}

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> WatchdogError {
    move |error| WatchdogError(format!("{what}: {error}"))
}

impl Device {
    fn open(path: &Path, driver: WatchdogDriver) -> std::io::Result<Self> {
        let kind = match driver {
            WatchdogDriver::Linux => Kind::Linux,
            WatchdogDriver::Testing => Kind::Testing(TESTING_TIMEOUT),
            WatchdogDriver::Unknown => return Err(std::io::ErrorKind::Unsupported.into()),
        };
        // A pipe that nobody reads must not hold us up; a device knows no waiting.
        let file = OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
        Ok(Self { file, kind })
    }

    #[expect(unsafe_code, reason = "the kernel fills a structure of ours that has the size the request says")]
    fn support(&self) -> Result<WatchdogInfo, WatchdogError> {
        use std::os::fd::AsRawFd;

        let mut support = ioctl::Support::default();
        match self.kind {
            Kind::Testing(_) => {
                return Ok(WatchdogInfo {
                    identity: "Watchdog test harness".to_owned(),
                    firmware: 0,
                    can_set_timeout: true,
                    can_be_disabled: true,
                });
            }
            // SAFETY: the descriptor is open, and `support` outlives the call.
            Kind::Linux => unsafe { ioctl::get_support(self.file.as_raw_fd(), &raw mut support) }
                .map_err(|error| failed("Could not get information about watchdog device")(error.into()))?,
        };
        let name = support.identity.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(WatchdogInfo {
            identity: String::from_utf8_lossy(name).into_owned(),
            firmware: support.firmware_version,
            can_set_timeout: support.options & CAN_SET_TIMEOUT != 0,
            can_be_disabled: support.options & CLOSES_BY_MAGIC != 0,
        })
    }

    #[expect(unsafe_code, reason = "the kernel reads and writes one number of ours")]
    fn set_timeout(&mut self, seconds: i64) -> Result<(), WatchdogError> {
        use std::os::fd::AsRawFd;

        let wanted = i32::try_from(seconds).ok().filter(|seconds| (1..0xFFFF).contains(seconds));
        let Some(mut wanted) = wanted else {
            return Err(WatchdogError(format!("Invalid timeout {seconds}. Supported values are between 1 and 65535")));
        };
        let set = match &mut self.kind {
            Kind::Testing(timeout) => {
                *timeout = seconds;
                self.file.write_all(format!("Ctimeout={seconds}\n").as_bytes())
            }
            // SAFETY: the descriptor is open, and `wanted` outlives the call.
            Kind::Linux => unsafe { ioctl::set_timeout(self.file.as_raw_fd(), &raw mut wanted) }.map(drop).map_err(Into::into),
        };
        set.map_err(failed("Could not set timeout on watchdog device"))
    }

    #[expect(unsafe_code, reason = "the kernel writes one number of ours")]
    fn timeout(&self) -> Result<i64, WatchdogError> {
        use std::os::fd::AsRawFd;

        let mut timeout = 0;
        match self.kind {
            Kind::Testing(timeout) => return Ok(timeout),
            // SAFETY: the descriptor is open, and `timeout` outlives the call.
            Kind::Linux => unsafe { ioctl::get_timeout(self.file.as_raw_fd(), &raw mut timeout) }
                .map_err(|error| failed("Could not get timeout on watchdog device")(error.into()))?,
        };
        Ok(timeout.into())
    }

    fn feed(&mut self) -> Result<(), WatchdogError> {
        self.file.write_all(FEED).map_err(failed("Could not send watchdog keepalive"))
    }

    fn stop(&mut self) -> Result<(), WatchdogError> {
        self.file.write_all(STOP).map_err(failed("Error while closing watchdog device"))
    }
}

impl MachineWatchdog {
    /// The watchdog, not open. `clock` is the one that judges leases.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, open: Arc::default() }
    }

    /// Runs `work` on the open device, outside the runtime: a device may take its time.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Device, &dyn Clock) -> Result<T, WatchdogError> + Send + 'static,
    ) -> Result<T, WatchdogError> {
        let (open, clock) = (Arc::clone(&self.open), Arc::clone(&self.clock));
        outside(move || match lock(&open).as_mut() {
            Some(device) => work(device, &*clock),
            None => Err(WatchdogError("Watchdog device is closed".to_owned())),
        })
        .await
    }
}

fn lock(open: &Mutex<Option<Device>>) -> MutexGuard<'_, Option<Device>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn outside<T: Send + 'static>(work: impl FnOnce() -> Result<T, WatchdogError> + Send + 'static) -> Result<T, WatchdogError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(WatchdogError(error.to_string())))
}

#[async_trait]
impl Watchdog for MachineWatchdog {
    async fn open(&self, settings: &WatchdogSettings) -> Result<WatchdogInfo, WatchdogError> {
        let began = Instant::now();
        loop {
            let (open, path, driver) = (Arc::clone(&self.open), settings.device.clone(), settings.driver);
            let opened = outside(move || {
                let opened = Device::open(&path, driver);
                let unread = driver == WatchdogDriver::Testing
                    && opened.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::ENXIO as i32));
                if unread && began.elapsed() < READER {
                    return Ok(None);
                }
                let device = opened.map_err(failed("Can't open watchdog device"))?;
                let device = lock(&open).insert(device).support();
                device.map(Some)
            });
            match opened.await {
                Ok(None) => tokio::time::sleep(LOOK_FOR_READER).await,
                Ok(Some(info)) => return Ok(info),
                Err(error) => {
                    // A device that does not tell what it is must not be left running: it is not going to be fed.
                    if lock(&self.open).is_some() {
                        self.close().await?;
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn set_timeout(&self, seconds: i64) -> Result<(), WatchdogError> {
        self.with(move |device, _| device.set_timeout(seconds)).await
    }

    async fn timeout(&self) -> Result<i64, WatchdogError> {
        self.with(|device, _| device.timeout()).await
    }

    async fn keepalive(&self, not_after: Moment) -> Result<bool, WatchdogError> {
        self.with(move |device, clock| if clock.now() > not_after { Ok(false) } else { device.feed().map(|()| true) }).await
    }

    async fn close(&self) -> Result<(), WatchdogError> {
        let open = Arc::clone(&self.open);
        outside(move || {
            let mut open = lock(&open);
            if let Some(device) = open.as_mut() {
                device.stop()?;
            }
            *open = None;
            Ok(())
        })
        .await
    }

    async fn is_usable(&self, settings: &WatchdogSettings) -> bool {
        let path = settings.device.clone();
        outside(move || Ok(access(&path, AccessFlags::W_OK).is_ok())).await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests;
