//! A harness that is gone leaves no descriptor, mapping or thread of its own. One test, alone in its process: it counts.

use std::time::{Duration, Instant};

use praas_function::testing::{Harness, HarnessOptions};
use praas_function::{Application, Call};

const PATIENCE: Duration = Duration::from_secs(10);

fn application() -> Application {
    Application::new()
        .function("echo", |call: &mut Call| call.reply(call.input()))
        .function("panic", |_: &mut Call| -> () { panic!("as asked") })
}

/// Open descriptors, mappings of shared memory, and threads of this process.
fn held() -> [usize; 3] {
    let entries = |path| std::fs::read_dir(path).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let shared = maps.lines().filter(|line| line.contains("memfd:praas")).count();
    [entries("/proc/self/fd"), shared, entries("/proc/self/task")]
}

#[test]
fn a_harness_leaves_nothing_behind() {
    let use_one = || {
        let options = HarnessOptions { workers: 2, ..HarnessOptions::default() };
        let mut harness = Harness::with_options(options, application).unwrap();
        let guest = harness.caller("guest", true).unwrap();
        for caller in [&guest, harness.trusted(), harness.untrusted()] {
            caller.invoke("echo", &[1; 200_000]).unwrap();
            caller.invoke("panic", &[1; 200_000]).unwrap_err();
            caller.begin("echo", &[1; 200_000], None).unwrap().cancel();
        }
        harness.close(guest).unwrap();
    };
    use_one();
    let before = held();
    for _ in 0..3 {
        use_one();
    }
    // A joined thread may stand in /proc for a moment more.
    let start = Instant::now();
    while held() != before && start.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    assert_eq!(held(), before, "descriptors, shared mappings, threads");
}
