//! The memory of a process that outlives its server: the objects segment, which its workers share, and the ledger.
//!
//! Server and keeper each hold a descriptor of both, and of the log ring of one whose changes are logged. What the keeper holds goes by names that are never used twice, because
//! each has the incarnation of its process. The memory ends when the process is stopped, or with a server that ends cleanly.
//!
//! A segment is sparse: it takes memory as the state grows. What is charged to the host's budget is a share of its limit
//! ([`ADMITTED_PARTS`]), or what it takes where that is more, as found every few seconds: a state that grows is not refused,
//! but further processes and lanes are.

use std::fmt;
use std::ops::Bound;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::ProcessId;
use praas_protocol::control::ControlError;
use praas_shm::log_ring::{LOG_BYTES_DEFAULT, LogWriter};
use praas_shm::objects::{Objects, ObjectsLayout};

use crate::application::Application;
use crate::budget::{Budget, Charge};
use crate::process_ledger::{LedgerRecord, ProcessLedger};
use crate::shard::Shard;
use crate::timers::Timer;

/// A process is admitted against the host's budget with one of so many equal parts of its `state_bytes_max`. Most processes
/// are idle and small: charged whole, those of the default limit would fill a host of 24 GiB with 384, of which none had a
/// state yet.
const ADMITTED_PARTS: u64 = 16;

/// Period in which it is looked how much memory states take.
const MEASURING_PERIOD: Duration = Duration::from_secs(2);

/// States that are looked at in one period; a look is one system call.
const MEASURED_PER_TURN: usize = 512;

/// The segments of a process.
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    pub(crate) objects: Arc<Objects>,
    pub(crate) ledger: ProcessLedger,
    charge: Charge,
    ring: Option<RingMemory>,
}

/// What a process has in memory for its log; the ring itself is with the objects.
#[derive(Debug)]
struct RingMemory {
    /// Read end of the ring's doorbell, until the log begins.
    doorbell: Option<OwnedFd>,
    _charge: Charge,
}

