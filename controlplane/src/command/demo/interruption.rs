//! Ctrl-C while the demo runs: noted here, looked at between calls, so that everything ends in its order.
//!
//! A second signal does not wait for that: this process ends at once, and its server, which sees its standard input end,
//! clears away behind it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use praas_sys::SignalQueue;
use rustix::event::{PollFd, PollFlags, poll};

use crate::failure::{EXIT_CODE_INTERRUPTED, Failure};

/// Time in which a signal that came is noted, also on a busy machine.
const NOTED_WITHIN: Duration = Duration::from_millis(100);

/// Whether a signal came that ends programs.
#[derive(Debug, Clone)]
pub(super) struct Interruption {
    came: Arc<AtomicBool>,
}

impl Interruption {
    /// Takes SIGINT, SIGTERM and SIGHUP over for this process. To be called before it has other threads.
    pub(super) fn watch() -> Result<Self, Failure> {
        let signals = SignalQueue::termination().map_err(Failure::host("taking signals over"))?;
        let came = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&came);
        let thread = std::thread::Builder::new().name("praas-signals".into());
        thread.spawn(move || note(&signals, &noted)).map_err(Failure::host("starting a thread"))?;
        Ok(Self { came })
    }

    /// Whether one came.
    pub(super) fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// Whether one came, asked after a failure: the signal that ended somebody else on the way may be noted a moment later.
    pub(super) fn came_by_now(&self) -> bool {
        if !self.came() {
            std::thread::sleep(NOTED_WITHIN);
        }
        self.came()
    }

    /// [`Failure::Interrupted`] if one came.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.came() { Err(Failure::Interrupted) } else { Ok(()) }
    }
}

/// Sleeps until signals come; ends with the process.
fn note(signals: &SignalQueue, noted: &AtomicBool) {
    loop {
        let mut readable = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        // An interrupted poll looks again; any other failure leaves the descriptor empty.
        let _ = poll(&mut readable, None);
        match signals.next() {
            Ok(None) => {}
            Ok(Some(_)) if noted.swap(true, Ordering::Relaxed) => {
                std::process::exit(i32::from(EXIT_CODE_INTERRUPTED));
            }
            Ok(Some(_)) => {}
            // The queue is of no use any more; signals stay blocked, and the demo is short.
            Err(_) => return,
        }
    }
}
