//! The peer's entry: which loop a started peer runs.

use std::env;
use std::io;
use std::process;

use super::peer::{Orders, PEER_ARGUMENT};
use super::ping_pong::{self, Waiting};
use super::{background, bare_ring, bulk, message_queue, one_way, payload_echo, tcp, unix_stream};

/// Becomes the other side of a floor if this process was started as one, and then never returns. Every program that
/// measures floors calls this before anything else in `main`.
pub fn serve_peer_if_asked() {
    serve_peer_if_asked_with(unknown);
}

/// The same of a program that has roles of its own, which `others` serves by their names; it answers those that it does not
/// have by [`ErrorKind::InvalidInput`](io::ErrorKind::InvalidInput).
pub fn serve_peer_if_asked_with(others: impl FnOnce(&str, Orders) -> io::Result<()>) {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_none_or(|argument| argument != PEER_ARGUMENT) {
        return;
    }
    let role = arguments.next().and_then(|role| role.into_string().ok()).unwrap_or_default();
    let outcome = Orders::take_over(arguments).and_then(|orders| serve(&role, orders, others));
    if let Err(error) = &outcome {
        eprintln!("floor peer `{role}`: {error}");
    }
    process::exit(i32::from(outcome.is_err()));
}

fn serve(role: &str, orders: Orders, others: impl FnOnce(&str, Orders) -> io::Result<()>) -> io::Result<()> {
    match role {
        background::ROLE => background::serve(orders),
        ping_pong::SPIN_ROLE => ping_pong::serve(orders, Waiting::Spin),
        ping_pong::PARK_ROLE => ping_pong::serve(orders, Waiting::Park),
        one_way::SPIN_ROLE => one_way::serve(orders, Waiting::Spin),
        one_way::PARK_ROLE => one_way::serve(orders, Waiting::Park),
        message_queue::ROLE => message_queue::serve(orders),
        unix_stream::ROLE => unix_stream::serve(orders),
        bare_ring::ROLE => bare_ring::serve(orders),
        bulk::ROLE => bulk::serve(orders),
        payload_echo::ROLE => payload_echo::serve(orders),
        tcp::SPIN_ROLE => tcp::serve_echo(orders, Waiting::Spin),
        tcp::PARK_ROLE => tcp::serve_echo(orders, Waiting::Park),
        tcp::BLOCK_ROLE => tcp::serve_block(orders),
        tcp::STREAM_ROLE => tcp::serve_stream(orders),
        tcp::EPOLL_ROLE => tcp::serve_by_epoll(orders),
        #[cfg(feature = "bars")]
        tcp::IO_URING_DRIVER_ROLE => tcp::serve_by_driver(orders, praas_sys::driver::DriverChoice::IoUring),
        #[cfg(feature = "bars")]
        tcp::EPOLL_DRIVER_ROLE => tcp::serve_by_driver(orders, praas_sys::driver::DriverChoice::Epoll),
        #[cfg(feature = "tokio-uring")]
        tcp::TOKIO_URING_ROLE => tcp::serve_by_tokio_uring(orders),
        #[cfg(feature = "bars")]
        super::redis_queue::ROLE => super::redis_queue::serve(orders),
        #[cfg(feature = "bars")]
        super::shared_memory_crate::ROLE => super::shared_memory_crate::serve(&orders),
        other => others(other, orders),
    }
}

fn unknown(role: &str, orders: Orders) -> io::Result<()> {
    // Nobody is to wait for an answer.
    drop(orders);
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("unknown role `{role}`")))
}
