//! What a spawn costs, part by part, beside the floor: the standard library starting `/bin/true`.
//!
//! `cargo run --release -p praas-sys --example spawn_timings`

use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_sys::{
    CgroupLimits, CgroupRoot, Confinement, Output, Sandbox, SandboxPlan, SpawnRequest, Spawner, WorkerUser,
};

const ROUNDS: usize = 200;
const PROGRAM: &str = "/bin/true";
const WAIT: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("praas-timings-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let outcome = measure(&directory);
    std::fs::remove_dir_all(&directory)?;
    outcome
}

fn measure(directory: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let root = CgroupRoot::probe(&format!("praas-timings-{}", std::process::id()));
    let spawner = Spawner::start()?;
    let full = SandboxPlan::new(PROGRAM, directory);
    let none = SandboxPlan { confinement: Confinement::NONE, ..full.clone() };
    let only = |confinement| SandboxPlan { confinement, ..full.clone() };
    let mut cases: Vec<(&str, Arc<Sandbox>, bool)> = vec![
        ("no confinement", none.prepare(None)?, false),
        ("PID namespace", only(Confinement { pid_namespace: true, ..Confinement::NONE }).prepare(None)?, false),
        ("Landlock", only(Confinement { landlock: true, ..Confinement::NONE }).prepare(None)?, false),
        ("seccomp", only(Confinement { seccomp: true, ..Confinement::NONE }).prepare(None)?, false),
        ("cgroup", none.prepare(None)?, true),
        ("everything", full.prepare(Some(&root))?, true),
    ];
    if rustix::process::geteuid().is_root() {
        let user = WorkerUser::Private { uid: 61_234, gid: 61_234 };
        std::os::unix::fs::chown(directory, Some(61_234), Some(61_234))?;
        cases.push(("everything, own user", SandboxPlan { user, ..full }.prepare(Some(&root))?, true));
    }
    println!("start to exit of {PROGRAM}, µs (p50 of {ROUNDS}), and the part until spawn returned");
    let floor = median(|| {
        let start = Instant::now();
        let status = std::process::Command::new(PROGRAM).status();
        status.map(|_| (start.elapsed(), start.elapsed()))
    })?;
    println!("{:<24} {:>7}", "std::process (floor)", floor.0.as_micros());
    for (name, sandbox, with_cgroup) in cases {
        let cgroup = if with_cgroup && root.is_available() {
            Some(Arc::new(root.create(&CgroupLimits {
                memory_bytes: Some(1 << 30),
                pids: Some(64),
                cpu_millicores: None,
            })?))
        } else {
            None
        };
        let figure = median(|| {
            let request = SpawnRequest {
                arguments: Vec::new(),
                environment: Vec::new(),
                fds: Vec::new(),
                sandbox: Arc::clone(&sandbox),
                cgroup: cgroup.clone(),
                output: Output::Capture,
            };
            let start = Instant::now();
            let spawned = spawner.spawn(request)?;
            let returned = start.elapsed();
            spawned.pidfd.wait_deadline(WAIT)?;
            Ok::<_, Box<dyn std::error::Error>>((start.elapsed(), returned))
        })?;
        println!("{name:<24} {:>7} {:>7}", figure.0.as_micros(), figure.1.as_micros());
    }
    cgroup_costs(&root)
}

fn cgroup_costs(root: &Arc<CgroupRoot>) -> Result<(), Box<dyn std::error::Error>> {
    if !root.is_available() {
        println!("no writable cgroups here");
        return Ok(());
    }
    let limits = CgroupLimits { memory_bytes: Some(1 << 30), pids: Some(64), cpu_millicores: None };
    for (name, prepared) in [("cgroup made and limited", false), ("cgroup prepared, limited", true)] {
        let figure = median(|| {
            if prepared {
                root.prepare(1)?;
            }
            let start = Instant::now();
            let cgroup = root.create(&limits)?;
            let made = start.elapsed();
            drop(cgroup);
            Ok::<_, praas_sys::CgroupError>((made, start.elapsed()))
        })?;
        println!("{name:<24} {:>7} (and removed: {})", figure.0.as_micros(), figure.1.as_micros());
    }
    Ok(())
}

/// Medians of both figures over all rounds.
fn median<E>(mut round: impl FnMut() -> Result<(Duration, Duration), E>) -> Result<(Duration, Duration), E> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (one, other) = round()?;
        first.push(one);
        second.push(other);
    }
    first.sort_unstable();
    second.sort_unstable();
    Ok((first[ROUNDS / 2], second[ROUNDS / 2]))
}
