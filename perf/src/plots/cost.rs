//! Plot `cost`: what a process that nobody calls costs a month: in memory, as it is and priced as containers and functions are,
//! and asleep in storage. The paper's section 6.7.
//!
//! What is measured is bytes; prices are lists', the paper's for memory (`data/paper/table_cost.csv`) and `data/prices/storage.csv`
//! for storage, each with its source in the row.

use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use praas_benches::subject::{
    Footprint, RunningServer, Sleeper, SleeperState, StoragePlace, SubjectError, descendants_of,
};
use serde::Deserialize;

use super::Plot;
use crate::harness::{Key, Run};
use crate::paper;
use crate::report::build::{Axes, lines_by_payload, median};
use crate::report::drawing::Drawing;
use crate::report::readable;
use crate::row::Rows;

const ID: &str = "cost";

/// The plot.
pub(super) const PLOT: Plot =
    Plot { id: ID, title: "What an idle process costs", method: METHOD, measure, drawings, meaning };

const METHOD: &str = "Bytes are measured, prices are lists'. Awake: what server, keeper and worker of one process take more than \
    before it was there (proportional share of memory, PSS, and shared segments once more: an upper bound). Asleep: what storage \
    holds of it. A thousand such processes for a month of 730 hours: the bytes awake at the price of memory of functions with \
    provisioned concurrency, of containers (EKS Fargate) and of larger VMs (AWS x86, us-east-1, the paper's prices of 2024), and \
    the bytes asleep at the price of S3 and of disks (us-east-1, 2024). Nobody is charged for processors here, nor for the \
    smallest sizes that functions and containers are sold in, nor for requests: all of that would make the others dearer, but for \
    waking from S3, which takes a few GETs.";

const AWAKE_BYTES: &str = "praas, memory awake";
const ASLEEP_BYTES: &str = "praas, stored asleep";
const FUNCTION: &str = "in memory, as a provisioned function (AWS price)";
const CONTAINER: &str = "in memory, as a container (AWS price)";
const MACHINE: &str = "in memory, of a larger VM (AWS price)";
const ON_S3: &str = "praas, asleep in S3 Standard";
const ON_DISK: &str = "praas, asleep on EBS gp3";

/// How money is counted.
const UNIT: &str = "USD a month";
/// Processes that are paid for.
const PROCESSES: f64 = 1000.0;
const HOURS_A_MONTH: f64 = 730.0;
/// What providers call a GB.
const GB_BYTES: f64 = (1_u64 << 30) as f64;
/// State of the process.
const SIZES_BYTES: [u64; 4] = [1 << 20, 16 << 20, 64 << 20, 256 << 20];
const SIZES_BYTES_QUICK: [u64; 2] = [1 << 20, 64 << 20];
const OBJECT_BYTES: u64 = 1 << 20;
/// The size of which words speak.
const SPOKEN_BYTES: u64 = 64 << 20;
/// Between the last call and a look at memory.
const SETTLING: Duration = Duration::from_millis(500);

/// Prices of memory: our series and the paper's.
const MEMORY_PRICES: [(&str, &str); 3] = [
    (FUNCTION, "AWS x86, Lambda provisioned concurrency: GB memory"),
    (CONTAINER, "AWS x86, EKS Fargate: GB memory"),
    (MACHINE, "AWS x86, VM: extra GB memory (x2iedn - c6i)"),
];
/// Prices of storage: our series and the file's.
const STORAGE_PRICES: [(&str, &str); 2] = [(ON_S3, "S3 Standard"), (ON_DISK, "EBS gp3")];

/// A line of the file of storage prices.
#[derive(Clone, Debug, Deserialize)]
struct StoragePrice {
    place: String,
    usd_per_gb_month: f64,
    source: String,
}

/// What a GB costs for a month, and who says so.
#[derive(Clone, Debug)]
struct Price {
    usd_per_gb_month: f64,
    source: String,
}

fn storage_price(place: &str) -> Option<Price> {
    static PRICES: LazyLock<Vec<StoragePrice>> = LazyLock::new(|| {
        let file = include_str!("../../data/prices/storage.csv");
        let lines = csv::Reader::from_reader(file.as_bytes()).into_deserialize();
        lines.map(|line| line.expect("the prices, built in, can be read: a test reads all")).collect()
    });
    let found = PRICES.iter().find(|price| price.place == place)?;
    Some(Price { usd_per_gb_month: found.usd_per_gb_month, source: found.source.clone() })
}

fn memory_price(series: &str) -> Option<Price> {
    let found = paper::figures().iter().find(|line| line.figure == "table_cost" && line.series == series)?;
    let source = format!("{} ({}), data/{}", series, paper::ARTIFACT, found.source);
    Some(Price { usd_per_gb_month: found.median? * HOURS_A_MONTH, source })
}

impl Price {
    /// What so many bytes of each process cost.
    fn of(&self, bytes: f64) -> f64 {
        bytes / GB_BYTES * self.usd_per_gb_month * PROCESSES
    }
}

fn measure(run: &mut Run) {
    let sizes: &[u64] = if run.settings().quick { &SIZES_BYTES_QUICK } else { &SIZES_BYTES };
    for size_bytes in sizes {
        run.next_group();
        let at = |key: Key| key.payload_bytes(*size_bytes);
        match bytes_of(*size_bytes) {
            Ok(bytes) => add(run, bytes, at),
            Err(error) => {
                for series in [AWAKE_BYTES, ASLEEP_BYTES] {
                    run.absent(&at(Key::ours(ID, series)), error.to_string());
                }
            }
        }
    }
}

