//! What every process has to know, as the checker sees it: the functions say what they do, at the moment in which they do it.
//!
//! 1. A function finds the log of its process exactly as the model has it: nothing that was done is lost, old or there twice.
//! 2. No operation begins twice, but one that was refused before it began.
//! 3. Messages of one sender are taken in their order, each once; one whose call was cut off perhaps once more.
//! 4. Nothing that a life of a process has given out comes again in it, whatever was lost in between: tags of workers, versions.
//! 5. What was done by a call with a key stays done: its repetition is told so.
//! 6. What a process goes back to when its memory is lost is what it was when its manifest was last published.

mod given;
mod known;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use praas_protocol::{MessageId, ProcessId};
use praas_storage::Folder;

use self::given::Given;
use self::known::Known;
use crate::functions::Role;
use crate::storage::Noted;

/// A number that no other operation of a run has.
pub(crate) type Operation = u32;

/// What a write would store, and where.
#[derive(Debug, Clone)]
pub(crate) struct AboutToStore {
    known: Known,
    folder: Folder,
}

/// One process.
#[derive(Debug, Default)]
struct Kept {
    /// `None`: there is none.
    now: Option<Known>,
    /// As it was when its manifest was last published; `None` if nothing is stored of it.
    stored: Option<Known>,
    /// The folder of that.
    folder: Option<Folder>,
    /// Whether somebody ordered it to be created or stopped, and was not told what came of it: it may be there or not.
    is_unsettled: bool,
    /// How often that changed.
    changes: u64,
}

/// When the worker of a call dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// Before the function does anything.
    First,
    /// When it has done everything, before it has answered.
    Last,
}

/// The model and what it found wrong.
#[derive(Debug, Default)]
pub(crate) struct Model {
    processes: BTreeMap<ProcessId, Kept>,
    /// By the incarnations of the lives.
    given: BTreeMap<(ProcessId, u64), Given>,
    /// What is planned for the next call.
    pub(crate) death: Option<Death>,
    pub(crate) fails: bool,
    /// Whether storage may fail.
    pub(crate) is_rough: bool,
    /// Whether the worker that runs now is struck.
    pub(crate) is_struck: bool,
    pub(crate) wrong: Vec<String>,
    /// For the record of the run.
    pub(crate) said: Vec<String>,
    /// The wall clock, and the latest that it has shown.
    pub(crate) now_unix_ms: u64,
    latest_unix_ms: u64,
    /// Calls that ran.
    pub(crate) runs: u64,
}

thread_local! {
    static MODEL: RefCell<Shared> = RefCell::default();
}

/// The model of a run, which its threads share: only one of them runs at a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Model>>);

impl Shared {
    /// From now on the model of this thread.
    pub(crate) fn adopt(self) {
        MODEL.set(self);
    }
}

/// Works with the model of this thread's run.
pub(crate) fn model<R>(work: impl FnOnce(&mut Model) -> R) -> R {
    let shared = MODEL.with_borrow(|shared| Arc::clone(&shared.0));
    let mut model = shared.lock().unwrap_or_else(PoisonError::into_inner);
    work(&mut model)
}

impl Model {
    fn blame(&mut self, what: String) {
        self.wrong.push(what);
    }

    fn kept(&mut self, process: &ProcessId) -> &mut Kept {
        self.processes.entry(*process).or_default()
    }

    fn known(&mut self, process: &ProcessId, what: &str) -> &mut Known {
        if self.kept(process).now.is_none() {
            self.blame(format!("{process}: {what}, though there is no such process"));
        }
        self.kept(process).now.get_or_insert_default()
    }

    /// A call has begun and sees this log.
    pub(crate) fn begin(&mut self, process: &ProcessId, operation: Operation, seen: &[Operation]) {
        self.runs += 1;
        self.said.push(format!("    {operation} runs in {}", process.process));
        let known = self.known(process, "a call runs");
        let (log, is_new) = (known.log.clone(), known.begun.insert(operation));
        if log != seen {
            self.blame(format!("{process}: operation {operation} finds {seen:?}, what was done is {log:?}"));
        }
        if !is_new {
            self.blame(format!("{process}: operation {operation} runs a second time"));
        }
    }

    /// A worker with this tag is started for a life of a process.
    pub(crate) fn starts_worker(&mut self, process: &ProcessId, incarnation: u64, tag: (u8, u16)) {
        let given = self.given.entry((*process, incarnation)).or_default();
        if !given.tag(tag) {
            self.blame(format!("{process}: a worker with index and generation {tag:?} is started a second time"));
        }
    }

