//! `praas process logs`: what the functions of a process have printed, as bytes.

use clap::Args;
use praas_client::{OutputChunk, ProcessId};
use serde_json::json;

use crate::command::Context;
use crate::failure::Failure;
use crate::limits::{FOLLOW_WAIT, OUTPUT_BYTES_SHOWN_MAX};
use crate::output::{JsonBytes, Output};

/// Arguments of `praas process logs`.
#[derive(Debug, Args)]
pub struct LogsArguments {
    /// The process, such as hello/alice
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: ProcessId,
    /// Go on printing what comes, until the process ends or Ctrl-C
    #[arg(long, short)]
    pub follow: bool,
    /// Start at this byte of all output ever printed; older output may be gone
    #[arg(long, value_name = "BYTE", default_value_t = 0)]
    pub from: u64,
}

/// Prints captured output.
///
/// # Errors
/// [`Failure`], mostly the server's refusal.
pub fn logs(context: &Context, arguments: &LogsArguments) -> Result<(), Failure> {
    let client = context.client()?;
    let output = context.output();
    if arguments.follow {
        let mut follower = client.follow_output(arguments.process, arguments.from);
        loop {
            if let Some(chunk) = follower.next(FOLLOW_WAIT)? {
                print(output, &chunk)?;
                if chunk.ended {
                    return Ok(());
                }
            }
        }
    }
    // What is there now: a process that prints faster than this reads must not keep it here for ever.
    let mut position = arguments.from;
    let mut bytes_left = OUTPUT_BYTES_SHOWN_MAX;
    loop {
        let chunk = client.output(arguments.process, position)?;
        print(output, &chunk)?;
        position = chunk.position.saturating_add(chunk.bytes.len() as u64);
        bytes_left = bytes_left.saturating_sub(chunk.bytes.len() as u64);
        if chunk.bytes.is_empty() || chunk.ended || bytes_left == 0 {
            return Ok(());
        }
    }
}

fn print(output: Output, chunk: &OutputChunk) -> Result<(), Failure> {
    if output.is_json() {
        if chunk.bytes.is_empty() && !chunk.ended {
            return Ok(());
        }
        let bytes = JsonBytes::from(chunk.bytes.as_slice());
        return output.value(&json!({ "position": chunk.position, "output": bytes, "ended": chunk.ended }));
    }
    output.bytes(&chunk.bytes, false)
}
