//! Spawning: exactly what was named is inherited, failures are typed, and nobody outlives its spawner.

mod common;

use std::os::fd::AsFd;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{ROLE, SOON, Scratch, finish, helper, read_lines, role, script, shell_plan, until};
use praas_sys::{
    Errno, Exit, MessageSocket, Output, Pidfd, SandboxPlan, Signal, SpawnError, SpawnRequest, Spawner, Step,
};

#[test]
fn a_worker_gets_exactly_what_was_named() {
    let scratch = Scratch::new();
    let sandbox = shell_plan(&scratch).prepare(None).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    // Descriptors that must not be inherited, among them one that forgot close-on-exec.
    let (stray, _other) = MessageSocket::pair().expect("pair");
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).expect("clear close-on-exec");
    let (ours, theirs) = MessageSocket::pair().expect("pair");
    let (keeper, _pipe) = rustix::pipe::pipe().expect("pipe");
    let mut request = script(&sandbox, "cd /proc/self/fd && echo *; pwd -P; echo $0; env; umask");
    // A shell that runs `echo` itself shows its own descriptors; 10 and above would be its private ones.
    request.fds = vec![(theirs.into(), 3), (keeper, 9)];
    request.environment.push(("GREETING".into(), "hello world".into()));
    let ended = finish(spawner.spawn(request).expect("spawn"));
    assert_eq!(ended.exit, Exit::Code(0), "{ended:?}");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let fds: Vec<&str> = lines[0].split(' ').filter(|fd| *fd != "*").collect();
    // The directory being listed has a descriptor too, the lowest free one.
    assert_eq!(fds, ["0", "1", "2", "3", "4", "9"], "{ended:?}");
    assert!(ended.stdout.contains("GREETING=hello world"), "{ended:?}");
    assert!(!ended.stdout.contains("CARGO"), "the environment is not inherited: {ended:?}");
    assert_eq!(lines.last(), Some(&"0077"));
    until("the worker's end of the socket to close", || ours.is_hung_up());
}

#[test]
fn the_working_directory_and_empty_input_are_the_workers_own() {
    let scratch = Scratch::new();
    let sandbox = shell_plan(&scratch).prepare(None).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    let request = script(&sandbox, "cat; echo data > file && cat file; exit 7");
    let ended = finish(spawner.spawn(request).expect("spawn"));
    assert_eq!((ended.exit, ended.stdout.as_str()), (Exit::Code(7), "data\n"), "{}", ended.stderr);
    assert!(scratch.path().join("file").exists());
}

#[test]
fn an_exit_is_noticed_by_its_handle() {
    let scratch = Scratch::new();
    let sandbox = shell_plan(&scratch).prepare(None).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    let spawned = spawner.spawn(script(&sandbox, "echo up; exec sleep 1000")).expect("spawn");
    read_lines(spawned.stdout.as_ref().expect("captured"), 1);
    assert!(spawned.pidfd.is_alive());
    assert_eq!(spawned.pidfd.try_wait().expect("wait"), None);
    assert_eq!(spawned.pidfd.wait_deadline(Duration::from_millis(10)).expect("wait"), None);
    let watcher = spawned.pidfd.try_clone().expect("clone");
    spawned.pidfd.send_signal(Signal::KILL).expect("kill");
    assert!(watcher.wait_gone(SOON).expect("wait"));
    assert!(!watcher.is_alive());
    let exit = spawned.pidfd.try_wait().expect("wait");
    assert_eq!(exit, Some(Exit::Signal { number: 9, core_dumped: false }));
    assert!(spawned.pidfd.try_wait().is_err(), "reaped once");
    spawned.pidfd.kill().expect("killing the dead is fine");
}

#[test]
fn a_failure_in_the_child_names_the_step() {
    let scratch = Scratch::new();
    let spawner = Spawner::start().expect("spawner");
    let program = scratch.path().join("program");
    std::fs::write(&program, "not a program").expect("write");
    let plan = SandboxPlan { program: program.clone(), ..shell_plan(&scratch) };
    let sandbox = plan.prepare(None).expect("prepare");
    let refused = spawner.spawn(script(&sandbox, "")).expect_err("not executable");
    assert!(matches!(refused, SpawnError::Child { step: Step::Execute, errno: Errno::ACCESS, .. }), "{refused}");
    assert!(refused.to_string().contains("make the program executable"), "{refused}");
    let mut permissions = std::fs::metadata(&program).expect("stat").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(&program, permissions).expect("chmod");
    let refused = spawner.spawn(script(&sandbox, "")).expect_err("no program");
    assert!(matches!(refused, SpawnError::Child { step: Step::Execute, errno: Errno::NOEXEC, .. }), "{refused}");
    assert!(plan_for("/no/such/program", &scratch).prepare(None).is_err());
    let mut twice = script(&sandbox, "");
    let (one, other) = MessageSocket::pair().expect("pair");
    twice.fds = vec![(one.into(), 3), (other.into(), 3)];
    assert!(matches!(spawner.spawn(twice), Err(SpawnError::BadRequest { .. })));
}

