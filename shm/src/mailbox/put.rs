//! Putting a message into the mailbox without a lane: what this process sends to itself, and what clients and other hosts
//! send through a call.
//!
//! A small payload is copied under the lock. A large one is filled outside: its block is named by a word of the row
//! meanwhile, so that a death leaks nothing.
//!
//! Another host sends by a lane, and puts what it does not know to have come. So before a put that may be a repetition is
//! judged, all that has come by the lanes of its source is collected: what lies there came before it, and may be it.

use praas_protocol::Key;
use praas_protocol::limits::MAILBOX_MESSAGES_MAX;
use praas_protocol::message::{Accepted, Address, MessageId};

use crate::copy;
use crate::objects::error::StateError;
use crate::objects::layout::header::{MAIL_MESSAGES, MAIL_STALLED};
use crate::objects::lock::Locked;
use crate::objects::transaction::Transaction;

use super::error::MailError;
use super::filter::{Remembered, Verdict, now_s};
use super::held::filling_at;
use super::lanes::Gathered;
use super::limits::{COLLECT_TURNS_MAX, MESSAGE_BYTES_MAX, PUT_WITHIN_LOCK_BYTES_MAX};
use super::logging;
use super::message::{self, Payload, PayloadAt, Stored};
use super::name::{KeyText, QueueName, Source};
use super::queue::{self, Queue};
use super::room;
use super::table::Table;
use super::worker::Mailbox;

/// A message that did not come by a lane.
#[derive(Debug, Clone, Copy)]
pub struct NewMessage<'m> {
    /// Who sends.
    pub source: &'m Address,
    /// Its id among the messages of its source.
    pub id: MessageId,
    /// Its key.
    pub key: Key<'m>,
    /// Its payload.
    pub bytes: &'m [u8],
    /// Whether its sender may send it again, not knowing that it has come: clients and other hosts.
    pub repeats: bool,
}

/// What a put needs to know at each of its steps.
struct Putting<'m> {
    source: Source,
    key: KeyText<'m>,
    id: MessageId,
    /// When, for sources that may repeat.
    filtered_at_s: Option<u64>,
}

impl Mailbox {
    /// Puts a message into the mailbox, at the end of its queue.
    ///
    /// # Errors
    /// [`MailError::Full`], [`MailError::TooLarge`]; [`MailError::TooOld`] and [`MailError::SourcesFull`] for sources that
    /// may repeat; [`MailError::Busy`], [`MailError::Corrupt`].
    pub fn put(&self, new: &NewMessage<'_>) -> Result<Accepted, MailError> {
        self.put_if(new, &|| true)
    }

    /// [`Mailbox::put`], as long as this worker has all lanes that it was told of: what may be a repetition of this message
    /// must not lie in a lane that it lacks. `is_current` is asked before a message that may be repeated is judged.
    ///
    /// # Errors
    /// [`MailError::Outdated`]; otherwise as [`Mailbox::put`], and [`MailError::Full`] also when there is no room for what the
    /// same source has sent before.
    pub fn put_if(&self, new: &NewMessage<'_>, is_current: &dyn Fn() -> bool) -> Result<Accepted, MailError> {
        if new.bytes.len() > MESSAGE_BYTES_MAX as usize {
            let (bytes, limit_bytes) = (new.bytes.len() as u64, u64::from(MESSAGE_BYTES_MAX));
            return Err(MailError::TooLarge { bytes, limit_bytes });
        }
        let putting = Putting {
            source: Source::new(self.seed(), new.source),
            key: KeyText::new(self.seed(), new.key.as_bytes()),
            id: new.id,
            filtered_at_s: new.repeats.then(now_s),
        };
        if new.repeats && self.gather_before(&putting, is_current)? == Accepted::Before {
            return Ok(Accepted::Before);
        }
        let accepted = if new.bytes.len() <= PUT_WITHIN_LOCK_BYTES_MAX {
            self.with_room(|locked, table| putting.put_now(locked, table, new.bytes))
        } else {
            self.put_large(&putting, new.bytes)
        };
        let accepted = accepted.map_err(|error| self.full(error))?;
        if accepted == Accepted::Now {
            self.bell().ring();
        }
        Ok(accepted)
    }

