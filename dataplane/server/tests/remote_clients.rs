//! The client library over TCP to a real server and real workers: the same calls and ends as over shared memory, with either
//! driver, brokered and dedicated.

mod common;

use std::time::Duration;

use common::network::{address, listening, with_each_driver};
use common::stage::{Stage, application, block_on, options, process, status};
use common::{PATIENCE, eventually, stage};
use praas_client::{CallError, Client, ConnectOptions, ControlError, Process, RequestError, Route, Transport};
use praas_server::{DriverChoice, Server};

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

fn remote_options(stage: &Stage) -> ConnectOptions {
    let options = ConnectOptions::new().address(address(stage).to_string()).transport(Transport::Network);
    options.data_directory(stage.path())
}

/// Alice over the shared connection, and over one of her own where workers take any.
fn ways_to_alice(client: &Client) -> Vec<Process> {
    let brokered = client.process(process("alice")).unwrap();
    assert_eq!(brokered.route(), Route::Network { not_dedicated: None });
    let dedicated = client.dedicated_process(process("alice")).unwrap();
    match dedicated.route() {
        Route::Dedicated => vec![brokered, dedicated],
        other => panic!("a worker takes a connection: {other:?}"),
    }
}

#[test]
fn calls_end_as_they_do_on_the_same_host() {
    with_each_driver(|driver| {
        let stage = Stage::new(application(), listening(driver));
        let client = Client::connect(remote_options(&stage)).unwrap();
        client.create(process("alice")).unwrap();
        for alice in ways_to_alice(&client) {
            for bytes in [0, 1, 64, 65, 96, 97, 1000, 1024, 1025, 20_000, 100_000, 1 << 20] {
                let payload: Vec<u8> = (0..bytes).map(|index| u8::try_from(index % 251).unwrap()).collect();
                assert!(alice.invoke("echo", &payload).unwrap().as_slice() == payload, "{bytes} bytes");
            }
            let too_large = CallError::PayloadTooLarge { limit_bytes: 1 << 20, actual_bytes: (1 << 20) + 1 };
            assert_eq!(alice.invoke("echo", vec![5; (1 << 20) + 1]).unwrap_err(), too_large);
            let unheard = alice.invoke("unheard-of", "").unwrap_err();
            assert_eq!(unheard, CallError::UnknownFunction { function: "unheard-of".into() });
            assert!(matches!(alice.invoke("panic", ""), Err(CallError::FunctionPanicked { .. })));
            let late = alice.call("sleep").payload(b"1000").deadline(Duration::from_millis(10)).send().unwrap_err();
            assert!(matches!(late, CallError::DeadlineExceeded { .. }), "{late}");
            let unwanted = alice.start("until-unwanted", b"").unwrap();
            unwanted.cancel();
            assert_eq!(alice.invoke("echo", "the cancel was heard").unwrap().as_slice(), b"the cancel was heard");
            let typed = alice.invoke_typed::<_, Vec<u64>>("echo", &vec![1_u64, 2, 3]).unwrap();
            assert_eq!(typed.to_value().unwrap(), [1, 2, 3]);
            let awaited = block_on(alice.call("echo").payload(b"awaited"), PATIENCE).unwrap();
            assert_eq!(awaited.as_slice(), b"awaited");
            let started: Vec<_> = (0..20_u8).map(|index| alice.start("echo", &[index]).unwrap()).collect();
            for (index, call) in (0..20).zip(started).rev() {
                assert_eq!(call.wait().unwrap().as_slice(), [index]);
            }
        }
        drop(client);
        stage.end();
    });
}

