//! A blocking client of Redis that does no more than it must: small requests are one write of one buffer, large values go
//! from the caller's memory into the socket and back without a copy in between.
//!
//! Who waits how: every method sleeps in the kernel until the answer has come. A blocking pop or stream read sleeps in the
//! server as well, so nobody polls. No wait is without end.

use std::io::IoSlice;

use super::super::BaselineError;
use super::endpoint::{RedisEndpoint, Stream};
use super::reply::{Head, Replies, wrong};
use super::request::{Requests, append, append_length};

/// How long the server keeps a blocking request that nobody answers, in whole seconds: less than our own patience.
const BLOCK_S: u64 = 15;
/// Values up to so many bytes are copied into the request, which is then one piece: cheaper than a gathering write.
const VALUE_BYTES_COPIED: usize = 16 << 10;
/// The only field of a stream's entries.
const FIELD: &[u8] = b"v";
/// Entries that a stream keeps: messages are read once, so older ones only take memory.
const STREAM_ENTRIES_KEPT: &[u8] = b"4";
/// What is before the first entry of a stream.
const STREAM_START: &[u8] = b"0-0";
/// Room for the names and identifiers of stream entries.
const NAME_BYTES_MAX: usize = 256;

/// A connection to a Redis.
#[derive(Debug)]
pub struct RedisClient {
    stream: Stream,
    replies: Replies,
    /// The request that is being made, kept for its memory.
    request: Vec<u8>,
    /// Identifier of the entry of a stream that was read last.
    last_entry: Vec<u8>,
}

impl RedisClient {
    /// Connects.
    ///
    /// # Errors
    /// [`BaselineError::System`].
    pub fn connect(endpoint: &RedisEndpoint) -> Result<Self, BaselineError> {
        let stream = Stream::connect(endpoint).map_err(BaselineError::system("connect to Redis"))?;
        Ok(Self { stream, replies: Replies::new(), request: Vec::new(), last_entry: STREAM_START.to_vec() })
    }

    /// The server's version.
    ///
    /// # Errors
    /// Any [`BaselineError`].
    pub fn version(&mut self) -> Result<String, BaselineError> {
        self.begin(&[b"INFO", b"server"]);
        self.send(None)?;
        let Head::Value(length) = self.replies.head(&self.stream)? else {
            return Err(wrong("its description", "something else".to_owned()));
        };
        let mut text = vec![0; length];
        self.replies.value(&self.stream, length, &mut text)?;
        let text = String::from_utf8_lossy(&text);
        let version = text.lines().find_map(|line| line.strip_prefix("redis_version:"));
        version.map(|version| version.trim().to_owned()).ok_or_else(|| wrong("its version", text.to_string()))
    }

    /// `SET`: stores a value.
    ///
    /// # Errors
    /// Any [`BaselineError`], after which the connection is spent; so of all methods.
    #[inline]
    pub fn set(&mut self, key: &str, value: &[u8]) -> Result<(), BaselineError> {
        self.begin_with_value(&[b"SET", key.as_bytes()], value);
        self.send(Some(value))?;
        self.expect_ok()
    }

    /// `GET`: reads a value into the beginning of `room`, and says how many bytes it has; `None` if there is none.
    ///
    /// # Errors
    /// As [`RedisClient::set`]; also if the value does not fit.
    #[inline]
    pub fn get_into(&mut self, key: &str, room: &mut [u8]) -> Result<Option<usize>, BaselineError> {
        self.begin(&[b"GET", key.as_bytes()]);
        self.send(None)?;
        self.value_into(room)
    }

    /// `DEL`.
    ///
    /// # Errors
    /// As [`RedisClient::set`].
    pub fn delete(&mut self, key: &str) -> Result<(), BaselineError> {
        self.begin(&[b"DEL", key.as_bytes()]);
        self.send(None)?;
        self.expect_number()
    }

    /// `RPUSH`: appends a message to a list, and waits until the server has it.
    ///
    /// # Errors
    /// As [`RedisClient::set`].
    #[inline]
    pub fn push(&mut self, list: &str, message: &[u8]) -> Result<(), BaselineError> {
        self.begin_with_value(&[b"RPUSH", list.as_bytes()], message);
        self.send(Some(message))?;
        self.expect_number()
    }

