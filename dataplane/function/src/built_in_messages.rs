//! Messages from outside: the built-in function by which clients put messages into the mailbox of a process.
//!
//! Its payload is described in [`praas_protocol::message`]. A client may repeat it as often as it likes: the mailbox knows the
//! message's id again.

use praas_protocol::Address;
use praas_protocol::message::{PUT_FUNCTION, PutHead, codes};
use praas_protocol::token::Rights;
use praas_shm::mailbox::NewMessage;

use crate::call::Call;
use crate::error::{FunctionError, FunctionResult};
use crate::messages::{RecvError, code_of};

/// A built-in function.
type BuiltIn = fn(&mut Call<'_>) -> FunctionResult;

/// The functions by name.
pub(crate) const FUNCTIONS: [(&str, BuiltIn); 1] = [(PUT_FUNCTION, put)];

fn put(call: &mut Call<'_>) -> FunctionResult {
    let context = call.context();
    let rights = context.caller_rights();
    if !rights.contains(Rights::MESSAGES) {
        return Err(FunctionError::unauthorized());
    }
    let (PutHead { source, id, key }, bytes) =
        PutHead::decode(call.input()).map_err(|error| FunctionError::of_sdk(codes::BAD_REQUEST, error.to_string()))?;
    // Who knows the number of a session speaks for it. Processes are spoken for by their own trust domain alone.
    if matches!(source, Address::Process(_)) && !rights.contains(Rights::TRUSTED) {
        return Err(FunctionError::unauthorized());
    }
    let message = NewMessage { source: &source, id, key, bytes, repeats: true };
    let accepted = context.message_room().put(&message).map_err(|error| {
        let code = match &error {
            RecvError::Mailbox(error) => code_of(error, codes::BAD_REQUEST),
            _ => codes::NOT_RECEIVED,
        };
        FunctionError::of_sdk(code, error.to_string())
    })?;
    call.reply(&[accepted as u8])
}
