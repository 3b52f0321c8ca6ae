//! The thread that reads for futures, and for started calls that nobody collects.
//!
//! It starts with the first of either and ends when there was nothing to do for a while, or with the connection. While
//! futures wait it reads whenever no caller does; otherwise it only looks now and then, so that a server whose answers are
//! not collected never finds its client deaf. It also wakes futures at their deadlines.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use praas_protocol::CallError;

use crate::limits::{DRIVER_LINGER, DRIVER_SLEEP_BUSY, READ_TICK, UNCOLLECTED_LOOK};
use crate::remote::calls::Waiter;
use crate::remote::link::Core;
use crate::remote::state::State;
use crate::session::lock;

/// Makes sure that the thread runs and looks again: a future waits.
pub(super) fn look_after(core: &Arc<Core>, state: &mut State) -> Result<(), CallError> {
    // While it reads it needs no word about further futures: it wakes often enough for their deadlines.
    if state.thread.running && state.thread.sleeps {
        core.thread_wake.notify_one();
    }
    run(core, state)
}

/// Makes sure that the thread runs.
pub(super) fn run(core: &Arc<Core>, state: &mut State) -> Result<(), CallError> {
    if state.end.is_some() || state.thread.running {
        return Ok(());
    }
    let own = Arc::clone(core);
    let started = thread::Builder::new().name("praas-reader".into()).spawn(move || read_for_futures(&own));
    if started.is_err() {
        return Err(CallError::Overloaded { what: "the host's room for threads", used: 0, limit: 0 });
    }
    state.thread.running = true;
    Ok(())
}

fn read_for_futures(core: &Core) {
    let mut idle_since = Instant::now();
    let mut state = lock(&core.state);
    while state.end.is_none() {
        let now = Instant::now();
        let mut wakes = Vec::new();
        let next_call = state.calls.expired(now, &mut wakes);
        let next_room = state.room.expired(now, &mut wakes);
        if state.session.window().calls() == 0 && !state.room.is_empty() {
            // Nobody's answer will wake them: the backstop for a wake-up that was passed to one who left.
            wakes.extend(state.room.next());
        }
        if !wakes.is_empty() {
            drop(state);
            wakes.into_iter().for_each(Waiter::wake);
            state = lock(&core.state);
            continue;
        }
        let next = [next_call, next_room].into_iter().flatten().min();
        let room_look = if state.room.is_empty() { READ_TICK } else { DRIVER_SLEEP_BUSY };
        let limit = next.map_or(room_look, |next| next.saturating_duration_since(now).min(room_look));
        if state.tasks() > 0 || !state.sender.outbox.is_empty() {
            idle_since = now;
            state = read_once(core, state, limit);
            continue;
        }
        if state.calls.in_use() > 0 {
            idle_since = now;
        } else if now.duration_since(idle_since) > DRIVER_LINGER {
            state.thread.running = false;
            return;
        }
        let used = state.last_use;
        state = sleep(core, state, UNCOLLECTED_LOOK);
        if state.calls.in_use() > 0 && state.last_use == used && state.reader.is_some() {
            drop(state);
            core.look();
            state = lock(&core.state);
        }
    }
    state.thread.running = false;
}

/// Reads once for everybody, or waits until whoever reads leaves.
fn read_once<'s>(core: &'s Core, mut state: MutexGuard<'s, State>, limit: Duration) -> MutexGuard<'s, State> {
    let Some(mut reader) = state.reader.take() else { return sleep(core, state, limit) };
    drop(state);
    let came = if core.spins { core.receive_parked(&mut reader, limit) } else { core.receive(&mut reader, limit) };
    let mut state = lock(&core.state);
    core.take_in(&mut reader, came, &mut state);
    let wakes = std::mem::take(&mut reader.wakes);
    state.reader = Some(reader);
    let next = core.next_reader(&state);
    if wakes.is_empty() && next.is_none() {
        return state;
    }
    drop(state);
    wakes.into_iter().chain(next).for_each(Waiter::wake);
    lock(&core.state)
}

fn sleep<'s>(core: &'s Core, mut state: MutexGuard<'s, State>, limit: Duration) -> MutexGuard<'s, State> {
    state.thread.sleeps = true;
    let mut state = core.thread_wake.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0;
    state.thread.sleeps = false;
    state
}
