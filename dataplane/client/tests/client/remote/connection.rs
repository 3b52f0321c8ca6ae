//! Reaching a server, losing it, following a process to another, and connections of a process' own.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use praas_client::{CallError, Client, ConnectError, ConnectOptions, ControlError, RequestError, Route, Transport};
use praas_protocol::wire::{GoawayReason, Refusal};
use praas_protocol::{FunctionId, Outcome};

use super::wire_server::{Reaction, Script, WireServer, lock, react};
use crate::futures::block_on;
use crate::scripted::{alice, eventually};

const SHORT: Duration = Duration::from_millis(50);

/// A connection that was quiet for this time is looked at before a call is sent.
const QUIET: Duration = Duration::from_millis(2);

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn several_addresses_are_tried_in_turn() {
    let server = WireServer::start(Script::default());
    let port = server.socket_address().port();
    let options = ConnectOptions::new().token("praas1.00.00").transport(Transport::Network);
    let options = options.address(nobody().to_string()).address("no-such-host.invalid:1");
    let client = Client::connect(options.address(format!("localhost:{port}"))).unwrap();
    assert!(client.is_remote());
    assert_eq!(client.process(alice()).unwrap().invoke("echo", b"x").unwrap().as_slice(), b"x");
}

#[test]
fn an_ipv6_address_is_as_good() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this host has no IPv6");
        return;
    }
    let server = WireServer::start_at("[::1]:0".parse().unwrap(), Script::default());
    assert_eq!(server.process().invoke("echo", b"x").unwrap().as_slice(), b"x");
}

#[test]
fn without_a_server_the_error_says_what_was_tried() {
    let (first, second) = (nobody().to_string(), nobody().to_string());
    let alone = Client::connect_remote(&first, "t").unwrap_err();
    assert!(matches!(&alone, ConnectError::Unreachable { address, .. } if *address == first), "{alone}");
    let both = Client::connect(ConnectOptions::new().token("t").address(&first).address(&second)).unwrap_err();
    assert!(both.to_string().contains(&first) && both.to_string().contains(&second), "{both}");
    let no_port = Client::connect_remote("localhost", "t").unwrap_err();
    assert!(matches!(no_port, ConnectError::Unreachable { .. }), "{no_port}");
}

#[test]
fn a_refused_hello_is_typed_and_other_addresses_are_not_bothered() {
    let refusal = ControlError::TokenRefused { reason: "expired".into() };
    let server = WireServer::start(Script { refuse_hello: Some(refusal.clone()), ..Script::default() });
    let other = WireServer::start(Script::default());
    match Client::connect(server.options().address(other.address())) {
        Err(ConnectError::Refused(refused)) => assert_eq!(refused, refusal),
        outcome => panic!("{outcome:?}"),
    }
    assert_eq!(other.shared().connections.load(Ordering::SeqCst), 0);
}

