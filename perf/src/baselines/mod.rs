//! The systems that praas is measured beside, real and at their best. Each is a file of its own; what has to be installed
//! is installed by `perf/setup` into a private folder, and started on loopback or a Unix socket.

pub mod control;
pub mod echo_payload;
mod error;
pub mod grpc;
pub mod http;
pub mod iceoryx2;
pub mod install;
pub mod locked;
pub mod messages;
pub mod prototype;
pub mod ray;
pub mod redis;
pub mod redis_load;
pub mod role;
pub mod s3;
pub mod server;
pub mod workerd;

pub use error::BaselineError;
