//! The thread that keeps a session while its client asks nothing of it: the server forgets one whose client was away for too
//! long, so a lost connection is noticed and repaired although nobody waits for anything.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use super::room::Room;
use crate::error::{ConnectError, RequestError};
use crate::limits::{REQUEST_DEADLINE, SESSION_LOOK};
use crate::session::lock;

/// Ends the thread when it is dropped.
pub(super) struct Watch {
    over: Arc<(Mutex<bool>, Condvar)>,
}

impl Watch {
    /// Watches the room that `room` gives, for as long as it gives one.
    pub(super) fn start(room: Weak<Room>) -> Result<Self, RequestError> {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let watched = Arc::clone(&over);
        let started = thread::Builder::new().name("praas-watch".into()).spawn(move || watch(&watched, &room));
        let failed = |source| ConnectError::Host { what: "starting the session's watch", source };
        started.map_err(failed)?;
        Ok(Self { over })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *lock(&self.over.0) = true;
        self.over.1.notify_all();
    }
}

fn watch(over: &(Mutex<bool>, Condvar), room: &Weak<Room>) {
    let mut is_over = lock(&over.0);
    while !*is_over {
        is_over = over.1.wait_timeout(is_over, SESSION_LOOK).unwrap_or_else(PoisonError::into_inner).0;
        if *is_over {
            return;
        }
        drop(is_over);
        let Some(room) = room.upgrade() else { return };
        if room.registration.ending().is_some() {
            return;
        }
        if !room.way.has_way_now() {
            // What keeps it from being found is told to who asks something of the session.
            let _ = room.way.find_way(Instant::now() + REQUEST_DEADLINE);
        }
        drop(room);
        is_over = lock(&over.0);
    }
}
