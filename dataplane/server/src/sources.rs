//! What the loop waits for, as numbers that fit the kernel's event: kind and key in one word.
//!
//! Keys are counted up and never reused, so an event that was on its way when its source ended names nobody.

use std::collections::{HashSet, VecDeque};

use mio::Token;

use crate::clients::ClientKey;
use crate::workers::WorkerKey;

const KIND_BITS: u32 = 3;

/// A source of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// The server's socket has connections.
    Listener,
    /// The handle or a helper thread has something.
    Mail,
    /// The keeper's socket.
    Keeper,
    /// A signal arrived.
    Signals,
    /// A client's socket.
    Client(ClientKey),
    /// A worker's control socket.
    WorkerSocket(WorkerKey),
    /// A worker's pidfd.
    WorkerExit(WorkerKey),
    /// A worker's standard output (0) or standard error (1).
    WorkerOutput(WorkerKey, u8),
}

impl Source {
    pub(crate) fn token(self) -> Token {
        let (kind, key) = match self {
            Self::Listener => (0, 0),
            Self::Mail => (0, 1),
            Self::Keeper => (0, 2),
            Self::Signals => (0, 3),
            Self::Client(key) => (1, key.0),
            Self::WorkerSocket(key) => (2, key.0),
            Self::WorkerExit(key) => (3, key.0),
            Self::WorkerOutput(key, stream) => (4 + usize::from(stream & 1), key.0),
        };
        Token(key << KIND_BITS | kind)
    }

    pub(crate) fn of(token: Token) -> Option<Self> {
        let (kind, key) = (token.0 & ((1 << KIND_BITS) - 1), token.0 >> KIND_BITS);
        match (kind, key) {
            (0, 0) => Some(Self::Listener),
            (0, 1) => Some(Self::Mail),
            (0, 2) => Some(Self::Keeper),
            (0, 3) => Some(Self::Signals),
            (1, key) => Some(Self::Client(ClientKey(key))),
            (2, key) => Some(Self::WorkerSocket(WorkerKey(key))),
            (3, key) => Some(Self::WorkerExit(WorkerKey(key))),
            (4, key) => Some(Self::WorkerOutput(WorkerKey(key), 0)),
            (5, key) => Some(Self::WorkerOutput(WorkerKey(key), 1)),
            _ => None,
        }
    }
}

/// Sources that are to be served, each at most once, in the order in which they became ready.
///
/// Events are edges: a source that is not served to its end has to be put back by who serves it.
#[derive(Debug, Default)]
pub(crate) struct ReadyQueue {
    order: VecDeque<Source>,
    members: HashSet<Source>,
}

impl ReadyQueue {
    pub(crate) fn add(&mut self, source: Source) {
        if self.members.insert(source) {
            self.order.push_back(source);
        }
    }

    pub(crate) fn take(&mut self) -> Option<Source> {
        let source = self.order.pop_front()?;
        self.members.remove(&source);
        Some(source)
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_reads_back_from_its_token() {
        let [client, worker] = [ClientKey(5), ClientKey(1 << 40)].map(|key| (key, WorkerKey(key.0)));
        for (client, worker) in [client, worker] {
            let sources = [
                Source::Listener,
                Source::Mail,
                Source::Keeper,
                Source::Signals,
                Source::Client(client),
                Source::WorkerSocket(worker),
                Source::WorkerExit(worker),
                Source::WorkerOutput(worker, 0),
                Source::WorkerOutput(worker, 1),
            ];
            for source in sources {
                assert_eq!(Source::of(source.token()), Some(source));
            }
        }
        assert_eq!(Source::of(Token(7)), None);
    }

    #[test]
    fn a_ready_source_waits_once_and_in_order() {
        let mut ready = ReadyQueue::default();
        for source in [Source::Keeper, Source::Listener, Source::Keeper] {
            ready.add(source);
        }
        assert_eq!(ready.len(), 2);
        assert_eq!([ready.take(), ready.take(), ready.take()], [Some(Source::Keeper), Some(Source::Listener), None]);
    }
}
