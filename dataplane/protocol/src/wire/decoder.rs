//! From a stream of bytes to frames, without copying payloads.
//!
//! The decoder owns nothing but the beginning of a frame that is not complete yet: of a REQUEST or RESPONSE never more
//! than its head, of any other frame never more than the table of kinds allows. Every length is checked when the header
//! is there, before a byte of the body is kept. What is complete in the given bytes is parsed where it lies.
//!
//! A payload is never held: what of it lies in the given bytes is handed out with the head, and the receiver may direct
//! the rest straight into other memory ([`Decoder::payload_received`]) or go on feeding bytes ([`Item::Payload`]).

use crate::FunctionId;
use crate::limits::{WIRE_HELD_BYTES_KEPT, WIRE_REQUEST_HEAD_BYTES};
use crate::wire::kind::KINDS;
use crate::wire::{Frame, HEADER_BYTES, Header, Kind, Request, Response, Side, WireError};

/// Reads the frames that one side sends.
#[derive(Debug)]
pub struct Decoder {
    sender: Side,
    payload_bytes_max: u32,
    expect: Expect,
    /// The beginning of an incomplete frame.
    held: Vec<u8>,
    /// Whether `held` was handed out as a frame and is to be forgotten.
    spent: bool,
    broken: Option<WireError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Frame,
    Payload { missing_bytes: u32 },
    Skipped { missing_bytes: u32 },
}

/// What [`Decoder::step`] found.
#[derive(Debug)]
pub struct Step<'a> {
    /// Bytes of the input that are done with; the next step is given those after them.
    pub consumed: usize,
    /// What they were; `None` if all of the input was taken and nothing is complete.
    pub item: Option<Item<'a>>,
}

/// A piece of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A whole frame that is neither a REQUEST nor a RESPONSE.
    Control {
        /// Its header, for the rules.
        header: Header,
        /// The frame.
        frame: Frame<'a>,
    },
    /// A call, with as much of its payload as is there.
    Request {
        /// Its header, for the rules.
        header: Header,
        /// The call.
        request: Request,
        /// The beginning of its payload, or all of it.
        payload: &'a [u8],
        /// Bytes of the payload still to come.
        missing_bytes: u32,
    },
    /// A call's answer, with as much of its payload as is there.
    Response {
        /// Its header, for the rules.
        header: Header,
        /// The answer.
        response: Response,
        /// The beginning of its payload, or all of it.
        payload: &'a [u8],
        /// Bytes of the payload still to come.
        missing_bytes: u32,
    },
    /// More of the payload of the last REQUEST or RESPONSE.
    Payload {
        /// The next bytes; never empty.
        bytes: &'a [u8],
        /// Bytes of the payload still to come.
        missing_bytes: u32,
    },
}

/// A whole call without optional fields: see [`Decoder::plain_call`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainCall<'a> {
    /// Its header, for the rules.
    pub header: Header,
    /// As in [`Request`].
    pub handle: u32,
    /// As in [`Request`].
    pub function: FunctionId,
    /// As in [`Request`].
    pub time_remaining_ns: u64,
    /// All of its payload.
    pub payload: &'a [u8],
    /// What follows it in the input.
    pub rest: &'a [u8],
}

impl Decoder {
    /// A decoder of what `sender` sends, on a connection that allows payloads of so many bytes.
    ///
    /// Before WELCOME the limit is 0: no call may come then.
    #[must_use]
    pub fn new(sender: Side, payload_bytes_max: u32) -> Self {
        Self { sender, payload_bytes_max, expect: Expect::Frame, held: Vec::new(), spent: false, broken: None }
    }

    /// Sets the limit that WELCOME or HANDED_OVER brought.
    pub fn set_payload_bytes_max(&mut self, payload_bytes_max: u32) {
        self.payload_bytes_max = payload_bytes_max;
    }

    /// Most bytes that a decoder of what `sender` sends ever holds.
    #[must_use]
    pub fn held_bytes_max(sender: Side) -> usize {
        let control = |kind: Kind| !matches!(kind, Kind::Request | Kind::Response);
        let frames = KINDS.iter().filter(|facts| facts.sender == sender && control(facts.kind));
        let longest = frames.map(|facts| facts.body_bytes_max as usize).max().unwrap_or(0);
        HEADER_BYTES + longest
    }

