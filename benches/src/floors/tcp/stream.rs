//! Blocks in one direction: what large messages over the network are compared with. Both sides block; the receiver checks
//! the first word of each block and answers once a round, when it has the last one.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;

use super::super::peer::Orders;
use super::super::ping_pong::Waiting;
use super::super::session::Session;
use super::super::{Batch, Config, FloorError, Samples, timed};
use super::{connected_pair, number_in, receive_all, send_all};
use crate::interleave::{Series, SeriesError};

pub(in super::super) const ROLE: &str = "tcp-stream";
const NAME: &str = "raw TCP stream of blocks";
const WORD_BYTES: usize = 8;

/// The floor, open for rounds.
#[derive(Debug)]
pub struct TcpBlocks {
    session: Session,
    stream: TcpStream,
    block: Vec<u8>,
    sent: u64,
}

impl TcpBlocks {
    /// Connects and starts the other side.
    ///
    /// # Errors
    /// Any [`FloorError`].
    ///
    /// # Panics
    /// If a block has no room for a word.
    pub fn open(block_bytes: usize, config: &Config) -> Result<Self, FloorError> {
        assert!(block_bytes >= WORD_BYTES, "a block of {block_bytes} bytes has no word to check");
        let (stream, theirs) = connected_pair()?;
        let session = Session::open(NAME, ROLE, config, &[theirs.as_fd()], &[block_bytes.to_string()])?;
        // Written once, so that the pages exist.
        Ok(Self { session, stream, block: vec![1; block_bytes], sent: 0 })
    }

    /// One round: the last block is counted when the other side has all of them.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let Self { session, stream, block, sent } = self;
        let mut left = batch.operations();
        session.round(batch.operations(), &|| {}, || {
            timed(batch, || {
                *sent += 1;
                left -= 1;
                block[..WORD_BYTES].copy_from_slice(&sent.to_le_bytes());
                send_all(&*stream, block, Waiting::Park).map_err(FloorError::system("write to a socket"))?;
                if left > 0 { Ok(()) } else { expect_answer(stream, *sent) }
            })
        })
    }
}

fn expect_answer(stream: &TcpStream, expected: u64) -> Result<(), FloorError> {
    let mut word = [0; WORD_BYTES];
    receive_all(stream, &mut word, Waiting::Park).map_err(FloorError::system("read from a socket"))?;
    let answer = u64::from_le_bytes(word);
    if answer == expected { Ok(()) } else { Err(FloorError::WrongAnswer { floor: NAME, expected, answer }) }
}

impl Series for TcpBlocks {
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
    let mut received = 0_u64;
    orders.serve(|operations| {
        for _ in 0..operations {
            receive_all(&stream, &mut block, Waiting::Park)?;
            received += 1;
            if block[..WORD_BYTES] != received.to_le_bytes() {
                return Err(io::Error::other("a block came out of order"));
            }
        }
        send_all(&stream, &received.to_le_bytes(), Waiting::Park)
    })
}
