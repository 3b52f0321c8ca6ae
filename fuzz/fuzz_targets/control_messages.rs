//! Control messages from a peer: decoding never fails in another way than by an error, and whatever decodes encodes into
//! bytes that decode to the same message.
//!
//! Input: a letter for the direction (`c`lient, `s`erver, `w`orker, command to a worker `x`), then the packet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use praas_protocol::codec::{decode, encode};
use praas_protocol::control::{ClientMessage, ServerMessage, WorkerCommand, WorkerMessage};

fuzz_target!(|input: &[u8]| {
    let Some((direction, packet)) = input.split_first() else { return };
    match direction {
        b'c' => check::<ClientMessage>(packet),
        b's' => check::<ServerMessage>(packet),
        b'w' => check::<WorkerMessage>(packet),
        b'x' => check::<WorkerCommand>(packet),
        _ => {}
    }
});

fn check<M: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug>(packet: &[u8]) {
    let message: M = match decode(packet) {
        Ok(message) => message,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let bytes = encode(&message).expect("what fitted a packet fits one again");
    assert!(bytes.len() <= packet.len(), "the shortest encoding is longer than another one");
    let again: M = decode(&bytes).expect("what was encoded decodes");
    assert_eq!(format!("{message:?}"), format!("{again:?}"));
    assert_eq!(encode(&again).expect("as before"), bytes);
}
