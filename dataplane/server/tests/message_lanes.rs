//! Messages between processes: opened lanes, deaths of senders and receivers, stops, limits. Nothing accepted is lost, and nothing
//! is left behind.

mod common;

use std::time::Duration;

use common::correspondence::{Correspondence, correspond};
use common::mails::{self, ask, mailing, processes};
use common::random::Random;
use common::stage::{Stage, process, status};
use common::{ROLE, children_with, eventually, is_keeper_socket, signals, stage};
use praas_client::{CallError, Client};
use praas_protocol::message::codes;

/// Workers killed under load, unless the environment says otherwise.
const KILLS: usize = 200;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => mails::serve(),
        _ => stage::play(),
    }
}

fn await_output(client: &Client, name: &str, words: &str) {
    eventually(words, || String::from_utf8_lossy(&client.output(process(name), 0).unwrap().bytes).contains(words));
}

fn lanes_removed(stage: &Stage) -> u64 {
    stage.server().metrics().unwrap().message_lanes_removed
}

#[test]
fn a_message_that_was_sent_is_received_once_and_in_its_order() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "send", "bob greetings hello").unwrap();
    assert_eq!(ask(&bob, "recv", "alice greetings 0").unwrap(), "alice:hello");
    ask(&alice, "send-many", "bob numbers 0 5").unwrap();
    ask(&alice, "send", "bob others beside").unwrap();
    assert_eq!(ask(&bob, "recv", "* others 0").unwrap(), "alice:beside");
    assert_eq!(ask(&bob, "all", "alice numbers").unwrap(), "alice:0 alice:1 alice:2 alice:3 alice:4");
    assert_eq!(ask(&bob, "all", "* numbers").unwrap(), "");
    ask(&alice, "send-large", "bob pictures 900000 7").unwrap();
    assert_eq!(ask(&bob, "recv-large", "alice pictures").unwrap(), "900000 of 7 true");
    // To itself, and back.
    ask(&bob, "send", "bob notes mine").unwrap();
    assert_eq!(ask(&bob, "recv", "bob notes 0").unwrap(), "bob:mine");
    ask(&bob, "send", "alice answers yes").unwrap();
    assert_eq!(ask(&alice, "recv", "* answers 0").unwrap(), "bob:yes");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn an_unknown_process_and_a_message_that_is_too_large_are_refused_by_name() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    for _ in 0..3 {
        match ask(&alice, "send", "nobody greetings hello") {
            Err(CallError::FunctionFailed { code: codes::NOT_SENT, message }) => {
                assert!(message.contains("no process nobody"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    match ask(&alice, "send-large", &format!("alice pictures {} 1", (1 << 20) + 1)) {
        Err(CallError::FunctionFailed { message, .. }) => assert!(message.contains("1048576"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.server().metrics().unwrap().message_lanes_opened, 0);
    drop((alice, client));
    stage.end();
}

#[test]
fn a_receiver_that_waits_is_reached_by_senders_that_it_did_not_know() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice, bob, carol] = processes(&client, ["alice", "bob", "carol"]);
    for (sender, name) in [(&alice, "alice"), (&carol, "carol")] {
        let waiting = bob.call("recv").payload(b"* first 20000").start().unwrap();
        eventually("bob waits", || client.stats(process("bob")).unwrap().running == 1);
        ask(sender, "send", "bob first hello").unwrap();
        assert_eq!(waiting.wait().unwrap().as_slice(), format!("{name}:hello").as_bytes());
    }
    // One that computes has the lane when it is done.
    let computing = bob.call("compute").payload(b"300").start().unwrap();
    await_output(&client, "bob", "computing.");
    client.create(process("dave")).unwrap();
    let dave = client.process(process("dave")).unwrap();
    ask(&dave, "send", "bob first late").unwrap();
    computing.wait().unwrap();
    assert_eq!(ask(&bob, "recv", "dave first 0").unwrap(), "dave:late");
    drop((alice, bob, carol, dave, client));
    stage.end();
}

#[test]
fn two_processes_that_send_to_each_other_for_the_first_time_do_not_wait_for_each_other() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    let both = [
        alice.call("send").payload(b"bob k from-alice").start().unwrap(),
        bob.call("send").payload(b"alice k from-bob").start().unwrap(),
    ];
    both.into_iter().for_each(|one| drop(one.wait().unwrap()));
    assert_eq!(ask(&alice, "recv", "bob k 0").unwrap(), "bob:from-bob");
    assert_eq!(ask(&bob, "recv", "alice k 0").unwrap(), "alice:from-alice");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn what_a_killed_sender_has_sent_arrives_and_its_lane_goes_once_it_is_drained() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "send-many", "bob numbers 0 3").unwrap();
    common::kill(status(&client, "alice").worker_pids[0]);
    eventually("alice has another worker", || status(&client, "alice").worker_restarts == 1);
    // A second lane of the same source: its messages come after those of the first.
    ask(&alice, "send-many", "bob numbers 3 3").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(lanes_removed(&stage), 0, "a lane with unread messages was removed");
    let all: Vec<_> = (0..6).map(|number| format!("alice:{number}")).collect();
    assert_eq!(ask(&bob, "all", "alice numbers").unwrap(), all.join(" "));
    eventually("the dead worker's lane is removed", || lanes_removed(&stage) == 1);
    ask(&alice, "send", "bob numbers on").unwrap();
    assert_eq!(ask(&bob, "all", "* numbers").unwrap(), "alice:on");
    assert_eq!(lanes_removed(&stage), 1);
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn what_a_stopped_process_has_sent_stays_with_its_receiver() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "send-many", "bob numbers 0 2").unwrap();
    ask(&alice, "send-large", "bob pictures 500000 3").unwrap();
    client.stop(process("alice")).unwrap();
    assert_eq!(ask(&bob, "all", "alice numbers").unwrap(), "alice:0 alice:1");
    assert_eq!(ask(&bob, "recv-large", "alice pictures").unwrap(), "500000 of 3 true");
    // The small lane was closed when the large one was there.
    eventually("both lanes are removed", || lanes_removed(&stage) == 2);
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn a_message_that_a_killed_or_failed_call_held_comes_again_before_all_others() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "send-many", "bob numbers 0 3").unwrap();
    let held = bob.call("recv-hold").payload(b"alice numbers").start().unwrap();
    await_output(&client, "bob", "holding alice:0.");
    common::kill(status(&client, "bob").worker_pids[0]);
    assert_eq!(held.wait().unwrap_err(), CallError::WorkerLost);
    match ask(&bob, "recv-fail", "* numbers") {
        Err(CallError::FunctionFailed { code: 1, message }) => assert_eq!(message, "alice:0!"),
        other => panic!("{other:?}"),
    }
    assert_eq!(ask(&bob, "all", "alice numbers").unwrap(), "alice:0! alice:1 alice:2");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn nobody_sends_on_a_lane_that_the_keeper_does_not_hold() {
    let stage = Stage::new(mailing(), |_| ());
    let keepers = children_with(std::process::id(), "role");
    assert_eq!(keepers.len(), 1, "a server without processes has one child");
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    signals::stop(keepers[0]);
    let sending = alice.call("send").payload(b"bob numbers 0").start().unwrap();
    for _ in 0..20 {
        assert!(!sending.is_done());
        assert_eq!(ask(&bob, "all", "* numbers").unwrap(), "");
        std::thread::sleep(Duration::from_millis(5));
    }
    signals::resume(keepers[0]);
    sending.wait().unwrap();
    assert_eq!(ask(&bob, "all", "* numbers").unwrap(), "alice:0");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn a_restart_keeps_what_is_unread_and_ends_waits_as_interrupted() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "send-many", "bob numbers 0 3").unwrap();
    let waiting = bob.call("recv").payload(b"* never 20000").start().unwrap();
    eventually("bob waits", || client.stats(process("bob")).unwrap().running == 1);
    client.restart(process("bob")).unwrap();
    assert_eq!(waiting.wait().unwrap_err(), CallError::Interrupted);
    // The lane of before leads to the new workers as well.
    ask(&alice, "send", "bob numbers 3").unwrap();
    assert_eq!(stage.server().metrics().unwrap().message_lanes_opened, 1);
    assert_eq!(ask(&bob, "all", "alice numbers").unwrap(), "alice:0 alice:1 alice:2 alice:3");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn a_stop_while_others_send_gives_them_typed_errors_and_the_next_process_of_that_name_an_empty_mailbox() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "send", "bob numbers 0").unwrap();
    let waiting = bob.call("recv").payload(b"* never 20000").start().unwrap();
    eventually("bob waits", || client.stats(process("bob")).unwrap().running == 1);
    let sending = alice.call("send-many").payload(b"bob numbers 1 1000000000").start().unwrap();
    eventually("alice sends", || client.stats(process("alice")).unwrap().running == 1);
    client.stop(process("bob")).unwrap();
    assert_eq!(waiting.wait().unwrap_err(), CallError::Interrupted);
    match sending.wait() {
        Err(CallError::FunctionFailed { code: codes::NOT_SENT, message }) => {
            assert!(message.contains("no process bob"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    match ask(&alice, "send", "bob numbers again") {
        Err(CallError::FunctionFailed { message, .. }) => assert!(message.contains("no process bob"), "{message}"),
        other => panic!("{other:?}"),
    }
    client.create(process("bob")).unwrap();
    ask(&alice, "send", "bob numbers anew").unwrap();
    assert_eq!(ask(&bob, "all", "* numbers").unwrap(), "alice:anew");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn workers_killed_under_puts_sends_and_receives_lose_and_double_nothing() {
    let kills = std::env::var("PRAAS_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut application = mailing();
    // Many, because replacements of workers that die young are delayed.
    (application.workers_min, application.workers_max) = (4, 4);
    let stage = Stage::new(application, |_| ());
    let client = stage.client();
    let names = ["alice", "bob", "carol"];
    processes(&client, names);
    let mut random = Random::printed("killed workers");
    let pairs = names.into_iter().flat_map(|from| names.map(|to| (from, to))).filter(|(from, to)| from != to);
    let correspond_between = |(from, to)| Correspondence::new(&client, from, to, &format!("{from}-to-{to}"));
    let correspondences: Vec<_> = pairs.map(correspond_between).collect();
    correspond(&correspondences, || {
        for kill in 0..kills {
            if kill.is_multiple_of(20) {
                let before: Vec<_> = correspondences.iter().map(|one| (one.acknowledged(), one.noted())).collect();
                eventually("messages are sent and received", || {
                    let now = correspondences.iter().map(|one| (one.acknowledged(), one.noted()));
                    now.zip(&before).all(|(now, before)| now.0 > before.0 + 5 && now.1 > before.1 + 5)
                });
            }
            let mut pids = Vec::new();
            eventually("there is somebody to kill", || {
                pids = names.iter().flat_map(|name| status(&client, name).worker_pids).collect();
                !pids.is_empty()
            });
            let chosen = random.below(pids.len() as u64);
            common::kill(pids[usize::try_from(chosen).unwrap()]);
            std::thread::sleep(Duration::from_millis(random.below(40)));
        }
    });
    // Every worker that lives has a lane to each of the other processes at most.
    let lanes_max = (names.len() * (names.len() - 1) * 4) as u64;
    eventually("the lanes of the dead are gone", || {
        let metrics = stage.server().metrics().unwrap();
        metrics.message_lanes_opened <= metrics.message_lanes_removed + lanes_max
    });
    drop((correspondences, client));
    stage.end();
}
