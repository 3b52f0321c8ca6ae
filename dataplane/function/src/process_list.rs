//! The processes of the application, as a running function sees them: [`Context::processes`], [`Context::watch_processes`].
//!
//! The server writes a directory that the workers map (`praas_shm::directory`); a worker keeps a copy of the list and
//! brings it up to date when it is asked. Whoever keeps an older list keeps what it was.
//!
//! The directory is mapped when a function asks for the first time: most workers never do, and their start is not to take
//! longer for it.

use std::cell::{OnceCell, RefCell};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_protocol::control::ProcessState;
use praas_protocol::{Name, Phase};
pub use praas_shm::directory::ListedProcess;
use praas_shm::directory::{DirectoryView, Listing};

use crate::context::Context;
use crate::standing_aside::StandingAside;

/// The processes of an application at one moment. Copying it copies no names.
#[derive(Debug, Clone, Default)]
pub struct ProcessList {
    listing: Arc<Listing>,
}

impl ProcessList {
    /// Counts the changes that led to this list, in the life of one server: [`Context::watch_processes`] waits for one more.
    #[must_use]
    pub fn change(&self) -> u64 {
        self.listing.change()
    }

    /// The processes, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = ListedProcess> {
        self.listing.iter().copied()
    }

    /// What the process called `name` is doing; `None` if there is none. Looks at all processes.
    #[must_use]
    pub fn state_of(&self, name: &Name) -> Option<ProcessState> {
        self.iter().find(|process| process.name == *name).map(|process| process.state)
    }

    /// How many there are. Looks at all processes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are none, which a function never sees: its own process is listed, except in the moment when it ends.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// Why there is no list of processes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessListError {
    /// The server's directory could not be mapped. Asked again, it may be.
    #[error("the directory of processes cannot be read: {reason}")]
    Unavailable {
        /// What is wrong.
        reason: String,
    },
    /// Nothing changed in time.
    #[error("no process of the application changed within {waited:?}")]
    DeadlineExceeded {
        /// How long was waited.
        waited: Duration,
    },
    /// The process of this function drains: it is to come to its end.
    #[error("the process ends: nothing is waited for any more")]
    Interrupted,
    /// The caller cancelled, or its deadline passed.
    #[error("the caller gave up while the function waited for processes to change")]
    Cancelled,
}

/// One worker's end of the directory.
#[derive(Debug)]
pub(crate) struct ProcessRoom {
    /// Until it is mapped.
    descriptor: RefCell<Option<OwnedFd>>,
    view: OnceCell<DirectoryView>,
    latest: RefCell<ProcessList>,
}

impl ProcessRoom {
    pub(crate) fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor: RefCell::new(Some(descriptor)), view: OnceCell::new(), latest: RefCell::default() }
    }

    #[inline]
    fn view(&self) -> Result<&DirectoryView, ProcessListError> {
        match self.view.get() {
            Some(view) => Ok(view),
            None => self.map(),
        }
    }

    #[cold]
    fn map(&self) -> Result<&DirectoryView, ProcessListError> {
        let unavailable = |reason: String| ProcessListError::Unavailable { reason };
        let descriptor = self.descriptor.borrow().as_ref().map(OwnedFd::try_clone);
        let copy = descriptor.ok_or_else(|| unavailable("the server gave none".to_owned()))?;
        let copy = copy.map_err(|error| unavailable(error.to_string()))?;
        let view = DirectoryView::attach(copy).map_err(|error| unavailable(error.to_string()))?;
        *self.descriptor.borrow_mut() = None;
        Ok(self.view.get_or_init(|| view))
    }

    /// The list as it is now.
    fn list(&self) -> Result<ProcessList, ProcessListError> {
        let view = self.view()?;
        let mut latest = self.latest.borrow_mut();
        if view.changes() != latest.change() {
            // Copied only if somebody keeps an older one.
            view.follow(Arc::make_mut(&mut latest.listing));
        }
        Ok(latest.clone())
    }
}

/// Processes of the application.
impl<'call> Context<'call> {
    /// The processes of this application, and what they are doing. Each can be sent messages and be called, its own process
    /// too; one that is idle, too. Once a process was created or stopped, those who look see it at once; whether it is
    /// [`ProcessState::Idle`] is looked at now and then.
    ///
    /// It makes no system call, but for the first time in the life of a worker, and waits for nobody. A list in which nothing
    /// has changed is the one that was returned before; a change costs a look at the processes that it touched.
    ///
    /// ```
    /// use praas_function::{Application, Call, FunctionResult};
    ///
    /// fn others(call: &mut Call) -> FunctionResult<String> {
    ///     let context = call.context();
    ///     let own = context.process().process;
    ///     let processes = context.processes()?;
    ///     let others = processes.iter().filter(|process| process.name != own);
    ///     Ok(others.map(|process| format!("{} is {}\n", process.name, process.state)).collect())
    /// }
    ///
    /// # use praas_function::testing::Harness;
    /// let harness = Harness::new(|| Application::new().function("others", others))?;
    /// assert_eq!(harness.invoke("others", b"")?, b"");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ProcessListError::Unavailable`].
    pub fn processes(&self) -> Result<ProcessList, ProcessListError> {
        self.process_room().list()
    }

    /// Waits until there is a list after the one with the number `after` ([`ProcessList::change`]; 0 for any), and returns it.
    /// Several changes may lie between the two. While it waits, other workers may run calls in this one's stead.
    ///
    /// # Errors
    /// [`ProcessListError::DeadlineExceeded`] when nothing changes `within` that time, [`ProcessListError::Interrupted`] when
    /// this process ends, [`ProcessListError::Cancelled`] when the caller gives up, [`ProcessListError::Unavailable`].
    pub fn watch_processes(&self, after: u64, within: Duration) -> Result<ProcessList, ProcessListError> {
        let room = self.process_room();
        let until = Instant::now().checked_add(within);
        let mut aside = None;
        loop {
            let list = room.list()?;
            if list.change() != after {
                return Ok(list);
            }
            if self.in_call().phase() != Phase::Active {
                return Err(ProcessListError::Interrupted);
            }
            if self.is_cancelled() || self.time_remaining() == Some(Duration::ZERO) {
                return Err(ProcessListError::Cancelled);
            }
            let left = until.map_or(within, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(ProcessListError::DeadlineExceeded { waited: within });
            }
            let aside = aside.get_or_insert_with(|| StandingAside::begin(self));
            room.view()?.wait_for_change(after, left.min(aside.slice()));
            aside.look_again();
        }
    }
}
