//! Spawning leaks no descriptor, no mapping and no child. Alone in its program, because it counts the whole process.

mod common;

use common::{Scratch, finish, open_fds, script, shell_plan};
use praas_sys::{CgroupLimits, CgroupRoot, MessageSocket, Spawner};

#[test]
fn spawns_leak_nothing_whether_they_succeed_or_fail() {
    let scratch = Scratch::new();
    let root = CgroupRoot::probe(&format!("praas-leaks-{}", std::process::id()));
    let good = shell_plan(&scratch).prepare(Some(&root)).expect("prepare");
    let mut plan = shell_plan(&scratch);
    plan.program = "/etc/hostname".into();
    if !plan.program.exists() {
        plan.program = "/etc/passwd".into();
    }
    let bad = plan.prepare(None).expect("prepare");
    let spawner = Spawner::start().expect("spawner");
    let mut counts = Vec::new();
    for round in 0..3 {
        for _ in 0..50 {
            let (ours, theirs) = MessageSocket::pair().expect("pair");
            let mut request = script(&good, "exit 0");
            request.fds = vec![(theirs.into(), 3)];
            request.cgroup = root.create(&CgroupLimits::default()).ok().map(std::sync::Arc::new);
            let spawned = spawner.spawn(request).expect("spawn");
            let pidfd = spawned.pidfd.try_clone().expect("clone");
            finish(spawned);
            assert!(!pidfd.is_alive());
            assert!(pidfd.try_wait().is_err(), "reaped already");
            assert!(ours.is_hung_up());
            spawner.spawn(script(&bad, "")).expect_err("not a program");
        }
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps").lines().count();
        println!("round {round}: {} descriptors, {maps} mappings", open_fds());
        counts.push((open_fds(), maps));
    }
    // The first round warms allocators up.
    assert_eq!(counts[1].0, counts[2].0, "descriptors leaked");
    assert!(counts[2].1 <= counts[1].1 + 2, "mappings leaked: {counts:?}");
    let children = std::fs::read_dir("/proc/self/task").expect("tasks").filter_map(Result::ok).map(|task| {
        std::fs::read_to_string(task.path().join("children")).unwrap_or_default().split_whitespace().count()
    });
    assert_eq!(children.sum::<usize>(), 0, "children left");
}
