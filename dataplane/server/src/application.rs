//! What the server knows of an application: a checked description, written in `praas.toml` or made by a program.
//!
//! A value of [`Application`] that came out of [`Application::load`] or passed [`Application::checked`] keeps every limit
//! named here; the rest of the server does not look again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use praas_protocol::control::WaitMode;
use praas_protocol::limits::{
    DRAIN_MS_DEFAULT, FILES_BYTES_MAX_MOST, FUNCTIONS_MAX, OUTPUT_BYTES_KEPT, PAYLOAD_BYTES_MAX,
    PAYLOAD_BYTES_MAX_DEFAULT, STATE_BYTES_MAX_DEFAULT, STATE_BYTES_MAX_LEAST, STATE_BYTES_MAX_MOST, STATE_BYTES_UNIT,
    WORKERS_MAX,
};
use praas_protocol::{Durability, Name};

/// Milliseconds that a call may take when an application sets no `call_ms_max`: a minute.
pub const CALL_MS_MAX_DEFAULT: u64 = 60_000;

/// Largest value of a limit in milliseconds: a day. Whoever needs more means `none`.
pub(crate) const LIMIT_MS_MAX: u64 = 24 * 3_600_000;

/// Smallest `idle_swap_ms`: a process that sleeps sooner than this is woken more often than it is called.
pub(crate) const IDLE_SWAP_MS_MIN: u64 = 10;

/// Largest `idle_swap_ms`: a year. Whoever needs more means `none`.
pub(crate) const IDLE_SWAP_MS_MAX: u64 = 365 * LIMIT_MS_MAX;

/// Milliseconds between two checkpoints unless an application says otherwise: what a minute's work is worth against writing what has
/// changed in it.
pub const CHECKPOINT_INTERVAL_MS: u64 = 60_000;

/// Shortest time between two checkpoints in milliseconds: a small one takes some ten.
pub const CHECKPOINT_INTERVAL_MS_MIN: u64 = 100;

/// Longest: a day.
pub const CHECKPOINT_INTERVAL_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// Smallest `call_ms_max`: below it the sampling of claims is coarser than the limit.
pub(crate) const CALL_MS_MAX_MIN: u64 = 20;

/// Smallest `memory_bytes`: below it an executable does not even start.
pub(crate) const MEMORY_BYTES_MIN: u64 = 8 << 20;

/// Smallest `open_files`: a worker holds three standard streams, socket, pipe, epoll and three for each lane.
pub(crate) const OPEN_FILES_MIN: u64 = 64;

/// Open files of a worker unless configured: enough for the most lanes a process can have.
pub(crate) const OPEN_FILES_DEFAULT: u64 = 2048;

/// Largest `output_bytes`.
pub(crate) const OUTPUT_BYTES_MAX: u64 = 64 << 20;

/// What an application's workers may reach of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// Nothing.
    #[default]
    None,
    /// Whatever the host reaches.
    Host,
}

/// What becomes of a call or message that needs a process which is on its way to sleep, asleep, or on its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SwapWait {
    /// It wakes the process and waits for it, to its own deadline.
    #[default]
    Wait,
    /// It is refused, and wakes the process all the same: who asks again finds it awake.
    Refuse,
}

/// Limits of each process of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationLimits {
    /// Largest payload of a call or a reply, in bytes.
    pub payload_bytes_max: u32,
    /// Bytes that the state of one process may grow to. Memory is taken as it grows; the host's budget is charged with a
    /// sixteenth of this for each process, or with what its state takes where that is more.
    pub state_bytes_max: u64,
    /// Time after which a running call costs its worker its life, in milliseconds; `None` never.
    pub call_ms_max: Option<u64>,
    /// Time that running calls get when the process drains, in milliseconds.
    pub drain_ms: u64,
    /// Memory of one worker, in bytes; `None` leaves it to the host.
    pub memory_bytes: Option<u64>,
    /// Bytes that the files directory of a process may have when it is put to sleep; 0 for none.
    pub files_bytes_max: u64,
    /// File descriptors of one worker.
    pub open_files: u64,
    /// OS processes and threads of one worker; `None` leaves it to the host.
    pub processes: Option<u64>,
    /// Bytes of captured output kept for each process.
    pub output_bytes: usize,
}

