//! Processes with real workers: calls over lanes, deaths, limits, drains. Whatever happens, nothing is left behind.

mod common;

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::client::Client;
use common::{ROLE, eventually, is_running, kill, open_descriptors, own_command, private_directory};
use praas_function::Call;
use praas_protocol::control::{ControlError, ProcessState};
use praas_protocol::token::{Claims, Rights, Scope, Secret};
use praas_protocol::{Outcome, Phase, ProcessId};
use praas_server::{Application, Level, Server, ServerHandle, ServerOptions};
use tempfile::TempDir;

const DIRECTORY: &str = "TEST_DIRECTORY";

/// File in the process's working directory for which calls of `await-word` wait.
const WORD: &str = "word";

/// Not a test of its own: what this binary does when a server of a test runs it.
#[test]
fn role() {
    if common::is_keeper_socket(&std::io::stdin()) {
        praas_server::keeper::run().unwrap();
        return;
    }
    match std::env::var(ROLE).as_deref() {
        Ok("worker") => serve(),
        Ok("server") => {
            let directory = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
            let _server = Server::start(options(&directory, application())).unwrap();
            println!("\nplaying");
            std::thread::sleep(common::PATIENCE * 2);
        }
        Ok("signalled server") => {
            let signals = praas_sys::SignalQueue::termination().unwrap();
            let directory = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
            let server = Server::start(options(&directory, application())).unwrap();
            println!("\nplaying");
            server.run(signals).unwrap();
            // Proves that it ended by itself: the test harness would exit with 0.
            std::process::exit(42);
        }
        _ => {}
    }
}

fn serve() {
    println!("worker {} starts", std::process::id());
    praas_function::Application::new()
        .function("echo", |call: &mut Call<'_>| call.reply(call.input()))
        .function("exit", |_: &mut Call<'_>| -> Vec<u8> { std::process::exit(3) })
        .function("abort", |_: &mut Call<'_>| -> Vec<u8> { std::process::abort() })
        .function("stuck", |_: &mut Call<'_>| -> Vec<u8> {
            println!("stuck now");
            loop {
                std::hint::black_box(0);
            }
        })
        .function("sleep", |call: &mut Call<'_>| {
            let ms = std::str::from_utf8(call.input()).unwrap().parse().unwrap();
            println!("sleeping now");
            std::thread::sleep(Duration::from_millis(ms));
            "slept"
        })
        .function("await-word", |_: &mut Call<'_>| {
            println!("waiting now");
            let end = std::time::Instant::now() + common::PATIENCE;
            while !Path::new(WORD).exists() && std::time::Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            "told"
        })
        .function("flood", |call: &mut Call<'_>| {
            let lines: u64 = std::str::from_utf8(call.input()).unwrap().parse().unwrap();
            for line in 0..lines {
                println!("line {line} {}", "x".repeat(80));
            }
            "flooded"
        })
        .function("directory", |_: &mut Call<'_>| std::env::current_dir().unwrap().display().to_string())
        .function("environment", |_: &mut Call<'_>| {
            let mut names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
            names.sort();
            names.join(" ")
        })
        .function("fork", |call: &mut Call<'_>| {
            let seconds = std::str::from_utf8(call.input()).unwrap();
            let child = std::process::Command::new("/bin/sleep").arg(seconds).spawn();
            child.map_or_else(|error| error.to_string(), |_| "forked".to_owned())
        })
        .function("eat", |_: &mut Call<'_>| {
            let bytes = vec![1_u8; 512 << 20];
            std::hint::black_box(&bytes).len().to_string()
        })
        .run()
}

/// One test at a time: each counts the descriptors of the process that it shares with its server.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn application() -> Application {
    let own = own_command();
    let mut application = Application::new("hello".parse().unwrap(), own[0].clone().into());
    application.arguments = own[1..].iter().map(|argument| argument.to_str().unwrap().to_owned()).collect();
    application.environment.insert(ROLE.into(), "worker".into());
    application.limits.drain_ms = 20_000;
    application.wait = praas_protocol::control::WaitMode::Park;
    application
}

fn options(directory: &Path, application: Application) -> ServerOptions {
    let mut options = ServerOptions::new(directory, own_command());
    options.keeper_linger = Duration::ZERO;
    options.log_level = Level::Error;
    options.applications = vec![application];
    options
}