    /// Collects all that has come by the lanes of a source that may repeat. [`Accepted::Before`] if the message is known.
    fn gather_before(&self, putting: &Putting<'_>, is_current: &dyn Fn() -> bool) -> Result<Accepted, MailError> {
        if !self.lanes().borrow().are_of(&putting.source) {
            return if is_current() { Ok(Accepted::Now) } else { Err(MailError::Outdated) };
        }
        for _ in 0..COLLECT_TURNS_MAX {
            let locked = self.lock()?;
            let table = self.table(&locked)?;
            if let Some(record) = Remembered::find(self.space(), table, &putting.source)?
                && record.look(self.space(), putting.id) == Ok(Verdict::Before)
            {
                return Ok(Accepted::Before);
            }
            if !is_current() {
                return Err(MailError::Outdated);
            }
            let mut lanes = self.lanes().borrow_mut();
            lanes.repair(&locked, table)?;
            let gathered = lanes.gather(&locked, table, &putting.source, is_current)?;
            drop((lanes, locked));
            let (Gathered::All { queued }
            | Gathered::More { queued }
            | Gathered::Stalled { queued }
            | Gathered::Outdated { queued }) = gathered;
            if queued > 0 {
                self.bell().ring();
            }
            match gathered {
                Gathered::All { .. } => return Ok(Accepted::Now),
                Gathered::More { .. } => {}
                Gathered::Stalled { .. } => break,
                Gathered::Outdated { .. } => return Err(MailError::Outdated),
            }
        }
        Err(self.full(MailError::Full { messages: 0, messages_max: 0, needed_bytes: 0, free_bytes: 0 }))
    }

    fn put_large(&self, putting: &Putting<'_>, bytes: &[u8]) -> Result<Accepted, MailError> {
        let filling = filling_at(self.space(), self.row());
        let count = u32::try_from(bytes.len()).expect("no longer than a message may be");
        let reserved = self.with_room(|locked, table| putting.reserve(locked, table, filling, count))?;
        let Some((offset, bytes_reserved)) = reserved else { return Ok(Accepted::Before) };
        let place = self.objects().bytes(offset, bytes_reserved);
        // SAFETY: the place lies inside the block that was just reserved for so many bytes; nobody reads it yet.
        unsafe { copy::to_shared(bytes, place) };
        // SAFETY: the same place, which nobody else writes until it is put.
        let logged = unsafe { self.log_pieces(place, bytes_reserved) };
        let put = logged
            .map_err(MailError::from)
            .and_then(|()| self.with_room(|locked, table| putting.put_filled(locked, table, filling)));
        if put.is_err() {
            // Or the server does, or the next end of this row.
            let _ = self.lock().and_then(|locked| Ok(give_up(&locked, filling)?));
        }
        put
    }