/// What one process takes.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    awake: f64,
    asleep: f64,
}

fn bytes_of(size_bytes: u64) -> Result<Bytes, SubjectError> {
    let server = RunningServer::start_with_storage(&StoragePlace::Disk)?;
    let memory_bytes = || -> Result<u64, SubjectError> {
        thread::sleep(SETTLING);
        let footprint = Footprint::of(&descendants_of(server.process_id())?)?;
        Ok(footprint.pss_bytes + footprint.segment_bytes)
    };
    let before = memory_bytes()?;
    let state = SleeperState { objects: size_bytes / OBJECT_BYTES, value_bytes: OBJECT_BYTES };
    let sleeper = Sleeper::create(&server, state)?;
    let awake = memory_bytes()?.saturating_sub(before) as f64;
    sleeper.fall_asleep()?;
    Ok(Bytes { awake, asleep: sleeper.stored_bytes()? as f64 })
}

fn add(run: &mut Run, bytes: Bytes, at: impl Fn(Key) -> Key) {
    run.add_figures(&at(Key::ours(ID, AWAKE_BYTES)), "bytes", &[bytes.awake]);
    run.add_figures(&at(Key::ours(ID, ASLEEP_BYTES)), "bytes", &[bytes.asleep]);
    for (series, paid) in MEMORY_PRICES {
        let key = at(Key::baseline(ID, series, "aws", "2024"));
        match memory_price(paid) {
            Some(price) => run.add_figures(&key.note(price.source.clone()), UNIT, &[price.of(bytes.awake)]),
            None => run.absent(&key, format!("there is no price of {paid}")),
        }
    }
    for (series, paid) in STORAGE_PRICES {
        let key = at(Key::ours(ID, series));
        match storage_price(paid) {
            Some(price) => run.add_figures(&key.note(price.source.clone()), UNIT, &[price.of(bytes.asleep)]),
            None => run.absent(&key, format!("there is no price of {paid}")),
        }
    }
}

fn drawings(rows: &Rows) -> Vec<Drawing> {
    let axes = |y_label| Axes { x_label: "State", y_label, x_logarithmic: true, y_logarithmic: true };
    // The paper's rows are prices of a GB: none of them stands at a size.
    let money = [FUNCTION, MACHINE, CONTAINER, ON_DISK, ON_S3];
    [
        lines_by_payload(rows, ID, "A thousand idle processes for a month", &axes("Price"), &money),
        lines_by_payload(rows, ID, "What one of them takes", &axes("Bytes"), &[AWAKE_BYTES, ASLEEP_BYTES]),
    ]
    .concat()
}

fn meaning(rows: &Rows) -> Option<String> {
    asleep_in_words(rows).map(|words| format!("{words}."))
}

/// What this run's process costs asleep and awake; `None` without rows.
pub(crate) fn asleep_in_words(rows: &Rows) -> Option<String> {
    let at = |series| median(rows, ID, series, SPOKEN_BYTES);
    let (function, container, asleep) = (at(FUNCTION)?, at(CONTAINER)?, at(ON_S3)?);
    Some(format!(
        "A thousand idle processes of {} cost {} {UNIT} asleep in S3, {} in the memory of containers and {} in that of \
         provisioned functions",
        readable::bytes(SPOKEN_BYTES),
        readable::digits(asleep),
        readable::digits(container),
        readable::digits(function),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use praas_benches::bars::Settings;

    #[test]
    fn every_price_is_there_with_its_source() {
        for (_, paid) in MEMORY_PRICES {
            let price = memory_price(paid).unwrap_or_else(|| panic!("a price of {paid}"));
            assert!(price.usd_per_gb_month > 1.0 && price.usd_per_gb_month < 100.0, "{price:?}");
            assert!(price.source.contains("cost_analysis"), "{price:?}");
        }
        for (_, paid) in STORAGE_PRICES {
            let price = storage_price(paid).unwrap_or_else(|| panic!("a price of {paid}"));
            assert!(price.usd_per_gb_month > 0.0 && price.source.contains("us-east-1"), "{price:?}");
        }
    }

    #[test]
    fn rows_are_priced_drawn_and_said_in_words() {
        let mut run = Run::new("test".to_owned(), Settings { quick: true });
        run.next_group();
        add(&mut run, Bytes { awake: GB_BYTES, asleep: GB_BYTES }, |key| key.payload_bytes(SPOKEN_BYTES));
        let (rows, failures) = run.finish();
        assert!(failures.is_empty(), "{failures:?}");
        let s3 = median(&rows, ID, ON_S3, SPOKEN_BYTES).expect("a price");
        assert!((s3 - 23.0).abs() < 1e-9, "{s3}");
        let function = median(&rows, ID, FUNCTION, SPOKEN_BYTES).expect("a price");
        assert!((function - 0.015_000_12 * 730.0 * 1000.0).abs() < 1.0, "{function}");
        assert_eq!(drawings(&rows).len(), 2);
        assert!(meaning(&rows).is_some_and(|words| words.contains("asleep in S3")));
        assert_eq!(meaning(&Rows::default()), None);
    }
}
