//! A refusal arrives as it was meant.

use praas_protocol::control::{ControlError, ProcessState};
use praas_protocol::limits::{WIRE_ADVICE_BYTES_MAX, WIRE_REASON_BYTES_MAX};
use praas_protocol::wire::{Frame, HEADER_BYTES, Header, Refusal, Refused, encode_control_error};

use crate::samples::{alice, name};

fn arrived(bytes: &[u8]) -> Refusal {
    let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
    let header = Header::parse(header).unwrap();
    assert_eq!(header.request_id, 9);
    let Frame::Refused(refused) = Frame::parse(&header, body).unwrap() else { panic!("another kind") };
    refused.refusal().unwrap()
}

fn every_error() -> Vec<ControlError> {
    let text = || "words for people".to_owned();
    let mut errors = vec![
        ControlError::WrongVersion { server: 1, client: u32::MAX },
        ControlError::TokenRefused { reason: text() },
        ControlError::Unauthorized { right: "manage".to_owned(), what: text() },
        ControlError::UnknownApplication { application: name("hello"), known: text() },
        ControlError::UnknownProcess { process: alice() },
        ControlError::ProcessExists { process: alice() },
        ControlError::LimitReached { what: text(), used: 1, limit: u64::MAX, asked: 3, advice: "wait".to_owned() },
        ControlError::WorkersFailed { process: alice(), reason: text() },
        ControlError::SwapFailed { process: alice(), what: "restoring".to_owned(), reason: text() },
        ControlError::NoStorage,
        ControlError::ShuttingDown,
        ControlError::Protocol { reason: text() },
        ControlError::Host { what: "opening".to_owned(), reason: text() },
    ];
    let states = (0..=u8::MAX).filter_map(ProcessState::from_code);
    for state in states.inspect(|state| assert_eq!(ProcessState::from_code(state.code()), Some(*state))) {
        errors.push(ControlError::WrongState { process: alice(), state });
    }
    errors
}

#[test]
fn every_control_error_arrives_as_it_was() {
    for error in every_error() {
        let mut bytes = Vec::new();
        encode_control_error(&error, 9, &mut bytes);
        assert_eq!(arrived(&bytes), Refusal::Control(error.clone()));
        let mut again = Vec::new();
        Refusal::Control(error).encode(9, &mut again);
        assert_eq!(again, bytes);
    }
}

#[test]
fn a_move_and_a_code_of_a_later_version_arrive() {
    let moved = Refusal::Moved { to: "[::1]:7411".to_owned() };
    let mut bytes = Vec::new();
    moved.encode(9, &mut bytes);
    assert_eq!(arrived(&bytes), moved);

    let mut bytes = Vec::new();
    let (subject, reason, advice) = ("the moon", "is full", "wait");
    Refused { request_id: 9, code: 999, state: 7, numbers: [0; 3], subject, reason, advice }.encode(&mut bytes);
    let text = "the moon is full wait".to_owned();
    assert_eq!(arrived(&bytes), Refusal::Unknown { code: 999, text });
}

#[test]
fn texts_that_are_too_long_are_cut_at_a_character() {
    let long = "ä".repeat(5000);
    let error =
        ControlError::LimitReached { what: long.clone(), used: 0, limit: 0, asked: 0, advice: format!("x{long}") };
    let mut bytes = Vec::new();
    encode_control_error(&error, 9, &mut bytes);
    encode_control_error(&ControlError::Protocol { reason: long.clone() }, 9, &mut Vec::new());
    let Refusal::Control(ControlError::LimitReached { what, advice, .. }) = arrived(&bytes) else { panic!() };
    assert!(long.starts_with(&what) && what.len() == 256);
    assert_eq!(advice.len(), WIRE_ADVICE_BYTES_MAX - 1, "half a character does not travel");
    assert!(WIRE_REASON_BYTES_MAX < long.len());
}
