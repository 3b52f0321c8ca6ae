//! The keeper holds memory while the server is dead, and sees the server's workers end.

mod common;

use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{ROLE, children_with, eventually, is_running, kill, own_command, start_role};
use praas_server::keeper::{KeeperError, KeeperLink, KeeperPlan};
use praas_server::{Level, Server, ServerHandle, ServerOptions};
use praas_sys::{FileLock, MessageSocket, Pidfd};
use tempfile::TempDir;

const DIRECTORY: &str = "TEST_DIRECTORY";
const LINGER_MS: &str = "TEST_LINGER_MS";
/// Descriptors that a keeper is given to hold.
const HELD: usize = 6000;
const SCRATCH: &[u8] = b"what must survive";

/// Not a test of its own: what this binary does when a test runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        // A keeper inherits the environment of the server that starts it, so it is told apart by its standard input.
        _ if common::is_keeper_socket(&std::io::stdin()) => praas_server::keeper::run().unwrap(),
        Ok("link") => play_link(),
        Ok("server") => play_server(),
        _ => {}
    }
}

fn plan(directory: &Path, linger: Duration) -> KeeperPlan {
    KeeperPlan {
        command: own_command(),
        socket: directory.join("keeper.sock"),
        log: directory.join("keeper.log"),
        cgroup_prefix: "praas-test-keeper".into(),
        linger,
    }
}

fn lock(directory: &Path) -> FileLock {
    FileLock::try_exclusive(&directory.join("lock")).unwrap().expect("nobody else holds the lock")
}

