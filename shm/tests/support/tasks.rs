//! Asynchronous waiting without an executor: wakers that count, a reactor on a thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Wake, Waker};
use std::thread::JoinHandle;
use std::time::Instant;

use praas_shm::client_lane::{ClientLane, Ticket, WaitEnd};

use super::PATIENCE;

/// Counts its wake-ups; lets a thread wait for the next one.
#[derive(Default)]
pub struct Counting {
    wakes: Mutex<u32>,
    changed: Condvar,
}

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        *self.wakes.lock().unwrap() += 1;
        self.changed.notify_all();
    }
}

impl Counting {
    /// Whether it was woken since the last look.
    pub fn take(&self) -> bool {
        std::mem::take(&mut *self.wakes.lock().unwrap()) > 0
    }

    pub fn wait_for(&self, wakes: u32) {
        let count = self.wakes.lock().unwrap();
        let (_count, late) = self.changed.wait_timeout_while(count, PATIENCE, |count| *count < wakes).unwrap();
        assert!(!late.timed_out(), "fewer than {wakes} wake-ups");
    }
}

/// Runs a lane's reactor on a thread until dropped. Its sleeps are long, so that a lost bell is noticed.
pub struct Reactor {
    lane: Arc<ClientLane>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reactor {
    pub fn start(lane: &Arc<ClientLane>) -> Self {
        let (driven, stop) = (Arc::clone(lane), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                driven.drive(PATIENCE * 2);
            }
        });
        Self { lane: Arc::clone(lane), stop, thread: Some(thread) }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.lane.interrupt();
        self.thread.take().unwrap().join().unwrap();
    }
}

pub fn settle_async(lane: &Arc<ClientLane>, ticket: Ticket, deadline: Option<Instant>) -> (WaitEnd, Ticket) {
    let counting = Arc::new(Counting::default());
    let waker = Waker::from(Arc::clone(&counting));
    let mut wakes = 0;
    loop {
        if let Some(end) = lane.poll(&ticket, &waker, deadline) {
            return (end, ticket);
        }
        // A deadline registered while the reactor sleeps is new to it.
        lane.interrupt();
        wakes += 1;
        counting.wait_for(wakes);
    }
}
