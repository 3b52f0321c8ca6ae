//! Reading what a Redis server answers (RESP 2): lines through a small buffer, values straight into the caller's memory.
//!
//! Invariant: nothing is read beyond the answers that were asked for, so an answer that does not fit leaves the connection
//! unusable, and every later use of it fails.

use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;

use rustix::net::{RecvAncillaryBuffer, RecvFlags, recv, recvmsg};

use super::super::BaselineError;
use super::SYSTEM;

/// Bytes read at once before a value's length is known: an answer of up to so many comes by one system call.
const BUFFER_BYTES: usize = 16 << 10;
/// The longest line: an error's words.
const LINE_BYTES_MAX: usize = 4 << 10;
/// What ends a line and a value.
const END: &[u8; 2] = b"\r\n";

/// What stands at the head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// `+OK` and the like.
    Status(String),
    /// A number.
    Number(i64),
    /// A value of so many bytes follows.
    Value(usize),
    /// There is no value.
    Nothing,
    /// So many answers follow.
    Several(usize),
}

/// A connection's answers.
#[derive(Debug)]
pub(super) struct Replies {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Replies {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    /// The head of the next answer.
    pub(super) fn head(&mut self, stream: impl AsFd) -> Result<Head, BaselineError> {
        let line = self.line(stream)?;
        let (kind, rest) = line.split_first().unwrap_or((&b' ', &[]));
        let text = || String::from_utf8_lossy(rest).into_owned();
        let number = || std::str::from_utf8(rest).ok().and_then(|text| text.parse::<i64>().ok());
        let head = match kind {
            b'+' => Some(Head::Status(text())),
            b':' => number().map(Head::Number),
            b'$' | b'*' if rest == b"-1" => Some(Head::Nothing),
            b'$' => number().and_then(|length| usize::try_from(length).ok()).map(Head::Value),
            b'*' => number().and_then(|length| usize::try_from(length).ok()).map(Head::Several),
            _ => None,
        };
        head.ok_or_else(|| wrong("an answer", String::from_utf8_lossy(line).into_owned()))
    }

    /// The value whose head said that it has `length` bytes, into the beginning of `room`.
    pub(super) fn value(&mut self, stream: impl AsFd, length: usize, room: &mut [u8]) -> Result<(), BaselineError> {
        let room_bytes = room.len();
        let Some(value) = room.get_mut(..length) else {
            return Err(wrong(&format!("a value of at most {room_bytes} bytes"), format!("one of {length} bytes")));
        };
        let buffered = &self.buffer[self.start..self.end];
        let (at_hand, missing) = value.split_at_mut(length.min(buffered.len()));
        at_hand.copy_from_slice(&buffered[..at_hand.len()]);
        self.start += at_hand.len();
        let mut end = [0; END.len()];
        let end_at_hand = (self.end - self.start).min(END.len());
        end[..end_at_hand].copy_from_slice(&self.buffer[self.start..][..end_at_hand]);
        self.start += end_at_hand;
        fill_both(stream, missing, &mut end[end_at_hand..]).map_err(BaselineError::system("hear from Redis"))?;
        if &end == END { Ok(()) } else { Err(wrong("the end of a value", format!("{end:02x?}"))) }
    }

    fn line(&mut self, stream: impl AsFd) -> Result<&[u8], BaselineError> {
        let mut looked_at = 0;
        loop {
            let buffered = &self.buffer[self.start..self.end];
            if let Some(at) = buffered[looked_at..].windows(END.len()).position(|pair| pair == END) {
                let (from, length) = (self.start, looked_at + at);
                self.start += length + END.len();
                return Ok(&self.buffer[from..from + length]);
            }
            if buffered.len() > LINE_BYTES_MAX {
                return Err(wrong("a line", format!("{} bytes without its end", buffered.len())));
            }
            // The last byte may be the first half of the end.
            looked_at = buffered.len().saturating_sub(1);
            self.more(&stream)?;
        }
    }

