//! What happened in the lives of processes, for whoever watches.
//!
//! Each change of a process's state gets a number, is written to a bounded list of the last ones, and is told to the clients
//! that wait for it. Nobody is slowed down by who watches: a client that asks too seldom is told how much it has missed.
//! Changes are noted where states are shown ([`crate::directory`]); who knows more of one (why, how many bytes) notes it first,
//! and the same state shown afterwards is no second change.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use praas_protocol::ProcessId;
use praas_protocol::control::{ControlError, ProcessState, ServerMessage, Transition};
use praas_protocol::fingerprint::{Fingerprint, Fingerprints};
use praas_protocol::limits::{LIST_PAGE_PROCESSES, TRANSITION_REASON_BYTES_MAX};
use praas_protocol::token::Scope;

use crate::clients::ClientKey;
use crate::clock;
use crate::lanes::limit;
use crate::limits::{TRANSITION_WATCHERS_MAX, TRANSITIONS_KEPT};
use crate::processes::Asker;
use crate::shard::Shard;

/// A client that waits for what happens next.
#[derive(Debug)]
struct Watcher {
    asker: Asker,
    wish: Wish,
}

/// Whose lives a client wants to hear of.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// What its token covers.
    pub(crate) scope: Scope,
    /// One process, or all of those.
    pub(crate) process: Option<ProcessId>,
}

impl Wish {
    fn covers(&self, process: &ProcessId) -> bool {
        self.process.is_none_or(|wanted| wanted == *process) && self.scope.covers(process)
    }
}

/// What is known of a change beside the state that begins.
#[derive(Debug, Default)]
pub(crate) struct Circumstances<'a> {
    /// Why; empty where the states say it all.
    pub(crate) reason: &'a str,
    /// Bytes that were moved to storage or from it.
    pub(crate) bytes: u64,
    /// How long the state that ended has lasted, if somebody has measured it.
    pub(crate) took: Option<Duration>,
}

/// The last transitions, and who waits for the next.
#[derive(Debug, Default)]
pub(crate) struct Transitions {
    kept: VecDeque<Transition>,
    /// The number of the last one.
    last: u64,
    /// The state of each process, and since when it has it. Those that sleep are many, and their names long.
    states: HashMap<Fingerprint, (ProcessState, Instant)>,
    fingerprints: Fingerprints,
    watchers: Vec<Watcher>,
}

impl Transitions {
    /// Notes that a process is in a state, or has ended; the change, if it is one.
    fn note(
        &mut self,
        process: ProcessId,
        to: Option<ProcessState>,
        circumstances: &Circumstances<'_>,
    ) -> Option<&Transition> {
        let now = clock::now();
        let whose = self.fingerprints.of(&process);
        let before = match to {
            Some(state) => self.states.insert(whose, (state, now)),
            None => self.states.remove(&whose),
        };
        // One that sleeps since an earlier server and was not noted then: its state is known all the same.
        let slept = (to == Some(ProcessState::Restoring)).then_some(ProcessState::Swapped);
        let from = before.map(|(state, _)| state).or(slept);
        if from == to {
            if let (Some(state), Some((_, since))) = (to, before) {
                self.states.insert(whose, (state, since));
            }
            return None;
        }
        let took = circumstances.took.or_else(|| before.map(|(_, since)| now.duration_since(since)));
        if self.kept.len() == TRANSITIONS_KEPT {
            self.kept.pop_front();
        }
        self.last += 1;
        let reason = circumstances.reason;
        self.kept.push_back(Transition {
            number: self.last,
            process,
            from,
            to,
            at_unix_ms: clock::unix_time_ms(),
            took_us: took.map_or(0, |took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            bytes: circumstances.bytes,
            reason: reason[..reason.floor_char_boundary(TRANSITION_REASON_BYTES_MAX)].to_owned(),
        });
        self.kept.back()
    }

    /// What somebody who knows everything up to `after` has to be told: transitions, up to which number they tell everything,
    /// and how many of before have been forgotten.
    fn since(&self, wish: &Wish, after: u64) -> (Vec<Transition>, u64, u64) {
        let first_kept = self.kept.front().map_or(self.last + 1, |first| first.number);
        let lost = first_kept.saturating_sub(after.saturating_add(1));
        // A number that was never given is of an earlier server, or of nobody: it begins anew.
        let after = if after > self.last { 0 } else { after };
        let mut wanted = self.kept.iter().filter(|kept| kept.number > after && wish.covers(&kept.process));
        let page: Vec<_> = wanted.by_ref().take(LIST_PAGE_PROCESSES).cloned().collect();
        let upto = match (wanted.next(), page.last()) {
            (Some(_), Some(last)) => last.number,
            _ => self.last,
        };
        (page, upto, lost)
    }

    /// Forgets who waits at a connection that is gone.
    pub(crate) fn forget_client(&mut self, client: ClientKey) {
        self.watchers.retain(|watcher| watcher.asker.client != client);
    }
}

impl Shard {
    /// Tells a client what happened since a number, or lets it wait for what happens next.
    pub(crate) fn watch_transitions(
        &mut self,
        asker: Asker,
        wish: Wish,
        after: Option<u64>,
    ) -> Result<(), ControlError> {
        let request = asker.request;
        let (transitions, upto, lost) = match after {
            None => (Vec::new(), self.transitions.last, 0),
            Some(after) => {
                let (transitions, upto, lost) = self.transitions.since(&wish, after);
                if transitions.is_empty() && lost == 0 {
                    let waiting = self.transitions.watchers.len();
                    let what = "questions for what happens to processes, on this server";
                    limit(what, waiting, TRANSITION_WATCHERS_MAX, "end some that watch")?;
                    self.transitions.watchers.push(Watcher { asker, wish });
                    return Ok(());
                }
                (transitions, upto, lost)
            }
        };
        self.answer(asker, &ServerMessage::Transitions { request, upto, lost, transitions }, &[]);
        Ok(())
    }

