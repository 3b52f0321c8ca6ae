//! The list of processes that functions see: what is created, stopped, killed and left alone shows in it, and nothing else.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::stage::{self, DIRECTORY, Played, Stage, application, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, kill};
use praas_client::{CallError, Client, Process, ProcessState};
use praas_function::{Application, Call, Context, FunctionResult, ProcessList};
use praas_server::Server;

/// In a process's working directory: its workers end before they say anything.
const POISONED: &str = "poisoned";

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") => serve(),
        Ok("lingering server") if !is_keeper_socket(&std::io::stdin()) => play_server(),
        _ => stage::play(),
    }
}

/// A server whose keeper outlives it.
fn play_server() {
    let signals = praas_sys::SignalQueue::termination().unwrap();
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let mut options = stage::options(Path::new(&directory), application());
    options.keeper_linger = Duration::from_secs(60);
    let server = Server::start(options).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap();
    std::process::exit(42);
}

fn serve() {
    if Path::new(POISONED).exists() {
        eprintln!("poisoned");
        std::process::exit(3);
    }
    Application::new()
        .function("list", |call: &mut Call<'_>| -> FunctionResult<String> { Ok(text(&call.context().processes()?)) })
        .function("await", |call: &mut Call<'_>| -> FunctionResult<String> {
            await_line(&call.context(), std::str::from_utf8(call.input())?)
        })
        .function("hold", |call: &mut Call<'_>| -> FunctionResult {
            let end = Instant::now() + PATIENCE;
            while Instant::now() < end {
                call.context().ensure_wanted()?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        })
        .function("poison", |_: &mut Call<'_>| -> Vec<u8> {
            std::fs::write(POISONED, "").unwrap();
            std::process::abort();
        })
        .run();
}

/// One line a process, in order of the names.
fn text(list: &ProcessList) -> String {
    let mut lines: Vec<_> = list.iter().map(|process| format!("{} {}\n", process.name, process.state)).collect();
    lines.sort_unstable();
    lines.concat()
}

/// Watches until the list has this line, or with `!` before it no longer has it; the list.
fn await_line(context: &Context<'_>, wanted: &str) -> FunctionResult<String> {
    let (is_wanted, line) = match wanted.strip_prefix('!') {
        Some(line) => (false, line),
        None => (true, wanted),
    };
    let mut seen = context.processes()?;
    let end = Instant::now() + PATIENCE;
    while text(&seen).lines().any(|one| one.starts_with(line)) != is_wanted {
        seen = context.watch_processes(seen.change(), end.saturating_duration_since(Instant::now()))?;
    }
    Ok(text(&seen))
}

fn text_of(process: &Process, function: &str, input: &str) -> String {
    String::from_utf8(process.invoke(function, input.as_bytes()).unwrap().as_slice().to_vec()).unwrap()
}

/// What a function of `process` sees.
fn seen_by(process: &Process) -> String {
    text_of(process, "list", "")
}

/// The same, of processes that all take calls.
fn active<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut lines: Vec<_> = names.into_iter().map(|name| format!("{name} active\n")).collect();
    lines.sort_unstable();
    lines.concat()
}

/// A client, its process `alice`, and a stage with a server that has that process.
fn with_alice() -> (Stage, Client, Process) {
    let stage = Stage::new(application(), |_| {});
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    (stage, client, alice)
}

