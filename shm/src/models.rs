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
//! | `directory` | the server's changes against readers that follow | a list is of one moment, a name whole, no change is missed |
//! | `message_lane` | publish, take and tell over one lane; a sender without room | messages come whole and in order, and room is heard of |
//! | `parking` | change against sleep, rings that take bits | no sleeper and no poller misses a change |
//! | `objects` | put and reclaim against lookup; split against lookup; lock and its break | no reader sees a block that is used again, or misses a key; writers exclude each other |
//!
//! A lost wake-up is a deadlock, which loom reports: sleeping has no timeout here. Waiting for a word without sleep yields,
//! which adds no ordering. Bytes of payloads are unsynchronised cells ([`Bytes`]), as blocks are in production: loom fails
//! a model in which two accesses to them are not ordered by the protocol's own words.
//!
//! Bounds of preemptions are the largest with which all models together end within a minute on one core;
//! `PRAAS_LOOM_EXTRA_PREEMPTIONS` raises them all.
//!
//! Each of these was broken on purpose, and its model failed.
//! - `ring`: the orderings of `publish` (both), `free` and `claim`; a plain store for the CAS of `claim` or of
//!   `take_published`; a cursor that jumps one lap further than invariant 4 allows.
//! - `cell`: the orderings of `answer` and `is_done`; no wake of a caller that parks; a plain store for the CAS by which it
//!   parks; `answer_instead` without its first look; in `bell`, the orderings of `ring` and `begin_look`, a `begin_look`
//!   that leaves the bit, an `arm` without its CAS, a `ring` that clears the bit and wakes nobody.
//! - `attendance`: the fence of `after_publish`, of `before_sleep` and of `before_call`; a worker that keeps its `spinning`
//!   bit while it sleeps or runs; no look before sleep; no ring for the rest.
//! - `drain`: the fences of `after_publish` and of `publish`; both orderings of the copy; a worker that claims when closed;
//!   no wait for the copy; no second sweep together with no ring by the client (one of them suffices: the ring makes a
//!   refusal early).
//! - `claim`: the orderings of `claim` and `seen`; a plain store for the CAS of `release` or of `condemn`.
//! - `directory`: both orderings of the count and of an entry's word, both of a name; a reader that goes round once, or
//!   believes the ring without its numbers; an entry read without a second look, or with a life that does not change.
//! - `parking`: both fences; a count of rings that is read after the bit; a count-up before the bits are taken, or none; no
//!   wake; the ordering of `rings`. (The orderings of what moves the count and of the bits are implied by the fences, or
//!   forbid what loom cannot run: it takes such steps in their order.)
//! - `message_lane`: both orderings of the stamp; a stamp before the entry is filled; both orderings of `consumed`; a sender
//!   that is not told, told before, or told only of more than it wants; a bit that is set before what is wanted.
//! - `objects`: the fences of `pin` and of `all_pinned`; a pin without its second look; pins that are not read; a miss
//!   without a second look at the number of buckets; the Release of all stores, the Acquire of all loads without the lock,
//!   both orderings of the lock.

mod attendance;
mod cell;
mod claim;
mod directory;
mod drain;
mod message_lane;
mod objects;
mod parking;
mod ring;

use loom::cell::UnsafeCell;

/// Runs `body` in every schedule with at most `preemptions` of them.
fn check(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let extra = std::env::var("PRAAS_LOOM_EXTRA_PREEMPTIONS").map_or(0, |extra| extra.parse().expect("a number"));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions + extra);
    builder.check(body);
}

/// Bytes of a payload: written by one side and read by the other, ordered by nothing of their own.
#[derive(Debug)]
struct Bytes(UnsafeCell<u64>);

// SAFETY: loom fails a model in which two accesses race.
unsafe impl Sync for Bytes {}

impl Bytes {
    fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    fn set(&self, value: u64) {
        // SAFETY: loom checks that no other access is concurrent.
        self.0.with_mut(|bytes| unsafe { *bytes = value });
    }

    fn get(&self) -> u64 {
        // SAFETY: loom checks that no write is concurrent.
        self.0.with(|bytes| unsafe { *bytes })
    }
}
