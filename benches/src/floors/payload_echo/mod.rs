//! A payload of any size that is filled by the caller, received whole by the other side before it answers, sent back and
//! checked byte by byte: what a call with a payload is compared with, over whatever carries it.
//!
//! What is copied: a queue, a pipe of the kernel or a connection copies into the kernel and out of it, each way. In shared memory
//! the caller fills the request in place, the other side copies it to where the answer lies, and the caller checks it there.

mod medium;
mod shared;

use std::io;
use std::os::fd::BorrowedFd;

use super::peer::Orders;
use super::session::Session;
use super::tcp::number_in;
use super::{Batch, Config, FloorError, Samples, fill, is_filled, timed};
use crate::interleave::{Series, SeriesError};

use medium::{Link, PeerLink};
pub use medium::{Medium, QUEUE_MESSAGE_BYTES, QUEUE_MESSAGES};

pub(super) const ROLE: &str = "payload-echo";

/// The floor, open for rounds.
#[derive(Debug)]
pub struct PayloadEcho {
    session: Session,
    medium: Medium,
    link: Link,
    request: Vec<u8>,
    answer: Vec<u8>,
    calls: u64,
}

impl PayloadEcho {
    /// Makes what carries the payload, and starts the other side.
    ///
    /// # Errors
    /// Any [`FloorError`]; spinning on one core is refused.
    ///
    /// # Panics
    /// If the payload is empty.
    pub fn open(medium: Medium, payload_bytes: usize, config: &Config) -> Result<Self, FloorError> {
        assert!(payload_bytes > 0, "an empty payload cannot be checked");
        medium.waiting().check(medium.name(), config.placement)?;
        let (link, theirs) = Link::open(medium, payload_bytes)?;
        let fds: Vec<BorrowedFd<'_>> = link.fds_for_peer(&theirs);
        let arguments = [medium.word().to_owned(), payload_bytes.to_string()];
        let session = Session::open(medium.name(), ROLE, config, &fds, &arguments)?;
        // Written once, so that the pages exist.
        let request = vec![1; payload_bytes];
        let answer = vec![1; medium::room_bytes(payload_bytes)];
        Ok(Self { session, medium, link, request, answer, calls: 0 })
    }

    /// One round of exchanges.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let Self { session, medium, link, request, answer, calls } = self;
        let ender = link.ender()?;
        let floor = medium.name();
        session.round(batch.operations(), &|| ender.end_wait(), || {
            timed(batch, || {
                *calls += 1;
                let seed = *calls;
                let is_right = match &mut *link {
                    Link::Shared(ours) => ours.fill_and_check(seed).map_err(|_| FloorError::PeerGone { floor })?,
                    link => {
                        fill(request, seed);
                        link.send(request).map_err(FloorError::system("send a payload"))?;
                        link.receive(answer, request.len()).map_err(FloorError::system("receive a payload"))?;
                        is_filled(&answer[..request.len()], seed)
                    }
                };
                if is_right { Ok(()) } else { Err(FloorError::WrongAnswer { floor, expected: seed, answer: 0 }) }
            })
        })
    }
}

impl Series for PayloadEcho {
    fn label(&self) -> String {
        self.session.config().label(self.medium.name())
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// The peer's side.
pub(super) fn serve(mut orders: Orders) -> io::Result<()> {
    let medium = orders.arguments.first().and_then(|word| Medium::named(word.to_str()?));
    let medium = medium.ok_or_else(|| io::Error::other("the parent named no medium"))?;
    let payload_bytes = number_in(&orders, 1, "payload size")?;
    let mut link = PeerLink::take(medium, &mut orders, payload_bytes)?;
    orders.serve(|operations| (0..operations).try_for_each(|_| link.echo()))
}
