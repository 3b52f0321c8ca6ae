//! The checker's part of the mailbox: whether each of its blocks is named by exactly one thing, and every count is right.
//!
//! Bounded by that: each block is named once, so every list ends.

use std::collections::BTreeMap;

use crate::objects::block::{Block, Kind};
use crate::objects::check::Blocks;
use crate::objects::error::StateError;
use crate::objects::hash;
use crate::objects::layout::header::{
    HASH_SEED, MAIL_MESSAGES, MAIL_QUEUES, MAIL_RETURNS, MAIL_SOURCE_NEWEST, MAIL_SOURCE_OLDEST, MAIL_SOURCES,
    MAIL_TABLE, POSITION,
};
use crate::objects::words::Space;

use super::claim;
use super::filter::Remembered;
use super::held;
use super::limits::{QUEUE_BUCKETS, SOURCE_BUCKETS};
use super::message::{Spares, Stored};
use super::name::{ADDRESS_WORDS, KeyText, QueueName, Source};
use super::queue::Queue;
use super::received::address_of;
use super::table::Table;

/// What a mailbox in order holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckedMail {
    /// Messages in queues.
    pub queued: u64,
    /// Messages that calls hold.
    pub held: u64,
    /// Removed messages that are still to be tidied away, and such that are being filled.
    pub unfinished: u64,
    /// Queues and records of keys.
    pub queues: u64,
    /// Sources that may repeat.
    pub sources: u64,
    /// Blocks kept for later messages.
    pub spares: u64,
}

/// What rows hold of a queue, by its place.
type Holds = BTreeMap<u64, (usize, u64)>;

/// Checks all of it.
pub(crate) fn check(blocks: &mut Blocks<'_>) -> Result<CheckedMail, StateError> {
    let space = blocks.space();
    let mut found = CheckedMail::default();
    let number = space.words.load(MAIL_TABLE);
    if number != 0 {
        blocks.name(number, Kind::MailTable, MAIL_TABLE)?;
    }
    let holds = check_rows(blocks, &mut found)?;
    check_spares(blocks, &mut found)?;
    if let Some(table) = Table::find(space)? {
        check_queues(blocks, table, &holds, &mut found)?;
        check_sources(blocks, table, &mut found)?;
    }
    let (messages, claimed) = (found.queued + found.held, claim::check(space)?);
    found.held += claimed;
    found.spares -= claimed;
    for (what, at, count) in [
        ("count of messages", MAIL_MESSAGES, messages),
        ("count of queues", MAIL_QUEUES, found.queues),
        ("count of sources", MAIL_SOURCES, found.sources),
    ] {
        if space.words.load(at) != count {
            return Err(StateError::corrupt(what, at));
        }
    }
    Ok(found)
}

fn name_message(blocks: &mut Blocks<'_>, number: u64, at: usize) -> Result<(Stored, Block), StateError> {
    let block = blocks.name(number, Kind::Message, at)?;
    Ok((Stored::checked(blocks.space(), number, at)?, block))
}

fn check_rows(blocks: &mut Blocks<'_>, found: &mut CheckedMail) -> Result<Holds, StateError> {
    let space = blocks.space();
    let mut holds = Holds::new();
    for row in 0..space.layout.row_count {
        let filling = held::filling_at(space, row);
        let number = space.words.load(filling);
        if number != 0 {
            name_message(blocks, number, filling)?;
            found.unfinished += 1;
        }
        for at in held::lists(space, row) {
            let mut number = space.words.load(at);
            while number != 0 {
                let (message, _) = name_message(blocks, number, at)?;
                check_message(space, message)?;
                let queue = message.queue(space)?;
                let hold = holds.entry(queue.place.number()).or_insert((row, 0));
                hold.1 += 1;
                if hold.0 != row {
                    return Err(StateError::corrupt("holder of a message", message.place.at()));
                }
                found.held += 1;
                number = message.before(space);
            }
        }
    }
    let mut number = space.words.load(MAIL_RETURNS);
    while number != 0 {
        let (message, _) = name_message(blocks, number, MAIL_RETURNS)?;
        if message.lane_place(space).is_none() {
            return Err(StateError::corrupt("message among the returns", message.place.at()));
        }
        found.unfinished += 1;
        number = message.next(space);
    }
    Ok(holds)
}

fn check_message(space: Space<'_>, message: Stored) -> Result<(), StateError> {
    message.payload(space)?;
    let arrival = message.arrival(space);
    if arrival == 0 || arrival > space.words.load(POSITION) {
        return Err(StateError::corrupt("arrival of a message", message.place.at()));
    }
    Ok(())
}

fn check_spares(blocks: &mut Blocks<'_>, found: &mut CheckedMail) -> Result<(), StateError> {
    let space = blocks.space();
    for spares in [&Spares::SMALL, &Spares::LARGE] {
        let (mut number, mut count) = (spares.first(space), 0);
        while number != 0 {
            let (spare, _) = name_message(blocks, number, spares.at())?;
            count += 1;
            number = spare.next(space);
        }
        if count != spares.count(space) {
            return Err(StateError::corrupt("count of spare blocks", spares.at()));
        }
        found.spares += count;
    }
    Ok(())
}

