//! Logged processes whose server and keeper both die: the next server makes them again of what they slept with and their logs,
//! with everything that anybody was told of.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::killed::{await_server, kill_all, logs};
use common::mails::{ask, processes};
use common::random::Random;
use common::sleeping::{self, sleeping};
use common::stage::{Played, Stage, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, killed, stage};
use praas_client::{CallError, Client, ProcessState};
use praas_protocol::{Durability, IdempotencyKey};

/// Servers killed under load, unless the environment says otherwise.
const KILLS: usize = 6;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => sleeping::serve(),
        Ok("durable server") if !is_keeper_socket(&std::io::stdin()) => killed::play_server(sleeping()),
        _ => stage::play(),
    }
}

fn start(stage: &Stage) -> Option<Played> {
    killed::start(stage, Durability::Logged)
}

fn end(server: Played, stage: Stage) {
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}

/// What a process is to have after a number of rounds.
fn check(client: &Client, rounds: u64) {
    let alice = client.process(process("alice")).unwrap();
    assert_eq!(ask(&alice, "sum", "").unwrap(), rounds.to_string());
    assert!(ask(&alice, "kept", "large").unwrap().starts_with("300000 of 7 true"));
    assert_eq!(ask(&alice, "kept", "gone").unwrap(), "nothing");
}

#[test]
fn everything_that_was_told_is_there_after_server_and_keeper_are_killed_awake_asleep_and_in_between() {
    let stage = Stage::empty();
    let Some(mut server) = start(&stage) else { return stage.end() };
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "keep", "large 300000 7").unwrap();
    ask(&alice, "keep", "gone 100 1").unwrap();
    ask(&alice, "forget", "gone").unwrap();
    for round in 1..=6_u64 {
        assert_eq!(ask(&alice, "add", "").unwrap(), round.to_string());
        ask(&bob, "send", &format!("alice numbers {round}")).unwrap();
        match round {
            // Never slept; slept and is awake again; sleeps; the server ended cleanly just before.
            2 | 3 => {
                client.swap(process("alice")).unwrap();
                check(&client, round);
            }
            4 => client.swap(process("alice")).unwrap(),
            5 => {
                server.terminate();
                assert_eq!(server.end(), Some(42));
                server = start(&stage).unwrap();
                await_server(&client);
                check(&client, round);
            }
            _ => {}
        }
        kill_all(&mut server, &stage);
        server = start(&stage).unwrap();
        await_server(&client);
        check(&client, round);
        println!("round {round}: {:?}", status(&client, "alice").state);
    }
    let received = ask(&alice, "all", "bob numbers").unwrap();
    let expected: Vec<_> = (1..=6).map(|number| format!("bob:{number}")).collect();
    assert_eq!(received.replace('!', ""), expected.join(" "));
    kill_all(&mut server, &stage);
    server = start(&stage).unwrap();
    await_server(&client);
    assert_eq!(ask(&alice, "all", "bob numbers").unwrap(), "", "what was received came back");
    client.stop(process("alice")).unwrap();
    client.stop(process("bob")).unwrap();
    let left = |of: &str| std::fs::read_dir(stage.path().join(of)).map_or(0, |entries| entries.count());
    assert_eq!((left("logs"), left("swapped/hello")), (0, 0), "something is left of what was stopped");
    kill_all(&mut server, &stage);
    server = start(&stage).unwrap();
    await_server(&client);
    assert_eq!(client.list().unwrap(), []);
    drop((alice, bob, client));
    end(server, stage);
}

#[test]
fn a_server_whose_keeper_lives_goes_on_with_the_log_and_another_one_makes_everything_of_it() {
    let stage = Stage::empty();
    let Some(mut server) = start(&stage) else { return stage.end() };
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    ask(&alice, "keep", "large 300000 7").unwrap();
    for round in 1..=4 {
        assert_eq!(ask(&alice, "add", "").unwrap(), round.to_string());
        // The memory is there; then nothing is.
        server.kill();
        server = start(&stage).unwrap();
        await_server(&client);
        check(&client, round);
        kill_all(&mut server, &stage);
        server = start(&stage).unwrap();
        await_server(&client);
        check(&client, round);
    }
    drop((alice, client));
    end(server, stage);
}

