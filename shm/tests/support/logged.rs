//! The state and mailbox of a process that is logged, with its ring, for tests.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use praas_protocol::message::{Accepted, Address, MessageId};
use praas_shm::WorkerTag;
use praas_shm::log_ring::{LOG_BYTES_MIN, LogReader, LogWriter};
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{MailError, Mailbox, NewMessage};
use praas_shm::objects::{Key, Namespace, Objects, ObjectsLayout, Store};
use rustix::pipe::PipeFlags;

pub const RING_BYTES: u64 = LOG_BYTES_MIN;
/// All that a ring has.
#[allow(clippy::cast_possible_truncation, reason = "a small number")]
pub const READ_BYTES: usize = RING_BYTES as usize;

/// One process's memory, as the server makes it.
pub struct Logged {
    pub objects: Arc<Objects>,
    pub listen: OwnedFd,
}

impl Logged {
    pub fn create(limit_bytes: u64) -> Self {
        let (listen, ring) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let objects = Objects::create(ObjectsLayout::for_limit(limit_bytes).unwrap()).unwrap();
        let log = LogWriter::create(RING_BYTES, ring).unwrap();
        Self { objects: Arc::new(objects.with_log(log)), listen }
    }

    pub fn log(&self) -> &LogWriter {
        self.objects.log().unwrap()
    }

    /// The server's end, before anything was written.
    pub fn reader(&self) -> LogReader {
        LogReader::attach(self.log().fd().try_clone_to_owned().unwrap(), RING_BYTES, 0).unwrap()
    }

    pub fn store(&self, tag: WorkerTag) -> Store {
        self.objects.worker_store(tag).unwrap()
    }

    pub fn mailbox(&self, tag: WorkerTag) -> Mailbox {
        Mailbox::new(Arc::clone(&self.objects), tag, MailBell::create().unwrap()).unwrap()
    }
}

/// All records that are committed, without consuming them.
pub fn records(reader: &mut LogReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read(&mut bytes, READ_BYTES).unwrap();
    bytes
}

pub fn user(text: &str) -> Key<'_> {
    Key::new(Namespace::USER, text).unwrap()
}

pub fn address(name: &str) -> Address {
    name.parse().unwrap()
}

pub fn id(sequence: u64) -> MessageId {
    MessageId { incarnation: 1, sequence }
}

pub fn put_message(
    mailbox: &Mailbox,
    source: &str,
    key: &str,
    sequence: u64,
    bytes: &[u8],
    repeats: bool,
) -> Result<Accepted, MailError> {
    let source = address(source);
    let key = praas_protocol::Key::new(key).unwrap();
    mailbox.put(&NewMessage { source: &source, id: id(sequence), key, bytes, repeats })
}

/// The bytes behind a descriptor, the first `bytes` of them.
pub fn image(fd: BorrowedFd<'_>, bytes: usize) -> Vec<u8> {
    let mut image = vec![0; bytes];
    assert_eq!(rustix::io::pread(fd, &mut image, 0).unwrap(), bytes);
    image
}

pub fn restore(fd: BorrowedFd<'_>, image: &[u8]) {
    assert_eq!(rustix::io::pwrite(fd, image, 0).unwrap(), image.len());
}
