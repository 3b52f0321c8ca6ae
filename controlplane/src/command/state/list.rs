//! `praas state list`: as many lines as objects, printed as they come, so that a long list takes no memory.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use praas_client::{Attributes, ListedObject, ProcessId};

use super::{ReachArguments, as_json};
use crate::command::Context;
use crate::failure::Failure;
use crate::limits::STATE_LINES_TOGETHER;

const EXAMPLES: &str = "\
Examples:
  praas state list hello/alice
  praas state list hello/alice notes/
  praas state list hello/alice --json | jq -r 'select(.value_bytes > 1000) | .key'

With --json there is one document a line for each object. Types are shown by the id of their name and their schema version. An \
object that is put or deleted meanwhile may be listed or not.";

/// Arguments of `praas state list`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArguments {
    /// The process, such as hello/alice
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: ProcessId,
    /// Only objects whose keys begin so
    #[arg(default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// How the process is reached
    #[command(flatten)]
    pub reach: ReachArguments,
}

/// Lists objects.
///
/// # Errors
/// [`Failure`] with the way the call ended, or why it could not be made.
pub fn list(context: &Context, arguments: &ListArguments) -> Result<(), Failure> {
    let process = arguments.process;
    let reached = arguments.reach.process(context, process)?;
    let output = context.output();
    let mut lines = Lines::new();
    let mut any = false;
    for object in reached.state().list(&arguments.prefix)? {
        let object = object?;
        any = true;
        output.value(&as_json(process, &object.key, &object.attributes))?;
        if !output.is_json() && lines.add(&object) {
            output.line(lines.take())?;
        }
    }
    if any {
        return if lines.text.is_empty() { Ok(()) } else { output.line(lines.take()) };
    }
    let which = match arguments.prefix.as_str() {
        "" => String::new(),
        prefix => format!(" whose key begins with {prefix:?}"),
    };
    output.line(format_args!("{process} has no object{which}; put one: praas state put {process} KEY --value TEXT"))
}

/// Lines for people that are printed together.
struct Lines {
    text: String,
    count: usize,
}

impl Lines {
    fn new() -> Self {
        let mut lines = Self { text: String::new(), count: 0 };
        lines.write("BYTES", "VERSION", "MODIFIED", "TYPE", "KEY");
        lines
    }

    /// Adds a line; whether there are enough to print.
    fn add(&mut self, object: &ListedObject) -> bool {
        let Attributes { version, modified_unix_ms, value_bytes, .. } = object.attributes;
        let [bytes, version] = [u64::from(value_bytes), version].map(|figure| figure.to_string());
        self.write(&bytes, &version, &timestamp(modified_unix_ms), &type_of(&object.attributes), &object.key);
        self.count += 1;
        self.count == STATE_LINES_TOGETHER
    }

    /// The figures have room for what is usual; a longer one moves the rest of its line, and the key stays last.
    fn write(&mut self, bytes: &str, version: &str, modified: &str, type_id: &str, key: &str) {
        let separator = if self.text.is_empty() { "" } else { "\n" };
        let columns = format_args!("{separator}{bytes:>10}  {version:>10}  {modified:<20}  {type_id:<18}  {key}");
        self.text.write_fmt(columns).expect("a string grows");
    }

    fn take(&mut self) -> String {
        self.count = 0;
        std::mem::take(&mut self.text)
    }
}

/// A time in UTC, to the second; a dash for one that no calendar here has.
fn timestamp(unix_ms: u64) -> String {
    let mut text = String::new();
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms));
    let written = time.map(|time| write!(text, "{}", humantime::format_rfc3339_seconds(time)));
    if matches!(written, Some(Ok(()))) { text } else { "-".to_owned() }
}

fn type_of(attributes: &Attributes) -> String {
    match attributes.type_id {
        0 => "raw".to_owned(),
        id => format!("{id:016x}/{}", attributes.schema_version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(key: &str, attributes: Attributes) -> ListedObject {
        ListedObject { key: key.to_owned(), attributes }
    }

    #[test]
    fn people_get_one_line_an_object_with_its_key_last() {
        let mut lines = Lines::new();
        let raw = Attributes { version: 7, modified_unix_ms: 1_795_318_279_000, value_bytes: 12, ..Default::default() };
        lines.add(&listed("notes/one two", raw));
        lines.add(&listed("typed", Attributes { type_id: 0xab, schema_version: 3, ..raw }));
        let text = lines.take();
        let words = |line: usize| text.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(words(0), ["BYTES", "VERSION", "MODIFIED", "TYPE", "KEY"]);
        assert_eq!(words(1), ["12", "7", "2026-11-22T03:31:19Z", "raw", "notes/one", "two"]);
        assert_eq!(words(2)[3..], ["00000000000000ab/3", "typed"]);
        assert!(lines.text.is_empty());
    }

    #[test]
    fn lines_are_printed_before_they_are_many() {
        let mut lines = Lines::new();
        let full = (1..).find(|_| lines.add(&listed("k", Attributes::default()))).unwrap();
        assert_eq!(full, STATE_LINES_TOGETHER);
        lines.take();
        assert!(!lines.add(&listed("k", Attributes::default())));
    }

    #[test]
    fn a_time_that_cannot_be_is_a_dash() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        for impossible in [u64::MAX, u64::MAX / 1000, 253_402_300_800_000] {
            assert_eq!(timestamp(impossible), "-");
        }
    }
}
