//! One call to each of several processes, and all their ends together.

use std::time::{Duration, Instant};

use praas_protocol::CallError;
use praas_protocol::limits::{ADDRESSES_PER_CALL_MAX, CALL_DEADLINE_NS_DEFAULT};

use super::{Callee, InvokeOptions, Output, PendingCall};
use crate::context::Context;

/// A member of a gathering.
enum Member<'call> {
    Pending(PendingCall<'call>),
    Ended(Result<Output, CallError>),
}

impl Member<'_> {
    fn finish(&mut self) {
        let own = std::mem::replace(self, Self::Ended(Err(CallError::Cancelled)));
        *self = Self::Ended(own.into_end());
    }

    fn into_end(self) -> Result<Output, CallError> {
        match self {
            Self::Pending(pending) => pending.wait(),
            Self::Ended(end) => end,
        }
    }
}

/// Starts all, then waits for all, within one deadline.
pub(super) fn gather<'call, 'callee>(
    context: &Context<'call>,
    callees: impl IntoIterator<Item = Callee<'callee>>,
    function: &str,
    input: &[u8],
    options: &InvokeOptions,
) -> Vec<Result<Output, CallError>> {
    let limit = options.deadline.unwrap_or(Duration::from_nanos(CALL_DEADLINE_NS_DEFAULT));
    let end = Instant::now().checked_add(limit);
    let mut members: Vec<Member<'call>> = Vec::new();
    // The first one that may still be on its way.
    let mut oldest = 0;
    for callee in callees {
        if members.len() == ADDRESSES_PER_CALL_MAX {
            let limit = ADDRESSES_PER_CALL_MAX as u64;
            members.push(Member::Ended(Err(CallError::Overloaded { what: "a gathering", used: limit, limit })));
            break;
        }
        let member = loop {
            let left = end.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
            let options = options.deadline(left);
            match context.start_with(callee, function, input, &options) {
                Ok(pending) => break Member::Pending(pending),
                // Some of the room may be ours: a call that has ended makes some.
                Err(CallError::Overloaded { .. }) if oldest < members.len() => {
                    members[oldest].finish();
                    oldest += 1;
                }
                Err(CallError::Overloaded { .. }) => {
                    break Member::Ended(context.invoke_with(callee, function, input, &options));
                }
                Err(error) => break Member::Ended(Err(error)),
            }
        };
        members.push(member);
    }
    members.into_iter().map(Member::into_end).collect()
}
