//! A function binary as an OS process: started by hand, started with a broken environment, interrupted by the terminal,
//! and left by its server.
//!
//! The binary is this test's own: a child runs it with arguments that select the one ignored test below.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use praas_function::{Application, Call, WORKER_VARIABLE};
use praas_protocol::codec;
use praas_protocol::control::WorkerMessage;
use praas_protocol::limits::CONTROL_MESSAGE_BYTES_MAX;
use praas_sys::message_socket::MessageSocket;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
#[ignore = "the main of the function binary that the other tests start"]
fn function_binary() {
    Application::new()
        .function("echo", |call: &mut Call| call.reply(call.input()))
        .function("nothing", |_: &mut Call| ())
        .run()
}

/// The function binary; the shell gives it its own standard input and output as descriptors 3 and 4 if asked.
fn function_binary_command(with_descriptors: bool) -> Command {
    let program = std::env::current_exe().unwrap();
    let redirection = if with_descriptors { "exec 3<&0 4>&1 </dev/null >&2;" } else { "exec 3<&- 4<&-;" };
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("{redirection} exec \"$0\" --ignored --exact function_binary --nocapture"));
    command.arg(program).env_remove(WORKER_VARIABLE).stdin(Stdio::null());
    command
}

fn end_of(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the function binary did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn started_by_hand_it_says_how_it_is_used() {
    let output = function_binary_command(false).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("praas serve") && text.contains("echo, nothing"), "{text}");
}

#[test]
fn without_the_servers_descriptors_it_says_so() {
    let output = function_binary_command(false).env(WORKER_VARIABLE, "1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("descriptor 3"), "{text}");
}

#[test]
fn it_greets_its_server_ignores_ctrl_c_and_ends_when_the_server_is_gone() {
    let (server, worker) = MessageSocket::pair().unwrap();
    let mut child = function_binary_command(true)
        .env(WORKER_VARIABLE, "1")
        .stdin(Stdio::from(OwnedFd::from(worker)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut buffer = vec![0; CONTROL_MESSAGE_BYTES_MAX];
    let received = server.recv_deadline(&mut buffer, 0, PATIENCE).unwrap().expect("no hello");
    let WorkerMessage::Hello { functions, .. } = codec::decode(&buffer[..received.bytes]).unwrap() else {
        panic!("not a hello");
    };
    assert_eq!(functions, ["echo", "nothing"].map(|name| name.parse().unwrap()));
    // It is the terminal's Ctrl-C, meant for the server alone: the worker ignores it, and ends in its own way below.
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    drop(server);
    let status = end_of(&mut child);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(0), "{said}");
}
