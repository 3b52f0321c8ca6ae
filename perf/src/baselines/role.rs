//! Other systems that are libraries run their other side in this very program again, with a hidden first argument.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process;

use super::server::Launch;
use super::{BaselineError, grpc, iceoryx2};

/// The hidden first argument; the role follows, and its own words.
const ROLE_ARGUMENT: &str = "__perf-role";

/// Becomes the other side of a system if this process was started as one, and then never returns. `main` calls this before
/// anything else.
pub fn serve_role_if_asked() {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() != Some(ROLE_ARGUMENT) {
        return;
    }
    let role = arguments.next().unwrap_or_default();
    let words: Vec<String> = arguments.collect();
    let outcome: Result<(), Box<dyn Error>> = match role.as_str() {
        iceoryx2::ROLE => iceoryx2::serve(&words).map_err(Into::into),
        grpc::ROLE => grpc::serve().map_err(Into::into),
        unknown => Err(format!("there is no role `{unknown}`").into()),
    };
    if let Err(error) = &outcome {
        eprintln!("{role}: {error}");
    }
    process::exit(i32::from(outcome.is_err()));
}

/// This very program, also when its file was replaced since it started. By our own number: it is started by way of another
/// program, whose `/proc/self` is not ours.
#[must_use]
pub fn this_program() -> PathBuf {
    PathBuf::from(format!("/proc/{}/exe", process::id()))
}

/// A launch of `program` in a role.
///
/// # Errors
/// As [`Launch::new`].
pub(super) fn launch(name: &'static str, program: &Path, role: &str) -> Result<Launch, BaselineError> {
    Ok(Launch::new(name, program)?.arg(ROLE_ARGUMENT).arg(role))
}