impl ProcessMemory {
    /// Memory of a new process, charged to `budget`.
    pub(crate) fn create(
        id: ProcessId,
        application: &Application,
        user: Option<u32>,
        incarnation: u64,
        budget: &Budget,
    ) -> Result<Self, ControlError> {
        let state_bytes = application.state_bytes();
        let charge =
            budget.charge(state_bytes / ADMITTED_PARTS, "stop processes, lower state_bytes_max in praas.toml")?;
        let host = |what: &'static str| {
            move |error: &dyn fmt::Display| ControlError::Host { what: what.into(), reason: error.to_string() }
        };
        let record = LedgerRecord::new(id, incarnation, state_bytes, user);
        let layout = ObjectsLayout::for_limit(state_bytes).map_err(|error| host("laying out its state")(&error))?;
        let objects = Objects::create(layout).map_err(|error| host("creating a state segment")(&error))?;
        let ledger = ProcessLedger::create(record).map_err(|error| host("creating a ledger")(&error))?;
        Ok(Self { objects: Arc::new(objects), ledger, charge, ring: None })
    }

    /// Memory that has come back from storage, for a ledger that is made anew. Charged like that of a new process, or with what
    /// it takes where that is more.
    pub(crate) fn of_returned(record: LedgerRecord, objects: Objects, budget: &Budget) -> Result<Self, ControlError> {
        let host = |error: &dyn fmt::Display| ControlError::Host {
            what: "creating a ledger".into(),
            reason: error.to_string(),
        };
        let taken = objects.allocated_bytes().map_err(|error| host(&error))?;
        let share = (record.state_bytes / ADMITTED_PARTS).max(taken);
        let charge = budget.charge(share, "let other processes sleep, or stop some")?;
        let ledger = ProcessLedger::create(record).map_err(|error| host(&error))?;
        Ok(Self { objects: Arc::new(objects), ledger, charge, ring: None })
    }

    /// The same with a new log ring. Nobody else may have the memory yet.
    pub(crate) fn logged(mut self, budget: &Budget) -> Result<Self, ControlError> {
        let what = "creating a log ring";
        let host = |reason: &dyn fmt::Display| ControlError::Host { what: what.into(), reason: reason.to_string() };
        let charge = budget.charge(LOG_BYTES_DEFAULT, "stop processes")?;
        let (listen, ring) = doorbell().map_err(|error| host(&error))?;
        let log = LogWriter::create(LOG_BYTES_DEFAULT, ring).map_err(|error| host(&error))?;
        let objects = Arc::get_mut(&mut self.objects).ok_or_else(|| host(&"its memory is in use"))?;
        objects.begin_log(log);
        self.ring = Some(RingMemory { doorbell: Some(listen), _charge: charge });
        Ok(self)
    }

    /// What the reader of its ring needs, once: the ring, its bytes, its doorbell.
    pub(crate) fn log_parts(&mut self) -> std::io::Result<Option<(OwnedFd, u64, OwnedFd)>> {
        let doorbell = self.ring.as_mut().and_then(|log| log.doorbell.take());
        let (Some(doorbell), Some(ring)) = (doorbell, self.objects.log()) else { return Ok(None) };
        Ok(Some((ring.fd().try_clone_to_owned()?, ring.bytes(), doorbell)))
    }

    /// Memory that an earlier server left, whose workers have all ended; the error says what is wrong with it. It is charged
    /// whether or not the budget has room: it is in use. With a log ring, what was changed last is in it.
    pub(crate) fn recover(
        ledger: ProcessLedger,
        objects: OwnedFd,
        ring: Option<OwnedFd>,
        budget: &Budget,
    ) -> Result<Self, String> {
        let state_bytes = ledger.record().state_bytes;
        let layout = ObjectsLayout::for_limit(state_bytes).map_err(|error| error.to_string())?;
        let mut objects = Objects::attach(objects, layout).map_err(|error| error.to_string())?;
        let mut ring_memory = None;
        if let Some(ring) = ring {
            let (listen, doorbell) = doorbell().map_err(|error| error.to_string())?;
            let log = LogWriter::attach(ring, LOG_BYTES_DEFAULT, doorbell);
            objects = objects.with_log(log.map_err(|error| format!("its log ring: {error}"))?);
            let charge = budget.charge_in_use(LOG_BYTES_DEFAULT);
            ring_memory = Some(RingMemory { doorbell: Some(listen), _charge: charge });
        }
        objects.recover_all().map_err(|error| error.to_string())?;
        let charge = budget.charge_in_use(state_bytes / ADMITTED_PARTS);
        let mut memory = Self { objects: Arc::new(objects), ledger, charge, ring: ring_memory };
        memory.measure();
        Ok(memory)
    }

    /// Bytes of the objects segment.
    pub(crate) fn state_bytes(&self) -> u64 {
        self.ledger.record().state_bytes
    }

    /// Which life of the process it is.
    pub(crate) fn incarnation(&self) -> u64 {
        self.ledger.record().incarnation
    }

    /// Charges what the state takes now.
    fn measure(&mut self) {
        if let Ok(taken) = self.objects.allocated_bytes() {
            self.charge.cover(taken.max(self.state_bytes() / ADMITTED_PARTS));
        }
    }

    /// What the keeper calls its parts.
    pub(crate) fn names(&self) -> [String; 3] {
        let LedgerRecord { id, incarnation, .. } = self.ledger.record();
        memory_names(*id, *incarnation)
    }

    /// What the keeper holds of it.
    pub(crate) fn kept_parts(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let [objects, ledger, ring] = self.names();
        let mut parts = vec![(objects, self.objects.fd()), (ledger, self.ledger.fd())];
        parts.extend(self.objects.log().map(|log| (ring, log.fd())));
        parts
    }
}

impl Shard {
    /// Timer: looks how much memory the states of some processes take.
    pub(crate) fn measure_memory(&mut self) {
        let from = self.processes.measured.map_or(Bound::Unbounded, Bound::Excluded);
        let some = self.processes.entries.range_mut((from, Bound::Unbounded)).take(MEASURED_PER_TURN);
        let mut last = None;
        for (key, process) in some {
            last = Some(*key);
            if let Some(memory) = &mut process.memory {
                memory.measure();
            }
        }
        // At the end it begins anew.
        self.processes.measured = last;
        self.processes.is_measured = !self.processes.entries.is_empty();
        if self.processes.is_measured {
            self.timers.after(MEASURING_PERIOD, Timer::Memory);
        }
    }

    /// Sets that going, once there are processes.
    pub(crate) fn measure_memory_later(&mut self) {
        if !self.processes.is_measured {
            self.processes.is_measured = true;
            self.timers.after(MEASURING_PERIOD, Timer::Memory);
        }
    }
}

/// The pipe by which writers wake the reader of a log ring: its read and its write end.
fn doorbell() -> Result<(OwnedFd, OwnedFd), rustix::io::Errno> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)
}

