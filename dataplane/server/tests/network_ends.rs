//! Ends on the network: of the server, of processes and workers while calls of remote clients are in flight; what remote
//! clients manage; what an idle connection costs; a server on a host without io_uring. With either driver.

mod common;

use common::network::{address, listening, metrics, resident_bytes, stage_with_alice, with_each_driver};
use common::remote::Remote;
use common::stage::{Stage, application, process, status};
use common::{eventually, kill, stage};
use praas_protocol::Outcome;
use praas_protocol::wire::{Action, Frame, GoawayReason, Kind, List, ListApplications, Order, Output, Request};
use praas_server::{DriverChoice, DriverKind};
use praas_sys::{Feature, Grant, SandboxPlan, SpawnRequest, Spawner};

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

#[test]
fn a_server_that_ends_answers_what_it_took_says_farewell_and_closes() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let mut busy = Remote::connect(&stage);
        let mut idle = Remote::connect(&stage);
        let mut silent = Remote::silent(address(&stage));
        let alice = busy.open(process("alice"));
        let running = busy.start(alice, "hold", b"400");
        let client = stage.client();
        eventually("the call runs", || is_holding(&client));
        drop(client);
        let unclaimed: Vec<_> = (0..5).map(|_| busy.start(alice, "echo", b"late")).collect();
        // What was taken is known to the server when it answers a later ping.
        busy.send(|out| praas_protocol::wire::Ping { opaque: 1 }.encode(out));
        assert_eq!(busy.next().map(|came| came.kind()), Some(Kind::Pong));
        stage.server().stopper().stop();
        assert_eq!(idle.farewell(), (GoawayReason::ShuttingDown, 0));
        idle.await_end();
        let refusal = silent.next().expect("a refusal");
        assert_eq!((refusal.kind(), refusal.refused_code()), (Kind::Refused, 10));
        silent.await_end();
        let (reason, last) = busy.farewell();
        assert_eq!((reason, last), (GoawayReason::ShuttingDown, *unclaimed.last().unwrap()));
        let late = busy.id();
        busy.send(|out| Request::new(late, alice, praas_protocol::FunctionId::of("echo"), 0).encode(b"too late", out));
        assert_eq!(busy.end_of(running).0.outcome(), Some(Outcome::Ok));
        for id in unclaimed {
            let outcome = busy.end_of(id).0.outcome();
            assert!(matches!(outcome, Some(Outcome::Ok | Outcome::Unavailable)), "{outcome:?}");
        }
        assert!(busy.next().is_none(), "the late call is not looked at");
        drop((busy, idle, silent));
        stage.end();
    });
}

#[test]
fn a_process_that_restarts_refuses_or_answers_each_call_and_serves_on() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        let mut manager = Remote::connect(&stage);
        let request_id = manager.id();
        manager.send(|out| {
            Order { request_id, action: Action::Restart, process: process("alice"), idle_swap_ms: None }.encode(out);
        });
        let mut refused = 0;
        eventually("the process has restarted", || {
            let (outcome, payload) = remote.call(alice, "echo", b"again");
            match outcome {
                Outcome::Ok => assert_eq!(payload, b"again"),
                Outcome::Unavailable => refused += 1,
                other => panic!("{other:?}"),
            }
            status(&stage.client(), "alice").state == praas_client::ProcessState::Active && outcome == Outcome::Ok
        });
        assert_eq!(manager.answer_to(request_id).kind(), Kind::Done);
        assert_eq!(remote.call(alice, "echo", b"on").0, Outcome::Ok);
        println!("{refused} calls were refused meanwhile");
        drop((remote, manager));
        stage.end();
    });
}

#[test]
fn a_killed_worker_costs_the_call_that_it_ran_and_no_other() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let client = stage.client();
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        for _ in 0..3 {
            let running = remote.start(alice, "hold", b"20000");
            let behind = remote.start(alice, "echo", b"behind");
            eventually("the call runs", || is_holding(&client));
            for pid in status(&client, "alice").worker_pids {
                kill(pid);
            }
            assert_eq!(remote.end_of(running).0.outcome(), Some(Outcome::WorkerLost));
            assert_eq!(remote.end_of(behind).1, b"behind");
        }
        drop((remote, client));
        stage.end();
    });
}

/// Whether the newest worker has begun to hold a call.
fn is_holding(client: &praas_client::Client) -> bool {
    let output = client.output(process("alice"), 0).unwrap().bytes;
    let text = String::from_utf8_lossy(&output).into_owned();
    let pids = status(client, "alice").worker_pids;
    pids.iter().any(|pid| text.contains(&format!("holding in {pid}.")))
}

