//! A process as a client sees it: the lane to it, replaced when it must be, and the calls that go over it.
//!
//! Invariants
//! 1. `lane` holds the newest lane. It is replaced by one thread at a time, and only when it is lost or closed.
//! 2. The direct path of a call (small payload, answered, no obstacle) takes no lock, allocates nothing, makes no system
//!    call and, when it spins, reads no clock. Everything else happens in functions marked cold.
//! 3. A call holds its own reference to the lane that it was put into; replacing the lane disturbs no call.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use praas_protocol::{CallError, Outcome, ProcessId};
use praas_shm::client_lane::WaitEnd;

use crate::call::Call;
use crate::client::ClientShared;
use crate::deadline::Deadline;
use crate::driver::Driver;
use crate::error::{LaneVerdict, RequestError};
use crate::function::Function;
use crate::limits::REQUEST_DEADLINE;
use crate::loan::Loan;
use crate::open_lane::OpenLane;
use crate::payload::{Given, Kept, Payload};
use crate::pending::Pending;
use crate::reply::Reply;

/// A process that functions are invoked on. Cheap to clone; clones and threads share one lane.
///
/// It goes on working when the process is restarted or the server comes back: a request that was refused never ran, and is
/// sent again within its deadline.
#[derive(Clone)]
pub struct Process {
    shared: Arc<ProcessShared>,
}

/// What clones of a process and its calls share.
pub(crate) struct ProcessShared {
    pub(crate) id: ProcessId,
    pub(crate) lane: ArcSwap<OpenLane>,
    pub(crate) opening: Mutex<bool>,
    pub(crate) opened: Condvar,
    pub(crate) driver: Arc<Driver>,
    /// Last: a lane says goodbye over the connection that ends with its client.
    pub(crate) client: Arc<ClientShared>,
}

impl Process {
    pub(crate) fn open(client: Arc<ClientShared>, id: ProcessId) -> Result<Self, RequestError> {
        let lane = OpenLane::open(&client, id, Instant::now() + REQUEST_DEADLINE)?;
        let shared = ProcessShared {
            id,
            lane: ArcSwap::new(lane),
            opening: Mutex::new(false),
            opened: Condvar::new(),
            driver: Arc::default(),
            client,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.shared.id
    }

    /// Whether the lane lies within one trust domain, so that loans and replies are used in place.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.shared.lane.load().trusted()
    }

    /// Largest payload in bytes.
    #[must_use]
    pub fn payload_bytes_max(&self) -> u32 {
        self.shared.lane.load().payload_bytes_max()
    }

