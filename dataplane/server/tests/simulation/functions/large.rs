//! Objects that are so large together that their process wakes without them.

use praas_function::{Call, FunctionResult};

use super::{Role, begin, dies, operation_of, take_effect};
use crate::model::{Death, Operation, model};

/// Objects of a process, and bytes of each: with five of them a process comes back piece by piece.
pub(crate) const OBJECTS: u8 = 6;
const OBJECT_BYTES: usize = 1 << 20;

/// Puts one, the first time all.
pub(super) fn grow(call: &mut Call<'_>, role: Role) -> FunctionResult<&'static [u8]> {
    let ((operation, wanted), context) = (operation_of(call), call.context());
    begin(&context, role, operation)?;
    if dies(Death::First, role) {
        return Ok(b"");
    }
    let value = operation.to_le_bytes().repeat(OBJECT_BYTES / 4);
    let is_small = model(|model| !model.has_objects(&role.process));
    for number in 0..OBJECTS {
        if is_small || number == wanted[0] {
            let version = context.put_bytes(&name_of(number), &value)?;
            model(|model| model.put_object(&role, number, operation, version));
        }
    }
    take_effect(&context, role, operation)?;
    dies(Death::Last, role);
    Ok(b"")
}

/// Reads one, which may have to be brought back first.
pub(super) fn look(call: &mut Call<'_>, role: Role) -> FunctionResult<&'static [u8]> {
    let ((operation, number), context) = (operation_of(call), call.context());
    begin(&context, role, operation)?;
    let object = context.state_bytes(&name_of(number[0]))?;
    let found = object.as_ref().map(|object| {
        let (first, _) = object.split_first_chunk().expect("it is large");
        let is_whole = object.len() == OBJECT_BYTES && object.chunks_exact(4).all(|word| word == first);
        (Operation::from_le_bytes(*first), is_whole)
    });
    model(|model| model.look_at_object(&role.process, number[0], found));
    take_effect(&context, role, operation)?;
    Ok(b"")
}

fn name_of(number: u8) -> String {
    format!("object {number}")
}