#[test]
fn remote_clients_manage_what_their_token_allows() {
    with_each_driver(|driver| {
        let stage = Stage::new(application(), listening(driver));
        let mut remote = Remote::connect(&stage);
        let mut ask = |encode: &dyn Fn(u64, &mut Vec<u8>)| {
            let id = remote.id();
            remote.send(|out| encode(id, out));
            remote.answer_to(id)
        };
        let order = |action, name: &'static str| {
            move |request_id: u64, out: &mut Vec<u8>| {
                Order { request_id, action, process: process(name), idle_swap_ms: None }.encode(out);
            }
        };
        for name in ["alice", "bob"] {
            assert_eq!(ask(&order(Action::Create, name)).kind(), Kind::Done);
        }
        assert_eq!(ask(&order(Action::Create, "bob")).refused_code(), 6);
        let list = ask(&|request_id, out| List { request_id, after: None }.encode(out));
        let Frame::Processes(page) = list.frame() else { panic!("{:?}", list.frame()) };
        let ids: Vec<_> = page.rows().map(|row| (row.process, row.workers)).collect();
        assert_eq!((ids, page.more), (vec![(process("alice"), 1), (process("bob"), 1)], false));
        let list = ask(&|request_id, out| List { request_id, after: Some(process("alice")) }.encode(out));
        assert!(matches!(list.frame(), Frame::Processes(page) if page.rows().count() == 1));
        let names = ask(&|request_id, out| ListApplications { request_id, after: None }.encode(out));
        assert!(matches!(names.frame(), Frame::Applications(page) if page.names().eq(["hello".parse().unwrap()])));
        let names = ask(&|request_id, out| {
            ListApplications { request_id, after: Some("hello".parse().unwrap()) }.encode(out);
        });
        assert!(matches!(names.frame(), Frame::Applications(page) if page.names().count() == 0));
        let output = ask(&|request_id, out| {
            Output { request_id, process: process("nobody"), from: 0, follow: false }.encode(out);
        });
        assert_eq!(output.refused_code(), 5);
        assert_eq!(ask(&order(Action::Stop, "bob")).kind(), Kind::Done);
        assert_eq!(ask(&order(Action::Restart, "bob")).refused_code(), 5);
        drop(remote);
        stage.end();
    });
}

#[test]
fn followed_output_comes_when_there_is_some_and_ends_with_its_connection() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let clients = stage.server().metrics().unwrap().clients_accepted;
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        let follow = |remote: &mut Remote, from| {
            let request_id = remote.id();
            remote.send(|out| Output { request_id, process: process("alice"), from, follow: true }.encode(out));
            request_id
        };
        let first = follow(&mut remote, 0);
        let end = match remote.answer_to(first).frame() {
            Frame::OutputChunk(chunk) => chunk.position + chunk.bytes.len() as u64,
            other => panic!("{other:?}"),
        };
        let mut watcher = Remote::connect(&stage);
        let second = follow(&mut watcher, end);
        assert_eq!(remote.call(alice, "hold", b"1").0, Outcome::Ok);
        match watcher.answer_to(second).frame() {
            Frame::OutputChunk(chunk) => assert!(chunk.bytes.starts_with(b"holding in ")),
            other => panic!("{other:?}"),
        }
        // Far more than one token may leave unanswered: each connection's end takes its own back.
        for _ in 0..20 {
            let mut watcher = Remote::connect(&stage);
            for _ in 0..60 {
                follow(&mut watcher, 1 << 40);
            }
        }
        let mut last = Remote::connect(&stage);
        let third = follow(&mut last, 0);
        assert_eq!(last.answer_to(third).kind(), Kind::OutputChunk);
        println!("{} control sessions", stage.server().metrics().unwrap().clients_accepted - clients);
        drop((remote, watcher, last));
        eventually("connections are gone", || metrics(&stage).connections_open == 0);
        stage.end();
    });
}