fn plan_for(program: &str, scratch: &Scratch) -> SandboxPlan {
    SandboxPlan { program: program.into(), ..shell_plan(scratch) }
}

#[test]
fn an_asynchronous_spawn_answers_through_its_callback() {
    let scratch = Scratch::new();
    let sandbox = shell_plan(&scratch).prepare(None).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    let (sender, outcomes) = channel();
    for number in 0..8 {
        let sender = sender.clone();
        let request = script(&sandbox, &format!("exit {number}"));
        spawner.run(move |workshop| drop(sender.send((number, workshop.spawn(request))))).expect("queued");
    }
    for _ in 0..8 {
        let (number, outcome) = outcomes.recv_timeout(SOON).expect("an outcome");
        assert_eq!(finish(outcome.expect("spawned")).exit, Exit::Code(number));
    }
    // A task that panics must not take the thread, and with it every worker, down.
    let request = script(&sandbox, "exit 0");
    spawner
        .run(move |workshop| {
            finish(workshop.spawn(request).expect("spawned"));
            panic!("expected: a caller's mistake");
        })
        .expect("queued");
    assert_eq!(finish(spawner.spawn(script(&sandbox, "exit 5")).expect("spawn")).exit, Exit::Code(5));
}

#[test]
fn workers_die_with_their_spawner() {
    let scratch = Scratch::new();
    let sandbox = shell_plan(&scratch).prepare(None).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    let request = script(&sandbox, "trap '' TERM HUP INT; echo up; while :; do sleep 1; done");
    let spawned = spawner.spawn(request).expect("spawn");
    read_lines(spawned.stdout.as_ref().expect("captured"), 1);
    assert!(spawned.pidfd.is_alive());
    drop(spawner);
    let exit = spawned.pidfd.wait_deadline(SOON).expect("wait");
    assert_eq!(exit, Some(Exit::Signal { number: 9, core_dumped: false }));
}

#[test]
fn workers_die_with_a_killed_server() {
    let scratch = Scratch::new();
    if role().as_deref() == Some("server") {
        serve_until_killed(&scratch);
    }
    // The server must not be confined: it makes namespaces itself.
    let program = std::env::current_exe().expect("this program");
    let plan = SandboxPlan::unconfined(program, scratch.path());
    let spawner = Spawner::start().expect("spawner");
    let (ours, theirs) = MessageSocket::pair().expect("pair");
    let mut request = helper(&plan.prepare(None).expect("prepare"), "workers_die_with_a_killed_server", "server");
    request.fds = vec![(theirs.into(), 3)];
    let server = spawner.spawn(request).expect("spawn");
    let mut buffer = [0; 8];
    let received = ours.recv_deadline(&mut buffer, 1, SOON).expect("recv").expect("the worker's handle");
    let worker = Pidfd::from(received.fds.into_iter().next().expect("a handle"));
    assert!(worker.is_alive());
    server.pidfd.kill().expect("kill");
    assert!(worker.wait_gone(SOON).expect("wait"), "the worker outlived its server");
    server.pidfd.wait_deadline(SOON).expect("wait").expect("the server ends");
    // A killed server removes nothing; its scratch directory is ours to find.
    let left = format!("praas-sys-{}-0", server.pid);
    let _ = std::fs::remove_dir_all(std::env::temp_dir().join(left));
}

/// The helper: starts a stubborn worker, hands its handle to the test, and waits to be killed.
fn serve_until_killed(scratch: &Scratch) -> ! {
    use std::os::fd::FromRawFd;
    // SAFETY: the test gave this helper a socket with the number 3, and nothing here owns it.
    let socket = MessageSocket::from(unsafe { std::os::fd::OwnedFd::from_raw_fd(3) });
    let sandbox = shell_plan(scratch).prepare(None).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    let request = SpawnRequest { output: Output::Discard, ..script(&sandbox, "while :; do sleep 1; done") };
    let worker = spawner.spawn(request).expect("spawn");
    socket.send(b"up", &[worker.pidfd.as_fd()]).expect("send");
    let mut buffer = [0; 8];
    let _ = socket.recv_deadline(&mut buffer, 0, SOON);
    panic!("nobody killed this helper; {ROLE} is for tests");
}
