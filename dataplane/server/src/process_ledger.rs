//! The ledger of a process: what the next server must know to bring the process back after this one was killed.
//!
//! One page of a sealed memfd, held by the server and the keeper, never given to anybody else. It has two slots, which are
//! written in turn, each with a sequence number and a checksum: a server that dies at any instant leaves at least the slot
//! before the last one whole. It is written by one system call and read once, at recovery, so nothing of it is mapped.
//!
//! A slot, all numbers little endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `praasled` |
//! | 8 | 4 | version of this layout |
//! | 12 | 4 | 1 while the process lives, 2 when it was ended on purpose |
//! | 16 | 8 | sequence number of this state of the ledger; the slot with the higher one counts |
//! | 24 | 8 | incarnation of the process |
//! | 32 | 8 | bytes of its objects segment |
//! | 40 | 4 | uid of its workers; 2³² − 1 for none of their own |
//! | 44 | 2 | bytes of its id |
//! | 48 | 127 | its id, `APPLICATION/PROCESS`, then zeros |
//! | 176 | 128 | generation of the last worker of each index, 2 bytes each |
//! | 304 | 8 | epoch by which this server claimed what is stored of it; 0 if nothing was when it began |
//! | 312 | 8 | 1 while something of its state is in storage only, else 0 |
//! | 320 | 8 | FNV-1a of bytes 0 to 319 |
//!
//! Invariants:
//! 1. A generation stands here before a worker of it is started, so that no tag repeats in the life of a process.
//! 2. A process whose ledger says that it was ended never comes back.
//! 3. That something is in storage only stands here before a worker starts, and no longer once all of it is in the segment.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use praas_protocol::ProcessId;
use praas_protocol::limits::{
    PROCESS_ID_BYTES_MAX, STATE_BYTES_MAX_LEAST, STATE_BYTES_MAX_MOST, STATE_BYTES_UNIT, WORKERS_MAX,
};
use rustix::fs::{MemfdFlags, SealFlags};

const MAGIC: [u8; 8] = *b"praasled";
const VERSION: u32 = 2;
const LIVES: u32 = 1;
const ENDED: u32 = 2;
const NO_USER: u32 = u32::MAX;

const ID_AT: usize = 48;
const GENERATIONS_AT: usize = 176;
const EPOCH_AT: usize = GENERATIONS_AT + 2 * WORKERS_MAX;
const RESTORING_AT: usize = EPOCH_AT + 8;
const CHECKSUM_AT: usize = RESTORING_AT + 8;

/// Bytes of a slot that are written.
const SLOT_BYTES: usize = CHECKSUM_AT + 8;

/// Distance of the two slots.
const SLOT_STRIDE: u64 = 512;

/// Bytes of the memfd.
const LEDGER_BYTES: u64 = 4096;

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

const _: () = assert!(ID_AT + PROCESS_ID_BYTES_MAX <= GENERATIONS_AT && SLOT_BYTES as u64 <= SLOT_STRIDE);
const _: () = assert!(SLOT_STRIDE * 2 <= LEDGER_BYTES);

/// Why a ledger cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// It is no ledger at all.
    #[error("it is no sealed segment of {LEDGER_BYTES} bytes")]
    Foreign,
    /// The system refused to read it.
    #[error("it cannot be read: {0}")]
    System(#[from] io::Error),
    /// It was written by another release.
    #[error("it has version {actual}, this server understands {VERSION}: start the release that wrote it")]
    Version {
        /// What stands there.
        actual: u32,
    },
    /// Neither slot holds together.
    #[error("both of its slots are damaged: {first}; {second}")]
    Damaged {
        /// What is wrong with the first slot.
        first: &'static str,
        /// What is wrong with the second.
        second: &'static str,
    },
}

/// What a ledger says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LedgerRecord {
    pub(crate) id: ProcessId,
    /// Higher than that of all processes before it: when it was created, in nanoseconds since 1970.
    pub(crate) incarnation: u64,
    /// Bytes of its objects segment.
    pub(crate) state_bytes: u64,
    /// Uid of its workers, where they have one of their own.
    pub(crate) user: Option<u32>,
    /// Generation of the last worker of each index.
    pub(crate) generations: [u16; WORKERS_MAX],
    /// By which epoch this server claimed what is stored of it; 0 if nothing was when it began.
    pub(crate) epoch: u64,
    /// Whether something of its state is in storage only.
    pub(crate) is_restoring: bool,
    /// Whether it was ended on purpose.
    pub(crate) ended: bool,
}

