//! The directory of processes: the server's changes against readers that follow.

use loom::sync::Arc;
use loom::thread;
use praas_protocol::control::ProcessState;

use super::check;
use crate::directory::table::{Entry, Head, Table};
use crate::directory::{ListedProcess, Listing};
use crate::sync::{AtomicU64, sleep_low_half, wake_low_half};

/// Changes that the ring holds: fewer than are made, so that readers also fall behind.
const RECENT: usize = 2;

struct Directory {
    head: Head,
    recent: Vec<AtomicU64>,
    entries: Vec<Entry>,
}

impl Directory {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            head: Head::new(),
            recent: (0..RECENT).map(|_| AtomicU64::new(0)).collect(),
            entries: (0..2).map(|_| Entry::new()).collect(),
        })
    }

    fn table(&self) -> Table<'_> {
        Table { head: &self.head, recent: &self.recent, entries: &self.entries }
    }
}

/// Changes of a directory of two slots.
#[derive(Clone, Copy)]
enum Change {
    Enter(usize, char, ProcessState),
    Set(usize, ProcessState),
    Leave(usize),
}

/// A name of one letter in all its words, so that a mixture of two is none.
fn process(letter: char, state: ProcessState) -> ListedProcess {
    let length = if letter == 'a' { 63 } else { 62 };
    ListedProcess { name: letter.to_string().repeat(length).parse().unwrap(), state }
}

fn make(table: Table<'_>, number: u64, change: Change) {
    match change {
        Change::Enter(slot, letter, state) => {
            table.bound_slots(2);
            table.enter(number, slot, process(letter, state));
        }
        Change::Set(slot, state) => table.set(number, slot, state),
        Change::Leave(slot) => table.leave(number, slot),
    }
}

/// What is listed after each number of changes.
fn lists(changes: &[Change]) -> Vec<Vec<ListedProcess>> {
    let mut slots = [None, None];
    let mut lists = vec![Vec::new()];
    for change in changes {
        match *change {
            Change::Enter(slot, letter, state) => slots[slot] = Some(process(letter, state)),
            Change::Set(slot, state) => slots[slot].as_mut().unwrap().state = state,
            Change::Leave(slot) => slots[slot] = None,
        }
        lists.push(slots.iter().flatten().copied().collect());
    }
    lists
}

/// Follows once; the list must be one that there was, whole.
fn follow(table: Table<'_>, listing: &mut Listing, lists: &[Vec<ListedProcess>]) {
    let before = listing.change();
    table.follow(listing);
    let number = usize::try_from(listing.change()).unwrap();
    let seen: Vec<_> = listing.iter().copied().collect();
    assert!(listing.change() >= before, "the list went back");
    let is_of = |number: usize| lists.get(number).is_some_and(|list| *list == seen);
    assert!(is_of(number) || is_of(number + 1), "{seen:?} was never the list about change {number}");
}

/// The server makes `changes`, the first `before` of them before a reader begins, which follows twice.
fn follows(preemptions: usize, before: usize, changes: &'static [Change]) {
    check(preemptions, move || {
        let directory = Directory::new();
        let lists = lists(changes);
        let numbered = || (1..).zip(changes.iter().copied());
        let mut listing = Listing::default();
        for (number, change) in numbered().take(before) {
            make(directory.table(), number, change);
        }
        directory.table().follow(&mut listing);
        let server = {
            let directory = Arc::clone(&directory);
            thread::spawn(move || {
                numbered().skip(before).for_each(|(number, change)| make(directory.table(), number, change));
            })
        };
        for _ in 0..2 {
            follow(directory.table(), &mut listing, &lists);
        }
        server.join().unwrap();
        follow(directory.table(), &mut listing, &lists);
        assert_eq!(listing.change(), changes.len() as u64);
    });
}

/// Whatever becomes of the list: it is taken as it is when the server overtakes a reader for too long.
#[test]
fn an_entry_that_is_used_again_shows_one_whole_name() {
    check(3, || {
        let directory = Directory::new();
        let [first, second] = ['a', 'b'].map(|letter| process(letter, ProcessState::Active));
        directory.table().enter(1, 0, first);
        let server = {
            let directory = Arc::clone(&directory);
            thread::spawn(move || {
                directory.table().leave(2, 0);
                directory.table().enter(3, 0, second);
            })
        };
        let seen = directory.entries[0].read();
        assert!(seen.is_none_or(|seen| seen == first || seen == second), "{seen:?}");
        server.join().unwrap();
        assert_eq!(directory.entries[0].read(), Some(second));
    });
}

#[test]
fn a_list_is_never_a_mixture_of_two() {
    use Change::{Enter, Leave, Set};
    let changes = &[
        Enter(0, 'a', ProcessState::Active),
        Enter(1, 'b', ProcessState::Active),
        Set(0, ProcessState::Idle),
        Set(1, ProcessState::Idle),
        Leave(0),
    ];
    follows(4, 2, changes);
}

#[test]
fn a_reader_that_fell_behind_reads_all_anew() {
    use Change::{Enter, Leave, Set};
    let changes = &[
        Enter(0, 'a', ProcessState::Creating),
        Set(0, ProcessState::Active),
        Leave(0),
        Enter(1, 'b', ProcessState::Creating),
    ];
    follows(2, 0, changes);
}

#[test]
fn who_waits_for_a_change_is_woken() {
    check(5, || {
        let directory = Directory::new();
        let server = {
            let directory = Arc::clone(&directory);
            thread::spawn(move || {
                for (number, state) in [(1, ProcessState::Creating), (2, ProcessState::Active)] {
                    match number {
                        1 => make(directory.table(), number, Change::Enter(0, 'a', state)),
                        _ => make(directory.table(), number, Change::Set(0, state)),
                    }
                    wake_low_half(&directory.head.changes);
                }
            })
        };
        let table = directory.table();
        let mut listing = Listing::default();
        while listing.iter().next() != Some(&process('a', ProcessState::Active)) {
            let seen = listing.change();
            table.follow(&mut listing);
            if listing.change() == seen {
                sleep_low_half(&directory.head.changes, seen, std::time::Duration::MAX);
            }
        }
        server.join().unwrap();
    });
}