    /// `BLPOP`: takes the first message of a list, into the beginning of `room`; sleeps until there is one.
    ///
    /// # Errors
    /// As [`RedisClient::set`]; also if none comes.
    #[inline]
    pub fn pop_into(&mut self, list: &str, room: &mut [u8]) -> Result<usize, BaselineError> {
        self.begin(&[b"BLPOP", list.as_bytes(), BLOCK_S.to_string().as_bytes()]);
        self.send(None)?;
        self.popped_into(room)
    }

    /// [`RedisClient::push`] to one list and [`RedisClient::pop_into`] from another, both asked for by one write.
    ///
    /// # Errors
    /// As both.
    #[inline]
    pub fn push_and_pop_into(
        &mut self,
        to: &str,
        message: &[u8],
        from: &str,
        room: &mut [u8],
    ) -> Result<usize, BaselineError> {
        self.begin_with_value(&[b"RPUSH", to.as_bytes()], message);
        self.send_with(message, &[b"BLPOP", from.as_bytes(), BLOCK_S.to_string().as_bytes()])?;
        self.expect_number()?;
        self.popped_into(room)
    }

    /// `XADD`: appends a message to a stream, which keeps a few.
    ///
    /// # Errors
    /// As [`RedisClient::set`].
    #[inline]
    pub fn stream_add(&mut self, stream: &str, message: &[u8]) -> Result<(), BaselineError> {
        self.begin_with_value(&Self::addition(stream), message);
        self.send(Some(message))?;
        self.expect_entry_name()
    }

    /// `XREAD BLOCK`: the first message of a stream after the one that this client read last, into the beginning of `room`;
    /// sleeps until there is one. A client reads one stream.
    ///
    /// # Errors
    /// As [`RedisClient::set`]; also if none comes.
    #[inline]
    pub fn stream_read_into(&mut self, stream: &str, room: &mut [u8]) -> Result<usize, BaselineError> {
        let last = std::mem::take(&mut self.last_entry);
        let block_ms = (BLOCK_S * 1000).to_string();
        self.begin(&Self::reading(stream, &block_ms, &last));
        self.last_entry = last;
        self.send(None)?;
        self.stream_entry_into(room)
    }

    /// [`RedisClient::stream_add`] to one stream and [`RedisClient::stream_read_into`] from another, both asked for by one
    /// write.
    ///
    /// # Errors
    /// As both.
    #[inline]
    pub fn stream_add_and_read_into(
        &mut self,
        to: &str,
        message: &[u8],
        from: &str,
        room: &mut [u8],
    ) -> Result<usize, BaselineError> {
        let last = std::mem::take(&mut self.last_entry);
        let block_ms = (BLOCK_S * 1000).to_string();
        self.begin_with_value(&Self::addition(to), message);
        let sent = self.send_with(message, &Self::reading(from, &block_ms, &last));
        self.last_entry = last;
        sent?;
        self.expect_entry_name()?;
        self.stream_entry_into(room)
    }

    /// Sends many requests at once and reads all their answers, each of which is a value; the last one is in `room`.
    ///
    /// # Errors
    /// As [`RedisClient::get_into`]; a value that is not there is a wrong answer.
    pub fn pipelined(&mut self, requests: &Requests, room: &mut [u8]) -> Result<usize, BaselineError> {
        let sent = self.stream.write_all(&mut [IoSlice::new(&requests.bytes)]);
        sent.map_err(BaselineError::system("ask Redis"))?;
        let mut last = 0;
        for _ in 0..requests.count {
            last = self.value_into(room)?.ok_or_else(|| wrong("a value", "none".to_owned()))?;
        }
        Ok(last)
    }

    fn addition(stream: &str) -> [&[u8]; 6] {
        [b"XADD", stream.as_bytes(), b"MAXLEN", STREAM_ENTRIES_KEPT, b"*", FIELD]
    }