    /// Does something under the lock, once more if there was no room and the mailbox has made some.
    fn with_room<T>(&self, mut work: impl FnMut(&Locked<'_>, Table) -> Result<T, MailError>) -> Result<T, MailError> {
        self.with_log_room(|| self.with_room_once(&mut work))
    }

    fn with_room_once<T>(
        &self,
        work: &mut impl FnMut(&Locked<'_>, Table) -> Result<T, MailError>,
    ) -> Result<T, MailError> {
        let locked = self.lock()?;
        let table = self.table(&locked)?;
        queue::tidy(&locked)?;
        let done = match work(&locked, table) {
            Err(MailError::Full { needed_bytes: 1.., .. }) if room::make(&locked)? => work(&locked, table),
            done => done,
        };
        if matches!(done, Err(MailError::Full { .. })) {
            // Whoever makes room rings, so that the put is tried again.
            self.space().words.store(MAIL_STALLED, 1);
        }
        done
    }
}

impl Putting<'_> {
    /// What is remembered of the source, if it may repeat; `None` if this message was accepted before.
    fn look(&self, locked: &Locked<'_>, table: Table) -> Result<Option<Option<Remembered>>, MailError> {
        let Some(now_s) = self.filtered_at_s else { return Ok(Some(None)) };
        let remembered = Remembered::ensure(locked, table, &self.source, now_s)?;
        let verdict = remembered.look(locked.space(), self.id)?;
        Ok((verdict == Verdict::New).then_some(Some(remembered)))
    }

    fn queue(&self, locked: &Locked<'_>, table: Table) -> Result<Queue, MailError> {
        if !message::has_room(locked.space()) {
            let messages = locked.space().words.load(MAIL_MESSAGES);
            let messages_max = u64::from(MAILBOX_MESSAGES_MAX);
            return Err(MailError::Full { messages, messages_max, needed_bytes: 0, free_bytes: 0 });
        }
        Ok(Queue::ensure(locked, table, &QueueName::new(&self.source, self.key))?)
    }

    fn put_now(&self, locked: &Locked<'_>, table: Table, bytes: &[u8]) -> Result<Accepted, MailError> {
        let Some(remembered) = self.look(locked, table)? else { return Ok(Accepted::Before) };
        let queue = self.queue(locked, table)?;
        let mut transaction = Transaction::begin(locked)?;
        let message = Stored::make(&mut transaction, queue, self.id, &Payload::Bytes(bytes))?;
        self.append(transaction, queue, message, remembered)?;
        Ok(Accepted::Now)
    }

    /// The last part of each put.
    fn append(
        &self,
        mut transaction: Transaction<'_>,
        queue: Queue,
        message: Stored,
        remembered: Option<Remembered>,
    ) -> Result<(), StateError> {
        message.arrives(&mut transaction)?;
        logging::arrived(&mut transaction, message, &self.source, self.key, self.filtered_at_s)?;
        queue.append(&mut transaction, message)?;
        if let (Some(remembered), Some(now_s)) = (remembered, self.filtered_at_s) {
            remembered.note(&mut transaction, self.id, now_s)?;
        }
        transaction.commit();
        Ok(())
    }

    /// A block to be filled: where its payload goes. `None` if the message was accepted before.
    fn reserve(
        &self,
        locked: &Locked<'_>,
        table: Table,
        filling: usize,
        bytes: u32,
    ) -> Result<Option<(usize, usize)>, MailError> {
        if self.look(locked, table)?.is_none() {
            return Ok(None);
        }
        let queue = self.queue(locked, table)?;
        give_up(locked, filling)?;
        let mut transaction = Transaction::begin(locked)?;
        let message = Stored::make(&mut transaction, queue, self.id, &Payload::Reserved(bytes))?;
        transaction.store(filling, message.place.number())?;
        transaction.commit();
        match message.payload(locked.space())? {
            PayloadAt::Segment { offset, bytes } => Ok(Some((offset, bytes))),
            PayloadAt::Lane(_) => Err(StateError::corrupt("message that is filled", message.place.at()).into()),
        }
    }

    fn put_filled(&self, locked: &Locked<'_>, table: Table, filling: usize) -> Result<Accepted, MailError> {
        // Somebody may have put the same message meanwhile.
        let Some(remembered) = self.look(locked, table)? else {
            give_up(locked, filling)?;
            return Ok(Accepted::Before);
        };
        let queue = self.queue(locked, table)?;
        let space = locked.space();
        let message = Stored::checked(space, space.words.load(filling), filling)?;
        let mut transaction = Transaction::begin(locked)?;
        transaction.store(filling, 0)?;
        // The queue that was there when it was reserved may be another one by now.
        message.set_queue(&mut transaction, queue)?;
        self.append(transaction, queue, message, remembered)?;
        Ok(Accepted::Now)
    }
}

/// Frees a message that was being filled, if there is one.
pub(crate) fn give_up(locked: &Locked<'_>, filling: usize) -> Result<(), StateError> {
    let space = locked.space();
    let number = space.words.load(filling);
    if number == 0 {
        return Ok(());
    }
    let message = Stored::checked(space, number, filling)?;
    let mut transaction = Transaction::begin(locked)?;
    transaction.store(filling, 0)?;
    message.free(&mut transaction)?;
    transaction.commit();
    Ok(())
}