    /// A process is in a state: `note_transition` without circumstances. Nothing happens if that is known.
    pub(crate) fn state_shown(&mut self, process: ProcessId, to: Option<ProcessState>) {
        self.note_change(process, to, &Circumstances::default());
    }

    /// A process goes into a state, and this is why, how many bytes were moved for it, and how long that took.
    pub(crate) fn note_transition(
        &mut self,
        process: ProcessId,
        to: ProcessState,
        reason: &str,
        bytes: u64,
        took: Duration,
    ) {
        let took = (!took.is_zero()).then_some(took);
        self.note_change(process, Some(to), &Circumstances { reason, bytes, took });
    }

    fn note_change(&mut self, process: ProcessId, to: Option<ProcessState>, circumstances: &Circumstances<'_>) {
        let Some(transition) = self.transitions.note(process, to, circumstances).cloned() else { return };
        self.metrics.transitions += 1;
        let number = transition.number;
        let (told, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.transitions.watchers)
            .into_iter()
            .partition(|watcher| watcher.wish.covers(&process));
        self.transitions.watchers = waiting;
        for Watcher { asker, .. } in told {
            // Who waits has been told of everything before this one.
            let (request, transitions) = (asker.request, vec![transition.clone()]);
            self.answer(asker, &ServerMessage::Transitions { request, upto: number, lost: 0, transitions }, &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str) -> ProcessId {
        format!("notes/{name}").parse().unwrap()
    }

    fn all() -> Wish {
        Wish { scope: Scope::Any, process: None }
    }

    fn note(transitions: &mut Transitions, name: &str, to: Option<ProcessState>) -> bool {
        transitions.note(process(name), to, &Circumstances::default()).is_some()
    }

    #[test]
    fn a_change_is_noted_once_with_what_was_before_it() {
        let mut transitions = Transitions::default();
        assert!(note(&mut transitions, "alice", Some(ProcessState::Creating)));
        assert!(!note(&mut transitions, "alice", Some(ProcessState::Creating)), "it is so already");
        let because = Circumstances { reason: "idle", bytes: 7, took: Some(Duration::from_millis(3)) };
        let swapped = transitions.note(process("alice"), Some(ProcessState::Swapped), &because).unwrap();
        assert_eq!((swapped.from, swapped.to), (Some(ProcessState::Creating), Some(ProcessState::Swapped)));
        assert_eq!((swapped.number, swapped.bytes, swapped.took_us), (2, 7, 3000));
        assert_eq!(swapped.reason, "idle");
        assert!(note(&mut transitions, "alice", None));
        assert!(!note(&mut transitions, "alice", None), "it has ended already");
        assert!(transitions.states.is_empty(), "nothing is kept of what has ended");
        assert!(note(&mut transitions, "bob", Some(ProcessState::Restoring)));
        let woken = transitions.kept.back().unwrap();
        assert_eq!(woken.from, Some(ProcessState::Swapped), "of an earlier server");
    }

    #[test]
    fn who_watches_is_told_what_it_may_know_and_wants_to_know() {
        let mut transitions = Transitions::default();
        for name in ["alice", "bob", "alice"] {
            let states = [ProcessState::Creating, ProcessState::Active];
            let state = states[usize::from(transitions.last == 2)];
            note(&mut transitions, name, Some(state));
        }
        let numbers = |wish: &Wish, after| {
            let (page, upto, lost) = transitions.since(wish, after);
            (page.iter().map(|transition| transition.number).collect::<Vec<_>>(), upto, lost)
        };
        assert_eq!(numbers(&all(), 0), (vec![1, 2, 3], 3, 0));
        assert_eq!(numbers(&all(), 2), (vec![3], 3, 0));
        assert_eq!(numbers(&all(), 3), (vec![], 3, 0));
        assert_eq!(numbers(&all(), 99).0, [1, 2, 3], "of an earlier server");
        let alice = Wish { process: Some(process("alice")), ..all() };
        assert_eq!(numbers(&alice, 0), (vec![1, 3], 3, 0));
        let bob = Wish { scope: Scope::Process(process("bob")), process: None };
        assert_eq!(numbers(&bob, 0), (vec![2], 3, 0));
        let neither = Wish { scope: Scope::Process(process("bob")), process: Some(process("alice")) };
        assert_eq!(numbers(&neither, 0), (vec![], 3, 0));
    }

    #[test]
    fn what_was_forgotten_is_counted_and_pages_join() {
        let mut transitions = Transitions::default();
        let count = TRANSITIONS_KEPT + 10;
        for number in 0..count {
            let state = if number % 2 == 0 { ProcessState::Active } else { ProcessState::Idle };
            note(&mut transitions, "alice", Some(state));
        }
        let (mut after, mut seen) = (4, Vec::new());
        let mut lost_in_all = 0;
        while after < count as u64 {
            let (page, upto, lost) = transitions.since(&all(), after);
            lost_in_all += lost;
            seen.extend(page.iter().map(|transition| transition.number));
            after = upto;
        }
        assert_eq!(lost_in_all, 6, "5 to 10 were asked for too late");
        assert_eq!(seen, (11..=count as u64).collect::<Vec<_>>());
    }
}
