//! The spinning ping-pong over a segment of the `shared_memory` crate, which has no way to wait of its own. The crate
//! names its segments in the system; this one's name is removed as soon as both sides have it open, so that a killed
//! run leaves none unless it is killed in that instant.

use std::ffi::CString;
use std::io;

use shared_memory::{Shmem, ShmemConf, ShmemError};

use super::peer::Orders;
use super::ping_pong::{Caller, PingPongPage, Waiting, answer_rounds};
use super::session::Session;
use super::{Batch, Config, FloorError, Samples};
use crate::interleave::{Series, SeriesError};

pub(super) const ROLE: &str = "shared-memory-crate";
const NAME: &str = "shared_memory crate segment, both spin";

/// The floor, open for rounds.
pub struct SharedMemoryCrate {
    session: Session,
    segment: Segment,
    caller: Caller,
}

impl std::fmt::Debug for SharedMemoryCrate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SharedMemoryCrate").field("session", &self.session).finish_non_exhaustive()
    }
}

impl SharedMemoryCrate {
    /// Makes the segment and starts the other side.
    ///
    /// # Errors
    /// Any [`FloorError`]; spinning on one core is refused.
    pub fn open(config: &Config) -> Result<Self, FloorError> {
        Waiting::Spin.check(NAME, config.placement)?;
        let mut shmem = ShmemConf::new().size(size_of::<PingPongPage>()).create().map_err(|error| refused(&error))?;
        let name = shmem.get_os_id().to_owned();
        let session = Session::open(NAME, ROLE, config, &[], std::slice::from_ref(&name))?;
        unlink(&name)?;
        // The name may be another's from now on.
        shmem.set_owner(false);
        Ok(Self { session, segment: Segment(shmem), caller: Caller::new() })
    }

    /// One round of calls.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let page = self.segment.page();
        let caller = &mut self.caller;
        self.session.round(batch.operations(), &|| page.poison(), || caller.measure(NAME, page, Waiting::Spin, batch))
    }
}

impl Series for SharedMemoryCrate {
    fn label(&self) -> String {
        self.session.config().label(NAME)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

struct Segment(Shmem);

impl Segment {
    fn page(&self) -> &PingPongPage {
        assert!(self.0.len() >= size_of::<PingPongPage>(), "the segment holds the page");
        // SAFETY: the crate maps at page granularity, so the address is aligned; the size was checked above; the
        // mapping lives as long as `self`; the page consists of atomics, valid for any bytes.
        unsafe { &*self.0.as_ptr().cast::<PingPongPage>() }
    }
}

/// The peer's side.
pub(super) fn serve(orders: &Orders) -> io::Result<()> {
    let name = orders.arguments.first().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::other("the parent named no segment"))?;
    let segment = Segment(ShmemConf::new().os_id(name).open().map_err(io::Error::other)?);
    answer_rounds(orders, segment.page(), Waiting::Spin)
}

fn refused(error: &ShmemError) -> FloorError {
    FloorError::SharedMemoryCrate { reason: error.to_string() }
}

fn unlink(name: &str) -> Result<(), FloorError> {
    let name = CString::new(name).expect("the crate's names hold no NUL");
    // SAFETY: the name ends in NUL.
    if unsafe { libc::shm_unlink(name.as_ptr()) } == 0 {
        Ok(())
    } else {
        Err(FloorError::system("unlink a segment of the shared_memory crate")(io::Error::last_os_error()))
    }
}
