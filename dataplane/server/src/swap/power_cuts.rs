//! The power of one disk that has log and snapshots goes at every call in turn, and again while the process is brought back: what
//! was durable comes back, nothing is given out twice, and what was stopped is gone.
//!
//! The steps are those of a logged process: it changes something, which its log has, is stored while it goes on, which shortens the
//! log, sleeps and wakes, is made of its log, and is stopped. What is not the business of files is left out: workers, loop, keeper.

use std::path::Path;
use std::sync::Arc;

use praas_shm::WorkerTag;
use praas_shm::log_ring::{Contents, LOG_BYTES_MIN, LogReader, LogWriter};
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::Mailbox;
use praas_shm::objects::{Condition, Key, Meta, Namespace, Objects, ObjectsLayout, Store};
use praas_storage::disk::FileLayer;
use praas_storage::disk::model::{Fault, ModelFiles, root};
use praas_storage::log::LogPlan;
use praas_storage::snapshot::Snapshot;
use praas_storage::{Backend, DiskBackend, Folder, Owner};
use tempfile::TempDir;

use super::life::Life;
use super::reading::{ReadJob, Returned};
use super::removing::{Mine, Right, remove};
use super::writing::WriteJob;
use crate::data_directory::DataDirectory;
use crate::durability::{DiskLog, Log, LogStore};
use crate::process_ledger::LedgerRecord;

/// Small enough that the script fills several segments: a batch of one block leaves room for two more.
const PLAN: LogPlan = LogPlan { segment_bytes: 4 * 4096, ahead_bytes: 2 * 4096 };

const STATE_BYTES: u64 = 1 << 20;

/// Keys that are put in turn.
const KEYS: u64 = 5;

/// Threads that share the calls at which it comes.
const THREADS: u64 = 4;

/// Calls after the first cut within which the second one comes: more than it takes to bring the process back.
const SECOND_CUT_CALLS: u64 = 90;

const WORKER: WorkerTag = WorkerTag::new(0, 1);

#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many changes, each of which the log has before the next.
    Put(u64),
    /// It is stored and goes on.
    Checkpoint,
    /// It is stored, its log removed, its memory given up; and then it wakes.
    Sleep,
    /// Its memory is lost, and it is made of what there is.
    Crash,
    Stop,
}
use Step::{Checkpoint, Crash, Put, Sleep, Stop};

const WHOLE_LIFE: [Step; 13] =
    [Put(5), Crash, Put(2), Checkpoint, Put(4), Sleep, Put(6), Checkpoint, Crash, Crash, Put(4), Checkpoint, Stop];
const SECOND_LIFE: [Step; 4] = [Put(2), Checkpoint, Put(1), Crash];
const LAST_LIFE: [Step; 4] = [Put(1), Sleep, Put(1), Stop];

/// Who has it all the time.
fn mine() -> Mine {
    Mine { owner: Owner::default(), by: Right::None }
}