impl LedgerRecord {
    /// Of a process that is new, with so many bytes of state: nothing is stored of it, and it had no workers.
    pub(crate) fn new(id: ProcessId, incarnation: u64, state_bytes: u64, user: Option<u32>) -> Self {
        let (generations, epoch) = ([0; WORKERS_MAX], 0);
        Self { id, incarnation, state_bytes, user, generations, epoch, is_restoring: false, ended: false }
    }
}

/// The ledger of one process.
#[derive(Debug)]
pub(crate) struct ProcessLedger {
    fd: OwnedFd,
    record: LedgerRecord,
    sequence: u64,
}

impl ProcessLedger {
    /// A new one.
    pub(crate) fn create(record: LedgerRecord) -> io::Result<Self> {
        let fd = rustix::fs::memfd_create(c"praas-ledger", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, LEDGER_BYTES)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS)?;
        let mut ledger = Self { fd, record: record.clone(), sequence: 0 };
        ledger.write(record)?;
        Ok(ledger)
    }

    /// The one behind a descriptor that an earlier server left.
    pub(crate) fn open(fd: OwnedFd) -> Result<Self, LedgerError> {
        // Only memfds have seals.
        let sealed = rustix::fs::fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(SEALS));
        let size = rustix::fs::fstat(&fd).map_err(io::Error::from)?.st_size;
        if !sealed || u64::try_from(size) != Ok(LEDGER_BYTES) {
            return Err(LedgerError::Foreign);
        }
        let [first, second] = [0, 1].map(|slot| read_slot(fd.as_fd(), slot));
        let (sequence, record) = match (first?, second?) {
            (Slot::Whole(first), Slot::Whole(second)) => {
                if first.0 > second.0 {
                    *first
                } else {
                    *second
                }
            }
            (Slot::Whole(one), _) | (_, Slot::Whole(one)) => *one,
            (Slot::OfVersion(actual), _) | (_, Slot::OfVersion(actual)) => return Err(LedgerError::Version { actual }),
            (Slot::Damaged(first), Slot::Damaged(second)) => return Err(LedgerError::Damaged { first, second }),
        };
        Ok(Self { fd, record, sequence })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn record(&self) -> &LedgerRecord {
        &self.record
    }

    /// The generation of the next worker with this index. It stands in the ledger before anybody has it.
    pub(crate) fn next_generation(&mut self, index: u8) -> io::Result<u16> {
        let mut record = self.record.clone();
        let generation = &mut record.generations[usize::from(index)];
        *generation = generation.wrapping_add(1).max(1);
        let next = *generation;
        self.write(record)?;
        Ok(next)
    }

    /// Says which uid its workers have from now on.
    pub(crate) fn set_user(&mut self, user: Option<u32>) -> io::Result<()> {
        self.write(LedgerRecord { user, ..self.record.clone() })
    }

    /// Says that all of its state is in its segment.
    pub(crate) fn set_restored(&mut self) -> io::Result<()> {
        self.write(LedgerRecord { is_restoring: false, ..self.record.clone() })
    }

    /// Says that the process was ended: no server brings it back.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.write(LedgerRecord { ended: true, ..self.record.clone() })
    }

    /// Writes into the slot that does not count now.
    fn write(&mut self, record: LedgerRecord) -> io::Result<()> {
        let sequence = self.sequence.wrapping_add(1);
        let bytes = encode(&record, sequence);
        let written = rustix::io::pwrite(&self.fd, &bytes, (sequence % 2) * SLOT_STRIDE)?;
        if written != bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        (self.record, self.sequence) = (record, sequence);
        Ok(())
    }
}

