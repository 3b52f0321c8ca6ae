//! What there is to call and to send to, told to other servers as it changes.
//!
//! Each change has a number, and each process or session is kept by that of its last change: whoever knows all up to a number
//! is told of everything above it, oldest first, and otherwise waits. What went is kept for a while to be told, too; who has
//! missed more than that, or knows the numbers of an earlier server, is told all there is.
//!
//! 1. A list of all is told in pages that stand at the numbers of one instant: what changes meanwhile is above it, and told
//!    afterwards. How far a list has come is kept here, under a number that no change has; a list that was forgotten begins
//!    anew.
//! 2. Everything is bounded: entries by the processes and sessions that there are, those that went, lists and watchers by
//!    their limits, what one question costs by its looks.
//! 3. What other servers have is none of this: nobody is told of anything by another than its own server.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use praas_protocol::control::{ControlError, DirectoryEntry, ProcessState, ServerMessage};
use praas_protocol::limits::LIST_PAGE_PROCESSES;
use praas_protocol::token::Scope;
use praas_protocol::{Address, Name, ProcessId};

use crate::clients::ClientKey;
use crate::clock;
use crate::lanes::limit;
use crate::limits::{DIRECTORY_GONE_KEPT, DIRECTORY_LISTS_MAX, DIRECTORY_LOOKS_MAX, DIRECTORY_WATCHERS_MAX};
use crate::processes::Asker;
use crate::shard::Shard;

/// Set in what a list in pages is gone on with, and in no number of a change.
const LIST: u64 = 1 << 63;

/// Everything that can be told.
#[derive(Debug)]
pub(crate) struct DirectoryWatch {
    /// All numbers of this server are above it.
    first: u64,
    /// The last change.
    last: u64,
    /// What there is, and what went, by the number of its last change.
    by_number: BTreeMap<u64, Change>,
    /// The numbers of what there is. Names are long, and kept once.
    number_of: BTreeMap<Arc<(Name, Address)>, u64>,
    /// The numbers of what went, oldest first.
    gone: VecDeque<u64>,
    /// The last of those that were forgotten.
    forgotten: u64,
    watchers: Vec<Watcher>,
    /// The one that was begun first comes first.
    lists: VecDeque<List>,
    last_list: u64,
}

/// The last change of something.
#[derive(Debug)]
struct Change {
    whose: Arc<(Name, Address)>,
    state: Option<ProcessState>,
}

impl Change {
    fn entry(&self) -> DirectoryEntry {
        let (application, address) = *self.whose;
        DirectoryEntry { application, address, state: self.state }
    }
}

/// Who waits for a change.
#[derive(Debug)]
struct Watcher {
    asker: Asker,
    /// Up to which it has been told all.
    after: u64,
    scope: Scope,
}

/// How far a list of all has come.
#[derive(Debug, Clone, Copy)]
struct List {
    name: u64,
    /// The last change when it was begun.
    begun_at: u64,
    told_upto: u64,
}

/// What is told at a time.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    upto: u64,
    is_whole: bool,
    more: bool,
    entries: Vec<DirectoryEntry>,
}

impl Default for DirectoryWatch {
    fn default() -> Self {
        // Above the numbers of all earlier servers.
        let first = clock::unix_time_ns() & !LIST;
        Self {
            first,
            last: first,
            by_number: BTreeMap::new(),
            number_of: BTreeMap::new(),
            gone: VecDeque::new(),
            forgotten: first,
            watchers: Vec::new(),
            lists: VecDeque::new(),
            last_list: 0,
        }
    }
}

impl DirectoryWatch {
    /// Enters a change; false if it is none.
    fn enter(&mut self, entry: DirectoryEntry) -> bool {
        let whose = (entry.application, entry.address);
        let before = self.number_of.get(&whose).copied();
        let shown = before.and_then(|number| self.by_number.get(&number)).and_then(|known| known.state);
        if shown == entry.state {
            return false;
        }
        let known = before.and_then(|number| self.by_number.remove(&number));
        let whose = known.map_or_else(|| Arc::new(whose), |known| known.whose);
        self.last += 1;
        if entry.state.is_some() {
            self.number_of.insert(Arc::clone(&whose), self.last);
        } else {
            self.number_of.remove(&whose);
            self.gone.push_back(self.last);
        }
        self.by_number.insert(self.last, Change { whose, state: entry.state });
        if self.gone.len() > DIRECTORY_GONE_KEPT
            && let Some(number) = self.gone.pop_front()
        {
            self.by_number.remove(&number);
            self.forgotten = number;
        }
        true
    }

