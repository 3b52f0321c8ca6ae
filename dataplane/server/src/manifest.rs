//! `praas.toml` as an [`Application`].
//!
//! The text is walked by hand instead of by derive, so that one reading names *every* problem with its line, its field and
//! what is allowed there. Unknown sections and fields are problems: a misspelt limit must not be silently ignored.

mod fields;
mod sizes;

use std::fmt;
use std::path::{Path, PathBuf};

use praas_protocol::control::WaitMode;
use praas_protocol::{Durability, Name};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::application::{Application, Network, SwapWait};
use crate::limits::MANIFEST_BYTES_MAX;
use fields::Section;
pub use sizes::parse_bytes;

/// One thing that is wrong in a `praas.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line of the text, from 1; 0 when something is missing from the file as a whole.
    pub line: usize,
    /// The field, as `section.field`; empty for a syntax error.
    pub field: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.field.as_str()) {
            (0, field) => write!(formatter, "{field} {}", self.problem),
            (line, "") => write!(formatter, "line {line}: {}", self.problem),
            (line, field) => write!(formatter, "line {line}: {field} {}", self.problem),
        }
    }
}

/// Why a `praas.toml` gives no application.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read {path}: {reason}. `praas new NAME` writes an example")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file is read and wrong.
    #[error("{path} has {} problem{}:{}", problems.len(), if problems.len() == 1 { "" } else { "s" }, list(problems))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong, in the order of the lines.
        problems: Vec<Problem>,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

