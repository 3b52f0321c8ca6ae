//! What a process has beside its objects: its mailbox, what lies in its lanes, what the filter remembers, the numbers of its
//! messages, and the order of the calls that it remembers. Plain data.
//!
//! What lay in a lane comes back in a lane: a state has room for what was in it, and for no more. A message that was taken out of
//! its lane while its payload stayed there has a position, and names the lane; one that waits in a lane has none yet.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::time::{SystemTime, UNIX_EPOCH};

use praas_protocol::Key;
use praas_protocol::control::MessageLaneGeometry;
use praas_protocol::message::{ADDRESS_BYTES, Address, MessageId};

use crate::copy;
use crate::log_ring::{Contents, KeptMessage, KeptSource, Record, RecordBytes, Replay, ReplayError};
use crate::mailbox::in_lanes::{BlocksLeft, InLanes, LaneFacts};
use crate::mailbox::lasting::{self, Kept};
use crate::mailbox::{MailError, PayloadAt};
use crate::objects::layout::header::MAIL_SEQUENCE;
use crate::objects::{Objects, StateError, keyed_calls};

use super::held_cut::HeldCutError;

/// A message in a mailbox that sleeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptMail {
    /// The position at which it came.
    pub arrival: u64,
    /// Whether somebody has received it before.
    pub is_redelivered: bool,
    /// The lane that its payload lies in, by its slot.
    pub lane: Option<u16>,
    /// The message.
    pub message: KeptMessage,
}

/// A message that waits in a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingMail {
    /// Its id.
    pub id: MessageId,
    /// Its key.
    pub key: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A lane that something lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptLane {
    /// Its place among the lanes of the process.
    pub slot: u16,
    /// Its sizes, which all that lies in it fits.
    pub geometry: MessageLaneGeometry,
    /// Who has sent.
    pub source: Address,
    /// Which life of the source.
    pub incarnation: u64,
    /// Whether what waits in it may have come another way, too.
    pub repeats: bool,
    /// What waits in it, in its order.
    pub waiting: Vec<WaitingMail>,
}

impl KeptLane {
    /// Whether what lies in another lane could as well lie in this one.
    fn is_like(&self, other: &Self) -> bool {
        let facts = |lane: &Self| (lane.source, lane.incarnation, lane.repeats, lane.geometry);
        facts(self) == facts(other)
    }
}

/// Everything of a process but its objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remainder {
    /// The number given out last for a message that the process sends.
    pub last_sequence: u64,
    /// Its messages, in the order in which they came.
    pub mail: Vec<KeptMail>,
    /// Sources that may repeat, that which was silent for the longest time first.
    pub sources: Vec<([u8; ADDRESS_BYTES], KeptSource)>,
    /// Hashes of the records of keyed calls, in the order in which the calls began. The records are objects.
    pub calls: Vec<u64>,
    /// Lanes that something lies in, by their slots.
    pub lanes: Vec<KeptLane>,
}

/// Where a payload lies, and in which lane.
struct PayloadPlace {
    start: NonNull<u8>,
    bytes: usize,
    lane: Option<u16>,
}

/// A remainder that is being read, with what was found in each lane.
#[derive(Default)]
struct Reading {
    remainder: Remainder,
    lanes: BTreeMap<u16, (KeptLane, BlocksLeft)>,
}

impl Reading {
    fn lane(&mut self, facts: &LaneFacts, incarnation: u64) -> &mut (KeptLane, BlocksLeft) {
        let LaneFacts { slot, source, geometry, repeats } = *facts;
        self.lanes.entry(slot).or_insert_with(|| {
            let lane = KeptLane { slot, geometry, source, incarnation, repeats, waiting: Vec::new() };
            (lane, BlocksLeft::of(&geometry))
        })
    }

    /// Where a payload lies; none for what cannot lie there.
    fn place(&mut self, objects: &Objects, lanes: &InLanes, kept: &Kept) -> Result<Option<PayloadPlace>, MailError> {
        match &kept.payload {
            PayloadAt::Segment { offset, bytes } => {
                let (start, bytes) = (objects.bytes(*offset, *bytes), *bytes);
                Ok(Some(PayloadPlace { start, bytes, lane: None }))
            }
            PayloadAt::Lane(place) => {
                let (start, bytes, facts) = lanes.place(place, kept.arrival_at)?;
                let (_, left) = self.lane(&facts, kept.id.incarnation);
                Ok(left.take(bytes).then_some(PayloadPlace { start, bytes, lane: Some(facts.slot) }))
            }
        }
    }
}

impl Remainder {
    /// What there is in a segment whose lock the caller has, and in its lanes, which are closed.
    pub(super) fn of(objects: &Objects, lanes: &InLanes) -> Result<Self, MailError> {
        let mut reading = Self::read(objects, lanes, |_| Ok::<_, MailError>(()))?;
        for facts in lanes.facts() {
            // With the life of the source, which the first message says.
            let (mut waiting, mut left) = (Vec::new(), BlocksLeft::of(&facts.geometry));
            let left = reading.lanes.get_mut(&facts.slot).map_or(&mut left, |(_, left)| left);
            lanes.waiting(objects.space(), facts.slot, left, |id, key, payload| {
                waiting.push(WaitingMail { id, key: key.to_owned(), payload });
            })?;
            if let Some(first) = waiting.first() {
                let incarnation = first.id.incarnation;
                reading.lane(&facts, incarnation).0.waiting = waiting;
            }
        }
        Ok(reading.in_few_lanes().into_remainder())
    }