fn alice() -> ProcessId {
    "hello/alice".parse().unwrap()
}

/// Waits until a worker of alice has written `words`: a call runs for certain when it says so.
fn await_output(client: &mut Client, words: &str) {
    eventually(words, || String::from_utf8_lossy(&client.output(alice(), 0, false).1).contains(words));
}

/// A server of one application, and what must be as before when it has ended.
struct Stage {
    server: Option<ServerHandle>,
    descriptors: usize,
    directory: TempDir,
    /// Last: taking the directory away opens descriptors, which the next test must not count as its own.
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    fn new(application: Application, change: impl FnOnce(&mut ServerOptions)) -> Self {
        let alone = alone();
        let directory = private_directory();
        let descriptors = open_descriptors();
        let mut options = options(directory.path(), application);
        change(&mut options);
        let server = Some(Server::start(options).unwrap());
        Self { server, descriptors, directory, _alone: alone }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Lets alice's calls of `await-word` go on.
    fn tell_alice(&self) {
        std::fs::write(self.path().join("run/hello/alice").join(WORD), "").unwrap();
    }

    fn server(&self) -> &ServerHandle {
        self.server.as_ref().unwrap()
    }

    fn client(&self) -> Client {
        Client::connect(self.path())
    }

    /// Ends the server and looks for what it left behind.
    fn end(mut self) {
        self.server.take().unwrap().shutdown().unwrap();
        let own = std::process::id();
        eventually("no process is left", || common::children_with(own, "role").is_empty());
        eventually("no descriptor is left", || open_descriptors() <= self.descriptors);
        let run = self.path().join("run");
        assert!(!run.exists() || std::fs::read_dir(run).unwrap().count() == 0, "working directories are left");
        for socket in ["praas.sock", "keeper.sock"] {
            assert!(!self.path().join(socket).exists(), "{socket} is left");
        }
    }
}

#[test]
fn calls_are_answered_and_nothing_is_left() {
    let stage = Stage::new(application(), |_| ());
    let mut client = stage.client();
    client.create(alice()).unwrap();
    assert!(matches!(client.create(alice()), Err(ControlError::ProcessExists { .. })));
    let lane = client.open(alice(), 1 << 20).unwrap();
    assert_eq!(lane.call("echo", b"hello"), (Outcome::Ok, b"hello".to_vec()));
    let large = vec![7; 300_000];
    assert_eq!(lane.call("echo", &large), (Outcome::Ok, large));
    assert_eq!(lane.call("unheard-of", b"").0, Outcome::UnknownFunction);

    let (_, directory) = lane.call("directory", b"");
    assert!(String::from_utf8(directory).unwrap().ends_with("run/hello/alice"));
    let (_, environment) = lane.call("environment", b"");
    assert_eq!(String::from_utf8(environment).unwrap(), "PRAAS_WORKER TEST_ROLE");

    let status = client.status(alice());
    assert_eq!((status.state, status.workers, status.lanes), (ProcessState::Active, 1, 1));
    let pid = status.worker_pids[0];
    let (_, output, _) = client.output(alice(), 0, false);
    assert!(String::from_utf8_lossy(&output).contains("starts"), "{output:?}");
    client.stop(alice()).unwrap();
    eventually("the worker has ended", || !is_running(pid));
    assert!(client.list().is_empty());
    drop((lane, client));
    stage.end();
}

#[test]
fn a_dead_worker_costs_its_own_call_and_is_replaced() {
    let stage = Stage::new(application(), |_| ());
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    for deadly in ["exit", "abort"] {
        // Two are in flight: the second waits for the next worker.
        let (first, second) = (lane.submit(deadly, b""), lane.submit("echo", b"survives"));
        assert_eq!(lane.answer(first).0, Outcome::WorkerLost);
        assert_eq!(lane.answer(second).2, b"survives");
    }
    let status = client.status(alice());
    assert_eq!(status.worker_restarts, 2);
    assert!(status.last_exit.is_some());
    kill(client.status(alice()).worker_pids[0]);
    assert_eq!(lane.insist("echo", b"again"), (Outcome::Ok, b"again".to_vec()));
    let metrics = stage.server().metrics().unwrap();
    // A worker that dies just behind its answer may show a claim as well.
    assert!(metrics.workers_lost == 3 && metrics.calls_recovered >= 2, "{metrics:?}");
    drop((lane, client));
    stage.end();
}

#[test]
fn a_call_that_outlasts_its_limit_costs_its_worker() {
    let mut application = application();
    application.limits.call_ms_max = Some(100);
    let stage = Stage::new(application, |_| ());
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    assert_eq!(lane.call("stuck", b"").0, Outcome::WorkerLost);
    assert_eq!(lane.insist("echo", b"on"), (Outcome::Ok, b"on".to_vec()));
    let exit = client.status(alice()).last_exit.unwrap();
    assert!(exit.contains("call_ms_max"), "{exit}");
    assert_eq!(stage.server().metrics().unwrap().workers_overdue, 1);
    drop((lane, client));
    stage.end();
}

#[test]
fn a_stopped_process_finishes_its_call_and_refuses_the_others() {
    let stage = Stage::new(application(), |_| ());
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    let running = lane.submit("await-word", b"");
    await_output(&mut client, "waiting now");
    let waiting = lane.submit("echo", b"never ran");
    let stopped = client.ask(praas_protocol::control::ClientRequest::ProcessStop { process: alice() });
    let (outcome, detail, _) = lane.answer(waiting);
    assert_eq!(outcome, Outcome::Unavailable);
    assert!(detail == Phase::Draining as u32 || detail == Phase::Closed as u32);
    stage.tell_alice();
    assert_eq!(lane.answer(running).0, Outcome::Ok);
    assert!(matches!(client.await_answer(stopped).0, praas_protocol::control::ServerMessage::Done { .. }));
    // Published after everything: still refused, never lost.
    assert_eq!(lane.call("echo", b"too late").0, Outcome::Unavailable);
    assert!(matches!(client.open(alice(), 4096), Err(ControlError::UnknownProcess { .. })));
    drop((lane, client));
    stage.end();
}

#[test]
fn a_restart_replaces_the_workers_and_lanes_live_on() {
    let mut application = application();
    (application.workers_min, application.workers_max) = (2, 2);
    let stage = Stage::new(application, |_| ());
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    let before = client.status(alice()).worker_pids;
    assert_eq!(before.len(), 2);
    for _ in 0..3 {
        client.restart(alice()).unwrap();
        assert_eq!(lane.insist("echo", b"still here"), (Outcome::Ok, b"still here".to_vec()));
    }
    let after = client.status(alice()).worker_pids;
    assert!(after.len() == 2 && after.iter().all(|pid| !before.contains(pid)));
    assert!(before.iter().all(|pid| !is_running(*pid)));
    drop((lane, client));
    stage.end();
}

#[test]
fn a_drain_that_takes_too_long_kills() {
    let mut application = application();
    (application.limits.drain_ms, application.limits.call_ms_max) = (50, None);
    let stage = Stage::new(application, |_| ());
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    let stuck = lane.submit("stuck", b"");
    let pid = client.status(alice()).worker_pids[0];
    await_output(&mut client, "stuck now");
    client.stop(alice()).unwrap();
    assert_eq!(lane.answer(stuck).0, Outcome::WorkerLost);
    assert!(!is_running(pid));
    drop((lane, client));
    stage.end();
}

#[test]
fn workers_are_added_up_to_the_maximum_when_calls_wait() {
    let mut application = application();
    (application.workers_min, application.workers_max) = (1, 3);
    let stage = Stage::new(application, |_| ());
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    assert_eq!(client.status(alice()).workers, 1);
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..6).map(|_| scope.spawn(|| lane.call("sleep", b"700").0)).collect();
        eventually("a second worker serves", || client.status(alice()).workers >= 2);
        for call in calls {
            assert_eq!(call.join().unwrap(), Outcome::Ok);
        }
    });
    assert!(client.status(alice()).workers <= 3);
    drop((lane, client));
    stage.end();
}

