//! Reading and writing files with several operations in flight: io_uring where the host grants it, plain calls elsewhere.
//!
//! A call here ends when the last of its operations has: the kernel never has memory of a caller that got an answer. So
//! buffers can be borrowed, and nothing has to be cancelled. How long a call takes is up to the disk; the kernel gives a
//! request up after its own time (30 s for most disks), and then it fails here.
//!
//! Invariants:
//! 1. While an operation is in flight, the borrow of its memory and of its file lasts.
//! 2. After the first failure nothing more is started, what is in flight is waited for, and that failure is the answer.
//! 3. Bytes count as read only up to where the file ended, in whatever order the pieces came.
//!
//! What must never happen: a return with an operation in flight. When the kernel no longer lets us wait for one, the program
//! is aborted, because the memory that it writes to would go to somebody else.

use std::fmt;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};

use ::io_uring::types::Fd;
use ::io_uring::{IoUring, opcode, squeue};
use rustix::io::{Errno, ReadWriteFlags, pread, pwrite, pwritev2, retry_on_intr};

/// Bytes of one operation: as large as a disk likes them, so small that several of a chunk are in flight.
pub const PIECE_BYTES: usize = 1 << 20;

/// Operations of one call in flight: two keep a local disk busy, more pay on disks behind a network.
pub const IN_FLIGHT_MAX: usize = 8;

#[allow(clippy::cast_possible_truncation, reason = "a handful")]
const ENTRIES: u32 = IN_FLIGHT_MAX as u32;

/// One ring, for one caller at a time.
pub struct DiskRing {
    way: Way,
}

enum Way {
    Ring(Box<IoUring>),
    /// Why there is no ring, if one was tried.
    Calls(Option<Errno>),
}

/// Memory of the caller, for as long as its call lasts.
#[derive(Clone, Copy)]
enum Memory {
    From(*const u8),
    Into(*mut u8),
}

/// What one operation still has to move: bytes of the caller's memory from `start` on.
#[derive(Clone, Copy)]
struct Piece {
    start: usize,
    bytes: usize,
}

impl fmt::Debug for DiskRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("DiskRing").field("is_io_uring", &self.is_io_uring()).finish()
    }
}

impl DiskRing {
    /// A ring, or plain calls where the host refuses it.
    #[must_use]
    pub fn open() -> Self {
        match IoUring::builder().setup_coop_taskrun().dontfork().build(ENTRIES) {
            Ok(ring) if ring.params().is_feature_nodrop() => Self { way: Way::Ring(Box::new(ring)) },
            Ok(_) => Self { way: Way::Calls(Some(Errno::NOSYS)) },
            Err(error) => Self { way: Way::Calls(Some(Errno::from_io_error(&error).unwrap_or(Errno::NOSYS))) },
        }
    }

    /// Plain calls, whatever the host grants.
    #[must_use]
    pub fn of_calls() -> Self {
        Self { way: Way::Calls(None) }
    }

    /// Whether operations go through io_uring.
    #[must_use]
    pub fn is_io_uring(&self) -> bool {
        matches!(self.way, Way::Ring(_))
    }

    /// Why they do not, if the host refused.
    #[must_use]
    pub fn refusal(&self) -> Option<Errno> {
        match self.way {
            Way::Ring(_) => None,
            Way::Calls(refusal) => refusal,
        }
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The first failure; any part may have been written.
    pub fn write(&mut self, file: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        match &mut self.way {
            Way::Ring(ring) => {
                // SAFETY: `bytes` and `file` are borrowed until this returns, and `transfer` returns with nothing in flight.
                unsafe { transfer(ring, file, offset, Memory::From(bytes.as_ptr()), bytes.len()) }.map(drop)
            }
            Way::Calls(_) => write_by_calls(file, offset, bytes),
        }
    }

    /// Reads from `offset` on until `into` is full or the file ends. The bytes read.
    ///
    /// # Errors
    /// The first failure; `into` may have any bytes then.
    pub fn read(&mut self, file: BorrowedFd<'_>, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        match &mut self.way {
            Way::Ring(ring) => {
                // SAFETY: as in `write`; nobody else has `into`.
                unsafe { transfer(ring, file, offset, Memory::Into(into.as_mut_ptr()), into.len()) }
            }
            Way::Calls(_) => read_by_calls(file, offset, into),
        }
    }
}

