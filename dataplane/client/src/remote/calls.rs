//! The table of what is unanswered on one connection: calls and questions, found by the slot that their ids carry.
//!
//! A request id is a sequence number above [`SLOT_BITS`] bits of slot, so ids grow as the protocol wants and an answer finds
//! its place without a search. A slot is reused only after its id was answered, or was never sent.
//!
//! Invariants
//! 1. A settled slot has no waiter: who settles it takes the waiter along and wakes it after the lock is given back.
//! 2. An abandoned slot has no owner: it is freed when it settles. Every other slot is freed by the owner of its ticket.
//! 3. `threads` and `tasks` count the waiters in the table.

use std::task::Waker;
use std::thread::Thread;
use std::time::Instant;

use praas_protocol::wire::Response;

use crate::remote::questions::QuestionAnswer;
use crate::remote::reply_bytes::ReplyBytes;

/// Bits of a request id that name the slot.
const SLOT_BITS: u32 = 16;

/// Calls and questions that one connection has unanswered at most, whatever the server would allow.
pub(super) const SLOTS_MAX: usize = 1 << SLOT_BITS;

const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

/// The right to the end of one call or question; not cloned, so that an end is taken once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(super) id: u64,
}

/// Who is to be told.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A blocked thread, which keeps its own deadline.
    Thread(Thread),
    /// A future, woken at `end` by the reading thread of the connection.
    Task { waker: Waker, end: Instant },
}

impl Waiter {
    pub(super) fn wake(self) {
        match self {
            Self::Thread(thread) => thread.unpark(),
            Self::Task { waker, .. } => waker.wake(),
        }
    }
}

/// How a call or question ended.
#[derive(Debug)]
pub(crate) enum Settlement {
    /// A call's answer.
    Response(Response, ReplyBytes),
    /// A question's answer.
    Answer(Box<QuestionAnswer>),
    /// The server said that it did not take it and never will.
    NotTaken,
    /// The connection ended before the whole of it was sent.
    NeverSent,
    /// The connection ended without an answer.
    Lost,
}

#[derive(Debug)]
enum Progress {
    Free,
    Writing,
    Sent,
    Settled(Settlement),
}

/// What a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A call through the handle at this place of the handle table, with so many bytes of payload.
    Call { seat: usize, payload_bytes: u32 },
    /// A question.
    Question,
}

#[derive(Debug)]
struct Slot {
    id: u64,
    usage: Use,
    progress: Progress,
    abandoned: bool,
    waiter: Option<Waiter>,
    /// Its caller's memory for the answer; empty if it gave none, or if the answer is being received into it.
    memory: Vec<u8>,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Calls {
    slots: Vec<Slot>,
    free: Vec<usize>,
    last_sequence: u64,
    threads: usize,
    tasks: usize,
}

impl Calls {
    /// Takes a slot; `None` when the table is full.
    pub(super) fn add(&mut self, usage: Use) -> Option<Ticket> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() >= SLOTS_MAX => return None,
            None => {
                let (progress, memory) = (Progress::Free, Vec::new());
                let slot = Slot { id: 0, usage, progress, abandoned: false, waiter: None, memory };
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.last_sequence += 1;
        let id = self.last_sequence << SLOT_BITS | index as u64;
        let slot = &mut self.slots[index];
        (slot.id, slot.usage, slot.progress, slot.abandoned) = (id, usage, Progress::Writing, false);
        if slot.memory.capacity() > 0 {
            slot.memory = Vec::new();
        }
        Some(Ticket { id })
    }

    fn index(id: u64) -> usize {
        usize::try_from(id & SLOT_MASK).unwrap_or(usize::MAX)
    }

    fn slot(&mut self, id: u64) -> Option<&mut Slot> {
        self.slots.get_mut(Self::index(id)).filter(|slot| slot.id == id && !matches!(slot.progress, Progress::Free))
    }

    /// What the unanswered `id` is for, and whether anybody still wants its answer. `None` if nothing of that id is open.
    pub(super) fn unanswered(&mut self, id: u64) -> Option<(Use, bool)> {
        let slot = self.slot(id).filter(|slot| !matches!(slot.progress, Progress::Settled(_)))?;
        Some((slot.usage, !slot.abandoned))
    }