    /// Reads whatever there is, and waits for something.
    fn more(&mut self, stream: impl AsFd) -> Result<(), BaselineError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let received = loop {
            match recv(&stream, &mut self.buffer[self.end..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other,
            }
        };
        match received.map_err(BaselineError::system("hear from Redis"))? {
            (_, 0) => Err(BaselineError::system("hear from Redis")(io::Error::from(io::ErrorKind::UnexpectedEof))),
            (_, received) => {
                self.end += received;
                Ok(())
            }
        }
    }
}

/// Fills `value` and then `end`, as a rule by one system call, asleep until all has come.
fn fill_both(stream: impl AsFd, value: &mut [u8], end: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    let whole = value.len() + end.len();
    while filled < whole {
        let in_value = filled.min(value.len());
        let mut parts = [IoSliceMut::new(&mut value[in_value..]), IoSliceMut::new(&mut end[filled - in_value..])];
        match recvmsg(&stream, &mut parts, &mut RecvAncillaryBuffer::default(), RecvFlags::WAITALL) {
            Ok(message) if message.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(message) => filled += message.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cold]
pub(super) fn wrong(expected: &str, actual: String) -> BaselineError {
    BaselineError::WrongAnswer { system: SYSTEM, expected: expected.to_owned(), actual }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    /// Says `bytes` in pieces of `piece`, from a thread of its own.
    fn said(bytes: Vec<u8>, piece: usize) -> UnixStream {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        thread::spawn(move || bytes.chunks(piece).try_for_each(|piece| theirs.write_all(piece)));
        ours
    }

    #[test]
    fn answers_are_read_however_they_are_cut() {
        let large: Vec<u8> = (0..100_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let mut bytes = b"+OK\r\n:42\r\n$-1\r\n*2\r\n$1\r\nk\r\n$100000\r\n".to_vec();
        bytes.extend_from_slice(&large);
        bytes.extend_from_slice(b"\r\n$0\r\n\r\n*-1\r\n");
        for piece in [1, 2, 3, 7, 1000, BUFFER_BYTES - 1, BUFFER_BYTES, 200_000] {
            let (stream, mut replies) = (said(bytes.clone(), piece), Replies::new());
            let mut room = vec![0; large.len()];
            let head = |replies: &mut Replies| replies.head(&stream).expect("an answer");
            assert_eq!(head(&mut replies), Head::Status("OK".to_owned()));
            assert_eq!(head(&mut replies), Head::Number(42));
            assert_eq!(head(&mut replies), Head::Nothing);
            assert_eq!(head(&mut replies), Head::Several(2));
            assert_eq!(head(&mut replies), Head::Value(1));
            replies.value(&stream, 1, &mut room).expect("a value");
            assert_eq!(room[0], b'k');
            assert_eq!(replies.head(&stream).expect("an answer"), Head::Value(large.len()));
            replies.value(&stream, large.len(), &mut room).expect("a value");
            assert!(room == large, "in pieces of {piece} bytes");
            assert_eq!(replies.head(&stream).expect("an answer"), Head::Value(0));
            replies.value(&stream, 0, &mut room).expect("an empty value");
            assert_eq!(replies.head(&stream).expect("an answer"), Head::Nothing);
            assert!(replies.head(&stream).is_err(), "nothing more is said");
        }
    }

    #[test]
    fn errors_and_values_that_do_not_fit_are_refused() {
        let (stream, mut replies) = (said(b"-ERR no such thing\r\n$5\r\nhello\r\n".to_vec(), 100), Replies::new());
        let error = replies.head(&stream).expect_err("Redis refused");
        assert!(error.to_string().contains("no such thing"), "{error}");
        assert_eq!(replies.head(&stream).expect("an answer"), Head::Value(5));
        let error = replies.value(&stream, 5, &mut [0; 4]).expect_err("it does not fit");
        assert!(error.to_string().contains("at most 4 bytes"), "{error}");
    }
}
