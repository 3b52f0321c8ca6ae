//! Receiving: from the mailbox if something is there, and otherwise by a wait.
//!
//! A wait polls while that pays, which makes no system call and reads no clock, and then sleeps on the bell. It ends by a message,
//! by its deadline, by a drain, or when the caller gives up; what came before its end is received.

use std::time::Duration;

use praas_protocol::control::WaitMode;
use praas_protocol::limits::MESSAGE_LANES_MAX;
use praas_protocol::{Address, Key, NameError, Phase};
use praas_shm::mailbox::{MailError, Mailbox, Peeked, Received, Wanted};

use super::address::{Party, Sources};
use super::around::{Around, Wait};
use super::error::RecvError;
use super::message::Message;
use super::room::MessageRoom;
use crate::worker::WorkerError;

/// Times that the server may tell of lanes while one look into the mailbox goes on: as often as there can be lanes.
pub(super) const LANES_TOLD_MAX: usize = MESSAGE_LANES_MAX;

impl MessageRoom {
    /// A message that is wanted, waiting for it if a time is given; `None` only if none is.
    #[inline]
    pub(crate) fn receive(
        &self,
        around: &impl Around,
        sources: Sources<'_>,
        key: &str,
        within: Option<Duration>,
    ) -> Result<Option<Message<'_>>, RecvError> {
        let key = Key::new(key)?;
        let mailbox = self.mailbox().map_err(unreachable_mailbox)?;
        let single;
        let wanted = match sources {
            Sources::Any => Wanted::Any,
            Sources::From(party) => {
                single = self.source_of(party)?;
                Wanted::One(&single)
            }
            Sources::AnyOf(list) => Wanted::Of(list),
        };
        let before = Before { rings: mailbox.bell().rings(), mail_count: around.mail_count() };
        let received = match self.take(around, mailbox, wanted, key)? {
            None => match within {
                None => return Ok(None),
                Some(within) => self.await_message(around, mailbox, wanted, key, within, before)?,
            },
            Some(received) => received,
        };
        let source = match wanted {
            Wanted::One(source) => *source,
            _ => received.source()?,
        };
        Ok(Some(Message::new(received, source)))
    }

    /// The address of a source. Messages of one source tend to follow each other.
    #[inline]
    fn source_of(&self, party: Party<'_>) -> Result<Address, NameError> {
        let last = self.source_last.get();
        if party.names(&last) {
            return Ok(last);
        }
        let source = party.resolve(&self.own)?;
        self.source_last.set(source);
        Ok(source)
    }

    /// A copy of the message that would be received next.
    pub(super) fn peek(
        &self,
        around: &impl Around,
        sources: Sources<'_>,
        key: &str,
    ) -> Result<Option<Peeked>, RecvError> {
        let key = Key::new(key)?;
        let mailbox = self.mailbox().map_err(unreachable_mailbox)?;
        let single;
        let wanted = match sources {
            Sources::Any => Wanted::Any,
            Sources::From(party) => {
                single = party.resolve(&self.own)?;
                Wanted::One(&single)
            }
            Sources::AnyOf(list) => Wanted::Of(list),
        };
        for _ in 0..LANES_TOLD_MAX {
            self.heed(around).map_err(|error| unreachable_server(&error))?;
            match mailbox.peek_if(wanted, key, &|| self.is_heeded(around)) {
                Err(MailError::Outdated) => self.await_the_rest(around).map_err(|error| unreachable_server(&error))?,
                peeked => return Ok(peeked?),
            }
        }
        Ok(None)
    }

    #[inline]
    fn take<'room>(
        &self,
        around: &impl Around,
        mailbox: &'room Mailbox,
        wanted: Wanted<'_>,
        key: Key<'_>,
    ) -> Result<Option<Received<'room>>, RecvError> {
        for _ in 0..LANES_TOLD_MAX {
            self.heed(around).map_err(|error| unreachable_server(&error))?;
            match mailbox.take_if(wanted, key, &|| self.is_heeded(around)) {
                Ok(received) => return Ok(received),
                // The server has told of a lane meanwhile, or is about to.
                Err(MailError::Outdated) => self.await_the_rest(around).map_err(|error| unreachable_server(&error))?,
                // Another worker has seen the lane already; the server tells all of them.
                Err(MailError::LaneMissing { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Polls while that pays, then sleeps on the bell. Nothing was there at first, and nothing else had happened `before`.
    fn await_message<'room>(
        &self,
        around: &impl Around,
        mailbox: &'room Mailbox,
        wanted: Wanted<'_>,
        key: Key<'_>,
        within: Duration,
        mut before: Before,
    ) -> Result<Received<'room>, RecvError> {
        let bell = mailbox.bell();
        let mut wait = Wait::begin(around, within);
        let is_news = |before: Before| {
            mailbox.has_news() || bell.rings() != before.rings || around.mail_count() != before.mail_count
        };
        let mut has_slept = false;
        loop {
            let found = self
                .polling
                .poll(|| is_news(before) || (wait.looks_around() && self.looks_around(around, &mut wait).is_err()));
            if found {
                before = Before { rings: bell.rings(), mail_count: around.mail_count() };
                if let Some(received) = self.take(around, mailbox, wanted, key)? {
                    return Ok(received);
                }
                if let Err(end) = ensure_goes_on(around, &wait) {
                    // What came before the end is received.
                    return self.take(around, mailbox, wanted, key)?.ok_or(end);
                }
                continue;
            }
            wait.stand_aside();
            let seen = bell.prepare(self.tag);
            // In this order, again for the sake of what came before the end.
            let goes_on = ensure_goes_on(around, &wait);
            // Before the first sleep a look has just been in vain. Later, lanes without news may have room for what lies in them.
            let came = if has_slept || is_news(before) { self.take(around, mailbox, wanted, key) } else { Ok(None) };
            if let (Ok(None), Ok(())) = (&came, &goes_on) {
                bell.wait(seen, wait.slice());
            }
            bell.finish(self.tag);
            if let Some(received) = came? {
                return Ok(received);
            }
            goes_on?;
            has_slept = true;
            before = Before { rings: bell.rings(), mail_count: around.mail_count() };
            if let Some(received) = self.take(around, mailbox, wanted, key)? {
                return Ok(received);
            }
            wait.look_again();
        }
    }

    /// A wait has polled for a while: whether it goes on. One that polls without an end makes way for others.
    fn looks_around<A: Around>(&self, around: &A, wait: &mut Wait<'_, A>) -> Result<(), RecvError> {
        if self.wait_mode == WaitMode::Spin {
            wait.stand_aside();
            wait.look_again();
        }
        ensure_goes_on(around, wait)
    }
}

/// What had happened before a look for messages.
#[derive(Debug, Clone, Copy)]
struct Before {
    rings: u32,
    mail_count: u32,
}

/// Whether a wait for messages goes on.
fn ensure_goes_on<A: Around>(around: &A, wait: &Wait<'_, A>) -> Result<(), RecvError> {
    let phase = around.phase();
    if phase != Phase::Active {
        return Err(RecvError::Interrupted { phase });
    }
    if around.is_given_up() {
        return Err(RecvError::Cancelled);
    }
    if wait.left().is_zero() {
        return Err(RecvError::DeadlineExceeded { waited: wait.within() });
    }
    Ok(())
}

pub(super) fn unreachable_mailbox(reason: String) -> RecvError {
    RecvError::Unavailable { reason }
}

pub(super) fn unreachable_server(error: &WorkerError) -> RecvError {
    RecvError::Unavailable { reason: error.to_string() }
}
