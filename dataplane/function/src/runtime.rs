//! The `main` of a function binary: is this a worker, and if so of which server?
//!
//! A server starts the binary with [`WORKER_VARIABLE`] set, its control socket as descriptor 3 and a pipe to the keeper as
//! descriptor 4. Started in any other way, the binary says how it is used.

use praas_protocol::Name;
use praas_sys::inherited;
use praas_sys::message_socket::SocketError;

use crate::application::Application;
use crate::table::ApplicationError;
use crate::worker::{Ended, Worker, WorkerError};

/// The environment variable by which the server tells a function binary that it runs as a worker; any value.
pub const WORKER_VARIABLE: &str = "PRAAS_WORKER";

/// Number of the control socket in a worker.
pub const CONTROL_SOCKET_FD: i32 = 3;

/// Number of the pipe in a worker by whose end the keeper sees that the worker is gone. It is held and never used.
pub const KEEPER_PIPE_FD: i32 = 4;

const EXIT_CODE_FAILED: i32 = 1;
const EXIT_CODE_USAGE: i32 = 2;

/// Whether a praas server started this program as a worker, so that it should call [`Application::run`].
///
/// Only a program that is more than a function binary needs to ask.
#[must_use]
pub fn is_worker() -> bool {
    std::env::var_os(WORKER_VARIABLE).is_some()
}

/// [`Application::run`].
pub(crate) fn run(application: Application) -> ! {
    if !is_worker() {
        let check = application.into_parts().map(|(table, _)| table.names());
        eprint!("{}", usage(&check));
        std::process::exit(EXIT_CODE_USAGE);
    }
    match serve_inherited(application) {
        Ok(Ended::Told | Ended::ServerGone) => std::process::exit(0),
        Ok(Ended::Condemned) => std::process::exit(EXIT_CODE_FAILED),
        Err(error) => {
            eprintln!("praas worker: {error}");
            std::process::exit(EXIT_CODE_FAILED)
        }
    }
}

fn usage(functions: &Result<Vec<Name>, ApplicationError>) -> String {
    let functions = match functions {
        Ok(names) => format!("Its functions: {}", names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")),
        Err(error) => format!("It would not start: {error}"),
    };
    format!(
        "This program holds the functions of a praas application and is started by a praas server.\n\
         {functions}\n\
         Name it as `binary` in a praas.toml, then:\n\
         \x20   praas check praas.toml\n\
         \x20   praas serve praas.toml\n\
         \x20   praas invoke APPLICATION/PROCESS FUNCTION PAYLOAD\n"
    )
}

fn serve_inherited(application: Application) -> Result<Ended, WorkerError> {
    let taken = |number| inherited::take(number).map_err(|error| WorkerError::Inherited { number, error });
    let control = taken(CONTROL_SOCKET_FD)?;
    let _keeper_pipe = taken(KEEPER_PIPE_FD)?;
    inherited::ignore_terminal_signals();
    match Worker::start(control.into(), application) {
        Err(WorkerError::Socket(SocketError::Closed)) => Ok(Ended::ServerGone),
        started => started?.serve(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_names_the_functions_or_what_is_wrong_with_them() {
        let good = Application::new().function("zeta", |_| ()).function("alpha", |_| ());
        assert!(usage(&good.into_parts().map(|(table, _)| table.names())).contains("Its functions: alpha, zeta\n"));
        let bad = Application::new().function("same", |_| ()).function("same", |_| ());
        assert!(usage(&bad.into_parts().map(|(table, _)| table.names())).contains("function same is registered twice"));
    }
}
