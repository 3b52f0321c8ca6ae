//! Counts in the OpenMetrics text format.

use std::fmt;
use std::time::Duration;

use praas_protocol::Name;
use praas_server::{Metrics, NetworkMetrics, PeerFacts, ProcessSnapshot, Snapshot};
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
    ("message_lanes_opened", "Message lanes handed to their senders", |metrics| metrics.message_lanes_opened),
    ("message_lanes_removed", "Message lanes removed after their senders ended", |metrics| {
        metrics.message_lanes_removed
    }),
    ("connections_given", "Network connections handed to workers", |metrics| metrics.connections_given),
    ("workers_started", "Workers started", |metrics| metrics.workers_started),
    ("workers_lost", "Workers that ended without being told to", |metrics| metrics.workers_lost),
    ("workers_overdue", "Workers killed because a call outlasted call_ms_max", |metrics| metrics.workers_overdue),
    ("calls_recovered", "Calls of dead workers that were answered WorkerLost", |metrics| metrics.calls_recovered),
    ("calls_refused", "Unclaimed calls refused because their process drained", |metrics| metrics.calls_refused),
    ("output_dropped_bytes", "Bytes of function output that are kept no more", |metrics| metrics.output_bytes_dropped),
    ("keepers_replaced", "Keepers that were replaced", |metrics| metrics.keepers_replaced),
    ("processes_recovered", "Processes of a killed server that were brought back", |metrics| {
        metrics.processes_recovered
    }),
    ("alarms_rung", "Times that a process was woken because it had asked for it", |metrics| metrics.alarms_rung),
    ("transitions", "Changes of the states of processes", |metrics| metrics.transitions),
    ("swaps_out", "Processes that were swapped out", |metrics| metrics.swaps_out),
    ("swaps_out_bytes", "Bytes that were written to swap processes out", |metrics| metrics.swapped_out_bytes),
    ("swaps_failed", "Swaps that failed: the process went on, or ended with the server", |metrics| {
        metrics.swaps_failed
    }),
    ("checkpoints", "Checkpoints of processes that went on", |metrics| metrics.checkpoints),
    ("checkpoints_bytes", "Bytes that were written for checkpoints", |metrics| metrics.checkpoint_bytes),
    ("checkpoints_failed", "Checkpoints that failed, to be tried again", |metrics| metrics.checkpoints_failed),
    ("swaps_in", "Processes that were brought back from storage", |metrics| metrics.swaps_in),
    ("swaps_in_bytes", "Bytes that were read to bring processes back", |metrics| metrics.swapped_in_bytes),
    ("restores_whole", "Processes of which everything came back into memory", |metrics| metrics.restores_whole),
    ("state_fetches", "Objects, pages and lists that workers asked for while their process came back", |metrics| {
        metrics.state_fetches
    }),
    ("state_fetches_failed", "Of these, those that could not be had", |metrics| metrics.state_fetches_failed),
    ("restores_failed", "Processes that could not be brought back", |metrics| metrics.restores_failed),
    ("requests_waited", "Requests that waited for a process that slept or was on its way", |metrics| {
        metrics.requests_waited
    }),
    ("orphans_removed", "What earlier servers left in storage and belonged to nobody", |metrics| {
        metrics.orphans_removed
    }),
    ("leftover_bytes_removed", "Bytes that failed and crashed swaps left in storage, removed", |metrics| {
        metrics.leftover_bytes_removed
    }),
];

/// The same of its network side.
type NetworkFigure = (&'static str, &'static str, fn(&NetworkMetrics) -> u64);

const NETWORK_COUNTERS: &[NetworkFigure] = &[
    ("network_connections_accepted", "Network connections accepted", |metrics| metrics.connections_accepted),
    ("network_connections_refused", "Network connections whose hello was refused", |metrics| {
        metrics.connections_refused
    }),
    ("network_connections_cut", "Network connections ended for what their client did or did not do", |metrics| {
        metrics.connections_cut
    }),
    ("network_slow_readers_closed", "Network connections closed because their client did not read", |metrics| {
        metrics.slow_readers_closed
    }),
    ("network_received_bytes", "Bytes received from network connections", |metrics| metrics.bytes_received),
    ("network_sent_bytes", "Bytes sent on network connections", |metrics| metrics.bytes_sent),
    ("network_lanes_opened", "Lanes opened for network connections", |metrics| metrics.lanes_opened),
    ("network_calls_answered", "Calls of network connections that workers answered", |metrics| metrics.calls_answered),
    ("network_calls_refused", "Calls of network connections that no worker saw", |metrics| metrics.calls_refused),
    ("gateway_calls", "Calls and messages to processes of other servers and to sessions of clients", |metrics| {
        metrics.gateway_calls
    }),
];

const NETWORK_GAUGES: &[NetworkFigure] = &[
    ("network_connections", "Network connections open", |metrics| metrics.connections_open),
    ("network_lanes", "Lanes open for network connections", |metrics| metrics.lanes_open),
    ("network_calls_in_flight", "Calls of network connections in lanes or in workers", |metrics| {
        metrics.calls_in_flight
    }),
    ("network_calls_waiting", "Calls of network connections that wait for room in a lane", |metrics| {
        metrics.calls_waiting
    }),
    ("network_calls_quarantined", "Abandoned calls of network connections that still run", |metrics| {
        metrics.calls_quarantined
    }),
    ("gateways", "Lanes open to processes of other servers and to sessions of clients", |metrics| {
        metrics.gateways_open
    }),
    ("sessions", "Sessions of clients that are kept", |metrics| metrics.sessions),
];

/// Name, help and value of a figure of another server that this one calls.
type PeerFigure = (&'static str, &'static str, fn(&PeerFacts) -> u64);

const PEER_GAUGES: &[PeerFigure] = &[
    ("peer_linked", "Whether there is a link to the other server", |peer| u64::from(peer.is_linked)),
    ("peer_known", "Processes and sessions that the other server has told of", |peer| peer.known as u64),
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
        if let Some(network) = &self.0.network {
            network_figures(&mut encoder, network)?;
        }
        self.peers(&mut encoder)?;
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
        let help = "Most ready sources that one turn of the loop left over";
        let mut backlog = encoder.encode_descriptor("turn_backlog_max", help, None, MetricType::Gauge)?;
        backlog.encode_gauge(&self.0.server.turn_backlog_max)?;
        let help = "Longest turn of the loop";
        let mut longest = encoder.encode_descriptor("turn_max", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        longest.encode_gauge(&Duration::from_micros(self.0.server.turn_us_max).as_secs_f64())
    }

    fn peers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in PEER_GAUGES.iter().filter(|_| !self.0.peers.is_empty()) {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for peer in &self.0.peers {
                metric.encode_family(&[("address", peer.address.as_str())])?.encode_gauge(&value(peer))?;
            }
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

fn network_figures(encoder: &mut DescriptorEncoder<'_>, network: &NetworkMetrics) -> fmt::Result {
    for (name, help, value) in NETWORK_COUNTERS {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value(network), None)?;
    }
    for (name, help, value) in NETWORK_GAUGES {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_gauge(&value(network))?;
    }
    Ok(())
}

fn labels(process: &ProcessSnapshot, function: Name) -> [(&'static str, String); 2] {
    [("process", process.process.to_string()), ("function", function.to_string())]
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}
