//! What every network driver must do: each test runs with io_uring and with epoll, and says so where it cannot.
//!
//! Buffers count themselves, so that a test sees that each came back once, and carry a pattern, so that it sees a byte
//! that was written where none belongs.

mod accepting;
mod cancelling;
mod closing;
mod harness;
mod limits;
mod receiving;
mod sending;
mod waking;

/// Makes a test for each driver out of functions that take a harness.
macro_rules! for_each_driver {
    ($($name:ident),* $(,)?) => {
        mod io_uring {
            $(#[test] fn $name() {
                crate::harness::run(praas_sys::driver::DriverChoice::IoUring, concat!(module_path!(), "::", stringify!($name)), super::$name);
            })*
        }
        mod epoll {
            $(#[test] fn $name() {
                crate::harness::run(praas_sys::driver::DriverChoice::Epoll, concat!(module_path!(), "::", stringify!($name)), super::$name);
            })*
        }
    };
}
pub(crate) use for_each_driver;
