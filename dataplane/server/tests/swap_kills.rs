//! Servers that are killed while processes go to sleep and wake: at every operation of storage in turn. The next server has
//! every process, awake or asleep, with all that it was ever told.

mod common;

use common::deadly::{self, await_end, end, start, start_again};
use common::filing::{directories, filing};
use common::mails::{ask, processes};
use common::sleeping::told;
use common::stage::{Stage, process, status};
use common::{ROLE, eventually, is_keeper_socket, stage};
use praas_client::{CallError, ProcessState};

/// Instants that a test goes through at most: far more than a swap has.
const INSTANTS_MAX: u64 = 60;

/// Large objects of a process that comes back piece by piece, and bytes of each: more than is read before a process runs.
const LARGE: u64 = 12;
const LARGE_BYTES: usize = 400_000;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::filing::serve(),
        Ok("killed server") if !is_keeper_socket(&std::io::stdin()) => deadly::play_server(filing()),
        _ => stage::play(),
    }
}

#[test]
fn a_server_killed_at_any_instant_of_a_swap_out_leaves_the_process_awake_with_all_it_knew() {
    let stage = Stage::empty();
    let Some(mut server) = start(&stage, 0) else { return stage.end() };
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "keep", "large 300000 7").unwrap();
    for killed_at in 1..=INSTANTS_MAX {
        assert_eq!(ask(&alice, "add", "").unwrap(), killed_at.to_string());
        ask(&alice, "file-put", &format!("file {} {killed_at}", 200_000 + killed_at)).unwrap();
        let file = told(200_000 + usize::try_from(killed_at).unwrap(), killed_at);
        ask(&bob, "send", &format!("alice numbers {killed_at}")).unwrap();
        // The next server has it from the keeper, so that its first operation of storage is one of the swap.
        server.kill();
        server = start_again(&stage, &client, killed_at);
        if client.swap(process("alice")).is_ok() {
            println!("a swap-out has {} instants", killed_at - 1);
            assert!(killed_at > 6, "it was killed {} times only", killed_at - 1);
            // It would be killed at one of the next instants.
            server.kill();
            server = start_again(&stage, &client, 0);
            assert_eq!(status(&client, "alice").state, ProcessState::Swapped);
            let expected: Vec<_> = (1..=killed_at).map(|number| format!("bob:{number}")).collect();
            let received = ask(&alice, "all", "bob numbers").unwrap();
            assert_eq!(received.replace('!', ""), expected.join(" "));
            assert_eq!(ask(&alice, "file-told", "file").unwrap(), file);
            drop((alice, bob, client));
            end(server);
            return stage.end();
        }
        await_end(server);
        server = start_again(&stage, &client, 0);
        let state = status(&client, "alice").state;
        println!("killed at instant {killed_at} of a swap-out: {state}");
        // What was published meanwhile is what the keeper has, too: memory counts.
        assert_eq!(state, ProcessState::Active);
        assert_eq!(ask(&alice, "sum", "").unwrap(), killed_at.to_string());
        assert_eq!(ask(&alice, "file-told", "file").unwrap(), file);
        assert!(ask(&alice, "kept", "large").unwrap().starts_with("300000 of 7 true"));
    }
    panic!("a swap-out takes more than {INSTANTS_MAX} instants");
}

