//! Harm that is done at random to the workers of a load.

use std::time::Duration;

use super::Progress;
use crate::common::random::Random;
use crate::common::stage::{process, status};
use crate::common::{eventually, kill};

/// Longest pause between two kills, in milliseconds.
const PAUSE_MS_MAX: u64 = 60;

/// Longest time that a worker is stopped, in milliseconds.
const STOPPED_MS_MAX: u64 = 150;

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Harm {
    pub(crate) killed: usize,
    pub(crate) stopped: usize,
    pub(crate) restarted: usize,
}

impl Harm {
    /// Kills a worker; now and then several at once, or stops one for a while, or restarts a process.
    pub(crate) fn once(&mut self, progress: &Progress<'_>, random: &mut Random) {
        let mut pids = Vec::new();
        let (name, client) = progress.somebody(random);
        eventually("there is somebody to kill", || {
            pids = status(client, name).worker_pids;
            !pids.is_empty()
        });
        let chosen = pids[usize::try_from(random.below(pids.len() as u64)).unwrap()];
        match random.below(40) {
            0 => {
                client.restart(process(name)).unwrap();
                self.restarted += 1;
            }
            1 | 2 => {
                pids.iter().for_each(|pid| kill(*pid));
                self.killed += pids.len();
            }
            3..=6 => {
                signal(chosen, rustix::process::Signal::STOP);
                std::thread::sleep(Duration::from_millis(random.below(STOPPED_MS_MAX)));
                // Half of them die as they are, the others go on.
                if random.below(2) == 0 {
                    kill(chosen);
                    self.killed += 1;
                }
                signal(chosen, rustix::process::Signal::CONT);
                self.stopped += 1;
            }
            _ => {
                kill(chosen);
                self.killed += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(random.below(PAUSE_MS_MAX)));
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}
