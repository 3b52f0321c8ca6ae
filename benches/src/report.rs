//! What a bar reports: rows, as JSON Lines for programs and as a table for people. The keys of a row are an interface;
//! add, never rename.

use std::fmt;
use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use serde::{Deserialize, Serialize};

use crate::interleave::median;

/// One condition of a bar and what was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The bar.
    pub id: String,
    /// What was measured.
    pub case: String,
    /// Where both sides ran.
    pub placement: String,
    /// What was found.
    pub figure: f64,
    /// The unit of figure and floor.
    pub unit: String,
    /// What the machine can do at best, measured in the same run; `null` if the bar is absolute.
    pub floor: Option<f64>,
    /// Figure over floor. Of a comparison in rounds, the median of the rounds' own ratios.
    pub ratio: Option<f64>,
    /// The condition, in words.
    pub bar: String,
    /// Whether it holds. Of a comparison in rounds, whether it holds in most rounds.
    pub met: bool,
}

/// What a figure has to fulfil.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Condition {
    /// Figure ≤ factor × floor.
    AtMostTimesFloor(f64),
    /// Figure ≤ floor + allowance, in the row's unit.
    AtMostFloorPlus(f64),
    /// Figure ≤ factor × floor + allowance, in the row's unit.
    AtMostTimesFloorPlus {
        /// Of the floor.
        factor: f64,
        /// Beyond it.
        allowance: f64,
    },
    /// Figure ≥ factor × floor, such as a share of the floor's throughput.
    AtLeastTimesFloor(f64),
    /// Floor ≥ factor × figure: so many times faster than something else.
    TimesFasterThanFloor(f64),
    /// Figure ≤ limit.
    AtMost(f64),
    /// Figure ≥ limit.
    AtLeast(f64),
    /// None: figure and floor stand side by side.
    Reported,
}

impl Condition {
    /// Whether it holds. A condition on a floor does not hold without one, nor does any for a figure that is no number.
    #[must_use]
    pub fn is_met(self, figure: f64, floor: Option<f64>) -> bool {
        match (self, floor) {
            (Self::AtMostTimesFloor(factor), Some(floor)) => figure <= factor * floor,
            (Self::AtMostFloorPlus(allowance), Some(floor)) => figure <= floor + allowance,
            (Self::AtMostTimesFloorPlus { factor, allowance }, Some(floor)) => figure <= factor * floor + allowance,
            (Self::AtLeastTimesFloor(factor), Some(floor)) => figure >= factor * floor,
            (Self::TimesFasterThanFloor(factor), Some(floor)) => floor >= factor * figure,
            (Self::AtMost(limit), _) => figure <= limit,
            (Self::AtLeast(limit), _) => figure >= limit,
            (Self::Reported, _) => !figure.is_nan(),
            (_, None) => false,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMostTimesFloor(factor) => write!(formatter, "≤ {factor} × floor"),
            Self::AtMostFloorPlus(allowance) => write!(formatter, "≤ floor + {}", readable(*allowance)),
            Self::AtMostTimesFloorPlus { factor, allowance } => {
                write!(formatter, "≤ {factor} × floor + {}", readable(*allowance))
            }
            Self::AtLeastTimesFloor(factor) => write!(formatter, "≥ {factor} × floor"),
            Self::TimesFasterThanFloor(factor) => write!(formatter, "≤ floor ÷ {factor}"),
            Self::AtMost(limit) => write!(formatter, "≤ {}", readable(*limit)),
            Self::AtLeast(limit) => write!(formatter, "≥ {}", readable(*limit)),
            Self::Reported => formatter.write_str("reported"),
        }
    }
}

/// What was measured, for the rows that judge it.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The bar.
    pub id: &'a str,
    /// What was measured, with the quantile or other statistic.
    pub case: &'a str,
    /// Where both sides ran.
    pub placement: &'a str,
    /// The unit of figure and floor.
    pub unit: &'a str,
}