fn folder() -> Folder {
    Folder { process: "notes/alice".parse().unwrap(), incarnation: 9 }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What somebody was told of.
#[derive(Debug, Default)]
struct Told {
    /// The process is there.
    exists: bool,
    /// Its end was begun.
    is_stopping: bool,
    /// Changes that were tried, and that were durable.
    put: u64,
    durable: u64,
    sequence: u64,
    version: u64,
}

/// The process in memory.
struct Alive {
    record: LedgerRecord,
    snapshot: Option<Snapshot>,
    objects: Arc<Objects>,
    /// Until its worker has ended.
    worker: Option<(Store, Mailbox)>,
    reader: LogReader,
    log: Box<dyn Log>,
}

/// What there is of it on the disk.
struct World {
    backend: Arc<dyn Backend>,
    logs: DiskLog,
    /// Where files would be: it has none.
    data: Arc<DataDirectory>,
    _scratch: TempDir,
}

impl World {
    fn over(files: &ModelFiles) -> Result<Self, String> {
        let (stored, logs) = (root().join("stored"), root().join("logs"));
        for directory in [&stored, &logs] {
            // After the first time they are there.
            let _ = files.make_directory(directory);
        }
        files.sync_directory(&root()).map_err(text)?;
        let files: Arc<dyn FileLayer> = Arc::new(files.clone());
        let backend = DiskBackend::over(Arc::clone(&files), &stored).map_err(text)?;
        let scratch = tempfile::tempdir().map_err(text)?;
        let data = Arc::new(DataDirectory::open(&scratch.path().join("data")).map_err(text)?);
        Ok(Self { backend: Arc::new(backend), logs: DiskLog::over(files, &logs, PLAN), data, _scratch: scratch })
    }

    /// What a server finds when it starts, brought back.
    fn recover(&self) -> Result<Option<Returned>, String> {
        let folder = folder();
        let life = if self.logs.folders().map_err(text)?.contains(&folder) {
            let life = self.logs.life(&folder).map_err(text)?;
            if life.is_none() {
                self.logs.remove(&folder).map_err(text)?;
            }
            life
        } else {
            None
        };
        if life.as_ref().is_some_and(|life| life.is_ended) {
            remove(&self.backend, &folder, mine(), Some(&self.logs))?;
            return Ok(None);
        }
        let log = life.map(|_| self.logs.clone());
        if log.is_none() && Snapshot::open(&self.backend, &folder).map_err(text)?.is_none() {
            return Ok(None);
        }
        let data = Arc::clone(&self.data);
        let owner = mine().owner;
        let job = ReadJob {
            folder,
            log,
            is_logged: true,
            has_slept: false,
            first_serial: 1,
            data,
            owner,
            gives_users: false,
        };
        job.carry_out(&self.backend).map(Some).map_err(|error| format!("{error:?}"))
    }

    /// In memory, as it was brought back or new, with a log.
    fn begin(&self, returned: Option<Returned>) -> Result<Alive, String> {
        let mut is_replayed = false;
        let (mut objects, record, snapshot) = match returned {
            Some(Returned { objects, life, snapshot, stays, is_replayed: replayed, is_restoring, .. }) => {
                assert!(!is_restoring, "it is small");
                is_replayed = replayed;
                let epoch = snapshot.as_ref().map_or(0, Snapshot::epoch);
                (objects, life.record(epoch, stays, false), snapshot)
            }
            None => {
                let record = LedgerRecord::new(folder().process, folder().incarnation, STATE_BYTES, None);
                (Objects::create(ObjectsLayout::for_limit(STATE_BYTES).unwrap()).unwrap(), record, None)
            }
        };
        let (_, doorbell) = rustix::pipe::pipe().unwrap();
        objects.begin_log(LogWriter::create(LOG_BYTES_MIN, doorbell).unwrap());
        let objects = Arc::new(objects);
        let ring = objects.log().unwrap().fd().try_clone_to_owned().unwrap();
        let reader = LogReader::attach(ring, LOG_BYTES_MIN, objects.position()).unwrap();
        let mut note = Life::new(&record, None, 0);
        note.log_follows = snapshot.as_ref().map_or(0, |snapshot| snapshot.facts().position);
        let log = if is_replayed {
            self.logs.go_on(&folder(), objects.position())
        } else {
            self.logs.begin(&folder(), objects.position(), &note.to_bytes().unwrap())
        };
        let store = objects.worker_store(WORKER).unwrap();
        let mailbox = Mailbox::new(Arc::clone(&objects), WORKER, MailBell::create().unwrap()).unwrap();
        let worker = Some((store, mailbox));
        Ok(Alive { record, snapshot, objects, worker, reader, log: log.map_err(text)? })
    }

    fn write(&self, alive: &Alive, goes_on: bool) -> Result<Snapshot, String> {
        let life = Life::new(&alive.record, None, 0);
        let job = WriteJob {
            folder: folder(),
            objects: Arc::clone(&alive.objects),
            life: if goes_on { life.that_goes_on() } else { life },
            lanes: Vec::new(),
            base: alive.snapshot.clone(),
            epoch: alive.snapshot.as_ref().map(Snapshot::epoch),
            owner: mine().owner,
            filling: None,
            files: None,
            goes_on,
            has_leftovers: true,
            has_time: true,
        };
        Ok(job.carry_out(&self.backend)?.snapshot)
    }
}

impl Alive {
    /// Its worker has ended, and is settled.
    fn end_worker(&mut self) {
        self.worker = None;
        self.objects.recover(WORKER).unwrap();
    }

    /// One change, and one message that is sent when it is durable.
    fn put(&mut self, told: &mut Told) -> Result<(), String> {
        told.put += 1;
        let key = format!("key-{}", told.put % KEYS);
        let mut value = vec![7; usize::try_from(told.put % 7 * 400).unwrap()];
        value.extend_from_slice(&told.put.to_le_bytes());
        let key = Key::new(Namespace::USER, &key).unwrap();
        let (store, mailbox) = self.worker.as_ref().unwrap();
        let version = store.put(&key, &value, Meta::RAW, Condition::Any).unwrap();
        let sequence = mailbox.next_sequence();
        let mut records = Vec::new();
        let position = self.reader.read(&mut records, 1 << 20).unwrap();
        self.log.append(&records, position).map_err(text)?;
        assert_eq!(self.log.sync().map_err(text)?, position);
        self.reader.release();
        assert!(version > told.version, "version {version} is told after {}", told.version);
        assert!(sequence > told.sequence, "message {sequence} is sent after {}", told.sequence);
        (told.durable, told.version, told.sequence) = (told.put, version, sequence);
        Ok(())
    }

    /// What there is came of the first of all changes, of all that were durable at least. Those that were not, and are not there,
    /// are forgotten.
    fn check(&self, told: &mut Told) {
        let contents = Contents::of(&self.objects).unwrap();
        let number = |value: &[u8]| u64::from_le_bytes(value[value.len() - 8..].try_into().unwrap());
        let found: Vec<_> = contents
            .objects
            .iter()
            .filter(|((namespace, _), _)| *namespace == Namespace::USER.0)
            .map(|((_, key), kept)| (key.clone(), number(&kept.value)))
            .collect();
        let last = found.iter().map(|(_, number)| *number).max().unwrap_or(0);
        assert!((told.durable..=told.put).contains(&last), "{last} is the last change, of {told:?}");
        let first = (last + 1).saturating_sub(KEYS).max(1);
        let mut expected: Vec<_> = (first..=last).map(|number| (format!("key-{}", number % KEYS), number)).collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
        (told.put, told.durable) = (last, last);
    }
}

/// Brings the process back and goes on with it. The error says where the power went.
fn live(files: &ModelFiles, told: &mut Told, steps: &[Step]) -> Result<(), String> {
    let world = World::over(files)?;
    let come_back = |told: &mut Told| -> Result<Option<Alive>, String> {
        let returned = world.recover()?;
        if returned.is_none() && told.exists {
            assert!(told.is_stopping, "nothing is left of it: {told:?}");
            return Ok(None);
        }
        let alive = world.begin(returned)?;
        told.exists = true;
        alive.check(told);
        Ok(Some(alive))
    };
    let Some(mut alive) = come_back(told)? else { return Ok(()) };
    for step in steps {
        match step {
            Put(count) => (0..*count).try_for_each(|_| alive.put(told))?,
            Checkpoint => {
                let snapshot = world.write(&alive, true)?;
                if let Some(position) = alive.reader.not_needed(snapshot.facts().position) {
                    alive.log.truncate(position).map_err(text)?;
                }
                alive.snapshot = Some(snapshot);
            }
            Sleep => {
                alive.end_worker();
                drop(world.write(&alive, false)?);
                drop(alive);
                world.logs.remove(&folder()).map_err(text)?;
                alive = come_back(told)?.expect("it sleeps");
            }
            Crash => {
                drop(alive);
                alive = come_back(told)?.expect("it is there");
            }
            Stop => {
                told.is_stopping = true;
                drop(alive);
                return remove(&world.backend, &folder(), mine(), Some(&world.logs)).map(drop);
            }
        }
    }
    Ok(())
}

/// Names in a directory and all below it.
fn names(files: &ModelFiles, directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let _ = files.list(directory, &mut |name| names.push(name.to_owned()));
    let below: Vec<_> = names.iter().flat_map(|name| self::names(files, &directory.join(name))).collect();
    names.into_iter().chain(below).collect()
}

/// A life of which each error is a cut; what is there when power is back.
fn after(files: ModelFiles, told: &mut Told, steps: &[Step], seed: u64) -> ModelFiles {
    let lived = live(&files, told, steps);
    files.set_fault(Fault::None);
    assert!(lived.is_ok() || files.is_cut(), "{lived:?}");
    if files.is_cut() { files.after_cut(seed) } else { files }
}

#[test]
fn whenever_the_power_goes_what_was_durable_comes_back_and_nothing_is_given_out_twice() {
    let files = ModelFiles::new(0);
    live(&files, &mut Told::default(), &WHOLE_LIFE).unwrap();
    let calls = files.calls();
    println!("the power goes at each of {calls} calls");
    assert!(calls > 200, "the script writes");
    std::thread::scope(|scope| {
        for first in 0..THREADS {
            let step = usize::try_from(THREADS).unwrap();
            scope.spawn(move || (first..calls).step_by(step).for_each(cut_twice));
        }
    });
}

/// The power goes at this call of a whole life, and a second time soon after.
fn cut_twice(at: u64) {
    let mut told = Told::default();
    let files = ModelFiles::new(at);
    files.set_fault(Fault::Cut { at });
    let files = after(files, &mut told, &WHOLE_LIFE, at);
    files.set_fault(Fault::Cut { at: files.calls() + at.wrapping_mul(0x9e37_79b9) % SECOND_CUT_CALLS });
    let files = after(files, &mut told, &SECOND_LIFE, at + 7);
    live(&files, &mut told, &LAST_LIFE).unwrap_or_else(|error| panic!("{at}: {error}"));
    let left = [names(&files, &root().join("stored")), names(&files, &root().join("logs"))].concat();
    // Directories of its name may be, with nothing in them.
    let left: Vec<_> = left.into_iter().filter(|name| name.contains("00000000")).collect();
    assert!(left.is_empty(), "{at}: {left:?} is left of what was stopped");
}
