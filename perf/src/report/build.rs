//! Pictures and words out of rows: what the plots' files call to say how they are drawn and what they mean.
//!
//! `series` chooses what was measured here, by name and in the order drawn; an empty choice is every series of the plot.
//! What the paper draws of the plot follows by itself, marked as the paper's; a choice that names series of the paper
//! (they end in [`paper::SUFFIX`]) has those alone, at their places. Series without rows are left out, and a picture without
//! anything that was measured here is none: every function returns an empty list then. Every point is a median.

use crate::harness::ratio::ratio;
use crate::paper;
use crate::report::drawing::{BarSeries, Bars, Drawing, HeatMap, Line, Lines, Point};
use crate::report::readable;
use crate::row::{Kind, Row, Rows};

/// The axes of a picture.
#[derive(Clone, Copy, Debug)]
pub struct Axes<'a> {
    /// The horizontal axis, with the unit where it has one.
    pub x_label: &'a str,
    /// The vertical axis, without the unit, which rows know.
    pub y_label: &'a str,
    /// Whether the horizontal axis is logarithmic.
    pub x_logarithmic: bool,
    /// Whether the vertical axis is.
    pub y_logarithmic: bool,
}

/// A group of bars for each payload size, vertical axis logarithmic.
#[must_use]
pub fn bars_by_payload(rows: &Rows, plot: &str, title: &str, y_label: &str, series: &[&str]) -> Vec<Drawing> {
    let drawn: Vec<&Row> = drawn(rows, plot, series).into_iter().filter(|row| row.payload_bytes.is_some()).collect();
    let mut sizes: Vec<u64> = drawn.iter().filter_map(|row| row.payload_bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let groups = sizes.iter().map(|size| readable::bytes(*size)).collect();
    let place = |row: &Row| sizes.iter().position(|size| row.payload_bytes == Some(*size));
    bars(&drawn, title, "Payload", y_label, groups, place)
}

/// A group of bars for each value of the horizontal axis (`Row::x`), vertical axis logarithmic. `name` writes a value.
#[must_use]
pub fn bars_by_x(
    rows: &Rows,
    plot: &str,
    title: &str,
    axes: &Axes<'_>,
    name: impl Fn(f64) -> String,
    series: &[&str],
) -> Vec<Drawing> {
    let drawn: Vec<&Row> = drawn(rows, plot, series).into_iter().filter(|row| row.x.is_some()).collect();
    let values = distinct(drawn.iter().filter_map(|row| row.x));
    let groups = values.iter().map(|value| name(*value)).collect();
    let place = |row: &Row| values.iter().position(|value| row.x == Some(*value));
    bars(&drawn, title, axes.x_label, axes.y_label, groups, place)
}

/// A line for each series over the horizontal axis (`Row::x`).
#[must_use]
pub fn lines_by_x(rows: &Rows, plot: &str, title: &str, axes: &Axes<'_>, series: &[&str]) -> Vec<Drawing> {
    lines(&drawn(rows, plot, series), title, axes, "", |row| row.x)
}

/// A line for each series over the payload, in bytes; the horizontal axis is logarithmic whatever `axes` says.
#[must_use]
pub fn lines_by_payload(rows: &Rows, plot: &str, title: &str, axes: &Axes<'_>, series: &[&str]) -> Vec<Drawing> {
    let axes = Axes { x_logarithmic: true, ..*axes };
    lines(&drawn(rows, plot, series), title, &axes, "bytes", |row| row.payload_bytes.map(|size| size as f64))
}

/// In each cell how many times `over` is `under`, measured in one group: columns are the values of
/// `Row::x`, rows those of `Row::y`, the largest on top, as the paper draws its heat maps.
#[must_use]
pub fn heat_map(rows: &Rows, plot: &str, title: &str, axes: &Axes<'_>, over: &str, under: &str) -> Vec<Drawing> {
    let of = |name: &str| -> Vec<&Row> {
        rows.of_plot(plot).filter(|row| row.series == name && row.p50.is_some() && row.y.is_some()).collect()
    };
    let (over, under) = (of(over), of(under));
    let columns = distinct(over.iter().filter_map(|row| row.x));
    let mut values = distinct(over.iter().filter_map(|row| row.y));
    values.reverse();
    let cell = |x: f64, y: f64| ratio_of(in_cell(&over, x, y)?, in_cell(&under, x, y)?);
    let cells: Vec<Vec<Option<f64>>> = values.iter().map(|y| columns.iter().map(|x| cell(*x, *y)).collect()).collect();
    if cells.iter().flatten().all(Option::is_none) {
        return Vec::new();
    }
    vec![Drawing::HeatMap(HeatMap {
        title: title.to_owned(),
        x_label: axes.x_label.to_owned(),
        y_label: axes.y_label.to_owned(),
        columns: columns.into_iter().map(readable::count).collect(),
        rows: values.into_iter().map(readable::count).collect(),
        cells,
    })]
}

fn in_cell<'a>(rows: &[&'a Row], x: f64, y: f64) -> Option<&'a Row> {
    rows.iter().copied().find(|row| row.x == Some(x) && row.y == Some(y))
}

