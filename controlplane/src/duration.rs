//! Durations as people write them: a number and a unit.

use std::time::Duration;

use crate::limits::DEADLINE_MAX;

/// Why a text is not a duration that can be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It has another form.
    #[error("write a number with its unit, such as 250us, 20ms, 1.5s or 2m")]
    Form,
    /// It is zero or too long.
    #[error("it must be more than nothing and at most a day")]
    Range,
}

/// Reads a duration such as `250us`, `20ms`, `1.5s`, `2m`.
///
/// # Errors
/// [`DurationError`] when it has another form, is zero, or longer than a day.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let unit_start = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(DurationError::Form)?;
    let (number, unit) = text.split_at(unit_start);
    let unit_seconds = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(DurationError::Form),
    };
    let seconds = number.parse::<f64>().map_err(|_| DurationError::Form)? * unit_seconds;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| DurationError::Range)?;
    if duration.is_zero() || duration > DEADLINE_MAX {
        return Err(DurationError::Range);
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        for (text, expected) in [
            ("250us", Duration::from_micros(250)),
            ("20ms", Duration::from_millis(20)),
            ("1.5s", Duration::from_millis(1500)),
            ("2m", Duration::from_secs(120)),
            ("24h", DEADLINE_MAX),
            ("10ns", Duration::from_nanos(10)),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "5", "s", "1.2.3s", "1 s", "-1s", "5 parsecs", "1e3s"] {
            assert_eq!(parse(text), Err(DurationError::Form), "{text}");
        }
        for text in ["0s", "25h", "99999999999999999999h"] {
            assert_eq!(parse(text), Err(DurationError::Range), "{text}");
        }
    }
}