    /// Gives memory for the answer. It comes back with the answer, or by [`Calls::take_memory`].
    pub(super) fn give_memory(&mut self, ticket: &Ticket, memory: Vec<u8>) {
        if let Some(slot) = self.slot(ticket.id) {
            slot.memory = memory;
        }
    }

    /// Takes what [`Calls::give_memory`] gave; empty if it was taken before.
    pub(super) fn take_memory(&mut self, id: u64) -> Vec<u8> {
        self.slot(id).map(|slot| std::mem::take(&mut slot.memory)).unwrap_or_default()
    }

    /// All of it was handed to the socket.
    pub(super) fn mark_sent(&mut self, id: u64) {
        if let Some(slot) = self.slot(id)
            && matches!(slot.progress, Progress::Writing)
        {
            slot.progress = Progress::Sent;
        }
    }

    /// Whether writing it is still worth while: it is neither settled nor freed.
    pub(super) fn is_open(&mut self, id: u64) -> bool {
        self.unanswered(id).is_some()
    }

    pub(super) fn is_settled(&mut self, ticket: &Ticket) -> bool {
        self.slot(ticket.id).is_none_or(|slot| matches!(slot.progress, Progress::Settled(_)))
    }

    /// Ends `id`; whom to wake. An abandoned one is freed at once.
    pub(super) fn settle(&mut self, id: u64, settlement: Settlement) -> Option<Waiter> {
        let slot = self.slot(id)?;
        slot.progress = Progress::Settled(settlement);
        let (abandoned, waiter) = (slot.abandoned, slot.waiter.take());
        if let Some(waiter) = &waiter {
            self.count_out(waiter);
        }
        if abandoned {
            self.free(id);
        }
        waiter
    }

    /// The end of a settled call or question, and its slot back.
    pub(super) fn take(&mut self, ticket: &Ticket) -> Option<Settlement> {
        let slot = self.slot(ticket.id)?;
        if !matches!(slot.progress, Progress::Settled(_)) {
            return None;
        }
        let progress = std::mem::replace(&mut slot.progress, Progress::Free);
        self.free.push(Self::index(ticket.id));
        match progress {
            Progress::Settled(settlement) => Some(settlement),
            _ => None,
        }
    }

    /// Takes back what was not sent at all, or what nobody will collect: a settled slot is freed.
    pub(super) fn free(&mut self, id: u64) {
        let Some(slot) = self.slot(id) else { return };
        slot.progress = Progress::Free;
        if let Some(waiter) = slot.waiter.take() {
            self.count_out(&waiter);
        }
        self.free.push(Self::index(id));
    }

    /// Nobody will take its end. What it is for, if it is still unanswered; else it is freed here.
    pub(super) fn abandon(&mut self, ticket: &Ticket) -> Option<Use> {
        self.forget_waiter(ticket);
        let slot = self.slot(ticket.id)?;
        if matches!(slot.progress, Progress::Settled(_)) {
            self.free(ticket.id);
            return None;
        }
        slot.abandoned = true;
        Some(slot.usage)
    }

    /// Has `waiter` woken when the ticket settles, instead of the one before; that one, so that it is dropped outside.
    pub(super) fn set_waiter(&mut self, ticket: &Ticket, waiter: Waiter) -> Option<Waiter> {
        let before = self.forget_waiter(ticket);
        match &waiter {
            Waiter::Thread(_) => self.threads += 1,
            Waiter::Task { .. } => self.tasks += 1,
        }
        match self.slot(ticket.id) {
            Some(slot) => slot.waiter = Some(waiter),
            None => self.count_out(&waiter),
        }
        before
    }

    pub(super) fn forget_waiter(&mut self, ticket: &Ticket) -> Option<Waiter> {
        let waiter = self.slot(ticket.id)?.waiter.take()?;
        self.count_out(&waiter);
        Some(waiter)
    }

    fn count_out(&mut self, waiter: &Waiter) {
        match waiter {
            Waiter::Thread(_) => self.threads -= 1,
            Waiter::Task { .. } => self.tasks -= 1,
        }
    }

    /// Futures that wait for an answer.
    pub(super) fn tasks(&self) -> usize {
        self.tasks
    }