impl Case<'_> {
    /// The row for `figure` beside `floor`.
    #[must_use]
    pub fn judge(&self, figure: f64, floor: Option<f64>, condition: Condition) -> Row {
        Row {
            id: self.id.to_owned(),
            case: self.case.to_owned(),
            placement: self.placement.to_owned(),
            figure,
            unit: self.unit.to_owned(),
            floor,
            ratio: floor.filter(|floor| *floor > 0.0).map(|floor| figure / floor),
            bar: format!("{condition}"),
            met: condition.is_met(figure, floor),
        }
    }

    /// The row for a figure that was taken in rounds beside its floor: medians of both, and the ratio and the verdict of
    /// the median round. A burst of foreign work meets figure and floor of a round alike, so it moves neither.
    ///
    /// # Panics
    /// Without rounds, or with another number of floors than figures.
    #[must_use]
    pub fn judge_rounds(&self, figures: &[f64], floors: &[f64], condition: Condition) -> Row {
        assert!(!figures.is_empty() && figures.len() == floors.len(), "every round has a figure and a floor");
        let rounds = || figures.iter().zip(floors);
        let holds = rounds().filter(|(figure, floor)| condition.is_met(**figure, Some(**floor))).count();
        Row {
            ratio: Some(median(rounds().map(|(figure, floor)| figure / floor).collect())),
            met: holds * 2 > figures.len(),
            ..self.judge(median(figures.to_vec()), Some(median(floors.to_vec())), condition)
        }
    }

    /// The row for a figure that was taken in rounds, whose floor could not be measured for this `reason`. Its condition is
    /// not judged, and so not met.
    ///
    /// # Panics
    /// Without rounds.
    #[must_use]
    pub fn without_floor(&self, figures: &[f64], condition: Condition, reason: &str) -> Row {
        let bar = format!("{condition}; not judged: {reason}");
        Row { bar, met: false, ..self.judge(median(figures.to_vec()), None, condition) }
    }
}

/// Writes rows as JSON Lines.
///
/// # Errors
/// The writer's.
pub fn write_json_lines(rows: &[Row], mut writer: impl Write) -> io::Result<()> {
    for row in rows {
        serde_json::to_writer(&mut writer, row)?;
        writer.write_all(b"\n")?;
    }
    writer.flush()
}

/// A row in a line, for those who wait for others.
#[must_use]
pub fn line_of(row: &Row) -> String {
    let Row { id, case, figure, unit, bar, .. } = row;
    let ratio = row.ratio.map_or_else(String::new, |ratio| format!(", {ratio:.2} × floor"));
    let met = if row.met { "met" } else { "NOT met" };
    format!("{id}: {} {unit}{ratio}; {bar}: {met} ({case})", readable(*figure))
}

/// Rows as a table for a terminal.
#[must_use]
pub fn table_of(rows: &[Row]) -> String {
    let mut table = new_table(&["bar", "case", "placement", "figure", "floor", "ratio", "condition", "met"]);
    for row in rows {
        table.add_row([
            Cell::new(&row.id),
            Cell::new(&row.case),
            Cell::new(&row.placement),
            number(format!("{} {}", readable(row.figure), row.unit)),
            number(row.floor.map_or_else(String::new, |floor| format!("{} {}", readable(floor), row.unit))),
            number(row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))),
            Cell::new(&row.bar),
            Cell::new(if row.met { "yes" } else { "NO" }),
        ]);
    }
    table.to_string()
}

/// An empty table with this project's looks.
#[must_use]
pub fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table
}

