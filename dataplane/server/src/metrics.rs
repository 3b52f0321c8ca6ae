//! Counters of what the server did, for export.

/// Counts since the server started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Client connections accepted.
    pub clients_accepted: u64,
    /// Clients cut off because they broke the protocol, were slow, or were refused.
    pub clients_cut: u64,
    /// Requests of clients that were refused or failed.
    pub requests_failed: u64,
    /// Lanes opened.
    pub lanes_opened: u64,
    /// Message lanes handed to the workers that asked for them.
    pub message_lanes_opened: u64,
    /// Message lanes removed, because their sender was gone and nothing was left in them.
    pub message_lanes_removed: u64,
    /// Connections given to workers.
    pub connections_given: u64,
    /// Workers started.
    pub workers_started: u64,
    /// Workers that ended without being told to.
    pub workers_lost: u64,
    /// Workers killed because a call outlasted `call_ms_max`.
    pub workers_overdue: u64,
    /// Claims of dead workers that were answered with `WorkerLost`.
    pub calls_recovered: u64,
    /// Unclaimed calls refused because their process drained.
    pub calls_refused: u64,
    /// Bytes of function output that are kept no more.
    pub output_bytes_dropped: u64,
    /// Keepers that were replaced.
    pub keepers_replaced: u64,
    /// Processes of an earlier server that were brought back.
    pub processes_recovered: u64,
    /// Processes that were swapped out.
    pub swaps_out: u64,
    /// Bytes that were written for that.
    pub swapped_out_bytes: u64,
    /// Swaps that failed: the process went on, or ended with the server.
    pub swaps_failed: u64,
    /// Checkpoints of processes that went on.
    pub checkpoints: u64,
    /// Bytes that were written for them.
    pub checkpoint_bytes: u64,
    /// Checkpoints that failed, to be tried again.
    pub checkpoints_failed: u64,
    /// Processes that were brought back from storage.
    pub swaps_in: u64,
    /// Bytes that were read for that.
    pub swapped_in_bytes: u64,
    /// Processes of which everything came back into memory.
    pub restores_whole: u64,
    /// Objects, pages and lists that workers asked for while their process came back.
    pub state_fetches: u64,
    /// Of these, those that could not be had.
    pub state_fetches_failed: u64,
    /// Processes that were to be brought back and could not.
    pub restores_failed: u64,
    /// Requests that waited for a process that was away.
    pub requests_waited: u64,
    /// Times that a process was woken because it had asked for it.
    pub alarms_rung: u64,
    /// What earlier servers left in storage and belonged to nobody.
    pub orphans_removed: u64,
    /// Bytes that failed and crashed swaps left in storage beside what their processes need, and that were removed.
    pub leftover_bytes_removed: u64,
    /// Changes of the states of processes.
    pub transitions: u64,
    /// Most ready sources that one turn of the loop left for the next.
    pub turn_backlog_max: u64,
    /// Longest turn of the loop, in microseconds.
    pub turn_us_max: u64,
}
