//! A sheet to draw on: the scene of `kuva`, with the few strokes that the pictures need, the frame with its axes, and the
//! legend.

use kuva::render::color::Color;
use kuva::render::render::{PathData, Primitive, Scene, TextAnchor};

use crate::report::picture::palette::{Rgb, solid};
use crate::report::picture::scale::{Scale, tick_label};
use crate::row::Kind;

/// Width of every picture, in its own units.
pub(super) const WIDTH: f64 = 960.0;
/// Height of what is inside of a frame.
pub(super) const PLOT_HEIGHT: f64 = 330.0;
/// Left of the frame: ticks and the name of the axis.
pub(super) const LEFT: f64 = 92.0;
/// Right of it.
pub(super) const RIGHT: f64 = 18.0;
/// Above it: the title.
pub(super) const TOP: f64 = 44.0;
/// Below it: ticks and the name of the axis.
const BELOW: f64 = 52.0;
/// A line of the legend.
const LEGEND_LINE: f64 = 20.0;
/// The square of a legend's entry, and the gap after it.
const LEGEND_MARK: f64 = 26.0;
/// Between two entries.
const LEGEND_GAP: f64 = 18.0;

/// Lines of what the paper measured.
pub(super) const PAPER_DASHES: &str = "3,3";

/// Letters of titles.
pub(super) const TITLE_SIZE: u32 = 16;
/// Of axes and legends.
pub(super) const TEXT_SIZE: u32 = 12;
/// Of figures at bars.
pub(super) const SMALL_SIZE: u32 = 10;
/// Width of a letter in its size, taken wide: fonts differ.
const LETTER: f64 = 0.6;

const INK: Rgb = (35, 35, 35);
const GRID: Rgb = (214, 214, 214);
const FINE_GRID: Rgb = (240, 240, 240);
/// Between the strokes of a hatched box.
const HATCH_STEP: f64 = 6.0;

/// The sheet.
pub(super) struct Canvas {
    scene: Scene,
}

/// An entry of a legend.
pub(super) struct Entry<'a> {
    /// The series.
    pub(super) name: &'a str,
    /// How it is drawn.
    pub(super) kind: Kind,
    /// In which colour.
    pub(super) colour: Rgb,
    /// Among the floors of the picture, which; the dashes differ.
    pub(super) floor: usize,
    /// Whether the picture is one of lines.
    pub(super) is_line: bool,
}

impl Canvas {
    /// A sheet for a frame of [`PLOT_HEIGHT`] with this legend, a title and names of its axes.
    pub(super) fn with_frame(title: &str, x_label: &str, y_label: &str, legend: &[Entry<'_>]) -> Self {
        let lines = legend_lines(legend);
        let height = TOP + PLOT_HEIGHT + BELOW + lines.len() as f64 * LEGEND_LINE + 8.0;
        let mut canvas = Self::new(height, title);
        let bottom = TOP + PLOT_HEIGHT;
        canvas.text(LEFT + plot_width() / 2.0, bottom + 40.0, x_label, TEXT_SIZE, TextAnchor::Middle, INK);
        canvas.turned_text(16.0, TOP + PLOT_HEIGHT / 2.0, y_label, TEXT_SIZE, TextAnchor::Middle, INK);
        for (number, line) in lines.iter().enumerate() {
            let y = bottom + BELOW + number as f64 * LEGEND_LINE + 8.0;
            let mut x = LEFT;
            for entry in line {
                canvas.legend_mark(x, y, entry);
                canvas.text(x + LEGEND_MARK, y + 4.0, entry.name, TEXT_SIZE, TextAnchor::Start, INK);
                x += entry_width(entry.name);
            }
        }
        canvas
    }

    /// An empty sheet with a title.
    pub(super) fn new(height: f64, title: &str) -> Self {
        let mut scene = Scene::new(WIDTH, height).with_background(Some("#ffffff"));
        scene.font_family = Some("DejaVu Sans, Verdana, Helvetica, Arial, sans-serif".to_owned());
        let mut canvas = Self { scene };
        canvas.scene.add(Primitive::Text {
            x: WIDTH / 2.0,
            y: 24.0,
            content: title.to_owned(),
            size: fitting(title, TITLE_SIZE, WIDTH - 20.0),
            anchor: TextAnchor::Middle,
            rotate: None,
            bold: true,
            color: Some(solid(INK)),
        });
        canvas
    }

    /// The vertical axis with its lines, and the frame.
    pub(super) fn vertical_axis(&mut self, scale: &Scale, unit: &str, headroom: f64) {
        for figure in scale.between_decades() {
            let y = y_of(scale, figure, headroom);
            self.line((LEFT, y), (WIDTH - RIGHT, y), FINE_GRID, 1.0, None);
        }
        for figure in scale.ticks(unit) {
            let y = y_of(scale, figure, headroom);
            self.line((LEFT, y), (WIDTH - RIGHT, y), GRID, 1.0, None);
            self.text(LEFT - 7.0, y + 4.0, &tick_label(figure, unit), TEXT_SIZE, TextAnchor::End, INK);
        }
        self.line((LEFT, TOP), (LEFT, TOP + PLOT_HEIGHT), INK, 1.2, None);
        self.line((LEFT, TOP + PLOT_HEIGHT), (WIDTH - RIGHT, TOP + PLOT_HEIGHT), INK, 1.2, None);
    }

    /// A label below the horizontal axis.
    pub(super) fn below_axis(&mut self, x: f64, label: &str) {
        self.text(x, TOP + PLOT_HEIGHT + 18.0, label, TEXT_SIZE, TextAnchor::Middle, INK);
    }

    /// A straight line; `dashes` as of SVG.
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: Rgb, width: f64, dashes: Option<&str>) {
        self.scene.add(Primitive::Line {
            x1: from.0,
            y1: from.1,
            x2: to.0,
            y2: to.1,
            stroke: solid(colour),
            stroke_width: width,
            stroke_dasharray: dashes.map(str::to_owned),
        });
    }

