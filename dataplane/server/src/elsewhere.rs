//! What other servers have: which process or session is on which of them, and whether there is a way to it now.
//!
//! The links to other servers ([`crate::network`]) write here what these say; the loop shows it to workers, and whoever
//! opens a lane asks where to. Names of this server always win; of several servers with the same name, one that can be
//! reached does, then the one that was configured first. What a server said stays known while there is no link to it:
//! calls and messages for it wait.
//!
//! Invariants:
//! 1. Nobody holds the lock while anything is waited for, sent or logged.
//! 2. What a server says is bounded: [`PEER_ENTRIES_MAX`] entries of applications that are served here; the rest is left out.
//! 3. What changed is noted once until the loop has looked: notes are never more than there are entries.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mio::Waker;
use praas_protocol::control::{DirectoryEntry, ProcessState};
use praas_protocol::message::Address;
use praas_protocol::{Name, ProcessId};
use praas_shm::directory::{DirectorySlot, ListedProcess};

use crate::clock;
use crate::limits::{ELSEWHERE_TURN_MAX, LEARNING_MAX, PEER_ENTRIES_MAX};
use crate::shard::Shard;
use crate::sources::Source;

/// Another server that this one calls: where it listens, and a token that it issued.
#[derive(Clone, PartialEq, Eq)]
pub struct Peer {
    /// `host:port`, resolved at each attempt to connect.
    pub address: String,
    /// A token of that server with the rights `invoke`, `trusted`, `state` and `messages`.
    pub token: String,
}

impl fmt::Debug for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Peer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// How things stand with another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    /// As configured.
    pub address: String,
    /// Whether there is a link to it now.
    pub is_linked: bool,
    /// Why there is none.
    pub trouble: Option<String>,
    /// Processes and sessions that it has told of.
    pub known: usize,
}

/// Where something is that is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerPlace {
    /// The server, by its place among those that were configured.
    pub(crate) peer: usize,
    /// The network shard that has the link to it.
    pub(crate) shard: usize,
}

/// What all other servers have.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    tables: Mutex<Tables>,
    applications: BTreeSet<Name>,
    shards: usize,
    started: Instant,
    /// Wakes the loop.
    waker: Arc<Waker>,
}

type Whose = (Name, Address);

#[derive(Debug, Default)]
struct Tables {
    peers: Vec<PeerTable>,
    /// What the loop has not looked at since it changed.
    changed: BTreeSet<Whose>,
}

#[derive(Debug)]
struct PeerTable {
    address: String,
    is_linked: bool,
    trouble: Option<String>,
    entries: BTreeMap<Whose, Known>,
    /// Counts the lists of all there is.
    list: u64,
    /// Whether such a list has begun and not ended.
    is_listing: bool,
    /// Whether one has ever ended.
    has_told: bool,
    /// Whether something was left out.
    overflows: bool,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    state: ProcessState,
    /// The last list that it was in, or told of after.
    list: u64,
}

impl Elsewhere {
    /// Knows nothing of `peers` yet, whose links `shards` threads divide among themselves.
    pub(crate) fn new(
        applications: impl Iterator<Item = Name>,
        peers: &[Peer],
        shards: usize,
        waker: Arc<Waker>,
    ) -> Self {
        let table = |peer: &Peer| PeerTable {
            address: peer.address.clone(),
            is_linked: false,
            trouble: None,
            entries: BTreeMap::new(),
            list: 0,
            is_listing: false,
            has_told: false,
            overflows: false,
        };
        let tables = Tables { peers: peers.iter().map(table).collect(), changed: BTreeSet::new() };
        Self {
            tables: Mutex::new(tables),
            applications: applications.collect(),
            shards: shards.max(1),
            started: clock::now(),
            waker,
        }
    }

    /// The server that has a process or session, reachable or not. Whoever asks has looked here first.
    pub(crate) fn find(&self, application: Name, address: &Address) -> Option<PeerPlace> {
        let (peer, _) = self.tables().shown(&(application, *address))?;
        Some(PeerPlace { peer, shard: self.shard_of(peer) })
    }