    fn gives_version(&mut self, of: &Role, operation: Operation, version: u64) {
        let Role { process, incarnation, .. } = *of;
        if let Err(earlier) = self.given.entry((process, incarnation)).or_default().version(version, operation) {
            self.blame(format!("{process}: {operation} puts version {version}, which {earlier} has put before"));
        }
    }

    /// A call has put an operation into the log.
    pub(crate) fn put(&mut self, role: &Role, operation: Operation, version: u64) {
        self.gives_version(role, operation, version);
        let process = &role.process;
        self.said.push(format!("    {operation} has its effect in {}, version {version}", process.process));
        let known = self.known(process, "something is put");
        known.log.push(operation);
        let before = std::mem::replace(&mut known.version, version);
        if version <= before {
            self.blame(format!("{process}: version {version} of the log was put after version {before}"));
        }
    }

    /// A call has put a large object.
    pub(crate) fn put_object(&mut self, role: &Role, number: u8, operation: Operation, version: u64) {
        self.gives_version(role, operation, version);
        let process = &role.process;
        self.said.push(format!("    {operation} puts object {number} of {}, version {version}", process.process));
        let before = self.known(process, "an object is put").objects.insert(number, (operation, version));
        if before.is_some_and(|(_, before)| version <= before) {
            self.blame(format!("{process}: version {version} of object {number} was put after {before:?}"));
        }
    }

    /// Whether a process has large objects.
    pub(crate) fn has_objects(&mut self, process: &ProcessId) -> bool {
        !self.known(process, "an object is put").objects.is_empty()
    }

    /// A call has read a large object: by which operation it was put, and whether it is what that has put.
    pub(crate) fn look_at_object(&mut self, process: &ProcessId, number: u8, found: Option<(Operation, bool)>) {
        let known =
            self.known(process, "an object is read").objects.get(&number).map(|(operation, _)| (*operation, true));
        if known != found {
            self.blame(format!("{process}: object {number} is {found:?}, what was put is {known:?}"));
        }
    }

    /// A call has received a message.
    pub(crate) fn receive(&mut self, process: &ProcessId, source: &str, id: MessageId, message: Operation) {
        let MessageId { incarnation, sequence } = id;
        self.said
            .push(format!("    message {message}, number {sequence} of {source}, is received by {}", process.process));
        let known = self.known(process, "a message is received");
        let last = known.last.insert((source.to_owned(), incarnation), sequence).unwrap_or(0);
        let was_cut = known.perhaps_taken.remove(&message);
        let is_again = known.taken.contains(&message);
        if is_again {
            self.blame(format!("{process}: message {message} is received again, though it was taken"));
        }
        if sequence < last {
            self.blame(format!(
                "{process}: message {sequence} of {source} comes after {last} (cut off before: {was_cut})"
            ));
        }
    }

    /// The call that received a message ends.
    pub(crate) fn end_receive(&mut self, process: &ProcessId, message: Operation, is_struck: bool) {
        let known = self.known(process, "a message is taken");
        if is_struck {
            known.perhaps_taken.insert(message);
        } else {
            known.taken.insert(message);
        }
    }

    /// Somebody was told that an operation is done.
    pub(crate) fn acknowledged(&mut self, process: &ProcessId, operation: Operation) {
        if !self.known(process, "an operation is acknowledged").log.contains(&operation) {
            self.blame(format!("{process}: operation {operation} was acknowledged and has no effect"));
        }
    }

    /// The repetition of an operation that was done, when so much was known of its process, is not told so.
    pub(crate) fn not_repeated(&mut self, process: &ProcessId, operation: Operation, done_at: u64) {
        if self.changes(process) == done_at {
            self.blame(format!("{process}: operation {operation} was done, and whoever repeats it is told otherwise"));
        }
    }

    /// A process is gone from memory, and a request lies in its lane.
    pub(crate) fn left_behind(&mut self, process: &ProcessId, operation: Operation) {
        self.blame(format!(
            "{process}: it is gone, and {operation}, published before it was closed, was neither run nor refused"
        ));
    }

    /// Somebody was told that an operation was refused before it began.
    pub(crate) fn refused(&mut self, process: &ProcessId, operation: Operation) {
        let Some(known) = &self.kept(process).now else { return };
        if known.begun.contains(&operation) {
            self.blame(format!("{process}: operation {operation} was refused and has run"));
        }
    }

