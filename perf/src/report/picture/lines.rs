//! Lines over a horizontal axis, with an interval at every point.

use kuva::render::render::Scene;

use crate::report::drawing::Lines;
use crate::report::picture::canvas::{
    Canvas, Entry, LEFT, PAPER_DASHES, TEXT_SIZE, dashes, plot_width, text_width, y_of,
};
use crate::report::picture::palette;
use crate::report::picture::scale::{Scale, tick_label};
use crate::report::readable;
use crate::row::Kind;

/// Above the highest line.
const HEADROOM: f64 = 12.0;
/// Beside the first and the last point.
const MARGIN: f64 = 24.0;
/// How much of white the paper's lines have.
const PALE: f64 = 0.2;

pub(super) fn scene(lines: &Lines) -> Scene {
    let colours = palette::colours(lines.series.iter().map(|line| (line.name.as_str(), line.kind)), PALE);
    let mut floors = 0;
    let legend: Vec<Entry<'_>> = lines
        .series
        .iter()
        .zip(&colours)
        .map(|(line, colour)| {
            let floor = floors;
            floors += usize::from(line.kind == Kind::Floor);
            Entry { name: &line.name, kind: line.kind, colour: *colour, floor, is_line: true }
        })
        .collect();
    let mut canvas = Canvas::with_frame(&lines.title, &lines.x_label, &lines.y_label, &legend);
    let points = || lines.series.iter().flat_map(|line| line.points.iter());
    let figures = points().flat_map(|(_, point)| [point.value, point.low, point.high]);
    let vertical = Scale::around(figures, lines.y_logarithmic, true);
    canvas.vertical_axis(&vertical, &lines.unit, HEADROOM);
    let (horizontal, x_logarithmic) = horizontal_scale(lines);
    let x_of = |x: f64| LEFT + MARGIN + horizontal.place(x) * (plot_width() - 2.0 * MARGIN);
    write_horizontal_ticks(&mut canvas, lines, &horizontal, x_logarithmic, x_of);
    for (index, line) in lines.series.iter().enumerate() {
        let colour = colours[index];
        let drawn = match line.kind {
            Kind::Floor => Some(dashes(legend[index].floor)),
            Kind::Paper => Some(PAPER_DASHES),
            Kind::Ours | Kind::Baseline => None,
        };
        let places: Vec<(f64, f64)> =
            line.points.iter().map(|(x, point)| (x_of(*x), y_of(&vertical, point.value, HEADROOM))).collect();
        canvas.connected(places.clone(), colour, if line.kind == Kind::Ours { 2.6 } else { 1.8 }, drawn);
        for ((x, y), (value, point)) in places.into_iter().zip(&line.points) {
            let place = tick_label(*value, &lines.x_unit);
            canvas.hint(format!("{}, {place}: {}", line.name, readable::figure(point.value, &lines.unit)));
            canvas.dot(x, y, 3.2, colour);
            if point.high > point.low {
                let (low, high) = (y_of(&vertical, point.low, HEADROOM), y_of(&vertical, point.high, HEADROOM));
                canvas.whisker(x, low, high, 4.0, colour);
            }
            canvas.end_hint();
        }
    }
    canvas.finish()
}

/// From the first to the last point. An axis that starts at nothing cannot be logarithmic: it is linear then.
fn horizontal_scale(lines: &Lines) -> (Scale, bool) {
    let places: Vec<f64> = lines.series.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x)).collect();
    let (low, high) = places
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), place| (low.min(*place), high.max(*place)));
    if places.is_empty() {
        return (Scale::between(0.0, 1.0, false), false);
    }
    let logarithmic = lines.x_logarithmic && low > 0.0;
    (Scale::between(low, high, logarithmic), logarithmic)
}

/// The points' own places where they fit; round figures otherwise.
fn write_horizontal_ticks(
    canvas: &mut Canvas,
    lines: &Lines,
    scale: &Scale,
    logarithmic: bool,
    x_of: impl Fn(f64) -> f64,
) {
    let mut own: Vec<f64> = lines.series.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x)).collect();
    own.sort_by(f64::total_cmp);
    own.dedup();
    let label =
        |figure: f64| tick_label(figure, if lines.x_unit.is_empty() && logarithmic { "" } else { &lines.x_unit });
    let fits = |ticks: &[f64]| {
        ticks.windows(2).all(|pair| {
            let needed = (text_width(&label(pair[0]), TEXT_SIZE) + text_width(&label(pair[1]), TEXT_SIZE)) / 2.0 + 8.0;
            x_of(pair[1]) - x_of(pair[0]) >= needed
        })
    };
    let ticks = if fits(&own) { own } else { scale.ticks(&lines.x_unit) };
    for figure in ticks {
        canvas.below_axis(x_of(figure), &label(figure));
    }
}
