//! What leaves a process: calls of other processes and of itself, and messages to both.

use praas_function::{Call, CallError, FunctionResult, InvokeOptions, SELF};
use praas_protocol::IdempotencyKey;

use super::{MESSAGE_KEY, Role, begin, dies, operation_of, take_effect};
use crate::model::{Death, Operation, model};

/// Calls that a keyed nested call makes at most, its repetitions included.
const NESTED_TRIES_MAX: u32 = 3;

/// A byte of the way of a relay that says that the next call has an idempotency key.
pub(crate) const KEYED: u8 = 0x80;

/// What it does by itself comes after what those do whom it calls: its input names them, a byte for each.
pub(super) fn relay(call: &mut Call<'_>, role: Role) -> FunctionResult<&'static [u8]> {
    let ((operation, way), context) = (operation_of(call), call.context());
    begin(&context, role, operation)?;
    if dies(Death::First, role) {
        return Ok(b"");
    }
    if let Some((next, rest)) = way.split_first() {
        call_next(call, role, operation + 1, *next, rest);
    }
    take_effect(&context, role, operation)?;
    dies(Death::Last, role);
    Ok(b"")
}

fn call_next(call: &Call<'_>, role: Role, operation: Operation, next: u8, rest: &[u8]) {
    let (context, callee) = (call.context(), role.other(next & !KEYED));
    let input = [&operation.to_le_bytes(), rest].concat();
    let mut options = InvokeOptions::new();
    if next & KEYED != 0 {
        let key: IdempotencyKey = format!("operation {operation}").parse().expect("it is short");
        options = options.idempotency_key(key);
    }
    for attempt in 1..=NESTED_TRIES_MAX {
        let changes = model(|model| model.changes(&callee));
        let called = if callee == role.process {
            context.invoke_with(SELF, "relay", &input, &options)
        } else {
            context.invoke_with(callee.process, "relay", &input, &options)
        };
        let is_outdated = model(|model| model.changes(&callee)) != changes;
        model(|model| {
            let end = called.as_ref().map_or_else(ToString::to_string, |_| "done".to_owned());
            model.said.push(format!("    {operation}, called by {} of {}: {end}", role.worker, role.process.process));
        });
        match called {
            Ok(_) if is_outdated => {}
            Ok(_) => model(|model| model.acknowledged(&callee, operation)),
            Err(CallError::WorkerLost | CallError::ConnectionLost { may_have_run: true }) if next & KEYED != 0 => {
                continue;
            }
            Err(CallError::WorkerLost | CallError::ConnectionLost { may_have_run: true } | CallError::Cancelled) => {}
            Err(
                CallError::Unavailable { .. }
                | CallError::ConnectionLost { may_have_run: false }
                | CallError::UnknownProcess { .. }
                | CallError::Overloaded { .. },
            ) => {
                if attempt == 1 && !is_outdated {
                    model(|model| model.refused(&callee, operation));
                }
            }
            // What it needed could not be brought back.
            Err(CallError::FunctionFailed { .. }) if model(|model| model.is_rough) => {}
            Err(error) => {
                model(|model| model.wrong.push(format!("{callee}: nested call {operation} ended oddly: {error}")));
            }
        }
        return;
    }
}

/// Sends a message, whose number is the next one.
pub(super) fn post(call: &mut Call<'_>, role: Role) -> FunctionResult<&'static [u8]> {
    let ((operation, way), context) = (operation_of(call), call.context());
    begin(&context, role, operation)?;
    if dies(Death::First, role) {
        return Ok(b"");
    }
    let (receiver, message) = (role.other(way[0]), operation + 1);
    let changes = model(|model| model.changes(&receiver));
    let sent = if receiver == role.process {
        context.send(SELF, MESSAGE_KEY, &message.to_le_bytes())
    } else {
        context.send(receiver.process, MESSAGE_KEY, &message.to_le_bytes())
    };
    model(|model| {
        let end = sent.as_ref().map_or_else(ToString::to_string, |id| format!("number {}", id.sequence));
        model.said.push(format!("    message {message} of {} to {}: {end}", role.process.process, receiver.process));
        if sent.is_ok() && model.changes(&receiver) == changes {
            model.accepted_in_lane(&receiver, message);
        }
    });
    take_effect(&context, role, operation)?;
    dies(Death::Last, role);
    Ok(b"")
}
