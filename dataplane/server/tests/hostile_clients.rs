//! Whatever a client does to the server's socket costs only that client: others are served, and nothing leaks.

mod common;

use std::io::BufRead;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{ROLE, eventually, open_descriptors, own_command, private_directory, start_role};
use praas_protocol::codec::{decode, encode};
use praas_protocol::control::{CONTROL_VERSION, ClientMessage, ClientRequest, ControlError, LaneId, ServerMessage};
use praas_protocol::limits::CONTROL_MESSAGE_BYTES_MAX;
use praas_protocol::token::{Claims, Rights, Scope, Secret};
use praas_server::{Application, Level, Server, ServerHandle, ServerOptions};
use praas_sys::{MessageSocket, SocketError};

const DIRECTORY: &str = "TEST_DIRECTORY";

/// Descriptors of a server that is to run out of them; the spawner wants numbers above 64.
const FEW: u64 = 110;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        _ if common::is_keeper_socket(&std::io::stdin()) => praas_server::keeper::run().unwrap(),
        Ok("poor server") => {
            let few = rustix::process::Rlimit { current: Some(FEW), maximum: Some(FEW) };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
            let _server = server(Path::new(&std::env::var_os(DIRECTORY).unwrap()));
            println!("\nplaying");
            std::thread::sleep(common::PATIENCE * 2);
        }
        _ => {}
    }
}

/// One test at a time: they count the descriptors of the process that they share with their server.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn server(directory: &Path) -> ServerHandle {
    Server::start(options(directory)).unwrap()
}

fn options(directory: &Path) -> ServerOptions {
    let mut options = ServerOptions::new(directory, own_command());
    options.keeper_linger = Duration::ZERO;
    options.log_level = Level::Error;
    options.applications = vec![Application::new("hello".parse().unwrap(), "/nonexistent/hello".into())];
    options
}

fn connect(directory: &Path) -> MessageSocket {
    MessageSocket::connect(&directory.join("praas.sock")).unwrap()
}

fn token(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("token")).unwrap()
}

fn hello(token: String) -> Vec<u8> {
    encode(&ClientMessage::Hello { version: CONTROL_VERSION, token, network: false }).unwrap()
}

fn request(number: u64, body: ClientRequest) -> Vec<u8> {
    encode(&ClientMessage::Request { request: number, body }).unwrap()
}

/// The next answer; `None` when the server has hung up.
fn answer(socket: &MessageSocket) -> Option<ServerMessage> {
    let mut buffer = vec![0; CONTROL_MESSAGE_BYTES_MAX];
    match socket.recv_deadline(&mut buffer, 8, common::PATIENCE) {
        Ok(Some(received)) => Some(decode(&buffer[..received.bytes]).unwrap()),
        Ok(None) => panic!("no answer within {:?}", common::PATIENCE),
        Err(SocketError::Closed) => None,
        Err(error) => panic!("{error}"),
    }
}

fn welcomed(directory: &Path, token: String) -> MessageSocket {
    let socket = connect(directory);
    socket.send(&hello(token), &[]).unwrap();
    assert!(matches!(answer(&socket), Some(ServerMessage::Welcome { .. })));
    socket
}

