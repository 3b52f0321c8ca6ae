//! The echo of many connections on tokio-uring, a task for each: a measured baseline, here and nowhere else.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio_uring::net::TcpStream;

use super::super::peer::Orders;
use super::crowd::{RECEIVE_BYTES, accept_all, bytes_of};

pub(in super::super) const ROLE: &str = "tcp-crowd-tokio-uring";

/// What the tasks of a round share.
#[derive(Default)]
struct Round {
    missing: Cell<u64>,
    /// Why a connection ended.
    failed: Cell<Option<io::Error>>,
    is_over: Notify,
}

/// The peer's side.
pub(in super::super) fn serve(mut orders: Orders) -> io::Result<()> {
    let streams = accept_all(&mut orders)?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())?;
    let round = Rc::new(Round::default());
    runtime.block_on(async {
        for stream in streams {
            // Its operations wait in the kernel; a socket that refuses instead would end them at once.
            stream.set_nonblocking(false)?;
            tokio_uring::spawn(connection(TcpStream::from_std(stream), Rc::clone(&round)));
        }
        io::Result::Ok(())
    })?;
    orders.serve(|operations| {
        round.missing.set(bytes_of(operations));
        runtime.block_on(round.is_over.notified());
        round.failed.take().map_or(Ok(()), Err)
    })
}

async fn connection(stream: TcpStream, round: Rc<Round>) {
    if let Err(error) = echo(&stream, &round).await {
        round.failed.set(Some(error));
        round.is_over.notify_one();
    }
}

async fn echo(stream: &TcpStream, round: &Round) -> io::Result<()> {
    use tokio_uring::buf::BoundedBuf;
    let mut bytes = vec![0; RECEIVE_BYTES];
    loop {
        let (received, buffer) = stream.read(bytes).await;
        let received = received?;
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (sent, slice) = stream.write_all(buffer.slice(..received)).await;
        sent?;
        bytes = slice.into_inner();
        round.missing.set(round.missing.get().saturating_sub(received as u64));
        if round.missing.get() == 0 {
            round.is_over.notify_one();
        }
    }
}
