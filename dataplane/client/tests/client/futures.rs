//! Calls as futures, on an executor of a dozen lines.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use praas_client::{CallError, Pending, Reply};

use crate::scripted::{Installation, PATIENCE, Script, eventually};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs one future on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    let end = Instant::now() + PATIENCE * 2;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        assert!(Instant::now() < end, "the future is not woken");
        thread::park_timeout(PATIENCE);
    }
}

/// All of them, however they finish.
pub(crate) struct Together<F: Future>(Vec<Option<Pin<Box<F>>>>, Vec<Option<F::Output>>);

impl<F: Future> Together<F> {
    pub(crate) fn new(futures: impl Iterator<Item = F>) -> Self {
        let futures: Vec<_> = futures.map(|future| Some(Box::pin(future))).collect();
        let outputs = futures.iter().map(|_| None).collect();
        Self(futures, outputs)
    }
}

impl<F: Future> Unpin for Together<F> {}

impl<F: Future> Future for Together<F> {
    type Output = Vec<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self(futures, outputs) = &mut *self;
        for (future, output) in futures.iter_mut().zip(outputs.iter_mut()) {
            let Some(running) = future else { continue };
            if let Poll::Ready(ready) = running.as_mut().poll(context) {
                *output = Some(ready);
                *future = None;
            }
        }
        if futures.iter().any(Option::is_some) {
            return Poll::Pending;
        }
        Poll::Ready(outputs.iter_mut().filter_map(Option::take).collect())
    }
}

#[test]
fn a_call_can_be_awaited() {
    let here = Installation::new(Script::default());
    let reply = block_on(async { here.process.call("echo").payload(b"hello").await }).unwrap();
    assert_eq!(reply.as_slice(), b"hello");
    let reply = block_on(here.process.start("echo", b"started").unwrap()).unwrap();
    assert_eq!(reply.as_slice(), b"started");
    let error = block_on(async { here.process.call("fail").await }).unwrap_err();
    assert!(matches!(error, CallError::FunctionFailed { code: 42, .. }));
}

#[test]
fn a_thousand_futures_wait_for_room_in_a_lane_of_sixteen() {
    let here = Installation::new(Script::default());
    let payloads: Vec<_> = (0..1000_u32).map(u32::to_le_bytes).collect();
    let calls = payloads.iter().map(|payload| here.process.call("echo").payload(payload).into_future());
    let replies: Vec<Result<Reply, CallError>> = block_on(Together::new(calls));
    for (reply, payload) in replies.iter().zip(&payloads) {
        assert_eq!(reply.as_ref().unwrap().as_slice(), payload);
    }
    assert_eq!(here.shared().runs.load(Ordering::SeqCst), 1000);
}

#[test]
fn futures_on_several_threads_share_one_lane() {
    let here = Installation::new(Script::default());
    thread::scope(|scope| {
        for thread in 0..3_u8 {
            let process = &here.process;
            scope.spawn(move || {
                let payloads: Vec<_> = (0..100_u8).map(|round| [thread, round]).collect();
                let calls = payloads.iter().map(|payload| process.call("echo").payload(payload).into_future());
                for (reply, payload) in block_on(Together::new(calls)).iter().zip(&payloads) {
                    assert_eq!(reply.as_ref().unwrap().as_slice(), payload);
                }
            });
        }
    });
}

#[test]
fn a_future_ends_at_its_deadline_whatever_it_waits_for() {
    let here = Installation::new(Script { calls_in_flight: 4, ..Script::default() });
    let limit = Duration::from_millis(30);
    let answer = here.process.call("hold").payload(b"x").deadline(limit);
    let error = block_on(async { answer.await }).unwrap_err();
    assert_eq!(error, CallError::DeadlineExceeded { deadline_ns: 30_000_000 });
    let held: Vec<_> = std::iter::from_fn(|| here.process.start("hold", b"y").ok()).take(64).collect();
    let room = here.process.call("echo").deadline(limit);
    let error = block_on(async { room.await }).unwrap_err();
    assert!(matches!(error, CallError::Overloaded { .. }), "{error}");
    here.shared().open_gate();
    for call in held {
        block_on(call).unwrap();
    }
}

#[test]
fn a_dropped_future_gives_its_place_to_the_next() {
    let here = Installation::new(Script { calls_in_flight: 4, ..Script::default() });
    let held: Vec<_> = std::iter::from_fn(|| here.process.start("hold", b"y").ok()).take(64).collect();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut waiting: Vec<Pending<'_>> = (0..8).map(|_| here.process.call("echo").payload(b"z").into_future()).collect();
    for call in &mut waiting {
        assert!(Pin::new(call).poll(&mut Context::from_waker(&waker)).is_pending());
    }
    waiting.drain(..7);
    here.shared().open_gate();
    for call in held {
        call.wait().unwrap();
    }
    assert_eq!(block_on(waiting.pop().unwrap()).unwrap().as_slice(), b"z");
}

#[test]
fn the_driving_thread_ends_when_nothing_is_awaited() {
    let here = Installation::new(Script::default());
    block_on(async { here.process.call("echo").await }).unwrap();
    let call = here.process.start("hold", b"x").unwrap();
    eventually("held", || here.shared().held.load(Ordering::SeqCst) == 1);
    thread::scope(|scope| {
        scope.spawn(|| block_on(call).unwrap());
        eventually("a thread drives", || drivers() > 0);
        here.shared().open_gate();
    });
    // Other tests of this binary may drive lanes of their own, so what shows the end of this one is that it holds no lane.
    let server = here.server;
    drop((here.process, here.client));
    eventually("the lane is closed", || server.shared().lanes_closed.load(Ordering::SeqCst) == 1);
}

fn drivers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == "praas-driver").count()
}
