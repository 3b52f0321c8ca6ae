//! Hosting without threads and without OS processes: what is asked for lies in a channel until a test does it.

use std::sync::mpsc::Sender;

use super::{Job, SpawnJob};

/// What was asked for.
pub(crate) enum Task {
    /// Start a worker.
    Spawn(SpawnJob),
    /// Anything else.
    Job(Job),
}

/// Where tasks go.
pub(crate) struct Tasks(pub(crate) Sender<Task>);

impl Tasks {
    pub(super) fn spawn(&self, job: SpawnJob) -> Result<(), String> {
        self.0.send(Task::Spawn(job)).map_err(|_| "the test has ended".to_owned())
    }

    pub(super) fn submit(&self, job: Job) -> Result<(), Job> {
        self.0.send(Task::Job(job)).map_err(|error| match error.0 {
            Task::Job(job) => job,
            Task::Spawn(_) => unreachable!("a job was sent"),
        })
    }
}
