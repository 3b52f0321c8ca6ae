//! The functions that workers run in these measurements, beside those of `praas_benches::subject`. A file per plot that
//! needs some; each has one `with_…` that adds its own, called here.

pub mod local;
pub mod message;
pub mod state;
pub mod storage;

use praas_function::Application;

/// Adds them to a worker's application.
#[must_use]
pub fn with_functions(application: Application) -> Application {
    storage::with_storage(state::with_state(message::with_message(local::with_local(application))))
}
