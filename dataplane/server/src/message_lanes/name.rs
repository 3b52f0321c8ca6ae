//! What the keeper calls a message lane: all that the next server must know of it.
//!
//! `lane/APPLICATION/PROCESS/INCARNATION/SLOT.SERIAL.ENTRIES.BLOCKS.ARENA.INCARNATION/SOURCE`, numbers in base 16. A source is
//! the name of a process of the same application, or `@` and a client session; `~` before it says that the lane repeats. A name
//! is never used twice, because a serial is not.

use std::fmt;

use praas_protocol::control::{MessageLaneGeometry, MessageLaneSlot};
use praas_protocol::{Address, ProcessId, SessionId};

/// What the name of a message lane says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LaneName {
    /// The process that receives.
    pub(crate) process: ProcessId,
    /// Which life of it.
    pub(crate) incarnation: u64,
    /// The lane's place among the inbound lanes of that process.
    pub(crate) slot: MessageLaneSlot,
    /// The lane's number.
    pub(crate) serial: u64,
    /// Its sizes.
    pub(crate) geometry: MessageLaneGeometry,
    /// Who sends.
    pub(crate) source: Address,
    /// Which life of the sender.
    pub(crate) source_incarnation: u64,
    /// Whether what lies in it may have come another way, too.
    pub(crate) repeats: bool,
}

impl fmt::Display for LaneName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, incarnation, slot, serial, geometry, source, source_incarnation, repeats } = self;
        let MessageLaneGeometry { entries, blocks, arena_bytes } = geometry;
        write!(formatter, "lane/{process}/{incarnation:016x}/{:x}.{serial:x}.{entries:x}.{blocks:x}.", slot.0)?;
        write!(formatter, "{arena_bytes:x}.{source_incarnation:x}/{}", if *repeats { "~" } else { "" })?;
        match source {
            Address::Process(name) => name.fmt(formatter),
            Address::Client(session) => write!(formatter, "@{session}"),
        }
    }
}

impl LaneName {
    /// What this name says; `None` for the name of something else.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let [kind, application, process, incarnation, numbers, source] = pieces(name, '/')?;
        let [slot, serial, entries, blocks, arena_bytes, source_incarnation] = pieces(numbers, '.')?;
        let wide = |text| u64::from_str_radix(text, 16).ok();
        let number = |text| u32::from_str_radix(text, 16).ok();
        let (repeats, source) = source.strip_prefix('~').map_or((false, source), |source| (true, source));
        let source = match source.strip_prefix('@') {
            Some(session) => Address::Client(SessionId(u128::from_str_radix(session, 16).ok()?)),
            None => Address::Process(source.parse().ok()?),
        };
        let parsed = Self {
            process: ProcessId { application: application.parse().ok()?, process: process.parse().ok()? },
            incarnation: wide(incarnation)?,
            slot: MessageLaneSlot(u16::from_str_radix(slot, 16).ok()?),
            serial: wide(serial)?,
            geometry: MessageLaneGeometry {
                entries: number(entries)?,
                blocks: number(blocks)?,
                arena_bytes: number(arena_bytes)?,
            },
            source,
            source_incarnation: wide(source_incarnation)?,
            repeats,
        };
        // Nothing else writes such names, and there is one way to write each.
        (kind == "lane" && parsed.to_string() == name).then_some(parsed)
    }
}

/// The pieces of a text, if there are as many as that.
fn pieces<const COUNT: usize>(text: &str, separator: char) -> Option<[&str; COUNT]> {
    let pieces: Vec<_> = text.splitn(COUNT + 1, separator).collect();
    pieces.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::KEEPER_NAME_BYTES_MAX;

    fn sample(source: Address, repeats: bool) -> LaneName {
        LaneName {
            process: "hello/alice".parse().unwrap(),
            incarnation: 0xab,
            slot: MessageLaneSlot(255),
            serial: 77,
            geometry: MessageLaneGeometry { entries: 1024, blocks: 256, arena_bytes: 1 << 18 },
            source,
            source_incarnation: 9,
            repeats,
        }
    }

    #[test]
    fn names_of_lanes_read_back_as_written_and_others_are_not_mistaken() {
        let (bob, session) = ("bob".parse().unwrap(), Address::Client(SessionId(7 << 100)));
        for (source, repeats) in [(bob, false), (session, false), (bob, true), (session, true)] {
            let lane = sample(source, repeats);
            let name = lane.to_string();
            assert_eq!(LaneName::parse(&name), Some(lane));
            assert!(crate::process_memory::parse_memory_name(&name).is_none());
            for cut in 0..name.len() {
                assert_ne!(LaneName::parse(&name[..cut]).map(|lane| lane.source), Some(source), "{cut}");
            }
            for other in [
                name.to_uppercase(),
                format!("{name}/"),
                format!("/{name}"),
                name.replace("ff.", "0ff."),
                format!("~{name}"),
            ] {
                assert_eq!(LaneName::parse(&other), None, "{other}");
            }
        }
        for other in ["", "lane", "objects/hello/alice/00000000000000ab", "lane/hello/alice/1/2/3", "////..../"] {
            assert_eq!(LaneName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_longest_name_is_one_that_the_keeper_takes() {
        let longest = "a".repeat(63);
        let name = LaneName {
            process: format!("{longest}/{longest}").parse().unwrap(),
            incarnation: u64::MAX,
            slot: MessageLaneSlot(u16::MAX),
            serial: u64::MAX,
            geometry: MessageLaneGeometry { entries: u32::MAX, blocks: u32::MAX, arena_bytes: u32::MAX },
            source_incarnation: u64::MAX,
            source: longest.parse().unwrap(),
            repeats: true,
        };
        assert!(name.to_string().len() <= KEEPER_NAME_BYTES_MAX, "{}", name.to_string().len());
    }
}
