//! The SDK that praas functions are written with.
//!
//! A *function binary* registers functions by name and runs; a praas server starts it as the workers of a process and
//! clients invoke its functions over shared memory:
//!
//! ```no_run
//! use praas_function::{Application, Call};
//!
//! fn main() {
//!     Application::new().function("echo", |call: &mut Call| call.reply(call.input())).run()
//! }
//! ```
//!
//! | to | see |
//! |---|---|
//! | read bytes and answer bytes | [`Application::function`], [`Call`], [`Reply`] |
//! | read and answer Rust types without decoding | [`Application::typed`] |
//! | keep objects from call to call, shared by all workers | [`state`] |
//! | send messages to other processes, and receive theirs | [`messages`] |
//! | be woken at a time | [`Context::wake_at`] |
//! | know which processes the application has | [`Context::processes`], [`Context::watch_processes`] |
//! | call functions of other processes, or of the own one | [`invoke`] |
//! | know the caller, the time left, whether anyone still waits | [`Context`] |
//! | run a repeated call once | idempotency keys, which callers give; [`Application::keep_answers_for`] |
//! | fail with a code and a message | [`FunctionError`], [`codes`] |
//! | test functions without a server | [`testing`] |
//!
//! # What a function can rely on
//!
//! * A worker is one OS process with one thread and runs one call at a time; a function may own and change what it
//!   captures. A process has several workers, and any of them may get the next call.
//! * The input does not change while the function runs. From a caller in the application's trust domain it is read in
//!   place, from others it is a private copy.
//! * A panic ends its call: the caller gets the message and its place in the source, the worker takes the next call. It
//!   needs `panic = "unwind"`, the default; with `panic = "abort"` the worker dies and is replaced.
//! * What a function prints is kept for `praas process logs`.
//! * A caller that cancels or runs out of time stops waiting; the function goes on unless it asks
//!   [`Context::is_cancelled`]. The application's `call_ms_max` ends the whole worker.
#![forbid(unsafe_code)]

mod application;
mod built_in;
mod built_in_messages;
mod built_in_state;
mod call;
mod call_end;
mod call_runner;
mod context;
mod dedicated;
mod durability;
mod error;
mod files;
mod idempotency;
pub mod invoke;
pub mod limits;
mod mail;
pub mod messages;
mod panic_record;
mod process_list;
mod reply;
mod runtime;
mod standing_aside;
pub mod state;
mod table;
pub mod testing;
mod typed;
mod waiting;
mod wake_ups;
mod worker;

pub use application::Application;
pub use call::Call;
pub use context::Context;
pub use durability::NotDurable;
pub use error::{FunctionError, FunctionResult, codes};
pub use files::{Files, FilesError};
pub use invoke::{CallError, Callee, InputLoan, InvokeOptions, Output, PendingCall};
pub use messages::{
    Accepted, Message, MessageLoan, Party, PeekedMessage, PendingSend, RecvError, SELF, SendError, Sources,
};
pub use praas_protocol::control::ProcessState;
pub use praas_protocol::state::Condition;
pub use praas_protocol::wake_up::CalendarRefusal;
pub use praas_protocol::{
    Address, Durability, Idempotency, IdempotencyKey, MessageId, Name, NameError, ProcessId, SessionId, StateType,
};
pub use process_list::{ListedProcess, ProcessList, ProcessListError};
pub use reply::Reply;
pub use runtime::{CONTROL_SOCKET_FD, KEEPER_PIPE_FD, WORKER_VARIABLE, is_worker};
pub use state::{State, StateBytes, StateError, StateLoan, StateObject, StateValue};
pub use table::ApplicationError;
pub use typed::{InputValidator, OutputSerializer, OutputWriter, TypedInput, TypedOutput};
pub use wake_ups::{WakeUp, WakeUpError, WakeUpId};
pub use worker::WorkerError;
