//! Counts in the OpenMetrics text format.

use std::fmt;

use praas_protocol::Name;
use praas_server::{Metrics, ProcessSnapshot, Snapshot};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

/// The text of a scrape.
pub(super) fn encode(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("praas");
    registry.register_collector(Box::new(Counts(snapshot)));
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Counts(Snapshot);

/// Name, help and value of a figure of the whole server.
type Figure = (&'static str, &'static str, fn(&Metrics) -> u64);

const SERVER_COUNTERS: &[Figure] = &[
    ("clients_accepted", "Client connections accepted", |metrics| metrics.clients_accepted),
    ("clients_cut", "Clients cut off: broken protocol, too slow, or refused", |metrics| metrics.clients_cut),
    ("requests_failed", "Requests of clients that were refused or failed", |metrics| metrics.requests_failed),
    ("lanes_opened", "Lanes opened", |metrics| metrics.lanes_opened),
    ("connections_given", "Network connections handed to workers", |metrics| metrics.connections_given),
    ("workers_started", "Workers started", |metrics| metrics.workers_started),
    ("workers_lost", "Workers that ended without being told to", |metrics| metrics.workers_lost),
    ("workers_overdue", "Workers killed because a call outlasted call_ms_max", |metrics| metrics.workers_overdue),
    ("calls_recovered", "Calls of dead workers that were answered WorkerLost", |metrics| metrics.calls_recovered),
    ("calls_refused", "Unclaimed calls refused because their process drained", |metrics| metrics.calls_refused),
    ("output_dropped_bytes", "Bytes of function output that are kept no more", |metrics| metrics.output_bytes_dropped),
    ("keepers_replaced", "Keepers that were replaced", |metrics| metrics.keepers_replaced),
];

const SERVER_GAUGES: &[Figure] = &[
    ("turn_backlog_max", "Most ready sources that one turn of the loop left over", |metrics| metrics.turn_backlog_max),
    ("turn_max_microseconds", "Longest turn of the loop", |metrics| metrics.turn_us_max),
];

/// Name, help and value of a figure of one process.
type ProcessFigure = (&'static str, &'static str, fn(&ProcessSnapshot) -> u64);

const PROCESS_GAUGES: &[ProcessFigure] = &[
    ("process_workers", "Workers that are ready", |process| u64::from(process.workers)),
    ("process_lanes", "Open lanes", |process| process.stats.lanes),
    ("process_queued_calls", "Requests that lie unclaimed", |process| process.stats.queued),
    ("process_running_calls", "Calls that workers run", |process| process.stats.running),
];

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.server(&mut encoder)?;
        self.processes(&mut encoder)?;
        self.functions(&mut encoder)
    }
}

impl Counts {
    fn server(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in SERVER_COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&value(&self.0.server), None)?;
        }
        for (name, help, value) in SERVER_GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            metric.encode_gauge(&value(&self.0.server))?;
        }
        Ok(())
    }

    fn processes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in PROCESS_GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for process in &self.0.processes {
                metric.encode_family(&[("process", process.process.to_string())])?.encode_gauge(&value(process))?;
            }
        }
        let help = "Workers that were replaced after they died";
        let mut metric = encoder.encode_descriptor("process_worker_restarts", help, None, MetricType::Counter)?;
        for process in &self.0.processes {
            let labels = [("process", process.process.to_string())];
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&process.stats.worker_restarts, None)?;
        }
        Ok(())
    }

    fn functions(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = [
            ("function_calls", "Calls answered, as workers say"),
            ("function_failures", "Calls that ended as an error or a panic, as workers say"),
        ];
        for (index, (name, help)) in counters.into_iter().enumerate() {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for process in &self.0.processes {
                for function in &process.stats.functions {
                    let value = if index == 0 { function.calls } else { function.failed };
                    let labels = labels(process, function.function);
                    let mut metric = metric.encode_family(&labels)?;
                    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                }
            }
        }
        self.latencies(encoder)
    }

    /// One call in 64 is timed, so the count of a histogram is that of the timed calls.
    fn latencies(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "From the start of a function to its answer, of one call in 64, as workers say";
        let mut metric =
            encoder.encode_descriptor("function_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for process in &self.0.processes {
            for (function, latency) in &process.latencies {
                let mut buckets: Vec<(f64, u64)> =
                    latency.octaves().map(|(end_ns, calls)| (seconds(end_ns), calls)).collect();
                buckets.push((f64::MAX, 0));
                let counted = buckets.iter().fold(0_u64, |sum, (_, calls)| sum.saturating_add(*calls));
                metric.encode_family(&labels(process, *function))?.encode_histogram::<NoLabelSet>(
                    seconds(latency.total_ns),
                    counted,
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }
}

fn labels(process: &ProcessSnapshot, function: Name) -> [(&'static str, String); 2] {
    [("process", process.process.to_string()), ("function", function.to_string())]
}

#[allow(clippy::cast_precision_loss, reason = "a duration to within the precision of a double")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
