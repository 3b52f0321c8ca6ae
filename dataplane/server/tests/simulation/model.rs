//! What every process has to know, as the checker sees it: the functions say what they do, at the moment in which they do it.
//!
//! 1. A function finds the log of its process exactly as the model has it: nothing that was done is lost, old or there twice.
//! 2. No operation begins twice, but one that was refused before it began.
//! 3. Messages of one sender are taken in their order, each once; one whose call was cut off perhaps once more.
//! 4. What a process goes back to when its memory is lost is what it was when its manifest was last published.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use praas_protocol::ProcessId;
use praas_storage::Folder;

use crate::storage::Noted;

/// A number that no other operation of a run has.
pub(crate) type Operation = u32;

/// What one process knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Operations whose effect is in its state, in their order.
    pub(crate) log: Vec<Operation>,
    /// Operations that have begun.
    begun: BTreeSet<Operation>,
    /// Messages whose acceptance was told.
    accepted: BTreeSet<Operation>,
    /// Messages that were taken by a call that succeeded.
    taken: BTreeSet<Operation>,
    /// Messages whose call was cut off at its end.
    perhaps_taken: BTreeSet<Operation>,
    /// The last message of each sender that was received.
    last: BTreeMap<String, u64>,
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
    /// What is planned for the next call.
    pub(crate) death: Option<Death>,
    pub(crate) fails: bool,
    /// Whether the worker that runs now is struck.
    pub(crate) is_struck: bool,
    pub(crate) wrong: Vec<String>,
    /// For the record of the run.
    pub(crate) said: Vec<String>,
    /// Calls that ran.
    pub(crate) runs: u64,
}

thread_local! {
    pub(crate) static MODEL: RefCell<Model> = RefCell::default();
}

/// Works with the model of this thread's run.
pub(crate) fn model<R>(work: impl FnOnce(&mut Model) -> R) -> R {
    MODEL.with_borrow_mut(work)
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

    /// A call has put an operation into the log.
    pub(crate) fn put(&mut self, process: &ProcessId, operation: Operation) {
        self.said.push(format!("    {operation} has its effect in {}", process.process));
        self.known(process, "something is put").log.push(operation);
    }

    /// A call has received a message.
    pub(crate) fn receive(&mut self, process: &ProcessId, source: &str, sequence: u64, message: Operation) {
        let known = self.known(process, "a message is received");
        let last = known.last.insert(source.to_owned(), sequence).unwrap_or(0);
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
    pub(crate) fn stored(&mut self, noted: Noted) {
        match noted {
            Noted::Published(folder) => {
                let kept = self.kept(&folder.process);
                (kept.stored, kept.folder) = (kept.now.clone(), Some(folder));
            }
            Noted::Removed(folder) => {
                let kept = self.kept(&folder.process);
                if kept.folder == Some(folder) {
                    (kept.stored, kept.folder) = (None, None);
                }
            }
        }
    }

    /// All memory of all processes is lost.
    pub(crate) fn all_memory_lost(&mut self) {
        for kept in self.processes.values_mut() {
            kept.now.clone_from(&kept.stored);
            kept.changes += 1;
        }
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
        }
        self.wrong.extend(wrong);
    }
}
