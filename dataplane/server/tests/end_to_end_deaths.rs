//! Clients and workers that die at the worst moment: it costs the calls that they ran or waited for, nothing else, and after
//! many rounds nothing of them is left in the server or in the workers.

mod common;

use std::time::Duration;

use common::random::Random;
use common::stage::{Played, Stage, application, process, status};
use common::{eventually, functions, is_running, kill, open_descriptors, stage};
use praas_client::{CallError, Client};

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

/// Numbers in the answer of `census`: descriptors and segments of the worker.
fn census(client: &Client) -> (u64, u64) {
    let alice = client.process(process("alice")).unwrap();
    let words = String::from_utf8(alice.invoke("census", "").unwrap().into_vec()).unwrap();
    let (descriptors, segments) = words.split_once(' ').unwrap();
    (descriptors.parse().unwrap(), segments.parse().unwrap())
}

#[test]
fn clients_killed_with_calls_in_flight_leave_nothing_in_server_and_worker() {
    let stage = Stage::new(application(), |_| ());
    let client = stage.with_process("alice");
    let mut random = Random::printed("killed clients");
    let mut first = None;
    for round in 0..5 {
        let Some(played) = Played::start("client", stage.path(), &[]) else { break };
        std::thread::sleep(Duration::from_millis(random.below(40)));
        let pid = played.child.id();
        played.kill();
        assert!(!is_running(pid));
        eventually("the lanes of the killed client are gone", || status(&client, "alice").lanes == 0);
        let own = || (open_descriptors(), functions::own_segments());
        // What the census itself opened is closed a moment later.
        let (worker, server) = *first.get_or_insert_with(|| {
            (census(&client), {
                eventually("the lane of the census is gone", || status(&client, "alice").lanes == 0);
                own()
            })
        });
        eventually("the server has what it had after the first", || own() <= server);
        eventually("the worker has what it had after the first", || {
            let now = census(&client);
            now.0 <= worker.0 && now.1 <= worker.1
        });
        println!("round {round}: worker {worker:?}, server {server:?}");
    }
    let after = status(&client, "alice");
    assert_eq!((after.worker_restarts, after.workers), (0, 1), "{:?}", after.last_exit);
    assert_eq!(client.process(process("alice")).unwrap().invoke("echo", "on").unwrap().as_slice(), b"on");
    drop(client);
    stage.end();
}

