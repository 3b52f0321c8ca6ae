//! The research prototype's local path, rebuilt: a function that calls another one of its own process, over POSIX message queues.
//!
//! Three processes of the system: the calling function (who measures), a controller, and the function that is called. A call
//! goes from the caller to the controller, from it to the called one, back to the controller and back to the caller: four
//! passes, each through a queue of its own, 8 KiB at a time, five messages deep. Each pass copies the payload into the kernel and out of
//! it: eight copies. Its header travels in a message of its own. The controller is one thread that waits for either
//! queue, and then takes a message whole, and sends it on whole, in calls that block.
//!
//! Kinder than the original: nothing is logged, nothing is serialised, rooms for payloads are kept, and the called function
//! sends its input back from where it received it. The payload is filled and checked by the caller, as everywhere here.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use praas_benches::floors::{
    Batch, Config, FloorError, Orders, Placement, Queue, Samples, Session, fill, is_filled, timed,
};

/// How the rows call it.
pub const SYSTEM: &str = "praas prototype (replica)";
/// Messages that a queue holds.
pub const QUEUE_MESSAGES: u32 = 5;
/// Bytes of a message: the prototype's default, and the most that the kernel allows by default.
pub const QUEUE_MESSAGE_BYTES: usize = 8192;

const CONTROLLER: &str = "the prototype's controller";
const CONTROLLER_ROLE: &str = "prototype-controller";
const FUNCTION: &str = "the prototype's function";
const FUNCTION_ROLE: &str = "prototype-function";
/// The function that is called, by its name in the header.
const NOOP: &[u8] = b"noop";
/// What a request's header says it is.
const REQUEST: u64 = 1;
/// The same of a result's.
const RESULT: u64 = 2;
/// Bytes of a header, as in the original.
const HEADER_BYTES: usize = 128;
/// Bytes of a function's name in it.
const NAME_BYTES: usize = 32;

/// What goes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    kind: u64,
    invocation: u64,
    payload_bytes: usize,
    function: [u8; NAME_BYTES],
}

impl Header {
    fn new(kind: u64, invocation: u64, payload_bytes: usize) -> Self {
        let mut function = [0; NAME_BYTES];
        function[..NOOP.len()].copy_from_slice(NOOP);
        Self { kind, invocation, payload_bytes, function }
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let (words, _) = bytes.as_chunks_mut::<8>();
        words[0] = self.kind.to_le_bytes();
        words[1] = self.invocation.to_le_bytes();
        words[2] = (self.payload_bytes as u64).to_le_bytes();
        bytes[24..24 + NAME_BYTES].copy_from_slice(&self.function);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |index: usize| words.get(index).map(|word| u64::from_le_bytes(*word));
        if bytes.len() != HEADER_BYTES {
            return None;
        }
        let function = bytes[24..24 + NAME_BYTES].try_into().ok()?;
        Some(Self { kind: word(0)?, invocation: word(1)?, payload_bytes: usize::try_from(word(2)?).ok()?, function })
    }
}

/// Both queues of a function, seen from it, and room for a message and for a payload.
#[derive(Debug)]
struct Channel {
    outgoing: Queue,
    incoming: Queue,
    message: Vec<u8>,
    payload: Vec<u8>,
}

impl Channel {
    fn new(outgoing: Queue, incoming: Queue) -> Self {
        Self { outgoing, incoming, message: vec![0; QUEUE_MESSAGE_BYTES], payload: Vec::new() }
    }

    fn send(&self, header: Header, payload: &[u8]) -> io::Result<()> {
        self.outgoing.send(&header.to_bytes())?;
        self.outgoing.send_whole(payload, QUEUE_MESSAGE_BYTES)
    }

    /// Receives a message whole. Its payload is in `self.payload`.
    fn receive(&mut self) -> io::Result<Header> {
        let received = self.incoming.receive(&mut self.message)?;
        if received == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let header = Header::from_bytes(&self.message[..received]).ok_or(ErrorKind::InvalidData)?;
        let room_bytes = header.payload_bytes.next_multiple_of(QUEUE_MESSAGE_BYTES);
        if self.payload.len() < room_bytes {
            // Written, so that the pages exist; kept, as the original keeps its buffers.
            self.payload.resize(room_bytes, 1);
        }
        self.incoming.receive_whole(&mut self.payload, header.payload_bytes, QUEUE_MESSAGE_BYTES)?;
        Ok(header)
    }

    fn received(&self, header: Header) -> &[u8] {
        &self.payload[..header.payload_bytes]
    }
}

/// The three processes, of which this is the calling one.
#[derive(Debug)]
pub struct Prototype {
    controller: Session,
    function: Session,
    channel: Channel,
    request: Vec<u8>,
    calls: u64,
}

impl Prototype {
    /// Makes the queues and starts the two other processes. With two cores, the functions share the caller's and the
    /// controller has the other.
    ///
    /// # Errors
    /// Any [`FloorError`], such as a kernel without POSIX message queues.
    pub fn open(config: &Config) -> Result<Self, FloorError> {
        let [to_controller, to_caller, from_function, to_function] = [queue()?, queue()?, queue()?, queue()?];
        let fds = [to_controller.as_fd(), to_caller.as_fd(), from_function.as_fd(), to_function.as_fd()];
        let controller = Session::open(CONTROLLER, CONTROLLER_ROLE, config, &fds, &[])?;
        let beside_caller = match config.placement() {
            Placement::TwoCores { caller, .. } => Placement::TwoCores { caller, peer: caller },
            other => other,
        };
        let fds = [from_function.as_fd(), to_function.as_fd()];
        let function = Session::open(FUNCTION, FUNCTION_ROLE, &config.clone().placed(beside_caller), &fds, &[])?;
        let channel = Channel::new(to_controller, to_caller);
        Ok(Self { controller, function, channel, request: Vec::new(), calls: 0 })
    }