#[test]
fn processes_that_come_and_go_in_numbers_are_listed_as_long_as_they_are() {
    const MANY: usize = 40;
    let (stage, client, alice) = with_alice();
    let names: Vec<_> = (0..MANY).map(|number| format!("p{number}-{}", "x".repeat(number))).collect();
    let with_alice = |names: &[String]| active(names.iter().map(String::as_str).chain(["alice"]));
    for round in 0..2 {
        for (number, name) in names.iter().enumerate() {
            client.create(process(name)).unwrap();
            assert_eq!(seen_by(&alice), with_alice(&names[..=number]), "who was told of a process finds it listed");
        }
        let other = client.process(process(&names[round])).unwrap();
        assert_eq!(seen_by(&other), with_alice(&names));
        assert_eq!(client.list().unwrap().len(), MANY + 1);
        drop(other);
        // The first half from its beginning, the rest from its end: slots become free everywhere.
        let (first, second) = names.split_at(MANY / 2);
        for name in first.iter().chain(second.iter().rev()) {
            client.stop(process(name)).unwrap();
            assert!(
                !seen_by(&alice).lines().any(|line| line.starts_with(&format!("{name} "))),
                "{name} is still listed"
            );
        }
        assert_eq!(seen_by(&alice), active(["alice"]));
    }
    drop((alice, client));
    stage.end();
}

