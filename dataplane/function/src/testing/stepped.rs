//! A worker that its test turns, a step at a time.
//!
//! It has a thread of its own, as a worker has an OS process, but runs only within a step of its test: of the two threads one
//! waits always. So everything goes in the order in which the test steps.
//!
//! A function that waits, for the server, another call or a lock, gives way: the step ends, and the next one goes on where it waited.
//! What such a wait is to see by the clock has passed after one step (`praas_shm::simulation`).
//!
//! Dropping a worker is its `kill -9`. One that waits inside a call is never run again and never unwound: nothing of it is settled,
//! released or unlocked, and what it has mapped stays until the test's process ends.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use praas_sys::message_socket::MessageSocket;
use rustix::net::Shutdown;

use crate::application::Application;
use crate::worker::{Ended, Turned, Worker, WorkerError};

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// A call was answered, or a message of the server obeyed.
    Busy,
    /// There was nothing to do.
    Idle,
    /// Its function waits for something.
    Waiting,
    /// The worker has ended: it was told to, its server is gone, or the call that it ran is given up.
    Ended,
}

/// A worker of a server, with everything that one has, but for an OS process and the time that it would wait in.
#[derive(Debug)]
pub struct SteppedWorker {
    turns: Option<Sender<()>>,
    stepped: Receiver<Result<Stepped, WorkerError>>,
    last: Stepped,
    thread: Option<JoinHandle<()>>,
    control: MessageSocket,
}

impl SteppedWorker {
    /// Greets the server at the other end of `control`, whose start message lies in the socket already. The application is made in
    /// the worker's thread.
    ///
    /// # Errors
    /// [`WorkerError`], with which a worker's program would end.
    pub fn start(
        control: MessageSocket,
        application: impl FnOnce() -> Application + Send + 'static,
    ) -> Result<Self, WorkerError> {
        let theirs = control.try_clone()?;
        let (turns, turns_of_thread) = channel();
        let (stepped_of_thread, stepped) = channel();
        let thread = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || run(theirs, application, turns_of_thread, &stepped_of_thread))
            .map_err(|error| WorkerError::System { what: "starting a thread", error })?;
        let mut worker = Self { turns: Some(turns), stepped, last: Stepped::Idle, thread: Some(thread), control };
        worker.heed()?;
        Ok(worker)
    }

    /// At most one call or what the server has sent, up to where it waits.
    ///
    /// # Errors
    /// [`WorkerError`], with which a worker's program would end.
    pub fn step(&mut self) -> Result<Stepped, WorkerError> {
        if let Some(turns) = &self.turns {
            // Its thread lives as long as it is given turns.
            let _ = turns.send(());
        }
        self.heed()
    }

    fn heed(&mut self) -> Result<Stepped, WorkerError> {
        // A thread that has nothing to say has panicked outside of any function: it has ended.
        let stepped = self.stepped.recv().unwrap_or(Ok(Stepped::Ended));
        self.last = *stepped.as_ref().unwrap_or(&Stepped::Ended);
        stepped
    }
}

impl Drop for SteppedWorker {
    fn drop(&mut self) {
        self.turns.take();
        if self.last == Stepped::Waiting {
            // The thread keeps its descriptor, but what a killed process had is closed.
            let _ = rustix::net::shutdown(&self.control, Shutdown::Both);
        } else if let Some(thread) = self.thread.take() {
            // A panic has been printed.
            let _ = thread.join();
        }
    }
}

/// Stack of a worker's thread: functions of tests are small.
const STACK_BYTES: usize = 1 << 20;

fn run(
    control: MessageSocket,
    application: impl FnOnce() -> Application,
    turns: Receiver<()>,
    stepped: &Sender<Result<Stepped, WorkerError>>,
) {
    // Nobody hears any more of a worker that is dead, and it is given no turn.
    let tell = |what| drop(stepped.send(what));
    let mut worker = match Worker::start(control, application()) {
        Ok(worker) => worker,
        Err(error) => return tell(Err(error)),
    };
    let turns = Rc::new(turns);
    let (its_turns, its_steps) = (Rc::clone(&turns), stepped.clone());
    praas_shm::simulation::turn_by(move || {
        let _ = its_steps.send(Ok(Stepped::Waiting));
        while its_turns.recv().is_err() {
            std::thread::park();
        }
    });
    tell(Ok(Stepped::Idle));
    while turns.recv().is_ok() {
        let turned = worker.turn_once().map(|turned| match turned {
            Turned::Idle => Stepped::Idle,
            Turned::Busy(None) => Stepped::Busy,
            Turned::Busy(Some(Ended::Told | Ended::ServerGone | Ended::Condemned)) => Stepped::Ended,
        });
        if !matches!(turned, Ok(Stepped::Idle | Stepped::Busy)) {
            // What it holds is closed before anybody hears that it has ended.
            drop(worker);
            return tell(turned);
        }
        tell(turned);
    }
}

thread_local! {
    static STRUCK: Cell<bool> = const { Cell::new(false) };
}

/// Has the worker whose function runs in this thread die when that function returns: nothing of its call is settled, recorded or
/// answered, and the step says that the worker has ended. What its function has put stays.
pub fn strike() {
    STRUCK.set(true);
}

/// Whether it dies now.
pub(crate) fn is_struck() -> bool {
    STRUCK.take()
}