    /// The shard that has the link to a server.
    pub(crate) fn shard_of(&self, peer: usize) -> usize {
        peer % self.shards
    }

    /// Whether a server that has just started may still be told of what it does not know.
    pub(crate) fn is_learning(&self) -> bool {
        clock::since(self.started) < LEARNING_MAX && self.tables().peers.iter().any(|peer| !peer.has_told)
    }

    /// How things stand with each.
    pub(crate) fn facts(&self) -> Vec<PeerFacts> {
        let facts = |peer: &PeerTable| PeerFacts {
            address: peer.address.clone(),
            is_linked: peer.is_linked,
            trouble: peer.trouble.clone(),
            known: peer.entries.len(),
        };
        self.tables().peers.iter().map(facts).collect()
    }

    /// There is a link to a server.
    pub(crate) fn linked(&self, peer: usize) {
        self.stand(peer, true, None);
    }

    /// There is none; true if that is new, or for another reason than before.
    pub(crate) fn unlinked(&self, peer: usize, why: &str) -> bool {
        self.stand(peer, false, Some(why))
    }

    fn stand(&self, peer: usize, is_linked: bool, trouble: Option<&str>) -> bool {
        let mut tables = self.tables();
        let Tables { peers, changed } = &mut *tables;
        let Some(table) = peers.get_mut(peer) else { return false };
        let is_new = table.is_linked != is_linked || table.trouble.as_deref() != trouble;
        if std::mem::replace(&mut table.is_linked, is_linked) != is_linked {
            changed.extend(table.entries.keys().copied());
        }
        table.trouble = trouble.map(str::to_owned);
        // What a new connection tells begins anew.
        table.is_listing = false;
        drop(tables);
        self.wake();
        is_new
    }

    /// What a server said: changes, or a page of all that it has. False, once, if that is more than is kept.
    pub(crate) fn tell(
        &self,
        peer: usize,
        is_whole: bool,
        more: bool,
        entries: impl Iterator<Item = DirectoryEntry>,
    ) -> bool {
        let mut tables = self.tables();
        let Tables { peers, changed } = &mut *tables;
        let Some(table) = peers.get_mut(peer) else { return true };
        if is_whole {
            table.list += 1;
            table.is_listing = true;
        }
        let overflowed = table.overflows;
        for DirectoryEntry { application, address, state } in entries {
            if self.applications.contains(&application) {
                table.note((application, address), state, changed);
            }
        }
        if table.is_listing && !more {
            (table.is_listing, table.has_told) = (false, true);
            let list = table.list;
            let gone: Vec<Whose> =
                table.entries.iter().filter(|(_, known)| known.list != list).map(|(whose, _)| *whose).collect();
            for whose in gone {
                table.entries.remove(&whose);
                changed.insert(whose);
            }
        }
        let fits = overflowed || !table.overflows;
        drop(tables);
        self.wake();
        fits
    }

    /// Has the loop look at an address again.
    fn touch(&self, whose: Whose) {
        self.tables().changed.insert(whose);
        self.wake();
    }

    fn take_changed(&self) -> (Vec<Whose>, bool) {
        let mut tables = self.tables();
        let taken = std::iter::from_fn(|| tables.changed.pop_first()).take(ELSEWHERE_TURN_MAX).collect();
        (taken, !tables.changed.is_empty())
    }

    fn shown(&self, whose: &Whose) -> Option<(usize, ProcessState)> {
        self.tables().shown(whose)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when the loop is gone.
        let _ = self.waker.wake();
    }
}

