//! The list of all floors with their placements, as `floors` prints it.

use std::path::Path;

use crate::bars::Settings;
use crate::floors::{
    BareRing, Blocks, Config, Copy, CopyFromPeer, Crowd, EchoServer, FloorError, MessageQueue, PingPong, Placement,
    SharedMemoryCrate, Spawn, TRIVIAL_PROGRAM, TcpBlock, TcpBlocks, TcpCrowd, TcpEcho, Touched, UnixSocket, Waiting,
    allowed_cpus,
};
use crate::interleave::{Outcome, RoundError, Series, Turn, interleave};
use crate::progress::Progress;
use crate::report::{new_table, number, readable, readable_ns};

/// Rounds of each floor; the median over them is printed.
const ROUNDS: u32 = 5;

type Opener = Box<dyn Fn() -> Result<Box<dyn Series>, FloorError>>;

/// A floor that can be measured here.
struct Entry {
    name: String,
    samples: u64,
    open: Opener,
}

impl Entry {
    fn new<S, F>(name: &str, samples: u64, config: &Config, open: F) -> Self
    where
        S: Series + 'static,
        F: Fn(&Config) -> Result<S, FloorError> + 'static,
    {
        let config = config.clone();
        Self { name: config.label(name), samples, open: Box::new(move || Ok(Box::new(open(&config)?))) }
    }

    fn measure(&self, settings: Settings) -> Result<Outcome, FloorFailure> {
        let mut series = (self.open)()?;
        let mut turns = [Turn::new(series.as_mut(), settings.batch(self.samples))];
        let mut outcomes = interleave(ROUNDS, &mut turns, |_| {})?;
        Ok(outcomes.remove(0))
    }
}

#[derive(Debug, thiserror::Error)]
enum FloorFailure {
    #[error(transparent)]
    Open(#[from] FloorError),
    #[error(transparent)]
    Round(#[from] RoundError),
}

/// Measures every floor that this machine has the cores for and returns the table; a floor that fails is shown with its
/// reason.
///
/// # Errors
/// [`FloorError::System`] if the kernel does not tell which cores are there.
pub fn floors_table(settings: Settings) -> Result<String, FloorError> {
    let entries = entries()?;
    let progress = Progress::new("floors", entries.len() as u64);
    let mut table = new_table(&["floor", "p50", "p99", "p99.9", "a second", "lowest and highest p50 of a round"]);
    for entry in &entries {
        progress.label(&entry.name);
        match entry.measure(settings) {
            Ok(outcome) => {
                let p50s = outcome.rounds.iter().map(|round| round.p50_ns);
                let lowest = p50s.clone().fold(f64::INFINITY, f64::min);
                let highest = p50s.fold(0.0, f64::max);
                table.add_row([
                    comfy_table::Cell::new(&entry.name),
                    number(readable_ns(outcome.samples.p50_ns())),
                    number(readable_ns(outcome.median_of_rounds(|round| round.p99_ns))),
                    number(readable_ns(outcome.samples.p999_ns())),
                    number(readable(outcome.median_of_rounds(|round| round.per_second))),
                    number(format!("{} – {}", readable_ns(lowest), readable_ns(highest))),
                ]);
            }
            Err(failure) => {
                table.add_row([comfy_table::Cell::new(&entry.name), comfy_table::Cell::new(failure.to_string())]);
            }
        }
        progress.advance();
    }
    Ok(table.to_string())
}

fn entries() -> Result<Vec<Entry>, FloorError> {
    let one = Config::new(Placement::one_core()?);
    let free = Config::new(Placement::Free);
    let loaded = free.clone().beside_spinner(allowed_cpus()?.first().copied().unwrap_or(0));
    let mut entries = match Placement::two_cores() {
        Ok(placement) => two_core_entries(&Config::new(placement)),
        Err(FloorError::TooFewCores { .. }) => Vec::new(),
        Err(other) => return Err(other),
    };
    let park = |config: &Config| PingPong::open(Waiting::Park, config);
    entries.extend([
        Entry::new("futex ping-pong", 20_000, &one, park),
        Entry::new("futex ping-pong", 10_000, &free, park),
        Entry::new("futex ping-pong", 2_000, &loaded, park),
        Entry::new("POSIX message queue", 20_000, &one, MessageQueue::open),
        Entry::new("Unix stream socket", 20_000, &one, UnixSocket::open),
        Entry::new(TCP_BLOCKING, 10_000, &one, |config| TcpEcho::open(Waiting::Park, config)),
        Entry::new(TCP_BLOCKING, 10_000, &free, |config| TcpEcho::open(Waiting::Park, config)),
        Entry::new(TCP_BLOCK, 500, &free, |config| TcpBlock::open(1 << 20, config)),
        Entry::new("memcpy 1 MiB", 1_000, &one, |config| Copy::open(config, Blocks::ONE_MIB)),
        Entry::new("memcpy 1 MiB, 4 sources, 4 destinations", 1_000, &one, |config| Copy::open(config, ROTATING)),
        Entry::new("vfork + exec + exit of /bin/true", 100, &free, |config| {
            Spawn::open(config, Path::new(TRIVIAL_PROGRAM))
        }),
    ]);
    Ok(entries)
}

/// Four blocks of 1 MiB each way: twice what the second-level caches of two cores hold.
const ROTATING: Blocks = Blocks { block_bytes: 1 << 20, sources: 4, destinations: 4 };

const TCP_BLOCKING: &str = "TCP echo, blocking";
const TCP_BLOCK: &str = "TCP echo of 1 MiB, filled and checked";

fn two_core_entries(two: &Config) -> Vec<Entry> {
    vec![
        Entry::new("shared memory, both spin", 50_000, two, |config| PingPong::open(Waiting::Spin, config)),
        Entry::new("shared_memory crate, both spin", 50_000, two, SharedMemoryCrate::open),
        Entry::new("bare ring, 32 in flight", 500, two, BareRing::open),
        Entry::new("futex ping-pong", 10_000, two, |config| PingPong::open(Waiting::Park, config)),
        Entry::new("POSIX message queue", 10_000, two, MessageQueue::open),
        Entry::new("Unix stream socket", 10_000, two, UnixSocket::open),
        Entry::new(TCP_BLOCKING, 10_000, two, |config| TcpEcho::open(Waiting::Park, config)),
        Entry::new("TCP echo, both spin", 20_000, two, |config| TcpEcho::open(Waiting::Spin, config)),
        Entry::new(TCP_BLOCK, 500, two, |config| TcpBlock::open(1 << 20, config)),
        Entry::new("TCP stream of blocks of 1 MiB", 500, two, |config| TcpBlocks::open(1 << 20, config)),
        Entry::new("TCP echo, epoll, 64 connections × 16", 100, two, |config| {
            TcpCrowd::open(EchoServer::Epoll, Crowd::THROUGHPUT, config)
        }),
        Entry::new("1 MiB filled, summed, answered", 500, two, |config| Touched::open(config, Blocks::ONE_MIB)),
        Entry::new("1 MiB filled, summed, answered, 4 blocks", 500, two, |config| Touched::open(config, ROTATING)),
        Entry::new("memcpy 1 MiB just filled by the other core", 500, two, |config| {
            CopyFromPeer::open(config, Blocks::ONE_MIB)
        }),
    ]
}
