//! The client library of praas: calls to cloud processes over shared memory, in well under a microsecond, and over TCP.
//!
//! A [`Client`] holds the connection to a server. A [`Process`] on the same host is reached by a lane of shared memory:
//! calls over it meet neither server nor kernel unless somebody has to be woken. One on another host is reached over a
//! TCP connection, with the same calls, the same errors and the same promises; [`Process::route`] tells which it is.
//!
//! | what you want | how |
//! |---|---|
//! | call and wait | [`Process::invoke`] |
//! | a deadline of its own | [`Process::call`] … [`Call::send`] |
//! | many calls on their way | [`Process::start`] … [`Pending::wait`] |
//! | many small calls of one thread, in order, as fast as can be | [`Process::pipeline`] |
//! | `async`, on any executor | `process.call("f").payload(bytes).await` |
//! | no copy of a large payload | [`Process::loan`], then send the [`Loan`] |
//! | to repeat a call without running it twice | [`Call::idempotency_key`] |
//! | several processes at once | [`Process::invoke_all`] |
//! | types instead of bytes | [`Process::invoke_typed`] |
//! | read and write the objects that a process keeps | [`Process::state`] |
//! | send messages to processes, and receive theirs | [`Client::session`] |
//! | put processes to sleep and wake them; watch what happens to them | [`Client::swap`], [`Client::restore`], [`Client::watch`] |
//! | create, list, stop processes; read their output | [`Client::create`], [`Client::list`], [`Client::stop`], [`Client::follow_output`] |
//!
//! ```no_run
//! use praas_client::Client;
//!
//! // On this host; elsewhere: Client::connect_remote("db.example:7411", token)?
//! let client = Client::connect_default()?;
//! let alice = client.process("hello/alice".parse()?)?;
//! let reply = alice.invoke("greet", "world")?;
//! println!("{}", String::from_utf8_lossy(&reply));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What a caller may rely on
//! - A call runs at most once. A request that was refused, or certainly never claimed, is sent again by itself until the
//!   call's deadline; one that may have run never is: it ends as [`CallError::WorkerLost`] or
//!   [`CallError::ConnectionLost`]. With an [idempotency key](Call::idempotency_key) a lost one is sent again too.
//! - Every wait has a deadline, 30 s by default. A deadline or a cancel ends the caller's wait alone; the function sees it
//!   and may run to its end.
//! - A full lane refuses at once with [`CallError::Overloaded`]; futures wait for room instead. Over TCP blocking calls wait
//!   for room as well, and started ones are refused.
//! - Threads: one reads the control socket of a client. A process whose futures are asleep has one more, which drives its
//!   lane; it starts with the first and ends soon after the last. Blocking calls need none, not even over TCP: of the
//!   threads that wait there, one reads for all. A TCP connection has a thread while futures wait or started calls are not
//!   collected.
#![forbid(unsafe_code)]

mod backoff;
mod call;
mod client;
mod deadline;
mod destination;
mod driver;
mod error;
mod fallback;
mod function;
mod gather;
mod lifecycle;
mod limits;
mod loan;
mod management;
mod messages;
mod open_lane;
mod options;
mod payload;
mod pending;
mod pending_call;
mod pipeline;
mod process;
mod refusal;
mod remote;
mod reopen;
mod reply;
mod same_host;
mod session;
mod session_way;
mod settle;
mod shared_connection;
mod socket;
mod state;
mod typed;

pub use call::Call;
pub use client::Client;
pub use error::{ConnectError, RequestError};
pub use function::Function;
pub use gather::CallAll;
pub use lifecycle::{StoragePage, TransitionFollower, TransitionNews};
pub use loan::Loan;
pub use management::{OutputChunk, OutputFollower, ProcessPage, ServerPing};
pub use messages::{
    Message, Party, PeekedMessage, RecvError, SendError, Session, SessionError, SessionTicket, Sources, TicketError,
};
pub use options::{ConnectOptions, Transport};
pub use payload::Payload;
pub use pending_call::Pending;
pub use pipeline::Pipeline;
pub use praas_protocol::control::{
    ControlError, FunctionStats, ProcessState, ProcessStats, ProcessStatus, StoredFolder, Transition, WaitMode,
};
pub use praas_protocol::state::{Attributes, Condition, ListedObject, Written};
pub use praas_protocol::{
    Address, CallError, IdempotencyKey, IdempotencyKeyError, KeyError, MessageId, Name, NameError, PING_FUNCTION,
    Phase, ProcessId, SessionId, StateType,
};
pub use process::{Process, Route};
pub use reply::Reply;
pub use state::{State, StateError, StateList, StateValue, TypedValue};
pub use typed::{ArchiveWriter, Decode, Encode, TypedReply};