    /// Somebody was told that a message is accepted.
    pub(crate) fn accepted(&mut self, process: &ProcessId, message: Operation) {
        self.known(process, "a message is accepted").accepted.insert(message);
    }

    /// A sender has put a message into its lane.
    pub(crate) fn accepted_in_lane(&mut self, process: &ProcessId, message: Operation) {
        self.accepted(process, message);
        self.known(process, "a message is accepted").in_lanes.insert(message);
    }

    /// The wall clock shows this.
    pub(crate) fn time_is(&mut self, now_unix_ms: u64) {
        self.now_unix_ms = now_unix_ms;
        self.latest_unix_ms = self.latest_unix_ms.max(now_unix_ms);
    }

    /// A call has asked for a wake-up.
    pub(crate) fn planned(&mut self, process: &ProcessId, wake_up: Operation, due_unix_ms: u64) {
        self.known(process, "a wake-up is asked for").planned.insert(wake_up, due_unix_ms);
    }

    /// A wake-up has come. It may come again.
    pub(crate) fn woken(&mut self, process: &ProcessId, wake_up: Operation) {
        let latest = self.latest_unix_ms;
        let known = self.known(process, "a wake-up comes");
        known.woken.insert(wake_up);
        match known.planned.get(&wake_up).copied() {
            None => self.blame(format!("{process}: wake-up {wake_up} comes, and nobody has asked for it")),
            Some(due) if due > latest => {
                self.blame(format!("{process}: wake-up {wake_up} is due at {due} and comes before {latest}"));
            }
            Some(_) => {}
        }
    }

    /// When the last wake-up is due that has not come.
    pub(crate) fn last_due_unix_ms(&self) -> Option<u64> {
        let settled = self.processes.values().filter_map(|kept| kept.now.as_ref());
        settled.flat_map(Known::awaited).map(|(_, due)| due).max()
    }

    /// Whether a process has still to be woken: what was due at any time before may lie in its mailbox.
    pub(crate) fn waits_to_wake(&mut self, process: &ProcessId) -> bool {
        let latest = self.latest_unix_ms;
        self.kept(process).now.as_ref().is_some_and(|known| known.awaited().any(|(_, due)| due > latest))
    }

    /// Somebody orders that there be a process, or be none; nobody knows until the outcome is told.
    pub(crate) fn ordered(&mut self, process: &ProcessId, is_creation: bool) {
        let kept = self.kept(process);
        kept.is_unsettled = true;
        kept.changes += 1;
        if is_creation {
            kept.now.get_or_insert_default();
        }
    }

    /// Somebody was told that a process is there, by an answer to the last order about it.
    pub(crate) fn is_settled_there(&mut self, process: &ProcessId) {
        self.exists(process);
        let kept = self.kept(process);
        kept.changes += u64::from(std::mem::take(&mut kept.is_unsettled));
    }

    /// Somebody was told that a process is gone, by an answer to the last order about it.
    pub(crate) fn is_settled_gone(&mut self, process: &ProcessId) {
        let kept = self.kept(process);
        if kept.now.is_some() && !kept.is_unsettled {
            self.blame(format!("{process}: it is gone, and nobody has stopped it"));
        }
        let kept = self.kept(process);
        *kept = Kept { changes: kept.changes + 1, ..Kept::default() };
    }

    /// Somebody was told that there is such a process.
    pub(crate) fn exists(&mut self, process: &ProcessId) {
        if self.kept(process).now.is_none() {
            self.blame(format!("{process}: it is there, though nobody has created it, or it was stopped or lost"));
        }
    }

    /// Somebody was told that there is no such process, and began to ask after so many changes of what is known of it.
    pub(crate) fn missing(&mut self, process: &ProcessId, changes: u64) {
        let kept = self.kept(process);
        if kept.now.is_some() && !kept.is_unsettled && kept.changes == changes {
            self.blame(format!("{process}: it is gone, and nobody has stopped it"));
        }
    }

    /// Changes of whether there is a process.
    pub(crate) fn changes(&mut self, process: &ProcessId) -> u64 {
        self.kept(process).changes
    }

    /// Whether there is a process, as far as anybody knows.
    pub(crate) fn is_there(&mut self, process: &ProcessId) -> bool {
        self.kept(process).now.is_some()
    }