fn check_queues(
    blocks: &mut Blocks<'_>,
    table: Table,
    holds: &Holds,
    found: &mut CheckedMail,
) -> Result<(), StateError> {
    let space = blocks.space();
    let (mut of_keys, mut held_queues) = (BTreeMap::<u64, u64>::new(), 0);
    let mut records = Vec::new();
    for at in (0..QUEUE_BUCKETS).map(|bucket| table.bucket_at(bucket)) {
        let mut number = space.words.load(at);
        while number != 0 {
            blocks.name(number, Kind::MailQueue, at)?;
            let queue = Queue::checked(space, number, at)?;
            check_name(space, table, queue, at)?;
            found.queues += 1;
            if queue.is_of_key(space) {
                records.push(queue);
            } else {
                address_of(space, queue)?;
                check_messages(blocks, queue, found)?;
                let hold = queue.hold(space);
                match holds.get(&queue.place.number()) {
                    Some(&(row, count)) if hold.is_by(row) && hold.count == count => held_queues += 1,
                    None if hold.count == 0 => {}
                    _ => return Err(StateError::corrupt("holder of a queue", queue.place.at())),
                }
                *of_keys.entry(queue.record(space)?.place.number()).or_default() += 1;
            }
            number = queue.next_in_bucket(space);
        }
    }
    if held_queues != holds.len() {
        return Err(StateError::corrupt("queue of a held message", table.bucket_at(0)));
    }
    for record in records {
        let queues = of_keys.remove(&record.place.number()).unwrap_or(0);
        if record.queues_of_key(space) != queues {
            return Err(StateError::corrupt("count of a key's queues", record.place.at()));
        }
        check_ring(space, record, queues)?;
    }
    if of_keys.is_empty() { Ok(()) } else { Err(StateError::corrupt("record of a key", table.bucket_at(0))) }
}

fn check_name(space: Space<'_>, table: Table, queue: Queue, bucket_at: usize) -> Result<(), StateError> {
    let seed = space.words.load(HASH_SEED);
    let key = queue.key_bytes(space);
    let words = queue.address_words(space);
    let source =
        if words == [0; ADDRESS_WORDS] { Source::NONE } else { Source { words, hash: hash::of_address(seed, &words) } };
    let name = QueueName::new(&source, KeyText::new(seed, &key));
    let right = queue.hash(space) == name.hash
        && table.queues_at(name.hash) == bucket_at
        && Queue::find(space, table, &name)? == Some(queue)
        && praas_protocol::Key::from_bytes(&key).is_ok();
    if right { Ok(()) } else { Err(StateError::corrupt("name of a queue", queue.place.at())) }
}

fn check_messages(blocks: &mut Blocks<'_>, queue: Queue, found: &mut CheckedMail) -> Result<(), StateError> {
    let space = blocks.space();
    let at = queue.place.at();
    let (mut next, mut last, mut count) = (queue.first(space)?, 0, 0);
    while let Some(message) = next {
        name_message(blocks, message.place.number(), at)?;
        check_message(space, message)?;
        if message.queue(space)? != queue {
            return Err(StateError::corrupt("queue of a message", message.place.at()));
        }
        last = message.place.number();
        count += 1;
        let number = message.next(space);
        next = if number == 0 { None } else { Some(Stored::checked(space, number, message.link_at())?) };
    }
    found.queued += count;
    if count == queue.count(space) && last == queue.last(space) {
        Ok(())
    } else {
        Err(StateError::corrupt("count of a queue", at))
    }
}

/// The ring of a key has exactly those of its queues that have messages.
fn check_ring(space: Space<'_>, record: Queue, queues: u64) -> Result<(), StateError> {
    let wrong = || StateError::corrupt("ring of queues", record.place.at());
    let Some(first) = record.next_ready(space)? else { return Ok(()) };
    let mut queue = first;
    for _ in 0..=queues {
        let next = queue.ring_next(space)?;
        if queue.count(space) == 0 || queue.record(space)? != record || next.ring_before(space)? != queue {
            return Err(wrong());
        }
        if next == first {
            return Ok(());
        }
        queue = next;
    }
    Err(wrong())
}

fn check_sources(blocks: &mut Blocks<'_>, table: Table, found: &mut CheckedMail) -> Result<(), StateError> {
    let space = blocks.space();
    for at in (0..SOURCE_BUCKETS).map(|bucket| table.source_bucket_at(bucket)) {
        let mut number = space.words.load(at);
        while number != 0 {
            blocks.name(number, Kind::MailSource, at)?;
            let record = Remembered::checked(space, number, at)?;
            if table.sources_at(record.hash(space)) != at {
                return Err(StateError::corrupt("hash of a source", record.place.at()));
            }
            found.sources += 1;
            number = record.next_in_bucket(space);
        }
    }
    let (mut number, mut before, mut listed) = (space.words.load(MAIL_SOURCE_OLDEST), 0, 0);
    while number != 0 {
        let record = Remembered::checked(space, number, MAIL_SOURCE_OLDEST)?;
        listed += 1;
        if record.older(space) != before || listed > found.sources {
            return Err(StateError::corrupt("list of sources", record.place.at()));
        }
        before = number;
        number = record.newer(space);
    }
    if listed == found.sources && space.words.load(MAIL_SOURCE_NEWEST) == before {
        Ok(())
    } else {
        Err(StateError::corrupt("list of sources", MAIL_SOURCE_NEWEST))
    }
}