    /// What has a position in a process that goes on, with payloads of so many bytes in all at most.
    pub(super) fn of_running(objects: &Objects, lanes: &InLanes, limit_bytes: u64) -> Result<Self, HeldCutError> {
        let mut total_bytes = 0;
        let reading = Self::read(objects, lanes, |bytes| {
            total_bytes += bytes as u64;
            if total_bytes > limit_bytes {
                return Err(HeldCutError::MailTooLarge { bytes: total_bytes, limit_bytes });
            }
            Ok(())
        })?;
        Ok(reading.into_remainder())
    }

    /// All but what waits in lanes. `admit` says whether so many more bytes may be copied.
    fn read<E: From<StateError> + From<MailError>>(
        objects: &Objects,
        lanes: &InLanes,
        mut admit: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Reading, E> {
        let space = objects.space();
        let mut reading = Reading::default();
        reading.remainder.last_sequence = space.words.load_acquire(MAIL_SEQUENCE);
        lasting::messages(space, |source, key, kept| -> Result<(), E> {
            let key = String::from_utf8(key);
            let key = key.map_err(|_| StateError::corrupt("key of a queue", kept.arrival_at))?;
            let Some(place) = reading.place(objects, lanes, &kept)? else { return Ok(()) };
            let PayloadPlace { start, bytes, lane } = place;
            admit(bytes)?;
            let mut payload = vec![0; bytes];
            // SAFETY: who says the place has checked that it is inside the segment, or inside the arena of a lane that is mapped.
            unsafe { copy::from_shared(start, &mut payload) };
            let message = KeptMessage { source, key, id: kept.id, payload };
            let (arrival, is_redelivered) = (kept.arrival, kept.is_redelivered);
            reading.remainder.mail.push(KeptMail { arrival, is_redelivered, lane, message });
            Ok(())
        })?;
        let remainder = &mut reading.remainder;
        remainder.mail.sort_unstable_by_key(|mail| mail.arrival);
        lasting::sources(space, |address, source| remainder.sources.push((address, source)))?;
        remainder.calls = keyed_calls::order(space)?;
        Ok(reading)
    }

    /// The same without objects, as what a log goes on from at this position. A process that is logged has no lanes: what waits in
    /// them arrives now, one lane after another, as its receiver would have taken it.
    ///
    /// # Errors
    /// [`ReplayError`] for a message that cannot be one.
    pub fn into_contents(self, position: u64) -> Result<Contents, ReplayError> {
        let mut replay = Replay::new(Contents {
            position,
            messages: self.mail.into_iter().map(|mail| (mail.arrival, mail.message)).collect(),
            sources: self.sources.into_iter().collect(),
            ..Contents::default()
        });
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for KeptLane { source, repeats, waiting, .. } in self.lanes {
            for WaitingMail { id, key, payload } in waiting {
                let Contents { position, sources, .. } = replay.contents();
                let known = sources.get(&source.to_bytes()).filter(|_| repeats);
                if known.is_some_and(|known| known.knows(id)) {
                    continue;
                }
                let position = position.saturating_add(1);
                let key = Key::new(&key).map_err(|_| ReplayError::Missing { position, what: "a key" })?;
                let (payload, filtered_at_s) = (RecordBytes::Here(&payload), repeats.then_some(now_s));
                replay.apply(&Record::Arrived { position, source, id, key, filtered_at_s, payload })?;
            }
        }
        Ok(replay.into_contents())
    }
}

impl Reading {
    /// Lanes of one source are one lane, as far as it has room: what waits takes no more of them than it needs, however often the
    /// process has slept meanwhile.
    fn in_few_lanes(mut self) -> Self {
        let mut few: BTreeMap<u16, (KeptLane, BlocksLeft)> = BTreeMap::new();
        for (slot, (lane, left)) in std::mem::take(&mut self.lanes) {
            let joined = few.values_mut().find_map(|(other, other_left)| {
                let count = other.waiting.len() + lane.waiting.len();
                let left = left.beside(other_left, &lane.geometry)?;
                (other.is_like(&lane) && count <= lane.geometry.entries as usize).then_some((other, other_left, left))
            });
            let Some((other, other_left, left)) = joined else {
                few.insert(slot, (lane, left));
                continue;
            };
            *other_left = left;
            // As a receiver would take them, who looks for the lowest.
            other.waiting.extend(lane.waiting);
            other.waiting.sort_by_key(|mail| mail.id);
            let joined = Some(other.slot);
            let mail = self.remainder.mail.iter_mut();
            mail.filter(|mail| mail.lane == Some(slot)).for_each(|mail| mail.lane = joined);
        }
        Self { lanes: few, ..self }
    }

    fn into_remainder(self) -> Remainder {
        Remainder { lanes: self.lanes.into_values().map(|(lane, _)| lane).collect(), ..self.remainder }
    }
}
