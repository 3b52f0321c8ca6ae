//! Fault points: named steps of a call at which a test can have the own process killed.
//!
//! A test names a step, and optionally its how-manieth passage, in [`VARIABLE`] (`worker-record-made` or
//! `worker-record-made:3`) and starts a process; the process kills itself with SIGKILL when it gets there, so nothing of it
//! runs after that instruction: no destructor, no unlock. The variable is read once.
//!
//! Without the feature `fault-points` this module is one empty function that is always inlined: the call path has no
//! instruction more. Products are never built with it; the crate's own tests turn it on.

/// Names each step once, for the code that passes it and for the test that enumerates them.
macro_rules! steps {
    ($($(#[doc = $text:literal])* $step:ident = $name:literal,)*) => {
        /// A step of a call.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Step {
            $($(#[doc = $text])* $step,)*
        }

        #[cfg(feature = "fault-points")]
        impl Step {
            /// Every step.
            pub const ALL: &'static [Self] = &[$(Self::$step,)*];

            /// Its name in [`VARIABLE`].
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$step => $name,)*
                }
            }
        }
    };
}

steps! {
    /// Client: the cell expects an answer, no request names it yet.
    ClientCellArmed = "client-cell-armed",
    /// Client: the entry is half written.
    ClientEntryHalfWritten = "client-entry-half-written",
    /// Client: the request is in the ring, nobody was told.
    ClientPublished = "client-published",
    /// Client: about to ring.
    ClientBeforeSummon = "client-before-summon",
    /// Client: whoever had to be rung was.
    ClientSummoned = "client-summoned",
    /// Client: the cell says that it sleeps, and it is about to.
    ClientParked = "client-parked",
    /// Client: the cell asks for the bell.
    ClientAskedForBell = "client-asked-for-bell",
    /// Client: the answer was read, the cell not yet given back.
    ClientAnswerRead = "client-answer-read",
    /// Client: the answer is taken whole.
    ClientTaken = "client-taken",
    /// Client: the cell says that nobody waits.
    ClientAbandoned = "client-abandoned",
    /// Client: an answer's block is about to be given back.
    ClientBeforeRelease = "client-before-release",
    /// Worker: the entry carries its tag, no record names the call.
    WorkerEntryClaimed = "worker-entry-claimed",
    /// Worker: entry and record both name the call.
    WorkerRecordMade = "worker-record-made",
    /// Worker: the record alone names the call.
    WorkerEntryFreed = "worker-entry-freed",
    /// Worker: no longer marked as polling, has not looked for work that is left.
    WorkerStoppedSpinning = "worker-stopped-spinning",
    /// Worker: a block for the output is reserved.
    WorkerOutputReserved = "worker-output-reserved",
    /// Worker: the answer is written, not published.
    WorkerCellFilled = "worker-cell-filled",
    /// Worker: the answer is published, a caller that sleeps is not woken.
    WorkerAnswered = "worker-answered",
    /// Worker: the caller's bell is about to be rung.
    WorkerBeforeBell = "worker-before-bell",
    /// Worker: the caller has all it needs, the record still names the call.
    WorkerBeforeRelease = "worker-before-release",
    /// Worker: nothing names the call any more.
    WorkerReleased = "worker-released",
    /// Worker: marked as asleep, has not looked for work that came meanwhile.
    WorkerMarkedParked = "worker-marked-parked",
    /// Worker: woken, what was rung is drained, nothing is claimed.
    WorkerWoken = "worker-woken",
    /// Worker: holds the ledger's lock.
    LedgerLocked = "ledger-locked",
    /// Worker: the map has given a block that no record names.
    LedgerAllocated = "ledger-allocated",
    /// Worker: the record names the block, the lock is held.
    LedgerRecorded = "ledger-recorded",
    /// Worker: a record is cleared whose block the map still counts.
    LedgerRecordCleared = "ledger-record-cleared",
    /// Worker: the map has taken a block back, the lock is held.
    LedgerGivenBack = "ledger-given-back",
    /// Sender of a message: a block is lent, nothing names it.
    MessageBlockLent = "message-block-lent",
    /// Sender of a message: the block's descriptor names a message that is not published.
    MessageBlockNamed = "message-block-named",
    /// Sender of a message: the entry is half written.
    MessageHalfWritten = "message-half-written",
    /// Sender of a message: it is in the lane, nobody was told.
    MessagePublished = "message-published",
    /// Sender of a message: somebody sleeps, and is about to be rung.
    MessageBeforeRing = "message-before-ring",
    /// Receiver of messages: marked as asleep, has not looked at what came meanwhile.
    MessageReceiverPrepared = "message-receiver-prepared",
}

/// The environment variable that names the step at which this process dies.
#[cfg(feature = "fault-points")]
pub const VARIABLE: &str = "PRAAS_FAULT";

/// Nothing.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub(crate) fn point(_: Step) {}

#[cfg(feature = "fault-points")]
pub(crate) use armed::point;

#[cfg(feature = "fault-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{Step, VARIABLE};

    struct Armed {
        step: Step,
        passages_left: AtomicU32,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    fn read() -> Option<Armed> {
        let value = std::env::var(VARIABLE).ok()?;
        let (name, passage) = value.split_once(':').unwrap_or((&value, "1"));
        let step = Step::ALL.iter().copied().find(|step| step.name() == name);
        let step = step.unwrap_or_else(|| panic!("{VARIABLE} names no step: {name:?}"));
        let passage = passage.parse().unwrap_or_else(|_| panic!("{VARIABLE} has no passage number after {name:?}:"));
        Some(Armed { step, passages_left: AtomicU32::new(passage) })
    }

    /// Kills this process if it was told to die here.
    #[inline]
    pub(crate) fn point(step: Step) {
        if let Some(armed) = ARMED.get_or_init(read)
            && armed.step == step
            && armed.passages_left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            die();
        }
    }

    #[cold]
    fn die() -> ! {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal takes effect on the way back from the system call; another thread may have been chosen for it.
        loop {
            std::thread::park();
        }
    }
}
