//! [`InvokeOptions`]: what a call from function to function may be given beside its input.

use std::time::Duration;

use praas_protocol::{Idempotency, IdempotencyKey};

/// Options of a call that a function makes.
///
/// ```
/// use std::time::Duration;
/// use praas_function::InvokeOptions;
///
/// let brief = InvokeOptions::new().deadline(Duration::from_millis(50));
/// # let _ = brief;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct InvokeOptions {
    pub(super) deadline: Option<Duration>,
    pub(super) idempotency: Option<Idempotency>,
}

impl InvokeOptions {
    /// None: as much time as the caller has left, and no key.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Time until the call is waited for no longer. What the caller has left bounds it, too.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Makes all calls with this key, from this process to this function of that process, one call: it runs once, and each of
    /// them gets its answer.
    #[must_use]
    pub fn idempotency_key(mut self, key: IdempotencyKey) -> Self {
        let rerun_lost = self.idempotency.is_some_and(|given| given.rerun_lost);
        self.idempotency = Some(Idempotency { key, rerun_lost });
        self
    }

    /// As [`InvokeOptions::idempotency_key`], but a call whose worker died runs again. Its effects may then happen twice.
    #[must_use]
    pub fn idempotency_key_rerun_lost(mut self, key: IdempotencyKey) -> Self {
        self.idempotency = Some(Idempotency { key, rerun_lost: true });
        self
    }
}
