//! What the server knows of a process beside its state, as it is kept in the snapshot's section of that name.
//!
//! It begins with a byte that says which version of this it is; the snapshot has a checksum over all of it.

use praas_protocol::limits::WORKERS_MAX;
use praas_protocol::{ProcessId, codec};
use serde::{Deserialize, Serialize};

use crate::idle_swap::check_idle_swap_ms;
use crate::limits::{GENERATIONS_SKIPPED, NUMBERS_SKIPPED};
use crate::process_ledger::LedgerRecord;

/// What [`Life::to_bytes`] writes.
const VERSION: u8 = 2;

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
    /// Whether it went on when this was written, and may have given out numbers that nothing stored knows of.
    goes_on: bool,
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
        }
    }

    /// The same of a process that goes on.
    pub(super) fn that_goes_on(self) -> Self {
        Self { goes_on: true, ..self }
    }

    /// A position of the process, or the number of a message, when it is back: behind all that it may have given out.
    pub(super) fn number_behind(&self, stored: u64) -> u64 {
        if self.goes_on { stored.saturating_add(NUMBERS_SKIPPED) } else { stored }
    }

    /// What the ledger of the process says when it is back: claimed by `epoch`, and whole or not yet.
    pub(super) fn record(&self, epoch: u64, is_restoring: bool) -> LedgerRecord {
        let mut generations = [0; WORKERS_MAX];
        let skipped = if self.goes_on { GENERATIONS_SKIPPED } else { 0 };
        let later = |generation: &u16| generation.wrapping_add(skipped);
        generations.iter_mut().zip(&self.generations).for_each(|(room, generation)| *room = later(generation));
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
        let record = back.record(4, false);
        assert_eq!((record.generations[3], record.epoch, record.is_restoring), (7, 4, false));
        assert_eq!(record, life.record(4, false));
    }

    #[test]
    fn an_idle_time_that_nobody_can_have_set_is_refused() {
        let impossible = Life { idle_swap_ms: Some(1), ..life() };
        let error = Life::from_bytes(&impossible.to_bytes().unwrap()).unwrap_err();
        assert!(error.contains("an idle time of 1 ms"), "{error}");
    }

    #[test]
    fn a_process_that_went_on_gives_out_nothing_twice() {
        let (life, went_on) = (life(), life().that_goes_on());
        assert_eq!(life.number_behind(5), 5);
        assert_eq!(went_on.number_behind(5), 5 + NUMBERS_SKIPPED);
        assert_eq!(went_on.number_behind(u64::MAX), u64::MAX);
        let back = Life::from_bytes(&went_on.to_bytes().unwrap()).unwrap();
        assert_eq!(back.record(1, false).generations[3], 7 + GENERATIONS_SKIPPED);
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