#[test]
fn answers_replace_one_another_in_the_memory_that_their_caller_gives_whatever_their_sizes() {
    const PAYLOAD_BYTES_MAX: u32 = 16 << 20;
    let mut large = application();
    large.limits.payload_bytes_max = PAYLOAD_BYTES_MAX;
    let stage = Stage::new(large, listening(DriverChoice::Epoll));
    let client = Client::connect(remote_options(&stage)).unwrap();
    let local = Client::connect(ConnectOptions::new().data_directory(stage.path())).unwrap();
    client.create(process("alice")).unwrap();
    let mut ways = ways_to_alice(&client);
    ways.push(local.process(process("alice")).unwrap());
    for alice in ways {
        let mut answer = vec![9; 300];
        // Some fit an answer's head, some the receive buffer; the largest is more than a worker keeps for long.
        for (round, bytes) in
            [0, 50, 3_000, 5 << 20, 70_000, 16 << 20, 16 << 20, 1, 40_000, 6 << 20].into_iter().enumerate()
        {
            let payload: Vec<u8> = (0..bytes).map(|at| u8::try_from((at + round) % 251).unwrap()).collect();
            alice.invoke_into("echo", &payload, &mut answer).unwrap();
            assert!(answer == payload, "{bytes} bytes, {:?}", alice.route());
            let place = answer.as_ptr();
            alice.call("echo").payload(&payload).deadline(PATIENCE).send_into(&mut answer).unwrap();
            assert!(answer == payload, "{bytes} bytes again, {:?}", alice.route());
            if alice.route() != Route::SharedMemory {
                assert_eq!(answer.as_ptr(), place, "{bytes} bytes were received elsewhere, {:?}", alice.route());
            }
        }
        alice.invoke_into("panic", "", &mut answer).unwrap_err();
        assert!(answer.is_empty());
        let late = alice.call("sleep").payload(b"1000").deadline(Duration::from_millis(10)).send_into(&mut answer);
        assert!(matches!(late, Err(CallError::DeadlineExceeded { .. })));
        alice.invoke_into("echo", "after all that", &mut answer).unwrap();
        assert_eq!(answer, b"after all that");
    }
    drop((client, local));
    stage.end();
}

#[test]
fn people_ask_over_the_network_what_they_ask_on_the_host() {
    let stage = Stage::new(application(), listening(DriverChoice::Epoll));
    let client = Client::connect(remote_options(&stage)).unwrap();
    client.create(process("alice")).unwrap();
    let exists = client.create(process("alice")).unwrap_err();
    assert!(matches!(exists, RequestError::Refused(ControlError::ProcessExists { .. })), "{exists}");
    let nobody = client.process(process("nobody")).unwrap_err();
    assert!(matches!(nobody, RequestError::Refused(ControlError::UnknownProcess { .. })), "{nobody}");
    assert_eq!(status(&client, "alice").workers, 1);
    assert_eq!(client.applications().unwrap(), ["hello".parse().unwrap()]);
    let alice = client.process(process("alice")).unwrap();
    let mut output = client.follow_output(process("alice"), 0);
    let calling = alice.start("hold", b"1").unwrap();
    // The worker is a test binary, which says something of its own first.
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("holding") {
        let more = output.next(PATIENCE).unwrap();
        said.extend(more.unwrap_or_else(|| panic!("only this came: {:?}", String::from_utf8_lossy(&said))).bytes);
    }
    calling.wait().unwrap();
    assert!(client.ping(PATIENCE).unwrap().in_server.is_some());
    client.restart(process("alice")).unwrap();
    assert_eq!(alice.invoke("echo", "after the restart").unwrap().as_slice(), b"after the restart");
    client.stop(process("alice")).unwrap();
    assert_eq!(alice.invoke("echo", "").unwrap_err(), CallError::UnknownProcess { process: process("alice") });
    drop((alice, output, client));
    stage.end();
}

#[test]
fn on_the_same_host_shared_memory_is_taken() {
    let stage = Stage::new(application(), listening(DriverChoice::Epoll));
    drop(stage.with_process("alice"));
    let client = Client::connect(remote_options(&stage).transport(Transport::Automatic)).unwrap();
    assert!(!client.is_remote());
    let alice = client.process(process("alice")).unwrap();
    assert_eq!(alice.route(), Route::SharedMemory);
    assert_eq!(alice.invoke("echo", "near").unwrap().as_slice(), b"near");
    drop((alice, client));
    stage.end();
}