    /// One round of calls whose payload has so many bytes.
    ///
    /// # Errors
    /// Any [`FloorError`], after which it is spent.
    pub fn round(&mut self, batch: Batch, payload_bytes: usize) -> Result<Samples, FloorError> {
        let Self { controller, function, channel, request, calls } = self;
        request.clear();
        request.resize(payload_bytes, 1);
        let share = |queue: &Queue| queue.as_fd().try_clone_to_owned().map(Queue::from);
        let shared = |source| FloorError::System { action: "share a descriptor", source };
        let (outgoing, incoming) =
            (share(&channel.outgoing).map_err(shared)?, share(&channel.incoming).map_err(shared)?);
        // Once, whichever of the others is found dead: the caller takes one message that tells it so.
        let is_ended = AtomicBool::new(false);
        let end_wait = || {
            if !is_ended.swap(true, Ordering::Relaxed) {
                incoming.end_wait(&outgoing);
            }
        };
        controller.round(batch.operations(), &end_wait, || {
            function.round(batch.operations(), &end_wait, || {
                timed(batch, || {
                    *calls += 1;
                    call(channel, request, *calls)
                })
            })
        })
    }
}

fn queue() -> Result<Queue, FloorError> {
    Queue::create(QUEUE_MESSAGES, QUEUE_MESSAGE_BYTES)
}

fn call(channel: &mut Channel, request: &mut [u8], number: u64) -> Result<(), FloorError> {
    fill(request, number);
    let asked = channel.send(Header::new(REQUEST, number, request.len()), request);
    let header = asked
        .and_then(|()| channel.receive())
        .map_err(|source| FloorError::System { action: "call through the prototype", source })?;
    let is_expected = header == Header::new(RESULT, number, request.len());
    if is_expected && is_filled(channel.received(header), number) {
        return Ok(());
    }
    Err(FloorError::WrongAnswer { floor: CONTROLLER, expected: number, answer: header.invocation })
}

/// Becomes one of the other two processes.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for a role that is none of theirs.
pub fn serve(role: &str, orders: Orders) -> io::Result<()> {
    match role {
        CONTROLLER_ROLE => serve_controller(orders),
        FUNCTION_ROLE => serve_function(orders),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, format!("unknown role `{role}`"))),
    }
}

fn serve_controller(mut orders: Orders) -> io::Result<()> {
    let mut channel = || -> io::Result<Channel> {
        let (from, to) = (orders.take_fd()?.into(), orders.take_fd()?.into());
        Ok(Channel::new(to, from))
    };
    let mut functions = [channel()?, channel()?];
    // Who waits for which invocation's result.
    let mut callers = HashMap::new();
    orders.serve(|operations| {
        for _ in 0..2 * operations {
            let sender = Queue::wait_for_any(&[&functions[0].incoming, &functions[1].incoming])?;
            let header = functions[sender].receive()?;
            let receiver = match header.kind {
                REQUEST => {
                    callers.insert(header.invocation, sender);
                    // The one that is idle: who calls waits for the result.
                    1 - sender
                }
                RESULT => callers.remove(&header.invocation).ok_or(ErrorKind::InvalidData)?,
                _ => return Err(ErrorKind::InvalidData.into()),
            };
            functions[receiver].send(header, functions[sender].received(header))?;
        }
        Ok(())
    })
}

fn serve_function(mut orders: Orders) -> io::Result<()> {
    let (outgoing, incoming) = (orders.take_fd()?.into(), orders.take_fd()?.into());
    let mut channel = Channel::new(outgoing, incoming);
    orders.serve(|operations| {
        for _ in 0..operations {
            let header = channel.receive()?;
            if header.kind != REQUEST || !header.function.starts_with(NOOP) {
                return Err(ErrorKind::InvalidData.into());
            }
            channel.send(Header { kind: RESULT, ..header }, channel.received(header))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_from_its_bytes_and_from_no_others() {
        let header = Header::new(REQUEST, u64::MAX - 7, 5 << 20);
        assert_eq!(Header::from_bytes(&header.to_bytes()), Some(header));
        assert_eq!(Header::from_bytes(&header.to_bytes()[1..]), None);
        assert_eq!(Header::from_bytes(&[]), None);
    }

    #[test]
    fn a_message_comes_whole_with_its_header_apart() {
        let (outgoing, incoming) = (queue().expect("a queue"), queue().expect("a queue"));
        let other = |queue: &Queue| Queue::from(queue.as_fd().try_clone_to_owned().expect("a descriptor"));
        let mut there = Channel::new(other(&incoming), other(&outgoing));
        let here = Channel::new(outgoing, incoming);
        for payload_bytes in [1, 10, QUEUE_MESSAGE_BYTES, 3 * QUEUE_MESSAGE_BYTES + 1] {
            let mut payload = vec![0; payload_bytes];
            fill(&mut payload, 9);
            let header = Header::new(REQUEST, 9, payload_bytes);
            here.send(header, &payload).expect("it has room");
            assert_eq!(there.receive().expect("it came"), header);
            assert_eq!(there.received(header), payload);
        }
    }
}
