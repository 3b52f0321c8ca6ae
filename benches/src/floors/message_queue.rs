//! Ping-pong of 64 bytes through two POSIX message queues.

use std::io;
use std::os::fd::AsFd;

use super::cell::PAYLOAD_BYTES;
use super::peer::Orders;
use super::queue::Queue;
use super::session::Session;
use super::{Batch, Config, FloorError, Samples, timed};
use crate::interleave::{Series, SeriesError};

pub(super) const ROLE: &str = "message-queue";
const NAME: &str = "POSIX message queue ping-pong";
/// Messages that a queue holds: one in flight, one that tells of the peer's death.
const QUEUE_MESSAGES: u32 = 2;

/// The floor, open for rounds.
#[derive(Debug)]
pub struct MessageQueue {
    session: Session,
    requests: Queue,
    replies: Queue,
    calls: u64,
}

impl MessageQueue {
    /// Makes the queues and starts the other side.
    ///
    /// # Errors
    /// Any [`FloorError`], such as a kernel without POSIX message queues.
    pub fn open(config: &Config) -> Result<Self, FloorError> {
        let requests = Queue::create(QUEUE_MESSAGES, PAYLOAD_BYTES)?;
        let replies = Queue::create(QUEUE_MESSAGES, PAYLOAD_BYTES)?;
        let session = Session::open(NAME, ROLE, config, &[requests.as_fd(), replies.as_fd()], &[])?;
        Ok(Self { session, requests, replies, calls: 0 })
    }

    /// One round of calls.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let (requests, replies) = (&self.requests, &self.replies);
        let calls = &mut self.calls;
        self.session.round(batch.operations(), &|| replies.end_wait(requests), || {
            timed(batch, || {
                let mut message = [0_u8; PAYLOAD_BYTES];
                message[..8].copy_from_slice(&calls.to_ne_bytes());
                requests.send(&message).map_err(FloorError::system("send to a message queue"))?;
                let mut answer = [0_u8; PAYLOAD_BYTES];
                let received =
                    replies.receive(&mut answer).map_err(FloorError::system("receive from a message queue"))?;
                super::expect_echo(NAME, &message, answer.get(..received))?;
                *calls += 1;
                Ok(())
            })
        })
    }
}

impl Series for MessageQueue {
    fn label(&self) -> String {
        self.session.config().label(NAME)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// The peer's side.
pub(super) fn serve(mut orders: Orders) -> io::Result<()> {
    let requests = Queue::from(orders.take_fd()?);
    let replies = Queue::from(orders.take_fd()?);
    orders.serve(|operations| {
        let mut message = [0_u8; PAYLOAD_BYTES];
        for _ in 0..operations {
            let received = requests.receive(&mut message)?;
            replies.send(message.get(..received).unwrap_or(&[]))?;
        }
        Ok(())
    })
}
