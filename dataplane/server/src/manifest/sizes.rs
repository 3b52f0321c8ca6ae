//! Sizes in bytes as people write them.

const UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// The bytes that `text` names: a whole number, with or without one of the units B, KiB, MiB, GiB, kB, MB, GB.
///
/// ```
/// assert_eq!(praas_server::parse_bytes("64MiB"), Some(64 << 20));
/// assert_eq!(praas_server::parse_bytes("2 kB"), Some(2000));
/// assert_eq!(praas_server::parse_bytes("64 megs"), None);
/// ```
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_exactly_or_refused() {
        for (text, bytes) in [("0", 0), ("7", 7), ("7B", 7), ("1KiB", 1024), ("3 GiB", 3 << 30), ("5MB", 5_000_000)] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "1mib", "99999999999999999999", "18446744073709551615KiB", "1 Mi B"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }
}
