//! Functions that every application has, for tools: their names begin with [`praas_protocol::BUILT_IN_PREFIX`].

use rustix::time::{ClockId, clock_gettime};

use crate::call::Call;
use crate::error::FunctionResult;

/// Answers when the worker took the call and when it answered: see [`praas_protocol::PING_FUNCTION`].
pub(crate) fn ping(call: &mut Call<'_>) -> FunctionResult {
    let taken_ns = monotonic_ns();
    let output = call.output(16)?;
    output[..8].copy_from_slice(&taken_ns.to_le_bytes());
    output[8..].copy_from_slice(&monotonic_ns().to_le_bytes());
    Ok(())
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // The clock counts from the start of the machine: both parts are positive, and their sum lasts for centuries.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
