//! Which link of another server is its newest.
//!
//! When a link breaks, its other end repeats what may not have arrived, over another link. What then still lies unread in a
//! connection of the first, at whatever shard, must not be published any more: the repetition was judged without it. So a
//! connection that speaks in the name of others shows which life of its server it belongs to and the number of its link, and
//! publishes only while no higher number was shown. Invariant: between the look at the number and the publication nobody
//! can show a higher one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use praas_protocol::Name;

use crate::limits::INSTANCES_MAX;

/// The newest link of one life of another server.
#[derive(Debug, Default)]
pub(super) struct Generation(Mutex<u64>);

impl Generation {
    fn newest(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something, if the link of this number is the newest; nobody shows a newer one meanwhile.
    pub(super) fn if_newest<T>(&self, number: u64, work: impl FnOnce() -> T) -> Option<T> {
        let newest = self.newest();
        (*newest == number).then(work)
    }
}

/// Why a link is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A newer one was shown: this number.
    Late(u64),
    /// So many lives of other servers are linked now.
    Full(usize),
}

#[derive(Debug)]
struct Known {
    generation: Arc<Generation>,
    /// Grows with each use of any.
    used: u64,
}

#[derive(Debug, Default)]
struct Instances {
    by_name: HashMap<(Name, u64), Known>,
    uses: u64,
}

/// The newest links of all other servers, for all shards.
#[derive(Debug, Default)]
pub(crate) struct Generations(Mutex<Instances>);

impl Generations {
    /// A link of the holder of a token shows its number. It is the newest from here on, if it was not passed before.
    pub(super) fn show(&self, principal: Name, instance: u64, number: u64) -> Result<Arc<Generation>, Refusal> {
        let mut instances = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Instances { by_name, uses } = &mut *instances;
        *uses += 1;
        let whose = (principal, instance);
        if !by_name.contains_key(&whose) && by_name.len() >= INSTANCES_MAX {
            // One that no connection belongs to: there is nothing of it that could be late.
            let idle = by_name.iter().filter(|(_, known)| Arc::strong_count(&known.generation) == 1);
            let oldest = idle.min_by_key(|(_, known)| known.used).map(|(whose, _)| *whose);
            by_name.remove(&oldest.ok_or(Refusal::Full(INSTANCES_MAX))?);
        }
        let known = by_name.entry(whose).or_insert_with(|| Known { generation: Arc::default(), used: 0 });
        known.used = *uses;
        let mut newest = known.generation.newest();
        if number < *newest {
            return Err(Refusal::Late(*newest));
        }
        *newest = number;
        drop(newest);
        Ok(Arc::clone(&known.generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Name {
        "peer".parse().unwrap()
    }

    #[test]
    fn what_a_passed_link_brings_is_not_taken() {
        let generations = Generations::default();
        let first = generations.show(peer(), 7, 1).unwrap();
        assert_eq!(first.if_newest(1, || "taken"), Some("taken"));
        let second = generations.show(peer(), 7, 2).unwrap();
        assert_eq!(first.if_newest(1, || "taken"), None);
        assert_eq!(second.if_newest(2, || "taken"), Some("taken"));
        assert_eq!(generations.show(peer(), 7, 1).unwrap_err(), Refusal::Late(2));
        // Both connections of a link show the same.
        let bulk = generations.show(peer(), 7, 2).unwrap();
        assert_eq!(bulk.if_newest(2, || ()), Some(()));
        // Another life, and another server, have numbers of their own.
        assert!(generations.show(peer(), 8, 1).is_ok());
        assert!(generations.show("other".parse().unwrap(), 7, 1).is_ok());
    }

    #[test]
    fn the_table_is_bounded_and_forgets_nobody_who_is_linked() {
        let generations = Generations::default();
        let linked = generations.show(peer(), 0, 5).unwrap();
        for instance in 1..3 * INSTANCES_MAX as u64 {
            assert!(generations.show(peer(), instance, 1).is_ok(), "{instance}");
        }
        assert!(generations.0.lock().unwrap().by_name.len() <= INSTANCES_MAX);
        assert_eq!(generations.show(peer(), 0, 4).unwrap_err(), Refusal::Late(5));
        assert_eq!(linked.if_newest(5, || ()), Some(()));
        let all: Vec<_> = (1..INSTANCES_MAX as u64).map(|n| generations.show(peer(), n << 32, 1).unwrap()).collect();
        assert_eq!(generations.show(peer(), 1, 1).unwrap_err(), Refusal::Full(INSTANCES_MAX));
        drop(all);
        assert!(generations.show(peer(), 1, 1).is_ok());
    }
}