#[test]
fn functions_that_watch_see_a_new_process_and_its_end() {
    let (stage, client, alice) = with_alice();
    let names = ["bob", "carol", "dave"];
    let others = names.map(|name| {
        client.create(process(name)).unwrap();
        client.process(process(name)).unwrap()
    });
    let watchers: Vec<_> = others.iter().chain([&alice]).collect();
    let all = |extra: &[&'static str]| active(names.into_iter().chain(["alice"]).chain(extra.iter().copied()));
    for round in 0..3 {
        let watch = |wanted: &str| -> Vec<_> {
            let start = |process: &&Process| process.start("await", wanted.to_owned()).unwrap();
            let pending: Vec<_> = watchers.iter().map(start).collect();
            eventually("all watch", || {
                let running = |name: &str| client.stats(process(name)).unwrap().running;
                names.into_iter().chain(["alice"]).all(|name| running(name) == 1)
            });
            pending
        };
        let pending = watch("newcomer active");
        client.create(process("newcomer")).unwrap();
        for one in pending {
            assert_eq!(one.wait().unwrap().as_slice(), all(&["newcomer"]).as_bytes(), "round {round}");
        }
        let pending = watch("!newcomer");
        client.stop(process("newcomer")).unwrap();
        for one in pending {
            assert_eq!(one.wait().unwrap().as_slice(), all(&[]).as_bytes(), "round {round}");
        }
    }
    drop(watchers);
    drop((others, alice, client));
    stage.end();
}

#[test]
fn a_process_whose_only_worker_watches_answers_other_calls() {
    let (stage, client, alice) = with_alice();
    let watching = alice.start("await", "bob active").unwrap();
    eventually("it watches", || client.stats(process("alice")).unwrap().running == 1);
    assert_eq!(seen_by(&alice), active(["alice"]));
    client.create(process("bob")).unwrap();
    assert_eq!(watching.wait().unwrap().as_slice(), active(["alice", "bob"]).as_bytes());
    drop((alice, client));
    stage.end();
}

#[test]
fn a_process_is_idle_when_nobody_calls_it_and_active_when_somebody_does() {
    let stage = Stage::new(application(), |options| options.process_idle = Duration::from_millis(150));
    let client = stage.with_process("alice");
    client.create(process("bob")).unwrap();
    let [alice, bob] = ["alice", "bob"].map(|name| client.process(process(name)).unwrap());
    for _ in 0..3 {
        text_of(&alice, "await", "bob idle");
        eventually("clients see it too", || status(&client, "bob").state == ProcessState::Idle);
        let held = bob.start("hold", "").unwrap();
        assert!(text_of(&alice, "await", "bob active").contains("alice active"), "who runs a call is not idle");
        assert_eq!(status(&client, "bob").state, ProcessState::Active);
        held.cancel();
    }
    eventually("nobody calls anybody", || client.list().unwrap().iter().all(|one| one.state == ProcessState::Idle));
    assert_eq!(seen_by(&bob).lines().count(), 2, "an idle process is listed and can be called");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn applications_do_not_see_each_other() {
    let stage = Stage::new(application(), |options| {
        let mut other = application();
        other.name = "other".parse().unwrap();
        options.applications.push(other);
    });
    let client = stage.client();
    let ids = ["hello/alice", "other/alice", "hello/bob", "other/carol"].map(|id| id.parse().unwrap());
    ids.iter().for_each(|id| client.create(*id).unwrap());
    let [here, there] = [ids[0], ids[1]].map(|id| client.process(id).unwrap());
    assert_eq!(seen_by(&here), active(["alice", "bob"]));
    assert_eq!(seen_by(&there), active(["alice", "carol"]));
    client.stop(ids[3]).unwrap();
    assert_eq!(seen_by(&here), active(["alice", "bob"]));
    assert_eq!(seen_by(&there), active(["alice"]));
    drop((here, there, client));
    stage.end();
}

#[test]
fn a_killed_worker_leaves_the_list_as_it_is() {
    let (stage, client, alice) = with_alice();
    client.create(process("bob")).unwrap();
    let watching = alice.start("await", "carol active").unwrap();
    eventually("it watches", || client.stats(process("alice")).unwrap().running == 1);
    for name in ["bob", "alice"] {
        let restarts = status(&client, name).worker_restarts;
        status(&client, name).worker_pids.into_iter().for_each(kill);
        eventually("its end was noticed", || status(&client, name).worker_restarts > restarts);
        assert_eq!(seen_by(&alice), active(["alice", "bob"]), "{name} was killed");
    }
    assert!(matches!(watching.wait(), Err(CallError::WorkerLost)));
    drop((alice, client));
    stage.end();
}

#[test]
fn a_process_whose_workers_keep_failing_is_listed_as_failed_until_it_is_stopped() {
    let (stage, client, alice) = with_alice();
    client.create(process("bob")).unwrap();
    let bob = client.process(process("bob")).unwrap();
    assert!(bob.invoke("poison", "").is_err());
    assert_eq!(text_of(&alice, "await", "bob failed"), "alice active\nbob failed\n");
    client.stop(process("bob")).unwrap();
    assert_eq!(seen_by(&alice), active(["alice"]));
    drop((bob, alice, client));
    stage.end();
}

#[test]
fn a_watch_ends_when_its_process_is_to_end_and_when_its_caller_gives_up() {
    let (stage, client, alice) = with_alice();
    let watch = || {
        let pending = alice.start("await", "nobody").unwrap();
        eventually("it watches", || client.stats(process("alice")).unwrap().running == 1);
        pending
    };
    watch().cancel();
    eventually("it has ended", || client.stats(process("alice")).unwrap().running == 0);
    let pending = watch();
    client.restart(process("alice")).unwrap();
    let ended = pending.wait().unwrap_err();
    assert!(matches!(ended, CallError::Interrupted), "{ended}");
    assert_eq!(seen_by(&alice), active(["alice"]));
    drop((alice, client));
    stage.end();
}

#[test]
fn the_next_server_lists_what_it_brought_back_and_nothing_else() {
    let stage = Stage::empty();
    let start = || Played::start("lingering server", stage.path(), &[]);
    let Some(mut server) = start() else { return stage.end() };
    let client = stage.client();
    for name in ["alice", "bob", "gone"] {
        client.create(process(name)).unwrap();
    }
    client.stop(process("gone")).unwrap();
    let alice = client.process(process("alice")).unwrap();
    for round in 0..2 {
        let watching = alice.start("await", "nobody").unwrap();
        eventually("it watches", || client.stats(process("alice")).unwrap().running == 1);
        server.kill();
        assert!(watching.wait().is_err());
        server = start().unwrap();
        eventually("the processes are back", || alice.invoke("list", "").is_ok());
        assert_eq!(text_of(&alice, "await", "bob active"), active(["alice", "bob"]), "round {round}");
        client.create(process("carol")).unwrap();
        assert_eq!(seen_by(&alice), active(["alice", "bob", "carol"]));
        client.stop(process("carol")).unwrap();
        assert_eq!(seen_by(&alice), active(["alice", "bob"]));
    }
    drop((alice, client));
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}
