//! Large replies of many remote clients: whoever reads gets all of them, and whoever does not keeps nobody from theirs.

mod common;

use common::network::{listening, with_each_driver};
use common::remote::Remote;
use common::stage;
use common::stage::{Stage, application, process};
use praas_protocol::wire::Request;
use praas_protocol::{FunctionId, Outcome};
use praas_server::DriverChoice;

/// Bytes of the largest reply that the application allows.
const LARGE_BYTES: usize = 1 << 20;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

/// Asks for so many replies of so many bytes at once.
fn ask_for(remote: &mut Remote, handle: u32, count: usize, bytes: usize) -> Vec<u64> {
    let mut burst = Vec::new();
    let ids: Vec<u64> = (0..count).map(|_| remote.id()).collect();
    for id in &ids {
        let request = Request::new(*id, handle, FunctionId::of("grow"), 0);
        request.encode(bytes.to_string().as_bytes(), &mut burst);
    }
    remote.send(|out| *out = burst);
    ids
}

fn assert_all_come(remote: &mut Remote, ids: Vec<u64>, bytes: usize) {
    for id in ids {
        let (response, payload) = remote.end_of(id);
        assert_eq!((response.outcome(), payload.len()), (Some(Outcome::Ok), bytes), "{response:?}");
        assert!(payload.iter().all(|byte| *byte == 7));
    }
}

#[test]
fn the_first_burst_of_large_replies_to_many_clients_reaches_all_of_them() {
    with_each_driver(|driver| {
        let mut application = application();
        (application.workers_min, application.workers_max) = (2, 2);
        let stage = Stage::new(application, listening(driver));
        drop(stage.with_process("alice"));
        let clients = (0..6).map(|_| Remote::connect(&stage));
        std::thread::scope(|scope| {
            for mut remote in clients {
                scope.spawn(move || {
                    let alice = remote.open(process("alice"));
                    for bytes in [LARGE_BYTES, 300_000, LARGE_BYTES] {
                        let ids = ask_for(&mut remote, alice, 12, bytes);
                        assert_all_come(&mut remote, ids, bytes);
                    }
                });
            }
        });
        stage.end();
    });
}

#[test]
fn without_memory_for_a_large_lane_replies_take_turns_in_a_small_one() {
    let stage = Stage::new(application(), |options| {
        listening(DriverChoice::Epoll)(options);
        options.memory_bytes_max = Some(24 << 20);
    });
    drop(stage.with_process("alice"));
    let clients = (0..3).map(|_| Remote::connect(&stage));
    std::thread::scope(|scope| {
        for mut remote in clients {
            scope.spawn(move || {
                let alice = remote.open(process("alice"));
                let ids = ask_for(&mut remote, alice, 8, LARGE_BYTES);
                assert_all_come(&mut remote, ids, LARGE_BYTES);
            });
        }
    });
    stage.end();
}

#[test]
fn a_client_that_does_not_read_its_large_replies_keeps_nobody_from_theirs() {
    with_each_driver(|driver| {
        let stage = Stage::new(application(), |options| {
            listening(driver)(options);
            options.network_shards = 1;
        });
        drop(stage.with_process("alice"));
        let (mut idler, mut reader) = (Remote::connect(&stage), Remote::connect(&stage));
        let (its_alice, alice) = (idler.open(process("alice")), reader.open(process("alice")));
        // What the function replies is known from now on.
        assert_eq!(reader.call(alice, "grow", LARGE_BYTES.to_string().as_bytes()).0, Outcome::Ok);
        let unread = ask_for(&mut idler, its_alice, 40, LARGE_BYTES);
        for _ in 0..10 {
            let ids = ask_for(&mut reader, alice, 3, LARGE_BYTES);
            assert_eq!(reader.call(alice, "echo", b"small").0, Outcome::Ok);
            assert_all_come(&mut reader, ids, LARGE_BYTES);
        }
        assert_all_come(&mut idler, unread, LARGE_BYTES);
        drop((idler, reader));
        stage.end();
    });
}