/// What was found in a slot.
enum Slot {
    Whole(Box<(u64, LedgerRecord)>),
    OfVersion(u32),
    Damaged(&'static str),
}

fn read_slot(fd: BorrowedFd<'_>, slot: u64) -> io::Result<Slot> {
    let mut bytes = [0; SLOT_BYTES];
    let read = rustix::io::pread(fd, &mut bytes, slot * SLOT_STRIDE)?;
    Ok(if read == SLOT_BYTES { decode(&bytes) } else { Slot::Damaged("it is cut short") })
}

fn encode(record: &LedgerRecord, sequence: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    let id = record.id.to_string();
    put(0, &MAGIC);
    put(8, &VERSION.to_le_bytes());
    put(12, &if record.ended { ENDED } else { LIVES }.to_le_bytes());
    put(16, &sequence.to_le_bytes());
    put(24, &record.incarnation.to_le_bytes());
    put(32, &record.state_bytes.to_le_bytes());
    put(40, &record.user.unwrap_or(NO_USER).to_le_bytes());
    put(44, &u16::try_from(id.len()).unwrap_or(u16::MAX).to_le_bytes());
    put(ID_AT, id.as_bytes());
    for (index, generation) in record.generations.iter().enumerate() {
        put(GENERATIONS_AT + 2 * index, &generation.to_le_bytes());
    }
    put(EPOCH_AT, &record.epoch.to_le_bytes());
    put(RESTORING_AT, &u64::from(record.is_restoring).to_le_bytes());
    let checksum = checksum(&bytes[..CHECKSUM_AT]);
    bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Slot {
    let four = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let eight = |at: usize| u64::from(four(at)) | u64::from(four(at + 4)) << 32;
    let two = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    if bytes[..8] != MAGIC {
        return Slot::Damaged("it does not start as one does");
    }
    if eight(CHECKSUM_AT) != checksum(&bytes[..CHECKSUM_AT]) {
        return Slot::Damaged("its checksum is wrong");
    }
    if four(8) != VERSION {
        return Slot::OfVersion(four(8));
    }
    let id = bytes.get(ID_AT..ID_AT + usize::from(two(44)).min(PROCESS_ID_BYTES_MAX));
    let id = id.and_then(|id| std::str::from_utf8(id).ok()).and_then(|id| id.parse().ok());
    let Some(id) = id else { return Slot::Damaged("it names no process") };
    let state_bytes = eight(32);
    let fits = (STATE_BYTES_MAX_LEAST..=STATE_BYTES_MAX_MOST).contains(&state_bytes);
    if !fits || !state_bytes.is_multiple_of(STATE_BYTES_UNIT) {
        return Slot::Damaged("its size of the state is outside the limits");
    }
    let ended = match four(12) {
        LIVES => false,
        ENDED => true,
        _ => return Slot::Damaged("it does not say whether the process lives"),
    };
    let is_restoring = match eight(RESTORING_AT) {
        0 => false,
        1 => true,
        _ => return Slot::Damaged("it does not say whether something is in storage only"),
    };
    let user = Some(four(40)).filter(|&user| user != NO_USER);
    let generations = std::array::from_fn(|index| two(GENERATIONS_AT + 2 * index));
    Slot::Whole(Box::new((
        eight(16),
        LedgerRecord {
            id,
            incarnation: eight(24),
            state_bytes,
            user,
            generations,
            epoch: eight(EPOCH_AT),
            is_restoring,
            ended,
        },
    )))
}

/// FNV-1a: it finds a slot whose writing was cut short; nobody but a server can write one on purpose.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> LedgerRecord {
        LedgerRecord {
            id: "hello/alice".parse().unwrap(),
            incarnation: 0x0123_4567_89ab_cdef,
            state_bytes: 64 << 20,
            user: Some(200_000),
            generations: [0; WORKERS_MAX],
            epoch: 7,
            is_restoring: true,
            ended: false,
        }
    }

    fn reopened(ledger: &ProcessLedger) -> Result<LedgerRecord, LedgerError> {
        ProcessLedger::open(ledger.fd().try_clone_to_owned().unwrap()).map(|ledger| ledger.record().clone())
    }

    fn spoil(ledger: &ProcessLedger, at: u64, bytes: &[u8]) {
        assert_eq!(rustix::io::pwrite(ledger.fd(), bytes, at).unwrap(), bytes.len());
    }