    /// Bytes of memory that the decoder holds now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.capacity()
    }

    /// Bytes of the current payload still to come.
    #[must_use]
    pub fn missing_payload_bytes(&self) -> u32 {
        match self.expect {
            Expect::Payload { missing_bytes } => missing_bytes,
            _ => 0,
        }
    }

    /// Whether the stream may end here without cutting a frame. Never after an error.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.broken.is_none() && self.expect == Expect::Frame && (self.held.is_empty() || self.spent)
    }

    /// Says that `bytes` of the current payload were received into other memory.
    ///
    /// # Panics
    /// If more were received than were missing: the receiver has then read into the next frame.
    pub fn payload_received(&mut self, bytes: u32) {
        let missing_bytes = self.missing_payload_bytes().checked_sub(bytes);
        let missing_bytes = missing_bytes.expect("a payload's receiver asks for no more than is missing");
        self.expect = after_payload(missing_bytes);
    }

    /// The next piece in `input`, which continues where the bytes consumed before it ended.
    ///
    /// Call it again with the bytes after `consumed` until it has no item.
    ///
    /// # Errors
    /// [`WireError`]: the connection is over, and every further step says the same.
    #[inline]
    pub fn step<'a>(&'a mut self, input: &'a [u8]) -> Result<Step<'a>, WireError> {
        if self.broken.is_some() || self.spent || !self.held.is_empty() || self.expect != Expect::Frame {
            return self.slow_step(input);
        }
        // The two frames of every call are taken from the input without a detour; all else goes the general way.
        let Some(bytes) = input.first_chunk() else { return self.slow_step(input) };
        let header = match checked_header(bytes, self.sender, self.payload_bytes_max) {
            Ok(header) => header,
            Err(error) => return Err(self.give_up(error)),
        };
        let head_bytes = header.head_bytes();
        if !matches!(header.kind, Some(Kind::Request | Kind::Response)) || input.len() < head_bytes {
            return self.slow_step(input);
        }
        let head = &input[HEADER_BYTES..head_bytes];
        let payload = at_most(&input[head_bytes..], header.payload_bytes());
        let missing_bytes = header.payload_bytes() - length(payload);
        let consumed = head_bytes + payload.len();
        self.expect = after_payload(missing_bytes);
        if header.kind == Some(Kind::Response) {
            return match Response::parse_head(&header, head) {
                Ok(response) => {
                    Ok(Step { consumed, item: Some(Item::Response { header, response, payload, missing_bytes }) })
                }
                Err(error) => Err(self.give_up(error)),
            };
        }
        match Request::parse_head(&header, head) {
            Ok(request) => Ok(Step { consumed, item: Some(Item::Request { header, request, payload, missing_bytes }) }),
            Err(error) => Err(self.give_up(error)),
        }
    }

    /// The call at the front of `input`, where nothing else is under way, all of it is there and it has no optional fields:
    /// what nearly every step of a server finds, in a few words. `None` says nothing about the input: [`Decoder::step`] does.
    #[inline]
    #[must_use]
    pub fn plain_call<'a>(&self, input: &'a [u8]) -> Option<PlainCall<'a>> {
        if self.broken.is_some() || self.spent || !self.held.is_empty() || self.expect != Expect::Frame {
            return None;
        }
        let (head, after) = input.split_first_chunk::<WIRE_REQUEST_HEAD_BYTES>()?;
        let word = |at: usize| head[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let half = |at: usize| head[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        // The kind, no flags, and the reserved bytes.
        if self.sender != Side::Client || half(4) != u32::from(Kind::Request.code()) {
            return None;
        }
        let (body_bytes, request_id) = (half(0), word(8));
        let payload_bytes = body_bytes.checked_sub(PLAIN_BODY_BYTES)?;
        if request_id == 0 || payload_bytes > self.payload_bytes_max {
            return None;
        }
        let (payload, rest) = after.split_at_checked(payload_bytes as usize)?;
        let header = Header { body_bytes, kind: Some(Kind::Request), flags: 0, request_id };
        let (function, time_remaining_ns, handle) = (FunctionId(word(16)), word(24), half(32));
        Some(PlainCall { header, handle, function, time_remaining_ns, payload, rest })
    }

    fn slow_step<'a>(&'a mut self, input: &'a [u8]) -> Result<Step<'a>, WireError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        if self.spent {
            self.forget();
        }
        let mut at = 0;
        loop {
            let rest = &input[at..];
            match self.expect {
                Expect::Payload { missing_bytes } => return Ok(self.payload_step(at, rest, missing_bytes)),
                Expect::Skipped { missing_bytes } => {
                    let taken = at_most(rest, missing_bytes);
                    at += taken.len();
                    self.expect = after_skipped(missing_bytes - length(taken));
                    if self.expect != Expect::Frame {
                        return Ok(Step { consumed: at, item: None });
                    }
                }
                Expect::Frame if self.held.is_empty() => match next_in(rest, self.sender, self.payload_bytes_max) {
                    Ok(Found::Item { consumed, item, missing_bytes }) => {
                        self.expect = after_payload(missing_bytes);
                        return Ok(Step { consumed: at + consumed, item: Some(item) });
                    }
                    Ok(Found::Skipped { body_bytes }) => {
                        at += HEADER_BYTES;
                        self.expect = after_skipped(body_bytes);
                    }
                    Ok(Found::Short { wanted_bytes }) => {
                        self.hold(rest, wanted_bytes);
                        return Ok(Step { consumed: input.len(), item: None });
                    }
                    Err(error) => return Err(self.give_up(error)),
                },
                Expect::Frame => match self.fill(rest) {
                    Ok(Filled::Short) => return Ok(Step { consumed: input.len(), item: None }),
                    Ok(Filled::Skipped { taken, body_bytes }) => {
                        at += taken;
                        self.expect = after_skipped(body_bytes);
                        self.forget();
                    }
                    Ok(Filled::Whole { taken, header }) => return self.take_held(header, input, at + taken),
                    Err(error) => return Err(self.give_up(error)),
                },
            }
        }
    }

    fn payload_step<'a>(&mut self, at: usize, rest: &'a [u8], missing_bytes: u32) -> Step<'a> {
        let bytes = at_most(rest, missing_bytes);
        let missing_bytes = missing_bytes - length(bytes);
        self.expect = after_payload(missing_bytes);
        let item = (!bytes.is_empty()).then_some(Item::Payload { bytes, missing_bytes });
        Step { consumed: at + bytes.len(), item }
    }

    /// Moves what is missing of the held frame's header, then of its head or body, from `input` to the held bytes.
    fn fill(&mut self, input: &[u8]) -> Result<Filled, WireError> {
        let mut taken = 0;
        loop {
            let header = match self.held.first_chunk() {
                Some(bytes) => Some(checked_header(bytes, self.sender, self.payload_bytes_max)?),
                None => None,
            };
            if let Some(header @ Header { kind: None, .. }) = header {
                return Ok(Filled::Skipped { taken, body_bytes: header.body_bytes });
            }
            let wanted_bytes = header.as_ref().map_or(HEADER_BYTES, Header::head_bytes);
            if let Some(header) = header
                && self.held.len() == wanted_bytes
            {
                return Ok(Filled::Whole { taken, header });
            }
            let missing = wanted_bytes - self.held.len();
            let rest = &input[taken..];
            if rest.is_empty() {
                return Ok(Filled::Short);
            }
            let more = &rest[..missing.min(rest.len())];
            self.hold(more, wanted_bytes);
            taken += more.len();
        }
    }

    /// The frame whose head or body is held; `input[at..]` follows it.
    fn take_held<'a>(&'a mut self, header: Header, input: &'a [u8], at: usize) -> Result<Step<'a>, WireError> {
        self.spent = true;
        let Self { held, broken, expect, .. } = self;
        match item_of(header, &held[HEADER_BYTES..], &input[at..]) {
            Ok((item, payload_bytes)) => {
                *expect = after_payload(header.payload_bytes() - length(&input[at..at + payload_bytes]));
                Ok(Step { consumed: at + payload_bytes, item: Some(item) })
            }
            Err(error) => Err(broken.insert(error).clone()),
        }
    }

    /// Adds `bytes` to the held ones, which will never be more than `wanted_bytes`. Memory grows with what came, not with
    /// what was announced.
    fn hold(&mut self, bytes: &[u8], wanted_bytes: usize) {
        let needed = self.held.len() + bytes.len();
        if needed > self.held.capacity() {
            let roomy =
                (2 * self.held.capacity()).max(WIRE_HELD_BYTES_KEPT).min(wanted_bytes.max(WIRE_HELD_BYTES_KEPT));
            self.held.reserve_exact(roomy.max(needed) - self.held.len());
        }
        self.held.extend_from_slice(bytes);
    }

    fn forget(&mut self) {
        self.spent = false;
        if self.held.capacity() > WIRE_HELD_BYTES_KEPT {
            self.held = Vec::new();
        }
        self.held.clear();
    }

    #[cold]
    fn give_up(&mut self, error: WireError) -> WireError {
        // Nobody is to receive the payload of a frame that was refused.
        self.expect = Expect::Frame;
        self.held = Vec::new();
        self.broken.insert(error).clone()
    }
}

