//! A worker that its test turns, a step at a time and in the test's own thread.

use praas_sys::message_socket::MessageSocket;

use crate::application::Application;
use crate::worker::{Ended, Turned, Worker, WorkerError};

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// A call was answered, or a message of the server obeyed.
    Busy,
    /// There was nothing to do.
    Idle,
    /// The worker has ended: it was told to, its server is gone, or the call that it ran is given up.
    Ended,
}

/// A worker of a server, with everything that one has, but for an OS process and the time that it would wait in.
///
/// Its functions run within [`SteppedWorker::step`]. They must not wait for the server: it may be turned by the same thread.
#[derive(Debug)]
pub struct SteppedWorker(Worker);

impl SteppedWorker {
    /// Greets the server at the other end of `control`, whose start message lies in the socket already.
    ///
    /// # Errors
    /// [`WorkerError`], with which a worker's program would end.
    pub fn start(control: MessageSocket, application: Application) -> Result<Self, WorkerError> {
        Worker::start(control, application).map(Self)
    }

    /// At most one call, or what the server has sent.
    ///
    /// # Errors
    /// [`WorkerError`], with which a worker's program would end.
    pub fn step(&mut self) -> Result<Stepped, WorkerError> {
        Ok(match self.0.turn_once()? {
            Turned::Idle => Stepped::Idle,
            Turned::Busy(None) => Stepped::Busy,
            Turned::Busy(Some(Ended::Told | Ended::ServerGone | Ended::Condemned)) => Stepped::Ended,
        })
    }
}

#[cfg(feature = "simulation")]
thread_local! {
    static STRUCK: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Has the worker whose function runs in this thread die when that function returns: nothing of its call is settled, recorded or
/// answered, and the step says that the worker has ended. What its function has put stays.
#[cfg(feature = "simulation")]
pub fn strike() {
    STRUCK.set(true);
}

/// Whether it dies now.
#[cfg(feature = "simulation")]
pub(crate) fn is_struck() -> bool {
    STRUCK.take()
}
