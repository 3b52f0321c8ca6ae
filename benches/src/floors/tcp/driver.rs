//! The echo of many connections by the project's own network drivers: the same loop over either.

use std::io;

use praas_sys::driver::{Completion, Driver, DriverChoice, DriverLimits, End, Outgoing, SourceId, open};

use super::super::peer::Orders;
use super::crowd::{accept_all, bytes_of};

pub(in super::super) const IO_URING_ROLE: &str = "tcp-crowd-io-uring-driver";
pub(in super::super) const EPOLL_ROLE: &str = "tcp-crowd-epoll-driver";

type AnyDriver = Box<dyn Driver<Vec<u8>>>;

/// A connection of the server.
struct Connection {
    source: SourceId,
    /// What to send next; away while it is being sent.
    message: Option<Outgoing<Vec<u8>>>,
    /// Bytes that came while the message was away.
    waiting: Vec<u8>,
}

/// The peer's side.
pub(in super::super) fn serve(mut orders: Orders, choice: DriverChoice) -> io::Result<()> {
    let streams = accept_all(&mut orders)?;
    let mut driver = open::<Vec<u8>>(choice, DriverLimits::default()).map_err(io::Error::other)?.driver;
    let mut connections = Vec::with_capacity(streams.len());
    for (index, stream) in streams.into_iter().enumerate() {
        let source = driver.add_connection(stream.into(), index as u64).map_err(|refused| other(&refused))?;
        driver.receive(source).map_err(|refused| other(&refused))?;
        connections.push(Connection { source, message: Some(Outgoing::new()), waiting: Vec::new() });
    }
    let mut completions = Vec::new();
    orders.serve(|operations| {
        let mut missing = bytes_of(operations);
        while missing > 0 {
            driver.wait(None, &mut completions).map_err(io::Error::other)?;
            for completion in completions.drain(..) {
                missing = missing.saturating_sub(complete(&mut driver, &mut connections, completion)? as u64);
            }
        }
        Ok(())
    })
}

/// Goes on where the completion leads; how many bytes have been sent back.
fn complete(
    driver: &mut AnyDriver,
    connections: &mut [Connection],
    completion: Completion<Vec<u8>>,
) -> io::Result<usize> {
    match completion {
        Completion::Received { token, bytes } => {
            let connection = connection(connections, token)?;
            match connection.message.take() {
                Some(mut message) => {
                    message.push_bytes(&bytes);
                    driver.send(connection.source, message).map_err(|refused| other(&refused))?;
                }
                None => connection.waiting.extend_from_slice(&bytes),
            }
            Ok(0)
        }
        Completion::Sent { token, mut message, bytes, end: End::Done } => {
            let connection = connection(connections, token)?;
            message.clear();
            if connection.waiting.is_empty() {
                connection.message = Some(message);
            } else {
                message.push_bytes(&connection.waiting);
                connection.waiting.clear();
                driver.send(connection.source, message).map_err(|refused| other(&refused))?;
            }
            Ok(bytes)
        }
        ended => Err(io::Error::other(format!("a connection ended: {ended:?}"))),
    }
}

fn connection(connections: &mut [Connection], token: u64) -> io::Result<&mut Connection> {
    let index = usize::try_from(token).map_err(io::Error::other)?;
    connections.get_mut(index).ok_or_else(|| io::Error::other(format!("nobody gave the token {token}")))
}

fn other<T>(refused: &praas_sys::driver::Refused<T>) -> io::Error {
    io::Error::other(refused.refusal)
}