#[test]
fn output_is_kept_within_its_limit_and_can_be_followed() {
    let mut application = application();
    application.limits.output_bytes = 4096;
    let stage = Stage::new(application, |_| ());
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    assert_eq!(lane.call("flood", b"20000").0, Outcome::Ok);
    let mut last = (0, Vec::new(), false);
    eventually("the last line is captured", || {
        last = client.output(alice(), 0, false);
        String::from_utf8_lossy(&last.1).contains("line 19999 ")
    });
    assert!(last.0 > 1 << 20 && last.1.len() <= 4096, "position {} with {} bytes", last.0, last.1.len());

    let mut other = stage.client();
    let end = last.0 + last.1.len() as u64;
    let follow = praas_protocol::control::ClientRequest::ProcessOutput { process: alice(), from: end, follow: true };
    let number = other.ask(follow.clone());
    assert_eq!(lane.call("flood", b"1").0, Outcome::Ok);
    match other.await_answer(number).0 {
        praas_protocol::control::ServerMessage::Output { position, bytes, ended, .. } => {
            assert_eq!((position, ended), (end, false));
            assert!(bytes.starts_with(b"line 0 "));
        }
        answer => panic!("{answer:?}"),
    }
    let number = other.ask(praas_protocol::control::ClientRequest::ProcessOutput {
        process: alice(),
        from: u64::MAX,
        follow: true,
    });
    client.stop(alice()).unwrap();
    let answer = other.await_answer(number).0;
    assert!(matches!(answer, praas_protocol::control::ServerMessage::Output { ended: true, .. }), "{answer:?}");
    drop((lane, client, other));
    stage.end();
}

