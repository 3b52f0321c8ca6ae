//! Where everything lies in a lane segment and in its reply ledger: one table of regions, chained, never summed by hand.
//!
//! ```text
//! lane segment    header 4 KiB │ request ring │ reply cells │ request half of the arena │ reply half of the arena
//! reply ledger    lock and counters 128 B │ one record a cell │ allocator map of the reply half
//! ```
//!
//! Client, workers and server map the lane segment; workers and server alone map the ledger. Geometry travels in the
//! server's messages; nobody takes it from memory that a peer can write.

use praas_protocol::control::LaneGeometry;
use praas_protocol::limits;

use crate::arena::{self, BLOCK_BYTES_MIN};

/// Bytes before the ring: magic and version, then attendance; one page.
const HEADER_BYTES: usize = 4096;
/// Where attendance lies in the header.
pub(crate) const ATTENDANCE_OFFSET: usize = 256;
/// Arenas start on a page, so that pages of one half are never those of the other.
const PAGE_BYTES: usize = 4096;
/// Smallest half of an arena: small payloads of all cells fit.
const ARENA_BYTES_MIN: u32 = 1 << 20;
/// Largest half of an arena: the largest payload rounded up to a power of two.
pub const ARENA_BYTES_MAX: u32 = 1 << 31;
/// Bytes of a ring entry and of a reply cell.
const SLOT_BYTES: usize = 128;
/// Bytes before the ledger's records.
const LEDGER_HEADER_BYTES: usize = 128;

/// Announced sizes that no lane can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a lane cannot have {what} = {actual}; allowed are powers of two from {minimum} to {maximum}")]
pub struct GeometryError {
    /// Which size.
    pub what: &'static str,
    /// What was announced.
    pub actual: u32,
    /// Smallest allowed.
    pub minimum: u32,
    /// Largest allowed.
    pub maximum: u32,
}

/// The geometry of a lane for payloads up to `payload_bytes_max` with `calls_in_flight` calls, clamped to the limits.
#[must_use]
pub fn geometry_for(payload_bytes_max: u32, calls_in_flight: u32) -> LaneGeometry {
    let calls = calls_in_flight.clamp(limits::RING_ENTRIES_MIN, limits::RING_ENTRIES_MAX).next_power_of_two();
    let half = payload_bytes_max.clamp(ARENA_BYTES_MIN, ARENA_BYTES_MAX).next_power_of_two();
    LaneGeometry { ring_entries: calls, cells: calls, request_arena_bytes: half, reply_arena_bytes: half }
}

/// Offsets of a lane's regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneLayout {
    pub(crate) geometry: LaneGeometry,
    pub(crate) ring: usize,
    pub(crate) cells: usize,
    pub(crate) request_arena: usize,
    pub(crate) reply_arena: usize,
    segment_bytes: usize,
    pub(crate) ledger_records: usize,
    pub(crate) ledger_map: usize,
    ledger_bytes: usize,
}

impl LaneLayout {
    /// The layout for an announced geometry.
    ///
    /// # Errors
    /// [`GeometryError`] names the size that is not a power of two or outside its limits.
    pub fn new(geometry: &LaneGeometry) -> Result<Self, GeometryError> {
        let check = |what, actual: u32, minimum, maximum| {
            if actual.is_power_of_two() && (minimum..=maximum).contains(&actual) {
                Ok(actual as usize)
            } else {
                Err(GeometryError { what, actual, minimum, maximum })
            }
        };
        let entries = check("ring_entries", geometry.ring_entries, limits::RING_ENTRIES_MIN, limits::RING_ENTRIES_MAX)?;
        let cell_count = check("cells", geometry.cells, limits::RING_ENTRIES_MIN, limits::RING_ENTRIES_MAX)?;
        let requests = check("request_arena_bytes", geometry.request_arena_bytes, ARENA_BYTES_MIN, ARENA_BYTES_MAX)?;
        let replies = check("reply_arena_bytes", geometry.reply_arena_bytes, ARENA_BYTES_MIN, ARENA_BYTES_MAX)?;

        let ring = HEADER_BYTES;
        let cells = ring + entries * SLOT_BYTES;
        let request_arena = (cells + cell_count * SLOT_BYTES).next_multiple_of(PAGE_BYTES);
        let reply_arena = request_arena + requests;
        let segment_bytes = reply_arena + replies;

        let ledger_records = LEDGER_HEADER_BYTES;
        let ledger_map = (ledger_records + cell_count * size_of::<u64>()).next_multiple_of(PAGE_BYTES);
        let ledger_bytes = (ledger_map + arena::map_bytes(replies)).next_multiple_of(PAGE_BYTES);
        Ok(Self {
            geometry: *geometry,
            ring,
            cells,
            request_arena,
            reply_arena,
            segment_bytes,
            ledger_records,
            ledger_map,
            ledger_bytes,
        })
    }

    /// Bytes of the lane segment.
    #[must_use]
    pub fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    /// Bytes of the reply ledger.
    #[must_use]
    pub fn ledger_bytes(&self) -> usize {
        self.ledger_bytes
    }
}

const _: () = {
    assert!(ATTENDANCE_OFFSET + 256 <= HEADER_BYTES);
    assert!(ARENA_BYTES_MIN as usize >= BLOCK_BYTES_MIN);
    assert!(ARENA_BYTES_MAX > limits::PAYLOAD_BYTES_MAX);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_payload_and_calls_gives_a_lane() {
        for payload in [0, 1, 64 << 10, limits::PAYLOAD_BYTES_MAX_DEFAULT, limits::PAYLOAD_BYTES_MAX] {
            for calls in [0, 1, 5, 64, u32::MAX] {
                let geometry = geometry_for(payload, calls);
                let layout = LaneLayout::new(&geometry).unwrap();
                assert!(geometry.request_arena_bytes >= payload);
                assert!(layout.ring < layout.cells && layout.cells < layout.request_arena);
                assert!(layout.reply_arena + geometry.reply_arena_bytes as usize == layout.segment_bytes());
            }
        }
    }

    #[test]
    fn sizes_outside_the_limits_are_named() {
        let good = geometry_for(1 << 20, 64);
        for bad in [
            LaneGeometry { ring_entries: 63, ..good },
            LaneGeometry { ring_entries: 2, ..good },
            LaneGeometry { cells: 0, ..good },
            LaneGeometry { cells: 8192, ..good },
            LaneGeometry { request_arena_bytes: 4096, ..good },
            LaneGeometry { reply_arena_bytes: u32::MAX, ..good },
        ] {
            let error = LaneLayout::new(&bad).unwrap_err();
            assert!(error.to_string().contains(error.what));
        }
    }
}