/// The median of a series at a payload size, measured here.
#[must_use]
pub fn median(rows: &Rows, plot: &str, series: &str, payload_bytes: u64) -> Option<f64> {
    rows.at_payload(plot, series, payload_bytes).and_then(|row| row.p50)
}

/// How many times `over` is `under` at a payload size; `None` unless both were measured in turns.
#[must_use]
pub fn times(rows: &Rows, plot: &str, over: &str, under: &str, payload_bytes: u64) -> Option<f64> {
    ratio_of(rows.at_payload(plot, over, payload_bytes)?, rows.at_payload(plot, under, payload_bytes)?)
}

/// How many times `over` is `under`, of two rows that were measured in turns or are both the paper's; `None` of others. As
/// claims are judged: the median of the rounds' own ratios. The paper's rows have medians alone, and so have two rows of
/// which one lost a round.
fn ratio_of(over: &Row, under: &Row) -> Option<f64> {
    if let Ok(found) = ratio(over, under) {
        return Some(found.value);
    }
    let alike = over.run == under.run && over.group == under.group && over.unit == under.unit;
    let of_medians = over.p50? / under.p50?;
    (alike && of_medians.is_finite()).then_some(of_medians)
}

/// The rows of a picture: chosen series in the order chosen, then the paper's unless some of them were chosen. None if
/// nothing was measured here.
fn drawn<'a>(rows: &'a Rows, plot: &'a str, series: &[&str]) -> Vec<&'a Row> {
    let found: Vec<&Row> = rows.of_plot(plot).filter(|row| row.p50.is_some()).collect();
    let is_here = |row: &&&Row| row.kind != Kind::Paper;
    let mut drawn: Vec<&Row> = if series.is_empty() {
        found.iter().filter(is_here).copied().collect()
    } else {
        series.iter().flat_map(|name| found.iter().filter(move |row| row.series == *name)).copied().collect()
    };
    if drawn.iter().filter(is_here).count() == 0 {
        return Vec::new();
    }
    if !series.iter().any(|name| name.ends_with(paper::SUFFIX)) {
        drawn.extend(found.iter().filter(|row| paper::is_drawn(row)));
    }
    drawn
}

fn bars(
    drawn: &[&Row],
    title: &str,
    x_label: &str,
    y_label: &str,
    groups: Vec<String>,
    place: impl Fn(&Row) -> Option<usize>,
) -> Vec<Drawing> {
    let mut series: Vec<BarSeries> = Vec::new();
    let unit = drawn.first().map(|row| row.unit.clone()).unwrap_or_default();
    for row in drawn.iter().filter(|row| row.unit == unit) {
        let (Some(place), Some(point)) = (place(row), point(row)) else { continue };
        let index = series.iter().position(|found| found.name == row.series).unwrap_or_else(|| {
            series.push(BarSeries { name: row.series.clone(), kind: row.kind, points: vec![None; groups.len()] });
            series.len() - 1
        });
        series[index].points[place] = Some(point);
    }
    if series.is_empty() {
        return Vec::new();
    }
    vec![Drawing::Bars(Bars {
        title: title.to_owned(),
        x_label: x_label.to_owned(),
        y_label: y_label.to_owned(),
        unit,
        groups,
        series,
    })]
}

fn lines(
    drawn: &[&Row],
    title: &str,
    axes: &Axes<'_>,
    x_unit: &str,
    place: impl Fn(&Row) -> Option<f64>,
) -> Vec<Drawing> {
    let mut series: Vec<Line> = Vec::new();
    let unit = drawn.first().map(|row| row.unit.clone()).unwrap_or_default();
    for row in drawn.iter().filter(|row| row.unit == unit) {
        let (Some(place), Some(point)) = (place(row), point(row)) else { continue };
        let index = series.iter().position(|found| found.name == row.series).unwrap_or_else(|| {
            series.push(Line { name: row.series.clone(), kind: row.kind, points: Vec::new() });
            series.len() - 1
        });
        series[index].points.push((place, point));
    }
    if series.is_empty() {
        return Vec::new();
    }
    series.iter_mut().for_each(|line| line.points.sort_by(|left, right| left.0.total_cmp(&right.0)));
    vec![Drawing::Lines(Lines {
        title: title.to_owned(),
        x_label: axes.x_label.to_owned(),
        x_unit: x_unit.to_owned(),
        y_label: axes.y_label.to_owned(),
        unit,
        x_logarithmic: axes.x_logarithmic,
        y_logarithmic: axes.y_logarithmic,
        series,
    })]
}

/// The median of a row with its interval; without an interval, the median alone.
fn point(row: &Row) -> Option<Point> {
    let value = row.p50?;
    Some(Point { value, low: row.ci_low.unwrap_or(value), high: row.ci_high.unwrap_or(value) })
}