impl Default for ApplicationLimits {
    fn default() -> Self {
        Self {
            payload_bytes_max: PAYLOAD_BYTES_MAX_DEFAULT,
            state_bytes_max: STATE_BYTES_MAX_DEFAULT,
            call_ms_max: Some(CALL_MS_MAX_DEFAULT),
            drain_ms: DRAIN_MS_DEFAULT,
            memory_bytes: None,
            files_bytes_max: 0,
            open_files: OPEN_FILES_DEFAULT,
            processes: None,
            output_bytes: OUTPUT_BYTES_KEPT,
        }
    }
}

/// An application: the program that its workers run, and under which limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Its name.
    pub name: Name,
    /// The program, as an absolute path.
    pub binary: PathBuf,
    /// The program's arguments.
    pub arguments: Vec<String>,
    /// The environment of its workers, beside what praas itself sets. Nothing is inherited from the server.
    pub environment: BTreeMap<String, String>,
    /// How workers wait.
    pub wait: WaitMode,
    /// What they reach of the network.
    pub network: Network,
    /// Files and directories that they may read, beside their program and the system's libraries; absolute paths.
    pub readable: Vec<PathBuf>,
    /// The functions that the program must register, exactly, if given.
    pub functions: Option<Vec<Name>>,
    /// Workers that each process has at least.
    pub workers_min: u32,
    /// Workers that each process has at most.
    pub workers_max: u32,
    /// How safe what a process has changed is, once somebody is told of it. [`Durability::Logged`] needs a server with a log,
    /// which goes with storage.
    pub durability: Durability,
    /// Milliseconds from one checkpoint of a process to the next, with [`Durability::Checkpoint`], which needs a server with storage,
    /// and with [`Durability::Logged`], whose log a checkpoint shortens.
    pub checkpoint_interval_ms: u64,
    /// Milliseconds without a call after which a process is swapped out; `None` never. A process may be created
    /// with another time.
    pub idle_swap_ms: Option<u64>,
    /// What becomes of calls and messages that need a process while it sleeps.
    pub swap_wait: SwapWait,
    /// Whether a message wakes a process that sleeps; otherwise it is kept, and is there when something else does.
    pub wake_on_message: bool,
    /// Limits of each process.
    pub limits: ApplicationLimits,
}

impl Application {
    /// An application with one worker, default limits and no network.
    #[must_use]
    pub fn new(name: Name, binary: PathBuf) -> Self {
        Self {
            name,
            binary,
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            wait: WaitMode::default(),
            network: Network::default(),
            readable: Vec::new(),
            functions: None,
            workers_min: 1,
            workers_max: 1,
            durability: Durability::default(),
            checkpoint_interval_ms: CHECKPOINT_INTERVAL_MS,
            idle_swap_ms: None,
            swap_wait: SwapWait::default(),
            wake_on_message: true,
            limits: ApplicationLimits::default(),
        }
    }

