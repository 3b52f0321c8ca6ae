//! `praas process swap` and `praas process restore`: to sleep, and back.

use std::time::{Duration, Instant};

use clap::Args;
use praas_client::{Client, ConnectOptions, ProcessId, ProcessState, RequestError, Transition};
use serde_json::json;

use crate::command::Context;
use crate::duration;
use crate::failure::Failure;
use crate::latency::readable_ns;
use crate::limits::TRANSITION_LOOK_MAX;
use crate::size::readable_bytes;

/// Arguments of `praas process swap` and `praas process restore`.
#[derive(Debug, Args)]
pub struct SwapArguments {
    /// The process, such as hello/alice
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: ProcessId,
    /// Time to wait for it; what was begun goes on
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "10m")]
    pub within: Duration,
}

/// What became of a process that was told to sleep or to wake.
struct Moved {
    took: Duration,
    /// The transition into the state that was asked for, if the server still knew of it.
    transition: Option<Transition>,
    /// Whether the process was in that state before; `None` where the server has forgotten what happened.
    changed: Option<bool>,
}

/// Stores what a process knows and gives its memory up.
///
/// # Errors
/// [`Failure`], mostly the server's refusal.
pub fn swap(context: &Context, arguments: &SwapArguments) -> Result<(), Failure> {
    let process = arguments.process;
    let moved = send(context, arguments, |state| state == ProcessState::Swapped, Client::swap)?;
    let output = context.output();
    output.value(&moved.as_json(process, ProcessState::Swapped))?;
    output.line(match (&moved.transition, moved.changed) {
        (Some(transition), _) => format!(
            "{process} sleeps: {} stored in {}; whatever needs it wakes it",
            readable_bytes(transition.bytes),
            moved.readable_took()
        ),
        (None, Some(_)) => format!("{process} sleeps already"),
        (None, None) => format!("{process} sleeps after {}; whatever needs it wakes it", moved.readable_took()),
    })
}

/// Wakes a process.
///
/// # Errors
/// [`Failure`], mostly the server's refusal.
pub fn restore(context: &Context, arguments: &SwapArguments) -> Result<(), Failure> {
    let process = arguments.process;
    let is_awake = |state| matches!(state, ProcessState::Active | ProcessState::Idle);
    let moved = send(context, arguments, is_awake, Client::restore)?;
    let output = context.output();
    output.value(&moved.as_json(process, ProcessState::Active))?;
    output.line(match moved.changed {
        Some(false) => format!("{process} is awake already"),
        Some(true) | None => format!("{process} takes calls again after {}", moved.readable_took()),
    })
}

impl Moved {
    fn as_json(&self, process: ProcessId, state: ProcessState) -> serde_json::Value {
        json!({
            "process": process.to_string(),
            "state": state,
            "changed": self.changed,
            "took_ms": self.took.as_secs_f64() * 1e3,
            "bytes": self.transition.as_ref().map_or(0, |transition| transition.bytes),
        })
    }

    fn readable_took(&self) -> String {
        readable_ns(self.took.as_secs_f64() * 1e9)
    }
}

/// Has a process sleep or wake, and finds out what happened meanwhile.
fn send(
    context: &Context,
    arguments: &SwapArguments,
    is_there: impl Fn(ProcessState) -> bool,
    order: impl FnOnce(&Client, ProcessId) -> Result<(), RequestError>,
) -> Result<Moved, Failure> {
    let client = context.client_with(ConnectOptions::new().lifecycle_deadline(arguments.within))?;
    let mut follower = client.watch(Some(arguments.process))?;
    let start = Instant::now();
    order(&client, arguments.process)?;
    let took = start.elapsed();
    // What has happened is known to the server before it answers the order.
    let news = follower.next(TRANSITION_LOOK_MAX)?.unwrap_or_default();
    let transition = news.transitions.into_iter().rfind(|transition| transition.to.is_some_and(&is_there));
    // Of many processes that move at once the server keeps only the last transitions.
    let changed = if transition.is_none() && news.lost > 0 { None } else { Some(transition.is_some()) };
    Ok(Moved { took, transition, changed })
}
