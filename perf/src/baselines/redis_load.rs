//! A load of `GET`s on many connections of a Redis, by the thread that loads praas too: several requests leave in one write, and
//! the next ones when all are answered, as `redis-benchmark -P` does. Each answer is compared with what was stored.

use std::net::{SocketAddr, ToSocketAddrs};

use praas_benches::floors::{Crowd, Exchange, FloorError, Load, Taken, connect};
use praas_benches::interleave::SeriesError;

use super::BaselineError;
use super::redis::{RedisClient, RedisEndpoint, SYSTEM};

const KEY: &str = "load";
/// Bytes of the value: as many as a call carries.
const VALUE_BYTES: usize = 64;

/// Requests for one value, and what each is answered with.
#[derive(Debug)]
pub struct Gets {
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// A load of as many connections and requests as `crowd` says on a Redis that listens on TCP. Stores the value first.
///
/// # Errors
/// Any [`BaselineError`], or that it cannot be reached.
pub fn load(endpoint: &RedisEndpoint, crowd: Crowd) -> Result<Load<Gets>, SeriesError> {
    let value: Vec<u8> = (b'0'..).take(VALUE_BYTES).collect();
    RedisClient::connect(endpoint)?.set(KEY, &value)?;
    let streams = (0..crowd.connections).map(|_| connect(address(endpoint)?).map_err(SeriesError::from));
    Ok(Load::new(Gets::of(&value), streams.collect::<Result<_, _>>()?, crowd.in_flight)?)
}

fn address(endpoint: &RedisEndpoint) -> Result<SocketAddr, SeriesError> {
    let RedisEndpoint::Tcp(address) = endpoint else { return Err("a load takes a Redis that listens on TCP".into()) };
    address.to_socket_addrs()?.next().ok_or_else(|| format!("{address} is no address").into())
}

impl Gets {
    fn of(value: &[u8]) -> Self {
        let request = format!("*2\r\n$3\r\nGET\r\n${}\r\n{KEY}\r\n", KEY.len()).into_bytes();
        let answer = [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
        Self { request, answer }
    }
}

/// An answer was another one.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The connections broke.
    #[error(transparent)]
    Floor(#[from] FloorError),
    /// It said something else.
    #[error(transparent)]
    Answer(#[from] BaselineError),
}

impl Exchange for Gets {
    type Error = LoadError;

    #[inline]
    fn ask(&mut self, _connection: usize, calls: u32, out: &mut Vec<u8>) {
        (0..calls).for_each(|_| out.extend_from_slice(&self.request));
    }

    #[inline]
    fn take(&mut self, _connection: usize, bytes: &[u8]) -> Result<Taken, LoadError> {
        let mut taken = Taken::default();
        for answer in bytes.chunks_exact(self.answer.len()) {
            if answer != self.answer {
                return Err(wrong(answer).into());
            }
            taken.answers += 1;
            taken.bytes += answer.len();
        }
        Ok(taken)
    }
}

#[cold]
fn wrong(answer: &[u8]) -> BaselineError {
    let actual = String::from_utf8_lossy(answer).escape_debug().to_string();
    BaselineError::WrongAnswer { system: SYSTEM, expected: "the value that was stored".to_owned(), actual }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_whole_wherever_the_bytes_are_cut() {
        let mut gets = Gets::of(b"a value");
        let bytes = gets.answer.repeat(3);
        for cut in 0..=bytes.len() {
            let taken = gets.take(0, &bytes[..cut]).expect("they are right");
            let whole = cut / gets.answer.len();
            assert_eq!((taken.answers as usize, taken.bytes), (whole, whole * gets.answer.len()), "cut at {cut}");
        }
        let mut request = Vec::new();
        gets.ask(0, 2, &mut request);
        assert_eq!(request, b"*2\r\n$3\r\nGET\r\n$4\r\nload\r\n".repeat(2));
    }

    #[test]
    fn another_value_is_told() {
        let error = Gets::of(b"a value").take(0, b"$7\r\nb value\r\n").expect_err("it was never stored");
        assert!(error.to_string().contains("b value"), "{error}");
    }
}
