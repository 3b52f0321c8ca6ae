//! What a reader has to know about the machine before believing a figure.

use std::fs;

use crate::floors::{Clock, FloorError, allowed_cpus};

/// Runnable programs above which figures are not to be trusted: something else uses a core most of the time.
const QUIET_LOAD_MAX: f64 = 0.5;

/// The machine as it is now.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The processor's name, where the kernel tells.
    pub processor: Option<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Runnable programs, mean of the last minute.
    pub load: Option<f64>,
    /// The clock in use.
    pub clock: Clock,
}

impl Machine {
    /// Looks at the machine.
    ///
    /// # Errors
    /// [`FloorError::System`] if the kernel does not tell which cores are there.
    pub fn look() -> Result<Self, FloorError> {
        Ok(Self {
            processor: processor_name(),
            cores: allowed_cpus()?.len(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            load: load_of_the_last_minute(),
            clock: Clock::calibrated(),
        })
    }

    /// Two or three lines for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let processor = self.processor.as_deref().unwrap_or("unknown processor");
        let mut text = format!(
            "{processor}, {} cores, Linux {}\nclock: {}, {:.0} ns a reading (part of every figure)",
            self.cores,
            self.kernel,
            self.clock.name(),
            self.clock.reading_cost_ns(),
        );
        if let Some(load) = self.load.filter(|load| *load > QUIET_LOAD_MAX) {
            text.push_str(&format!(
                "\nother programs are running (load {load:.1}): trust the ratios, not the figures, and repeat on a quiet machine"
            ));
        }
        text
    }
}

fn processor_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn load_of_the_last_minute() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().next()?.parse().ok()
}
