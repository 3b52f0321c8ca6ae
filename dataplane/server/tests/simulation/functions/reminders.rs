//! Messages that a process asks to get at a time.

use std::time::{Duration, UNIX_EPOCH};

use praas_function::{Call, FunctionResult, Sources};

use super::{NOTHING, Role, begin, dies, operation_of, take_effect};
use crate::model::{Death, Operation, model};

/// The key of what comes at a time.
const WAKE_KEY: &str = "wake";

/// Asks to be woken, in so many seconds as its input says, with the next number.
pub(super) fn remind(call: &mut Call<'_>, role: Role) -> FunctionResult<&'static [u8]> {
    let ((operation, seconds), context) = (operation_of(call), call.context());
    begin(&context, role, operation)?;
    if dies(Death::First, role) {
        return Ok(b"");
    }
    let wake_up = operation + 1;
    let due_unix_ms = model(|model| model.now_unix_ms) + 1000 * u64::from(seconds[0]);
    context.wake_at(UNIX_EPOCH + Duration::from_millis(due_unix_ms), WAKE_KEY, &wake_up.to_le_bytes())?;
    model(|model| model.planned(&role.process, wake_up, due_unix_ms));
    take_effect(&context, role, operation)?;
    dies(Death::Last, role);
    Ok(b"")
}

/// Takes what has come at its time.
pub(super) fn take_wake(call: &mut Call<'_>, role: Role) -> FunctionResult<Vec<u8>> {
    let ((operation, _), context) = (operation_of(call), call.context());
    begin(&context, role, operation)?;
    let Some(message) = context.try_recv(Sources::Any, WAKE_KEY)? else { return Ok(NOTHING.to_vec()) };
    let wake_up = Operation::from_le_bytes(message[..].try_into().expect("four bytes"));
    model(|model| model.woken(&role.process, wake_up));
    dies(Death::Last, role);
    Ok(wake_up.to_le_bytes().to_vec())
}
