//! Which versions this worker has found valid: private memory, never the segment's.
//!
//! Versions never repeat and objects never change, so an archive that was validated once as some type stays valid. A
//! direct-mapped table: a newer version takes an older one's place, and whoever is not found is validated again.

use std::any::TypeId;
use std::cell::Cell;

use super::limits::VALIDATED_SLOTS;

/// The table.
#[derive(Debug)]
pub(crate) struct Validated {
    slots: Box<[Cell<(u64, TypeId)>]>,
}

impl Validated {
    pub(crate) fn new() -> Self {
        Self { slots: vec![Cell::new((0, TypeId::of::<()>())); VALIDATED_SLOTS].into_boxed_slice() }
    }

    #[inline]
    fn slot(&self, version: u64) -> &Cell<(u64, TypeId)> {
        #[allow(clippy::cast_possible_truncation, reason = "the low bits choose the slot")]
        let index = version as usize % VALIDATED_SLOTS;
        &self.slots[index]
    }

    /// Versions are never 0, which empty slots have.
    #[inline]
    pub(crate) fn has(&self, version: u64, type_id: TypeId) -> bool {
        version != 0 && self.slot(version).get() == (version, type_id)
    }

    #[inline]
    pub(crate) fn set(&self, version: u64, type_id: TypeId) {
        self.slot(version).set((version, type_id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_remembered_with_its_type_until_another_takes_its_place() {
        let validated = Validated::new();
        let (one, another) = (TypeId::of::<u8>(), TypeId::of::<u16>());
        assert!(!validated.has(0, TypeId::of::<()>()) && !validated.has(1, one));
        validated.set(1, one);
        assert!(validated.has(1, one) && !validated.has(1, another));
        validated.set(1 + VALIDATED_SLOTS as u64, one);
        assert!(!validated.has(1, one));
    }
}