/// Bytes of a REQUEST between header and payload, without optional fields.
#[allow(clippy::cast_possible_truncation, reason = "a few bytes")]
const PLAIN_BODY_BYTES: u32 = (WIRE_REQUEST_HEAD_BYTES - HEADER_BYTES) as u32;

/// What the front of some bytes is.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for a moment, and its frames are the largest part of any stream"
)]
enum Found<'a> {
    Item { consumed: usize, item: Item<'a>, missing_bytes: u32 },
    Skipped { body_bytes: u32 },
    Short { wanted_bytes: usize },
}

/// How far the held frame came.
enum Filled {
    Short,
    Skipped { taken: usize, body_bytes: u32 },
    Whole { taken: usize, header: Header },
}

#[inline]
fn next_in(input: &[u8], sender: Side, payload_bytes_max: u32) -> Result<Found<'_>, WireError> {
    let Some(bytes) = input.first_chunk() else { return Ok(Found::Short { wanted_bytes: HEADER_BYTES }) };
    let header = checked_header(bytes, sender, payload_bytes_max)?;
    if header.kind.is_none() {
        return Ok(Found::Skipped { body_bytes: header.body_bytes });
    }
    let wanted_bytes = header.head_bytes();
    let Some((head, after)) = input.split_at_checked(wanted_bytes) else { return Ok(Found::Short { wanted_bytes }) };
    let (item, payload_bytes) = item_of(header, &head[HEADER_BYTES..], after)?;
    let missing_bytes = header.payload_bytes() - length(&after[..payload_bytes]);
    Ok(Found::Item { consumed: wanted_bytes + payload_bytes, item, missing_bytes })
}

