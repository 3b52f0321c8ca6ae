//! A disk on which no room is left: a file system of a few megabytes in a mount namespace that a server has for itself.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::mails::{ask, processes};
use common::sleeping::{sleeping, sleeps, told};
use common::stage::{DIRECTORY, Played, Stage, options, process, status};
use common::{ROLE, is_keeper_socket, stage};
use praas_client::{ProcessState, RequestError};
use praas_protocol::control::ControlError;
use praas_server::Server;
use praas_storage::DiskBackend;

/// Size of the file system.
const ROOM_BYTES: usize = 4 << 20;

/// Where processes sleep, in the data directory.
const STORED: &str = "swapped";

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        Ok("server with little room") if !is_keeper_socket(&std::io::stdin()) => play_server(),
        _ => stage::play(),
    }
}

/// A server whose processes sleep in a small file system, which is there for it and its children alone and goes with them.
fn play_server() {
    let signals = praas_sys::SignalQueue::termination().unwrap();
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    let stored = directory.join(STORED);
    std::fs::create_dir_all(&stored).unwrap();
    let size = format!("size={ROOM_BYTES},mode=700");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&stored).status().unwrap();
    assert!(mounted.success());
    let mut options = options(directory, sleeping());
    options.storage = Some(Arc::new(DiskBackend::open(&stored).unwrap()));
    let server = Server::start(options).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap();
    std::process::exit(42);
}

/// What keeps this host from having a mount namespace with a file system of its own, if something does.
fn lacks() -> Option<String> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).stdin(Stdio::null());
    match command.output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

#[test]
fn a_process_that_finds_no_room_on_the_disk_goes_on_says_so_and_sleeps_when_there_is_room() {
    if let Some(reason) = lacks() {
        return println!("skipped: no file system of its own for a server here: {reason}");
    }
    let stage = Stage::empty();
    let Some(server) = Played::start_within(&["unshare", "--mount"], "server with little room", stage.path()) else {
        return stage.end();
    };
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    let half = ROOM_BYTES / 2;
    ask(&bob, "scatter", &format!("large {half} 1")).unwrap();
    client.swap(process("bob")).unwrap();
    for round in 0..3 {
        ask(&alice, "scatter", &format!("large {half} {round}")).unwrap();
        let refused = client.swap(process("alice")).unwrap_err();
        println!("{refused}");
        let RequestError::Refused(ControlError::SwapFailed { reason, .. }) = refused else { panic!("{refused}") };
        assert!(reason.contains("no room is left") && reason.contains(STORED), "{reason}");
        assert_eq!(status(&client, "alice").state, ProcessState::Active);
        assert_eq!(ask(&alice, "scattered", "large").unwrap(), told(half, round));
        assert!(sleeps(&client, "bob"), "it comes to no harm");
    }
    // Whoever sleeps can be woken and stopped without any room, and what failed has left nothing behind.
    assert_eq!(ask(&bob, "scattered", "large").unwrap(), told(half, 1));
    client.stop(process("bob")).unwrap();
    client.swap(process("alice")).unwrap();
    assert_eq!(ask(&alice, "scattered", "large").unwrap(), told(half, 2));
    client.stop(process("alice")).unwrap();
    drop((alice, bob, client));
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}
