//! REFUSED: a question was not answered with what it asked for, and why.
//!
//! Every refusal has the same fields, whatever its code, so that a client which does not know a code can still show it:
//! code, state, three numbers, and three texts (what it is about, the reason, what to do).

use crate::control::{ControlError, ProcessState};
use crate::limits::{WIRE_ADVICE_BYTES_MAX, WIRE_REASON_BYTES_MAX, WIRE_SUBJECT_BYTES_MAX};
use crate::message::SessionId;
use crate::wire::fields::{Fields, frame, process_id, put_cut_text};
use crate::wire::{Header, Kind, WireError};
use crate::{Name, ProcessId};

/// Why a question was refused: what [`Refused`] means.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// For a reason that the control socket of a host knows as well.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The process lives on another server.
    #[error("the process lives on another server: {to}")]
    Moved {
        /// Its address.
        to: String,
    },
    /// For a reason of a later version.
    #[error("the server refused with the unknown code {code}: {text}")]
    Unknown {
        /// The code.
        code: u16,
        /// Its texts.
        text: String,
    },
}

/// A refusal as it came: every field, none of them interpreted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused<'a> {
    /// Of the question; 0 for the hello.
    pub request_id: u64,
    /// What kind of refusal.
    pub code: u16,
    /// State of a process where the code speaks of one, else 0.
    pub state: u8,
    /// Figures, as the code says.
    pub numbers: [u64; 3],
    /// What it is about.
    pub subject: &'a str,
    /// Why.
    pub reason: &'a str,
    /// What to do.
    pub advice: &'a str,
}

const WRONG_VERSION: u16 = 1;
const TOKEN_REFUSED: u16 = 2;
const UNAUTHORIZED: u16 = 3;
const UNKNOWN_APPLICATION: u16 = 4;
const UNKNOWN_PROCESS: u16 = 5;
const PROCESS_EXISTS: u16 = 6;
const LIMIT_REACHED: u16 = 7;
const WORKERS_FAILED: u16 = 8;
const WRONG_STATE: u16 = 9;
const SHUTTING_DOWN: u16 = 10;
const PROTOCOL: u16 = 11;
const HOST: u16 = 12;
const MOVED: u16 = 13;
const UNKNOWN_SESSION: u16 = 14;
const SWAP_FAILED: u16 = 15;
const NO_STORAGE: u16 = 16;

impl<'a> Refused<'a> {
    /// The refusal in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Refused, body);
        let (code, state) = (fields.u16()?, fields.u8()?);
        fields.zeros::<1>("byte 3 of REFUSED")?;
        let refused = Self {
            request_id: header.request_id,
            code,
            state,
            numbers: [fields.u64()?, fields.u64()?, fields.u64()?],
            subject: fields.text("the subject", WIRE_SUBJECT_BYTES_MAX)?,
            reason: fields.text("the reason", WIRE_REASON_BYTES_MAX)?,
            advice: fields.text("the advice", WIRE_ADVICE_BYTES_MAX)?,
        };
        fields.end(refused)
    }

    /// Appends the frame; texts longer than their fields are cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Refused, 0, self.request_id, |out| {
            out.extend_from_slice(&self.code.to_le_bytes());
            out.extend_from_slice(&[self.state, 0]);
            for number in self.numbers {
                out.extend_from_slice(&number.to_le_bytes());
            }
            put_cut_text(out, self.subject, WIRE_SUBJECT_BYTES_MAX);
            put_cut_text(out, self.reason, WIRE_REASON_BYTES_MAX);
            put_cut_text(out, self.advice, WIRE_ADVICE_BYTES_MAX);
        });
    }

    /// What it means.
    ///
    /// # Errors
    /// [`WireError`] if a field has no meaning for the code.
    pub fn refusal(&self) -> Result<Refusal, WireError> {
        let [first, second, third] = self.numbers;
        let (subject, reason) = (self.subject.to_owned(), self.reason.to_owned());
        Ok(Refusal::Control(match self.code {
            WRONG_VERSION => ControlError::WrongVersion { server: version(first)?, client: version(second)? },
            TOKEN_REFUSED => ControlError::TokenRefused { reason },
            UNAUTHORIZED => ControlError::Unauthorized { right: subject, what: reason },
            UNKNOWN_APPLICATION => ControlError::UnknownApplication { application: self.application()?, known: reason },
            UNKNOWN_PROCESS => ControlError::UnknownProcess { process: self.process()? },
            PROCESS_EXISTS => ControlError::ProcessExists { process: self.process()? },
            LIMIT_REACHED => ControlError::LimitReached {
                what: subject,
                used: first,
                limit: second,
                asked: third,
                advice: self.advice.to_owned(),
            },
            WORKERS_FAILED => ControlError::WorkersFailed { process: self.process()?, reason },
            WRONG_STATE => ControlError::WrongState { process: self.process()?, state: state(self.state)? },
            SHUTTING_DOWN => ControlError::ShuttingDown,
            PROTOCOL => ControlError::Protocol { reason },
            HOST => ControlError::Host { what: subject, reason },
            UNKNOWN_SESSION => ControlError::UnknownSession { session: self.session()? },
            SWAP_FAILED => ControlError::SwapFailed { process: self.process()?, what: self.advice.to_owned(), reason },
            NO_STORAGE => ControlError::NoStorage,
            MOVED => return Ok(Refusal::Moved { to: subject }),
            code => {
                let text = format!("{subject} {reason} {}", self.advice).trim().to_owned();
                return Ok(Refusal::Unknown { code, text });
            }
        }))
    }

    fn session(&self) -> Result<SessionId, WireError> {
        let wrong = WireError::Value { field: "the session of a refusal", value: 0 };
        u128::from_str_radix(self.subject, 16).map(SessionId).map_err(|_| wrong)
    }

    fn process(&self) -> Result<ProcessId, WireError> {
        process_id(self.subject)
    }

    fn application(&self) -> Result<Name, WireError> {
        self.subject.parse().map_err(|reason| WireError::NotAName { field: "the application", reason })
    }
}

