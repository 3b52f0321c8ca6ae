//! A process as a client sees it: the lane to it, replaced when it must be, and the calls that go over it. One that is
//! reached over the network is `crate::remote`'s.
//!
//! Invariants
//! 1. `lane` holds the newest lane. It is replaced by one thread at a time, and only when it is lost or closed.
//! 2. The direct path of a call (small payload, answered, no obstacle) takes no lock, allocates nothing, makes no system
//!    call and, when it spins, reads no clock. Everything else happens in functions marked cold.
//! 3. A call holds its own reference to the lane that it was put into; replacing the lane disturbs no call.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use praas_protocol::{CallError, Idempotency, Outcome, ProcessId};
use praas_shm::client_lane::{Ticket, WaitEnd};

use crate::call::Call;
use crate::client::ClientShared;
use crate::deadline::Deadline;
use crate::destination::Destination;
use crate::driver::Driver;
use crate::error::{LaneVerdict, RequestError};
use crate::function::Function;
use crate::limits::REQUEST_DEADLINE;
use crate::loan::Loan;
use crate::open_lane::OpenLane;
use crate::payload::{Given, Kept, Payload};
use crate::pending::LanePending;
use crate::pending_call::Pending;
use crate::pipeline::Pipeline;
use crate::refusal::NotLent;
use crate::remote::{RemoteClient, RemoteProcess};
use crate::reply::Reply;
use crate::state::State;

/// A process that functions are invoked on. Cheap to clone; clones and threads share one lane.
///
/// It goes on working when the process is restarted or the server comes back: a request that was refused never ran, and is
/// sent again within its deadline.
#[derive(Clone)]
pub struct Process {
    way: Way,
}

/// How a process is reached.
#[derive(Clone)]
pub(crate) enum Way {
    Lane(Arc<ProcessShared>),
    Network(Arc<RemoteProcess>),
}

/// How calls to a process travel at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// Through a lane of shared memory.
    SharedMemory,
    /// Over the client's connection to its server.
    Network {
        /// Why there is no connection of its own, if one was asked for.
        not_dedicated: Option<String>,
    },
    /// Over a connection of its own, which a worker of the process reads.
    Dedicated,
}

/// What clones of a process and its calls share.
pub(crate) struct ProcessShared {
    pub(crate) destination: Destination,
    pub(crate) lane: ArcSwap<OpenLane>,
    pub(crate) opening: Mutex<bool>,
    pub(crate) opened: Condvar,
    pub(crate) driver: Arc<Driver>,
    /// The way over the network, once that is the only one.
    successor: OnceLock<Way>,
    /// Last: a lane says goodbye over the connection that ends with its client.
    pub(crate) client: Arc<ClientShared>,
}

impl Process {
    pub(crate) fn open(client: Arc<ClientShared>, destination: Destination) -> Result<Self, RequestError> {
        let lane = OpenLane::open(&client, &destination, Instant::now() + REQUEST_DEADLINE)?;
        let shared = ProcessShared {
            destination,
            lane: ArcSwap::new(lane),
            opening: Mutex::new(false),
            opened: Condvar::new(),
            driver: Arc::default(),
            successor: OnceLock::new(),
            client,
        };
        Ok(Self { way: Way::Lane(Arc::new(shared)) })
    }

    pub(crate) fn open_remote(
        client: Arc<RemoteClient>,
        destination: Destination,
        dedicated: bool,
    ) -> Result<Self, RequestError> {
        Ok(Self { way: Way::Network(RemoteProcess::open(client, destination, dedicated)?) })
    }

