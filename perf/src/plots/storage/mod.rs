//! Plot `storage`: what it takes to get a value from where it is kept, and to put one there.

mod elsewhere;
mod places;

use std::rc::Rc;

use praas_benches::bars::Settings;
use praas_benches::floors::Batch;
use praas_benches::interleave::Measured;

use self::places::{Operation, Place, Places};
use super::Plot;
use crate::harness::{Entry, Key, Run};
use crate::report::build::{bars_by_payload, times};
use crate::report::drawing::Drawing;
use crate::report::readable;
use crate::row::{Kind, Rows};

const ID: &str = "storage";

/// The plot.
pub(super) const PLOT: Plot = Plot {
    id: ID,
    title: "Values where they are kept",
    method: "One caller, one operation at a time, everything on this host. A get reads the value and looks at every byte of it, where \
             it lies or in memory of its own, and compares it with what was put; a put builds the value and hands it over, and the \
             last one of a round is read back. praas: the state of a process, from a function of the process, which has it mapped; \
             from a client over a lane of shared memory; and from a client over TCP on loopback with a dedicated connection. \
             Redis keeps nothing on disk; its client is blocking, with one system call for a request. Of praas's clients and of Redis \
             the quickest of three placements in a trial is measured: each side on a core, both on one, as the scheduler likes. The S3 servers keep their files in memory and are asked by \
             aws-sdk-s3 over one kept connection, every request signed and no payload hashed; objects of real S3 take some ten \
             milliseconds more. The floor copies the value once within one process, and looks at every byte of the copy.",
    measure,
    drawings,
    meaning,
};

/// Bytes of the values: the paper's, and one more.
const VALUES_BYTES: [usize; 5] = [1, 1 << 10, 100 << 10, 1 << 20, 10 << 20];

const FLOOR: &str = "memcpy";
const FUNCTION: &str = "praas state (from a function)";
const LANE: &str = "praas state (client, shared memory)";
const NETWORK: &str = "praas state (client, TCP)";
const REDIS_UNIX: &str = "Redis (Unix socket)";
const REDIS_TCP: &str = "Redis (TCP)";

/// How much of a place is measured in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Within one process.
    Memory,
    /// Between two processes.
    Processes,
    /// Over HTTP.
    Http,
}

impl Pace {
    fn batch(self, settings: Settings, value_bytes: usize) -> Batch {
        let samples = match (self, value_bytes) {
            (Self::Memory, 0..=65_536) => 10_000,
            (Self::Memory, 65_537..=524_288) => 1_000,
            (Self::Memory, 524_289..=4_194_304) => 100,
            (Self::Memory, _) => 20,
            (Self::Processes, 0..=65_536) => 2_000,
            (Self::Processes, 65_537..=524_288) => 500,
            (Self::Processes, 524_289..=4_194_304) => 100,
            (Self::Processes, _) => 20,
            (Self::Http, 0..=4_194_304) => 50,
            (Self::Http, _) => 10,
        };
        settings.batch(samples)
    }
}

fn measure(run: &mut Run) {
    let settings = run.settings();
    let places = Places::open();
    for operation in [Operation::Get, Operation::Put] {
        for value_bytes in VALUES_BYTES {
            let entry = |pace: Pace, (key, place): (Key, Result<Rc<dyn Place>, String>)| {
                let key = Key { series: operation.series(&key.series), ..key }.payload_bytes(value_bytes as u64);
                let series = place.map(|place| {
                    let label = key.series.clone();
                    Measured::new(label, move |batch| place.round(operation, value_bytes, batch))
                });
                Entry::opened(key, pace.batch(settings, value_bytes), series)
            };
            let redis = |series, over_tcp| places.redis(series, over_tcp, operation, value_bytes);
            let mut entries = vec![
                entry(Pace::Memory, places.memory(FLOOR)),
                entry(Pace::Memory, places.function(FUNCTION)),
                entry(Pace::Processes, places.lane(LANE, operation, value_bytes)),
                entry(Pace::Processes, places.network(NETWORK, operation, value_bytes)),
                entry(Pace::Processes, redis(REDIS_UNIX, false)),
                entry(Pace::Processes, redis(REDIS_TCP, true)),
            ];
            entries.extend(places.s3().into_iter().map(|place| entry(Pace::Http, place)));
            let label = format!("{ID}, {} of {}", operation.word(), readable::bytes(value_bytes as u64));
            run.measure(&label, entries);
        }
    }
}

