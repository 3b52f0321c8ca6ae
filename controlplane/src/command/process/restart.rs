//! `praas process restart`.

use serde_json::json;

use super::ProcessArguments;
use crate::command::Context;
use crate::failure::Failure;

/// Drains a process and gives it new workers.
///
/// # Errors
/// [`Failure`], mostly the server's refusal.
pub fn restart(context: &Context, arguments: &ProcessArguments) -> Result<(), Failure> {
    let process = arguments.process;
    context.client()?.restart(process)?;
    context.output().value(&json!({ "process": process.to_string(), "state": "active" }))?;
    context.output().line(format_args!("{process} has new workers and takes calls"))
}
