//! A piece of a lane's memory that the caller fills, so that a payload is not copied on its way.
//!
//! A loan belongs to the lane it was taken from. When that lane was replaced meanwhile (the process or the server was
//! restarted), its content is carried over to the new lane.

use std::fmt;
use std::sync::Arc;

use praas_protocol::CallError;
use praas_shm::client_lane::LoanBlock;

use crate::open_lane::OpenLane;

/// Memory of a lane on loan to the caller; sent by a call, or given back when dropped.
///
/// ```no_run
/// # let client = praas_client::Client::connect_default()?;
/// let alice = client.process("hello/alice".parse()?)?;
/// let mut loan = alice.loan(1 << 20)?;
/// match loan.as_mut_slice() {
///     // The process shares our trust domain: write where it will read.
///     Some(bytes) => bytes.fill(7),
///     None => loan.write_at(0, &vec![7; 1 << 20])?,
/// }
/// let reply = alice.invoke("sum", loan)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Loan {
    open: Arc<OpenLane>,
    /// `None` only while the block travels with a request, and then this value is no longer anybody's.
    block: Option<LoanBlock>,
}

impl Loan {
    pub(crate) fn new(open: Arc<OpenLane>, block: LoanBlock) -> Self {
        Self { open, block: Some(block) }
    }

    /// Its size in bytes: exactly these travel.
    #[must_use]
    pub fn len(&self) -> usize {
        self.block.as_ref().map_or(0, LoanBlock::bytes)
    }

    /// Whether it has no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory itself, when both ends of the lane share a trust domain. It holds whatever was there before.
    ///
    /// Across a trust boundary the other side could rewrite it at any time, so there is no slice of it: see
    /// [`Loan::write_at`].
    #[must_use]
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        let block = self.block.as_mut()?;
        self.open.lane().loan_bytes_mut(block)
    }

    /// Copies `bytes` to `offset`, on any lane.
    ///
    /// # Errors
    /// [`CallError::PayloadTooLarge`] when they do not fit; nothing is written then.
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> Result<(), CallError> {
        let end = offset.saturating_add(bytes.len());
        if end > self.len() {
            return Err(CallError::PayloadTooLarge { limit_bytes: self.len() as u64, actual_bytes: end as u64 });
        }
        if let Some(block) = self.block.as_mut() {
            self.open.lane().loan_write(block, offset, bytes);
        }
        Ok(())
    }

    /// The block, to be sent over `open`; or the loan again when it lies in another lane.
    pub(crate) fn into_block(mut self, open: &Arc<OpenLane>) -> Result<LoanBlock, Self> {
        if !Arc::ptr_eq(&self.open, open) {
            return Err(self);
        }
        self.block.take().ok_or(self)
    }

    /// A private copy of the content.
    pub(crate) fn content(&self) -> Vec<u8> {
        let mut content = vec![0; self.len()];
        if let Some(block) = &self.block {
            self.open.lane().loan_read(block, &mut content);
        }
        content
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.open.lane().return_loan(block);
        }
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Loan").field("bytes", &self.len()).field("lane", &self.open.id()).finish()
    }
}
