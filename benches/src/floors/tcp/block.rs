//! A block filled by one side, received whole by the other before it answers, sent back and checked: what a large payload
//! over the network is compared with. Both sides block.

use std::hint::black_box;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;

use super::super::bulk::{expected_sum, fill, sum};
use super::super::peer::Orders;
use super::super::ping_pong::Waiting;
use super::super::session::Session;
use super::super::{Batch, Config, FloorError, Samples, timed};
use super::{connected_pair, number_in, receive_all, send_all};
use crate::interleave::{Series, SeriesError};

pub(in super::super) const ROLE: &str = "tcp-block";
const NAME: &str = "TCP echo of a whole block, filled and checked";

/// The floor, open for rounds.
#[derive(Debug)]
pub struct TcpBlock {
    session: Session,
    stream: TcpStream,
    block: Vec<u8>,
    answer: Vec<u8>,
    calls: u64,
}

impl TcpBlock {
    /// Connects and starts the other side. Blocks are multiples of 8 bytes.
    ///
    /// # Errors
    /// Any [`FloorError`].
    ///
    /// # Panics
    /// If the block is empty or not a whole number of words.
    pub fn open(block_bytes: usize, config: &Config) -> Result<Self, FloorError> {
        assert!(block_bytes > 0 && block_bytes.is_multiple_of(8), "a block of {block_bytes} bytes has no whole words");
        let (stream, theirs) = connected_pair()?;
        let session = Session::open(NAME, ROLE, config, &[theirs.as_fd()], &[block_bytes.to_string()])?;
        // Written once, so that the pages exist.
        Ok(Self { session, stream, block: vec![1; block_bytes], answer: vec![1; block_bytes], calls: 0 })
    }

    /// One round of exchanges.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let Self { session, stream, block, answer, calls } = self;
        session.round(batch.operations(), &|| {}, || timed(batch, || exchange(stream, block, answer, calls)))
    }
}

fn exchange(stream: &TcpStream, block: &mut [u8], answer: &mut [u8], calls: &mut u64) -> Result<(), FloorError> {
    fill(block, *calls);
    send_all(stream, block, Waiting::Park).map_err(FloorError::system("write to a socket"))?;
    receive_all(stream, answer, Waiting::Park).map_err(FloorError::system("read from a socket"))?;
    let (expected, found) = (expected_sum(block.len(), *calls), black_box(sum(answer)));
    *calls += 1;
    if expected == found { Ok(()) } else { Err(FloorError::WrongAnswer { floor: NAME, expected, answer: found }) }
}

impl Series for TcpBlock {
    fn label(&self) -> String {
        self.session.config().label(NAME)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// The peer's side.
pub(in super::super) fn serve(mut orders: Orders) -> io::Result<()> {
    let stream = TcpStream::from(orders.take_fd()?);
    let mut block = vec![1; number_in(&orders, 0, "block size")?];
    orders.serve(|operations| {
        for _ in 0..operations {
            receive_all(&stream, &mut block, Waiting::Park)?;
            send_all(&stream, &block, Waiting::Park)?;
        }
        Ok(())
    })
}
