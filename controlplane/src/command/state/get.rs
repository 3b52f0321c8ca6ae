//! `praas state get`.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use praas_client::ProcessId;
use serde_json::json;

use super::{ReachArguments, as_json};
use crate::command::Context;
use crate::failure::Failure;
use crate::output::JsonBytes;

const EXAMPLES: &str = "\
Examples:
  praas state get hello/alice greeting
  praas state get hello/alice picture --output picture.png
  praas state get hello/alice greeting --json | jq .version

Exit code 6 when there is no such object; an empty object is there.";

/// Arguments of `praas state get`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GetArguments {
    /// The process, such as hello/alice
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: ProcessId,
    /// The object's key
    pub key: String,
    /// Write the value to this file, over what it has
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How the process is reached
    #[command(flatten)]
    pub reach: ReachArguments,
}

/// Reads an object.
///
/// # Errors
/// [`Failure::NoObject`] when there is none.
pub fn get(context: &Context, arguments: &GetArguments) -> Result<(), Failure> {
    let (process, key) = (arguments.process, arguments.key.as_str());
    let reached = arguments.reach.process(context, process)?;
    let Some(value) = reached.state().get(key)? else {
        return Err(Failure::NoObject { process, key: key.to_owned() });
    };
    let output = context.output();
    let mut document = as_json(process, key, &value.attributes());
    if let Some(path) = &arguments.output {
        fs::write(path, &value).map_err(Failure::file("writing", path))?;
        output.value(&document)?;
        return output.line(format_args!(
            "{} has version {} of {key} ({} bytes)",
            path.display(),
            value.version(),
            value.len()
        ));
    }
    if output.is_json() {
        document["value"] = json!(JsonBytes::from(value.as_slice()));
        return output.value(&document);
    }
    output.bytes(&value, true)
}
