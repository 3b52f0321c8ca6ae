//! What the server knows of a process beside its state, as it is kept in the snapshot's section of that name, and in the note of
//! its log.
//!
//! It begins with a byte that says which version of this it is; the snapshot has a checksum over all of it, as the log has.
//!
//! *Nothing is given out twice.* A process counts: the numbers of the messages that it sends, its positions (versions of objects are
//! positions), the generations of its workers. Where it is made of what is stored, what is stored may be older than what it gave
//! out last: of a *stay* in memory that ended with a crash nothing may be known. How many stays that may have been is known without
//! any clock: whoever brings it back raises the epoch of its manifest first, conditionally and durably, so it is the difference
//! between that epoch and the one by which this was written ([`Life::stays_until`]). For each of them everything is skipped that one stay
//! may have given out. Of a process that was never stored, and has a log alone, recoveries are counted in the directory of the
//! log instead (`praas_storage::log::count_recovery`), before anybody has the memory.
//!
//! 1. One that was written asleep, and whose server has heard of that and given its memory up, gave out no positions and no workers
//!    afterwards in that stay. Only that server knows: where it wakes the process none are skipped, and versions go on one by one.
//!    Another server cannot tell that from a sleep that was published and never heard of, after which the process went on.
//! 2. The numbers of messages are skipped at each waking: a sleep that failed may have been published all the same, and the process
//!    went on. A receiver would drop what it sends as repeated, for good.
//! 3. A position that is made of a log is never skipped: the log goes on from there, and nobody was told of what it lacks.

use praas_protocol::limits::WORKERS_MAX;
use praas_protocol::{ProcessId, codec};
use praas_storage::Folder;
use serde::{Deserialize, Serialize};

use crate::idle_swap::check_idle_swap_ms;
use crate::limits::{FIRST_EPOCH, GENERATIONS_SKIPPED, NUMBERS_SKIPPED};
use crate::process_ledger::LedgerRecord;

/// What [`Life::to_bytes`] writes.
const VERSION: u8 = 3;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Life {
    process: ProcessId,
    incarnation: u64,
    state_bytes: u64,
    user: Option<u32>,
    /// Of the last worker of each index: no tag comes twice in the life of a process.
    generations: Vec<u16>,
    /// What whoever created it wanted.
    pub(super) idle_swap_ms: Option<u64>,
    /// Calls that its workers say they answered.
    pub(super) calls: u64,
    /// When the next message is due that it has asked to get at a time; milliseconds since 1970.
    pub(super) next_wake_unix_ms: Option<u64>,
    /// Whether it went on when this was written: it may have given out more in that stay.
    goes_on: bool,
    /// The epoch of the manifest that this was written for.
    pub(super) epoch: u64,
    /// In the note of a log: the position of the snapshot that the log follows, 0 without one. The log may begin later, when
    /// positions were skipped in between.
    pub(super) log_follows: u64,
}

/// Stays of a process in memory of which nothing may be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stays {
    /// In which it may have sent messages.
    sending: u64,
    /// In which it may have given out anything else.
    lost: u64,
}

impl Life {
    pub(super) fn new(record: &LedgerRecord, idle_swap_ms: Option<u64>, calls: u64) -> Self {
        let LedgerRecord { id, incarnation, state_bytes, user, generations, .. } = record;
        let (generations, user) = (generations.to_vec(), *user);
        Self {
            process: *id,
            incarnation: *incarnation,
            state_bytes: *state_bytes,
            user,
            generations,
            idle_swap_ms,
            calls,
            next_wake_unix_ms: None,
            goes_on: false,
            epoch: FIRST_EPOCH,
            log_follows: 0,
        }
    }

    /// The same of a process that goes on.
    pub(super) fn that_goes_on(self) -> Self {
        Self { goes_on: true, ..self }
    }

    /// Whether the process sleeps if its manifest has this epoch: else somebody has woken it since, or it went on.
    pub(super) fn sleeps(&self, published: u64) -> bool {
        !self.goes_on && self.epoch == published
    }

    /// Those since this was written, for who has claimed its manifest with a higher epoch. `has_slept`: it is known that its memory was
    /// given up when this was written.
    pub(super) fn stays_until(&self, claimed: u64, has_slept: bool) -> Stays {
        let stays = claimed.saturating_sub(self.epoch);
        let ended = u64::from(has_slept && !self.goes_on);
        Stays { sending: stays, lost: stays.saturating_sub(ended) }
    }

    /// Whose it is, if it is of this life; the error says of which it is.
    pub(super) fn check_folder(&self, folder: &Folder, what: &str) -> Result<(), String> {
        if (self.process, self.incarnation) == (folder.process, folder.incarnation) {
            return Ok(());
        }
        Err(format!("its {what} is that of {} {:016x}", self.process, self.incarnation))
    }

    /// Bytes of the segment of its state.
    pub(super) fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// What the ledger of the process says when it is back: claimed by `epoch`, and whole or not yet.
    pub(super) fn record(&self, epoch: u64, stays: Stays, is_restoring: bool) -> LedgerRecord {
        let mut generations = [0; WORKERS_MAX];
        // Generations go round at 2^16, so the number of stays may.
        let [low, high, ..] = stays.lost.to_le_bytes();
        let skipped = GENERATIONS_SKIPPED.wrapping_mul(u16::from_le_bytes([low, high]));
        let behind = |generation: &u16| generation.wrapping_add(skipped);
        generations.iter_mut().zip(&self.generations).for_each(|(room, generation)| *room = behind(generation));
        LedgerRecord {
            id: self.process,
            incarnation: self.incarnation,
            state_bytes: self.state_bytes,
            user: self.user,
            generations,
            epoch,
            is_restoring,
            ended: false,
        }
    }

