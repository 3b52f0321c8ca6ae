//! Loom models of the lock-free protocols: loom runs the functions that production runs, in every order of steps and with
//! every stale value that the memory model allows, up to a bound of preemptions.
//!
//! | file | protocol | what is proved |
//! |---|---|---|
//! | `ring` | client, workers, server over one ring | each request is taken once, with its content, by whoever takes it |
//! | `cell` | answer against park, bell, abandon; a late second answer | no wake-up is lost, an answer is whole |
//! | `attendance` | publish against sleep, with and without another worker | no request lies while all sleep |
//! | `drain` | client, worker and server during a drain | each request runs or is refused, once; none after the cut |
//! | `claim` | release against condemn | one of them succeeds; what the server acts on is of that call |
//!
//! A lost wake-up is a deadlock, which loom reports: sleeping has no timeout here. Waiting for a word without sleep yields,
//! which adds no ordering. `LOOM_MAX_PREEMPTIONS` replaces the bound that a model names; all bounds here are the largest
//! with which its model ends within half a minute.
//!
//! Each of these was broken on purpose and caught, by the model in brackets:
//! CAUGHT

mod attendance;
mod cell;
mod claim;
mod drain;
mod ring;

/// Runs `body` in every schedule with at most `preemptions` of them.
fn check(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(body);
}
