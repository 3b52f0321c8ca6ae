//! `praas state …`: the objects that a process keeps, from outside.

pub mod delete;
pub mod get;
pub mod list;
pub mod put;

use std::time::Duration;

use clap::{Args, Subcommand};
use praas_client::{Attributes, Condition, Process, ProcessId, Written};
use serde_json::{Value, json};

use crate::command::Context;
use crate::command::calling::CallingArguments;
use crate::duration;
use crate::failure::Failure;

use delete::DeleteArguments;
use get::GetArguments;
use list::ListArguments;
use put::PutArguments;

/// What its help begins with.
pub(crate) const LONG_ABOUT: &str = "\
Reads and writes the objects that a process keeps, past its functions. Each has a key, a value, and a version from a counter of \
its process that never repeats; a put publishes a new version at once and whole. The process does the work, so it must run; a \
value must fit one call (payload_bytes_max in praas.toml).

On the server's own host its user may do so. Others need a token with the rights invoke and state: \
praas token create --process hello/alice --rights invoke,state --expires 12h";

const EXAMPLES: &str = "\
Examples:
  praas state put hello/alice greeting --value 'good day'
  praas state get hello/alice greeting
  praas state list hello/alice
  praas state put hello/alice config --file config.json --if-version absent
  praas state delete hello/alice greeting

Exit code 6 when there is no such object, 7 when the condition of --if-version does not hold.";

/// The commands below `praas state`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum StateCommand {
    /// Write the value of an object to standard output or a file, byte for byte
    Get(GetArguments),
    /// Put an object: new, or a new version of it
    Put(PutArguments),
    /// Remove an object
    Delete(DeleteArguments),
    /// List objects with their sizes, versions, times and types
    List(ListArguments),
}

/// How the process is reached.
#[derive(Debug, Args)]
pub struct ReachArguments {
    /// Wait no longer than this for each answer, such as 50ms; 30s unless given
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub deadline: Option<Duration>,
    /// How the calls are made
    #[command(flatten)]
    pub calling: CallingArguments,
}

impl ReachArguments {
    fn process(&self, context: &Context, process: ProcessId) -> Result<Process, Failure> {
        let mut options = self.calling.options();
        if let Some(deadline) = self.deadline {
            options = options.call_deadline(deadline);
        }
        Ok(context.client_with(options)?.process(process)?)
    }
}

/// Carries out a command below `praas state`.
///
/// # Errors
/// [`Failure`]: no such object, a condition that does not hold, or however the call ended.
pub fn state(context: &Context, command: &StateCommand) -> Result<(), Failure> {
    match command {
        StateCommand::Get(arguments) => get::get(context, arguments),
        StateCommand::Put(arguments) => put::put(context, arguments),
        StateCommand::Delete(arguments) => delete::delete(context, arguments),
        StateCommand::List(arguments) => list::list(context, arguments),
    }
}

/// The version that a write led to.
fn version_of(written: Written, process: ProcessId, key: &str) -> Result<u64, Failure> {
    match written {
        Written::Done { version } => Ok(version),
        Written::Refused { current } => Err(Failure::ConditionRefused { process, key: key.to_owned(), current }),
    }
}

fn version(text: &str) -> Result<Condition, &'static str> {
    match text.parse::<u64>() {
        Ok(version) if version != 0 => Ok(Condition::Version(version)),
        _ => Err("write the version that the object must have, as `praas state list` shows it"),
    }
}

fn version_or_absent(text: &str) -> Result<Condition, &'static str> {
    match text {
        "absent" => Ok(Condition::Absent),
        _ => version(text).map_err(|_| {
            "write the version that the object must have, as `praas state list` shows it, or absent if there must be none"
        }),
    }
}

/// What programs get of an object beside its value. Ids of types have 64 bits, more than a number of JSON holds everywhere.
fn as_json(process: ProcessId, key: &str, attributes: &Attributes) -> Value {
    json!({
        "process": process.to_string(),
        "key": key,
        "version": attributes.version,
        "value_bytes": attributes.value_bytes,
        "modified_unix_ms": attributes.modified_unix_ms,
        "type_id": (attributes.type_id != 0).then(|| format!("{:016x}", attributes.type_id)),
        "schema_version": attributes.schema_version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_read_as_written_and_anything_else_is_refused() {
        assert_eq!(version("7"), Ok(Condition::Version(7)));
        assert_eq!(version_or_absent("18446744073709551615"), Ok(Condition::Version(u64::MAX)));
        assert_eq!(version_or_absent("absent"), Ok(Condition::Absent));
        for text in ["", "0", "-1", "any", "Absent", "1.0", "18446744073709551616"] {
            assert!(version_or_absent(text).is_err(), "{text}");
        }
        assert!(version("absent").is_err(), "what is absent cannot be deleted");
    }

    #[test]
    fn programs_get_raw_objects_without_a_type() {
        let process = "hello/alice".parse().unwrap();
        let raw = as_json(process, "k", &Attributes { version: 7, ..Attributes::default() });
        assert_eq!((&raw["key"], &raw["version"], &raw["type_id"]), (&json!("k"), &json!(7), &Value::Null));
        let typed = as_json(process, "k", &Attributes { type_id: 255, ..Attributes::default() });
        assert_eq!(typed["type_id"], "00000000000000ff");
    }
}
