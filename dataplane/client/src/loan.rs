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
    memory: Memory,
}

enum Memory {
    /// A block of a lane. `None` only while it travels with a request, and then this value is no longer anybody's.
    Lane { open: Arc<OpenLane>, block: Option<LoanBlock> },
    /// A buffer of our own, from which a socket sends.
    Private(Vec<u8>),
}

impl Loan {
    pub(crate) fn new(open: Arc<OpenLane>, block: LoanBlock) -> Self {
        Self { memory: Memory::Lane { open, block: Some(block) } }
    }

    /// A loan for a process on the network.
    pub(crate) fn private(bytes: usize) -> Self {
        Self { memory: Memory::Private(vec![0; bytes]) }
    }

    /// Its size in bytes: exactly these travel.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.memory {
            Memory::Lane { block, .. } => block.as_ref().map_or(0, LoanBlock::bytes),
            Memory::Private(bytes) => bytes.len(),
        }
    }

    /// Whether it has no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory itself, when both ends of the lane share a trust domain, or when there is no lane because the process is
    /// reached over the network. It holds whatever was there before.
    ///
    /// Across a trust boundary the other side could rewrite it at any time, so there is no slice of it: see
    /// [`Loan::write_at`].
    #[must_use]
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        match &mut self.memory {
            Memory::Lane { open, block } => open.lane().loan_bytes_mut(block.as_mut()?),
            Memory::Private(bytes) => Some(bytes),
        }
    }

    /// Copies `bytes` to `offset`, on any lane or connection.
    ///
    /// # Errors
    /// [`CallError::PayloadTooLarge`] when they do not fit; nothing is written then.
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> Result<(), CallError> {
        let end = offset.saturating_add(bytes.len());
        if end > self.len() {
            return Err(CallError::PayloadTooLarge { limit_bytes: self.len() as u64, actual_bytes: end as u64 });
        }
        match &mut self.memory {
            Memory::Lane { open, block: Some(block) } => open.lane().loan_write(block, offset, bytes),
            Memory::Lane { block: None, .. } => {}
            Memory::Private(private) => private[offset..end].copy_from_slice(bytes),
        }
        Ok(())
    }

    /// The block, to be sent over `open`; or the loan again when it lies in another lane.
    pub(crate) fn into_block(mut self, open: &Arc<OpenLane>) -> Result<LoanBlock, Self> {
        match &mut self.memory {
            Memory::Lane { open: own, block } if Arc::ptr_eq(own, open) => block.take().ok_or(self),
            _ => Err(self),
        }
    }

    /// The content in memory of our own; no copy when it is there already.
    pub(crate) fn into_content(mut self) -> Vec<u8> {
        match &mut self.memory {
            Memory::Private(bytes) => std::mem::take(bytes),
            Memory::Lane { open, block } => {
                let mut content = vec![0; block.as_ref().map_or(0, LoanBlock::bytes)];
                if let Some(block) = block {
                    open.lane().loan_read(block, &mut content);
                }
                content
            }
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Memory::Lane { open, block } = &mut self.memory
            && let Some(block) = block.take()
        {
            open.lane().return_loan(block);
        }
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lane = match &self.memory {
            Memory::Lane { open, .. } => Some(open.id()),
            Memory::Private(_) => None,
        };
        formatter.debug_struct("Loan").field("bytes", &self.len()).field("lane", &lane).finish()
    }
}
