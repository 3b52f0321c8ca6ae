//! `praas state delete`.

use clap::Args;
use praas_client::{Condition, ProcessId};
use serde_json::json;

use super::{ReachArguments, version, version_of};
use crate::command::Context;
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  praas state delete hello/alice greeting
  praas state delete hello/alice greeting --if-version 7

Exit code 6 when there is no such object, 7 when it has another version: nothing was changed.";

/// Arguments of `praas state delete`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DeleteArguments {
    /// The process, such as hello/alice
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: ProcessId,
    /// The object's key
    pub key: String,
    /// Only if the object has this version
    #[arg(long, value_name = "N", value_parser = version)]
    pub if_version: Option<Condition>,
    /// How the process is reached
    #[command(flatten)]
    pub reach: ReachArguments,
}

/// Removes an object.
///
/// # Errors
/// [`Failure::NoObject`] when there is none, [`Failure::ConditionRefused`] when it has another version.
pub fn delete(context: &Context, arguments: &DeleteArguments) -> Result<(), Failure> {
    let (process, key) = (arguments.process, arguments.key.as_str());
    let reached = arguments.reach.process(context, process)?;
    let written = reached.state().delete_if(key, arguments.if_version.unwrap_or_default())?;
    // A version that is asked for is never 0: who finds nothing is refused with 0, whatever was asked.
    match version_of(written, process, key) {
        Ok(0) | Err(Failure::ConditionRefused { current: 0, .. }) => {
            return Err(Failure::NoObject { process, key: key.to_owned() });
        }
        deleted => deleted?,
    };
    let output = context.output();
    output.value(&json!({ "process": process.to_string(), "key": key }))?;
    output.line(format_args!("{key} is removed"))
}
