//! What this program becomes when it is started by itself: a worker, a server, a keeper or the steady caller.

use std::env;
use std::error::Error;
use std::process;

use praas_function::Application;

use super::{functions, running_server, steady};

/// The hidden first arguments.
pub(super) const SERVER_ARGUMENT: &str = "__bench-server";
pub(super) const KEEPER_ARGUMENT: &str = "__bench-keeper";
pub(super) const STEADY_ARGUMENT: &str = "__bench-steady";

/// Becomes what this process was started as by a bar, and then never returns. Every program that measures bars calls
/// this before anything else in `main`.
pub fn serve_role_if_asked() {
    serve_role_if_asked_with(|application| application);
}

/// The same of a program that measures functions of its own, which `extend` adds to every worker.
pub fn serve_role_if_asked_with(extend: impl FnOnce(Application) -> Application) {
    if praas_function::is_worker() {
        extend(functions::application()).run();
    }
    let mut arguments = env::args_os().skip(1);
    let Some(role) = arguments.next().and_then(|role| role.into_string().ok()) else { return };
    let outcome: Result<(), Box<dyn Error>> = match role.as_str() {
        SERVER_ARGUMENT => running_server::serve(arguments),
        KEEPER_ARGUMENT => praas_server::keeper::run().map_err(Into::into),
        STEADY_ARGUMENT => steady::serve(arguments),
        _ => return,
    };
    if let Err(error) = &outcome {
        eprintln!("{role}: {error}");
    }
    process::exit(i32::from(outcome.is_err()));
}