    /// As bytes; the error says why not.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let mut bytes = vec![VERSION];
        bytes.extend(codec::encode(self).map_err(|error| error.to_string())?);
        Ok(bytes)
    }

    /// What such bytes say; the error says what is wrong with them.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => {
                let life: Self = codec::decode(rest).map_err(|error| format!("its ledger: {error}"))?;
                if life.generations.len() > WORKERS_MAX {
                    return Err(format!(
                        "its ledger has {} workers, {WORKERS_MAX} are the most",
                        life.generations.len()
                    ));
                }
                check_idle_swap_ms(life.idle_swap_ms).map_err(|error| format!("its ledger: {error}"))?;
                Ok(life)
            }
            Some((version, _)) => Err(format!(
                "its ledger has version {version}, this server understands {VERSION}: start the release that wrote it"
            )),
            None => Err("its ledger is empty".into()),
        }
    }
}

impl Stays {
    /// Those of a process that has a log alone and comes back for the `recoveries`-th time.
    pub(super) fn of_log(recoveries: u64) -> Self {
        Self { sending: recoveries, lost: recoveries }
    }

    /// The number that the last message may have had, where `stored` is the last one known. The error says that there are no more.
    pub(super) fn sequence(self, stored: u64) -> Result<u64, String> {
        behind(stored, self.sending, "numbers for messages")
    }

    /// The last position that may have been given out; likewise.
    pub(super) fn position(self, stored: u64) -> Result<u64, String> {
        behind(stored, self.lost, "positions")
    }
}

/// A number behind all that so many stays may have given out after `stored`, with room for the stay that begins.
fn behind(stored: u64, stays: u64, what: &str) -> Result<u64, String> {
    let number = stays.checked_mul(NUMBERS_SKIPPED).and_then(|skipped| stored.checked_add(skipped));
    number.filter(|number| *number <= u64::MAX - NUMBERS_SKIPPED).ok_or_else(|| {
        format!("it has used up its {what}: {stored}, and {stays} times {NUMBERS_SKIPPED} to skip; stop it and create it anew")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life() -> Life {
        let mut generations = [0; WORKERS_MAX];
        generations[3] = 7;
        let id = "notes/alice".parse().unwrap();
        let record = LedgerRecord {
            id,
            incarnation: 9,
            state_bytes: 1 << 26,
            user: Some(61_007),
            generations,
            epoch: 3,
            is_restoring: true,
            ended: false,
        };
        Life::new(&record, Some(500), 12)
    }

    #[test]
    fn a_life_is_read_as_it_was_written() {
        let life = life();
        let back = Life::from_bytes(&life.to_bytes().unwrap()).unwrap();
        assert_eq!(back, life);
        let record = back.record(4, back.stays_until(2, true), false);
        assert_eq!((record.generations[3], record.epoch, record.is_restoring), (7, 4, false));
        assert_eq!(record, life.record(4, life.stays_until(2, true), false));
    }

    #[test]
    fn an_idle_time_that_nobody_can_have_set_is_refused() {
        let impossible = Life { idle_swap_ms: Some(1), ..life() };
        let error = Life::from_bytes(&impossible.to_bytes().unwrap()).unwrap_err();
        assert!(error.contains("an idle time of 1 ms"), "{error}");
    }

    #[test]
    fn a_process_that_went_on_gives_out_nothing_twice() {
        let written = |life: Life| Life { epoch: 5, ..life };
        let (slept, went_on) = (written(life()), written(life().that_goes_on()));
        let numbers = |life: &Life, claimed: u64, has_slept: bool| {
            let stays = Life::from_bytes(&life.to_bytes().unwrap()).unwrap().stays_until(claimed, has_slept);
            let generation = life.record(claimed, stays, false).generations[3];
            (stays.sequence(9).unwrap() - 9, stays.position(9).unwrap() - 9, generation - 7)
        };
        let skipped = |messages: u64, others: u64| {
            let generations = u16::try_from(others).unwrap() * GENERATIONS_SKIPPED;
            (messages * NUMBERS_SKIPPED, others * NUMBERS_SKIPPED, generations)
        };
        assert_eq!(numbers(&slept, 6, true), skipped(1, 0), "the first waking of one that slept");
        assert_eq!(numbers(&slept, 7, true), skipped(2, 1), "the second, after one that failed");
        assert_eq!(
            numbers(&slept, 6, false),
            skipped(1, 1),
            "it may have gone on, its server not having heard of its sleep"
        );
        assert_eq!(numbers(&went_on, 6, true), skipped(1, 1));
        assert_eq!(numbers(&went_on, 8, false), skipped(3, 3), "after crashes without a checkpoint in between");
    }

    #[test]
    fn numbers_that_are_used_up_are_told_and_not_given_out_again() {
        let stays = Stays::of_log(3);
        assert_eq!(stays.sequence(0).unwrap(), 3 * NUMBERS_SKIPPED);
        let error = stays.position(u64::MAX - 3 * NUMBERS_SKIPPED).unwrap_err();
        assert!(error.contains("stop it and create it anew"), "{error}");
        assert!(Stays::of_log(u64::MAX).sequence(1).is_err());
    }

    #[test]
    fn bytes_of_another_version_or_none_are_refused_with_what_to_do() {
        let mut bytes = life().to_bytes().unwrap();
        bytes[0] = 9;
        assert!(Life::from_bytes(&bytes).unwrap_err().contains("start the release"));
        assert!(Life::from_bytes(&[]).is_err());
        bytes[0] = VERSION;
        for length in 1..bytes.len() {
            assert!(Life::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}