fn drawings(rows: &Rows) -> Vec<Drawing> {
    let series = |operation: Operation| -> Vec<String> {
        let own = [FLOOR, FUNCTION, LANE, NETWORK, REDIS_UNIX, REDIS_TCP];
        own.into_iter().chain(places::S3_SERIES).map(|series| operation.series(series)).collect()
    };
    let draw = |title: &str, y_label: &str, operation: Operation| {
        let series = series(operation);
        let series: Vec<&str> = series.iter().map(String::as_str).collect();
        let mut drawings = bars_by_payload(rows, ID, title, y_label, &series);
        if operation == Operation::Put {
            drawings.iter_mut().for_each(without_papers);
        }
        drawings
    };
    [
        draw("Getting a value and reading all of it", "Time of a get", Operation::Get),
        draw("Building a value and putting it", "Time of a put", Operation::Put),
    ]
    .concat()
}

/// The paper's figures are of gets.
fn without_papers(drawing: &mut Drawing) {
    if let Drawing::Bars(bars) = drawing {
        bars.series.retain(|series| series.kind != Kind::Paper);
    }
}

fn meaning(rows: &Rows) -> Option<String> {
    let (small, large) = (VALUES_BYTES[1] as u64, VALUES_BYTES[3] as u64);
    let row = rows.at_payload(ID, FUNCTION, small)?;
    let faster = |over: &str, size: u64| times(rows, ID, over, FUNCTION, size).map(readable::times);
    let from_client = times(rows, ID, REDIS_UNIX, LANE, small)?;
    Some(format!(
        "A function has 1 KiB of its process's state read in {}: {} as fast as from Redis on the same host, {} at 1 MiB; a client \
         that asks a function of the process for it over shared memory has it {} as fast as from Redis.",
        readable::span_ns(row.p50?),
        faster(REDIS_UNIX, small)?,
        faster(REDIS_UNIX, large)?,
        readable::times(from_client),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paper;

    /// What a run would have found of these series at 1 KiB.
    fn rows(series: &[(&str, f64)]) -> Rows {
        let mut run = Run::new("test".to_owned(), Settings { quick: true });
        run.next_group();
        for (name, figure_ns) in series {
            for operation in [Operation::Get, Operation::Put] {
                let key = Key::ours(ID, operation.series(name)).payload_bytes(VALUES_BYTES[1] as u64);
                run.add_figures(&key, "ns", &[*figure_ns, *figure_ns]);
            }
        }
        let (mut rows, failures) = run.finish();
        assert!(failures.is_empty());
        rows.extend(paper::rows());
        rows
    }

    #[test]
    fn the_papers_gets_stand_beside_gets_and_not_beside_puts() {
        let drawings = drawings(&rows(&[(FUNCTION, 100.0), (REDIS_UNIX, 10_000.0)]));
        let [Drawing::Bars(gets), Drawing::Bars(puts)] = &drawings[..] else { panic!("two pictures: {drawings:?}") };
        assert!(gets.series.iter().any(|series| series.kind == Kind::Paper));
        assert!(!puts.series.is_empty() && puts.series.iter().all(|series| series.kind != Kind::Paper));
    }

    #[test]
    fn nothing_is_said_of_figures_that_are_missing() {
        assert_eq!(meaning(&rows(&[(FUNCTION, 100.0)])), None);
        assert_eq!(meaning(&Rows::default()), None);
    }

    #[test]
    fn every_pace_takes_some_samples_of_every_size() {
        for pace in [Pace::Memory, Pace::Processes, Pace::Http] {
            for value_bytes in VALUES_BYTES {
                let batch = pace.batch(Settings { quick: true }, value_bytes);
                assert!(batch.samples > 0 && batch.warm_up > 0, "{pace:?}, {value_bytes} bytes");
            }
        }
    }
}
