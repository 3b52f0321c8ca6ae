//! Who waits until a connection can take one more call, in the order in which they came.

use std::collections::BTreeMap;
use std::thread::Thread;
use std::time::Instant;

use crate::remote::calls::Waiter;

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Room {
    queue: BTreeMap<u64, Waiter>,
    last_number: u64,
    tasks: usize,
}

impl Room {
    /// Adds a waiter at the end; the number by which it leaves.
    pub(super) fn add(&mut self, waiter: Waiter) -> u64 {
        self.last_number += 1;
        self.tasks += usize::from(matches!(waiter, Waiter::Task { .. }));
        self.queue.insert(self.last_number, waiter);
        self.last_number
    }

    /// A waiter that was not woken leaves; `None` if it was.
    pub(super) fn remove(&mut self, number: u64) -> Option<Waiter> {
        let waiter = self.queue.remove(&number)?;
        self.tasks -= usize::from(matches!(waiter, Waiter::Task { .. }));
        Some(waiter)
    }

    /// The first in line, who is to be woken.
    pub(super) fn next(&mut self) -> Option<Waiter> {
        let number = *self.queue.first_key_value()?.0;
        self.remove(number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Futures in the queue.
    pub(super) fn tasks(&self) -> usize {
        self.tasks
    }

    pub(super) fn blocked_thread(&self) -> Option<Thread> {
        if self.queue.len() == self.tasks {
            return None;
        }
        self.queue.values().find_map(|waiter| match waiter {
            Waiter::Thread(thread) => Some(thread.clone()),
            Waiter::Task { .. } => None,
        })
    }

    /// Takes the futures whose deadline is `now` or earlier, and finds the next deadline.
    pub(super) fn expired(&mut self, now: Instant, wakes: &mut Vec<Waiter>) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut late = Vec::new();
        for (&number, waiter) in &self.queue {
            let Waiter::Task { end, .. } = waiter else { continue };
            if *end <= now {
                late.push(number);
            } else {
                next = Some(next.map_or(*end, |next| next.min(*end)));
            }
        }
        wakes.extend(late.into_iter().filter_map(|number| self.remove(number)));
        next
    }

    /// Everybody, when the connection has ended.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Waiter> + use<> {
        self.tasks = 0;
        std::mem::take(&mut self.queue).into_values()
    }
}
