//! Which driver is chosen: io_uring where the host grants it, epoll where a filter of system calls refuses it, as container
//! engines ship them. The filter stays with the process, so that test runs in a child.

use std::mem::offset_of;
use std::process::Command;

use praas_sys::driver::{self, DriverChoice, DriverKind, DriverLimits, IoUringRefusal, OpenError};

const CHILD: &str = "PRAAS_SYS_FILTERED_CHILD";

#[test]
fn a_driver_is_what_was_demanded_and_auto_follows_the_probe() {
    let opened = driver::open::<Vec<u8>>(DriverChoice::Epoll, DriverLimits::default()).expect("epoll is everywhere");
    assert_eq!((opened.driver.kind(), opened.refused), (DriverKind::Epoll, None));
    let probed = driver::probe();
    let auto = driver::open::<Vec<u8>>(DriverChoice::Auto, DriverLimits::default()).expect("one or the other");
    match probed {
        Ok(_) => assert_eq!((auto.driver.kind(), auto.refused), (DriverKind::IoUring, None)),
        Err(refusal) => {
            println!("skipped: io_uring itself, because {refusal}");
            assert_eq!((auto.driver.kind(), auto.refused), (DriverKind::Epoll, Some(refusal)));
        }
    }
}

#[test]
fn under_a_filter_without_io_uring_auto_is_epoll_and_says_why() {
    if std::env::var(CHILD).is_err() {
        let output = Command::new(std::env::current_exe().expect("own path"))
            .args(["under_a_filter_without_io_uring_auto_is_epoll_and_says_why", "--exact", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .expect("a child");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("1 passed"), "the child failed:\n{text}");
        return;
    }
    let before = driver::probe();
    refuse_io_uring();
    let refusal = driver::probe().expect_err("filtered");
    match before {
        Ok(_) => assert_eq!(refusal, IoUringRefusal::Filtered),
        Err(earlier) => println!("skipped: the reason, because the host refuses io_uring anyway: {earlier}"),
    }
    let opened = driver::open::<Vec<u8>>(DriverChoice::Auto, DriverLimits::default()).expect("epoll");
    assert_eq!((opened.driver.kind(), opened.refused), (DriverKind::Epoll, Some(refusal)));
    match driver::open::<Vec<u8>>(DriverChoice::IoUring, DriverLimits::default()) {
        Err(error @ OpenError::IoUring(reason)) => {
            assert_eq!(reason, refusal);
            println!("{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// From now on, the calling thread's `io_uring_*` fail with EPERM.
fn refuse_io_uring() {
    // From the kernel's `bpf_common.h`; the numbers of the calls are the same on all architectures.
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, k, jt| libc::sock_filter { code, jt, jf: 0, k };
    let number = u32::try_from(offset_of!(libc::seccomp_data, nr)).expect("small");
    let eperm = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let mut program = [
        step(LOAD, number, 0),
        step(JUMP_IF_EQUAL, 425, 3),
        step(JUMP_IF_EQUAL, 426, 2),
        step(JUMP_IF_EQUAL, 427, 1),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0),
        step(RETURN, eperm, 0),
    ];
    let filter = libc::sock_fprog { len: 6, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads the program, which lives on this frame.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0, "no new privileges");
        let status = libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter);
        assert_eq!(status, 0, "the filter is installed");
    }
}
