//! The sandbox: each confinement refuses what it should, lets work what should work, and is reported where lacking.

mod common;

use common::{Scratch, finish, helper, is_root, read_lines, role, script, shell_plan};
use praas_sys::{
    CgroupRoot, Confinement, Exit, Feature, Grant, Network, Pidfd, SandboxError, SandboxPlan, Spawner, WorkerUser,
};

#[test]
fn killing_a_worker_kills_everything_it_started() {
    let scratch = Scratch::new();
    let sandbox = shell_plan(&scratch).prepare(None).expect("prepare");
    if let Grant::Lacking { why, .. } = sandbox.report().grant(Feature::PidNamespace) {
        println!("skipped: {why}");
        return;
    }
    let spawner = Spawner::start().expect("spawner");
    // Children in sessions of their own that ignore every signal they can.
    let text = "echo pid $$; \
                for i in 1 2 3; do setsid sh -c 'trap \"\" TERM HUP INT; echo $0 up; while :; do sleep 1; done' $i & done; \
                wait";
    let spawned = spawner.spawn(script(&sandbox, text)).expect("spawn");
    let stdout = spawned.stdout.as_ref().expect("captured");
    let lines = read_lines(stdout, 4);
    assert!(lines.contains(&"pid 1".to_owned()), "the worker is the first of its namespace: {lines:?}");
    let family = descendants(spawned.pid);
    assert!(family.len() >= 3, "{family:?}");
    spawned.pidfd.kill().expect("kill");
    for handle in &family {
        assert!(handle.wait_gone(common::SOON).expect("wait"), "a child outlived its worker");
    }
    assert_eq!(finish(spawned).exit, Exit::Signal { number: 9, core_dumped: false });
}

/// Handles of all processes below `pid` at this instant.
fn descendants(pid: u32) -> Vec<Pidfd> {
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            parents.push(child);
            found.extend(Pidfd::open(child).ok());
        }
    }
    found
}

#[test]
fn files_outside_the_plan_cannot_be_opened() {
    let (scratch, secrets, shared) = (Scratch::new(), Scratch::new(), Scratch::new());
    let secret = secrets.path().join("secret");
    std::fs::write(&secret, "secret").expect("write");
    std::fs::write(shared.path().join("data"), "shared").expect("write");
    let mut plan = shell_plan(&scratch);
    plan.read_only.push(shared.path().to_owned());
    let sandbox = plan.prepare(None).expect("prepare");
    if let Grant::Lacking { why, .. } = sandbox.report().grant(Feature::Landlock) {
        println!("skipped: {why}");
        return;
    }
    let spawner = Spawner::start().expect("spawner");
    let text = format!(
        "echo own > own && cat own; cat {shared}/data; echo; cat {secret}; ls {secrets}; echo x > {shared}/new; \
         echo x > /tmp/praas-sys-planted; cat /proc/1/status; ls /; ls /usr > /dev/null && echo usr; \
         read line < /proc/self/status && echo self",
        shared = shared.path().display(),
        secret = secret.display(),
        secrets = secrets.path().display(),
    );
    let ended = finish(spawner.spawn(script(&sandbox, &text)).expect("spawn"));
    assert_eq!(ended.stdout, "own\nshared\nusr\nself\n", "{}", ended.stderr);
    let refusals = ended.stderr.to_lowercase().matches("denied").count();
    assert_eq!(refusals, 6, "{}", ended.stderr);
}

