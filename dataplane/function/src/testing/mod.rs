//! Runs functions in a test's own process, over real lanes and without a server.
//!
//! Everything on a call's path is the real thing: shared-memory segments, the worker's loop, its messages from the server
//! side. Only what a server adds around a worker is missing: an OS process of its own, a sandbox, a token. A worker is a
//! thread here, so one that is killed or aborts takes the test with it.
//!
//! ```
//! use praas_function::testing::Harness;
//! use praas_function::{Application, Call, Context};
//! use rkyv::rend::u32_le;
//! use rkyv::vec::ArchivedVec;
//!
//! fn application() -> Application {
//!     Application::new()
//!         .function("echo", |call: &mut Call| call.reply(call.input()))
//!         .typed("sum", |_: &Context, numbers: &ArchivedVec<u32_le>| {
//!             Ok(numbers.iter().map(|number| u64::from(number.to_native())).sum::<u64>())
//!         })
//! }
//!
//! let harness = Harness::new(application)?;
//! assert_eq!(harness.invoke("echo", b"hello")?, b"hello");
//! assert_eq!(harness.invoke_typed::<u64>("sum", &vec![1_u32, 2, 3])?, 6);
//! // The same from outside the application's trust domain: the function gets a private copy.
//! assert_eq!(harness.untrusted().invoke("echo", b"hello")?, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod asleep;
mod call_lanes;
mod caller;
mod correspondent;
mod far;
mod files;
mod gateway;
mod host;
mod link;
mod listener;
mod realm;
mod room;
#[cfg(feature = "simulation")]
mod stepped;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use praas_protocol::control::WaitMode;
use praas_protocol::limits::PAYLOAD_BYTES_MAX_DEFAULT;
use praas_protocol::{CallError, Phase};
use rkyv::Archive;

pub use caller::{Caller, Decodable, Encodable, Pending};
pub use correspondent::Correspondent;
pub use host::HarnessError;
pub use link::{Fate, Link};
#[cfg(feature = "simulation")]
pub(crate) use stepped::is_struck;
#[cfg(feature = "simulation")]
pub use stepped::{Stepped, SteppedWorker, strike};

use crate::application::Application;
use asleep::Woken;
use host::{Host, Maker};
use realm::{HostNumber, Realm};

/// Name of the process that a harness begins with.
const PROCESS: &str = "harness";

/// A process of an application within the test's process, with one caller inside the application's trust domain and one
/// outside.
///
/// Dropping it ends the workers; a function that still runs delays that, for a bounded time.
#[derive(Debug)]
pub struct Harness {
    // Before the host: callers let go of their lanes before the workers end.
    trusted: Caller,
    untrusted: Caller,
    host: Host,
}

/// How a [`Harness`] is set up.
#[derive(Debug, Clone, Copy)]
pub struct HarnessOptions {
    /// Workers of the process, at least one. Unlike a server, a harness starts no others in the stead of those that wait: a
    /// process that calls itself, or is called back, needs one more for each call that waits.
    pub workers: u8,
    /// How workers and callers wait. `Park` suits tests, which share their cores.
    pub wait_mode: WaitMode,
    /// Largest payload in bytes.
    pub payload_bytes_max: u32,
    /// Bytes that the files directory may have, which ends with the harness; 0 for none.
    pub files_bytes_max: u64,
}

impl Default for HarnessOptions {
    /// One worker that sleeps while idle, and the payload limit that applications have by default.
    fn default() -> Self {
        Self { workers: 1, wait_mode: WaitMode::Park, payload_bytes_max: PAYLOAD_BYTES_MAX_DEFAULT, files_bytes_max: 0 }
    }
}

impl Harness {
    /// Starts a process with one worker. `application` is called once for each worker, in that worker's thread.
    ///
    /// # Errors
    /// [`HarnessError`] when the application is wrong in itself or the system refuses memory or descriptors.
    pub fn new(application: impl Fn() -> Application + Send + Sync + 'static) -> Result<Self, HarnessError> {
        Self::with_options(HarnessOptions::default(), application)
    }

