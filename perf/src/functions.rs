//! The functions that workers run in these measurements, beside those of `praas_benches::subject`. Each plot that needs some
//! adds them here.

use praas_function::Application;

/// Adds them to a worker's application.
#[must_use]
pub fn with_functions(application: Application) -> Application {
    application
}