#[test]
fn the_host_budget_refuses_with_figures_and_closed_lanes_give_it_back() {
    let stage = Stage::new(application(), |options| options.memory_bytes_max = Some(12 << 20));
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let mut lanes = Vec::new();
    let error = loop {
        match client.open(alice(), 1 << 20) {
            Ok(lane) => lanes.push(lane),
            Err(error) => break error,
        }
        assert!(lanes.len() < 100);
    };
    assert!(
        matches!(error, ControlError::LimitReached { used, limit, asked, .. } if limit == 12 << 20 && used + asked > limit),
        "{error}"
    );
    assert!(!lanes.is_empty());
    let lane = lanes.pop().unwrap();
    client.close(alice(), lane.id);
    drop(lane);
    eventually("the closed lane's bytes are free again", || client.open(alice(), 1 << 20).is_ok());
    // A client that dies gives everything back.
    drop((client, lanes));
    let mut client = stage.client();
    eventually("the dead client's bytes are free again", || client.status(alice()).lanes == 0);
    let lane = client.open(alice(), 1 << 20).unwrap();
    assert_eq!(lane.call("echo", b"ok").0, Outcome::Ok);
    drop((lane, client));
    stage.end();
}

#[test]
fn rights_decide_whether_a_lane_is_trusted() {
    let stage = Stage::new(application(), |_| ());
    stage.client().create(alice()).unwrap();
    let secret: [u8; 32] = std::fs::read(stage.path().join("secret")).unwrap().try_into().unwrap();
    for (rights, trusted) in [(Rights::INVOKE, false), (Rights::INVOKE.with(Rights::TRUSTED), true)] {
        let claims =
            Claims { principal: "bob".parse().unwrap(), scope: Scope::Process(alice()), rights, expires_unix_s: None };
        let mut client = Client::with_token(stage.path(), Secret::from_bytes(secret).sign(&claims));
        let lane = client.open(alice(), 1 << 16).unwrap();
        assert_eq!(lane.lane.trusted(), trusted);
        assert_eq!(lane.call("echo", &[5; 20_000]), (Outcome::Ok, vec![5; 20_000]));
        assert!(matches!(client.stop(alice()), Err(ControlError::Unauthorized { .. })));
    }
    stage.end();
}

#[test]
fn wrong_functions_and_wrong_programs_are_named() {
    let mut application = application();
    application.functions = Some(vec!["echo".parse().unwrap(), "missing".parse().unwrap()]);
    let stage = Stage::new(application, |_| ());
    let error = stage.client().create(alice()).unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("abort"), "{error}");
    stage.end();

    let mut application = Application::new("hello".parse().unwrap(), "/bin/sh".into());
    application.arguments = vec!["-c".into(), "echo some last words; exit 7".into()];
    let stage = Stage::new(application, |_| ());
    let error = stage.client().create(alice()).unwrap_err().to_string();
    assert!(error.contains('7') && error.contains("some last words"), "{error}");
    stage.end();
}

