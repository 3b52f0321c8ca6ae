//! Ray with an actor that answers its input, called and timed by a driver in Python (`perf/peers/ray_echo.py`): the language
//! that Ray is called from. Nobody polls.
//!
//! Ray's servers listen on every interface and some of its processes outlive a driver that is killed. So the driver is the
//! first process of a process namespace, with which all others end, in a network namespace without a network (`unshare`).

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use praas_benches::floors::{Batch, Samples};
use praas_benches::interleave::{Series, SeriesError};
use rustix::process::geteuid;
use serde::Deserialize;

use super::control::Control;
use super::server::{Launch, ServerProgram, version_line};
use super::{BaselineError, install};

const NAME: &str = "Ray";
/// What `perf/setup` calls it.
const PART: &str = "ray";
/// Its interpreter in the private folder.
const PYTHON: &str = "ray/bin/python";
const DRIVER: (&str, &str) = ("ray_echo.py", include_str!("../../peers/ray_echo.py"));
/// Of util-linux. A killed wrapper takes the first process of the namespace with it, and that one all others.
const WRAPPER: &str = "unshare";
const NAMESPACES: [&str; 5] = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
/// What a user who is not root needs to be given namespaces.
const AS_A_USER: [&str; 2] = ["--user", "--map-root-user"];
/// Ray starts half a dozen programs first.
const START_PATIENCE: Duration = Duration::from_secs(90);
/// The longest that a round may take, longer than the driver waits for one answer.
const ROUND_PATIENCE: Duration = Duration::from_secs(120);

/// How the actor is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `ray.get(actor.echo.remote(payload))`.
    Call,
    /// Through a compiled graph of the one actor, which is then reserved for that.
    CompiledGraph,
}

/// What the driver answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    SpansNs(Vec<u64>),
    Error(String),
}

/// A running Ray.
#[derive(Debug)]
pub struct Ray {
    version: String,
    control: RefCell<Control>,
    // Last: Ray ends itself before.
    server: ServerProgram,
}

impl Ray {
    /// Starts it with one actor.
    ///
    /// # Errors
    /// [`BaselineError::NotInstalled`] and the like.
    pub fn start() -> Result<Self, BaselineError> {
        let python = install::file(Path::new(PYTHON), NAME, PART)?;
        let version = version_of(&python)?;
        let launch = Launch::new(NAME, WRAPPER)?.patience(START_PATIENCE).args(NAMESPACES);
        let launch = if geteuid().is_root() { launch } else { launch.args(AS_A_USER) };
        let launch = launch.arg(python).arg(DRIVER.0);
        let launch = launch.env("RAY_USAGE_STATS_ENABLED", "0").env("PYTHONDONTWRITEBYTECODE", "1");
        let directory = launch.directory().to_owned();
        fs::write(directory.join(DRIVER.0), DRIVER.1).map_err(BaselineError::system("write Ray's driver"))?;
        let (server, control) = launch.start(|| Control::connect(&directory))?;
        Ok(Self { version, control: RefCell::new(control), server })
    }

    /// As it says itself.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The process that all others end with.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.server.process_id()
    }

    /// The directory that all its processes work in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.server.directory()
    }

    /// A series of echoes of `payload_bytes`, a multiple of 8.
    #[must_use]
    pub fn echo(self: &Rc<Self>, way: Way, payload_bytes: usize) -> RayEcho {
        RayEcho { way, payload_bytes, ray: Rc::clone(self) }
    }

    fn round(&self, way: Way, payload_bytes: usize, batch: Batch) -> Result<Samples, BaselineError> {
        let way = match way {
            Way::Call => "calls",
            Way::CompiledGraph => "graph",
        };
        let mut control = self.control.borrow_mut();
        let order = format!("{way} {payload_bytes} {} {}", batch.warm_up, batch.samples);
        control.say(&order).map_err(BaselineError::system("ask Ray's driver"))?;
        let line = control.hear(Some(ROUND_PATIENCE)).map_err(BaselineError::system("hear Ray's driver"))?;
        let wrong = |actual: String| BaselineError::WrongAnswer { system: NAME, expected: order.clone(), actual };
        let line = line.ok_or_else(|| wrong(format!("nothing{}", self.server.log_end())))?;
        match serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))? {
            Answer::SpansNs(spans) if spans.len() as u64 == batch.samples => {
                let mut samples = Samples::empty(1);
                spans.into_iter().for_each(|span| samples.record(span));
                Ok(samples)
            }
            Answer::SpansNs(spans) => Err(wrong(format!("{} spans", spans.len()))),
            Answer::Error(error) => Err(wrong(error)),
        }
    }
}

impl Drop for Ray {
    fn drop(&mut self) {
        // So that all its processes end.
        self.control.get_mut().end();
    }
}

fn version_of(python: &Path) -> Result<String, BaselineError> {
    // Without importing it, which takes seconds.
    let packages = python.parent().and_then(Path::parent).map(|environment| environment.join("lib"));
    let entries = packages.into_iter().flat_map(|library| fs::read_dir(library).into_iter().flatten().flatten());
    let packages = entries.map(|entry| entry.path().join("site-packages"));
    let names = packages.flat_map(|packages| fs::read_dir(packages).into_iter().flatten().flatten());
    let mut names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let version = names.find_map(|name| Some(name.strip_prefix("ray-")?.strip_suffix(".dist-info")?.to_owned()));
    let python = version_line("Python", python, "--version")?;
    version
        .map(|version| format!("{version}, {python}"))
        .ok_or(BaselineError::NotInstalled { program: NAME, part: PART })
}

/// Echoes.
#[derive(Debug)]
pub struct RayEcho {
    way: Way,
    payload_bytes: usize,
    ray: Rc<Ray>,
}

impl Series for RayEcho {
    fn label(&self) -> String {
        format!("{NAME}, {:?}", self.way)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(self.ray.round(self.way, self.payload_bytes, batch)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_says_is_spans_or_an_error() {
        let read = |line| serde_json::from_str::<Answer>(line);
        assert!(matches!(read("{\"spans_ns\": [1, 2]}"), Ok(Answer::SpansNs(spans)) if spans == [1, 2]));
        assert!(matches!(read("{\"error\": \"TypeError: no\"}"), Ok(Answer::Error(error)) if error == "TypeError: no"));
        assert!(read("Traceback").is_err());
    }
}