/// These values once each, from the smallest.
fn distinct(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::samples_of_rows;

    const AXES: Axes<'static> = Axes { x_label: "x", y_label: "y", x_logarithmic: false, y_logarithmic: true };

    fn row(series: &str, payload_bytes: u64, median: f64) -> Row {
        Row { plot: "ipc".to_owned(), payload_bytes: Some(payload_bytes), ..samples_of_rows::row(series, &[median; 3]) }
    }

    fn names(drawings: &[Drawing]) -> Vec<&str> {
        match drawings {
            [Drawing::Bars(bars)] => bars.series.iter().map(|series| series.name.as_str()).collect(),
            [Drawing::Lines(lines)] => lines.series.iter().map(|line| line.name.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    fn rows() -> Rows {
        let mut all = vec![row("b", 1024, 2e3), row("a", 1024, 1e3), row("a", 10, 5e2)];
        all.push(Row { p50: None, absent: Some("not here".to_owned()), ..row("c", 10, 1.0) });
        all.extend(paper::rows());
        Rows::new(all)
    }

    #[test]
    fn the_papers_series_follow_what_was_measured_here() {
        let rows = rows();
        let drawings = bars_by_payload(&rows, "ipc", "title", "One way", &[]);
        let paper = ["PraaS send-receive", "Redis, polled with sleeps", "S3, polled with sleeps"]
            .map(|name| format!("{name} (AWS, paper)"));
        let expected: Vec<&str> = ["b", "a"].into_iter().chain(paper.iter().map(String::as_str)).collect();
        assert_eq!(names(&drawings), expected, "extras of the paper and absent series are left out");
        let [Drawing::Bars(bars)] = drawings.as_slice() else { panic!("one picture: {drawings:?}") };
        assert_eq!(bars.groups[..2], ["10 B", "1 KiB"]);
        assert_eq!((bars.series[0].points[0], bars.unit.as_str()), (None, "ns"));
        assert!(bars.series[1].points[0].is_some_and(|point| (point.value - 5e2).abs() < 1e-9));
    }

    #[test]
    fn a_choice_is_drawn_in_its_order_and_may_name_the_papers() {
        let rows = rows();
        assert_eq!(names(&bars_by_payload(&rows, "ipc", "", "", &["a", "b"]))[..2], ["a", "b"]);
        let one = "S3, polled with sleeps (AWS, paper)";
        assert_eq!(names(&bars_by_payload(&rows, "ipc", "", "", &[one, "a"])), [one, "a"]);
        assert!(bars_by_payload(&rows, "ipc", "", "", &["nothing of the kind"]).is_empty());
        assert!(bars_by_payload(&Rows::new(paper::rows()), "ipc", "", "", &[]).is_empty());
    }

    #[test]
    fn lines_go_from_left_to_right() {
        let at = |x: f64| Row { x: Some(x), ..row("a", 10, x) };
        let drawings = lines_by_x(&Rows::new(vec![at(3.0), at(1.0), at(2.0)]), "ipc", "", &AXES, &[]);
        let [Drawing::Lines(lines)] = drawings.as_slice() else { panic!("one picture: {drawings:?}") };
        let places: Vec<f64> = lines.series[0].points.iter().map(|(x, _)| *x).collect();
        assert_eq!(places, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn cells_have_a_ratio_only_within_a_group() {
        let cell = |series: &str, x: f64, y: f64, median: f64, group: u64| Row {
            x: Some(x),
            y: Some(y),
            group,
            payload_bytes: None,
            ..row(series, 0, median)
        };
        let rows = Rows::new(vec![
            cell("ours", 1.0, 10.0, 2.0, 1),
            cell("other", 1.0, 10.0, 6.0, 1),
            cell("ours", 1.0, 100.0, 2.0, 2),
            cell("other", 1.0, 100.0, 6.0, 3),
        ]);
        let drawings = heat_map(&rows, "ipc", "", &AXES, "other", "ours");
        let [Drawing::HeatMap(map)] = drawings.as_slice() else { panic!("one picture: {drawings:?}") };
        assert_eq!(map.rows, ["100", "10"], "the largest is on top");
        assert_eq!(map.cells, [[None], [Some(3.0)]]);
    }

    #[test]
    fn the_papers_heat_maps_are_its_ratios() {
        let rows = Rows::new(paper::rows());
        let drawings = heat_map(&rows, "state", "", &AXES, "S3 (AWS, paper)", "PraaS (AWS, paper)");
        let [Drawing::HeatMap(map)] = drawings.as_slice() else { panic!("one picture: {drawings:?}") };
        assert_eq!(
            (map.columns.as_slice(), map.rows.as_slice()),
            (
                ["1", "10", "25", "50", "100"].map(str::to_owned).as_slice(),
                ["100000", "10000", "1000", "100", "10"].map(str::to_owned).as_slice(),
            )
        );
        let cell = |row: usize, column: usize| map.cells[row][column].unwrap_or(f64::NAN);
        assert!((cell(3, 2) - 55.41).abs() < 0.005, "{}", cell(3, 2));
        assert!((cell(0, 0) - 12.65).abs() < 0.005, "{}", cell(0, 0));
    }
}
