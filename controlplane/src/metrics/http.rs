//! As much of HTTP as a collector needs: one GET, one answer, and the connection ends.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use praas_server::ServerObserver;
use rustix::io::Errno;

use super::text;
use crate::limits::{METRICS_ANSWER_MAX, METRICS_REQUEST_BYTES_MAX, METRICS_REQUEST_MAX};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A stream whose reads and writes can be given a deadline.
trait Timed: Read + Write {
    fn limit(&self, time: Duration) -> io::Result<()>;
}

impl Timed for TcpStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

impl Timed for UnixStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

pub(super) fn answer_tcp(stream: TcpStream, observer: &ServerObserver) -> io::Result<()> {
    answer(stream, observer)
}

pub(super) fn answer_unix(stream: UnixStream, observer: &ServerObserver) -> io::Result<()> {
    answer(stream, observer)
}

/// Whether the system lacks descriptors or memory, which takes a while to pass.
pub(super) fn is_shortage(error: i32) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].iter().any(|shortage| shortage.raw_os_error() == error)
}

fn answer(mut stream: impl Timed, observer: &ServerObserver) -> io::Result<()> {
    let head = read_head(&mut stream, Instant::now() + METRICS_REQUEST_MAX)?;
    let end = Instant::now() + METRICS_ANSWER_MAX;
    let Some(head) = head else {
        return respond(
            &mut stream,
            end,
            "431 Request Header Fields Too Large",
            "text/plain",
            "the request is too long\n",
        );
    };
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics" | "/")) => match observer.snapshot() {
            Some(snapshot) => respond(&mut stream, end, "200 OK", CONTENT_TYPE, &text::encode(snapshot)),
            None => respond(&mut stream, end, "503 Service Unavailable", "text/plain", "the server is ending\n"),
        },
        (Some("GET"), Some(_)) => respond(&mut stream, end, "404 Not Found", "text/plain", "metrics are at /metrics\n"),
        _ => respond(&mut stream, end, "405 Method Not Allowed", "text/plain", "only GET is answered\n"),
    }
}

/// The request's head; `None` when it is too long. An end of the stream ends it too.
fn read_head(stream: &mut impl Timed, end: Instant) -> io::Result<Option<String>> {
    let mut head = Vec::with_capacity(512);
    let mut buffer = [0; 512];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if head.len() > METRICS_REQUEST_BYTES_MAX {
            return Ok(None);
        }
        stream.limit(time_left(end)?)?;
        let bytes = stream.read(&mut buffer)?;
        if bytes == 0 {
            break;
        }
        head.extend_from_slice(&buffer[..bytes]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn respond(stream: &mut impl Timed, end: Instant, status: &str, content_type: &str, body: &str) -> io::Result<()> {
    let bytes = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n"
    );
    for mut part in [head.as_bytes(), body.as_bytes()] {
        while !part.is_empty() {
            stream.limit(time_left(end)?)?;
            match stream.write(part)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                bytes => part = &part[bytes..],
            }
        }
    }
    stream.flush()
}

fn time_left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}