    /// How it is reached at this moment.
    #[inline]
    pub(crate) fn way(&self) -> &Way {
        match &self.way {
            Way::Lane(shared) => shared.successor.get().unwrap_or(&self.way),
            Way::Network(_) => &self.way,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        match self.way() {
            Way::Lane(shared) => shared.id(),
            Way::Network(remote) => remote.id(),
        }
    }

    /// Whether there is a lane that lies within one trust domain, so that loans and replies are used in place.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        match self.way() {
            Way::Lane(shared) => shared.lane.load().trusted(),
            Way::Network(_) => false,
        }
    }

    /// Largest payload in bytes.
    #[must_use]
    pub fn payload_bytes_max(&self) -> u32 {
        match self.way() {
            Way::Lane(shared) => shared.lane.load().payload_bytes_max(),
            Way::Network(remote) => remote.binding().payload_bytes_max(),
        }
    }

    /// How calls travel at this moment; it may change when a connection is made anew.
    #[must_use]
    pub fn route(&self) -> Route {
        match self.way() {
            Way::Lane(_) => Route::SharedMemory,
            Way::Network(remote) => {
                let binding = remote.binding();
                match binding.is_dedicated() {
                    true => Route::Dedicated,
                    false => Route::Network { not_dedicated: binding.refusal().map(str::to_owned) },
                }
            }
        }
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
        self.invoke_within(function.into(), payload.into(), None)
    }

    /// Calls a function, waits for its reply, and puts that into `answer` in place of what was there, whose memory is used again.
    ///
    /// For a caller of many calls with large replies: over the network they are received where the last one lay, and fresh memory is
    /// what costs most of a reply of many megabytes. After an error `answer` is empty.
    ///
    /// ```no_run
    /// # let client = praas_client::Client::connect_default()?;
    /// # let alice = client.process("hello/alice".parse()?)?;
    /// let mut frame = Vec::new();
    /// for number in 0..100_u32 {
    ///     alice.invoke_into("render", &number.to_le_bytes(), &mut frame)?;
    ///     println!("frame {number} has {} bytes", frame.len());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CallError`]: how the call ended, or why it never ran.
    pub fn invoke_into<'a>(
        &self,
        function: impl Into<Function<'a>>,
        payload: impl Into<Payload<'a>>,
        answer: &mut Vec<u8>,
    ) -> Result<(), CallError> {
        self.invoke_into_within(function.into(), payload.into(), None, answer)
    }

    pub(crate) fn invoke_into_within(
        &self,
        function: Function<'_>,
        payload: Payload<'_>,
        deadline: Option<Duration>,
        answer: &mut Vec<u8>,
    ) -> Result<(), CallError> {
        let ended = match self.way() {
            Way::Network(remote) => remote.invoke_into(function, payload, deadline, answer),
            Way::Lane(_) => self.invoke_within(function, payload, deadline),
        };
        match ended {
            Ok(reply) => {
                reply.move_into(answer);
                Ok(())
            }
            Err(error) => {
                answer.clear();
                Err(error)
            }
        }
    }

    #[inline]
    pub(crate) fn invoke_within(
        &self,
        function: Function<'_>,
        payload: Payload<'_>,
        deadline: Option<Duration>,
    ) -> Result<Reply, CallError> {
        match self.way() {
            Way::Lane(shared) => {
                let again = payload.borrowed();
                let ended = shared.invoke(function, payload, deadline);
                match ended {
                    Err(CallError::ConnectionLost { may_have_run: false }) => self.follow(function, again, deadline),
                    ended => ended,
                }
            }
            Way::Network(remote) => remote.invoke(function, payload, deadline),
        }
    }

    /// The end of a call that certainly never ran because its connection was lost: it is made again where the process has
    /// gone, if it has, and if its payload is still here.
    #[cold]
    fn follow(
        &self,
        function: Function<'_>,
        payload: Option<&[u8]>,
        deadline: Option<Duration>,
    ) -> Result<Reply, CallError> {
        match (self.way(), payload) {
            (Way::Network(remote), Some(payload)) => remote.invoke(function, payload.into(), deadline),
            _ => Err(CallError::ConnectionLost { may_have_run: false }),
        }
    }

    /// Calls a function with an idempotency key and waits for its reply.
    pub(crate) fn invoke_once(
        &self,
        function: Function<'_>,
        payload: Payload<'_>,
        deadline: Option<Duration>,
        idempotency: Idempotency,
    ) -> Result<Reply, CallError> {
        let again = payload.borrowed();
        let before = self.shared().is_some();
        let ended = self.future(function, payload, deadline, Some(idempotency)).wait();
        match (&ended, again) {
            // It has gone over the network since.
            (Err(CallError::ConnectionLost { .. }), Some(payload)) if before && self.shared().is_none() => {
                self.future(function, payload.into(), deadline, Some(idempotency)).wait()
            }
            _ => ended,
        }
    }

    /// Sends a call and returns at once; its reply is collected later. Many may be on their way, in any order.
    ///
    /// A borrowed payload over 64 bytes is copied once more, so that a refused call can be sent again; an owned one or a
    /// [`Loan`] is not. A process that is being restarted is waited for, and over the network the socket.
    ///
    /// # Errors
    /// [`CallError::Overloaded`] when the lane or the connection has no room: collect replies first.
    #[inline]
    pub fn start<'a>(
        &self,
        function: impl Into<Function<'a>>,
        payload: impl Into<Payload<'a>>,
    ) -> Result<Pending<'static>, CallError> {
        let (function, payload) = (function.into(), payload.into());
        let shared = match self.way() {
            Way::Lane(shared) => shared,
            Way::Network(remote) => return Pending::remote(remote, function, payload, remote.deadline(None), None),
        };
        let deadline = shared.deadline(None);
        // The direct path: the request goes out before anything is kept of it, and what is kept is built where it stays.
        if let Given::Borrowed(bytes) = payload.0 {
            let open = shared.lane.load_full();
            if let Ok(ticket) = open.submit_bytes(function.id(), bytes, deadline.limit_ns()) {
                let kept = Kept::detached(payload);
                return Ok(Pending::lane(LanePending::sent(shared, function, kept, deadline, open, ticket)));
            }
        }
        Ok(Pending::lane(LanePending::started(shared, function, Kept::detached(payload), deadline, None)?))
    }

    /// [`Process::start`] with a deadline of the call's own.
    pub(crate) fn start_within(
        &self,
        function: Function<'_>,
        payload: Payload<'_>,
        deadline: Option<Duration>,
        idempotency: Option<Idempotency>,
    ) -> Result<Pending<'static>, CallError> {
        match self.way() {
            Way::Lane(shared) => {
                let (deadline, kept) = (shared.deadline(deadline), Kept::detached(lendable(payload, idempotency)));
                Ok(Pending::lane(LanePending::started(shared, function, kept, deadline, idempotency)?))
            }
            Way::Network(remote) => Pending::remote(remote, function, payload, remote.deadline(deadline), idempotency),
        }
    }

    /// A call that is sent when it is first polled.
    pub(crate) fn future<'a>(
        &self,
        function: Function<'_>,
        payload: Payload<'a>,
        deadline: Option<Duration>,
        idempotency: Option<Idempotency>,
    ) -> Pending<'a> {
        match self.way() {
            Way::Lane(shared) => {
                let (deadline, kept) = (shared.deadline(deadline), Kept::borrowing(lendable(payload, idempotency)));
                Pending::lane(LanePending::unsent(shared, function, kept, deadline).keyed(idempotency))
            }
            Way::Network(remote) => {
                Pending::remote_unsent(remote, function, payload, remote.deadline(deadline), idempotency)
            }
        }
    }

    /// A row of at most `depth` calls on their way, whose replies are received in the order of the calls.
    ///
    /// What [`Process::start`] makes for every call is made once here; the names of functions are borrowed as long.
    #[must_use]
    pub fn pipeline<'a>(&self, depth: usize) -> Pipeline<'a> {
        Pipeline::new(self.clone(), depth)
    }

    /// What the calls through a lane share; `None` for a process on the network.
    pub(crate) fn shared(&self) -> Option<&Arc<ProcessShared>> {
        match self.way() {
            Way::Lane(shared) => Some(shared),
            Way::Network(_) => None,
        }
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

    /// The objects that the process keeps, read and written from outside, past its functions.
    #[must_use]
    pub fn state(&self) -> State<'_> {
        State::new(self)
    }

    /// Memory to build a payload in: the lane's, or for a process on the network a buffer.
    ///
    /// # Errors
    /// [`CallError::PayloadTooLarge`] or [`CallError::Overloaded`], and whatever keeps a lane from being opened.
    pub fn loan(&self, bytes: usize) -> Result<Loan, CallError> {
        let shared = match self.way() {
            Way::Lane(shared) => shared,
            Way::Network(_) => return self.private_loan(bytes),
        };
        let mut open = shared.lane.load_full();
        if !open.is_usable() {
            let end = Instant::now() + shared.client.settings().call_deadline;
            shared.reopen(end).map_err(LaneVerdict::into_error)?;
            open = shared.lane.load_full();
        }
        match open.lane().loan(bytes) {
            Ok(block) => Ok(Loan::new(open, block)),
            Err(error) => Err(open.setback(error).0.into_error()),
        }
    }

    /// The limit of calls that name none.
    pub(crate) fn call_deadline(&self) -> Duration {
        match self.way() {
            Way::Lane(shared) => shared.client.settings().call_deadline,
            Way::Network(remote) => remote.call_deadline(),
        }
    }

    fn private_loan(&self, bytes: usize) -> Result<Loan, CallError> {
        let (limit_bytes, actual_bytes) = (u64::from(self.payload_bytes_max()), bytes as u64);
        if actual_bytes > limit_bytes {
            return Err(CallError::PayloadTooLarge { limit_bytes, actual_bytes });
        }
        Ok(Loan::private(bytes))
    }
}

