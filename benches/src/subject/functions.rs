//! The functions of the measured applications. They do as little as their name says, so that a figure is the way there
//! and back.

use std::cell::Cell;
use std::rc::Rc;

use praas_client::Function;
use praas_function::{Application, Call, FunctionError, FunctionResult};

use super::message_functions::with_message_functions;
use super::self_invoke::with_self_invoke;
use super::sleeper_functions::with_sleeper_functions;
use super::state_functions::with_state_functions;
use super::{allocations, trap};
use crate::floors::{Pinned, sum};

/// Answers the input itself: the echo that the ping-pong floors do too.
pub const NOOP: Function<'static> = Function::new("noop");
/// Takes the input, looks at nothing and answers nothing.
pub const ACCEPT: Function<'static> = Function::new("accept");
/// Looks at nothing and answers as many bytes as came, unwritten.
pub const ANSWER_IN_KIND: Function<'static> = Function::new("answer-in-kind");
/// Answers the sum of the input's words.
pub const SUM: Function<'static> = Function::new("sum");
/// Pins the worker to the core whose number is the input.
pub(super) const PIN: Function<'static> = Function::new("pin");
/// From here on the worker's system calls are trapped, and it counts those and its allocations.
pub(super) const CONFINE: Function<'static> = Function::new("confine");
/// Answers how many system calls were trapped and how many allocations were made since `confine`.
pub(super) const COUNTS: Function<'static> = Function::new("counts");

/// What a function answers that cannot do what it is for.
pub(super) const FAILED_CODE: u32 = 1;

/// The application: each worker makes one.
pub(super) fn application() -> Application {
    let start = Rc::new(Cell::new(Counts::default()));
    let confined_at = Rc::clone(&start);
    let confine = move |_: &mut Call| -> FunctionResult {
        trap::install().map_err(|error| FunctionError::new(FAILED_CODE, error.to_string()))?;
        confined_at.set(Counts::now());
        Ok(())
    };
    with_sleeper_functions(with_message_functions(with_self_invoke(with_state_functions(Application::new()))))
        .function(NOOP.name(), |call: &mut Call| call.reply(call.input()))
        .function(ACCEPT.name(), |_: &mut Call| ())
        .function(ANSWER_IN_KIND.name(), |call: &mut Call| call.output(call.input().len()).map(drop))
        .function(SUM.name(), |call: &mut Call| sum(call.input()).to_le_bytes())
        .function(PIN.name(), pin)
        .function(CONFINE.name(), confine)
        .function(COUNTS.name(), move |_: &mut Call| Counts::now().since(start.get()).proven().to_bytes())
}

fn pin(call: &mut Call) -> FunctionResult {
    let cpu = std::str::from_utf8(call.input())?.parse::<usize>()?;
    let pinned = Pinned::to(Some(cpu)).map_err(|error| FunctionError::new(FAILED_CODE, error.to_string()))?;
    pinned.for_good();
    Ok(())
}

/// What a thread did that it must not do in steady state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// System calls that were trapped.
    pub(super) trapped: u64,
    /// The number of the last of them.
    pub(super) last_trapped: u64,
    /// Allocations on the heap.
    pub(super) allocations: u64,
    /// 1 when a system call and an allocation made on purpose were counted, so that a zero means something.
    pub(super) proven: u64,
}

impl Counts {
    pub(super) const BYTES: usize = 32;

    /// The calling thread's counts.
    pub(super) fn now() -> Self {
        let (trapped, last_trapped) = trap::trapped();
        Self { trapped, last_trapped, allocations: allocations::of_this_thread(), proven: 0 }
    }

    /// What was added since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self { trapped: self.trapped - earlier.trapped, allocations: self.allocations - earlier.allocations, ..self }
    }

    /// The same, after trying whether both counters count.
    pub(super) fn proven(mut self) -> Self {
        self.proven = u64::from(trap::counts_a_call() && allocations::counts_an_allocation());
        self
    }

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (word, value) in words.iter_mut().zip([self.trapped, self.last_trapped, self.allocations, self.proven]) {
            *word = value.to_le_bytes();
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let &[trapped, last_trapped, allocations, proven] = words else { return None };
        let word = u64::from_le_bytes;
        let counts = Self {
            trapped: word(trapped),
            last_trapped: word(last_trapped),
            allocations: word(allocations),
            proven: word(proven),
        };
        rest.is_empty().then_some(counts)
    }
}

#[cfg(test)]
mod tests {
    use praas_function::testing::Harness;

    use super::*;
    use crate::floors::{expected_sum, fill};

    #[test]
    fn functions_answer_what_their_names_say() {
        let harness = Harness::new(application).expect("the application is sound");
        let caller = harness.trusted();
        assert_eq!(caller.invoke(NOOP.name(), b"there and back").expect("it answers"), b"there and back");
        assert_eq!(caller.invoke(ACCEPT.name(), &[7; 4096]).expect("it answers"), b"");
        assert_eq!(caller.invoke(ANSWER_IN_KIND.name(), &[7; 4096]).expect("it answers").len(), 4096);
        let mut block = [0; 4096];
        fill(&mut block, 11);
        let sum = expected_sum(block.len(), 11).to_le_bytes();
        assert_eq!(caller.invoke(SUM.name(), &block).expect("it answers"), sum);
        assert!(caller.invoke(PIN.name(), b"no core").is_err());
    }

    #[test]
    fn counts_travel_as_bytes() {
        let counts = Counts { trapped: 1, last_trapped: 202, allocations: 2, proven: 1 };
        assert_eq!(Counts::from_bytes(&counts.to_bytes()), Some(counts));
        assert_eq!(Counts::from_bytes(&[0; Counts::BYTES - 1]), None);
    }
}