fn assert_served(socket: &MessageSocket) {
    socket.send(&request(77, ClientRequest::ApplicationList), &[]).unwrap();
    match answer(socket) {
        Some(ServerMessage::Applications { request: 77, applications }) => assert_eq!(applications.len(), 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn clients_that_break_the_protocol_are_told_and_cut_off_alone() {
    let _alone = alone();
    let directory = private_directory();
    let path = directory.path();
    let server = server(path);
    let good = welcomed(path, token(path));
    assert_served(&good);
    let before = open_descriptors();
    let hello = hello(token(path));
    let again = request(1, ClientRequest::ApplicationList);
    let zero = request(0, ClientRequest::ApplicationList);
    let mut long = hello.clone();
    long.push(0);
    let wrong_version = encode(&ClientMessage::Hello { version: 99, token: token(path), network: false }).unwrap();
    // What is sent, and whether the server says why before it hangs up.
    let cases: [(&str, Vec<&[u8]>); 8] = [
        ("garbage", vec![&[0xff; 100]]),
        ("a hello cut short", vec![&hello[..hello.len() - 1]]),
        ("bytes behind the hello", vec![&long]),
        ("a request before the hello", vec![&again]),
        ("two hellos", vec![&hello, &hello]),
        ("request number 0", vec![&hello, &zero]),
        ("another version", vec![&wrong_version]),
        ("garbage after the hello", vec![&hello, &[9; 10]]),
    ];
    for (what, packets) in cases {
        let socket = connect(path);
        for packet in &packets {
            socket.send(packet, &[]).unwrap();
        }
        let mut last = None;
        while let Some(message) = answer(&socket) {
            last = Some(message);
        }
        assert!(matches!(last, Some(ServerMessage::Failed { request: 0, .. })), "{what}: {last:?}");
        assert_served(&good);
    }

    let socket = connect(path);
    socket.send(&hello, &[std::io::stdin().as_fd()]).unwrap();
    assert!(matches!(answer(&socket), Some(ServerMessage::Failed { .. })), "descriptors attached");
    assert!(answer(&socket).is_none());
    drop(socket);

    let socket = connect(path);
    // Larger than any control message: the kernel cuts it, and the connection with it.
    socket.send(&vec![1; CONTROL_MESSAGE_BYTES_MAX + 1], &[]).unwrap();
    assert!(answer(&socket).is_none(), "an oversize packet");
    drop(socket);
    assert_served(&good);
    eventually("every descriptor of the cut clients is closed", || open_descriptors() <= before);
    assert!(server.metrics().unwrap().clients_cut >= 10);
    server.shutdown().unwrap();
}

#[test]
fn tokens_of_others_are_refused_and_rights_are_checked_for_each_request() {
    let _alone = alone();
    let directory = private_directory();
    let path = directory.path();
    let server = server(path);
    let secret: [u8; 32] = std::fs::read(path.join("secret")).unwrap().try_into().unwrap();
    let secret = Secret::from_bytes(secret);
    let claims =
        |scope, rights, expires_unix_s| Claims { principal: "bob".parse().unwrap(), scope, rights, expires_unix_s };
    let foreign = Secret::generate().unwrap().sign(&claims(Scope::Any, Rights::ALL, None));
    for token in [String::new(), "x".repeat(2000), foreign, secret.sign(&claims(Scope::Any, Rights::ALL, Some(1)))] {
        let socket = connect(path);
        socket.send(&hello(token), &[]).unwrap();
        let refused = answer(&socket);
        assert!(
            matches!(refused, Some(ServerMessage::Failed { error: ControlError::TokenRefused { .. }, .. })),
            "{refused:?}"
        );
        assert!(answer(&socket).is_none());
    }

    let process = "hello/alice".parse().unwrap();
    let all = [
        ClientRequest::ProcessCreate { process, idle_swap_ms: None },
        ClientRequest::ProcessStop { process },
        ClientRequest::ProcessRestart { process },
        ClientRequest::ProcessOutput { process, from: 0, follow: false },
        ClientRequest::LaneOpen { process, payload_bytes_max: None, calls_in_flight: None, on_behalf: None },
    ];
    let elsewhere = secret.sign(&claims(Scope::Application("other".parse().unwrap()), Rights::ALL, None));
    let powerless = secret.sign(&claims(Scope::Any, Rights::NONE, None));
    for token in [elsewhere, powerless] {
        let socket = welcomed(path, token);
        for (number, body) in (1..).zip(&all) {
            socket.send(&request(number, body.clone()), &[]).unwrap();
            let refused = answer(&socket);
            assert!(
                matches!(refused, Some(ServerMessage::Failed { error: ControlError::Unauthorized { .. }, .. })),
                "{body:?}: {refused:?}"
            );
        }
    }

    let good = welcomed(path, token(path));
    for (number, body) in (1..).zip(&all[1..]) {
        good.send(&request(number, body.clone()), &[]).unwrap();
        let refused = answer(&good);
        assert!(
            matches!(refused, Some(ServerMessage::Failed { error: ControlError::UnknownProcess { .. }, .. })),
            "{body:?}: {refused:?}"
        );
    }
    // A lane that is not this client's: nothing happens.
    for message in
        [ClientMessage::Ring { lane: LaneId(1), process }, ClientMessage::LaneClose { lane: LaneId(u32::MAX), process }]
    {
        good.send(&encode(&message).unwrap(), &[]).unwrap();
    }
    good.send(
        &request(8, ClientRequest::ProcessCreate { process: "nope/x".parse().unwrap(), idle_swap_ms: None }),
        &[],
    )
    .unwrap();
    match answer(&good) {
        Some(ServerMessage::Failed { error: ControlError::UnknownApplication { known, .. }, .. }) => {
            assert_eq!(known, "hello");
        }
        other => panic!("{other:?}"),
    }
    assert_served(&good);
    server.shutdown().unwrap();
}

#[test]
fn a_process_whose_program_is_missing_fails_with_the_reason_and_leaves_nothing() {
    let _alone = alone();
    let directory = private_directory();
    let path = directory.path();
    let server = server(path);
    let client = welcomed(path, token(path));
    let before = open_descriptors();
    for number in 1..4 {
        let process = "hello/alice".parse().unwrap();
        client.send(&request(number, ClientRequest::ProcessCreate { process, idle_swap_ms: None }), &[]).unwrap();
        match answer(&client) {
            Some(ServerMessage::Failed { error: ControlError::WorkersFailed { reason, .. }, .. }) => {
                assert!(reason.contains("/nonexistent/hello"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        eventually("the process is gone", || {
            client.send(&request(100, ClientRequest::ProcessList { after: None }), &[]).unwrap();
            matches!(answer(&client), Some(ServerMessage::Processes { processes, .. }) if processes.is_empty())
        });
    }
    eventually("no descriptor is left", || open_descriptors() <= before);
    assert!(!path.join("run").join("hello").exists());
    server.shutdown().unwrap();
}

#[test]
fn a_client_that_reads_nothing_is_not_read_either() {
    let _alone = alone();
    let directory = private_directory();
    let path = directory.path();
    let server = server(path);
    let good = welcomed(path, token(path));
    let slow = welcomed(path, token(path));
    let end = Instant::now() + common::PATIENCE;
    let mut number = 0;
    loop {
        number += 1;
        match slow.try_send(&request(number, ClientRequest::ApplicationList), &[]) {
            Ok(praas_sys::Sending::Sent) if Instant::now() < end => {}
            Ok(praas_sys::Sending::Sent) => panic!("{number} requests were taken from a client that reads nothing"),
            _ => break,
        }
    }
    assert_served(&good);
    // It reads at last, and finds every answer in order, as far as its requests were taken.
    for expected in 1..number {
        match answer(&slow) {
            Some(ServerMessage::Applications { request, .. }) => assert_eq!(request, expected),
            other => panic!("{other:?} instead of answer {expected}"),
        }
    }
    server.shutdown().unwrap();
}

#[test]
fn a_server_without_descriptors_says_so_and_goes_on() {
    let directory = private_directory();
    let path = directory.path();
    let mut played = start_role("poor server", &[(DIRECTORY, path.to_str().unwrap())]);
    let lines = std::io::BufReader::new(played.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.starts_with("playing")));
    let first = welcomed(path, token(path));
    let mut crowd = Vec::new();
    let refused = loop {
        assert!(crowd.len() < 200, "{FEW} descriptors serve {} clients", crowd.len());
        let socket = connect(path);
        // A server that refuses may have done so before this.
        let _ = socket.send(&hello(token(path)), &[]);
        let message = answer(&socket);
        crowd.push(socket);
        match message {
            Some(ServerMessage::Welcome { .. }) => {}
            Some(ServerMessage::Failed { error: ControlError::LimitReached { limit, .. }, .. }) => break limit,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused, FEW);
    assert_served(&first);
    crowd.clear();
    eventually("a new client is served", || {
        let socket = connect(path);
        socket.send(&hello(token(path)), &[]).is_ok() && matches!(answer(&socket), Some(ServerMessage::Welcome { .. }))
    });
    let life = common::children_with(played.id(), "role");
    played.kill().unwrap();
    played.wait().unwrap();
    eventually("its keeper exits", || life.iter().all(|pid| !common::is_running(*pid)));
}

#[test]
fn a_connection_that_says_no_hello_is_closed_and_others_stay() {
    const HELLO: Duration = Duration::from_millis(300);
    let _alone = alone();
    let directory = private_directory();
    let path = directory.path();
    let server = Server::start(ServerOptions { client_hello: HELLO, ..options(path) }).unwrap();
    let before = open_descriptors();
    let good = welcomed(path, token(path));
    let start = Instant::now();
    let silent: Vec<_> = (0..20).map(|_| connect(path)).collect();
    for socket in &silent {
        assert!(answer(socket).is_none(), "a connection without hello was answered");
    }
    assert!(start.elapsed() >= HELLO, "a connection was closed before its time was up");
    // Older than those, and past its own look.
    assert_served(&good);
    assert_eq!(server.metrics().unwrap().clients_cut, 20);
    drop((silent, good));
    eventually("their descriptors are closed", || open_descriptors() <= before);
    drop(server);
}
