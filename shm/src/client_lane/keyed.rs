//! Calls with idempotency keys: a flag in the entry says that the payload begins with [`Idempotency::to_prefix`].

use praas_protocol::Idempotency;
use praas_protocol::limits::IDEMPOTENCY_PREFIX_BYTES;

use super::*;
use crate::request::KEYED;

/// The payload of a call with an idempotency key.
#[derive(Debug)]
pub enum KeyedPayload<'a> {
    /// Private bytes, to be copied into the lane behind the prefix.
    Bytes(&'a [u8]),
    /// A block of the lane that begins with the prefix: see [`ClientLane::loan_keyed`].
    Loan(LoanBlock),
}

impl ClientLane {
    /// Publishes a call with an idempotency key and summons a worker where needed: otherwise as [`ClientLane::submit`]. Its
    /// payload may have [`IDEMPOTENCY_PREFIX_BYTES`] less than others.
    ///
    /// # Errors
    /// As [`ClientLane::submit`].
    ///
    /// # Panics
    /// On a loan that another lane lent.
    pub fn submit_keyed(
        &self,
        function: FunctionId,
        idempotency: Idempotency,
        payload: KeyedPayload<'_>,
        deadline_ns: u64,
        root: u128,
    ) -> Result<Ticket, SubmitError> {
        let copied = matches!(payload, KeyedPayload::Bytes(_));
        let submitted = self
            .publish_keyed(function, idempotency, payload, deadline_ns, root)
            .and_then(|ticket| self.after_publish(ticket));
        if copied { submitted.map_err(|error| self.without_loan(error)) } else { submitted }
    }

    /// Publishes a call with an idempotency key as [`ClientLane::submit_quietly`] does one without.
    ///
    /// # Errors
    /// As [`ClientLane::submit`].
    ///
    /// # Panics
    /// On a loan that another lane lent.
    pub fn submit_keyed_quietly(
        &self,
        function: FunctionId,
        idempotency: Idempotency,
        payload: KeyedPayload<'_>,
        deadline_ns: u64,
        root: u128,
    ) -> Result<Ticket, SubmitError> {
        let copied = matches!(payload, KeyedPayload::Bytes(_));
        let published = self.publish_keyed(function, idempotency, payload, deadline_ns, root);
        if copied { published.map_err(|error| self.without_loan(error)) } else { published }
    }

    /// A block for a payload of `bytes` of a call with a key, which begins with the prefix: the payload itself goes behind its
    /// [`IDEMPOTENCY_PREFIX_BYTES`].
    ///
    /// # Errors
    /// As [`ClientLane::loan`].
    pub fn loan_keyed(&self, idempotency: Idempotency, bytes: usize) -> Result<LoanBlock, SubmitError> {
        let whole_bytes = bytes.saturating_add(IDEMPOTENCY_PREFIX_BYTES);
        let mut loan = self.loan(whole_bytes).map_err(without_prefix)?;
        self.loan_write(&mut loan, 0, &idempotency.to_prefix());
        Ok(loan)
    }

    fn publish_keyed(
        &self,
        function: FunctionId,
        idempotency: Idempotency,
        payload: KeyedPayload<'_>,
        deadline_ns: u64,
        root: u128,
    ) -> Result<Ticket, SubmitError> {
        let mut whole = [0; REQUEST_INLINE_BYTES];
        let (inline, block) = match payload {
            KeyedPayload::Bytes(bytes) if bytes.len() <= REQUEST_INLINE_BYTES - IDEMPOTENCY_PREFIX_BYTES => {
                let (prefix, rest) = whole.split_at_mut(IDEMPOTENCY_PREFIX_BYTES);
                prefix.copy_from_slice(&idempotency.to_prefix());
                rest[..bytes.len()].copy_from_slice(bytes);
                (&whole[..IDEMPOTENCY_PREFIX_BYTES + bytes.len()], None)
            }
            KeyedPayload::Bytes(bytes) => {
                let mut loan = self.loan_keyed(idempotency, bytes.len())?;
                self.loan_write(&mut loan, IDEMPOTENCY_PREFIX_BYTES, bytes);
                (&[][..], Some(loan))
            }
            KeyedPayload::Loan(loan) => {
                self.ensure_own(&loan);
                (&[][..], Some(loan))
            }
        };
        self.publish(inline, block, |entry| {
            entry.function.store(function.0, Ordering::Relaxed);
            entry.deadline_ns.store(deadline_ns, Ordering::Relaxed);
            store_root(&entry.root, root);
            // The CPU's number is there already, in the low half.
            entry.cpu.store(entry.cpu.load(Ordering::Relaxed) | KEYED, Ordering::Relaxed);
        })
    }
}

/// The same error with the figures of the payload alone.
fn without_prefix(mut error: SubmitError) -> SubmitError {
    if let SubmitError::TooLarge { limit_bytes, actual_bytes, .. } = &mut error {
        *limit_bytes = limit_bytes.saturating_sub(IDEMPOTENCY_PREFIX_BYTES as u64);
        *actual_bytes = actual_bytes.saturating_sub(IDEMPOTENCY_PREFIX_BYTES as u64);
    }
    error
}