#[test]
fn a_server_killed_at_any_instant_of_a_swap_in_leaves_the_process_asleep_and_the_call_goes_to_the_next() {
    let stage = Stage::empty();
    let Some(mut server) = start(&stage, 0) else { return stage.end() };
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    ask(&alice, "keep", "large 300000 7").unwrap();
    ask(&alice, "file-put", "deep/file 200000 5").unwrap();
    for killed_at in 1..=INSTANTS_MAX {
        client.swap(process("alice")).unwrap();
        end(server);
        server = start_again(&stage, &client, killed_at);
        let is_through = std::thread::scope(|scope| {
            let call = scope.spawn(|| ask(&alice, "add", ""));
            eventually("the call or the server ends", || {
                call.is_finished() || server.child.try_wait().unwrap().is_some()
            });
            let is_through = call.is_finished();
            if !is_through {
                server = start(&stage, 0).unwrap();
            }
            assert_eq!(call.join().unwrap().unwrap(), killed_at.to_string(), "killed at {killed_at}");
            is_through
        });
        assert!(ask(&alice, "kept", "large").unwrap().starts_with("300000 of 7 true"));
        assert_eq!(ask(&alice, "file-told", "deep/file").unwrap(), told(200_000, 5));
        assert_eq!(directories(stage.path()).len(), 1, "what killed servers have left is gone");
        if is_through {
            println!("a swap-in has {} instants", killed_at - 1);
            assert!(killed_at > 2, "it was never killed");
            // It would be killed when it puts the process to sleep at its end.
            server.kill();
            server = start_again(&stage, &client, 0);
            assert_eq!(ask(&alice, "sum", "").unwrap(), killed_at.to_string());
            drop((alice, client));
            end(server);
            return stage.end();
        }
    }
    panic!("a swap-in takes more than {INSTANTS_MAX} instants");
}

#[test]
fn a_server_killed_while_a_process_comes_back_piece_by_piece_leaves_it_with_all_it_knew() {
    let stage = Stage::empty();
    let Some(mut server) = start(&stage, 0) else { return stage.end() };
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    // What each object is made of; one is replaced in each round, when some of it all is still in storage.
    let mut seeds: Vec<u64> = (0..LARGE).collect();
    let scatter = |number: usize, seed: u64| {
        ask(&alice, "scatter", &format!("large-{number} {LARGE_BYTES} {seed}")).unwrap();
    };
    seeds.iter().enumerate().for_each(|(number, seed)| scatter(number, *seed));
    let mut rounds = 0_u32;
    // Each at first, where the manifest is claimed and the first page comes; later ones are alike.
    for killed_at in (1..10).chain((10..=INSTANTS_MAX).step_by(5)) {
        client.swap(process("alice")).unwrap();
        end(server);
        server = start_again(&stage, &client, killed_at);
        let is_through = std::thread::scope(|scope| {
            let look = scope.spawn(|| {
                for (number, seed) in seeds.iter().enumerate() {
                    let found = loop {
                        match ask(&alice, "scattered", &format!("large-{number}")) {
                            // Looking twice is the same as once.
                            Err(CallError::ConnectionLost { .. } | CallError::WorkerLost) => {}
                            found => break found.unwrap(),
                        }
                    };
                    assert_eq!(found, told(LARGE_BYTES, *seed), "{number}, killed at {killed_at}");
                }
            });
            eventually("all was looked at, or the server is killed", || {
                look.is_finished() || server.child.try_wait().unwrap().is_some()
            });
            let is_through = look.is_finished();
            if !is_through {
                server = start(&stage, 0).unwrap();
            }
            look.join().unwrap();
            is_through
        });
        rounds += 1;
        if is_through {
            // It may be killed by what comes back in the background.
            server.kill();
            server = start_again(&stage, &client, 0);
        }
        let number = usize::try_from(killed_at % LARGE).unwrap();
        seeds[number] = 1000 + killed_at;
        scatter(number, seeds[number]);
        assert_eq!(ask(&alice, "add", "").unwrap(), rounds.to_string());
        if is_through {
            println!("all was looked at before instant {killed_at}");
            break;
        }
    }
    assert!(rounds > 8, "it was killed {rounds} times only");
    client.swap(process("alice")).unwrap();
    for (number, seed) in seeds.iter().enumerate() {
        assert_eq!(ask(&alice, "scattered", &format!("large-{number}")).unwrap(), told(LARGE_BYTES, *seed));
    }
    drop((alice, client));
    end(server);
    stage.end();
}