/// Writes all of `bytes` at `offset`; they last when this returns. Says nothing of what else the file has.
///
/// One plain call, whatever the host grants: who writes a little and can do nothing until it lasts sleeps in it, and the disk's
/// interrupt wakes it. A ring ends such a write, or a sync behind a write, on a thread of the kernel's, which has to be woken
/// first: 182 against 207 µs, with a sync of its own 212 µs.
///
/// # Errors
/// The first failure; any part may have been written, and nothing counts as lasting.
pub fn write_through(file: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
    write_pieces(offset, bytes, |piece, offset| pwritev2(file, &[IoSlice::new(piece)], offset, ReadWriteFlags::DSYNC))
}

/// Moves `bytes` between the memory and the file in pieces, several in flight. How many until the end of the file.
///
/// # Safety
/// The memory has so many bytes, is the callers' alone if it is written to, and stays until this returns.
unsafe fn transfer(
    ring: &mut IoUring,
    file: BorrowedFd<'_>,
    offset: u64,
    memory: Memory,
    bytes: usize,
) -> Result<usize, Errno> {
    let mut slots: [Option<Piece>; IN_FLIGHT_MAX] = [None; IN_FLIGHT_MAX];
    let (mut next, mut end, mut failure) = (0, bytes, None);
    loop {
        for (slot, piece) in slots.iter_mut().enumerate() {
            if piece.is_none() && next < end && failure.is_none() {
                let started = Piece { start: next, bytes: (end - next).min(PIECE_BYTES) };
                next += started.bytes;
                *piece = Some(started);
                // SAFETY: the piece lies in the caller's memory, whose promise lasts until nothing is in flight.
                unsafe { push(ring, &entry_of(file, offset, memory, started, slot)) };
            }
        }
        if slots.iter().all(Option::is_none) {
            return failure.map_or(Ok(end), Err);
        }
        wait(ring, 1);
        let mut again = [None; IN_FLIGHT_MAX];
        for completed in ring.completion() {
            let slot = usize::try_from(completed.user_data()).unwrap_or(usize::MAX);
            let Some(piece) = slots.get_mut(slot).and_then(Option::take) else { continue };
            let rest = match outcome_of(completed.result()) {
                Err(Errno::INTR | Errno::AGAIN) => Some(piece),
                Err(errno) => {
                    failure = failure.or(Some(errno));
                    None
                }
                Ok(0) if matches!(memory, Memory::From(_)) => {
                    failure = failure.or(Some(Errno::NOSPC));
                    None
                }
                Ok(0) => {
                    end = end.min(piece.start);
                    None
                }
                Ok(moved) if moved < piece.bytes => {
                    Some(Piece { start: piece.start + moved, bytes: piece.bytes - moved })
                }
                Ok(_) => None,
            };
            again[slot] = rest.filter(|_| failure.is_none());
        }
        for (slot, rest) in again.into_iter().enumerate() {
            if let Some(rest) = rest {
                slots[slot] = Some(rest);
                // SAFETY: as above.
                unsafe { push(ring, &entry_of(file, offset, memory, rest, slot)) };
            }
        }
    }
}

fn entry_of(file: BorrowedFd<'_>, offset: u64, memory: Memory, piece: Piece, slot: usize) -> squeue::Entry {
    let (fd, offset) = (Fd(file.as_raw_fd()), offset + piece.start as u64);
    #[allow(clippy::cast_possible_truncation, reason = "a piece has a mebibyte at most")]
    let length = piece.bytes as u32;
    let entry = match memory {
        Memory::From(start) => opcode::Write::new(fd, start.wrapping_add(piece.start), length).offset(offset).build(),
        Memory::Into(start) => opcode::Read::new(fd, start.wrapping_add(piece.start), length).offset(offset).build(),
    };
    entry.user_data(slot as u64)
}

/// # Safety
/// Memory and file that the entry names stay until its completion.
unsafe fn push(ring: &mut IoUring, entry: &squeue::Entry) {
    // SAFETY: the caller's promise. There are as many entries as operations of a call at most, and every call empties the
    // queue before it returns.
    if unsafe { ring.submission().push(entry) }.is_err() {
        abort_because("its queue is full although nothing is in it");
    }
}

/// Hands over what was pushed and waits until at least `wanted` operations have ended.
fn wait(ring: &mut IoUring, wanted: usize) {
    loop {
        match ring.submit_and_wait(wanted) {
            Ok(_) => return,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::INTR) => {}
                // The kernel is short of memory for a moment: operations that did start still end.
                Some(Errno::AGAIN | Errno::BUSY) => std::thread::yield_now(),
                _ => abort_because(&error.to_string()),
            },
        }
    }
}

