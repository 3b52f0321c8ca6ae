//! Groups of bars side by side; floors are dashed lines across their group, as the paper draws its TCP baseline. Figures
//! stand at the foot of their bars, all on one height: the axis begins low enough for the smallest.

use kuva::render::render::{Scene, TextAnchor};

use crate::report::drawing::{Bars, Point};
use crate::report::picture::canvas::{
    self, Canvas, Entry, LEFT, PLOT_HEIGHT, SMALL_SIZE, TOP, dashes, plot_width, text_width, y_of,
};
use crate::report::picture::palette::{self, Rgb};
use crate::report::picture::scale::Scale;
use crate::report::readable;
use crate::row::Kind;

/// How much of white the paper's bars have.
const PALE: f64 = 0.55;
/// Of a group's width, what its bars take.
const GROUP_SHARE: f64 = 0.88;
/// The narrowest bar that its figure is written at.
const NARROWEST_WITH_FIGURE: f64 = 9.5;
/// The widest bar.
const WIDEST: f64 = 46.0;
/// Above the largest bar.
const HEADROOM: f64 = 14.0;
/// The lowest bar with a figure at its foot.
const LOWEST_WITH_FIGURE: f64 = 58.0;

pub(super) fn scene(bars: &Bars) -> Scene {
    let colours = palette::colours(bars.series.iter().map(|series| (series.name.as_str(), series.kind)), PALE);
    let floors = floor_numbers(bars);
    let legend: Vec<Entry<'_>> = bars
        .series
        .iter()
        .zip(&colours)
        .zip(&floors)
        .map(|((series, colour), floor)| Entry {
            name: &series.name,
            kind: series.kind,
            colour: *colour,
            floor: *floor,
            is_line: false,
        })
        .collect();
    let mut canvas = Canvas::with_frame(&bars.title, &bars.x_label, &bars.y_label, &legend);
    let points = bars.series.iter().flat_map(|series| series.points.iter().flatten());
    let figures = points.flat_map(|point| [point.value, point.low, point.high]);
    let scale = Scale::with_smallest_at(figures, LOWEST_WITH_FIGURE / (PLOT_HEIGHT - HEADROOM));
    canvas.vertical_axis(&scale, &bars.unit, HEADROOM);
    let group_width = plot_width() / bars.groups.len().max(1) as f64;
    for (group, label) in bars.groups.iter().enumerate() {
        let left = LEFT + group as f64 * group_width;
        canvas.below_axis(left + group_width / 2.0, label);
        draw_group(&mut canvas, bars, group, &Sheet { colours: &colours, floors: &floors, scale, left, group_width });
    }
    canvas.finish()
}

/// Where and how a group is drawn.
struct Sheet<'a> {
    colours: &'a [Rgb],
    floors: &'a [usize],
    scale: Scale,
    left: f64,
    group_width: f64,
}

fn draw_group(canvas: &mut Canvas, bars: &Bars, group: usize, sheet: &Sheet<'_>) {
    let drawn: Vec<usize> = (0..bars.series.len())
        .filter(|index| bars.series[*index].kind != Kind::Floor && bars.series[*index].points[group].is_some())
        .collect();
    let count = drawn.len().max(1) as f64;
    let width = (sheet.group_width * GROUP_SHARE / count).min(WIDEST);
    let mut x = sheet.left + (sheet.group_width - width * count) / 2.0;
    for index in drawn {
        let series = &bars.series[index];
        let Some(point) = series.points[group] else { continue };
        canvas.hint(hint(&series.name, &bars.groups[group], &point, &bars.unit));
        draw_bar(canvas, series.kind, sheet.colours[index], &point, &sheet.scale, (x, width));
        canvas.end_hint();
        if width >= NARROWEST_WITH_FIGURE {
            write_figure(canvas, &point, &bars.unit, sheet.colours[index], x + width / 2.0);
        }
        x += width;
    }
    for (index, series) in bars.series.iter().enumerate().filter(|(_, series)| series.kind == Kind::Floor) {
        let Some(point) = series.points[group] else { continue };
        let y = y_of(&sheet.scale, point.value, HEADROOM);
        let margin = sheet.group_width * (1.0 - GROUP_SHARE) / 4.0;
        let (from, to) = ((sheet.left + margin, y), (sheet.left + sheet.group_width - margin, y));
        canvas.hint(hint(&series.name, &bars.groups[group], &point, &bars.unit));
        canvas.line(from, to, sheet.colours[index], 2.0, Some(dashes(sheet.floors[index])));
        canvas.end_hint();
    }
}

fn draw_bar(canvas: &mut Canvas, kind: Kind, colour: Rgb, point: &Point, scale: &Scale, (x, width): (f64, f64)) {
    let y = y_of(scale, point.value, HEADROOM);
    let height = TOP + PLOT_HEIGHT - y;
    let (x, inner) = (x + 0.5, width - 1.0);
    if kind == Kind::Paper {
        canvas.hatched(x, y, inner, height, colour);
    } else {
        canvas.filled(x, y, inner, height, colour);
    }
    if point.high > point.low {
        let (low, high) = (y_of(scale, point.low, HEADROOM), y_of(scale, point.high, HEADROOM));
        canvas.whisker(x + inner / 2.0, low, high, (inner / 4.0).min(4.0), canvas::darker(canvas::darker(colour)));
    }
}

/// The figure at the foot of its bar, turned, on the bar's plain colour.
fn write_figure(canvas: &mut Canvas, point: &Point, unit: &str, colour: Rgb, x: f64) {
    let written = readable::figure(point.value, unit);
    let (width, size) = (text_width(&written, SMALL_SIZE), f64::from(SMALL_SIZE));
    let bottom = TOP + PLOT_HEIGHT - 4.0;
    canvas.filled(x - size / 2.0, bottom - width, size, width, colour);
    let ink = palette::ink_on(colour);
    canvas.turned_text(x + size / 2.0 - 1.5, bottom, &written, SMALL_SIZE, TextAnchor::Start, ink);
}

fn hint(series: &str, group: &str, point: &Point, unit: &str) -> String {
    let value = readable::figure(point.value, unit);
    if point.high > point.low {
        let (low, high) = (readable::figure(point.low, unit), readable::figure(point.high, unit));
        format!("{series}, {group}: {value} ({low} to {high})")
    } else {
        format!("{series}, {group}: {value}")
    }
}

/// For each series, how many floors stand before it.
fn floor_numbers(bars: &Bars) -> Vec<usize> {
    let mut floors = 0;
    bars.series
        .iter()
        .map(|series| {
            let number = floors;
            floors += usize::from(series.kind == Kind::Floor);
            number
        })
        .collect()
}
