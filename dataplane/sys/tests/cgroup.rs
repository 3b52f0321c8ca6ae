//! Cgroups: limits bite and are counted, everything inside can be killed, nothing is left behind.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{SOON, Scratch, finish, read_lines, script, shell_plan, until};
use praas_sys::{Cgroup, CgroupLimits, CgroupRoot, Exit, Spawner};

const MIB: u64 = 1024 * 1024;

/// A root whose names no other test uses, or the reason why there is none.
fn root(test: &str) -> Option<Arc<CgroupRoot>> {
    let root = CgroupRoot::probe(&format!("praas-test-{test}-{}", std::process::id()));
    let available = root.controllers();
    if !(root.is_available() && available.memory && available.pids) {
        println!("skipped: no writable cgroups with memory and pids controllers ({available:?})");
        return None;
    }
    Some(root)
}

fn limited(root: &Arc<CgroupRoot>, limits: &CgroupLimits) -> Option<Arc<Cgroup>> {
    match root.create(limits) {
        Ok(cgroup) => Some(Arc::new(cgroup)),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// Directories of this prefix in all hierarchies.
fn directories(test: &str) -> usize {
    let prefix = format!("praas-test-{test}-{}.", std::process::id());
    let output = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("{prefix}*")])
        .output()
        .expect("find");
    String::from_utf8_lossy(&output.stdout).lines().count()
}

#[test]
fn a_worker_over_its_memory_is_killed_and_counted() {
    let Some(root) = root("memory") else { return };
    let limits = CgroupLimits { memory_bytes: Some(16 * MIB), ..CgroupLimits::default() };
    let Some(cgroup) = limited(&root, &limits) else { return };
    let scratch = Scratch::new();
    let sandbox = shell_plan(&scratch).prepare(Some(&root)).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    // A shell variable that doubles: 64 MiB at the end.
    let text = "x=0123456789abcdef; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22; do x=$x$x; done; echo survived";
    let mut request = script(&sandbox, text);
    request.cgroup = Some(Arc::clone(&cgroup));
    let ended = finish(spawner.spawn(request).expect("spawn"));
    assert_eq!(ended.exit, Exit::Signal { number: 9, core_dumped: false }, "{ended:?}");
    assert_eq!(cgroup.oom_kills(), Some(1));
    assert!(cgroup.memory_limit_hits().is_some_and(|hits| hits > 0));
    assert!(cgroup.memory_bytes().is_some_and(|bytes| bytes <= 16 * MIB));
    assert!(cgroup.cpu_time_ns().is_some_and(|time| time > 0), "what it used was measured");
    until("the cgroup to empty", || cgroup.population() == 0);
    drop(cgroup);
    drop(root);
    assert_eq!(directories("memory"), 0);
}

#[test]
fn a_fork_storm_ends_at_the_limit() {
    let Some(root) = root("pids") else { return };
    let limits = CgroupLimits { pids: Some(8), ..CgroupLimits::default() };
    let Some(cgroup) = limited(&root, &limits) else { return };
    let scratch = Scratch::new();
    let sandbox = shell_plan(&scratch).prepare(Some(&root)).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    let text = "echo up; i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); done; echo survived";
    let mut request = script(&sandbox, text);
    request.cgroup = Some(Arc::clone(&cgroup));
    let spawned = spawner.spawn(request).expect("spawn");
    read_lines(spawned.stdout.as_ref().expect("captured"), 1);
    assert!(cgroup.population() <= 8);
    let ended = finish(spawned);
    assert!(ended.stderr.to_lowercase().contains("fork"), "{ended:?}");
    assert!(!ended.stdout.contains("survived"), "{ended:?}");
    cgroup.kill_all(SOON).expect("empty");
}

#[test]
fn everything_inside_is_killed_by_name() {
    let Some(root) = root("kill") else { return };
    let Some(cgroup) = limited(&root, &CgroupLimits::default()) else { return };
    let scratch = Scratch::new();
    let mut plan = shell_plan(&scratch);
    // Without the namespace, so that only the cgroup holds them together.
    plan.confinement.pid_namespace = false;
    let sandbox = plan.prepare(Some(&root)).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    let text = "for i in 1 2 3; do setsid sh -c 'echo up; while :; do sleep 1; done' & done; echo up; exit 3";
    let mut request = script(&sandbox, text);
    request.cgroup = Some(Arc::clone(&cgroup));
    let spawned = spawner.spawn(request).expect("spawn");
    read_lines(spawned.stdout.as_ref().expect("captured"), 4);
    assert_eq!(finish(spawned).exit, Exit::Code(3));
    assert!(cgroup.population() >= 3, "children outlive their worker without a namespace");
    // Another process, such as the keeper, finds it by name and kills.
    let keeper = CgroupRoot::probe("praas-keeper");
    let found = keeper.open(cgroup.name()).expect("open");
    found.kill_all(SOON).expect("kill");
    assert_eq!(found.population(), 0);
    assert!(keeper.open("../etc").is_err());
    assert!(keeper.open("praas-no-such-cgroup").is_err());
}

#[test]
fn prepared_cgroups_are_used_and_removed() {
    let Some(first) = root("prepared") else { return };
    if let Err(error) = first.prepare(3) {
        println!("skipped: {error}");
        return;
    }
    assert_eq!(first.prepared(), 3);
    let limits = CgroupLimits { memory_bytes: Some(64 * MIB), pids: Some(32), cpu_millicores: None };
    let cgroup = first.create(&limits).expect("create");
    assert_eq!(first.prepared(), 2);
    // Limits can be raised and lowered again.
    for memory_mib in [256, 32] {
        let memory_bytes = Some(memory_mib * MIB);
        cgroup.set_limits(&CgroupLimits { memory_bytes, ..CgroupLimits::default() }).expect("change");
    }
    let places = directories("prepared") / 3;
    assert!(places >= 1);
    // A server that dies leaves its cgroups; the next with the same prefix sweeps them.
    std::mem::forget(cgroup);
    let next = root("prepared").expect("as before");
    drop(first);
    let removed = next.sweep(SOON).expect("sweep");
    assert!(removed >= places, "removed {removed}");
    drop(next);
    assert_eq!(directories("prepared"), 0);
}

#[test]
fn a_cpu_limit_can_be_set_where_there_is_a_controller() {
    let Some(root) = root("cpu") else { return };
    if !root.controllers().cpu {
        println!("skipped: no cpu controller");
        return;
    }
    let limits = CgroupLimits { cpu_millicores: Some(100), ..CgroupLimits::default() };
    let Some(cgroup) = limited(&root, &limits) else { return };
    let scratch = Scratch::new();
    let sandbox = shell_plan(&scratch).prepare(Some(&root)).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    let mut request = script(&sandbox, "echo up; while :; do :; done");
    request.cgroup = Some(Arc::clone(&cgroup));
    let spawned = spawner.spawn(request).expect("spawn");
    read_lines(spawned.stdout.as_ref().expect("captured"), 1);
    until("some CPU time to be used", || cgroup.cpu_time_ns().is_some_and(|time| time > 30_000_000));
    spawned.pidfd.kill().expect("kill");
    finish(spawned);
    cgroup.kill_all(Duration::from_secs(10)).expect("empty");
}