#[test]
fn dangerous_system_calls_are_refused() {
    const TEST: &str = "dangerous_system_calls_are_refused";
    if role().as_deref() == Some("probe") {
        probe_calls();
        return;
    }
    let scratch = Scratch::new();
    let program = std::env::current_exe().expect("this program");
    let plan = SandboxPlan { program, ..shell_plan(&scratch) };
    let sandbox = plan.prepare(None).expect("prepare");
    if let Grant::Lacking { why, .. } = sandbox.report().grant(Feature::Seccomp) {
        println!("skipped: {why}");
        return;
    }
    let spawner = Spawner::start().expect("spawner");
    let ended = finish(spawner.spawn(helper(&sandbox, TEST, "probe")).expect("spawn"));
    assert!(ended.exit.is_success(), "{ended:?}");
    let results: Vec<&str> = ended.stdout.lines().filter_map(|line| line.split_once("call ")).map(|(_, r)| r).collect();
    for expected in [
        "ptrace EPERM",
        "process_vm_readv EPERM",
        "pidfd_getfd EPERM",
        "io_uring_setup EPERM",
        "unshare EPERM",
        "clone with a user namespace EPERM",
        "clone3 ENOSYS",
        "mount EPERM",
        "bpf EPERM",
        "keyctl EPERM",
        "inet socket EPERM",
        "netlink socket EPERM",
        "unix socket ok",
        "thread ok",
        "no new privileges 1",
    ] {
        assert!(results.contains(&expected), "{expected} is missing in {results:?}");
    }
    #[cfg(target_arch = "x86_64")]
    assert!(results.contains(&"getpid by its x32 number EPERM"), "{results:?}");
    // With the host's network, addresses can be used again and the rest stays refused.
    let sandbox = SandboxPlan { network: Network::Host, ..plan }.prepare(None).expect("prepare");
    let ended = finish(spawner.spawn(helper(&sandbox, TEST, "probe")).expect("spawn"));
    assert!(ended.stdout.contains("call inet socket ok"), "{ended:?}");
    assert!(ended.stdout.contains("call ptrace EPERM"), "{ended:?}");
}

/// The helper: makes calls and says what came of each.
fn probe_calls() {
    let raw = |name: &str, number: i64, arguments: [usize; 3]| {
        // SAFETY: each call is refused before it looks at its arguments, or is harmless: making a socket.
        let result = unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2], 0, 0, 0) };
        let outcome = match std::io::Error::last_os_error().raw_os_error() {
            _ if result >= 0 => "ok".to_owned(),
            Some(libc::EPERM) => "EPERM".to_owned(),
            Some(libc::ENOSYS) => "ENOSYS".to_owned(),
            other => format!("{other:?}"),
        };
        println!("\ncall {name} {outcome}");
    };
    let flag = |flag: i32| usize::try_from(flag).expect("a positive flag");
    raw("ptrace", libc::SYS_ptrace, [flag(libc::PTRACE_TRACEME.cast_signed()), 0, 0]);
    raw("process_vm_readv", libc::SYS_process_vm_readv, [0; 3]);
    raw("pidfd_getfd", libc::SYS_pidfd_getfd, [0; 3]);
    raw("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0]);
    raw("unshare", libc::SYS_unshare, [flag(libc::CLONE_NEWUSER), 0, 0]);
    raw("clone with a user namespace", libc::SYS_clone, [flag(libc::CLONE_NEWUSER | libc::SIGCHLD), 0, 0]);
    raw("clone3", libc::SYS_clone3, [0; 3]);
    raw("mount", libc::SYS_mount, [0; 3]);
    raw("bpf", libc::SYS_bpf, [0; 3]);
    raw("keyctl", libc::SYS_keyctl, [0; 3]);
    raw("inet socket", libc::SYS_socket, [flag(libc::AF_INET), flag(libc::SOCK_STREAM), 0]);
    raw("netlink socket", libc::SYS_socket, [flag(libc::AF_NETLINK), flag(libc::SOCK_RAW), 0]);
    raw("unix socket", libc::SYS_socket, [flag(libc::AF_UNIX), flag(libc::SOCK_STREAM), 0]);
    #[cfg(target_arch = "x86_64")]
    raw("getpid by its x32 number", libc::SYS_getpid | 0x4000_0000, [0; 3]);
    std::thread::spawn(|| println!("\ncall thread ok")).join().expect("a thread");
    let status = std::fs::read_to_string("/proc/self/status").expect("its own status");
    let no_new = status.lines().find_map(|line| line.strip_prefix("NoNewPrivs:")).expect("the line");
    println!("\ncall no new privileges {}", no_new.trim());
}