    /// The same application, if every field lies within its limits.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn checked(self) -> Result<Self, FieldError> {
        match self.field_errors().into_iter().next() {
            None => Ok(self),
            Some(error) => Err(error),
        }
    }

    /// Every field that lies outside its limits.
    pub(crate) fn field_errors(&self) -> Vec<FieldError> {
        let limits = &self.limits;
        let workers_max = WORKERS_MAX as u64;
        let mut errors = Vec::new();
        let mut range = |field, actual: u64, least: u64, most: u64| {
            if actual < least || actual > most {
                errors.push(FieldError { field, problem: format!("is {actual}, allowed is {least} to {most}") });
            }
        };
        range("workers.max", self.workers_max.into(), 1, workers_max);
        range("workers.min", self.workers_min.into(), 1, workers_max.min(self.workers_max.max(1).into()));
        range("limits.payload_bytes_max", limits.payload_bytes_max.into(), 1, PAYLOAD_BYTES_MAX.into());
        range("limits.state_bytes_max", limits.state_bytes_max, STATE_BYTES_MAX_LEAST, STATE_BYTES_MAX_MOST);
        range("limits.call_ms_max", limits.call_ms_max.unwrap_or(LIMIT_MS_MAX), CALL_MS_MAX_MIN, LIMIT_MS_MAX);
        range("limits.drain_ms", limits.drain_ms, 0, LIMIT_MS_MAX);
        range("limits.memory_bytes", limits.memory_bytes.unwrap_or(MEMORY_BYTES_MIN), MEMORY_BYTES_MIN, 1 << 50);
        range("limits.files_bytes_max", limits.files_bytes_max, 0, FILES_BYTES_MAX_MOST);
        range("limits.open_files", limits.open_files, OPEN_FILES_MIN, 1 << 20);
        range("limits.processes", limits.processes.unwrap_or(1), 1, 1 << 22);
        range("limits.output_bytes", limits.output_bytes as u64, 1024, OUTPUT_BYTES_MAX);
        let idle_swap_ms = self.idle_swap_ms.unwrap_or(IDLE_SWAP_MS_MIN);
        range("state.idle_swap_ms", idle_swap_ms, IDLE_SWAP_MS_MIN, IDLE_SWAP_MS_MAX);
        let checkpoints = (CHECKPOINT_INTERVAL_MS_MIN, CHECKPOINT_INTERVAL_MS_MAX);
        range("state.checkpoint_interval_ms", self.checkpoint_interval_ms, checkpoints.0, checkpoints.1);
        if !self.wake_on_message && self.durability == Durability::Logged {
            let problem = "is false, which needs durability = \"memory\" or \"checkpoint\": a logged process gets messages by \
                           calls, and those wake it";
            errors.push(FieldError { field: "state.wake_on_message", problem: problem.into() });
        }
        errors.extend(self.text_errors());
        errors
    }

    fn text_errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut error = |field, problem: String| errors.push(FieldError { field, problem });
        if !self.binary.is_absolute() {
            error("application.binary", format!("is {}, it must be an absolute path here", self.binary.display()));
        }
        if let Some(argument) = self.arguments.iter().find(|argument| argument.contains('\0')) {
            error("application.arguments", format!("has {argument:?}, a zero byte is not allowed in it"));
        }
        for (key, value) in &self.environment {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                error("application.environment", format!("has {key:?}: a name without '=' and zero bytes is allowed"));
            } else if key.starts_with("PRAAS_") {
                error("application.environment", format!("has {key:?}: names starting with PRAAS_ belong to praas"));
            }
        }
        if let Some(functions) = &self.functions {
            let mut sorted = functions.clone();
            sorted.sort_unstable();
            if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                error("application.functions", format!("names {} twice", pair[0]));
            }
            if functions.is_empty() || functions.len() > FUNCTIONS_MAX {
                error(
                    "application.functions",
                    format!("names {} functions, allowed is 1 to {FUNCTIONS_MAX}", functions.len()),
                );
            }
        }
        errors
    }

    /// Bytes of the segment that holds the state of a process.
    pub(crate) fn state_bytes(&self) -> u64 {
        self.limits.state_bytes_max.next_multiple_of(STATE_BYTES_UNIT)
    }

    /// The longest time a call may take.
    pub(crate) fn call_time_max(&self) -> Option<Duration> {
        self.limits.call_ms_max.map(Duration::from_millis)
    }

    /// How the functions that a worker registered differ from those the application names; `None` when they agree.
    pub(crate) fn functions_difference(&self, registered: &[Name]) -> Option<String> {
        let wanted = self.functions.as_ref()?;
        let list = |names: Vec<&Name>| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let missing: Vec<_> = wanted.iter().filter(|name| !registered.contains(name)).collect();
        let extra: Vec<_> = registered.iter().filter(|name| !wanted.contains(name)).collect();
        match (missing.is_empty(), extra.is_empty()) {
            (true, true) => None,
            (false, true) => Some(format!("praas.toml names {}, which the program does not register", list(missing))),
            (true, false) => Some(format!("the program registers {}, which praas.toml does not name", list(extra))),
            (false, false) => Some(format!(
                "praas.toml names {}, which the program does not register, and the program registers {}",
                list(missing),
                list(extra)
            )),
        }
    }
}

/// A field of an [`Application`] that lies outside its limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct FieldError {
    /// The field, as `section.field` of `praas.toml`.
    pub field: &'static str,
    /// What it is and what is allowed.
    pub problem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application() -> Application {
        Application::new("hello".parse().unwrap(), "/bin/true".into())
    }

    #[test]
    fn the_default_application_is_within_its_limits() {
        assert_eq!(application().checked(), Ok(application()));
    }

    #[test]
    fn a_worker_with_other_functions_is_told_the_difference() {
        let mut application = application();
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<Name>>();
        assert_eq!(application.functions_difference(&names(&["x"])), None);
        application.functions = Some(names(&["add", "sub"]));
        assert_eq!(application.functions_difference(&names(&["sub", "add"])), None);
        let difference = application.functions_difference(&names(&["add", "mul"])).unwrap();
        assert!(difference.contains("sub") && difference.contains("mul") && !difference.contains("add,"));
    }

    #[test]
    fn environment_names_of_praas_are_refused() {
        let mut application = application();
        application.environment.insert("PRAAS_WORKER".into(), "0".into());
        assert_eq!(application.checked().unwrap_err().field, "application.environment");
    }
}