    #[test]
    fn the_next_server_reads_what_the_last_one_wrote() {
        let mut ledger = ProcessLedger::create(record()).unwrap();
        assert_eq!(reopened(&ledger).unwrap(), record());
        for expected in 1..=5 {
            assert_eq!(ledger.next_generation(63).unwrap(), expected);
            assert_eq!(reopened(&ledger).unwrap().generations[63], expected);
        }
        ledger.set_restored().unwrap();
        assert_eq!((reopened(&ledger).unwrap().is_restoring, reopened(&ledger).unwrap().epoch), (false, 7));
        ledger.set_user(None).unwrap();
        assert_eq!(reopened(&ledger).unwrap().user, None);
        ledger.end().unwrap();
        assert!(reopened(&ledger).unwrap().ended);
        let longest = format!("{}/{}", "a".repeat(63), "b".repeat(63)).parse().unwrap();
        let long = LedgerRecord { id: longest, ..record() };
        assert_eq!(reopened(&ProcessLedger::create(long.clone()).unwrap()).unwrap(), long);
    }

    #[test]
    fn generations_are_never_zero_and_go_round() {
        let mut full = record();
        full.generations[0] = u16::MAX;
        assert_eq!(ProcessLedger::create(full).unwrap().next_generation(0).unwrap(), 1);
    }

    #[test]
    fn a_server_killed_at_any_byte_of_a_write_leaves_the_state_before_or_after_it() {
        let mut ledger = ProcessLedger::create(record()).unwrap();
        ledger.next_generation(0).unwrap();
        let before = ledger.record().clone();
        let (next_slot, old) = ((ledger.sequence + 1) % 2 * SLOT_STRIDE, encode(&record(), 1));
        let after = LedgerRecord { ended: true, ..before.clone() };
        let new = encode(&after, ledger.sequence + 1);
        for cut in 0..=SLOT_BYTES {
            spoil(&ledger, next_slot, &old);
            spoil(&ledger, next_slot, &new[..cut]);
            let read = reopened(&ledger).unwrap();
            assert!(read == before || read == after, "cut at {cut}");
            assert!(cut < SLOT_BYTES || read == after);
        }
    }

    #[test]
    fn junk_is_refused_with_the_reason() {
        let mut ledger = ProcessLedger::create(record()).unwrap();
        for at in 0..SLOT_BYTES as u64 {
            // One damaged slot does not matter, whichever byte it is.
            spoil(&ledger, 0, &[at.to_le_bytes()[0]]);
        }
        ledger.next_generation(1).unwrap();
        ledger.next_generation(1).unwrap();
        for at in 0..SLOT_BYTES as u64 {
            let mut bytes = encode(ledger.record(), ledger.sequence);
            bytes[usize::try_from(at).unwrap()] ^= 0x40;
            for slot in 0..2 {
                spoil(&ledger, slot * SLOT_STRIDE, &bytes);
            }
            assert!(matches!(reopened(&ledger), Err(LedgerError::Damaged { .. })), "byte {at}");
        }
        spoil(&ledger, 0, &[0xff; 4096]);
        assert!(matches!(reopened(&ledger), Err(LedgerError::Damaged { .. })));
    }

    #[test]
    fn sizes_ids_and_versions_are_checked_even_where_the_checksum_is_right() {
        let ledger = ProcessLedger::create(record()).unwrap();
        let sealed = |change: &dyn Fn(&mut [u8; SLOT_BYTES])| {
            let mut bytes = encode(&record(), 9);
            change(&mut bytes);
            let sum = checksum(&bytes[..CHECKSUM_AT]);
            bytes[CHECKSUM_AT..].copy_from_slice(&sum.to_le_bytes());
            spoil(&ledger, 0, &bytes);
            spoil(&ledger, SLOT_STRIDE, &bytes);
            reopened(&ledger)
        };
        assert!(sealed(&|_| ()).is_ok());
        assert!(matches!(sealed(&|bytes| bytes[8] = 9), Err(LedgerError::Version { actual: 9 })));
        for at in [12, 32, 39, 44, 45, ID_AT, ID_AT + 5, RESTORING_AT] {
            assert!(matches!(sealed(&|bytes| bytes[at] = 0xff), Err(LedgerError::Damaged { .. })), "byte {at}");
        }
    }

    #[test]
    fn other_files_are_no_ledgers() {
        let (pipe, _write) = rustix::pipe::pipe().unwrap();
        assert!(matches!(ProcessLedger::open(pipe), Err(LedgerError::Foreign)));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(ProcessLedger::open(null.into()), Err(LedgerError::Foreign)));
        let small = rustix::fs::memfd_create(c"small", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::fcntl_add_seals(&small, SEALS).unwrap();
        assert!(matches!(ProcessLedger::open(small), Err(LedgerError::Foreign)));
    }
}
