//! Calls with idempotency keys against a real server, keeper and workers: by every way that leads to a process, across the deaths of
//! workers, and across that of the server program.

mod common;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::network::{address, listening, with_each_driver};
use common::stage::{DIRECTORY, Played, Stage, application, block_on, options, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, kill, stage};
use praas_client::{CallError, Client, ConnectOptions, IdempotencyKey, Process, Reply, StateError, Transport};
use praas_function::{Call, FunctionResult, StateType};
use praas_protocol::limits::IDEMPOTENCY_PREFIX_BYTES;
use praas_server::{DriverChoice, Server};
use praas_sys::SignalQueue;

/// Where a server role listens.
const LISTEN: &str = "TEST_LISTEN";

/// How often a call has run, by its name.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Default)]
struct Runs {
    count: u64,
}

impl StateType for Runs {
    const NAME: &'static str = "runs";
}

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") => serve(),
        Ok("listening server") if !is_keeper_socket(&std::io::stdin()) => play_server(),
        _ => stage::play(),
    }
}

/// The name of the call in an input: what lies before the first blank.
fn name_in(input: &[u8]) -> FunctionResult<String> {
    Ok(std::str::from_utf8(input.split(|byte| *byte == b' ').next().unwrap_or_default())?.to_owned())
}

/// Counts the run of a call in state, where it outlives the worker.
fn count_run(call: &Call<'_>) -> FunctionResult<(String, u64)> {
    let name = name_in(call.input())?;
    let mut runs = 0;
    call.context().update(&format!("runs/{name}"), |before: Option<Runs>| {
        runs = before.unwrap_or_default().count + 1;
        Runs { count: runs }
    })?;
    Ok((name, runs))
}

fn serve() -> ! {
    praas_function::Application::new()
        .function("count", |call: &mut Call<'_>| -> FunctionResult {
            let (_, runs) = count_run(call)?;
            call.reply(&[runs.to_string().as_bytes(), b" ", call.input()].concat())
        })
        // Waits until the test says that it may end, or whatever is written there.
        .function("hold", |call: &mut Call<'_>| -> FunctionResult {
            let (name, runs) = count_run(call)?;
            let end = Instant::now() + PATIENCE;
            while call.context().state_bytes(&format!("gate/{name}"))?.is_none() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            call.reply(format!("done {runs}").as_bytes())
        })
        .run()
}

fn play_server() {
    let signals = SignalQueue::termination().unwrap();
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let mut application = application();
    (application.workers_min, application.workers_max) = (2, 4);
    let mut options = options(Path::new(&directory), application);
    options.keeper_linger = Duration::from_secs(60);
    options.listen = vec![std::env::var(LISTEN).unwrap().parse().unwrap()];
    options.network_driver = DriverChoice::Epoll;
    let server = Server::start(options).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap();
    std::process::exit(42);
}

fn start_server(stage: &Stage, listen: &str) -> Option<Played> {
    Played::start("listening server", stage.path(), &[(LISTEN, Path::new(listen))])
}

fn key(text: &str) -> IdempotencyKey {
    text.parse().unwrap()
}

/// How often a call has run.
fn runs(process: &Process, name: &str) -> u64 {
    match process.state().get_as::<Runs>(&format!("runs/{name}")) {
        Ok(None) => 0,
        Ok(Some(runs)) => runs.get().unwrap().count.to_native(),
        Err(error) => panic!("{error}"),
    }
}

