//! What is drawn, before anything is drawn: data of a plot's pictures. `report` turns them into SVG and PNG.

use crate::row::Kind;

/// A figure with its interval of confidence, in the drawing's unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// What is drawn: a median, unless the drawing's title says otherwise.
    pub value: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// One picture of a plot.
#[derive(Clone, Debug, PartialEq)]
pub enum Drawing {
    /// Groups of bars side by side, vertical axis logarithmic.
    Bars(Bars),
    /// Lines over a horizontal axis.
    Lines(Lines),
    /// Ratios in cells.
    HeatMap(HeatMap),
}

/// Groups of bars.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    /// Above the picture.
    pub title: String,
    /// The horizontal axis.
    pub x_label: String,
    /// The vertical axis, without the unit.
    pub y_label: String,
    /// The unit of the points, as of rows: the picture writes `ns` and `bytes` readably.
    pub unit: String,
    /// What stands below each group.
    pub groups: Vec<String>,
    /// One bar in each group.
    pub series: Vec<BarSeries>,
}

/// The bars of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct BarSeries {
    /// Its name.
    pub name: String,
    /// What kind of series.
    pub kind: Kind,
    /// A point for each group.
    pub points: Vec<Option<Point>>,
}

/// Lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Lines {
    /// Above the picture.
    pub title: String,
    /// The horizontal axis.
    pub x_label: String,
    /// The unit of horizontal positions: `bytes`, or nothing for counts.
    pub x_unit: String,
    /// The vertical axis, without the unit.
    pub y_label: String,
    /// The unit of the points, as of rows: the picture writes `ns` and `bytes` readably.
    pub unit: String,
    /// Whether the axes are logarithmic.
    pub x_logarithmic: bool,
    /// See `x_logarithmic`.
    pub y_logarithmic: bool,
    /// The lines.
    pub series: Vec<Line>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// What kind of series.
    pub kind: Kind,
    /// Its points by horizontal position.
    pub points: Vec<(f64, Point)>,
}

/// Cells with a figure each.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    /// Above the picture; says what a cell is.
    pub title: String,
    /// The horizontal axis.
    pub x_label: String,
    /// The vertical axis.
    pub y_label: String,
    /// What stands below the columns.
    pub columns: Vec<String>,
    /// What stands beside the rows, from the top.
    pub rows: Vec<String>,
    /// The cells, row by row.
    pub cells: Vec<Vec<Option<f64>>>,
}