#[test]
fn a_worker_killed_among_several_clients_costs_the_call_that_it_ran() {
    let mut application = application();
    (application.workers_min, application.workers_max) = (2, 2);
    let stage = Stage::new(application, |_| ());
    let client = stage.with_process("alice");
    for round in 0..4 {
        let held = client.process(process("alice")).unwrap();
        let position =
            client.output(process("alice"), 0).map(|chunk| chunk.position + chunk.bytes.len() as u64).unwrap();
        let victim = held.start("hold", "20000").unwrap();
        let mut pid = None;
        eventually("the call says where it runs", || {
            let said = client.output(process("alice"), position).unwrap().bytes;
            let said = String::from_utf8_lossy(&said).into_owned();
            let word = said.rsplit_once("holding in ").and_then(|(_, rest)| rest.split_once('.'));
            pid = word.and_then(|(pid, _)| pid.parse::<u32>().ok());
            pid.is_some()
        });
        let pid = pid.unwrap();
        let before = status(&client, "alice");
        assert!(before.worker_pids.contains(&pid), "{pid} of {before:?}");
        std::thread::scope(|scope| {
            for thread in 0..3_u8 {
                let stage = &stage;
                scope.spawn(move || {
                    // A connection and a lane of its own.
                    let client = stage.client();
                    let alice = client.process(process("alice")).unwrap();
                    for call in 0..100_u8 {
                        let payload = vec![thread.wrapping_add(call); 3000];
                        assert_eq!(alice.invoke("echo", &payload).unwrap().as_slice(), payload);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(5));
            kill(pid);
        });
        assert_eq!(victim.wait().unwrap_err(), CallError::WorkerLost, "round {round}");
        eventually("the worker is replaced", || status(&client, "alice").workers == 2);
        assert_eq!(held.invoke("echo", "the same lane").unwrap().as_slice(), b"the same lane");
    }
    assert_eq!(status(&client, "alice").worker_restarts, 4);
    drop(client);
    stage.end();
}

#[test]
fn workers_killed_at_any_moment_answer_or_lose_each_call_once_and_the_lane_goes_on() {
    let mut application = application();
    (application.workers_min, application.workers_max) = (2, 3);
    let stage = Stage::new(application, |_| ());
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    let mut random = Random::printed("workers killed at any moment");
    let (mut answered, mut lost) = (0, 0);
    for _ in 0..8 {
        let calls: Vec<_> = (0..20_u8).map(|call| (call, alice.start("echo", vec![call; 20_000]))).collect();
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        if let Some(&pid) = status(&client, "alice").worker_pids.first() {
            kill(pid);
        }
        for (call, pending) in calls {
            match pending.unwrap().wait() {
                Ok(reply) => {
                    assert_eq!(reply.as_slice(), vec![call; 20_000]);
                    answered += 1;
                }
                Err(CallError::WorkerLost) => lost += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    println!("{answered} answered, {lost} lost");
    // Two workers run at most one call each when one is killed.
    assert!(lost <= 8 && answered >= 152, "{answered} answered, {lost} lost");
    let mut loan = None;
    eventually("all memory of the lane is free", || {
        loan = alice.loan(1 << 20).ok();
        loan.is_some() && alice.invoke("grow", "1048576").is_ok()
    });
    drop((loan, alice, client));
    stage.end();
}

#[test]
fn an_endless_loop_ends_at_its_limit_and_whoever_waited_is_served() {
    let mut application = application();
    application.limits.call_ms_max = Some(150);
    let stage = Stage::new(application, |_| ());
    let (one, two) = (stage.with_process("alice"), stage.client());
    let (stuck, waiting) = (one.process(process("alice")).unwrap(), two.process(process("alice")).unwrap());
    for round in 1..=2 {
        let endless = stuck.start("stuck", "").unwrap();
        let queued = waiting.start("echo", "patient").unwrap();
        assert_eq!(endless.wait().unwrap_err(), CallError::WorkerLost);
        assert_eq!(queued.wait().unwrap().as_slice(), b"patient");
        assert_eq!(stage.server().metrics().unwrap().workers_overdue, round);
    }
    assert!(status(&one, "alice").last_exit.unwrap().contains("call_ms_max"));
    drop((stuck, waiting, one, two));
    stage.end();
}

#[test]
fn touching_lane_memory_beyond_the_worker_s_limit_costs_its_call() {
    let mut application = application();
    application.limits.memory_bytes = Some(32 << 20);
    application.limits.payload_bytes_max = 128 << 20;
    let stage = Stage::new(application, |_| ());
    if !praas_sys::CgroupRoot::probe("praas-test-probe").controllers().memory {
        println!("skipped: this host gives no cgroup that limits memory");
        return stage.end();
    }
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    assert_eq!(alice.invoke("grow", "100000000").unwrap_err(), CallError::WorkerLost);
    assert_eq!(alice.invoke("echo", "on").unwrap().as_slice(), b"on");
    assert!(status(&client, "alice").last_exit.unwrap().contains("memory_bytes"));
    drop((alice, client));
    stage.end();
}

#[test]
fn forked_children_end_with_their_process_however_it_ends() {
    let stage = Stage::new(application(), |_| ());
    let client = stage.with_process("alice");
    let lacks = stage.server().sandbox_lacks().to_vec();
    // A time that no other process sleeps, to find it by.
    let seconds = format!("{}.25", 200_000 + std::process::id());
    let sleepers = || {
        let commands = std::fs::read_dir("/proc").unwrap().flatten();
        let commands = commands.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        commands.filter(|command| String::from_utf8_lossy(command).contains(&seconds)).count()
    };
    let ends: [(&str, &dyn Fn()); 3] = [
        ("killed", &|| kill(status(&client, "alice").worker_pids[0])),
        ("restarted", &|| client.restart(process("alice")).unwrap()),
        ("stopped", &|| client.stop(process("alice")).unwrap()),
    ];
    for (how, end) in ends {
        let alice = client.process(process("alice")).unwrap();
        let answer = alice.invoke("fork", seconds.as_str()).unwrap();
        if answer.as_slice() != b"forked" || lacks.iter().any(|lack| lack.feature.to_lowercase().contains("pid")) {
            println!("skipped: no program may be started here, or there are no PID namespaces: {lacks:?}");
            break;
        }
        eventually("the child runs", || sleepers() > 0);
        end();
        eventually(how, || sleepers() == 0);
    }
    drop(client);
    stage.end();
}