#[test]
fn idle_connections_take_little_memory() {
    const CONNECTIONS: u64 = 1500;
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let token = std::fs::read_to_string(stage.path().join("token")).unwrap();
        let connect = |count: u64| -> Vec<Remote> {
            let mut held: Vec<Remote> = Vec::new();
            for _ in 0..count {
                let (mut remote, _) = Remote::with_token(address(&stage), &token);
                let alice = remote.open(process("alice"));
                assert_eq!(remote.call(alice, "echo", &[1; 200]).0, Outcome::Ok);
                held.push(remote);
            }
            held
        };
        // What is there once: buffers of the drivers, lanes, the client's own tables.
        let first = connect(300);
        let before = resident_bytes();
        let held = connect(CONNECTIONS);
        let each = resident_bytes().saturating_sub(before) / CONNECTIONS;
        println!("{driver:?}: {each} bytes an idle connection, both ends of it");
        assert!(each <= 4096, "{each} bytes for each idle connection");
        drop((first, held));
        stage.end();
    });
}

#[test]
fn a_server_that_is_refused_io_uring_serves_by_epoll() {
    const TEST: &str = "a_server_that_is_refused_io_uring_serves_by_epoll";
    const FILTERED: &str = "TEST_FILTERED";
    if std::env::var_os(FILTERED).is_some() {
        return serve_without_io_uring();
    }
    // No other test counts descriptors meanwhile.
    let _alone = Stage::empty();
    // The filter of workers refuses io_uring, as those of container engines do.
    let directory = common::private_directory();
    let mut plan = SandboxPlan::unconfined(std::env::current_exe().unwrap(), directory.path());
    plan.confinement.seccomp = true;
    let sandbox = plan.prepare(None).unwrap();
    if let Grant::Lacking { why, .. } = sandbox.report().grant(Feature::Seccomp) {
        return println!("skipped: {why}");
    }
    let request = SpawnRequest {
        arguments: [TEST, "--exact", "--nocapture"].map(Into::into).to_vec(),
        environment: vec![(FILTERED.into(), "1".into())],
        fds: Vec::new(),
        sandbox,
        cgroup: None,
        output: praas_sys::Output::Inherit,
    };
    // What it started ends with it.
    let spawner = Spawner::start().unwrap();
    let spawned = spawner.spawn(request).unwrap();
    let exit = spawned.pidfd.wait_deadline(common::PATIENCE).unwrap().expect("it ends");
    assert!(exit.is_success(), "{exit:?}");
}

fn serve_without_io_uring() {
    let before = praas_sys::driver::probe();
    assert!(before.is_err(), "{before:?}");
    let stage = Stage::new(application(), listening(DriverChoice::Auto));
    assert_eq!(stage.server().network().unwrap().driver(), DriverKind::Epoll);
    drop(stage.with_process("alice"));
    let mut remote = Remote::connect(&stage);
    let alice = remote.open(process("alice"));
    assert_eq!(remote.call(alice, "echo", b"by epoll"), (Outcome::Ok, b"by epoll".to_vec()));
    drop(remote);
    stage.end();
    let other = common::private_directory();
    let mut options = stage::options(other.path(), application());
    listening(DriverChoice::IoUring)(&mut options);
    let error = praas_server::Server::start(options).unwrap_err();
    assert!(matches!(error, praas_server::StartError::Driver(_)), "{error}");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let stage = Stage::new(application(), listening(DriverChoice::Auto));
    let taken = address(&stage);
    let other = common::private_directory();
    let mut options = stage::options(other.path(), application());
    options.listen = vec![taken];
    let error = praas_server::Server::start(options).unwrap_err();
    assert!(matches!(error, praas_server::StartError::Listen { address, .. } if address == taken), "{error}");
    stage.end();
}

#[test]
fn a_connection_that_no_worker_takes_goes_on_as_before() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        for _ in 0..3 {
            let refused = remote.dedicate(process("nobody"));
            assert_eq!((refused.kind(), refused.refused_code()), (Kind::Refused, 5));
            assert_eq!(remote.call(alice, "echo", b"as before"), (Outcome::Ok, b"as before".to_vec()));
        }
        drop(remote);
        stage.end();
    });
}

#[test]
fn a_connection_is_given_to_a_worker_and_served_by_it() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        assert_eq!(remote.call(alice, "echo", b"by the shard").0, Outcome::Ok);
        let handed_over = remote.dedicate(process("alice"));
        assert_eq!(handed_over.kind(), Kind::HandedOver, "{:?}", handed_over.frame());
        eventually("the shard has let go", || metrics(&stage).connections_open == 0);
        for bytes in [0, 64, 5000, 1 << 20] {
            let sent = vec![8; bytes];
            let (outcome, payload) = remote.call(0, "echo", &sent);
            assert!((outcome, &payload) == (Outcome::Ok, &sent), "{bytes} bytes: {outcome:?}");
        }
        drop(remote);
        stage.end();
    });
}
