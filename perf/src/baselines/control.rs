//! Lines between the one who measures and a program that answers calls as a child of it: what is to be done in a round, and
//! that it is done. They travel over a Unix socket in the child's directory and never within a timed span.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// The socket's name in the child's directory.
pub const SOCKET: &str = "control";
/// What a child is told to do last; it ends then, and its end of the connection closes.
pub const END: &str = "end";
/// Longest wait for a child that is told to end: it takes down what it made.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// Longest line, bytes: the samples of one round as text.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// One end of the connection.
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects to a child.
    ///
    /// # Errors
    /// Of the socket, as long as the child does not listen.
    pub fn connect(directory: &Path) -> io::Result<Self> {
        Ok(Self { stream: BufReader::new(UnixStream::connect(directory.join(SOCKET))?) })
    }

    /// The child's side: listens in its working directory and waits for the one who measures, who started it and with whom
    /// it ends.
    ///
    /// # Errors
    /// Of the socket.
    pub fn accept() -> io::Result<Self> {
        let (stream, _) = UnixListener::bind(SOCKET)?.accept()?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Says a line.
    ///
    /// # Errors
    /// Of the socket, also when the other side is gone.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())
    }

    /// Waits for a line; `None` when the other side has ended. Without `patience` it waits as long as the other side lives.
    ///
    /// # Errors
    /// Of the socket; [`io::ErrorKind::WouldBlock`] when patience ends.
    pub fn hear(&mut self, patience: Option<Duration>) -> io::Result<Option<String>> {
        self.stream.get_ref().set_read_timeout(patience)?;
        let mut line = String::new();
        io::Read::take(&mut self.stream, LINE_BYTES_MAX).read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(text) => Ok(Some(text.to_owned())),
            None if line.is_empty() => Ok(None),
            None => Err(io::Error::other(format!("a line broke off after {} bytes", line.len()))),
        }
    }

    /// Has the child end by itself, and waits until it has closed the connection. One that does not is killed by whoever
    /// started it.
    pub fn end(&mut self) {
        if self.say(END).is_ok() {
            while let Ok(Some(_)) = self.hear(Some(END_PATIENCE)) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn pair() -> (Control, Control) {
        let (left, right) = UnixStream::pair().expect("a pair");
        (Control { stream: BufReader::new(left) }, Control { stream: BufReader::new(right) })
    }

    #[test]
    fn lines_are_answered_until_the_end() {
        let (mut here, mut there) = pair();
        let child = thread::spawn(move || {
            while let Some(line) = there.hear(None).expect("lines come") {
                if line == END {
                    return;
                }
                there.say(&line.to_uppercase()).expect("it listens");
            }
        });
        here.say("serve 7").expect("it listens");
        let patience = Some(Duration::from_secs(10));
        assert_eq!(here.hear(patience).expect("it answers").as_deref(), Some("SERVE 7"));
        here.end();
        child.join().expect("it ends");
    }

    #[test]
    fn silence_and_broken_lines_are_errors_and_a_closed_end_is_none() {
        let (mut here, mut there) = pair();
        let error = here.hear(Some(Duration::from_millis(10))).expect_err("nobody speaks");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        there.stream.get_mut().write_all(b"half").expect("it is open");
        drop(there);
        let error = here.hear(Some(Duration::from_secs(10))).expect_err("half a line");
        assert!(error.to_string().contains("4 bytes"), "{error}");
        assert!(here.hear(Some(Duration::from_secs(10))).expect("an end is no error").is_none());
    }
}