    /// Slots in use.
    pub(super) fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A blocked thread that waits for an answer, if there is one: it can read for all.
    pub(super) fn blocked_thread(&self) -> Option<Thread> {
        if self.threads == 0 {
            return None;
        }
        self.slots.iter().find_map(|slot| match &slot.waiter {
            Some(Waiter::Thread(thread)) => Some(thread.clone()),
            _ => None,
        })
    }

    /// Takes the wakers whose deadline is `now` or earlier, and finds the next deadline.
    pub(super) fn expired(&mut self, now: Instant, wakes: &mut Vec<Waiter>) -> Option<Instant> {
        if self.tasks == 0 {
            return None;
        }
        let mut next: Option<Instant> = None;
        for slot in &mut self.slots {
            let Some(Waiter::Task { end, .. }) = &slot.waiter else { continue };
            if *end > now {
                next = Some(next.map_or(*end, |next| next.min(*end)));
            } else if let Some(waiter) = slot.waiter.take() {
                self.tasks -= 1;
                wakes.push(waiter);
            }
        }
        next
    }

    /// Settles everything that is unanswered and has an id above `after`.
    pub(super) fn settle_after(
        &mut self,
        after: u64,
        mut end_of: impl FnMut(bool) -> Settlement,
        wakes: &mut Vec<Waiter>,
    ) -> Vec<Use> {
        let mut settled = Vec::new();
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let fully_sent = match slot.progress {
                Progress::Writing => false,
                Progress::Sent => true,
                _ => continue,
            };
            if slot.id <= after {
                continue;
            }
            let (id, usage) = (slot.id, slot.usage);
            settled.push(usage);
            wakes.extend(self.settle(id, end_of(fully_sent)));
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_and_answers_find_their_slot_whatever_the_order() {
        let mut calls = Calls::default();
        let mut last = 0;
        for round in 0..50_u64 {
            let tickets: Vec<_> = (0..5).map(|_| calls.add(Use::Question).unwrap()).collect();
            for ticket in &tickets {
                assert!(ticket.id > last, "round {round}");
                last = ticket.id;
            }
            for ticket in tickets.iter().rev() {
                assert!(calls.take(ticket).is_none());
                assert!(calls.settle(ticket.id, Settlement::Lost).is_none());
                assert!(calls.unanswered(ticket.id).is_none(), "an id is answered once");
                assert!(matches!(calls.take(ticket), Some(Settlement::Lost)));
            }
            assert_eq!(calls.in_use(), 0);
        }
        assert_eq!(calls.slots.len(), 5);
    }

    #[test]
    fn an_abandoned_call_keeps_its_slot_until_it_is_answered() {
        let mut calls = Calls::default();
        let ticket = calls.add(Use::Question).unwrap();
        assert_eq!(calls.abandon(&ticket), Some(Use::Question));
        assert_eq!((calls.in_use(), calls.unanswered(ticket.id)), (1, Some((Use::Question, false))));
        calls.settle(ticket.id, Settlement::Lost);
        assert_eq!(calls.in_use(), 0);
        let settled = calls.add(Use::Question).unwrap();
        calls.settle(settled.id, Settlement::Lost);
        assert_eq!(calls.abandon(&settled), None);
        assert_eq!(calls.in_use(), 0);
    }

    #[test]
    fn memory_for_an_answer_is_taken_once_and_never_by_the_next_call_in_its_slot() {
        let mut calls = Calls::default();
        let ticket = calls.add(Use::Question).unwrap();
        calls.give_memory(&ticket, vec![1, 2, 3]);
        assert_eq!(calls.take_memory(ticket.id), [1, 2, 3]);
        assert!(calls.take_memory(ticket.id).is_empty());
        calls.give_memory(&ticket, vec![4]);
        calls.free(ticket.id);
        let next = calls.add(Use::Question).unwrap();
        assert_eq!(calls.slots.len(), 1);
        assert!(calls.take_memory(ticket.id).is_empty() && calls.take_memory(next.id).is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut calls = Calls::default();
        for _ in 0..SLOTS_MAX {
            calls.add(Use::Question).unwrap();
        }
        assert!(calls.add(Use::Question).is_none());
    }
}
