//! Sizes as people read them.

/// A number of bytes with three digits and its unit.
#[must_use]
pub fn readable_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
    let (unit, scale) = UNITS.into_iter().find(|(_, scale)| bytes >= *scale).unwrap_or(("B", 1));
    // Tenths, rounded down: a size is not shown as more than it is.
    let tenths = u128::from(bytes) * 10 / u128::from(scale);
    if unit == "B" || tenths >= 1000 {
        return format!("{} {unit}", tenths / 10);
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_a_person_would_take() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (150 * 1024, "150 KiB"),
            ((1 << 20) + (1 << 19), "1.5 MiB"),
            ((1 << 30) - 1, "1023 MiB"),
            (u64::MAX, "17179869183 GiB"),
        ] {
            assert_eq!(readable_bytes(bytes), text, "{bytes}");
        }
    }
}