#[test]
fn a_server_of_another_version_is_told_apart() {
    let server = WireServer::start(Script { version: 2, ..Script::default() });
    match Client::connect(server.options()) {
        Err(ConnectError::Refused(ControlError::WrongVersion { server: 2, client: 1 })) => {}
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn a_name_that_two_hosts_share_is_not_taken_for_this_one() {
    let directory = tempfile::tempdir().unwrap();
    let socket_path = directory.path().join("praas.sock").to_str().unwrap().to_owned();
    let server = WireServer::start(Script { socket_path: socket_path.clone(), ..Script::default() });
    let client = Client::connect(server.options().transport(Transport::Automatic)).unwrap();
    assert!(client.is_remote(), "the host id is another");
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let path = directory.path().canonicalize().unwrap();
    let host_id = praas_protocol::wire::host_id(boot_id.trim(), &path);
    let script = Script { socket_path, host_id, ..Script::default() };
    let server = WireServer::start(script.clone());
    let client = Client::connect(server.options().transport(Transport::Automatic)).unwrap();
    assert!(client.is_remote(), "nobody answers on the socket");
    let local = crate::scripted::ScriptedServer::start(directory.path(), crate::scripted::Script::default());
    let client = Client::connect(server.options().transport(Transport::Automatic)).unwrap();
    assert!(!client.is_remote(), "shared memory is used");
    assert_eq!(client.process(alice()).unwrap().route(), Route::SharedMemory);
    assert_eq!(client.process(alice()).unwrap().invoke("echo", b"x").unwrap().as_slice(), b"x");
    assert!(Client::connect(server.options()).unwrap().is_remote(), "unless the network is asked for");
    let other = WireServer::start(Script { incarnation: 8, ..script });
    let client = Client::connect(other.options().transport(Transport::Automatic)).unwrap();
    assert!(client.is_remote(), "another server answers on the socket");
    drop(local);
}

#[test]
fn an_unknown_process_is_refused_when_it_is_opened() {
    let server = WireServer::start(Script::default());
    match server.client().process("hello/bob".parse().unwrap()) {
        Err(RequestError::Refused(ControlError::UnknownProcess { .. })) => {}
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn a_server_that_dies_ends_calls_in_flight_at_once() {
    let server = WireServer::start(Script::default());
    let client = server.client();
    let process = client.process(alice()).unwrap();
    let started = process.start("hold", b"x").unwrap();
    thread::scope(|scope| {
        let blocked = scope.spawn(|| process.invoke("hold", b"y"));
        let future = scope.spawn(|| block_on(async { process.call("hold").await }));
        eventually("all are taken", || server.shared().held() == 3);
        drop(server);
        let lost = CallError::ConnectionLost { may_have_run: true };
        assert_eq!(blocked.join().unwrap().unwrap_err(), lost);
        assert_eq!(future.join().unwrap().unwrap_err(), lost);
        assert_eq!(started.wait().unwrap_err(), lost);
    });
    let later = process.call("echo").deadline(SHORT).send().unwrap_err();
    assert_eq!(later, CallError::ConnectionLost { may_have_run: false });
    let later = block_on(async { process.call("echo").deadline(SHORT).await }).unwrap_err();
    assert_eq!(later, CallError::ConnectionLost { may_have_run: false });
    assert_eq!(client.server_incarnation(), None);
}

#[test]
fn the_same_process_goes_on_after_the_server_came_back() {
    // An address of its own: at the others', somebody else may be given its port while it is away.
    let server = WireServer::start_at("127.0.0.77:0".parse().unwrap(), Script::default());
    let address = server.socket_address();
    let client = server.client();
    let process = client.process(alice()).unwrap();
    assert_eq!(process.invoke("echo", b"before").unwrap().as_slice(), b"before");
    drop(server);
    thread::sleep(QUIET);
    thread::scope(|scope| {
        let blocked: Vec<_> = (0..4).map(|_| scope.spawn(|| process.invoke("echo", b"after"))).collect();
        let future = scope.spawn(|| block_on(async { process.call("echo").payload(b"future").await }));
        let server = WireServer::start_at(address, Script { incarnation: 8, ..Script::default() });
        for call in blocked {
            assert_eq!(call.join().unwrap().unwrap().as_slice(), b"after");
        }
        assert_eq!(future.join().unwrap().unwrap().as_slice(), b"future");
        assert_eq!(client.server_incarnation(), Some(8));
        assert_eq!(server.shared().connections.load(Ordering::SeqCst), 1, "all share the one that was made anew");
    });
}

#[test]
fn calls_that_a_farewell_does_not_cover_are_sent_again() {
    let rounds = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&rounds);
    let script = Script {
        react: Arc::new(move |shared, request, payload| {
            if request.function == FunctionId::of("farewell") && counted.fetch_add(1, Ordering::SeqCst) == 0 {
                return Reaction::Goaway(request.request_id - 1, GoawayReason::ShuttingDown);
            }
            match request.function == FunctionId::of("farewell") {
                true => Reaction::Answer(Outcome::Ok, 0, payload.to_vec()),
                false => react(shared, request, payload),
            }
        }),
        ..Script::default()
    };
    let server = WireServer::start(script);
    let process = server.process();
    let taken = process.start("hold", b"taken").unwrap();
    eventually("the call is taken", || server.shared().held() == 1);
    assert_eq!(process.invoke("farewell", b"again").unwrap().as_slice(), b"again");
    assert_eq!(taken.wait().unwrap().as_slice(), b"taken");
    assert_eq!(server.shared().connections.load(Ordering::SeqCst), 2);
    // The same for a future.
    rounds.store(0, Ordering::SeqCst);
    assert_eq!(block_on(async { process.call("farewell").payload(b"f").await }).unwrap().as_slice(), b"f");
}

#[test]
fn a_quiet_connection_that_the_server_closed_costs_no_call() {
    let server = WireServer::start(Script::default());
    let process = server.process();
    for _ in 0..3 {
        assert_eq!(process.invoke("echo", b"x").unwrap().as_slice(), b"x");
        server.shared().disconnect();
        eventually("the server's end is closed", || server.shared().open_connections() == 0);
        thread::sleep(QUIET);
    }
    assert_eq!(process.invoke("echo", b"x").unwrap().as_slice(), b"x");
}

#[test]
fn a_process_that_moved_is_followed_within_bounds() {
    let (here, there) = (WireServer::start(Script::default()), WireServer::start(Script::default()));
    let elsewhere = Refusal::Moved { to: there.address() };
    let process = here.process();
    *lock(&here.shared().moved_to) = there.address();
    let script = Script {
        react: Arc::new(|_, _, payload| Reaction::Answer(Outcome::Ok, 0, payload.to_vec())),
        ..Script::default()
    };
    there.shared().rewrite(|own| *own = script);
    assert_eq!(process.invoke("moved", b"x").unwrap().as_slice(), b"x");
    assert_eq!(process.invoke("moved", b"directly now").unwrap().as_slice(), b"directly now");
    assert_eq!(there.shared().opens.load(Ordering::SeqCst), 1);
    // Opening follows too.
    here.shared().rewrite(|script| script.refuse_open = Some(elsewhere));
    let second = here.process();
    assert_eq!(second.invoke("echo", b"y").unwrap().as_slice(), b"y");
    // Two servers that name each other are not followed for ever.
    let (one, other) = (WireServer::start(Script::default()), WireServer::start(Script::default()));
    one.shared().rewrite(|script| script.refuse_open = Some(Refusal::Moved { to: other.address() }));
    other.shared().rewrite(|script| script.refuse_open = Some(Refusal::Moved { to: one.address() }));
    let endless = one.client().process(alice()).unwrap_err();
    assert!(matches!(endless, RequestError::Moved { .. }), "{endless}");
}

#[test]
fn a_worker_can_take_a_connection() {
    let server = WireServer::start(Script::default());
    let client = Client::connect(server.options().dedicated(true)).unwrap();
    let process = client.process(alice()).unwrap();
    assert_eq!(process.route(), Route::Dedicated);
    assert_eq!(process.invoke("echo", b"x").unwrap().as_slice(), b"x");
    assert_eq!(block_on(async { process.call("echo").payload(b"y").await }).unwrap().as_slice(), b"y");
    assert_eq!(server.shared().opens.load(Ordering::SeqCst), 0);
    assert_eq!(server.shared().connections.load(Ordering::SeqCst), 2);
    // A worker does not know where processes live.
    let malformed = process.invoke("moved", b"").unwrap_err();
    assert!(matches!(malformed, CallError::MalformedReply { .. }), "{malformed}");
    drop(process);
    eventually("the connection ends with its process", || server.shared().open_connections() == 1);
}

#[test]
fn where_no_worker_takes_it_calls_go_the_ordinary_way() {
    let full = ControlError::LimitReached {
        what: "dedicated connections".into(),
        used: 4,
        limit: 4,
        asked: 1,
        advice: "use a brokered one".into(),
    };
    let server = WireServer::start(Script { refuse_dedicate: Some(full.into()), ..Script::default() });
    let process = server.client().dedicated_process(alice()).unwrap();
    match process.route() {
        Route::Network { not_dedicated: Some(why) } => assert!(why.contains("dedicated connections"), "{why}"),
        route => panic!("{route:?}"),
    }
    assert_eq!(process.invoke("echo", b"x").unwrap().as_slice(), b"x");
    let gone = ControlError::UnknownProcess { process: alice() };
    server.shared().rewrite(|script| script.refuse_dedicate = Some(gone.into()));
    assert!(matches!(
        server.client().dedicated_process(alice()),
        Err(RequestError::Refused(ControlError::UnknownProcess { .. }))
    ));
}

#[test]
fn a_dedicated_connection_whose_worker_died_ends_its_calls_and_is_replaced() {
    let script = Script {
        react: Arc::new(|shared, request, payload| match request.function == FunctionId::of("die") {
            true => Reaction::Reset,
            false => react(shared, request, payload),
        }),
        ..Script::default()
    };
    let server = WireServer::start(script);
    let process = server.client().dedicated_process(alice()).unwrap();
    assert_eq!(process.invoke("die", b"").unwrap_err(), CallError::ConnectionLost { may_have_run: true });
    assert_eq!(process.invoke("echo", b"x").unwrap().as_slice(), b"x");
    assert_eq!(process.route(), Route::Dedicated);
}

#[test]
fn a_server_that_says_nothing_is_given_up_in_time() {
    let mute = WireServer::start(Script { mute: true, ..Script::default() });
    let server = WireServer::start(Script::default());
    let client = Client::connect(mute.options().address(server.address())).unwrap();
    assert_eq!(client.process(alice()).unwrap().invoke("echo", b"x").unwrap().as_slice(), b"x");
}

#[test]
fn dropping_everything_ends_the_connection_and_its_thread() {
    let server = WireServer::start(Script::default());
    let client = server.client();
    let process = client.process(alice()).unwrap();
    block_on(async { process.call("echo").await }).unwrap();
    let uncollected = process.start("hold", b"x").unwrap();
    drop((client, process));
    assert_eq!(server.shared().open_connections(), 1);
    drop(uncollected);
    eventually("the connection is closed", || server.shared().open_connections() == 0);
}