/// A payload that can be sent as often as needed: a loan's block has no room for a key before it, so its content is copied.
fn lendable(payload: Payload<'_>, idempotency: Option<Idempotency>) -> Payload<'_> {
    match (payload.0, idempotency) {
        (Given::Loan(loan), Some(_)) => Payload(Given::Owned(loan.into_content())),
        (given, _) => Payload(given),
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Process");
        match self.way() {
            Way::Lane(shared) => shown.field("id", &shared.id()).field("lane", &**shared.lane.load()).finish(),
            Way::Network(remote) => shown.field("id", &remote.id()).field("network", &remote).finish(),
        }
    }
}

impl ProcessShared {
    pub(crate) fn id(&self) -> ProcessId {
        self.destination.id()
    }

    /// Finds the process on the network, where its client has gone. No call of its lane ran then.
    #[cold]
    pub(crate) fn go_over_network(&self, remote: &Arc<RemoteClient>) -> Result<(), RequestError> {
        let found = RemoteProcess::open(Arc::clone(remote), self.destination.clone(), remote.settings().dedicated)?;
        self.successor.get_or_init(|| Way::Network(found));
        Ok(())
    }

    /// The limit of a call.
    #[inline]
    pub(crate) fn deadline(&self, own: Option<Duration>) -> Deadline {
        self.client.settings().deadline(own)
    }

    /// Calls and waits: the direct path, which leaves for [`LanePending`] at the first thing out of the ordinary.
    #[inline]
    pub(crate) fn invoke(
        self: &Arc<Self>,
        function: Function<'_>,
        payload: Payload<'_>,
        own_deadline: Option<Duration>,
    ) -> Result<Reply, CallError> {
        let deadline = self.deadline(own_deadline);
        let Some(bytes) = payload.bytes() else { return self.invoke_lent(function, payload, deadline) };
        let open = self.lane.load();
        let Ok(ticket) = open.submit_bytes(function.id(), bytes, deadline.limit_ns()) else {
            return self.invoke_patiently(function, payload, deadline);
        };
        self.collect(&open, function, || Kept::borrowing(payload), deadline, ticket)
    }

    /// The same for a payload that lies in a loan.
    #[inline]
    fn invoke_lent(
        self: &Arc<Self>,
        function: Function<'_>,
        payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Reply, CallError> {
        let Given::Loan(loan) = payload.0 else { return self.invoke_patiently(function, payload, deadline) };
        let open = self.lane.load();
        match open.submit_lent(function.id(), loan, deadline.limit_ns()) {
            Ok(ticket) => self.collect(&open, function, || Kept::Lent, deadline, ticket),
            Err(NotLent::Loan(loan)) => self.invoke_patiently(function, Payload(Given::Loan(loan)), deadline),
            Err(NotLent::End(error)) => Err(error),
        }
    }

    /// The end of a call that went the direct way. `kept` is what it keeps to be sent again.
    #[inline(always)]
    fn collect<'a>(
        self: &Arc<Self>,
        open: &Arc<OpenLane>,
        function: Function<'_>,
        kept: impl FnOnce() -> Kept<'a>,
        mut deadline: Deadline,
        ticket: Ticket,
    ) -> Result<Reply, CallError> {
        if !matches!(open.wait(&ticket, &mut deadline), WaitEnd::Answered) {
            let open = Arc::clone(open);
            return LanePending::sent(self, function, kept(), deadline, open, ticket).finish();
        }
        let answer = open.lane().take(ticket);
        self.room_was_freed();
        match answer.payload {
            Some(output) if answer.outcome_code == Outcome::Ok as u32 => Ok(Reply::new(output)),
            _ => LanePending::unsent(self, function, kept(), deadline).finish_answered(open, answer),
        }
    }

    #[cold]
    fn invoke_patiently(
        self: &Arc<Self>,
        function: Function<'_>,
        payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Reply, CallError> {
        LanePending::unsent(self, function, Kept::borrowing(payload), deadline).finish()
    }
}

impl Drop for ProcessShared {
    fn drop(&mut self) {
        self.driver.end();
    }
}