impl Refusal {
    /// Appends the REFUSED frame that says this about the question `request_id` (0 for the hello).
    pub fn encode(&self, request_id: u64, out: &mut Vec<u8>) {
        match self {
            Self::Control(error) => encode_control_error(error, request_id, out),
            Self::Moved { to } => plain(request_id, MOVED, to, "").encode(out),
            Self::Unknown { code, text } => plain(request_id, *code, "", text).encode(out),
        }
    }
}

/// Appends the REFUSED frame that says `error` about the question `request_id` (0 for the hello).
pub fn encode_control_error(error: &ControlError, request_id: u64, out: &mut Vec<u8>) {
    let named = |code, process: &ProcessId, reason: &str, out: &mut Vec<u8>| {
        plain(request_id, code, &process.to_string(), reason).encode(out);
    };
    match error {
        ControlError::WrongVersion { server, client } => {
            let numbers = [u64::from(*server), u64::from(*client), 0];
            Refused { numbers, ..plain(request_id, WRONG_VERSION, "", "") }.encode(out);
        }
        ControlError::TokenRefused { reason } => plain(request_id, TOKEN_REFUSED, "", reason).encode(out),
        ControlError::Unauthorized { right, what } => plain(request_id, UNAUTHORIZED, right, what).encode(out),
        ControlError::UnknownApplication { application, known } => {
            plain(request_id, UNKNOWN_APPLICATION, application.as_str(), known).encode(out);
        }
        ControlError::UnknownProcess { process } => named(UNKNOWN_PROCESS, process, "", out),
        ControlError::ProcessExists { process } => named(PROCESS_EXISTS, process, "", out),
        ControlError::LimitReached { what, used, limit, asked, advice } => {
            Refused { numbers: [*used, *limit, *asked], advice, ..plain(request_id, LIMIT_REACHED, what, "") }
                .encode(out);
        }
        ControlError::WorkersFailed { process, reason } => named(WORKERS_FAILED, process, reason, out),
        ControlError::WrongState { process, state } => {
            let subject = process.to_string();
            Refused { state: state.code(), ..plain(request_id, WRONG_STATE, &subject, "") }.encode(out);
        }
        ControlError::SwapFailed { process, what, reason } => {
            let subject = process.to_string();
            Refused { advice: what, ..plain(request_id, SWAP_FAILED, &subject, reason) }.encode(out);
        }
        ControlError::NoStorage => plain(request_id, NO_STORAGE, "", "").encode(out),
        ControlError::ShuttingDown => plain(request_id, SHUTTING_DOWN, "", "").encode(out),
        ControlError::Protocol { reason } => plain(request_id, PROTOCOL, "", reason).encode(out),
        ControlError::Host { what, reason } => plain(request_id, HOST, what, reason).encode(out),
        ControlError::UnknownSession { session } => {
            plain(request_id, UNKNOWN_SESSION, &session.to_string(), "").encode(out);
        }
        // Said to workers alone, which never ask over the network.
        ControlError::Elsewhere { to } => plain(request_id, HOST, &to.to_string(), "reached elsewhere").encode(out),
    }
}

fn plain<'a>(request_id: u64, code: u16, subject: &'a str, reason: &'a str) -> Refused<'a> {
    Refused { request_id, code, state: 0, numbers: [0; 3], subject, reason, advice: "" }
}

pub(crate) fn state(code: u8) -> Result<ProcessState, WireError> {
    ProcessState::from_code(code).ok_or(WireError::Value { field: "the state of a process", value: u64::from(code) })
}

/// A state, or 0 for none.
pub(crate) fn optional_state(code: u8) -> Result<Option<ProcessState>, WireError> {
    if code == 0 { Ok(None) } else { state(code).map(Some) }
}

fn version(number: u64) -> Result<u32, WireError> {
    u32::try_from(number).map_err(|_| WireError::Value { field: "a version", value: number })
}
