//! `praas state put`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use praas_client::{Condition, ProcessId};
use serde_json::json;

use super::{ReachArguments, version_of, version_or_absent};
use crate::command::Context;
use crate::command::invoke::read_at_most;
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  praas state put hello/alice greeting --value 'good day'
  praas state put hello/alice picture --file picture.png
  date | praas state put hello/alice date
  praas state put hello/alice greeting --value 'first!' --if-version absent
  praas state put hello/alice greeting --value 'second' --if-version 7

Exit code 7 when the condition of --if-version does not hold: nothing was changed.";

/// Arguments of `praas state put`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PutArguments {
    /// The process, such as hello/alice
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: ProcessId,
    /// The object's key: 1 to 255 bytes of text without control characters
    pub key: String,
    /// The value; standard input unless this or --file is given
    #[arg(long, value_name = "TEXT", conflicts_with = "file", allow_hyphen_values = true)]
    pub value: Option<String>,
    /// Put this file's bytes
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Only if the object has this version; or absent: only if there is none
    #[arg(long, value_name = "N|absent", value_parser = version_or_absent)]
    pub if_version: Option<Condition>,
    /// How the process is reached
    #[command(flatten)]
    pub reach: ReachArguments,
}

/// Puts an object.
///
/// # Errors
/// [`Failure::ConditionRefused`] when the condition does not hold, [`Failure::State`] when there is no room.
pub fn put(context: &Context, arguments: &PutArguments) -> Result<(), Failure> {
    let (process, key) = (arguments.process, arguments.key.as_str());
    let reached = arguments.reach.process(context, process)?;
    let value = read_value(arguments, u64::from(reached.payload_bytes_max()))?;
    let written = reached.state().put_if(key, &value, arguments.if_version.unwrap_or_default())?;
    let version = version_of(written, process, key)?;
    let output = context.output();
    output.value(&json!({
        "process": process.to_string(),
        "key": key,
        "version": version,
        "value_bytes": value.len(),
    }))?;
    output.line(format_args!("{key} has version {version} ({} bytes)", value.len()))
}

fn read_value(arguments: &PutArguments, limit_bytes: u64) -> Result<Vec<u8>, Failure> {
    match (&arguments.value, &arguments.file) {
        (Some(text), _) => Ok(text.as_bytes().to_vec()),
        (None, Some(path)) => {
            let file = File::open(path).map_err(Failure::file("opening", path))?;
            read_at_most(file, path, limit_bytes)
        }
        (None, None) => read_at_most(io::stdin().lock(), Path::new("standard input"), limit_bytes),
    }
}