#[test]
fn under_load_nothing_that_was_told_is_lost_and_nothing_happens_twice_when_everything_is_killed() {
    let kills = std::env::var("PRAAS_SERVER_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut random = Random::printed("killed servers and keepers of logged processes");
    let stage = Stage::empty();
    let Some(mut server) = start(&stage) else { return stage.end() };
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    let over = AtomicBool::new(false);
    let sums = [sleeping::Sum::default(), sleeping::Sum::default()];
    let (keyed, keyed_told) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for (sum, name) in sums.iter().zip(["alice", "bob"]) {
            for _ in 0..2 {
                let (over, client) = (&over, &client);
                scope.spawn(move || {
                    let process = client.process(process(name)).unwrap();
                    sum.add_until(over, &process);
                });
            }
        }
        scope.spawn(|| {
            // Each is repeated until it is told of: it adds once.
            let carol = client.create(process("carol")).and_then(|()| client.process(process("carol"))).unwrap();
            while !over.load(Ordering::Relaxed) {
                let key =
                    IdempotencyKey::from_bytes(u128::from(keyed.fetch_add(1, Ordering::Relaxed) + 1).to_le_bytes());
                let tried = std::time::Instant::now();
                loop {
                    let call = carol.call("add").idempotency_key(key).deadline(PATIENCE).send();
                    match call {
                        Ok(_) => {
                            keyed_told.fetch_add(1, Ordering::Relaxed);
                            break;
                        }
                        // Its worker was killed while it ran it, and nobody may run it again.
                        Err(CallError::WorkerLost) => break,
                        Err(error) => assert!(tried.elapsed() < PATIENCE, "{error}"),
                    }
                }
            }
        });
        for _ in 0..kills {
            std::thread::sleep(Duration::from_millis(150 + random.below(350)));
            if random.below(2) == 0 {
                let _ = client.swap(process(["alice", "bob"][usize::try_from(random.below(2)).unwrap()]));
            }
            match random.below(4) {
                0 => {
                    server.child.kill().unwrap();
                    server.child.wait().unwrap();
                }
                _ => kill_all(&mut server, &stage),
            }
            server = start(&stage).unwrap();
            await_server(&client);
        }
        over.store(true, Ordering::Relaxed);
    });
    sums[0].check(&alice);
    sums[1].check(&bob);
    let carol = client.process(process("carol")).unwrap();
    let sum: u64 = ask(&carol, "sum", "").unwrap().parse().unwrap();
    let (told, tried) = (keyed_told.load(Ordering::Relaxed), keyed.load(Ordering::Relaxed));
    assert!((told..=tried).contains(&sum), "{told} of {tried} keyed calls were told of, the sum is {sum}");
    drop(carol);
    println!(
        "{} and {} were added, {keyed_told:?} by key",
        sums[0].added.load(Ordering::Relaxed),
        sums[1].added.load(Ordering::Relaxed)
    );
    drop((alice, bob, client));
    end(server, stage);
}

#[test]
fn a_damaged_log_fails_its_process_and_no_other_and_a_stop_removes_it() {
    let stage = Stage::empty();
    let Some(mut server) = start(&stage) else { return stage.end() };
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    for number in 1..=20 {
        assert_eq!(ask(&alice, "add", "").unwrap(), number.to_string());
        assert_eq!(ask(&bob, "add", "").unwrap(), number.to_string());
    }
    kill_all(&mut server, &stage);
    // Alice's third batch: others that are whole come behind.
    let log = std::fs::read_dir(logs(stage.path()).join("hello/alice")).unwrap().next().unwrap().unwrap().path();
    let segment = log.join("0000000000000000.log");
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3 * 4096 + 17).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 3 * 4096 + 17).unwrap();
    drop(file);
    server = start(&stage).unwrap();
    await_server(&client);
    assert_eq!(ask(&bob, "sum", "").unwrap(), "20");
    let mut reason = None;
    eventually("alice's log was looked at", || {
        reason = status(&client, "alice").last_exit;
        reason.is_some()
    });
    let reason = reason.unwrap();
    assert!(reason.contains("damaged at byte 12288") && reason.contains("0000000000000000.log"), "{reason}");
    assert_eq!(status(&client, "alice").state, ProcessState::Swapped);
    let refused = client.restore(process("alice")).unwrap_err().to_string();
    assert!(refused.contains("damaged"), "{refused}");
    client.stop(process("alice")).unwrap();
    assert!(!log.exists());
    drop((alice, bob, client));
    end(server, stage);
}
