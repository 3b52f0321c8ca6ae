//! Jobs of storage that a test carries out, when it likes, instead of threads.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use praas_protocol::ProcessId;
use praas_storage::Backend;

use super::transfer::{Job, TransferResult};
use crate::simulation::Asked;

/// Where the loop's jobs arrive, and the storage that they are for, until it is taken away.
#[derive(Debug)]
pub(crate) struct HeldJobs {
    pub(super) queue: Receiver<Job>,
    pub(super) backend: Arc<dyn Backend>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct HeldJob(Job);

impl HeldJobs {
    /// Those that were begun since the last look, in their order.
    pub(crate) fn begun(&self) -> impl Iterator<Item = HeldJob> {
        self.queue.try_iter().map(HeldJob)
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }
}

impl HeldJob {
    pub(crate) fn asked(&self) -> Asked {
        match &self.0 {
            Job::Write { .. } => Asked::Write,
            Job::Checkpoint { .. } => Asked::Checkpoint,
            Job::Read { process, .. } => Asked::Read { process: *process },
            Job::Remove { folder, .. } | Job::Collect { folder, .. } => Asked::Remove { process: folder.process },
            Job::Fetch { filling, .. } => Asked::Fetch { process: filling.folder().process },
            Job::Fill { .. } => Asked::Fill,
            _ => Asked::Other,
        }
    }

    /// The process that it writes, if it writes one.
    pub(crate) fn writes(&self) -> Option<ProcessId> {
        match &self.0 {
            Job::Write { job, .. } | Job::Checkpoint { job, .. } => Some(job.folder.process),
            _ => None,
        }
    }

    pub(crate) fn carry_out(self, backend: &Arc<dyn Backend>) -> TransferResult {
        self.0.carry_out(backend)
    }
}
