//! Giving way: the receivers that this turn has woken run before the turn goes on.
//!
//! A receiver that was woken on this thread's core runs when this thread leaves it. What is left of the turn, chiefly the
//! acknowledgement of the very message, costs more than the receiver needs to answer it; so the receiver goes first, and its answer
//! leaves before the acknowledgements, in the same turn and without a doorbell: those who called last are looked at when it has run.
//!
//! Whether that pays is learnt: where the receiver runs on another core the offer of this one is a system call for nothing, where
//! the core is busy it lasts long. Attempts without a call at their end, or longer than [`GIVING_WAY_MAX`], make the next ones rarer.
//!
//! What must never happen: that a turn waits for a receiver. It is offered the core once, and the kernel decides.

use std::time::{Duration, Instant};

use super::polling::PollHistory;
use super::shard::NetworkShard;
use crate::limits::GIVING_WAY_MAX;

/// What this turn has done for receivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Course {
    /// It has published nothing.
    #[default]
    Quiet,
    /// It has published, and goes on as if nobody had been woken.
    GoesOn,
    /// Those who called last are expected to call; nobody was woken yet.
    Expects,
    /// The same, and somebody was woken.
    HasWoken,
}

/// Whether somebody was woken, and whether it paid to give way before.
#[derive(Debug, Default)]
pub(super) struct GivingWay {
    course: Course,
    history: PollHistory,
}

impl GivingWay {
    /// Something is about to be published: true if this is the first of the turn, and those who called last are to be expected.
    fn begin(&mut self) -> bool {
        if self.course != Course::Quiet {
            return false;
        }
        let expects = self.history.should_poll();
        self.course = if expects { Course::Expects } else { Course::GoesOn };
        expects
    }

    /// Something was published; whether that has woken who slept.
    pub(super) fn note_woken(&mut self, has_woken: bool) {
        if has_woken && self.course == Course::Expects {
            self.course = Course::HasWoken;
        }
    }

    /// All of the turn is published: whether somebody was woken whom it pays to give way to.
    fn end(&mut self) -> bool {
        std::mem::take(&mut self.course) == Course::HasWoken
    }

    /// What came of it.
    fn learn(&mut self, has_call: bool, took: Duration) {
        if has_call && took <= GIVING_WAY_MAX {
            self.history.hit();
        } else {
            self.history.miss();
        }
    }
}

impl NetworkShard {
    /// Something is about to be published. Who is woken by it may run at once, and have called before it is looked for.
    pub(super) fn before_publishing(&mut self) {
        if self.giving_way.begin() {
            self.expect_gateways();
        }
    }

    /// Offers the core to whoever was woken in this turn, if that seems to pay.
    pub(super) fn give_way(&mut self) {
        if !self.giving_way.end() {
            return;
        }
        if !self.have_gateways_work() {
            std::thread::yield_now();
        }
        let begun = std::mem::replace(&mut self.now, Instant::now());
        let has_call = self.have_gateways_work();
        self.giving_way.learn(has_call, self.now.duration_since(begun));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(1);

    /// Whether one turn with a message gives way.
    fn gives_way(giving: &mut GivingWay, has_woken: bool) -> bool {
        giving.begin();
        giving.note_woken(has_woken);
        giving.end()
    }

    #[test]
    fn only_who_was_woken_is_given_way_to() {
        let mut giving = GivingWay::default();
        assert!(!giving.end(), "nothing was published");
        assert!(!gives_way(&mut giving, false), "nobody slept");
        assert!(gives_way(&mut giving, true));
        assert!(!giving.end(), "once a turn");
    }

    #[test]
    fn several_messages_of_a_turn_are_one_occasion() {
        let mut giving = GivingWay::default();
        assert!(giving.begin());
        giving.note_woken(true);
        assert!(!giving.begin());
        giving.note_woken(false);
        assert!(giving.end());
    }

    #[test]
    fn what_does_not_pay_grows_rare_and_what_pays_is_done_each_time() {
        let mut giving = GivingWay::default();
        for (has_call, took) in [(false, SHORT), (true, 2 * GIVING_WAY_MAX)] {
            for _ in 0..20 {
                while !gives_way(&mut giving, true) {}
                giving.learn(has_call, took);
            }
            let skipped = (0..100).filter(|_| !gives_way(&mut giving, true)).count();
            assert_eq!(skipped, 100, "after twenty failures in a row");
            while !gives_way(&mut giving, true) {}
            giving.learn(true, SHORT);
            assert!((0..100).all(|_| gives_way(&mut giving, true)), "after one success");
        }
    }
}