#[test]
fn calls_that_a_restart_refuses_are_sent_again() {
    with_each_driver(|driver| {
        let stage = Stage::new(application(), listening(driver));
        let client = Client::connect(remote_options(&stage)).unwrap();
        client.create(process("alice")).unwrap();
        for alice in ways_to_alice(&client) {
            std::thread::scope(|scope| {
                for caller in 0..3_u32 {
                    let alice = &alice;
                    scope.spawn(move || {
                        for round in 0..100_u32 {
                            let sent = [caller.to_le_bytes(), round.to_le_bytes()].concat();
                            match round % 3 {
                                0 => {
                                    let call = alice.call("echo").payload(&sent);
                                    assert_eq!(block_on(call, PATIENCE).unwrap().as_slice(), sent);
                                }
                                _ => assert_eq!(alice.invoke("echo", &sent).unwrap().as_slice(), sent),
                            }
                        }
                    });
                }
                scope.spawn(|| client.restart(process("alice")).unwrap());
            });
        }
        drop(client);
        stage.end();
    });
}

#[test]
fn a_worker_that_dies_loses_its_call_and_no_other() {
    with_each_driver(|driver| {
        let stage = Stage::new(application(), listening(driver));
        let client = Client::connect(remote_options(&stage)).unwrap();
        client.create(process("alice")).unwrap();
        for alice in ways_to_alice(&client) {
            let restarts = status(&client, "alice").worker_restarts;
            let taken = alice.start("stuck", b"").unwrap();
            eventually("the worker is killed", || {
                let pids = status(&client, "alice").worker_pids;
                std::thread::sleep(Duration::from_millis(20));
                common::kill(pids[0]);
                true
            });
            let end = taken.wait().unwrap_err();
            let lost = matches!(end, CallError::WorkerLost | CallError::ConnectionLost { may_have_run: true });
            assert!(lost, "{end}");
            assert_eq!(alice.invoke("echo", "the next one").unwrap().as_slice(), b"the next one");
            assert!(status(&client, "alice").worker_restarts > restarts);
        }
        drop(client);
        stage.end();
    });
}

#[test]
fn a_client_finds_its_server_again() {
    let stage = Stage::empty();
    let listen = |port: u16| {
        let mut options = options(stage.path(), application());
        options.listen = vec![([127, 0, 0, 1], port).into()];
        Server::start(options).unwrap()
    };
    let server = listen(0);
    let address = server.network().unwrap().addresses()[0];
    let options = ConnectOptions::new().address(address.to_string()).transport(Transport::Network);
    let client = Client::connect(options.data_directory(stage.path())).unwrap();
    client.create(process("alice")).unwrap();
    let alice = client.process(process("alice")).unwrap();
    assert_eq!(alice.invoke("echo", "before").unwrap().as_slice(), b"before");
    let incarnation = client.server_incarnation().unwrap();
    server.shutdown().unwrap();
    eventually("the loss is noticed", || client.server_incarnation().is_none());
    let server = listen(address.port());
    client.create(process("alice")).unwrap();
    assert_eq!(alice.invoke("echo", "after").unwrap().as_slice(), b"after");
    assert_ne!(client.server_incarnation().unwrap(), incarnation);
    drop((alice, client));
    server.shutdown().unwrap();
    stage.end();
}

/// What the process printed, for a test that fails.
fn said_by_alice(client: &Client) -> String {
    client.output(process("alice"), 0).map_or_else(
        |error| format!("it said nothing that could be read: {error}"),
        |output| format!("it said: {}", String::from_utf8_lossy(&output.bytes)),
    )
}

#[test]
fn threads_and_futures_share_connections_under_load() {
    with_each_driver(|driver| {
        let mut application = application();
        (application.workers_min, application.workers_max) = (2, 2);
        let stage = Stage::new(application, listening(driver));
        let client = Client::connect(remote_options(&stage)).unwrap();
        client.create(process("alice")).unwrap();
        for alice in ways_to_alice(&client) {
            std::thread::scope(|scope| {
                for caller in 0..6_u32 {
                    let (client, alice) = (&client, &alice);
                    scope.spawn(move || {
                        for round in 0..150_u32 {
                            let mut sent = [caller.to_le_bytes(), round.to_le_bytes()].concat();
                            sent.resize(8 + (round as usize * 7919) % 30_000, u8::try_from(round % 256).unwrap());
                            let reply = match caller % 2 {
                                0 => alice.invoke("echo", &sent),
                                _ => block_on(alice.call("echo").payload(&sent), PATIENCE),
                            };
                            let reply = reply.unwrap_or_else(|error| panic!("{error}; {}", said_by_alice(client)));
                            assert!(reply.as_slice() == sent);
                        }
                    });
                }
            });
        }
        drop(client);
        stage.end();
    });
}
