//! Claim records: a call that ends and a kill that begins settle which was first, and what the server acts on is of the
//! call that it condemns.

use loom::sync::Arc;
use loom::thread;

use super::check;
use crate::claim::{Condemned, Record};

fn root(sequence: u64) -> u128 {
    u128::from(sequence) << 64 | u128::from(sequence)
}

#[test]
fn a_call_is_either_released_or_condemned() {
    check(5, || {
        let record = Arc::new(Record::new());
        let worker = {
            let record = Arc::clone(&record);
            thread::spawn(move || {
                // Two calls, one after the other, as far as the worker is allowed to go.
                (1..=2)
                    .take_while(|&sequence| {
                        record.claim(sequence, 1, sequence << 32 | sequence, root(sequence));
                        record.release(sequence) != Err(Condemned)
                    })
                    .count() as u64
            })
        };
        let seen = record.seen(0);
        let condemned = seen.filter(|seen| record.condemn(seen.sequence));
        let ended = worker.join().unwrap();
        match condemned {
            Some(seen) => {
                assert_eq!(ended, seen.sequence - 1, "the condemned call ended, or another one did not");
                let sequence = u32::try_from(seen.sequence).unwrap();
                assert_eq!((seen.cell, seen.generation, seen.root), (sequence, sequence, root(seen.sequence)));
                assert!(record.seen(0).is_some_and(|now| now.condemned));
            }
            None => {
                assert_eq!(ended, 2);
                assert_eq!(record.seen(0), None);
            }
        }
    });
}
