//! HTTP/1.1 over one Unix socket that stays open: the barest client, so that a server is measured and not its caller. It writes
//! a request at once, blocks until the answer's head has come, and reads as many bytes more as the head says.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Fields that an answer's head may have: more than any server here sends.
const FIELDS_MAX: usize = 32;
/// Bytes asked for in one read, at least: an answer of 1 KiB with its head.
const READ_BYTES: usize = 4096;
/// Bytes of an answer, at most.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// What every answer must begin with to be taken.
const OK: u16 = 200;

/// A connection.
#[derive(Debug)]
pub struct HttpConnection {
    stream: UnixStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl HttpConnection {
    /// Connects. A read that waits longer than `patience` fails.
    ///
    /// # Errors
    /// Of the socket.
    pub fn connect(socket: &Path, patience: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, request: Vec::new(), answer: Vec::new() })
    }

    /// Posts `body` to `path` and returns the body of the answer.
    ///
    /// # Errors
    /// Of the socket; [`io::ErrorKind::InvalidData`] of an answer that is no success or does not say its length. The
    /// connection is of no use afterwards.
    pub fn post(&mut self, path: &str, body: &[u8]) -> io::Result<&[u8]> {
        self.request.clear();
        write!(self.request, "POST {path} HTTP/1.1\r\nHost: praas\r\nContent-Length: {}\r\n\r\n", body.len())?;
        self.request.extend_from_slice(body);
        self.stream.write_all(&self.request)?;
        self.answer.clear();
        loop {
            self.read_more()?;
            if let Some((head_bytes, body_bytes)) = head(&self.answer)? {
                while self.answer.len() < head_bytes + body_bytes {
                    self.read_more()?;
                }
                return Ok(&self.answer[head_bytes..head_bytes + body_bytes]);
            }
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let length = self.answer.len();
        self.answer.resize(length + READ_BYTES, 0);
        let read = self.stream.read(&mut self.answer[length..])?;
        self.answer.truncate(length + read);
        match read {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ if self.answer.len() > ANSWER_BYTES_MAX => {
                Err(wrong("an answer is longer than this client takes".into()))
            }
            _ => Ok(()),
        }
    }
}

/// How long the head of an answer is and how long its body, once the head is complete.
fn head(answer: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let status = head.parse(answer).map_err(|error| wrong(error.to_string()))?;
    let httparse::Status::Complete(head_bytes) = status else { return Ok(None) };
    if head.code != Some(OK) {
        let said = String::from_utf8_lossy(&answer[head_bytes..]).into_owned();
        return Err(wrong(format!("status {}: {said}", head.code.unwrap_or_default())));
    }
    let field = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = field.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
    match length {
        Some(body_bytes) if body_bytes <= ANSWER_BYTES_MAX => Ok(Some((head_bytes, body_bytes))),
        _ => Err(wrong("an answer does not say its length, or too large a one".into())),
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A connection to a server that answers every request with these pieces, one write each.
    fn answered(pieces: &'static [&'static [u8]]) -> HttpConnection {
        let (stream, mut server) = UnixStream::pair().expect("a pair");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        thread::spawn(move || {
            let mut request = [0; 1024];
            while server.read(&mut request).is_ok_and(|read| read > 0) {
                pieces.iter().for_each(|piece| server.write_all(piece).expect("it listens"));
            }
        });
        HttpConnection { stream, request: Vec::new(), answer: Vec::new() }
    }

    #[test]
    fn answers_come_whole_however_they_are_cut() {
        let mut connection = answered(&[b"HTTP/1.1 20", b"0 OK\r\ncontent-LENGTH: 5\r\n", b"\r\nhe", b"llo"]);
        for _ in 0..3 {
            assert_eq!(connection.post("/", b"again").expect("an answer"), b"hello");
        }
    }

    #[test]
    fn what_is_no_success_is_an_error_with_its_words() {
        let mut refused = answered(&[b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot there"]);
        let error = refused.post("/", b"").expect_err("no success");
        assert!(error.to_string().contains("404: not there"), "{error}");
        let mut endless = answered(&[b"HTTP/1.1 200 OK\r\n\r\n"]);
        assert!(endless.post("/", b"").is_err());
        let mut garbage = answered(&[b"SMTP ready\r\n\r\n"]);
        assert_eq!(garbage.post("/", b"").expect_err("no HTTP").kind(), io::ErrorKind::InvalidData);
    }
}