#[test]
fn a_worker_of_a_root_server_has_a_user_of_its_own_and_no_privileges() {
    if !is_root() {
        println!("skipped: only root gives workers users of their own");
        return;
    }
    let scratch = Scratch::new();
    let sandbox = shell_plan(&scratch).prepare(None).expect("prepare");
    assert!(sandbox.report().has(Feature::PrivateUser));
    let spawner = Spawner::start().expect("spawner");
    let text = "id -u; id -G; while read k v; do [ $k = CapEff: ] && echo $k $v; done < /proc/self/status; ulimit -c; ulimit -n; cat /etc/shadow";
    let ended = finish(spawner.spawn(script(&sandbox, text)).expect("spawn"));
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines, ["61234", "61234", "CapEff: 0000000000000000", "0", "4096"], "{}", ended.stderr);
    assert!(ended.stderr.contains("ermission denied"), "{}", ended.stderr);
}

#[test]
fn a_strict_plan_refuses_what_an_easy_one_reports() {
    let scratch = Scratch::new();
    // Without a root for cgroups their limits are lacking everywhere.
    let plan = SandboxPlan::new("/bin/sh", scratch.path());
    let sandbox = plan.prepare(None).expect("an easy plan");
    assert!(!sandbox.report().is_complete());
    let lacking: Vec<Feature> = sandbox.report().lacking().map(|(feature, ..)| feature).collect();
    assert!(lacking.contains(&Feature::MemoryLimit) && lacking.contains(&Feature::ProcessLimit), "{lacking:?}");
    let refused = SandboxPlan { strict: true, ..plan.clone() }.prepare(None).expect_err("a strict plan");
    assert!(matches!(&refused, SandboxError::Incomplete { report } if *report == *sandbox.report()));
    let text = refused.to_string();
    assert!(text.contains("memory limit (cgroup)") && text.contains("Delegate=yes"), "{text}");
    // What is not asked for is not lacking.
    let unconfined = SandboxPlan { strict: true, ..SandboxPlan::unconfined("/bin/sh", scratch.path()) };
    assert!(unconfined.prepare(None).expect("nothing to lack").report().is_complete());
    if !is_root() {
        let user = WorkerUser::Private { uid: 61_234, gid: 61_234 };
        let report = SandboxPlan { user, ..plan }.prepare(None).expect("an easy plan").report().clone();
        assert!(matches!(report.grant(Feature::PrivateUser), Grant::Lacking { .. }));
    }
}

#[test]
fn a_strict_plan_is_met_where_the_host_grants_everything() {
    let scratch = Scratch::new();
    let root = CgroupRoot::probe(&format!("praas-strict-{}", std::process::id()));
    match (SandboxPlan { strict: true, ..shell_plan(&scratch) }).prepare(Some(&root)) {
        Ok(sandbox) => {
            let spawner = Spawner::start().expect("spawner");
            assert!(finish(spawner.spawn(script(&sandbox, "exit 0")).expect("spawn")).exit.is_success());
        }
        Err(error) => println!("skipped: {error}"),
    }
}

#[test]
fn an_unconfined_worker_runs_as_we_do() {
    let scratch = Scratch::new();
    let plan = SandboxPlan::unconfined("/bin/sh", scratch.path());
    assert_eq!(plan.confinement, Confinement::NONE);
    let sandbox = plan.prepare(None).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    let ended = finish(spawner.spawn(script(&sandbox, "id -u; echo $$; ls / > /dev/null")).expect("spawn"));
    let mine = rustix::process::geteuid().as_raw().to_string();
    assert_eq!(ended.stdout.lines().next(), Some(mine.as_str()));
    assert_ne!(ended.stdout.lines().nth(1), Some("1"), "no namespace was asked for");
    assert_eq!(ended.stderr, "");
}
