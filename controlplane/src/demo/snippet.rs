//! The line shown with a hit: one row of a terminal that contains the match, whatever the file holds.
//!
//! It never splits a character, never shows a control character (a file could otherwise steer the terminal) and is
//! never longer than [`SNIPPET_BYTES_MAX`] and two marks.

use super::limits::{SNIPPET_BYTES_MAX, SNIPPET_LEAD_BYTES, SNIPPET_MARK};

/// The part of `line` around the match at `match_bytes`, ready to be shown.
#[must_use]
pub fn snippet(line: &str, match_bytes: usize) -> String {
    let trimmed_bytes = line.len() - line.trim_start().len();
    let line = line.trim();
    let (start, end) = window(line, match_bytes.saturating_sub(trimmed_bytes));
    let mut shown = String::with_capacity(end - start + 2 * SNIPPET_MARK.len());
    if start > 0 {
        shown.push_str(SNIPPET_MARK);
    }
    push_without_controls(&mut shown, &line[start..end]);
    if end < line.len() {
        shown.push_str(SNIPPET_MARK);
    }
    shown
}

/// Start and end of the part to show: the whole line where it fits, else from a little before the match.
fn window(line: &str, match_bytes: usize) -> (usize, usize) {
    if line.len() <= SNIPPET_BYTES_MAX {
        return (0, line.len());
    }
    let latest_start = line.len() - SNIPPET_BYTES_MAX;
    let wanted_start = match_bytes.saturating_sub(SNIPPET_LEAD_BYTES).min(latest_start);
    let start = line.ceil_char_boundary(wanted_start);
    let end = line.floor_char_boundary(wanted_start + SNIPPET_BYTES_MAX);
    (start, end)
}

fn push_without_controls(shown: &mut String, part: &str) {
    if part.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_control()) {
        shown.push_str(part);
    } else {
        // A space is no longer than any control character, so the length stays within its bound.
        shown.extend(part.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_line_is_shown_whole_and_trimmed() {
        assert_eq!(snippet("    let lane = open();\r", 8), "let lane = open();");
        assert_eq!(snippet("", 0), "");
    }

    #[test]
    fn control_characters_become_spaces() {
        assert_eq!(snippet("a\tb\u{1b}[31mc\u{9b}d", 0), "a b [31mc d");
    }

    #[test]
    fn a_huge_line_is_cut_around_the_match_between_characters() {
        let line = format!("{}needle{}", "ß→".repeat(100_000), "東".repeat(100_000));
        for shift in 0..8 {
            let line = format!("{}{line}", "x".repeat(shift));
            let shown = snippet(&line, line.find("needle").expect("it is there"));
            assert!(shown.contains("needle"), "{shown}");
            assert!(shown.starts_with(SNIPPET_MARK) && shown.ends_with(SNIPPET_MARK));
            assert!(shown.len() <= SNIPPET_BYTES_MAX + 2 * SNIPPET_MARK.len());
        }
    }

    #[test]
    fn a_match_at_either_end_of_a_huge_line_is_shown() {
        let line = format!("first {} last", "é".repeat(10_000));
        assert!(snippet(&line, 0).starts_with("first "));
        assert!(snippet(&line, line.len() - 4).ends_with(" last"));
    }
}
