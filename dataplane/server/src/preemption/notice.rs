//! A program of the host that knows when the server's time is over: it is run again and again, and when it ends with 0, that is
//! the notice.
//!
//! Clouds tell a machine or task that it is taken away in their own ways: an address that answers, a file that appears, an
//! agent that is asked. A program of a line or two turns each of them into an exit code, and a server needs to know none.
//!
//! 1. The program is run every [`NOTICE_PERIOD`], one at a time, with nothing to read and nobody who reads what it writes.
//! 2. One that has not ended after [`NOTICE_MAX`] is killed; that, a program that cannot be started and one that a signal ended
//!    are trouble, which is said once until it changes. Any other exit code is: no notice.
//! 3. The thread ends with the first notice, and with the server.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::limits::{NOTICE_LOOK_PERIOD, NOTICE_MAX, NOTICE_PERIOD};
use crate::server::{Order, ServerStopper};

/// The thread that runs the program.
#[derive(Debug)]
pub(crate) struct NoticeWatch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl NoticeWatch {
    /// Runs `program` until it gives notice, which is told to the server.
    pub(crate) fn start(program: OsString, server: ServerStopper) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let run = move || watch(&program, &server, &stopped);
        let thread = std::thread::Builder::new().name("praas-notice".to_owned()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for NoticeWatch {
    fn drop(&mut self) {
        self.stop = None;
        // A panic there was printed by the panic hook; here it is only the end.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn watch(program: &OsString, server: &ServerStopper, stopped: &Receiver<()>) {
    let mut trouble = None;
    loop {
        match ask(program, stopped) {
            Ok(true) => return server.order(Order::Notice),
            Ok(false) => trouble = None,
            Err(words) if trouble.as_ref() != Some(&words) => {
                server.order(Order::NoticeTrouble(words.clone()));
                trouble = Some(words);
            }
            Err(_) => {}
        }
        if stopped.recv_timeout(NOTICE_PERIOD) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Whether the program gives notice; the error says why that is not known.
fn ask(program: &OsString, stopped: &Receiver<()>) -> Result<bool, String> {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
    let until = Instant::now() + NOTICE_MAX;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return meaning(status),
            Ok(None) if Instant::now() < until => {}
            Ok(None) => {
                end(&mut child);
                return Err(format!("it did not end within {NOTICE_MAX:?}"));
            }
            Err(error) => {
                end(&mut child);
                return Err(format!("it cannot be waited for: {error}"));
            }
        }
        if stopped.recv_timeout(NOTICE_LOOK_PERIOD) != Err(RecvTimeoutError::Timeout) {
            end(&mut child);
            return Ok(false);
        }
    }
}

fn meaning(status: ExitStatus) -> Result<bool, String> {
    match status.signal() {
        Some(signal) => Err(format!("signal {signal} ended it")),
        None => Ok(status.success()),
    }
}

fn end(child: &mut Child) {
    // Fails when it has just ended.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(program: &str) -> Result<bool, String> {
        let (_stop, stopped) = channel();
        ask(&program.into(), &stopped)
    }

    #[test]
    fn an_exit_code_is_a_notice_or_none_and_everything_else_is_trouble() {
        assert_eq!(asked("true"), Ok(true));
        assert_eq!(asked("false"), Ok(false));
        assert!(asked("/nowhere/at/all").unwrap_err().contains("cannot be started"));
        let killed = ExitStatus::from_raw(9);
        assert!(meaning(killed).unwrap_err().contains("signal 9"));
    }

    #[test]
    fn a_program_that_runs_when_the_server_ends_is_ended() {
        // `yes` writes for ever, to nobody.
        let (stop, stopped) = channel::<()>();
        drop(stop);
        assert_eq!(ask(&"yes".into(), &stopped), Ok(false));
    }
}