/// A right-aligned cell.
#[must_use]
pub fn number(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// A number with as many digits as it deserves: 0.35, 12.4, 480, 11,000,000.
#[must_use]
pub fn readable(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 {
        grouped(&format!("{value:.0}"))
    } else if magnitude >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// Thousands set apart.
fn grouped(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut text = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Nanoseconds in a unit that reads well.
#[must_use]
pub fn readable_ns(value_ns: f64) -> String {
    if value_ns < 1e3 {
        format!("{} ns", readable(value_ns))
    } else if value_ns < 1e6 {
        format!("{} µs", readable(value_ns / 1e3))
    } else {
        format!("{} ms", readable(value_ns / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case<'static> = Case { id: "some-bar", case: "no-op, p50", placement: "cores 0+1", unit: "ns" };

    #[test]
    fn a_line_says_what_was_found_and_whether_it_is_enough() {
        let row = CASE.judge(800.0, Some(400.0), Condition::AtMostTimesFloor(1.75));
        assert_eq!(line_of(&row), "some-bar: 800 ns, 2.00 × floor; ≤ 1.75 × floor: NOT met (no-op, p50)");
        let row = CASE.judge(800.0, None, Condition::AtMost(900.0));
        assert_eq!(line_of(&row), "some-bar: 800 ns; ≤ 900: met (no-op, p50)");
    }

    #[test]
    fn a_row_has_exactly_the_published_keys() {
        let row = CASE.judge(500.0, Some(400.0), Condition::AtMostTimesFloor(1.75));
        let mut lines = Vec::new();
        write_json_lines(&[row.clone(), row], &mut lines).expect("a vector takes everything");
        let text = String::from_utf8(lines).expect("JSON is UTF-8");
        let expected = concat!(
            r#"{"id":"some-bar","case":"no-op, p50","placement":"cores 0+1","figure":500.0,"unit":"ns","#,
            r#""floor":400.0,"ratio":1.25,"bar":"≤ 1.75 × floor","met":true}"#,
            "\n"
        );
        assert_eq!(text, expected.repeat(2));
    }

    #[test]
    fn a_bar_without_floor_has_null_for_it() {
        let row = CASE.judge(5e6, None, Condition::AtLeast(4e6));
        let json = serde_json::to_string(&row).expect("a row serialises");
        assert!(json.contains(r#""floor":null,"ratio":null,"bar":"≥ 4,000,000","met":true"#), "{json}");
        let back: Row = serde_json::from_str(&json).expect("its own output parses");
        assert_eq!(back, row);
    }

    #[test]
    fn a_slow_spell_that_meets_figure_and_floor_changes_no_verdict() {
        let (figures, floors) = ([150.0, 1500.0, 150.0], [100.0, 1000.0, 100.0]);
        let row = CASE.judge_rounds(&figures, &floors, Condition::AtMostTimesFloor(1.5));
        assert_eq!((row.figure, row.floor, row.ratio, row.met), (150.0, Some(100.0), Some(1.5), true));
        let row = CASE.judge_rounds(&figures, &floors, Condition::AtMostFloorPlus(49.0));
        assert!(!row.met);
        let row = CASE.judge_rounds(&figures, &floors, Condition::AtMostFloorPlus(50.0));
        assert!(row.met, "two of three rounds hold");
    }

    #[test]
    fn a_row_without_its_floor_says_why_and_is_not_met() {
        let row = CASE.without_floor(&[3.0, 1.0, 2.0], Condition::AtLeastTimesFloor(2.5), "it is not installed");
        assert_eq!((row.figure, row.floor, row.ratio, row.met), (2.0, None, None, false));
        assert_eq!(row.bar, "≥ 2.5 × floor; not judged: it is not installed");
        assert!(CASE.judge(1.0, None, Condition::Reported).met);
    }

    #[test]
    fn conditions_hold_up_to_their_limit() {
        let cases = [
            (Condition::AtMostTimesFloor(1.5), 150.0, 151.0),
            (Condition::AtMostFloorPlus(100.0), 200.0, 201.0),
            (Condition::AtMostTimesFloorPlus { factor: 1.5, allowance: 200.0 }, 350.0, 351.0),
            (Condition::AtLeastTimesFloor(0.5), 50.0, 49.0),
            (Condition::TimesFasterThanFloor(20.0), 5.0, 5.1),
            (Condition::AtMost(7.0), 7.0, 7.1),
            (Condition::AtLeast(7.0), 7.0, 6.9),
        ];
        for (condition, holds, fails) in cases {
            assert!(condition.is_met(holds, Some(100.0)), "{condition} for {holds}");
            assert!(!condition.is_met(fails, Some(100.0)), "{condition} for {fails}");
            assert!(!condition.is_met(f64::NAN, Some(100.0)), "{condition} for no number");
        }
        assert!(!Condition::AtMostTimesFloor(1.0).is_met(0.0, None));
    }

    #[test]
    fn numbers_read_well() {
        let texts: Vec<String> = [0.345, 12.44, 480.2, 1234.0, -1_234_567.0, 4.0].map(readable).into();
        assert_eq!(texts, ["0.34", "12.4", "480", "1,234", "-1,234,567", "4"]);
        assert_eq!(readable_ns(345.0), "345 ns");
        assert_eq!(readable_ns(9_500.0), "9.50 µs");
        assert_eq!(readable_ns(1_050_000.0), "1.05 ms");
    }

    #[test]
    fn the_table_shows_a_missed_bar() {
        let rows = [CASE.judge(900.0, Some(400.0), Condition::AtMostTimesFloor(1.75))];
        let text = table_of(&rows);
        assert!(text.contains("some-bar") && text.contains("2.25") && text.contains("NO"), "{text}");
    }
}