    /// [`Self::new`] with other than the default options.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_options(
        options: HarnessOptions,
        application: impl Fn() -> Application + Send + Sync + 'static,
    ) -> Result<Self, HarnessError> {
        let realm = Arc::new(Realm::new()?);
        Self::start(realm, HostNumber(0), PROCESS, options, Arc::new(application), None)
    }

    fn start(
        realm: Arc<Realm>,
        number: HostNumber,
        name: &str,
        options: HarnessOptions,
        application: Maker,
        woken: Option<Woken>,
    ) -> Result<Self, HarnessError> {
        let name = name.parse().map_err(HarnessError::Process)?;
        let mut host = Host::start(realm, number, name, options, application, woken)?;
        let trusted = host.open_lane("insider", true)?;
        let untrusted = host.open_lane("outsider", false)?;
        Ok(Self { trusted, untrusted, host })
    }

    /// The process after it has slept: its workers end, its memory goes, and others begin in a memory that has nothing of its state.
    /// Each object comes back when a function asks for it, as in a process that a server has woken just now. The values of those
    /// `damaged` do not: what was stored of them is not what is read.
    ///
    /// ```
    /// use praas_function::testing::Harness;
    /// use praas_function::{Application, Call, StateError};
    ///
    /// let harness = Harness::new(|| {
    ///     Application::new()
    ///         .function("keep", |call: &mut Call| {
    ///             let context = call.context();
    ///             context.put_bytes("word", call.input())?;
    ///             context.put_bytes("other", b"x")?;
    ///             Ok(())
    ///         })
    ///         .function("tell", |call: &mut Call| {
    ///             let context = call.context();
    ///             let lost = context.state_bytes("other").unwrap_err();
    ///             assert!(matches!(lost, StateError::Damaged { .. }), "{lost}");
    ///             let word = context.state_bytes("word")?.expect("it was kept");
    ///             call.reply(&word)
    ///         })
    /// })?;
    /// harness.invoke("keep", b"hello")?;
    /// let harness = harness.asleep_and_back(&["other"])?;
    /// assert_eq!(harness.invoke("tell", b"")?, b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`HarnessError::Asleep`] when a worker does not end, or something is damaged since it has slept before; as [`Self::new`].
    pub fn asleep_and_back(self, damaged: &[&str]) -> Result<Self, HarnessError> {
        self.host.bring_all_back()?;
        let objects = self.host.state_again()?;
        let Host { realm, number, options, application, .. } = &self.host;
        let (realm, number, options) = (Arc::clone(realm), *number, *options);
        let (application, name, files) = (Arc::clone(application), self.host.name(), self.host.files.clone());
        // Callers and workers end here.
        drop(self);
        let woken = Woken::of(objects, damaged, files)?;
        Self::start(realm, number, name.as_str(), options, application, Some(woken))
    }

    /// A further process of the same application, under a name of its own. The processes find each other by their names; the
    /// first one is called `harness`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use praas_function::testing::Harness;
    /// use praas_function::{Application, Call, FunctionResult};
    ///
    /// fn relay(call: &mut Call) -> FunctionResult {
    ///     let context = call.context();
    ///     let message = context.recv("alice", "letters", Duration::from_secs(10))?;
    ///     context.send("tester", "letters", &message)?;
    ///     Ok(())
    /// }
    ///
    /// fn write(call: &mut Call) -> FunctionResult {
    ///     call.context().send("bob", "letters", call.input())?;
    ///     Ok(())
    /// }
    ///
    /// let harness = Harness::new(|| Application::new().function("relay", relay).function("write", write))?;
    /// let (alice, bob) = (harness.another("alice")?, harness.another("bob")?);
    /// let tester = harness.correspondent("tester")?;
    /// alice.invoke("write", b"dear bob")?;
    /// bob.invoke("relay", b"")?;
    /// assert_eq!(tester.recv("bob", "letters", Duration::from_secs(10))?.bytes, b"dear bob");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Self::new`]; [`HarnessError::ProcessExists`].
    pub fn another(&self, name: &str) -> Result<Self, HarnessError> {
        let Host { realm, number, options, application, .. } = &self.host;
        Self::start(Arc::clone(realm), *number, name, *options, Arc::clone(application), None)
    }

    /// A further process of the same application, as if it were on another host: messages and calls between it and the others
    /// go through gateways, and over a [`Link`] that the test can break.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use praas_function::testing::{Fate, Harness};
    /// use praas_function::{Application, Call, FunctionResult};
    ///
    /// fn write(call: &mut Call) -> FunctionResult {
    ///     call.context().send("far-away", "letters", call.input())?;
    ///     Ok(())
    /// }
    ///
    /// fn read(call: &mut Call) -> FunctionResult {
    ///     let message = call.context().recv("harness", "letters", Duration::from_secs(10))?;
    ///     call.reply(&message)
    /// }
    ///
    /// let here = Harness::new(|| Application::new().function("write", write).function("read", read))?;
    /// let there = here.on_another_host("far-away")?;
    /// // The link breaks after the letter has arrived: it is sent again, and read once.
    /// here.link().foretell([Fate::Unanswered]);
    /// here.invoke("write", b"once")?;
    /// here.invoke("write", b"again")?;
    /// assert_eq!(there.invoke("read", b"")?, b"once");
    /// assert_eq!(there.invoke("read", b"")?, b"again");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Self::another`].
    pub fn on_another_host(&self, name: &str) -> Result<Self, HarnessError> {
        let Host { realm, options, application, .. } = &self.host;
        Self::start(Arc::clone(realm), realm.next_host(), name, *options, Arc::clone(application), None)
    }

    /// What joins the hosts of this test.
    #[must_use]
    pub fn link(&self) -> Link {
        self.host.realm.link.clone()
    }

    /// A process without functions among these, whose mailbox is the test's: it sends to functions, and receives what they
    /// send to its name.
    ///
    /// # Errors
    /// [`HarnessError`] when the name is taken, or the system refuses memory or descriptors.
    pub fn correspondent(&self, name: &str) -> Result<Correspondent, HarnessError> {
        let name = name.parse().map_err(HarnessError::Process)?;
        Correspondent::enter(&self.host.realm, name, self.host.number, &self.host.options)
    }

    /// The session of a client of this application: functions send to its address, and receive what it sends.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use praas_function::testing::Harness;
    /// use praas_function::{Application, Call, FunctionResult, Sources};
    ///
    /// fn greet(call: &mut Call) -> FunctionResult {
    ///     let context = call.context();
    ///     let name = context.recv(Sources::Any, "names", Duration::from_secs(10))?;
    ///     context.send(name.source(), "greetings", &[b"hello, ", name.bytes()].concat())?;
    ///     Ok(())
    /// }
    ///
    /// let harness = Harness::new(|| Application::new().function("greet", greet))?;
    /// let client = harness.session()?;
    /// client.send("harness", "names", b"bob")?;
    /// harness.invoke("greet", b"")?;
    /// assert_eq!(client.recv("harness", "greetings", Duration::from_secs(10))?.bytes, b"hello, bob");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`HarnessError`] when the system refuses memory or descriptors.
    pub fn session(&self) -> Result<Correspondent, HarnessError> {
        Correspondent::begin_session(&self.host.realm, self.host.number, &self.host.options)
    }

    /// Lets the process drain: what waits for messages is interrupted. No call is refused as a server would: that is not the
    /// worker's part.
    ///
    /// # Errors
    /// [`HarnessError`] when a worker cannot be told.
    pub fn drain(&self) -> Result<(), HarnessError> {
        self.host.set_phase(Phase::Draining)
    }

    /// Says what time it is: the wake-ups of [`Context::wake_at`](crate::Context::wake_at) that are due by then are in the mailbox
    /// when this returns. No other clock runs in a harness, so a test has its process woken whenever it likes, or set back.
    ///
    /// # Errors
    /// [`HarnessError::NoAnswer`] when a worker is busy with a call that does not receive messages.
    pub fn time_is(&self, now: SystemTime) -> Result<(), HarnessError> {
        self.host.tell_time(crate::wake_ups::unix_ms(now))
    }

    /// Ends a drain: the process is active again.
    ///
    /// # Errors
    /// As [`Self::drain`].
    pub fn resume(&self) -> Result<(), HarnessError> {
        self.host.set_phase(Phase::Active)
    }

    /// A caller inside the application's trust domain; its principal is `insider`.
    #[must_use]
    pub fn trusted(&self) -> &Caller {
        &self.trusted
    }

    /// A caller outside the application's trust domain; its principal is `outsider`.
    #[must_use]
    pub fn untrusted(&self) -> &Caller {
        &self.untrusted
    }

    /// A further caller, on a lane of its own.
    ///
    /// # Errors
    /// [`HarnessError`] when `principal` is not a name, or the process has as many lanes as it can.
    pub fn caller(&mut self, principal: &str, trusted: bool) -> Result<Caller, HarnessError> {
        self.host.open_lane(principal, trusted)
    }

    /// Ends a caller's lane, as when a client leaves.
    ///
    /// # Errors
    /// [`HarnessError`] when a worker does not confirm it.
    pub fn close(&mut self, caller: Caller) -> Result<(), HarnessError> {
        let lane = caller.lane_id();
        drop(caller);
        self.host.close_lane(lane)
    }

    /// [`Caller::invoke`] of the trusted caller.
    ///
    /// # Errors
    /// As there.
    pub fn invoke(&self, function: &str, payload: &[u8]) -> Result<Vec<u8>, CallError> {
        self.trusted.invoke(function, payload)
    }

    /// [`Caller::invoke_typed`] of the trusted caller.
    ///
    /// # Errors
    /// As there.
    pub fn invoke_typed<Out>(&self, function: &str, input: &impl Encodable) -> Result<Out, CallError>
    where
        Out: Archive,
        Out::Archived: Decodable<Out>,
    {
        self.trusted.invoke_typed(function, input)
    }

    /// [`Caller::begin`] of the trusted caller.
    ///
    /// # Errors
    /// As there.
    pub fn begin(&self, function: &str, payload: &[u8], deadline: Option<Duration>) -> Result<Pending<'_>, CallError> {
        self.trusted.begin(function, payload, deadline)
    }
}