fn open_gate(process: &Process, name: &str) {
    // The server may just be coming back.
    let end = Instant::now() + PATIENCE;
    loop {
        match process.state().put(&format!("gate/{name}"), "open") {
            Ok(_) => return,
            Err(StateError::Call(CallError::ConnectionLost { .. })) if Instant::now() < end => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A call under a key that is its name.
fn once<'a>(process: &'a Process, function: &'a str, payload: &'a str) -> praas_client::Call<'a> {
    let name = payload.split(' ').next().unwrap();
    process.call(function).payload(payload).deadline(PATIENCE).idempotency_key(key(name))
}

fn text(reply: Result<Reply, CallError>) -> Result<String, CallError> {
    reply.map(|reply| String::from_utf8(reply.to_vec()).unwrap())
}

/// Alice by each way that leads to her, for one principal.
fn ways(stage: &Stage, listen: &str) -> Vec<(&'static str, Process)> {
    let alice = process("alice");
    let here = stage.client();
    let far = || {
        let options = ConnectOptions::new().data_directory(stage.path()).address(listen);
        Client::connect(options.transport(Transport::Network)).unwrap()
    };
    vec![
        ("lane", here.process(alice).unwrap()),
        ("TCP", far().process(alice).unwrap()),
        ("dedicated TCP", far().dedicated_process(alice).unwrap()),
    ]
}

#[test]
fn every_way_gives_the_answer_of_the_one_run() {
    with_each_driver(|driver| {
        let mut application = application();
        (application.workers_min, application.workers_max) = (2, 4);
        let stage = Stage::new(application, listening(driver));
        drop(stage.with_process("alice"));
        let ways = ways(&stage, &address(&stage).to_string());
        for (number, (first, alice)) in ways.iter().enumerate() {
            for bytes in [1, 20, 40, 60, 100, 5000, 200_000, (1 << 20) - IDEMPOTENCY_PREFIX_BYTES] {
                let name = format!("w{number}-{bytes}");
                let payload = name.clone() + &" ".repeat(bytes - name.len().min(bytes));
                let key = key(&name);
                for (way, process) in [(first, alice)].into_iter().chain(ways.iter().map(|(way, alice)| (way, alice))) {
                    let calls =
                        || process.call("count").payload(payload.as_str()).deadline(PATIENCE).idempotency_key(key);
                    // One after the other: the largest replies take all the room that there is for them.
                    let sent: [&dyn Fn() -> Result<Reply, CallError>; 3] =
                        [&|| calls().start()?.wait(), &|| calls().send(), &|| block_on(calls(), PATIENCE)];
                    for send in sent {
                        match text(send()) {
                            Ok(reply) => assert!(reply == format!("1 {payload}"), "{bytes} bytes by {way}"),
                            Err(error) => panic!("{bytes} bytes by {way}, first by {first}: {error}"),
                        }
                    }
                    let other = process.call("count").payload("other").idempotency_key(key).send();
                    assert_eq!(other.unwrap_err(), CallError::KeyReused, "{way}");
                }
                assert_eq!(runs(alice, &name), 1, "{bytes} bytes, first by {first}");
            }
        }
        let too_large = vec![b'x'; (1 << 20) - IDEMPOTENCY_PREFIX_BYTES + 1];
        for (way, alice) in &ways[..2] {
            let end = alice.call("count").payload(&too_large).idempotency_key(key("too large")).send();
            match end.unwrap_err() {
                CallError::PayloadTooLarge { limit_bytes, actual_bytes } => {
                    assert_eq!(
                        (limit_bytes + 1, actual_bytes),
                        (too_large.len() as u64, too_large.len() as u64),
                        "{way}"
                    );
                }
                error => panic!("{way}: {error}"),
            }
        }
        drop(ways);
        stage.end();
    });
}

#[test]
fn repetitions_in_flight_wait_for_the_first_whichever_way_they_come_and_others_are_served_meanwhile() {
    let mut application = application();
    (application.workers_min, application.workers_max) = (1, 4);
    let stage = Stage::new(application, listening(DriverChoice::Epoll));
    drop(stage.with_process("alice"));
    let ways = ways(&stage, &address(&stage).to_string());
    let alice = &ways[0].1;
    let first = once(alice, "hold", "slow").start().unwrap();
    eventually("the first runs", || runs(alice, "slow") == 1);
    let repeated: Vec<_> = ways.iter().map(|(_, alice)| once(alice, "hold", "slow").start().unwrap()).collect();
    // Four workers at most, and all that wait for a repetition may be asleep: others run all the same.
    for number in 0..20 {
        let name = format!("meanwhile{number}");
        assert_eq!(text(once(alice, "count", &name).send()).unwrap(), format!("1 {name}"));
    }
    assert!(repeated.iter().all(|call| !call.is_done()));
    open_gate(alice, "slow");
    for call in repeated.into_iter().chain([first]) {
        assert_eq!(text(call.wait()).unwrap(), "done 1");
    }
    assert_eq!(runs(alice, "slow"), 1);
    drop(ways);
    stage.end();
}

#[test]
fn a_call_whose_worker_died_is_lost_for_all_and_runs_again_only_for_who_asks() {
    let mut application = application();
    (application.workers_min, application.workers_max) = (2, 2);
    let stage = Stage::new(application, listening(DriverChoice::Epoll));
    let client = stage.with_process("alice");
    let ways = ways(&stage, &address(&stage).to_string());
    for (number, (way, alice)) in ways.iter().enumerate() {
        let name = format!("doomed{number}");
        let first = once(alice, "hold", &name).start().unwrap();
        // Over a lane: on a connection of its own a question waits for the call.
        eventually("the first runs", || runs(&ways[0].1, &name) == 1);
        let repeated = once(&ways[0].1, "hold", &name).start().unwrap();
        // Whichever has it; the one that waits for the repetition may be hit as well.
        status(&client, "alice").worker_pids.into_iter().for_each(kill);
        // On a connection of its own the worker is the peer: the call was sent again by itself, and found that it was lost.
        assert_eq!(text(first.wait()), Err(CallError::WorkerLost), "{way}");
        assert_eq!(repeated.wait().unwrap_err(), CallError::WorkerLost, "{way}");
        for (_, alice) in &ways {
            assert_eq!(once(alice, "hold", &name).send().unwrap_err(), CallError::WorkerLost, "{way}");
        }
        assert_eq!(runs(alice, &name), 1, "{way}");
        open_gate(alice, &name);
        assert_eq!(text(once(alice, "hold", &name).rerun_lost().send()).unwrap(), "done 2", "{way}");
        for (_, alice) in &ways {
            assert_eq!(text(once(alice, "hold", &name).send()).unwrap(), "done 2", "{way}");
        }
        assert_eq!(runs(alice, &name), 2, "{way}");
    }
    drop((ways, client));
    stage.end();
}

#[test]
fn answers_outlive_the_workers_of_a_restarted_process() {
    let stage = Stage::new(application(), |_| ());
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    assert_eq!(text(once(&alice, "count", "kept").send()).unwrap(), "1 kept");
    let before = status(&client, "alice").worker_pids;
    client.restart(process("alice")).unwrap();
    assert_ne!(status(&client, "alice").worker_pids, before);
    assert_eq!(text(once(&alice, "count", "kept").send()).unwrap(), "1 kept");
    assert_eq!(runs(&alice, "kept"), 1);
    drop((alice, client));
    stage.end();
}

/// An address that nobody listens on, for servers that follow one another.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn after_a_kill_of_the_server_finished_calls_have_their_answers_and_running_ones_are_lost() {
    let stage = Stage::empty();
    let listen = free_address();
    let Some(mut server) = start_server(&stage, &listen) else { return stage.end() };
    let client = stage.client();
    client.create(process("alice")).unwrap();
    let ways = ways(&stage, &listen);
    let alice = &ways[0].1;
    let large = format!("large {}", "x".repeat(100_000));
    assert_eq!(text(once(alice, "count", "before").send()).unwrap(), "1 before");
    assert_eq!(text(once(alice, "count", &large).send()).unwrap(), format!("1 {large}"));
    for round in 0..2 {
        let name = format!("running{round}");
        // The connection that one worker has for itself first: that worker must not be busy with another call.
        let calls: Vec<_> = ways
            .iter()
            .rev()
            .map(|(way, alice)| {
                let name = format!("{name}{}", way.len());
                let call = once(alice, "hold", &name).start().unwrap();
                eventually("it runs", || runs(&ways[0].1, &name) == 1);
                (way, name, call)
            })
            .collect();
        server.kill();
        server = start_server(&stage, &listen).unwrap();
        for (way, name, call) in calls {
            // It was sent again by itself, and found that its worker had died with the server.
            assert_eq!(text(call.wait()), Err(CallError::WorkerLost), "{way}");
            assert_eq!(runs(alice, &name), 1, "{way}");
        }
        for (way, alice) in &ways {
            assert_eq!(text(once(alice, "count", "before").send()).unwrap(), "1 before", "{way}");
            assert_eq!(text(once(alice, "count", &large).send()).unwrap(), format!("1 {large}"), "{way}");
            let other = alice.call("count").payload("other").idempotency_key(key("before")).send();
            assert_eq!(other.unwrap_err(), CallError::KeyReused, "{way}");
        }
    }
    assert_eq!((runs(alice, "before"), runs(alice, "large")), (1, 1));
    drop((ways, client));
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}