    /// Connected lines.
    pub(super) fn connected(&mut self, points: Vec<(f64, f64)>, colour: Rgb, width: f64, dashes: Option<&str>) {
        self.scene.add(Primitive::PolyLine {
            points,
            stroke: solid(colour),
            stroke_width: width,
            stroke_dasharray: dashes.map(str::to_owned),
        });
    }

    /// A filled circle.
    pub(super) fn dot(&mut self, x: f64, y: f64, radius: f64, colour: Rgb) {
        self.scene.add(Primitive::Circle {
            cx: x,
            cy: y,
            r: radius,
            fill: solid(colour),
            fill_opacity: None,
            stroke: None,
            stroke_width: None,
        });
    }

    /// A filled box from its upper left corner.
    pub(super) fn filled(&mut self, x: f64, y: f64, width: f64, height: f64, colour: Rgb) {
        self.scene.add(Primitive::Rect {
            x,
            y,
            width,
            height,
            fill: solid(colour),
            stroke: None,
            stroke_width: None,
            opacity: None,
        });
    }

    /// A box with a border and strokes across: what was not measured here.
    pub(super) fn hatched(&mut self, x: f64, y: f64, width: f64, height: f64, colour: Rgb) {
        let stroke = darker(colour);
        let mut strokes = String::new();
        // Strokes rise to the right; `start` is where one would meet the bottom.
        let mut start = x - height;
        while start < x + width {
            let (left, right) = (start.max(x), (start + height).min(x + width));
            if right > left {
                let (from, to) = (y + height - (left - start), y + height - (right - start));
                strokes.push_str(&format!("M {left:.1} {from:.1} L {right:.1} {to:.1} "));
            }
            start += HATCH_STEP;
        }
        self.scene.add(Primitive::Rect {
            x,
            y,
            width,
            height,
            fill: solid(colour),
            stroke: Some(solid(stroke)),
            stroke_width: Some(0.8),
            opacity: None,
        });
        if !strokes.is_empty() {
            self.scene.add(Primitive::Path(Box::new(PathData {
                d: strokes,
                fill: Some(Color::None),
                stroke: solid(stroke),
                stroke_width: 0.7,
                opacity: None,
                stroke_dasharray: None,
            })));
        }
    }

    /// An interval: a stroke with two ends.
    pub(super) fn whisker(&mut self, x: f64, low: f64, high: f64, half_width: f64, colour: Rgb) {
        self.line((x, low), (x, high), colour, 1.2, None);
        self.line((x - half_width, low), (x + half_width, low), colour, 1.2, None);
        self.line((x - half_width, high), (x + half_width, high), colour, 1.2, None);
    }