    /// What is told to somebody who knows all up to `after`; `None` if that is all there is.
    fn page(&mut self, after: u64, scope: &Scope) -> Option<Page> {
        if after & LIST != 0 {
            let place = self.lists.iter().position(|list| list.name == after);
            return Some(match place.and_then(|place| self.lists.remove(place)) {
                Some(list) => self.go_on(list, scope, false),
                None => self.begin(scope),
            });
        }
        if !(self.forgotten..=self.last).contains(&after) {
            return Some(self.begin(scope));
        }
        let (entries, upto) = self.look(after, self.last, scope, |_| true);
        let more = upto < self.last;
        (more || !entries.is_empty()).then_some(Page { upto, is_whole: false, more, entries })
    }

    /// Begins a list of all.
    fn begin(&mut self, scope: &Scope) -> Page {
        self.last_list += 1;
        let list = List { name: LIST | self.last_list, begun_at: self.last, told_upto: self.first };
        self.go_on(list, scope, true)
    }

    fn go_on(&mut self, list: List, scope: &Scope, is_whole: bool) -> Page {
        let List { name, begun_at, told_upto } = list;
        let (entries, upto) = self.look(told_upto, begun_at, scope, |entry| entry.state.is_some());
        if upto >= begun_at {
            return Page { upto: begun_at, is_whole, more: false, entries };
        }
        if self.lists.len() >= DIRECTORY_LISTS_MAX {
            self.lists.pop_front();
        }
        self.lists.push_back(List { told_upto: upto, ..list });
        Page { upto: name, is_whole, more: true, entries }
    }

    /// A page of the changes after one number up to another, and up to which it has come.
    fn look(
        &self,
        after: u64,
        upto: u64,
        scope: &Scope,
        is_told: impl Fn(&DirectoryEntry) -> bool,
    ) -> (Vec<DirectoryEntry>, u64) {
        let mut entries = Vec::new();
        let mut come_to = after;
        let range = (Bound::Excluded(after), Bound::Included(upto.max(after)));
        // Nothing is excluded from and included in itself.
        let changes = (after < upto).then(|| self.by_number.range(range)).into_iter().flatten();
        for (looks, (number, change)) in changes.enumerate() {
            if entries.len() == LIST_PAGE_PROCESSES || looks == DIRECTORY_LOOKS_MAX {
                return (entries, come_to);
            }
            come_to = *number;
            let entry = change.entry();
            if is_told(&entry) && covers(scope, &entry) {
                entries.push(entry);
            }
        }
        (entries, upto)
    }

    /// Nobody waits on this connection any more.
    pub(crate) fn forget(&mut self, client: ClientKey) {
        self.watchers.retain(|watcher| watcher.asker.client != client);
    }
}

impl Shard {
    /// Somebody wants to know what changed.
    pub(crate) fn watch_directory(&mut self, asker: Asker, after: u64, scope: &Scope) -> Result<(), ControlError> {
        if let Some(page) = self.directory_watch.page(after, scope) {
            self.tell_page(asker, page);
            return Ok(());
        }
        let waiting = self.directory_watch.watchers.len();
        limit("watchers of this server's processes", waiting, DIRECTORY_WATCHERS_MAX, "link fewer servers")?;
        let after = self.directory_watch.last;
        self.directory_watch.watchers.push(Watcher { asker, after, scope: scope.clone() });
        Ok(())
    }

    /// A process or session of this server has begun, changes, or has ended: then it has no state.
    pub(crate) fn announce(&mut self, application: Name, address: Address, state: Option<ProcessState>) {
        let entry = DirectoryEntry { application, address, state };
        if !self.directory_watch.enter(entry) {
            return;
        }
        let is_told = |watcher: &mut Watcher| covers(&watcher.scope, &entry);
        let told: Vec<_> = self.directory_watch.watchers.extract_if(.., is_told).collect();
        for Watcher { asker, after, scope } in told {
            if let Some(page) = self.directory_watch.page(after, &scope) {
                self.tell_page(asker, page);
            }
        }
    }

    fn tell_page(&mut self, asker: Asker, page: Page) {
        let Page { upto, is_whole, more, entries } = page;
        let changes = ServerMessage::DirectoryChanges { request: asker.request, upto, is_whole, more, entries };
        self.answer(asker, &changes, &[]);
    }
}

