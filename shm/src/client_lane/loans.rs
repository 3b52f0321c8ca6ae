//! Blocks of the request half, lent to build payloads in. A block is in one pair of hands: the loan's, a ticket's, or the
//! allocator's.

use std::ptr::NonNull;

use super::*;

/// A block of the lane's request half, lent to the client's code to build a payload in. Give it back by
/// [`ClientLane::submit`] or [`ClientLane::return_loan`] of the very lane that lent it.
#[derive(Debug)]
#[must_use = "a block that is neither submitted nor returned stays allocated"]
pub struct LoanBlock {
    pub(super) block: Block,
    pub(super) bytes: u32,
    /// [`ClientLane::serial`] of the lane.
    lane_serial: u32,
}

impl LoanBlock {
    /// Bytes of the payload.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    fn into_block(self) -> Block {
        self.block
    }
}

impl ClientLane {
    /// A block for a payload of `bytes`.
    ///
    /// # Errors
    /// [`SubmitError::TooLarge`] over the limit, [`SubmitError::Full`] when the request half has no room now.
    pub fn loan(&self, bytes: usize) -> Result<LoanBlock, SubmitError> {
        self.check_size(bytes).map_err(|()| self.too_large(bytes, None))?;
        let length = u32::try_from(bytes).map_err(|_| self.too_large(bytes, None))?;
        let mut submission = self.submission.lock();
        self.allocate(&mut submission, bytes)
            .map(|block| LoanBlock { block, bytes: length, lane_serial: self.serial })
            .ok_or_else(|| self.arena_full(&mut submission))
    }

    /// The block's bytes, to be filled in place; `None` outside a trust domain.
    ///
    /// # Panics
    /// If another lane lent it.
    pub fn loan_bytes_mut<'a>(&'a self, loan: &'a mut LoanBlock) -> Option<&'a mut [u8]> {
        self.ensure_own(loan);
        self.trusted.then(|| {
            let place = self.memory.request_bytes(loan.block.offset as usize, loan.bytes());
            // SAFETY: inside the request half (`request_bytes` checks), initialised (a memfd is zeroed), allocated to this
            // loan alone by `loan` of this lane (`ensure_own`), and the loan is borrowed exclusively; the lane is inside one trust domain, whose workers leave blocks of
            // unpublished requests alone.
            unsafe { std::slice::from_raw_parts_mut(place.as_ptr(), loan.bytes()) }
        })
    }

    /// The block's bytes; `None` outside a trust domain.
    ///
    /// # Panics
    /// If another lane lent it.
    #[must_use]
    pub fn loan_bytes<'a>(&'a self, loan: &'a LoanBlock) -> Option<&'a [u8]> {
        self.ensure_own(loan);
        self.trusted.then(|| {
            let place = self.memory.request_bytes(loan.block.offset as usize, loan.bytes());
            // SAFETY: as in `loan_bytes_mut`; nothing writes to the block while the loan is borrowed.
            unsafe { std::slice::from_raw_parts(place.as_ptr(), loan.bytes()) }
        })
    }

    /// Copies `source` into the block from byte `at` on.
    ///
    /// # Panics
    /// If it does not fit the loan.
    pub fn loan_write(&self, loan: &mut LoanBlock, at: usize, source: &[u8]) {
        assert!(at.checked_add(source.len()).is_some_and(|end| end <= loan.bytes()), "beyond the end of the loan");
        let place = self.memory.request_bytes(loan.block.offset as usize + at, source.len());
        // SAFETY: the range lies inside the request half of the mapping (`request_bytes` checks).
        unsafe { copy::to_shared(source, place) };
    }

    /// Copies the block's bytes out, also outside a trust domain: to carry a payload over to another lane.
    ///
    /// # Panics
    /// If `destination` is not as long as the loan.
    pub fn loan_read(&self, loan: &LoanBlock, destination: &mut [u8]) {
        assert_eq!(destination.len(), loan.bytes(), "the destination is as long as the loan");
        let place = self.memory.request_bytes(loan.block.offset as usize, loan.bytes());
        // SAFETY: the source lies inside the request half of the mapping (`request_bytes` checks).
        unsafe { copy::from_shared(place, destination) };
    }

    /// Gives an unused block back.
    ///
    /// # Panics
    /// If another lane lent it.
    pub fn return_loan(&self, loan: LoanBlock) {
        self.ensure_own(&loan);
        self.submission.lock().arena.free(loan.into_block());
    }
}

impl ClientLane {
    /// A block means memory of its own lane; with another's, two loans could come to mean one place.
    #[inline]
    pub(super) fn ensure_own(&self, loan: &LoanBlock) {
        assert_eq!(loan.lane_serial, self.serial, "the loan is another lane's");
    }

    /// Where the block's bytes start, for the kernel.
    pub(crate) fn loan_place(&self, loan: &LoanBlock) -> NonNull<u8> {
        self.ensure_own(loan);
        self.memory.request_bytes(loan.block.offset as usize, loan.bytes())
    }
}