/// What callers were told, by name.
type Told = Mutex<BTreeMap<String, Vec<String>>>;

/// Makes each call twice, until told to stop.
fn call_until(over: &AtomicBool, process: &Process, caller: usize, told: &Told) {
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        // Half of the calls are made by the neighbour, too.
        let name = if number % 2 == 0 { format!("shared{number}") } else { format!("own{caller}-{number}") };
        for _ in 0..2 {
            match text(once(process, "count", &name).send()) {
                Ok(answer) => told.lock().unwrap().entry(name.clone()).or_default().push(answer),
                Err(CallError::WorkerLost) => {}
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }
}

#[test]
fn no_call_runs_twice_while_workers_and_servers_are_killed_at_random() {
    let stage = Stage::empty();
    let listen = free_address();
    let Some(mut server) = start_server(&stage, &listen) else { return stage.end() };
    let client = stage.client();
    client.create(process("alice")).unwrap();
    let ways = ways(&stage, &listen);
    let (over, told) = (AtomicBool::new(false), Told::default());
    std::thread::scope(|scope| {
        let callers: Vec<_> = ways
            .iter()
            .enumerate()
            .map(|(caller, (_, alice))| {
                let (over, told) = (&over, &told);
                scope.spawn(move || call_until(over, alice, caller, told))
            })
            .collect();
        let body = || {
            for kills in 0..12 {
                let before = told.lock().unwrap().len();
                eventually("calls are answered", || told.lock().unwrap().len() > before + 20);
                if kills % 4 == 3 {
                    server.child.kill().unwrap();
                    server.child.wait().unwrap();
                    server = start_server(&stage, &listen).unwrap();
                } else {
                    let victim = client.list().ok().and_then(|all| all.first()?.worker_pids.first().copied());
                    victim.into_iter().for_each(kill);
                }
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        over.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let told = told.into_inner().unwrap();
    println!("{} calls were answered", told.len());
    let alice = &ways[0].1;
    for (name, answers) in &told {
        assert!(answers.iter().all(|answer| *answer == format!("1 {name}")), "{name}: {answers:?}");
        assert_eq!(runs(alice, name), 1, "{name}");
    }
    drop((ways, client));
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}
