//! The calling thread in steady state, of whatever program: from a moment on its system calls are trapped and its heap
//! allocations counted.

use super::functions::Counts;
use super::steady::Restlessness;
use super::{SubjectError, trap};

/// The calling thread, confined. There is no way back: the thread cannot even end by itself, so it leaves what it found in
/// memory and another thread ends the process.
#[derive(Debug)]
pub struct ConfinedThread {
    start: Counts,
}

impl ConfinedThread {
    /// Confines the calling thread. Its program names [`CountingAllocator`](super::CountingAllocator) as its allocator.
    ///
    /// # Errors
    /// [`SubjectError::System`] if the kernel refuses the filter; [`SubjectError::NoReport`] if a system call or an allocation
    /// made on purpose is not counted. In the latter case the thread is confined nonetheless.
    pub fn begin() -> Result<Self, SubjectError> {
        trap::install().map_err(SubjectError::system("trap a thread's system calls"))?;
        if Counts::now().proven().proven != 1 {
            let reason = "a system call or an allocation made on purpose was not counted".to_owned();
            return Err(SubjectError::NoReport { reason });
        }
        Ok(Self { start: Counts::now() })
    }

    /// What the thread did since it was confined.
    #[must_use]
    pub fn so_far(&self) -> Restlessness {
        let Counts { trapped, last_trapped, allocations, .. } = Counts::now().since(self.start);
        Restlessness { system_calls: trapped, last_system_call: last_trapped, allocations }
    }
}