impl Tables {
    /// The server that has it, and the state that it is shown in.
    fn shown(&self, whose: &Whose) -> Option<(usize, ProcessState)> {
        let having = || self.peers.iter().enumerate().filter(|(_, peer)| peer.entries.contains_key(whose));
        let (place, peer) = having().find(|(_, peer)| peer.is_linked).or_else(|| having().next())?;
        let state = peer.entries.get(whose)?.state;
        Some((place, if peer.is_linked { state } else { ProcessState::Unreachable }))
    }
}

impl PeerTable {
    fn note(&mut self, whose: Whose, state: Option<ProcessState>, changed: &mut BTreeSet<Whose>) {
        let Some(state) = state else {
            if self.entries.remove(&whose).is_some() {
                changed.insert(whose);
            }
            return;
        };
        if self.entries.len() >= PEER_ENTRIES_MAX && !self.entries.contains_key(&whose) {
            self.overflows = true;
            return;
        }
        let before = self.entries.insert(whose, Known { state, list: self.list });
        if before.is_none_or(|before| before.state != state) {
            changed.insert(whose);
        }
    }
}

/// What an application's directory shows of something elsewhere.
#[derive(Debug)]
pub(crate) struct ListedElsewhere {
    peer: usize,
    shown: ProcessState,
    /// Of a process; sessions are not listed.
    slot: Option<DirectorySlot>,
}

impl Shard {
    /// Shows workers what has changed elsewhere.
    pub(crate) fn hear_of_elsewhere(&mut self) {
        let (changed, more) = self.elsewhere.take_changed();
        let mut applications = BTreeSet::new();
        for whose in changed {
            if self.show_elsewhere(whose) {
                applications.insert(whose.0);
            }
        }
        for directory in applications.iter().filter_map(|application| self.directories.get(application)) {
            directory.wake();
        }
        if more {
            self.ready.add(Source::Mail);
        }
    }

    /// A process of this server begins: its name leads here from now on.
    pub(crate) fn name_is_taken(&mut self, process: &ProcessId) {
        if !self.listed_elsewhere.is_empty() {
            self.show_elsewhere((process.application, process.process.into()));
        }
    }

    /// A process of this server has ended: its name may lead elsewhere again.
    pub(crate) fn name_is_free(&self, process: &ProcessId) {
        self.elsewhere.touch((process.application, process.process.into()));
    }

    /// True if the application's directory has changed.
    fn show_elsewhere(&mut self, whose: Whose) -> bool {
        let (application, address) = whose;
        let is_here = match address {
            Address::Process(process) => self.processes.has(&ProcessId { application, process }),
            Address::Client(_) => false,
        };
        let now = self.elsewhere.shown(&whose).filter(|_| !is_here);
        let before = self.listed_elsewhere.get(&whose).map(|listed| (listed.peer, listed.shown));
        if now.is_none() || before.is_some() && before.map(|(peer, _)| peer) != now.map(|(peer, _)| peer) {
            self.forget_elsewhere(whose);
        }
        let Some((peer, state)) = now else { return before.is_some() };
        let directory = self.directories.get_mut(&application);
        match (self.listed_elsewhere.get_mut(&whose), directory) {
            (Some(listed), _) if listed.shown == state => return false,
            (Some(listed), Some(directory)) => {
                listed.shown = state;
                if let Some(slot) = &listed.slot {
                    directory.set(slot, state);
                }
            }
            (None, Some(directory)) => {
                let slot = match address {
                    Address::Process(name) => directory.enter(ListedProcess { name, state }).map(Some),
                    Address::Client(_) => Ok(None),
                };
                let slot = slot.unwrap_or_else(|error| {
                    self.log.warning(format_args!("{address} of {application}, elsewhere, is not listed: {error}"));
                    None
                });
                self.listed_elsewhere.insert(whose, ListedElsewhere { peer, shown: state, slot });
            }
            (_, None) => {}
        }
        true
    }