/// The only honest end when operations are in flight that cannot be waited for.
fn abort_because(reason: &str) -> ! {
    eprintln!(
        "praas: operations on a disk can no longer be waited for: {reason}; their memory is not safe, so this is the end"
    );
    std::process::abort()
}

fn outcome_of(result: i32) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result))
}

fn write_by_calls(file: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
    write_pieces(offset, bytes, |piece, offset| pwrite(file, piece, offset))
}

fn write_pieces(
    mut offset: u64,
    mut bytes: &[u8],
    mut write: impl FnMut(&[u8], u64) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        match retry_on_intr(|| write(piece, offset))? {
            0 => return Err(Errno::NOSPC),
            written => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
        }
    }
    Ok(())
}

fn read_by_calls(file: BorrowedFd<'_>, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < into.len() {
        let most = (filled + PIECE_BYTES).min(into.len());
        match retry_on_intr(|| pread(file, &mut into[filled..most], offset + filled as u64))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsFd;
    use std::path::PathBuf;

    use super::*;

    /// A file that is gone when the test ends.
    struct Scratch(PathBuf, File);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("praas-disk-ring-{name}-{}", std::process::id()));
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            Self(path, file)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn ways() -> Vec<DiskRing> {
        let ring = DiskRing::open();
        if let Some(refusal) = ring.refusal() {
            eprintln!("skipped io_uring: the host refuses it: {refusal}");
        }
        vec![ring, DiskRing::of_calls()]
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut word = 0x9e37_79b9_7f4a_7c15_u64;
        (0..bytes)
            .map(|_| {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                (word >> 56) as u8
            })
            .collect()
    }

    #[test]
    fn bytes_of_any_length_and_place_come_back_and_end_where_the_file_ends() {
        for (index, ring) in ways().iter_mut().enumerate() {
            let scratch = Scratch::new(&format!("bytes-{index}"));
            let written = noise(IN_FLIGHT_MAX * PIECE_BYTES * 2 + 12_345);
            ring.write(scratch.1.as_fd(), 77, &written).unwrap();
            let mut read = vec![0; written.len()];
            assert_eq!(ring.read(scratch.1.as_fd(), 77, &mut read), Ok(written.len()));
            assert_eq!(read, written);
            let mut beyond = vec![1; 3 * PIECE_BYTES];
            let start = written.len() - PIECE_BYTES - 5;
            let read = ring.read(scratch.1.as_fd(), 77 + start as u64, &mut beyond).unwrap();
            assert_eq!(&beyond[..read], &written[start..]);
            assert_eq!(ring.read(scratch.1.as_fd(), 1 << 40, &mut beyond), Ok(0));
            assert_eq!(ring.write(scratch.1.as_fd(), 0, &[]), Ok(()));
        }
    }

    #[test]
    fn a_failure_is_told_and_the_ring_is_as_good_as_before() {
        for (index, ring) in ways().iter_mut().enumerate() {
            let scratch = Scratch::new(&format!("failure-{index}"));
            let written = noise(4096);
            ring.write(scratch.1.as_fd(), 4096, &written).unwrap();
            let unwritable = File::open(&scratch.0).unwrap();
            assert_eq!(ring.write(unwritable.as_fd(), 0, &written), Err(Errno::BADF));
            let mut read = vec![0; 4096];
            let unreadable = OpenOptions::new().write(true).open(&scratch.0).unwrap();
            assert_eq!(ring.read(unreadable.as_fd(), 0, &mut read), Err(Errno::BADF));
            assert_eq!(ring.read(scratch.1.as_fd(), 4096, &mut read), Ok(4096));
            assert_eq!(read, written);
        }
    }

    #[test]
    fn what_is_written_through_is_there_and_a_failure_is_told() {
        let scratch = Scratch::new("through");
        let written = noise(PIECE_BYTES + 4096);
        write_through(scratch.1.as_fd(), 4096, &written).unwrap();
        let mut read = vec![0; written.len()];
        assert_eq!(DiskRing::of_calls().read(scratch.1.as_fd(), 4096, &mut read), Ok(written.len()));
        assert_eq!(read, written);
        let unwritable = File::open(&scratch.0).unwrap();
        assert_eq!(write_through(unwritable.as_fd(), 0, &written), Err(Errno::BADF));
    }
}