/// Whether a token of this scope is told of an entry.
fn covers(scope: &Scope, entry: &DirectoryEntry) -> bool {
    let application = entry.application;
    match entry.address {
        Address::Process(process) => scope.covers(&ProcessId { application, process }),
        Address::Client(_) => scope.covers_application(&application),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn entry(name: &str, state: Option<ProcessState>) -> DirectoryEntry {
        DirectoryEntry { application: "hello".parse().unwrap(), address: name.parse().unwrap(), state }
    }

    /// Somebody who keeps what it is told, as another server does.
    #[derive(Default)]
    struct Reader {
        after: u64,
        known: BTreeMap<Address, ProcessState>,
        listed: Option<BTreeSet<Address>>,
        lists: u32,
    }

    impl Reader {
        /// One question; false if it would wait.
        fn ask(&mut self, watch: &mut DirectoryWatch) -> bool {
            let Some(page) = watch.page(self.after, &Scope::Any) else { return false };
            assert!(page.entries.len() <= LIST_PAGE_PROCESSES);
            self.after = page.upto;
            if page.is_whole {
                self.lists += 1;
                self.listed = Some(BTreeSet::new());
            }
            for entry in page.entries {
                if let Some(listed) = &mut self.listed {
                    listed.insert(entry.address);
                }
                match entry.state {
                    Some(state) => drop(self.known.insert(entry.address, state)),
                    None => drop(self.known.remove(&entry.address)),
                }
            }
            if !page.more
                && let Some(listed) = self.listed.take()
            {
                self.known.retain(|address, _| listed.contains(address));
            }
            true
        }

        fn ask_all(&mut self, watch: &mut DirectoryWatch) {
            while self.ask(watch) {}
        }
    }

    fn what_there_is(watch: &DirectoryWatch) -> BTreeMap<Address, ProcessState> {
        watch.by_number.values().filter_map(|change| Some((change.whose.1, change.state?))).collect()
    }

    #[test]
    fn a_reader_is_told_all_there_is_and_then_what_changes() {
        let mut watch = DirectoryWatch::default();
        let mut reader = Reader::default();
        assert!(reader.ask(&mut watch), "even that there is nothing");
        assert!(!reader.ask(&mut watch));
        for step in [
            entry("a", Some(ProcessState::Creating)),
            entry("b", Some(ProcessState::Active)),
            entry("a", Some(ProcessState::Active)),
            entry("b", None),
            entry("b", Some(ProcessState::Creating)),
        ] {
            assert!(watch.enter(step));
            assert!(!watch.enter(step), "the same again is no change");
            assert!(reader.ask(&mut watch));
            assert!(!reader.ask(&mut watch));
            assert_eq!(reader.known, what_there_is(&watch));
        }
        assert!(!watch.enter(entry("nobody", None)));
        assert_eq!(reader.lists, 1);
        let mut late = Reader::default();
        late.ask_all(&mut watch);
        assert_eq!(late.known, reader.known);
        // What an earlier or a later server's numbers know is nothing here.
        for after in [1, watch.first - 1, watch.last + 1, u64::MAX] {
            let mut stranger = Reader { after, ..Reader::default() };
            stranger.ask_all(&mut watch);
            assert_eq!((stranger.lists, &stranger.known), (1, &reader.known));
        }
    }

    #[test]
    fn lists_in_pages_are_right_whatever_changes_between_the_pages() {
        let seed = clock::unix_time_ns();
        println!("seed {seed}");
        let mut state = seed | 1;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut watch = DirectoryWatch::default();
        let states = [None, Some(ProcessState::Active), Some(ProcessState::Idle), Some(ProcessState::Draining)];
        let mut readers: Vec<_> = (0..2 * DIRECTORY_LISTS_MAX).map(|_| Reader::default()).collect();
        for step in 0..60_000 {
            let name = format!("p{}", random(3000));
            watch.enter(entry(&name, states[random(4).try_into().unwrap_or(0)]));
            if step % 50 == 0 {
                let index = usize::try_from(random(readers.len() as u64)).unwrap();
                readers[index].ask(&mut watch);
            }
            assert!(watch.gone.len() <= DIRECTORY_GONE_KEPT && watch.lists.len() <= DIRECTORY_LISTS_MAX);
            assert!(watch.by_number.len() <= watch.number_of.len() + watch.gone.len());
        }
        for (index, reader) in readers.iter_mut().enumerate() {
            reader.ask_all(&mut watch);
            assert_eq!(reader.known, what_there_is(&watch), "reader {index}");
        }
    }

    #[test]
    fn a_token_is_told_of_its_scope_alone() {
        let mut watch = DirectoryWatch::default();
        let session = DirectoryEntry {
            application: "hello".parse().unwrap(),
            address: Address::Client(praas_protocol::SessionId(7)),
            state: Some(ProcessState::Active),
        };
        let alice = entry("alice", Some(ProcessState::Active));
        let stranger = DirectoryEntry { application: "other".parse().unwrap(), ..alice };
        for entry in [session, alice, stranger] {
            watch.enter(entry);
        }
        let mut told = |scope| watch.page(0, &scope).unwrap().entries;
        assert_eq!(told(Scope::Any), [session, alice, stranger]);
        assert_eq!(told(Scope::Application("hello".parse().unwrap())), [session, alice]);
        assert_eq!(told(Scope::Process("hello/alice".parse().unwrap())), [alice]);
        assert_eq!(told(Scope::Process("hello/bob".parse().unwrap())), []);
    }
}