    /// Words.
    pub(super) fn text(&mut self, x: f64, y: f64, words: &str, size: u32, anchor: TextAnchor, colour: Rgb) {
        self.scene.add(Primitive::Text {
            x,
            y,
            content: words.to_owned(),
            size,
            anchor,
            rotate: None,
            bold: false,
            color: Some(solid(colour)),
        });
    }

    /// Words that read upwards.
    pub(super) fn turned_text(&mut self, x: f64, y: f64, words: &str, size: u32, anchor: TextAnchor, colour: Rgb) {
        self.scene.add(Primitive::Text {
            x,
            y,
            content: words.to_owned(),
            size,
            anchor,
            rotate: Some(-90.0),
            bold: false,
            color: Some(solid(colour)),
        });
    }

    /// What is drawn until [`Canvas::end_hint`] says these words to who points at it.
    pub(super) fn hint(&mut self, words: String) {
        // Without the library's style sheet, which would hold for the whole page.
        let element = Primitive::GroupStart { transform: None, title: Some(words), extra_attrs: None };
        self.scene.elements.push(element);
    }

    /// The end of what [`Canvas::hint`] began.
    pub(super) fn end_hint(&mut self) {
        self.scene.elements.push(Primitive::GroupEnd);
    }

    /// The finished sheet.
    pub(super) fn finish(self) -> Scene {
        self.scene
    }

    fn legend_mark(&mut self, x: f64, y: f64, entry: &Entry<'_>) {
        match entry.kind {
            Kind::Paper if entry.is_line => self.line((x, y), (x + 20.0, y), entry.colour, 2.0, Some(PAPER_DASHES)),
            Kind::Ours | Kind::Baseline if entry.is_line => self.line((x, y), (x + 20.0, y), entry.colour, 3.0, None),
            Kind::Floor => self.line((x, y), (x + 20.0, y), entry.colour, 2.0, Some(dashes(entry.floor))),
            Kind::Paper => self.hatched(x + 2.0, y - 7.0, 16.0, 13.0, entry.colour),
            Kind::Ours | Kind::Baseline => self.filled(x + 2.0, y - 7.0, 16.0, 13.0, entry.colour),
        }
    }
}

/// Dashes of the floors of a picture, which differ.
pub(super) fn dashes(floor: usize) -> &'static str {
    const DASHES: [&str; 3] = ["7,4", "2,3", "10,3,2,3"];
    DASHES[floor % DASHES.len()]
}

/// Width of what is inside of the frame.
pub(super) fn plot_width() -> f64 {
    WIDTH - LEFT - RIGHT
}

/// Where a figure stands above the bottom of the frame; `headroom` stays free at the top.
pub(super) fn y_of(scale: &Scale, figure: f64, headroom: f64) -> f64 {
    TOP + PLOT_HEIGHT - scale.place(figure) * (PLOT_HEIGHT - headroom)
}

/// The width of words, taken wide.
pub(super) fn text_width(words: &str, size: u32) -> f64 {
    let letters = words.chars().count() as f64;
    letters * LETTER * f64::from(size)
}

/// The largest size up to `size` in which the words fit.
pub(super) fn fitting(words: &str, size: u32, width: f64) -> u32 {
    (SMALL_SIZE..=size).rev().find(|size| text_width(words, *size) <= width).unwrap_or(SMALL_SIZE)
}

/// A darker shade, for strokes on it.
pub(super) fn darker((red, green, blue): Rgb) -> Rgb {
    let part = |value: u8| value / 3 * 2;
    (part(red), part(green), part(blue))
}

/// Entries in lines that fit below the frame.
fn legend_lines<'a>(entries: &'a [Entry<'a>]) -> Vec<Vec<&'a Entry<'a>>> {
    let mut lines: Vec<Vec<&Entry<'_>>> = Vec::new();
    let mut used = f64::INFINITY;
    for entry in entries {
        let width = entry_width(entry.name);
        if used + width > plot_width() {
            lines.push(Vec::new());
            used = 0.0;
        }
        used += width;
        if let Some(line) = lines.last_mut() {
            line.push(entry);
        }
    }
    lines
}

fn entry_width(name: &str) -> f64 {
    LEGEND_MARK + text_width(name, TEXT_SIZE) + LEGEND_GAP
}
