//! What is guarded: steps of the hot paths, each as a function that performs it a fixed number of times. A rig sets up what
//! its steps work on; all of them run on one thread, so that nothing depends on when another one gets to run.

use praas_function::{Context, FunctionError};

use super::lane::{self, LaneRig};
use super::letters::{self, LetterRig};
use super::sdk::{self, SdkRig};
use super::wire::{self, WireRig};

/// Operations of each run of a step: half of a lane's entries.
pub(super) const OPERATIONS: usize = 32;
/// Bytes of every payload: what travels inline.
pub(super) const PAYLOAD_BYTES: usize = 64;
/// Runs of every step before anything is counted: rings have gone round, buffers have grown.
const WARM_UP_RUNS: usize = 100;

/// A step of a rig.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// For people, and the key of its expectations.
    pub(super) name: &'static str,
    /// Its function, which callgrind finds by this part of its name: no inlining, and no other function of that name.
    pub(super) function: &'static str,
}

/// All steps, in the order in which [`Rigs`] run them.
pub(super) fn steps() -> Vec<Step> {
    [&lane::STEPS[..], &letters::STEPS, &sdk::STEPS, &wire::STEPS].concat()
}

/// Something that steps work on.
pub(super) trait Rig {
    /// How many steps it has, which run in order.
    fn step_count(&self) -> usize;

    /// Runs the step of this index: [`OPERATIONS`] operations.
    fn run(&mut self, step: usize);
}

/// Every rig, warmed up.
pub(super) struct Rigs<'call>(Vec<Box<dyn Rig + 'call>>);

impl<'call> Rigs<'call> {
    /// Sets all up, in the function of this context.
    pub(super) fn set_up(context: Context<'call>) -> Result<Self, FunctionError> {
        let mut rigs: Vec<Box<dyn Rig + 'call>> = vec![
            Box::new(LaneRig::new()),
            Box::new(LetterRig::new()),
            Box::new(SdkRig::new(context)?),
            Box::new(WireRig::new()),
        ];
        for _ in 0..WARM_UP_RUNS {
            for rig in &mut rigs {
                (0..rig.step_count()).for_each(|step| rig.run(step));
            }
        }
        Ok(Self(rigs))
    }

    /// Runs every step once, in order, each through `around` with its number.
    pub(super) fn run(&mut self, mut around: impl FnMut(usize, &mut dyn FnMut())) {
        let mut number = 0;
        for rig in &mut self.0 {
            for step in 0..rig.step_count() {
                around(number, &mut || rig.run(step));
                number += 1;
            }
        }
    }
}