#[test]
fn a_worker_that_reaches_its_memory_limit_costs_its_call() {
    let mut application = application();
    application.limits.memory_bytes = Some(64 << 20);
    let stage = Stage::new(application, |_| ());
    if !praas_sys::CgroupRoot::probe("praas-test-probe").controllers().memory {
        println!("skipped: this host gives no cgroup that limits memory");
        return stage.end();
    }
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    assert_eq!(lane.call("eat", b"").0, Outcome::WorkerLost);
    assert_eq!(lane.insist("echo", b"on").0, Outcome::Ok);
    let exit = client.status(alice()).last_exit.unwrap();
    assert!(exit.contains("memory_bytes"), "{exit}");
    drop((lane, client));
    stage.end();
}

#[test]
fn a_rebuilt_binary_restarts_its_processes() {
    let programs = private_directory();
    let binary = programs.path().join("program");
    std::fs::copy(&own_command()[0], &binary).unwrap();
    let mut application = application();
    application.binary = binary.clone();
    let stage = Stage::new(application, |options| options.watch = true);
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    let before = client.status(alice()).worker_pids;
    // Two looks take note of the file as it is.
    std::thread::sleep(Duration::from_millis(1000));
    assert_eq!(client.status(alice()).worker_pids, before);
    let rebuilt = programs.path().join("rebuilt");
    std::fs::copy(&own_command()[0], &rebuilt).unwrap();
    std::fs::rename(rebuilt, binary).unwrap();
    eventually("another worker serves", || {
        let status = client.status(alice());
        status.workers == 1 && status.worker_pids != before
    });
    assert_eq!(lane.insist("echo", b"new").0, Outcome::Ok);
    drop((lane, client));
    stage.end();
}

#[test]
fn a_killed_server_takes_its_workers_with_it_and_the_next_one_starts_clean() {
    let _alone = alone();
    let directory = private_directory();
    let path = directory.path();
    let mut played = common::start_role("server", &[(DIRECTORY, path.to_str().unwrap())]);
    let lines = std::io::BufReader::new(played.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.starts_with("playing")));
    let mut client = Client::connect(path);
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    let stuck = lane.submit("stuck", b"");
    await_output(&mut client, "stuck now");
    let worker = client.status(alice()).worker_pids[0];
    assert!(is_running(worker));
    played.kill().unwrap();
    played.wait().unwrap();
    eventually("the worker is dead", || !is_running(worker));
    // As long as it is there, a next server is given the process's state, and brings the process back.
    eventually("the keeper has ended", || !path.join("keeper.sock").exists());
    assert!(!lane.lane.is_answered(&stuck), "nobody is left to answer");
    assert!(path.join("run/hello/alice").exists());

    let next = Server::start(options(path, application())).unwrap();
    assert!(!path.join("run").exists(), "what the dead server left is swept");
    let mut client = Client::connect(path);
    assert!(client.list().is_empty());
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    assert_eq!(lane.call("echo", b"anew"), (Outcome::Ok, b"anew".to_vec()));
    next.shutdown().unwrap();
}

#[test]
fn children_of_a_worker_do_not_outlive_it() {
    let stage = Stage::new(application(), |_| ());
    let lacks = stage.server().sandbox_lacks().to_vec();
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    // A time that no other process sleeps, to find it by.
    let seconds = format!("{}.5", 100_000 + std::process::id());
    let answer = lane.call("fork", seconds.as_bytes());
    let sleepers = || {
        let commands = std::fs::read_dir("/proc").unwrap().flatten();
        let commands = commands.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        commands.filter(|command| String::from_utf8_lossy(command).contains(&seconds)).count()
    };
    if answer.1 == b"forked" {
        eventually("the child runs", || sleepers() == 1);
        kill(client.status(alice()).worker_pids[0]);
        assert_eq!(lane.insist("echo", b"on").0, Outcome::Ok);
        if lacks.iter().any(|lack| lack.feature.to_lowercase().contains("pid")) {
            println!("skipped: without PID namespaces a child may outlive its worker: {lacks:?}");
        } else {
            eventually("the child is dead", || sleepers() == 0);
        }
    } else {
        println!("skipped: the worker may start no program here: {answer:?}");
    }
    drop((lane, client));
    stage.end();
}

