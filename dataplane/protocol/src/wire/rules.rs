//! Which frame may come when: the state of one connection as one side sees it.
//!
//! A pure state machine that both sides keep and show every frame to, sent or received, before they act on it. It knows
//! the order of frames, the growth of request ids, the window, and the bounds on questions and pings. It does not know
//! which ids are unanswered: each side has a table of its calls for that anyway.
//!
//! | state | the client may send | the server may send |
//! |---|---|---|
//! | `Fresh` | HELLO | REFUSED 0 |
//! | `Greeted` | nothing | WELCOME, REFUSED 0, GOAWAY |
//! | `Open` | everything but HELLO | everything but WELCOME, HANDED_OVER, REFUSED 0 |
//! | `HandingOver` | nothing | HANDED_OVER, REFUSED, GOAWAY |
//! | `Dedicated` | REQUEST, CANCEL, PING | RESPONSE, PONG, GOAWAY |
//! | `Leaving` | CANCEL, PING | answers to ids up to that of the GOAWAY, PONG |
//! | `Over` | nothing | nothing |

use crate::limits::{WIRE_PINGS_IN_FLIGHT_MAX, WIRE_QUESTIONS_IN_FLIGHT_MAX};
use crate::wire::kind::IdRule;
use crate::wire::{GoawayReason, Header, Kind, Side, Window, WindowLimits};

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing was sent.
    Fresh,
    /// The client has said hello.
    Greeted,
    /// Welcome was said: handles, calls, questions.
    Open,
    /// The client asked for a worker of its own and waits.
    HandingOver {
        /// Id of the DEDICATE.
        request_id: u64,
    },
    /// A worker owns the other end.
    Dedicated,
    /// GOAWAY was said: what was taken is answered, then the connection ends.
    Leaving {
        /// Last id that is answered.
        last_request_id: u64,
    },
    /// Nothing more may come.
    Over,
}

/// What to do with a frame that keeps to the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Act on it.
    Accept,
    /// It crossed a GOAWAY on its way: read it to its end and forget it.
    Ignore,
}

/// How a frame broke the rules. Whoever notices ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// Not in this state.
    #[error("{kind} may not come while the connection is {state:?}")]
    NotNow {
        /// The frame.
        kind: &'static str,
        /// The state.
        state: State,
    },
    /// The id is not larger than the last one.
    #[error("request id {request_id} follows {last_request_id}: ids must grow")]
    IdNotGrowing {
        /// The id.
        request_id: u64,
        /// The largest one before.
        last_request_id: u64,
    },
    /// The id was never given.
    #[error("{kind} names the request id {request_id}, the last one given is {last_request_id}")]
    UnknownId {
        /// The frame.
        kind: &'static str,
        /// The id.
        request_id: u64,
        /// The largest one given.
        last_request_id: u64,
    },
    /// Too many calls in flight.
    #[error("more than {limit} calls in flight: wait for answers first")]
    TooManyCalls {
        /// The limit.
        limit: u32,
    },
    /// Too many payload bytes in flight.
    #[error(
        "{asked_bytes} bytes more than the {in_flight_bytes} in flight exceed the window of {limit_bytes}: wait for answers first"
    )]
    WindowExceeded {
        /// In flight now.
        in_flight_bytes: u64,
        /// Of the refused call.
        asked_bytes: u32,
        /// The window.
        limit_bytes: u64,
    },
    /// Too many questions unanswered.
    #[error("more than {limit} questions unanswered: wait for answers first")]
    TooManyQuestions {
        /// The limit.
        limit: u32,
    },
    /// Too many pings unanswered.
    #[error("more than {limit} pings unanswered: wait for answers first")]
    TooManyPings {
        /// The limit.
        limit: u32,
    },
    /// An answer to nothing.
    #[error("{kind} answers nothing that is in flight")]
    NothingInFlight {
        /// The frame.
        kind: &'static str,
    },
    /// A hand-over was asked for while answers were missing.
    #[error(
        "DEDICATE came while {calls} calls, {questions} questions and {pings} pings were unanswered: wait for their answers first"
    )]
    NotQuiet {
        /// Calls in flight.
        calls: u32,
        /// Questions unanswered.
        questions: u32,
        /// Pings unanswered.
        pings: u32,
    },
}

impl RuleError {
    /// The reason to give in a GOAWAY.
    #[must_use]
    pub fn goaway_reason(&self) -> GoawayReason {
        match self {
            Self::TooManyCalls { .. }
            | Self::WindowExceeded { .. }
            | Self::TooManyQuestions { .. }
            | Self::TooManyPings { .. } => GoawayReason::Limit,
            _ => GoawayReason::Protocol,
        }
    }
}