fn scratch() -> OwnedFd {
    let fd = rustix::fs::memfd_create("scratch", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    std::fs::File::from(fd.try_clone().unwrap()).write_all(SCRATCH).unwrap();
    fd
}

fn content(fd: OwnedFd) -> Vec<u8> {
    let mut file = std::fs::File::from(fd);
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn directory_and_linger() -> (std::path::PathBuf, Duration) {
    let linger_ms = std::env::var(LINGER_MS).unwrap().parse().unwrap();
    (std::env::var_os(DIRECTORY).unwrap().into(), Duration::from_millis(linger_ms))
}

/// A server reduced to its keeper: a scratch segment, and a worker whose child holds the pipe as well. Says the process
/// numbers of keeper, worker and child, then waits to be killed.
fn play_link() {
    let (directory, linger) = directory_and_linger();
    let lock = lock(&directory);
    let mut link = KeeperLink::start(&plan(&directory, linger), lock.as_fd()).unwrap();
    let safe = link.put(&[("scratch".into(), scratch().as_fd())]).unwrap();
    link.await_acknowledged(safe).unwrap();
    let (read_end, write_end) = std::io::pipe().unwrap();
    let mut worker = Command::new("sh")
        .args(["-c", "sleep 1000 & echo $! >&2; wait"])
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(write_end))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = String::new();
    BufReader::new(worker.stderr.take().unwrap()).read_line(&mut child).unwrap();
    let pidfd = Pidfd::open(worker.id()).unwrap();
    let watched = link.add_worker(OwnedFd::from(read_end).as_fd(), pidfd.as_fd(), None).unwrap();
    link.await_acknowledged(watched).unwrap();
    println!("\nplaying {} {} {}", link.keeper_pid().unwrap(), worker.id(), child.trim());
    std::thread::sleep(common::PATIENCE * 2);
    // Nobody killed this role: its test has failed.
    worker.kill().unwrap();
    worker.wait().unwrap();
}

/// A whole server that keeps a scratch segment. Says so, then waits to be killed.
fn play_server() {
    let (directory, linger) = directory_and_linger();
    let server = server(&directory, linger);
    server.keep("scratch", scratch()).unwrap();
    println!("\nplaying");
    std::thread::sleep(common::PATIENCE * 2);
}

fn server(directory: &Path, linger: Duration) -> ServerHandle {
    let mut options = ServerOptions::new(directory, own_command());
    options.keeper_linger = linger;
    options.log_level = Level::Error;
    Server::start(options).unwrap()
}

/// A role and what it said when it was ready.
struct Played {
    child: Child,
    words: Vec<u32>,
}

fn play(role: &str, directory: &TempDir, linger_ms: u64) -> Played {
    let path = directory.path().to_str().unwrap();
    let mut child = start_role(role, &[(DIRECTORY, path), (LINGER_MS, &linger_ms.to_string())]);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find(|line| line.starts_with("playing")).expect("the role gets ready");
    let words = line.split(' ').skip(1).map(|word| word.parse().unwrap()).collect();
    Played { child, words }
}

impl Played {
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_killed_server_leaves_no_worker_and_its_segment_comes_back_when_they_have_ended() {
    let directory = common::private_directory();
    let mut played = play("link", &directory, 600_000);
    let [keeper, worker, child] = played.words[..] else { panic!("three process numbers") };
    let worker_life = Pidfd::open(worker).unwrap();
    played.kill();
    assert!(worker_life.wait_gone(common::PATIENCE).unwrap(), "the keeper kills the worker");

    let lock = lock(directory.path());
    let mut link = KeeperLink::connect(&plan(directory.path(), Duration::ZERO), lock.as_fd()).unwrap().unwrap();
    let taking = std::thread::spawn(move || link.take().map(|held| (link, held)));
    for _ in 0..20 {
        // As long as a child of the worker holds the pipe it may still write to what the worker mapped.
        assert!(is_running(child) && !taking.is_finished(), "handed over while a child of the worker lived");
        std::thread::sleep(Duration::from_millis(10));
    }
    kill(child);
    let (link, held) = taking.join().unwrap().unwrap();
    assert_eq!(held.len(), 1);
    let held = held.into_iter().next().unwrap();
    assert_eq!((held.name.as_str(), content(held.fd)), ("scratch", SCRATCH.to_vec()));
    link.goodbye();
    eventually("the keeper exits after a goodbye", || !is_running(keeper));
    assert!(!directory.path().join("keeper.sock").exists());
}

#[test]
fn a_keeper_without_a_server_exits_after_its_linger() {
    let directory = common::private_directory();
    let mut played = play("link", &directory, 50);
    let [keeper, worker, child] = played.words[..] else { panic!("three process numbers") };
    played.kill();
    eventually("the worker is killed", || !is_running(worker));
    kill(child);
    eventually("the keeper exits", || !is_running(keeper));
    assert!(!directory.path().join("keeper.sock").exists());
    let lock = lock(directory.path());
    assert!(KeeperLink::connect(&plan(directory.path(), Duration::ZERO), lock.as_fd()).unwrap().is_none());
}

#[test]
fn a_keeper_that_holds_nothing_does_not_linger() {
    let directory = common::private_directory();
    let lock = lock(directory.path());
    let link = KeeperLink::start(&plan(directory.path(), Duration::from_secs(600)), lock.as_fd()).unwrap();
    let keeper = link.keeper_pid().unwrap();
    // As if the server had crashed: no goodbye.
    drop(link);
    eventually("the keeper exits", || !is_running(keeper));
}

#[test]
fn only_who_holds_the_lock_is_obeyed() {
    let directory = common::private_directory();
    let own = lock(directory.path());
    let plan = plan(directory.path(), Duration::ZERO);
    let mut link = KeeperLink::start(&plan, own.as_fd()).unwrap();

    let other = common::private_directory();
    let error = KeeperLink::connect(&plan, lock(other.path()).as_fd()).unwrap_err();
    assert!(
        matches!(&error, KeeperError::Refused { reason, .. } if reason.contains("another data directory")),
        "{error}"
    );

    let unlocked = std::fs::File::open(directory.path().join("lock")).unwrap();
    let error = KeeperLink::connect(&plan, unlocked.as_fd()).unwrap_err();
    assert!(matches!(&error, KeeperError::Refused { reason, .. } if reason.contains("holds the lock")), "{error}");

    // Without a hello, and with junk, the connection ends.
    for junk in [&b"\x01\x05\x02"[..], &[0xff; 64], &vec![0; 60_000]] {
        let socket = MessageSocket::connect(&plan.socket).unwrap();
        socket.send(junk, &[]).unwrap();
        eventually("the keeper hangs up", || socket.is_hung_up());
    }

    let safe = link.put(&[("scratch".into(), scratch().as_fd())]).unwrap();
    link.await_acknowledged(safe).unwrap();
    let error =
        link.put(&[("".into(), scratch().as_fd())]).and_then(|number| link.await_acknowledged(number)).unwrap_err();
    assert!(matches!(error, KeeperError::Refused { .. }), "{error}");
    let gone = link.forget(vec!["scratch".into()]).unwrap();
    link.await_acknowledged(gone).unwrap();
    assert!(link.take().unwrap().is_empty());
    link.goodbye();
}

#[test]
fn many_descriptors_come_back_whole_and_in_their_names() {
    let directory = common::private_directory();
    let lock = lock(directory.path());
    let plan = plan(directory.path(), Duration::from_secs(600));
    let mut link = KeeperLink::start(&plan, lock.as_fd()).unwrap();
    // More than fit a socket and a queue at a time.
    for number in 0..HELD {
        let fd = rustix::fs::memfd_create("numbered", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        std::fs::File::from(fd.try_clone().unwrap()).write_all(format!("{number}").as_bytes()).unwrap();
        let safe = link.put(&[(format!("segment/{number}"), fd.as_fd())]).unwrap();
        link.await_acknowledged(safe).unwrap();
    }
    drop(link);
    let mut link = KeeperLink::connect(&plan, lock.as_fd()).unwrap().unwrap();
    let held = link.take().unwrap();
    assert_eq!(held.len(), HELD);
    for held in held {
        assert_eq!(format!("segment/{}", String::from_utf8(content(held.fd)).unwrap()), held.name);
    }
    link.goodbye();
}

#[test]
fn a_killed_keeper_is_replaced_and_refilled_and_the_next_server_gets_it_all() {
    let directory = common::private_directory();
    let mut played = play("server", &directory, 600_000);
    let keepers = |parent| children_with(parent, "role");
    let first = keepers(played.child.id());
    assert_eq!(first.len(), 1, "one keeper");
    kill(first[0]);
    eventually("another keeper runs", || matches!(keepers(played.child.id())[..], [pid] if pid != first[0]));
    let second = keepers(played.child.id())[0];
    // Until the new keeper was given the segment, a crash would lose it: look at what it has open.
    let has_scratch = || {
        let open = std::fs::read_dir(format!("/proc/{second}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .any(|link| link.to_string_lossy().contains("scratch"))
    };
    if rustix::process::geteuid().is_root() {
        eventually("the new keeper holds the segment", has_scratch);
    } else {
        println!("skipped the look into the non-dumpable keeper: it needs root; waiting instead");
        std::thread::sleep(Duration::from_secs(2));
    }
    played.kill();

    let next = server(directory.path(), Duration::from_secs(600));
    assert_eq!(content(next.kept("scratch").expect("the segment came back")), SCRATCH);
    assert!(next.kept("other").is_none());
    next.shutdown().unwrap();
    eventually("the second keeper exits", || !is_running(second));
    assert!(!directory.path().join("praas.sock").exists() && !directory.path().join("keeper.sock").exists());
}

#[test]
fn a_server_refuses_a_data_directory_in_use() {
    let directory = common::private_directory();
    let first = server(directory.path(), Duration::ZERO);
    let mut options = ServerOptions::new(directory.path(), own_command());
    options.log_level = Level::Error;
    let error = Server::start(options.clone()).unwrap_err();
    assert!(error.to_string().contains("another server"), "{error}");
    assert_eq!(first.metrics().unwrap().keepers_replaced, 0);
    first.shutdown().unwrap();
    Server::start(options).unwrap().shutdown().unwrap();
}
