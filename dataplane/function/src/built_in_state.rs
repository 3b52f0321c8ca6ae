//! State from outside: the built-in functions by which callers with the right `state` read and write objects.
//!
//! Their payloads are described in [`praas_protocol::state`]. Whatever a caller sends is checked there before it is used.

use praas_protocol::Key;
use praas_protocol::state::{
    DELETE_FUNCTION, GET_FUNCTION, LIST_FUNCTION, ListQuestion, PUT_FUNCTION, PutHead, codes, decode_delete,
};
use praas_protocol::token::Rights;

use crate::call::Call;
use crate::error::{FunctionError, FunctionResult};
use crate::state::StateError;
use crate::state::room::{attributes, settled};

/// A built-in function.
type BuiltIn = fn(&mut Call<'_>) -> FunctionResult;

/// The functions by name.
pub(crate) const FUNCTIONS: [(&str, BuiltIn); 4] =
    [(GET_FUNCTION, get), (PUT_FUNCTION, put), (DELETE_FUNCTION, delete), (LIST_FUNCTION, list)];

fn get(call: &mut Call<'_>) -> FunctionResult {
    ensure_allowed(call)?;
    let context = call.context();
    let key = Key::from_bytes(call.input()).map_err(|error| bad_request(&error))?;
    let found = context.state_bytes(key.as_str()).map_err(StateError::into_answer)?;
    let Some(bytes) = found else { return call.output(0).map(|_| ()) };
    let head = attributes(&bytes.guard().header()).encode();
    let output = call.output(head.len() + bytes.len())?;
    let (output_head, output_value) = output.split_at_mut(head.len());
    output_head.copy_from_slice(&head);
    output_value.copy_from_slice(&bytes);
    Ok(())
}

fn put(call: &mut Call<'_>) -> FunctionResult {
    ensure_allowed(call)?;
    let context = call.context();
    let (head, key, value) = PutHead::decode(call.input()).map_err(|error| bad_request(&error))?;
    let kind = (head.type_id, head.schema_version);
    context.ensure_state_known(key).map_err(StateError::into_answer)?;
    let written = context.state_room().put_as(key, value, kind, head.condition).map_err(StateError::into_answer)?;
    call.reply(&written.encode())
}

fn delete(call: &mut Call<'_>) -> FunctionResult {
    ensure_allowed(call)?;
    let context = call.context();
    let (condition, key) = decode_delete(call.input()).map_err(|error| bad_request(&error))?;
    context.ensure_state_known(key).map_err(StateError::into_answer)?;
    let written = settled(context.state_room().delete(key, condition)).map_err(StateError::into_answer)?;
    call.reply(&written.encode())
}

fn list(call: &mut Call<'_>) -> FunctionResult {
    ensure_allowed(call)?;
    let context = call.context();
    let question = ListQuestion::decode(call.input()).map_err(|error| bad_request(&error))?;
    let page = context.list_state(&question).map_err(StateError::into_answer)?;
    call.reply_owned(page.encode(call.payload_bytes_max()))
}

fn ensure_allowed(call: &Call<'_>) -> FunctionResult {
    if call.context().caller_rights().contains(Rights::STATE) { Ok(()) } else { Err(FunctionError::unauthorized()) }
}

fn bad_request(error: &impl std::error::Error) -> FunctionError {
    FunctionError::of_sdk(codes::BAD_REQUEST, error.to_string())
}