/// One side's view of a connection.
#[derive(Debug, Clone)]
pub struct Session {
    us: Side,
    state: State,
    last_request_id: u64,
    window: Window,
    questions: u32,
    pings: u32,
}

impl Session {
    /// A connection on which nothing was sent yet, as `us` sees it.
    #[must_use]
    pub fn new(us: Side) -> Self {
        let window = Window::new(WindowLimits { calls: 0, bytes: 0 });
        Self { us, state: State::Fresh, last_request_id: 0, window, questions: 0, pings: 0 }
    }

    /// A dedicated connection as the worker sees it, after its HANDED_OVER with these limits. The server says which id
    /// the DEDICATE had.
    #[must_use]
    pub fn dedicated(last_request_id: u64, limits: WindowLimits) -> Self {
        let window = Window::new(limits);
        Self { us: Side::Server, state: State::Dedicated, last_request_id, window, questions: 0, pings: 0 }
    }

    /// Where the connection stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The largest request id seen.
    #[must_use]
    pub fn last_request_id(&self) -> u64 {
        self.last_request_id
    }

    /// The credit in use.
    #[must_use]
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Sets the limits that WELCOME or HANDED_OVER brings. Nothing is in flight at either.
    pub fn set_limits(&mut self, limits: WindowLimits) {
        debug_assert_eq!(self.window.calls(), 0, "limits change only while nothing is in flight");
        self.window = Window::new(limits);
    }