#[test]
fn a_program_that_talks_nonsense_is_ended_with_the_reason() {
    let mut application = Application::new("hello".parse().unwrap(), "/bin/sh".into());
    application.arguments = vec!["-c".into(), "echo junk >&3; sleep 1000".into()];
    let stage = Stage::new(application, |_| ());
    let error = stage.client().create(alice()).unwrap_err().to_string();
    assert!(error.contains("not a control message"), "{error}");
    stage.end();
}

#[test]
fn a_stop_overrides_a_restart_and_shutdown_overrides_all() {
    use praas_protocol::control::{ClientRequest, ServerMessage};
    let stage = Stage::new(application(), |_| ());
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    let running = lane.submit("await-word", b"");
    await_output(&mut client, "waiting now");
    let restart = client.ask(ClientRequest::ProcessRestart { process: alice() });
    let stop = client.ask(ClientRequest::ProcessStop { process: alice() });
    let restarted = client.await_answer(restart).0;
    assert!(matches!(restarted, ServerMessage::Failed { error: ControlError::WrongState { .. }, .. }), "{restarted:?}");
    stage.tell_alice();
    assert!(matches!(client.await_answer(stop).0, ServerMessage::Done { .. }));
    assert_eq!(lane.answer(running).0, Outcome::Ok);
    drop(lane);

    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    let running = lane.submit("sleep", b"200");
    await_output(&mut client, "sleeping now");
    stage.server().stopper().stop();
    assert_eq!(lane.answer(running).0, Outcome::Ok);
    drop((lane, client));
    stage.end();
}

#[test]
fn a_server_told_to_terminate_lets_running_calls_finish_and_leaves_nothing() {
    let _alone = alone();
    let directory = private_directory();
    let path = directory.path();
    // The harness has threads before a role can block signals, so the role is started with TERM blocked.
    let own = own_command();
    let started = std::process::Command::new("env")
        .arg("--block-signal=TERM")
        .args(&own)
        .envs([(ROLE, "signalled server".as_ref()), (DIRECTORY, path.as_os_str())])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut played = started.unwrap();
    let lines = std::io::BufReader::new(played.stdout.take().unwrap()).lines();
    if !lines.map_while(Result::ok).any(|line| line.starts_with("playing")) {
        println!("skipped: this host's env cannot block signals");
        assert_eq!(played.wait().unwrap().code(), Some(125), "the role failed");
        return;
    }
    let mut client = Client::connect(path);
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    let running = lane.submit("sleep", b"300");
    await_output(&mut client, "sleeping now");
    let worker = client.status(alice()).worker_pids[0];
    let server = rustix::process::Pid::from_child(&played);
    rustix::process::kill_process(server, rustix::process::Signal::TERM).unwrap();
    assert_eq!(lane.answer(running), (Outcome::Ok, 0, b"slept".to_vec()));
    assert_eq!(played.wait().unwrap().code(), Some(42));
    assert!(!is_running(worker));
    assert!(!path.join("praas.sock").exists() && !path.join("keeper.sock").exists());
}

#[test]
fn a_busy_worker_is_neither_awaited_nor_flooded() {
    use praas_protocol::codec::encode;
    use praas_protocol::control::ClientMessage;
    let mut application = application();
    (application.workers_min, application.workers_max) = (2, 2);
    let stage = Stage::new(application, |_| ());
    let mut client = stage.client();
    client.create(alice()).unwrap();
    let lane = client.open(alice(), 4096).unwrap();
    let running = lane.submit("await-word", b"");
    await_output(&mut client, "waiting now");
    let before = client.status(alice()).worker_pids;
    // Far more than a socket's buffer and a queue hold.
    let ring = encode(&ClientMessage::Ring { lane: lane.id, process: alice() }).unwrap();
    for _ in 0..3000 {
        client.send_bytes(&ring);
    }
    let second = client.open(alice(), 4096).unwrap();
    assert!(!lane.lane.is_answered(&running), "the other worker opens the lane");
    assert_eq!(second.call("echo", b"meanwhile").0, Outcome::Ok);
    stage.tell_alice();
    assert_eq!(lane.answer(running).0, Outcome::Ok);
    assert_eq!(client.status(alice()).worker_pids, before);
    drop((lane, second, client));
    stage.end();
}