/// The piece that `header`, what it says follows it but the payload, and the bytes `after` that make. Also says how many
/// of the latter are payload.
#[inline]
fn item_of<'a>(header: Header, head: &'a [u8], after: &'a [u8]) -> Result<(Item<'a>, usize), WireError> {
    let payload = at_most(after, header.payload_bytes());
    let missing_bytes = header.payload_bytes() - length(payload);
    let item = match header.kind {
        Some(Kind::Request) => {
            Item::Request { header, request: Request::parse_head(&header, head)?, payload, missing_bytes }
        }
        Some(Kind::Response) => {
            Item::Response { header, response: Response::parse_head(&header, head)?, payload, missing_bytes }
        }
        _ => Item::Control { header, frame: Frame::parse(&header, head)? },
    };
    Ok((item, payload.len()))
}

/// The header, if it keeps to the table, comes from the right side and announces a payload that is allowed.
#[inline]
fn checked_header(bytes: &[u8; HEADER_BYTES], sender: Side, payload_bytes_max: u32) -> Result<Header, WireError> {
    let header = Header::parse(bytes)?;
    header.check_sender(sender)?;
    let actual_bytes = header.payload_bytes();
    if actual_bytes > payload_bytes_max {
        return Err(WireError::PayloadTooLarge { actual_bytes, limit_bytes: payload_bytes_max });
    }
    Ok(header)
}

fn after_payload(missing_bytes: u32) -> Expect {
    if missing_bytes == 0 { Expect::Frame } else { Expect::Payload { missing_bytes } }
}

fn after_skipped(missing_bytes: u32) -> Expect {
    if missing_bytes == 0 { Expect::Frame } else { Expect::Skipped { missing_bytes } }
}

fn at_most(bytes: &[u8], count: u32) -> &[u8] {
    &bytes[..bytes.len().min(count as usize)]
}

/// The length of bytes that were cut to a 32-bit count.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("cut to a 32-bit count before")
}