    /// An address does not lead where it led: lanes to it end.
    fn forget_elsewhere(&mut self, whose: Whose) {
        self.end_gateways_to(whose.0, &whose.1);
        let Some(listed) = self.listed_elsewhere.remove(&whose) else { return };
        if let (Some(directory), Some(slot)) = (self.directories.get_mut(&whose.0), listed.slot) {
            directory.leave(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use mio::{Poll, Token};

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn entry(text: &str, state: Option<ProcessState>) -> DirectoryEntry {
        DirectoryEntry { application: name("app"), address: address(text), state }
    }

    fn of_two_peers() -> Elsewhere {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let peer = |port| Peer { address: format!("127.0.0.1:{port}"), token: "secret".into() };
        Elsewhere::new([name("app")].into_iter(), &[peer(1), peer(2)], 3, waker)
    }

    const ACTIVE: Option<ProcessState> = Some(ProcessState::Active);

    #[test]
    fn a_list_of_all_replaces_what_was_known_once_its_last_page_has_come() {
        let elsewhere = of_two_peers();
        elsewhere.linked(1);
        elsewhere.tell(1, true, false, [entry("alice", ACTIVE), entry("bob", ACTIVE)].into_iter());
        let place = PeerPlace { peer: 1, shard: 1 };
        assert_eq!(elsewhere.find(name("app"), &address("alice")), Some(place));
        assert_eq!(elsewhere.find(name("other"), &address("alice")), None);
        elsewhere.tell(1, true, true, [entry("bob", ACTIVE)].into_iter());
        assert_eq!(elsewhere.find(name("app"), &address("alice")), Some(place), "more follows");
        elsewhere.tell(1, false, false, [entry("carol", ACTIVE)].into_iter());
        assert_eq!(elsewhere.find(name("app"), &address("alice")), None);
        for here in ["bob", "carol"] {
            assert_eq!(elsewhere.find(name("app"), &address(here)), Some(place));
        }
        elsewhere.tell(1, false, false, [entry("bob", None)].into_iter());
        assert_eq!(elsewhere.find(name("app"), &address("bob")), None);
    }

    #[test]
    fn what_cannot_be_reached_stays_known_and_gives_way_to_what_can() {
        let elsewhere = of_two_peers();
        let whose = (name("app"), address("alice"));
        elsewhere.linked(0);
        elsewhere.tell(0, true, false, [entry("alice", ACTIVE)].into_iter());
        assert_eq!(elsewhere.take_changed(), (vec![whose], false));
        assert!(elsewhere.unlinked(0, "broken") && !elsewhere.unlinked(0, "broken"));
        assert_eq!(elsewhere.take_changed(), (vec![whose], false));
        assert_eq!(elsewhere.shown(&whose), Some((0, ProcessState::Unreachable)));
        elsewhere.linked(1);
        elsewhere.tell(1, true, false, [entry("alice", ACTIVE)].into_iter());
        assert_eq!(elsewhere.shown(&whose), Some((1, ProcessState::Active)));
        elsewhere.linked(0);
        assert_eq!(elsewhere.shown(&whose), Some((0, ProcessState::Active)));
    }

    #[test]
    fn a_server_that_tells_of_too_much_is_heard_as_far_as_the_limit() {
        let elsewhere = of_two_peers();
        let many = (0..=PEER_ENTRIES_MAX).map(|index| entry(&format!("p{index}"), ACTIVE));
        assert!(!elsewhere.tell(0, true, true, many));
        assert!(elsewhere.tell(0, false, false, [entry("late", ACTIVE)].into_iter()), "it was said once");
        assert_eq!(elsewhere.facts()[0].known, PEER_ENTRIES_MAX);
        let others = DirectoryEntry { application: name("other"), ..entry("alice", ACTIVE) };
        elsewhere.tell(1, true, false, [others].into_iter());
        assert_eq!(elsewhere.facts()[1].known, 0, "applications that are not served here are of no interest");
    }

    #[test]
    fn a_token_is_not_shown() {
        let peer = Peer { address: "a:1".into(), token: "secret".into() };
        assert!(!format!("{peer:?}").contains("secret"));
    }
}
