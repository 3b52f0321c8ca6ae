//! What a process does to itself: directories, locks, signals, affinity, limits; and the survey of the host.

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{Scratch, is_root, until};
use praas_sys::private_directory::{PrivateDirectoryError, create_private_directory};
use praas_sys::{Signal, SignalQueue, affinity, host, process_self};

#[test]
fn a_private_directory_is_made_closed_and_checked() {
    let scratch = Scratch::new();
    let path = scratch.path().join("a/b");
    create_private_directory(&path).expect("create");
    create_private_directory(&path).expect("accept");
    let mode = |path| std::fs::metadata(path).expect("stat").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&scratch.path().join("a"))), (0o700, 0o700));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o750)).expect("chmod");
    let refused = create_private_directory(&path).expect_err("open to a group");
    assert!(matches!(refused, PrivateDirectoryError::OpenToOthers { mode: 0o750, .. }), "{refused}");
    let file = scratch.path().join("file");
    std::fs::write(&file, "").expect("write");
    assert!(matches!(create_private_directory(&file), Err(PrivateDirectoryError::NotADirectory { .. })));
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(scratch.path().join("a"), &link).expect("symlink");
    assert!(matches!(create_private_directory(&link), Err(PrivateDirectoryError::NotADirectory { .. })));
    if is_root() {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).expect("chmod");
        std::os::unix::fs::chown(&path, Some(61_234), None).expect("chown");
        let refused = create_private_directory(&path).expect_err("somebody else's");
        assert!(matches!(refused, PrivateDirectoryError::ForeignOwner { owner: 61_234, .. }), "{refused}");
    }
}

#[test]
fn blocked_signals_are_read_from_the_queue() {
    // On a thread of its own, so that only its mask changes; the signal is sent to this thread alone.
    std::thread::spawn(|| {
        let queue = SignalQueue::block(&[Signal::USR1, Signal::USR2]).expect("block");
        assert_eq!(queue.next().expect("read"), None);
        // SAFETY: signals the calling thread, which has blocked this signal.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) };
        let mut came = None;
        until("the signal", || {
            came = queue.next().expect("read");
            came.is_some()
        });
        assert_eq!(came, Some(Signal::USR2));
    })
    .join()
    .expect("the thread");
}

#[test]
fn a_thread_is_pinned_until_its_guard_is_dropped() {
    let before = affinity::cpus().expect("cpus");
    let cpu = *before.last().expect("at least one");
    {
        let _guard = affinity::pin_thread(cpu).expect("pin");
        assert_eq!(affinity::cpus().expect("cpus"), [cpu]);
        assert_eq!(affinity::current_cpu(), cpu);
    }
    assert_eq!(affinity::cpus().expect("cpus"), before);
    assert!(affinity::pin_thread(usize::MAX).is_err());
}

#[test]
fn random_numbers_differ_and_limits_rise() {
    let one = process_self::random_u128().expect("random");
    assert_ne!(one, process_self::random_u128().expect("random"));
    let limit = process_self::raise_open_files_limit().expect("raise");
    assert!(limit.now >= limit.before);
    assert_eq!(process_self::raise_open_files_limit().expect("again").before, limit.now);
}

#[test]
fn the_survey_names_everything_and_advises_where_something_is_lacking() {
    let findings = host::examine();
    for finding in &findings {
        println!("{:<26} {:<8} {}", finding.name, finding.granted, finding.detail);
        assert_eq!(finding.advice.is_none(), finding.granted == host::Granted::Granted, "{finding:?}");
        assert!(!finding.detail.is_empty());
    }
    let names: Vec<&str> = findings.iter().map(|finding| finding.name).collect();
    for name in ["cores", "io_uring", "Landlock", "cgroups", "open files", "memory"] {
        assert!(names.contains(&name), "{name}");
    }
    assert!(host::cores() >= 1);
    assert!(host::total_memory_bytes() > host::available_memory_bytes());
}
