//! Calls from function to function: of other processes of the application, and of the process itself.
//!
//! A call waits for its answer in shared memory, like a client's; the server is asked once for each process that is called. A
//! worker that waits counts toward no limit of its process: others run in its stead, so that a function may call its own
//! process, or one that calls back. It is bounded by the number of workers that a process can have; beyond it calls end as
//! [`CallError::Overloaded`].
//!
//! | to | see |
//! |---|---|
//! | call and wait | [`Context::invoke`], with types [`Context::invoke_typed`] |
//! | call now and wait later | [`Context::start`], [`PendingCall`] |
//! | build a large input where it will be read | [`Context::loan`], [`InputLoan`] |
//! | call several processes at once | [`Context::gather`] |
//! | set a deadline or an idempotency key | [`Context::invoke_with`], [`InvokeOptions`] |
//! | call the process itself | [`SELF`](crate::SELF) |
//!
//! A call ends as a client's does, with a [`CallError`] that says how. It has as much time as its caller has left, at most: a
//! caller that gives up is followed by the calls that were made for it. One that never ran, because the process called was
//! being restarted, is made again within its time.

mod call_lane;
mod call_lanes;
mod callee;
mod gather;
mod input;
mod nested_call;
mod operations;
mod options;
mod output;
mod pending_call;
mod room;
mod roots;
#[cfg(test)]
mod tests;
mod typed;

pub(crate) use call_lane::CallLane;
pub(crate) use call_lanes::{CallLanes, OpenError};
pub use callee::Callee;
pub use input::InputLoan;
pub use options::InvokeOptions;
pub use output::Output;
pub use pending_call::PendingCall;
pub use praas_protocol::{CallError, IdempotencyKey};
pub(crate) use room::InvokeRoom;
pub use typed::{ArgumentWriter, TypedAnswer, TypedArgument, TypedResult};