    /// Whether that is certain.
    pub(crate) fn is_settled(&mut self, process: &ProcessId) -> bool {
        !self.kept(process).is_unsettled
    }

    /// Something happened to a manifest.
    pub(crate) fn stored(&mut self, noted: Noted, is_checkpoint: bool) {
        match noted {
            Noted::Published(folder) => {
                let kept = self.kept(&folder.process);
                let stored = if is_checkpoint { kept.now.as_ref().map(Known::without_lanes) } else { kept.now.clone() };
                (kept.stored, kept.folder) = (stored, Some(folder));
            }
            Noted::Removed(folder) => {
                let kept = self.kept(&folder.process);
                if kept.folder == Some(folder) {
                    (kept.stored, kept.folder) = (None, None);
                }
            }
        }
    }

    /// What a write of a process as it is now would store, if something is stored of it already.
    pub(crate) fn about_to_store(&mut self, process: &ProcessId, is_checkpoint: bool) -> Option<AboutToStore> {
        let kept = self.kept(process);
        if kept.is_unsettled {
            return None;
        }
        let (known, folder) = (kept.now.clone()?, kept.folder?);
        Some(AboutToStore { known: if is_checkpoint { known.without_lanes() } else { known }, folder })
    }

    /// A server that was cut off has published something after another one has begun. The process is in its memory or not.
    pub(crate) fn stored_late(&mut self, noted: Noted, late: &AboutToStore, is_in_memory: bool) {
        let process = late.folder.process;
        if noted != Noted::Published(late.folder) || self.kept(&process).folder != Some(late.folder) {
            self.blame(format!("{process}: a server that was cut off has brought about {noted:?} too late"));
        } else if is_in_memory {
            self.blame(format!("{process}: a server that was cut off has published it while another one owned it"));
        }
        let kept = self.kept(&process);
        kept.stored = Some(late.known.clone());
        kept.now = Some(late.known.begun_anew());
        kept.changes += 1;
    }

    /// All memory of all processes is lost.
    pub(crate) fn all_memory_lost(&mut self) {
        for kept in self.processes.values_mut() {
            kept.now = kept.stored.as_ref().map(Known::begun_anew);
            kept.changes += 1;
        }
    }

    /// A server has ended, and names those that it has not stored: all others have to be stored as they were.
    pub(crate) fn said_farewell(&mut self, unsaved: &[ProcessId]) {
        let differs = |kept: &Kept| match (&kept.now, &kept.stored) {
            (Some(now), Some(stored)) => !now.knows_the_same(stored),
            (now, _) => now.is_some(),
        };
        let to_be_stored =
            |(id, kept): &(&ProcessId, &Kept)| !kept.is_unsettled && !unsaved.contains(id) && differs(kept);
        let wrong: Vec<_> = self.processes.iter().filter(to_be_stored).collect();
        let words = |(id, kept): (&ProcessId, &Kept)| {
            format!("{id}: {:?} was stored of {:?}, and the server says nothing of it", kept.stored, kept.now)
        };
        self.wrong.extend(wrong.into_iter().map(words).collect::<Vec<_>>());
    }

    /// A server has ended cleanly, with storage that works: every process has to be stored as it was.
    pub(crate) fn ended_cleanly(&mut self) {
        let differing = self.processes.iter().filter(|(_, kept)| !kept.is_unsettled && kept.now != kept.stored);
        let wrong: Vec<_> =
            differing.map(|(id, kept)| format!("{id}: {:?} was stored of {:?}", kept.stored, kept.now)).collect();
        self.wrong.extend(wrong);
    }

    /// At the end of a run, when all messages were asked for.
    pub(crate) fn check_messages(&mut self) {
        let mut wrong = Vec::new();
        let settled = self.processes.iter().filter(|(_, kept)| !kept.is_unsettled);
        for (id, known) in settled.filter_map(|(id, kept)| Some((id, kept.now.as_ref()?))) {
            let lost =
                known.accepted.iter().filter(|one| !known.taken.contains(one) && !known.perhaps_taken.contains(one));
            wrong.extend(lost.map(|message| format!("{id}: message {message} was accepted and never came")));
            wrong.extend(
                known.awaited().map(|(wake_up, due)| format!("{id}: wake-up {wake_up}, due at {due}, never came")),
            );
        }
        self.wrong.extend(wrong);
    }
}
