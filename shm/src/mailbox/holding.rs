//! Messages that one end holds for long, each by itself: those that a client's session has received, which belong to no call.
//!
//! They are found by their source and id in the list of the end's row, so that nothing about them has to be remembered
//! elsewhere. Each step is one transaction, as everywhere.

use praas_protocol::Key;
use praas_protocol::message::{Address, MessageId};

use crate::objects::error::StateError;

use super::error::MailError;
use super::held;
use super::limits::MESSAGES_BOUND;
use super::message::Stored;
use super::queue::Queue;
use super::received::address_of;
use super::worker::{Mailbox, Wanted};

impl Mailbox {
    /// Removes a message that this end holds. False if it holds no such message.
    ///
    /// # Errors
    /// [`MailError::Busy`]: nothing was done. [`MailError::Corrupt`].
    pub fn accept_held(&self, source: &Address, id: MessageId) -> Result<bool, MailError> {
        let Some((queue, message)) = self.find_held(source, id)? else { return Ok(false) };
        self.accept(queue, message)?;
        Ok(true)
    }

    /// Gives a message back that this end holds, to the head of its queue, and with it those of the same queue that it has
    /// received after it: so they stand in their order again. False if it holds no such message.
    ///
    /// # Errors
    /// [`MailError::Busy`]: the message is held as before. [`MailError::Corrupt`].
    pub fn release_held_from(&self, source: &Address, id: MessageId) -> Result<bool, MailError> {
        let Some((queue, first)) = self.find_held(source, id)? else { return Ok(false) };
        let locked = self.lock()?;
        let space = self.space();
        let mut at = held::last(space, self.row())?;
        for _ in 0..=MESSAGES_BOUND {
            let Some(message) = at else { break };
            let before = message.before(space);
            if message.queue(space)?.place.number() == queue.place.number() {
                held::give_back(&locked, self.row(), message)?;
                self.one_less_held();
            }
            if message.place.number() == first.place.number() {
                drop(locked);
                self.bell().ring();
                return Ok(true);
            }
            at = checked(self, before)?;
        }
        Err(StateError::corrupt("list of held messages", held::held_at(space, self.row())).into())
    }

    /// Removes a message that this end held before and that has returned to its queue since. False if it is not among the
    /// redelivered messages at the queue's head.
    ///
    /// # Errors
    /// As [`Mailbox::take`].
    pub fn accept_returned(&self, source: &Address, key: Key<'_>, id: MessageId) -> Result<bool, MailError> {
        let mut first = None;
        let mut is_removed = false;
        for _ in 0..MESSAGES_BOUND {
            // One that nobody has received yet must not look as if somebody had.
            if self.peek(Wanted::One(source), key)?.is_none_or(|next| !next.is_redelivered) {
                break;
            }
            let Some(taken) = self.take(Wanted::One(source), key)? else { break };
            if taken.id() == id {
                taken.accept()?;
                is_removed = true;
                break;
            }
            first = first.or(Some(taken.id()));
        }
        if let Some(first) = first {
            self.release_held_from(source, first)?;
        }
        Ok(is_removed)
    }

    fn find_held(&self, source: &Address, id: MessageId) -> Result<Option<(Queue, Stored)>, MailError> {
        // Rows are looked at only where messages were held: one that was never used takes no memory.
        if self.held() == 0 {
            return Ok(None);
        }
        if self.claimed.get() {
            // What is claimed enters the list.
            drop(self.lock()?);
        }
        let space = self.space();
        let mut at = held::last(space, self.row())?;
        for _ in 0..=MESSAGES_BOUND {
            let Some(message) = at else { return Ok(None) };
            let queue = message.queue(space)?;
            if message.id(space) == id && address_of(space, queue)? == *source {
                return Ok(Some((queue, message)));
            }
            at = checked(self, message.before(space))?;
        }
        Err(StateError::corrupt("list of held messages", held::held_at(space, self.row())).into())
    }
}