    /// Whether every call, question and ping was answered.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.window.calls() == 0 && self.questions == 0 && self.pings == 0
    }

    /// Shows a frame that `sender` sends; its header was checked by the decoder, or written by us.
    ///
    /// A REQUEST takes credit here; a RESPONSE gives none back: see [`Session::answered`].
    ///
    /// # Errors
    /// [`RuleError`] if the frame may not come now. The state is as before then.
    #[inline]
    pub fn show(&mut self, sender: Side, header: &Header) -> Result<Verdict, RuleError> {
        let Some(kind) = header.kind else { return Ok(Verdict::Ignore) };
        let request_id = header.request_id;
        match (sender, self.state, kind) {
            // The two of every call first.
            (Side::Client, State::Open | State::Dedicated, Kind::Request) => {
                self.check_new(request_id)?;
                self.window.take(header.payload_bytes())?;
                self.last_request_id = request_id;
                Ok(Verdict::Accept)
            }
            (Side::Server, State::Open | State::Dedicated | State::Leaving { .. }, Kind::Response) => {
                self.check_earlier(kind, request_id)?;
                if self.window.calls() == 0 {
                    return Err(RuleError::NothingInFlight { kind: kind.name() });
                }
                Ok(Verdict::Accept)
            }
            (Side::Client, ..) => self.client_frame(kind, request_id),
            (Side::Server, ..) => self.server_frame(kind, request_id),
        }
    }

    /// Gives back the credit of an answered call whose request had such a payload.
    ///
    /// # Errors
    /// [`RuleError::NothingInFlight`] if that cannot be.
    #[inline]
    pub fn answered(&mut self, request_payload_bytes: u32) -> Result<(), RuleError> {
        self.window.give(request_payload_bytes)
    }

    /// Shows that a GOAWAY is sent or was received: its last id is in its body, so it is told apart from its header.
    ///
    /// # Errors
    /// [`RuleError`] if none may come now, or if it names an id that was never given.
    pub fn show_goaway(&mut self, last_request_id: u64) -> Result<(), RuleError> {
        match self.state {
            State::Greeted | State::Open | State::HandingOver { .. } | State::Dedicated => {}
            state => return Err(RuleError::NotNow { kind: Kind::Goaway.name(), state }),
        }
        if last_request_id > self.last_request_id {
            return Err(self.unknown(Kind::Goaway, last_request_id));
        }
        self.state = State::Leaving { last_request_id };
        Ok(())
    }

    fn client_frame(&mut self, kind: Kind, request_id: u64) -> Result<Verdict, RuleError> {
        match (self.state, kind) {
            (State::Fresh, Kind::Hello) => self.state = State::Greeted,
            (State::Open, Kind::Dedicate) => {
                self.check_new(request_id)?;
                self.check_quiet()?;
                self.last_request_id = request_id;
                self.questions = 1;
                self.state = State::HandingOver { request_id };
            }
            (State::Open, Kind::Close) => {}
            (State::Open | State::Dedicated | State::Leaving { .. }, Kind::Cancel) => {
                if request_id > self.last_request_id {
                    // Of a call that was itself ignored after a GOAWAY.
                    return match self.state {
                        State::Leaving { .. } => Ok(Verdict::Ignore),
                        _ => Err(self.unknown(kind, request_id)),
                    };
                }
            }
            (State::Open | State::Dedicated | State::Leaving { .. }, Kind::Ping) => {
                let limit = WIRE_PINGS_IN_FLIGHT_MAX;
                self.pings = one_more(self.pings, limit).ok_or(RuleError::TooManyPings { limit })?;
            }
            (State::Open, kind) if kind.facts().id == IdRule::New => {
                self.check_new(request_id)?;
                let limit = WIRE_QUESTIONS_IN_FLIGHT_MAX;
                self.questions = one_more(self.questions, limit).ok_or(RuleError::TooManyQuestions { limit })?;
                self.last_request_id = request_id;
            }
            // The client sent it before it saw the GOAWAY.
            (State::Leaving { .. }, kind) if self.us == Side::Server && kind != Kind::Hello => {
                return Ok(Verdict::Ignore);
            }
            (state, kind) => return Err(RuleError::NotNow { kind: kind.name(), state }),
        }
        Ok(Verdict::Accept)
    }

    fn server_frame(&mut self, kind: Kind, request_id: u64) -> Result<Verdict, RuleError> {
        match (self.state, kind) {
            (State::Greeted, Kind::Welcome) => self.state = State::Open,
            (State::Fresh | State::Greeted, Kind::Refused) if request_id == 0 => self.state = State::Over,
            (State::HandingOver { request_id: asked }, Kind::HandedOver) if request_id == asked => {
                self.questions = 0;
                self.state = State::Dedicated;
            }
            (State::HandingOver { request_id: asked }, Kind::Refused) if request_id == asked => {
                self.questions = 0;
                self.state = State::Open;
            }
            (State::Open | State::Dedicated | State::Leaving { .. }, Kind::Pong) => {
                self.pings = self.pings.checked_sub(1).ok_or(RuleError::NothingInFlight { kind: kind.name() })?;
            }
            (State::Open | State::Leaving { .. }, kind) if answers_question(kind) && request_id != 0 => {
                self.check_earlier(kind, request_id)?;
                let left = self.questions.checked_sub(1);
                self.questions = left.ok_or(RuleError::NothingInFlight { kind: kind.name() })?;
            }
            // Shown by `show_goaway`, which knows its last id.
            (State::Greeted | State::Open | State::HandingOver { .. } | State::Dedicated, Kind::Goaway) => {}
            (state, kind) => return Err(RuleError::NotNow { kind: kind.name(), state }),
        }
        Ok(Verdict::Accept)
    }

    #[inline]
    fn check_new(&self, request_id: u64) -> Result<(), RuleError> {
        let last_request_id = self.last_request_id;
        if request_id > last_request_id { Ok(()) } else { Err(RuleError::IdNotGrowing { request_id, last_request_id }) }
    }

    #[inline]
    fn check_earlier(&self, kind: Kind, request_id: u64) -> Result<(), RuleError> {
        let last = match self.state {
            State::Leaving { last_request_id } => last_request_id,
            _ => self.last_request_id,
        };
        if (1..=last).contains(&request_id) { Ok(()) } else { Err(self.unknown(kind, request_id)) }
    }

    fn check_quiet(&self) -> Result<(), RuleError> {
        if self.is_quiet() {
            return Ok(());
        }
        Err(RuleError::NotQuiet { calls: self.window.calls(), questions: self.questions, pings: self.pings })
    }

    fn unknown(&self, kind: Kind, request_id: u64) -> RuleError {
        RuleError::UnknownId { kind: kind.name(), request_id, last_request_id: self.last_request_id }
    }
}

fn answers_question(kind: Kind) -> bool {
    use Kind::{
        Applications, Changes, Counts, Done, Opened, OutputChunk, Processes, Refused, SessionOpened, Stored,
        Transitions,
    };
    let is_page = matches!(kind, Processes | Applications | OutputChunk | Counts | Changes | Transitions | Stored);
    is_page || matches!(kind, Refused | Opened | SessionOpened | Done)
}

fn one_more(count: u32, limit: u32) -> Option<u32> {
    (count < limit).then_some(count + 1)
}
