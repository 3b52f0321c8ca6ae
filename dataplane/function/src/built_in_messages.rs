//! Messages that come as calls: the built-in function by which messages are put into the mailbox of a process.
//!
//! Its payload is described in [`praas_protocol::message`]. It may be repeated as often as one likes: the mailbox knows the
//! message's id again. It is for servers, and for the processes of the application: whoever calls is believed in what it says
//! of the source. Clients send through their sessions, for which a server speaks.

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
    if !rights.contains(Rights::MESSAGES.with(Rights::TRUSTED)) {
        return Err(FunctionError::unauthorized());
    }
    let (PutHead { source, id, key }, bytes) =
        PutHead::decode(call.input()).map_err(|error| FunctionError::of_sdk(codes::BAD_REQUEST, error.to_string()))?;
    let message = NewMessage { source: &source, id, key, bytes, repeats: true };
    let accepted = context.message_room().put(&context, &message).map_err(|error| {
        let code = match &error {
            RecvError::Mailbox(error) => code_of(error, codes::BAD_REQUEST),
            _ => codes::NOT_RECEIVED,
        };
        FunctionError::of_sdk(code, error.to_string())
    })?;
    call.reply(&[accepted as u8])
}
