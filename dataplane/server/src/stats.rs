//! What is counted of processes, put together for whoever asks, without stopping anybody.
//!
//! Workers count in their own pages ([`praas_shm::function_stats`]); the server reads them when it is asked, and adds up
//! what workers that have ended left. All of it is the word of tenant code: it is shown, and nothing depends on it.

use std::collections::BTreeMap;

use praas_protocol::control::{FunctionStats, ProcessState, ProcessStats};
use praas_protocol::{FunctionId, Name, ProcessId};
use praas_shm::function_stats::{FunctionSeen, Latency};

use crate::elsewhere::PeerFacts;
use crate::metrics::Metrics;
use crate::network::{NetworkFacts, NetworkMetrics, NetworkThreads};
use crate::processes::{Process, ProcessKey};
use crate::shard::Shard;

/// Everything that is counted, at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What the server did.
    pub server: Metrics,
    /// What its network side did, if it listens.
    pub network: Option<NetworkMetrics>,
    /// How things stand with the other servers that it calls, in the order of the options.
    pub peers: Vec<PeerFacts>,
    /// Its processes, in order of their ids.
    pub processes: Vec<ProcessSnapshot>,
}

/// What is counted of one process.
#[derive(Debug, Clone)]
pub struct ProcessSnapshot {
    /// Its id.
    pub process: ProcessId,
    /// Where it stands in its life.
    pub state: ProcessState,
    /// Workers that are ready.
    pub workers: u32,
    /// Counts and quantiles.
    pub stats: ProcessStats,
    /// How long the timed calls of each function took.
    pub latencies: Vec<(Name, Latency)>,
}

/// Counts of the functions of one process.
#[derive(Debug, Default)]
pub(crate) struct FunctionCounts {
    /// The functions that its workers registered.
    names: BTreeMap<FunctionId, Name>,
    /// What workers that have ended counted.
    of_ended: BTreeMap<FunctionId, Counted>,
}

#[derive(Debug, Clone, Default)]
struct Counted {
    calls: u64,
    failed: u64,
    latency: Latency,
}

impl Counted {
    fn add(&mut self, seen: &FunctionSeen) {
        self.calls = self.calls.saturating_add(seen.calls);
        self.failed = self.failed.saturating_add(seen.failed);
        self.latency.merge(&seen.latency);
    }

    fn shown(&self, function: Name) -> FunctionStats {
        let quantile = |quantile| self.latency.quantile_ns(quantile).unwrap_or(0);
        FunctionStats {
            function,
            calls: self.calls,
            failed: self.failed,
            timed: self.latency.sampled,
            mean_ns: self.latency.total_ns.checked_div(self.latency.sampled).unwrap_or(0),
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            max_ns: self.latency.longest_ns,
        }
    }
}

impl FunctionCounts {
    /// A worker said which functions it has.
    pub(crate) fn learn_names(&mut self, functions: &[Name]) {
        for name in functions {
            self.names.entry(FunctionId::of(name.as_str())).or_insert(*name);
        }
    }

    /// A worker has ended: what it counted is kept.
    pub(crate) fn keep(&mut self, seen: &[FunctionSeen]) {
        add_all(&self.names, &mut self.of_ended, seen);
    }
}

/// Adds what a worker says of functions that were registered; it can make up others, which nobody could name.
fn add_all(names: &BTreeMap<FunctionId, Name>, sums: &mut BTreeMap<FunctionId, Counted>, seen: &[FunctionSeen]) {
    for one in seen.iter().filter(|one| names.contains_key(&one.function)) {
        sums.entry(one.function).or_default().add(one);
    }
}

impl Shard {
    /// What is counted of a process, as of now.
    pub(crate) fn stats_of(&self, key: ProcessKey) -> Option<ProcessStats> {
        let process = self.processes.get(key)?;
        Some(self.stats_with(key, process, &self.counted(key, process)))
    }

    /// Everything that is counted, as of now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let of_process = |(&process, &key): (&ProcessId, &ProcessKey)| {
            let entry = self.processes.get(key)?;
            let counted = self.counted(key, entry);
            let stats = self.stats_with(key, entry, &counted);
            let latencies = counted.into_iter().map(|(name, counted)| (name, counted.latency)).collect();
            let workers = self.ready_workers(key);
            Some(ProcessSnapshot { process, state: entry.state(), workers, stats, latencies })
        };
        let network = self.network.as_ref().map(NetworkThreads::facts).filter(|network| network.is_used());
        let peers = network.as_ref().map(NetworkFacts::peers).unwrap_or_default();
        let network = network.as_ref().map(NetworkFacts::metrics);
        let sleeping = self.processes.swapped.iter().map(|(&process, swapped)| ProcessSnapshot {
            process,
            state: swapped.state(),
            workers: 0,
            stats: ProcessStats::default(),
            latencies: Vec::new(),
        });
        let mut processes: Vec<_> = self.processes.by_id.iter().filter_map(of_process).chain(sleeping).collect();
        processes.sort_unstable_by_key(|snapshot| snapshot.process);
        Snapshot { server: self.metrics, network, peers, processes }
    }

    /// The sums of all workers of a process, dead and alive, by name.
    fn counted(&self, key: ProcessKey, process: &Process) -> BTreeMap<Name, Counted> {
        let mut sums = process.counts.of_ended.clone();
        for (_, worker) in self.workers_of(key) {
            add_all(&process.counts.names, &mut sums, &worker.page.functions());
        }
        sums.into_iter().filter_map(|(id, counted)| Some((*process.counts.names.get(&id)?, counted))).collect()
    }

    fn stats_with(&self, key: ProcessKey, process: &Process, counted: &BTreeMap<Name, Counted>) -> ProcessStats {
        ProcessStats {
            functions: counted.iter().map(|(name, counted)| counted.shown(*name)).collect(),
            queued: queued(process),
            running: self
                .workers_of(key)
                .map(|(_, worker)| worker.page.claims().filter(|claim| !claim.is_held()).count() as u64)
                .sum(),
            lanes: process.lanes.values().filter(|lane| lane.is_served()).count() as u64,
            worker_restarts: process.restarts,
        }
    }
}

/// Requests that lie unclaimed in the lanes of a process.
pub(crate) fn queued(process: &Process) -> u64 {
    process.lanes.values().filter_map(|lane| lane.memory.as_ref()).map(|memory| u64::from(memory.unclaimed())).sum()
}
