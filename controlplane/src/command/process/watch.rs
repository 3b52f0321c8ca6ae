//! `praas process watch`: what happens in the lives of processes, as it happens.

use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use praas_client::{ProcessId, Transition, TransitionFollower};
use serde_json::{Value, json};

use crate::command::Context;
use crate::failure::Failure;
use crate::latency::readable_ns;
use crate::limits::FOLLOW_WAIT;
use crate::output::Output;
use crate::size::readable_bytes;

/// What its help begins with.
pub(crate) const LONG_ABOUT: &str = "\
Prints each change of the state of a process, or of all that the token covers: when, from which state to which, how long it was in \
the former, how many bytes were moved to storage or from it, and why. It ends with Ctrl-C, or with the one process that it watches.";

/// Arguments of `praas process watch`.
#[derive(Debug, Args)]
pub struct WatchArguments {
    /// The process, such as hello/alice; all unless given
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: Option<ProcessId>,
    /// Begin with what has happened already, as far as the server remembers
    #[arg(long)]
    pub past: bool,
    /// End after so many changes
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// Prints transitions.
///
/// # Errors
/// [`Failure`], mostly the server's refusal.
pub fn watch(context: &Context, arguments: &WatchArguments) -> Result<(), Failure> {
    let client = context.client()?;
    let follower = match arguments.past {
        true => client.watch_after(arguments.process, 0),
        false => client.watch(arguments.process)?,
    };
    follow(context.output(), follower, arguments)
}

fn follow(output: Output, mut follower: TransitionFollower, arguments: &WatchArguments) -> Result<(), Failure> {
    let mut left = arguments.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(news) = follower.next(FOLLOW_WAIT)? else { continue };
        if news.lost > 0 {
            output.value(&json!({ "lost": news.lost }))?;
            output.line(format_args!("({} earlier changes are no longer known to the server)", news.lost))?;
        }
        for transition in news.transitions {
            output.value(&as_json(&transition))?;
            output.line(as_text(&transition))?;
            left -= 1;
            if left == 0 || transition.to.is_none() && arguments.process.is_some() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn as_json(transition: &Transition) -> Value {
    json!({
        "number": transition.number,
        "process": transition.process.to_string(),
        "from": transition.from,
        "to": transition.to,
        "at_unix_ms": transition.at_unix_ms,
        "took_us": transition.took_us,
        "bytes": transition.bytes,
        "reason": transition.reason,
    })
}

fn as_text(transition: &Transition) -> String {
    let state = |state: Option<praas_client::ProcessState>, none: &str| {
        state.map_or_else(|| none.to_owned(), |state| state.to_string())
    };
    let at = UNIX_EPOCH + Duration::from_millis(transition.at_unix_ms);
    let mut text = format!(
        "{}  {}  {} → {}",
        humantime::format_rfc3339_millis(at),
        transition.process,
        state(transition.from, "new"),
        state(transition.to, "ended"),
    );
    if transition.from.is_some() {
        text += &format!("  after {}", readable_ns(Duration::from_micros(transition.took_us).as_secs_f64() * 1e9));
    }
    if transition.bytes > 0 {
        text += &format!("  {}", readable_bytes(transition.bytes));
    }
    if !transition.reason.is_empty() {
        text += &format!("  ({})", transition.reason.lines().next().unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use praas_client::ProcessState;

    use super::*;

    #[test]
    fn a_transition_is_one_line_with_all_that_is_known_of_it() {
        let swapped = Transition {
            number: 7,
            process: "notes/alice".parse().unwrap(),
            from: Some(ProcessState::Swapping),
            to: Some(ProcessState::Swapped),
            at_unix_ms: 1_763_800_000_000,
            took_us: 41_000,
            bytes: 3 << 20,
            reason: "idle".to_owned(),
        };
        let text = as_text(&swapped);
        assert!(text.ends_with("notes/alice  swapping → swapped  after 41.0 ms  3.0 MiB  (idle)"), "{text}");
        assert!(text.starts_with("2025-11-22T"), "{text}");
        let created = Transition { from: None, took_us: 0, bytes: 0, reason: String::new(), ..swapped };
        assert!(as_text(&created).ends_with("new → swapped"), "{}", as_text(&created));
        assert_eq!(as_json(&created)["from"], Value::Null);
        assert_eq!(as_json(&created)["to"], json!("swapped"));
    }
}
