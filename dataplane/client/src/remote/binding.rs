//! How a process is reached at this moment: a connection and a handle on it, or a connection of its own to a worker.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use praas_protocol::wire::{HandedOver, Opened, SessionOpened};

use crate::remote::link::Link;

/// One way to a process. The handle is given back with its last user.
pub(crate) struct Binding {
    link: Arc<Link>,
    seat: usize,
    payload_bytes_max: u32,
    dedicated: bool,
    closed: AtomicBool,
    /// Why no worker took the connection, although the caller had asked for one.
    refusal: Option<String>,
}

impl Binding {
    /// Over the connection that is shared with other processes.
    pub(crate) fn brokered(link: Arc<Link>, opened: &Opened, refusal: Option<String>) -> Self {
        let seat = link.add_handle(opened.handle, opened.in_flight_max);
        let payload_bytes_max = opened.payload_bytes_max.min(link.greeting().payload_bytes_max);
        Self { link, seat, payload_bytes_max, dedicated: false, closed: AtomicBool::new(false), refusal }
    }

    /// To a session, over the connection that is shared with processes.
    pub(crate) fn of_session(link: Arc<Link>, opened: &SessionOpened) -> Self {
        let seat = link.add_handle(opened.handle, opened.in_flight_max);
        let payload_bytes_max = opened.payload_bytes_max.min(link.greeting().payload_bytes_max);
        Self { link, seat, payload_bytes_max, dedicated: false, closed: AtomicBool::new(false), refusal: None }
    }

    /// Over a connection that a worker took.
    pub(crate) fn dedicated(link: Arc<Link>, answer: &HandedOver) -> Self {
        let seat = link.add_handle(0, answer.in_flight_max);
        let payload_bytes_max = answer.payload_bytes_max;
        Self { link, seat, payload_bytes_max, dedicated: true, closed: AtomicBool::new(false), refusal: None }
    }

    #[inline]
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    #[inline]
    pub(crate) fn seat(&self) -> usize {
        self.seat
    }

    pub(crate) fn payload_bytes_max(&self) -> u32 {
        self.payload_bytes_max
    }

    pub(crate) fn is_dedicated(&self) -> bool {
        self.dedicated
    }

    pub(crate) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Whether calls may still go this way.
    #[inline]
    pub(crate) fn is_usable(&self) -> bool {
        self.link.is_usable() && !self.closed.load(Ordering::Acquire)
    }

    /// The process behind it has ended, or moved: it has to be found anew.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        self.link.close_handle(self.seat);
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Binding")
            .field("dedicated", &self.dedicated)
            .field("usable", &self.is_usable())
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}
