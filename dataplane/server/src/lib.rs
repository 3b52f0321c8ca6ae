//! The praas process server: a broker between clients and workers, and the keeper that outlives it.
#![forbid(unsafe_code)]

mod application;
mod budget;
mod limits;
mod log;
mod manifest;
mod output;

pub use application::{Application, ApplicationLimits, FieldError, Network};
pub use log::Level;
pub use manifest::{ManifestError, Problem, parse_bytes};