/// The message of a number that the list of held ones names.
fn checked(mailbox: &Mailbox, number: u64) -> Result<Option<Stored>, StateError> {
    if number == 0 {
        return Ok(None);
    }
    let space = mailbox.space();
    Stored::checked(space, number, held::held_at(space, mailbox.row())).map(Some)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::put::NewMessage;
    use super::*;
    use crate::WorkerTag;
    use crate::mail_bell::MailBell;
    use crate::objects::{Objects, ObjectsLayout};

    fn mailbox() -> Mailbox {
        let objects = Objects::create(ObjectsLayout::for_limit(1 << 20).unwrap()).unwrap();
        Mailbox::new(Arc::new(objects), WorkerTag::new(0, 1), MailBell::create().unwrap()).unwrap()
    }

    fn alice() -> Address {
        "alice".parse().unwrap()
    }

    fn id(sequence: u64) -> MessageId {
        MessageId { incarnation: 1, sequence }
    }

    fn key() -> Key<'static> {
        Key::new("k").unwrap()
    }

    fn put(mailbox: &Mailbox, sequences: std::ops::RangeInclusive<u64>) {
        for sequence in sequences {
            let bytes = sequence.to_le_bytes();
            let new = NewMessage { source: &alice(), id: id(sequence), key: key(), bytes: &bytes, repeats: true };
            mailbox.put(&new).unwrap();
        }
    }

    fn take(mailbox: &Mailbox) -> Option<(u64, bool)> {
        let taken = mailbox.take(Wanted::Any, key()).unwrap()?;
        Some((taken.id().sequence, taken.is_redelivered()))
    }

    #[test]
    fn held_messages_are_accepted_one_by_one_in_any_order_and_once() {
        let mailbox = mailbox();
        put(&mailbox, 1..=4);
        let taken: Vec<_> = std::iter::from_fn(|| take(&mailbox)).collect();
        assert_eq!(taken, [(1, false), (2, false), (3, false), (4, false)]);
        assert!(!mailbox.accept_held(&alice(), id(5)).unwrap());
        assert!(!mailbox.accept_held(&"bob".parse().unwrap(), id(1)).unwrap());
        for sequence in [2, 4, 1, 3] {
            assert!(mailbox.accept_held(&alice(), id(sequence)).unwrap());
            assert!(!mailbox.accept_held(&alice(), id(sequence)).unwrap());
        }
        assert_eq!((mailbox.held(), mailbox.usage().messages), (0, 0));
    }

    #[test]
    fn a_released_message_returns_with_those_received_after_it_and_in_order() {
        let mailbox = mailbox();
        put(&mailbox, 1..=4);
        (0..3).for_each(|_| assert!(take(&mailbox).is_some()));
        assert!(mailbox.release_held_from(&alice(), id(2)).unwrap());
        assert!(!mailbox.release_held_from(&alice(), id(3)).unwrap());
        assert_eq!(mailbox.held(), 1);
        let taken: Vec<_> = std::iter::from_fn(|| take(&mailbox)).collect();
        assert_eq!(taken, [(2, true), (3, true), (4, false)]);
    }

    #[test]
    fn a_message_that_has_returned_is_accepted_at_its_queue_and_the_others_stay() {
        let mut mailbox = mailbox();
        put(&mailbox, 1..=4);
        (0..3).for_each(|_| assert!(take(&mailbox).is_some()));
        mailbox.release_all().unwrap();
        assert!(!mailbox.accept_held(&alice(), id(2)).unwrap());
        assert!(mailbox.accept_returned(&alice(), key(), id(2)).unwrap());
        assert!(!mailbox.accept_returned(&alice(), key(), id(2)).unwrap());
        assert!(!mailbox.accept_returned(&alice(), key(), id(4)).unwrap(), "nobody has received it yet");
        let taken: Vec<_> = std::iter::from_fn(|| take(&mailbox)).collect();
        assert_eq!(taken, [(1, true), (3, true), (4, false)]);
    }
}