impl Application {
    /// The application described by the `praas.toml` at `path`. Relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// [`ManifestError`] with every problem of the file.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let unreadable = |reason: String| ManifestError::Unreadable { path: path.to_owned(), reason };
        let absolute = std::path::absolute(path).map_err(|error| unreadable(error.to_string()))?;
        let bytes = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
        if bytes > MANIFEST_BYTES_MAX {
            return Err(unreadable(format!("it has {bytes} bytes, the limit is {MANIFEST_BYTES_MAX}")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        let directory = absolute.parent().unwrap_or(Path::new("/"));
        Self::parse(&text, directory).map_err(|problems| ManifestError::Wrong { path: path.to_owned(), problems })
    }

    /// The application described by `text`, with relative paths taken from `directory`.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, Vec<Problem>> {
        let (document, syntax) = DeTable::parse_recoverable(text);
        let mut problems: Vec<Problem> = syntax.iter().map(|error| syntax_problem(text, error)).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let application = read_document(text, document.get_ref(), directory, &mut problems);
        problems.sort_by_key(|problem| problem.line);
        match application {
            Some(application) if problems.is_empty() => Ok(application),
            _ => Err(problems),
        }
    }
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    Problem { line, field: String::new(), problem: format!("is not TOML: {}", error.message()) }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

fn read_document(
    text: &str,
    document: &DeTable<'_>,
    directory: &Path,
    problems: &mut Vec<Problem>,
) -> Option<Application> {
    for (key, _) in document {
        if !matches!(key.get_ref().as_ref(), "application" | "workers" | "limits" | "state") {
            problems.push(Problem {
                line: line_of(text, key.span().start),
                field: format!("[{}]", key.get_ref()),
                problem: "is unknown, allowed are the sections [application], [workers], [state] and [limits]".into(),
            });
        }
    }
    let application = read_application(Section::open(text, document, "application", problems)?, directory);
    let mut application = match application {
        Ok(application) => application,
        // Without a name and a program the other sections are still looked at, into an application nobody gets.
        Err(()) => Application::new("unnamed".parse().expect("a name"), directory.to_owned()),
    };
    if document.contains_key("workers") {
        read_workers(Section::open(text, document, "workers", problems)?, &mut application);
    }
    if document.contains_key("state") {
        read_state(Section::open(text, document, "state", problems)?, &mut application);
    }
    if document.contains_key("limits") {
        read_limits(Section::open(text, document, "limits", problems)?, &mut application);
    }
    for error in application.field_errors() {
        let line = line_of_field(text, document, error.field);
        if !problems.iter().any(|problem| problem.line == line && problem.field == error.field) {
            problems.push(Problem { line, field: error.field.into(), problem: error.problem });
        }
    }
    Some(application)
}

fn line_of_field(text: &str, document: &DeTable<'_>, field: &str) -> usize {
    let (section, field) = field.split_once('.').unwrap_or((field, ""));
    let section = document.get(section).and_then(|section| section.get_ref().as_table());
    section.and_then(|section| section.get_key_value(field)).map_or(0, |(key, _)| line_of(text, key.span().start))
}

fn read_application(mut section: Section<'_, '_>, directory: &Path) -> Result<Application, ()> {
    let name = section.required("name", "a name such as \"hello\"", as_name);
    let binary = section.required("binary", "the path of a program", as_text);
    let arguments = section.optional("arguments", "a list of texts", |value| as_list(value, as_text));
    let environment = section.optional("environment", "a table of texts, { KEY = \"value\" }", as_environment);
    let wait = section.optional("wait", "\"spin\", \"adaptive\" or \"park\"", as_wait);
    let network = section.optional("network", "\"none\" or \"host\"", as_network);
    let readable = section.optional("readable", "a list of paths", |value| as_list(value, as_text));
    let functions = section.optional("functions", "a list of names of functions", |value| as_list(value, as_name));
    section.close();
    let mut application = Application::new(name.ok_or(())?, directory.join(binary.ok_or(())?));
    application.arguments = arguments.unwrap_or_default();
    application.environment = environment.unwrap_or_default();
    application.wait = wait.unwrap_or_default();
    application.network = network.unwrap_or_default();
    application.readable = readable.unwrap_or_default().into_iter().map(|path| directory.join(path)).collect();
    application.functions = functions;
    Ok(application)
}

fn read_workers(mut section: Section<'_, '_>, application: &mut Application) {
    let min = section.optional("min", "a number of workers", as_u32);
    let max = section.optional("max", "a number of workers", as_u32);
    section.close();
    application.workers_min = min.unwrap_or(1);
    application.workers_max = max.unwrap_or(application.workers_min.max(1));
}

fn read_state(mut section: Section<'_, '_>, application: &mut Application) {
    let levels = "\"memory\", \"checkpoint\" or \"logged\"";
    let durability = section.optional("durability", levels, as_durability);
    let interval = section.optional("checkpoint_interval_ms", "a number of milliseconds", as_u64);
    let idle = section.optional("idle_swap_ms", "a number of milliseconds, 0 or \"none\"", as_ms_or_none);
    let swap_wait = section.optional("swap_wait", "\"wait\" or \"refuse\"", as_swap_wait);
    let wake_on_message = section.optional("wake_on_message", "true or false", |value| value.as_bool().ok_or(None));
    section.close();
    application.durability = durability.unwrap_or_default();
    application.checkpoint_interval_ms = interval.unwrap_or(application.checkpoint_interval_ms);
    application.idle_swap_ms = idle.flatten().filter(|idle_swap_ms| *idle_swap_ms != 0);
    application.swap_wait = swap_wait.unwrap_or_default();
    application.wake_on_message = wake_on_message.unwrap_or(application.wake_on_message);
}

fn read_limits(mut section: Section<'_, '_>, application: &mut Application) {
    const BYTES: &str = "a number of bytes or a text such as \"64MiB\"";
    let limits = &mut application.limits;
    let mut bytes = |field| section.optional(field, BYTES, as_bytes);
    let payload = bytes("payload_bytes_max");
    let state = bytes("state_bytes_max");
    let memory = bytes("memory_bytes");
    let output = bytes("output_bytes");
    let files = bytes("files_bytes_max");
    let call = section.optional("call_ms_max", "a number of milliseconds or \"none\"", as_ms_or_none);
    let drain = section.optional("drain_ms", "a number of milliseconds", as_u64);
    let open_files = section.optional("open_files", "a number of file descriptors", as_u64);
    let processes = section.optional("processes", "a number of OS processes and threads", as_u64);
    section.close();
    if let Some(payload) = payload {
        // Too large a value stays too large, for the check of ranges to name.
        limits.payload_bytes_max = u32::try_from(payload).unwrap_or(u32::MAX);
    }
    limits.state_bytes_max = state.unwrap_or(limits.state_bytes_max);
    limits.files_bytes_max = files.unwrap_or(limits.files_bytes_max);
    limits.memory_bytes = memory.or(limits.memory_bytes);
    limits.output_bytes = output.map_or(limits.output_bytes, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    limits.call_ms_max = call.unwrap_or(limits.call_ms_max);
    limits.drain_ms = drain.unwrap_or(limits.drain_ms);
    limits.open_files = open_files.unwrap_or(limits.open_files);
    limits.processes = processes.or(limits.processes);
}

/// What a value is read as: `Err(Some(reason))` when the reason says more than "something else is allowed".
type Read<T> = Result<T, Option<String>>;

fn as_text(value: &DeValue<'_>) -> Read<String> {
    value.as_str().map(str::to_owned).ok_or(None)
}

fn as_name(value: &DeValue<'_>) -> Read<Name> {
    let text = value.as_str().ok_or(None)?;
    text.parse().map_err(|error: praas_protocol::NameError| Some(format!("is {text:?}: {error}")))
}

fn as_list<T>(value: &DeValue<'_>, read: fn(&DeValue<'_>) -> Read<T>) -> Read<Vec<T>> {
    value.as_array().ok_or(None)?.iter().map(|item: &Spanned<DeValue<'_>>| read(item.get_ref())).collect()
}

fn as_environment(value: &DeValue<'_>) -> Read<std::collections::BTreeMap<String, String>> {
    let table = value.as_table().ok_or(None)?;
    table.iter().map(|(key, value)| Ok((key.get_ref().to_string(), as_text(value.get_ref())?))).collect()
}

fn as_wait(value: &DeValue<'_>) -> Read<WaitMode> {
    match value.as_str() {
        Some("spin") => Ok(WaitMode::Spin),
        Some("adaptive") => Ok(WaitMode::Adaptive),
        Some("park") => Ok(WaitMode::Park),
        _ => Err(None),
    }
}

fn as_durability(value: &DeValue<'_>) -> Read<Durability> {
    match value.as_str() {
        Some("memory") => Ok(Durability::Memory),
        Some("checkpoint") => Ok(Durability::Checkpoint),
        Some("logged") => Ok(Durability::Logged),
        _ => Err(None),
    }
}

fn as_swap_wait(value: &DeValue<'_>) -> Read<SwapWait> {
    match value.as_str() {
        Some("wait") => Ok(SwapWait::Wait),
        Some("refuse") => Ok(SwapWait::Refuse),
        _ => Err(None),
    }
}

fn as_network(value: &DeValue<'_>) -> Read<Network> {
    match value.as_str() {
        Some("none") => Ok(Network::None),
        Some("host") => Ok(Network::Host),
        _ => Err(None),
    }
}

fn as_u64(value: &DeValue<'_>) -> Read<u64> {
    let integer = value.as_integer().ok_or(None)?;
    u64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| None)
}

fn as_u32(value: &DeValue<'_>) -> Read<u32> {
    Ok(u32::try_from(as_u64(value)?).unwrap_or(u32::MAX))
}

fn as_bytes(value: &DeValue<'_>) -> Read<u64> {
    match value.as_str() {
        Some(text) => {
            parse_bytes(text).ok_or_else(|| Some(format!("is {text:?}, which is no number of bytes: write \"64MiB\"")))
        }
        None => as_u64(value),
    }
}

fn as_ms_or_none(value: &DeValue<'_>) -> Read<Option<u64>> {
    match value.as_str() {
        Some("none") => Ok(None),
        Some(_) => Err(None),
        None => as_u64(value).map(Some),
    }
}