/// What the keeper calls the objects segment, the ledger and the log ring of a process.
pub(crate) fn memory_names(id: ProcessId, incarnation: u64) -> [String; 3] {
    ["objects", "ledger", "log"].map(|kind| format!("{kind}/{id}/{incarnation:016x}"))
}

/// The process and its incarnation that such a name speaks of; `None` for the name of something else.
pub(crate) fn parse_memory_name(name: &str) -> Option<(ProcessId, u64)> {
    let (_, rest) = name.split_once('/')?;
    let (id, incarnation) = rest.rsplit_once('/')?;
    let (id, incarnation) = (id.parse().ok()?, u64::from_str_radix(incarnation, 16).ok()?);
    memory_names(id, incarnation).iter().any(|whole| whole == name).then_some((id, incarnation))
}

#[cfg(test)]
mod tests {
    use praas_shm::objects::{Condition, Key, Meta, Namespace};

    use super::*;

    #[test]
    fn names_of_memory_say_whose_it_is_and_others_are_not_mistaken() {
        let id = "hello/alice".parse().unwrap();
        let names = memory_names(id, 0xab);
        assert_eq!(names[0], "objects/hello/alice/00000000000000ab");
        for name in names {
            assert_eq!(parse_memory_name(&name), Some((id, 0xab)));
            assert_eq!(parse_memory_name(&name.to_uppercase()), None);
            assert_eq!(parse_memory_name(&name[..name.len() - 1]), None);
        }
        for other in ["", "scratch", "objects/hello/alice", "objects/hello/+1", "ledger//alice/00000000000000ab"] {
            assert_eq!(parse_memory_name(other), None, "{other}");
        }
    }

    #[test]
    fn hundreds_of_idle_processes_fit_and_the_first_too_many_is_refused_with_figures() {
        let application = Application::new("hello".parse().unwrap(), "/bin/true".into());
        let budget = Budget::new(8 << 30);
        let share = application.state_bytes() / ADMITTED_PARTS;
        let charges: Vec<_> = std::iter::from_fn(|| budget.charge(share, "").ok()).collect();
        assert!(charges.len() >= 500, "{} fit", charges.len());
        let id = "hello/alice".parse().unwrap();
        match ProcessMemory::create(id, &application, None, 1, &budget).unwrap_err() {
            ControlError::LimitReached { used, limit, asked, advice, .. } => {
                assert_eq!((used, limit, asked), (8 << 30, 8 << 30, share));
                assert!(advice.contains("state_bytes_max"), "{advice}");
            }
            other => panic!("{other}"),
        }
        drop(charges);
        assert!(ProcessMemory::create(id, &application, None, 1, &budget).is_ok());
    }

    #[test]
    fn memory_is_recovered_as_it_was_left_and_another_segment_is_refused() {
        let application = Application::new("hello".parse().unwrap(), "/bin/true".into());
        let budget = Budget::new(64 << 20);
        let left = ProcessMemory::create("hello/alice".parse().unwrap(), &application, Some(7), 1, &budget).unwrap();
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
        let ledger = || ProcessLedger::open(copy(left.ledger.fd())).unwrap();
        let back = ProcessMemory::recover(ledger(), copy(left.objects.fd()), None, &budget).unwrap();
        assert_eq!(back.ledger.record(), left.ledger.record());
        let names = |memory: &ProcessMemory| memory.kept_parts().into_iter().map(|part| part.0).collect::<Vec<_>>();
        assert_eq!(names(&back), names(&left));
        let error = ProcessMemory::recover(ledger(), copy(left.ledger.fd()), None, &budget).unwrap_err();
        assert!(error.contains("4096"), "{error}");
    }

    #[test]
    fn a_state_is_charged_with_what_it_takes_once_that_is_more_than_its_share() {
        let application = Application::new("hello".parse().unwrap(), "/bin/true".into());
        let budget = Budget::new(8 << 20);
        let mut memory = ProcessMemory::create("hello/alice".parse().unwrap(), &application, None, 1, &budget).unwrap();
        memory.measure();
        assert_eq!(budget.used_bytes(), 4 << 20);
        let store = memory.objects.worker_store(praas_shm::WorkerTag::new(0, 1)).unwrap();
        let key = Key::new(Namespace::USER, "large").unwrap();
        store.put(&key, &vec![1; 10 << 20], Meta::RAW, Condition::Any).unwrap();
        memory.measure();
        assert!((10 << 20..12 << 20).contains(&budget.used_bytes()), "{}", budget.used_bytes());
        assert!(budget.charge(1, "").is_err());
        drop(memory);
        assert_eq!(budget.used_bytes(), 0);
    }
}