    fn reading<'a>(stream: &'a str, block_ms: &'a str, last: &'a [u8]) -> [&'a [u8]; 8] {
        [b"XREAD", b"COUNT", b"1", b"BLOCK", block_ms.as_bytes(), b"STREAMS", stream.as_bytes(), last]
    }

    /// Makes a request of these words.
    fn begin(&mut self, words: &[&[u8]]) {
        self.request.clear();
        append(&mut self.request, words.len(), words);
    }

    /// Makes a request of these words and a value, up to the value.
    fn begin_with_value(&mut self, words: &[&[u8]], value: &[u8]) {
        self.request.clear();
        append(&mut self.request, words.len() + 1, words);
        append_length(&mut self.request, b'$', value.len());
    }

    /// Sends the request, with the value that ends it.
    fn send(&mut self, value: Option<&[u8]>) -> Result<(), BaselineError> {
        match value {
            Some(value) => self.send_with(value, &[]),
            None => self.write(),
        }
    }

    /// Sends the request with the value that ends it, and another request of these words.
    fn send_with(&mut self, value: &[u8], next: &[&[u8]]) -> Result<(), BaselineError> {
        let is_copied = value.len() <= VALUE_BYTES_COPIED;
        if is_copied {
            self.request.extend_from_slice(value);
        }
        let before = self.request.len();
        self.request.extend_from_slice(b"\r\n");
        if !next.is_empty() {
            append(&mut self.request, next.len(), next);
        }
        if is_copied {
            return self.write();
        }
        let (head, tail) = self.request.split_at(before);
        let mut parts = [IoSlice::new(head), IoSlice::new(value), IoSlice::new(tail)];
        self.stream.write_all(&mut parts).map_err(BaselineError::system("ask Redis"))
    }

    fn write(&mut self) -> Result<(), BaselineError> {
        self.stream.write_all(&mut [IoSlice::new(&self.request)]).map_err(BaselineError::system("ask Redis"))
    }

    fn expect_ok(&mut self) -> Result<(), BaselineError> {
        match self.replies.head(&self.stream)? {
            Head::Status(text) if text == "OK" => Ok(()),
            other => Err(wrong("OK", format!("{other:?}"))),
        }
    }

    fn expect_number(&mut self) -> Result<(), BaselineError> {
        match self.replies.head(&self.stream)? {
            Head::Number(_) => Ok(()),
            other => Err(wrong("a number", format!("{other:?}"))),
        }
    }

    fn expect_entry_name(&mut self) -> Result<(), BaselineError> {
        let mut name = [0; NAME_BYTES_MAX];
        self.value_into(&mut name)?.map(drop).ok_or_else(|| wrong("an entry's identifier", "nothing".to_owned()))
    }

    fn value_into(&mut self, room: &mut [u8]) -> Result<Option<usize>, BaselineError> {
        match self.replies.head(&self.stream)? {
            Head::Value(length) => {
                self.replies.value(&self.stream, length, room)?;
                Ok(Some(length))
            }
            Head::Nothing => Ok(None),
            other => Err(wrong("a value", format!("{other:?}"))),
        }
    }

    fn popped_into(&mut self, room: &mut [u8]) -> Result<usize, BaselineError> {
        self.expect_several(2, &format!("a message within {BLOCK_S} s"))?;
        self.expect_entry_name()?;
        self.value_into(room)?.ok_or_else(|| wrong("a message", "nothing".to_owned()))
    }

    /// One stream with one entry with one field.
    fn stream_entry_into(&mut self, room: &mut [u8]) -> Result<usize, BaselineError> {
        self.expect_several(1, &format!("a message within {BLOCK_S} s"))?;
        self.expect_several(2, "a stream")?;
        self.expect_entry_name()?;
        self.expect_several(1, "an entry")?;
        self.expect_several(2, "an entry's identifier and fields")?;
        let mut name = [0; NAME_BYTES_MAX];
        let length = self.value_into(&mut name)?.unwrap_or(0);
        self.last_entry.clear();
        self.last_entry.extend_from_slice(&name[..length]);
        self.expect_several(2, "a field and its value")?;
        self.expect_entry_name()?;
        self.value_into(room)?.ok_or_else(|| wrong("a message", "nothing".to_owned()))
    }

    fn expect_several(&mut self, count: usize, what: &str) -> Result<(), BaselineError> {
        match self.replies.head(&self.stream)? {
            Head::Several(found) if found == count => Ok(()),
            other => Err(wrong(what, format!("{other:?}"))),
        }
    }
}
