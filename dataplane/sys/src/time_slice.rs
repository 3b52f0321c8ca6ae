//! How soon a thread that wakes gets a CPU that others use.
//!
//! The scheduler runs first whoever has to have had its slice soonest (EEVDF). A thread that mostly waits and never needs long asks for
//! a short slice: when it wakes it goes before those with longer ones, and has not more of the CPU than they have. Linux from 6.12
//! on does that for everybody; before, the wish changes nothing.

use std::time::Duration;

use rustix::io::Errno;

/// The shortest slice that the kernel gives: a shorter wish is raised to it, as one above 100 ms is lowered to that.
pub const TIME_SLICE_MIN: Duration = Duration::from_micros(100);

/// Asks for slices of this length for the calling thread. Its policy and its niceness stay as they are.
///
/// # Errors
/// What the kernel says. [`Errno::NOTSUP`] for a thread that has a real-time policy, in which there are no slices to ask for.
pub fn ask_for_slices(slice: Duration) -> Result<(), Errno> {
    let mut attributes = attributes()?;
    if !matches!(i32::try_from(attributes.sched_policy), Ok(libc::SCHED_OTHER | libc::SCHED_BATCH)) {
        return Err(Errno::NOTSUP);
    }
    attributes.sched_runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: the kernel reads as many bytes as `size` says, which `attributes` has made the size of the structure, or less where the
    // kernel knows less of it; it keeps no pointer.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

/// How the calling thread is scheduled.
fn attributes() -> Result<libc::sched_attr, Errno> {
    // SAFETY: the structure has numbers only, for which all bytes may be zero.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(u32::MAX);
    let size = attributes.size;
    // SAFETY: the kernel writes `size` bytes at most, which is what the structure has, see above; it keeps no pointer. Thread 0 is the
    // calling one.
    checked(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
    Ok(attributes)
}

fn checked(result: libc::c_long) -> Result<(), Errno> {
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_asks_for_short_slices_and_stays_as_nice_as_it_was() {
        let before = attributes().unwrap();
        ask_for_slices(TIME_SLICE_MIN).unwrap();
        let after = attributes().unwrap();
        assert_eq!((after.sched_policy, after.sched_nice), (before.sched_policy, before.sched_nice));
        // A kernel that has no slices to ask for says nothing of them.
        let slice_ns = u64::try_from(TIME_SLICE_MIN.as_nanos()).unwrap();
        assert!([0, slice_ns].contains(&after.sched_runtime), "{} ns", after.sched_runtime);
    }
}