    /// Calls a function and waits for its reply.
    ///
    /// ```no_run
    /// # let client = praas_client::Client::connect_default()?;
    /// let alice = client.process("hello/alice".parse()?)?;
    /// let reply = alice.invoke("echo", b"hello")?;
    /// assert_eq!(reply.as_slice(), b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CallError`]: how the call ended, or why it never ran.
    #[inline]
    pub fn invoke<'a>(
        &self,
        function: impl Into<Function<'a>>,
        payload: impl Into<Payload<'a>>,
    ) -> Result<Reply, CallError> {
        self.shared.invoke(function.into(), payload.into(), None)
    }

    /// Sends a call and returns at once; its reply is collected later. Many may be on their way, in any order.
    ///
    /// A borrowed payload over 64 bytes is copied once more, so that a refused call can be sent again; an owned one or a
    /// [`Loan`] is not. A process that is being restarted is waited for.
    ///
    /// # Errors
    /// [`CallError::Overloaded`] when the lane has no room: collect replies first.
    #[inline]
    pub fn start<'a>(
        &self,
        function: impl Into<Function<'a>>,
        payload: impl Into<Payload<'a>>,
    ) -> Result<Pending<'static>, CallError> {
        let (function, payload) = (function.into(), payload.into());
        let deadline = self.shared.deadline(None);
        // The direct path: the request goes out before anything is kept of it, and what is kept is built where it stays.
        if let Given::Borrowed(bytes) = payload.0 {
            let open = self.shared.lane.load_full();
            if let Ok(ticket) = open.submit_bytes(function.id(), bytes, deadline.limit_ns()) {
                return Ok(Pending::sent(&self.shared, function, Kept::detached(payload), deadline, open, ticket));
            }
        }
        Pending::started(&self.shared, function, Kept::detached(payload), deadline)
    }

    /// A call with options of its own: see [`Call`]. Also the way to `.await` one.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = praas_client::Client::connect_default()?;
    /// # let alice = client.process("hello/alice".parse()?)?;
    /// let reply = alice.call("echo").payload(b"hello").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn call<'a>(&'a self, function: impl Into<Function<'a>>) -> Call<'a> {
        Call::new(self, function.into())
    }

    /// Memory of the lane to build a payload in.
    ///
    /// # Errors
    /// [`CallError::PayloadTooLarge`] or [`CallError::Overloaded`], and whatever keeps a lane from being opened.
    pub fn loan(&self, bytes: usize) -> Result<Loan, CallError> {
        let shared = &self.shared;
        if !shared.has_usable_lane() {
            let end = Instant::now() + shared.client.settings().call_deadline;
            shared.reopen(end).map_err(LaneVerdict::into_error)?;
        }
        let open = shared.lane.load_full();
        match open.lane().loan(bytes) {
            Ok(block) => Ok(Loan::new(Arc::clone(&open), block)),
            Err(error) => Err(open.setback(error).0.into_error()),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<ProcessShared> {
        &self.shared
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Process")
            .field("id", &self.shared.id)
            .field("lane", &**self.shared.lane.load())
            .finish()
    }
}

impl ProcessShared {
    pub(crate) fn id(&self) -> ProcessId {
        self.id
    }

    /// The limit of a call: its own one counts from now, the client's from the first look at the clock.
    #[inline]
    pub(crate) fn deadline(&self, own: Option<Duration>) -> Deadline {
        match own {
            Some(limit) => Deadline::from_now(limit),
            None => Deadline::unread(self.client.settings().call_deadline),
        }
    }

    /// Calls and waits: the direct path, which leaves for [`Pending`] at the first thing out of the ordinary.
    #[inline]
    pub(crate) fn invoke(
        self: &Arc<Self>,
        function: Function<'_>,
        payload: Payload<'_>,
        own_deadline: Option<Duration>,
    ) -> Result<Reply, CallError> {
        let mut deadline = self.deadline(own_deadline);
        let bytes = match &payload.0 {
            Given::Borrowed(bytes) => *bytes,
            Given::Owned(bytes) => bytes.as_slice(),
            Given::Loan(_) => return self.invoke_patiently(function, payload, deadline),
        };
        let open = self.lane.load();
        let Ok(ticket) = open.submit_bytes(function.id(), bytes, deadline.limit_ns()) else {
            return self.invoke_patiently(function, payload, deadline);
        };
        if !matches!(open.wait(&ticket, &mut deadline), WaitEnd::Answered) {
            let open = Arc::clone(&open);
            return Pending::sent(self, function, Kept::borrowing(payload), deadline, open, ticket).finish();
        }
        let answer = open.lane().take(ticket);
        self.room_was_freed();
        match answer.payload {
            Some(output) if answer.outcome_code == Outcome::Ok as u32 => Ok(Reply::new(output)),
            _ => {
                let open = Arc::clone(&open);
                let mut pending = Pending::unsent(self, function, Kept::borrowing(payload), deadline);
                pending.finish_answered(&open, answer)
            }
        }
    }

    #[cold]
    fn invoke_patiently(
        self: &Arc<Self>,
        function: Function<'_>,
        payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Reply, CallError> {
        Pending::unsent(self, function, Kept::borrowing(payload), deadline).finish()
    }
}

impl Drop for ProcessShared {
    fn drop(&mut self) {
        self.driver.end();
    }
}
