//! The plots by id. Each is a file of its own, which says what is measured, how it is drawn and what it means to a user.

mod allocation;
pub(crate) mod cost;
mod density;
mod invocations;
mod ipc;
mod ipc_micro;
mod peers;
mod small_lanes;
mod state;
mod storage;
pub(crate) mod swap;
mod throughput;

use crate::harness::Run;
use crate::report::drawing::Drawing;
use crate::row::Rows;

/// A plot of the page.
#[derive(Clone, Copy, Debug)]
pub struct Plot {
    /// What the command line calls it.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What is measured and how, for the page: parties, payloads, what the clock covers, how each system waits.
    pub method: &'static str,
    /// Measures it. What cannot be measured becomes a row with its reason.
    pub measure: fn(&mut Run),
    /// Its pictures, from measured rows and the paper's.
    pub drawings: fn(&Rows) -> Vec<Drawing>,
    /// One sentence with this run's figures: what it means to a user. `None` without the rows that it needs.
    pub meaning: fn(&Rows) -> Option<String>,
}

/// Every plot, in the order of the page.
pub const ALL: &[Plot] = &[
    invocations::PLOT,
    ipc_micro::PLOT,
    ipc::PLOT,
    state::PLOT,
    allocation::PLOT,
    storage::PLOT,
    throughput::PLOT,
    density::PLOT,
    swap::PLOT,
    cost::PLOT,
    peers::PLOT,
];
