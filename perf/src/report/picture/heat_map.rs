//! Ratios in cells: green is ahead, white is alike, red is behind; by orders of magnitude.

use kuva::render::render::{Scene, TextAnchor};

use crate::report::drawing::HeatMap;
use crate::report::picture::canvas::{Canvas, TEXT_SIZE, WIDTH};
use crate::report::picture::palette::{Rgb, blend, ink_on};
use crate::report::readable;

/// Of a cell.
const CELL_WIDTH: f64 = 120.0;
/// Of a cell.
const CELL_HEIGHT: f64 = 44.0;
/// Above the cells: the title.
const TOP: f64 = 44.0;
/// Below them: labels, the name of the axis, what the colours mean.
const BELOW: f64 = 84.0;
/// The ratio from which the colour is full.
const FULL: f64 = 100.0;
/// Figures in cells.
const FIGURE_SIZE: u32 = 15;

const INK: Rgb = (35, 35, 35);
const WHITE: Rgb = (255, 255, 255);
const AHEAD: Rgb = (0, 104, 70);
const BEHIND: Rgb = (178, 24, 43);
const NOTHING: Rgb = (236, 236, 236);

pub(super) fn scene(map: &HeatMap) -> Scene {
    let (columns, rows) = (map.columns.len() as f64, map.rows.len() as f64);
    let mut canvas = Canvas::new(TOP + rows * CELL_HEIGHT + BELOW, &map.title);
    let left = (WIDTH - columns * CELL_WIDTH) / 2.0 + 30.0;
    let bottom = TOP + rows * CELL_HEIGHT;
    let mut y = TOP;
    for (label, cells) in map.rows.iter().zip(&map.cells) {
        canvas.text(left - 10.0, y + CELL_HEIGHT / 2.0 + 4.0, label, TEXT_SIZE, TextAnchor::End, INK);
        let mut x = left;
        for cell in cells {
            let colour = cell.map_or(NOTHING, colour_of);
            canvas.filled(x + 1.0, y + 1.0, CELL_WIDTH - 2.0, CELL_HEIGHT - 2.0, colour);
            let written = cell.map_or_else(|| "–".to_owned(), readable::digits);
            let (middle, base) = (x + CELL_WIDTH / 2.0, y + CELL_HEIGHT / 2.0 + 5.0);
            canvas.text(middle, base, &written, FIGURE_SIZE, TextAnchor::Middle, ink_on(colour));
            x += CELL_WIDTH;
        }
        y += CELL_HEIGHT;
    }
    let mut x = left + CELL_WIDTH / 2.0;
    for label in &map.columns {
        canvas.text(x, bottom + 18.0, label, TEXT_SIZE, TextAnchor::Middle, INK);
        x += CELL_WIDTH;
    }
    let middle = left + columns * CELL_WIDTH / 2.0;
    canvas.text(middle, bottom + 40.0, &map.x_label, TEXT_SIZE, TextAnchor::Middle, INK);
    canvas.turned_text(
        (left - 90.0).max(16.0),
        TOP + rows * CELL_HEIGHT / 2.0,
        &map.y_label,
        TEXT_SIZE,
        TextAnchor::Middle,
        INK,
    );
    let meaning = "green: praas is faster, so many times; white: alike; red: praas is slower";
    canvas.text(middle, bottom + 66.0, meaning, TEXT_SIZE, TextAnchor::Middle, INK);
    canvas.finish()
}

fn colour_of(ratio: f64) -> Rgb {
    let share = (ratio.max(f64::MIN_POSITIVE).log10() / FULL.log10()).clamp(-1.0, 1.0);
    let towards = if share >= 0.0 { AHEAD } else { BEHIND };
    // What is hardly ahead is seen to be ahead.
    let share = share.abs().sqrt();
    (blend(WHITE.0, towards.0, share), blend(WHITE.1, towards.1, share), blend(WHITE.2, towards.2, share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_is_white_and_ahead_and_behind_differ() {
        assert_eq!(colour_of(1.0), WHITE);
        let (ahead, behind) = (colour_of(10.0), colour_of(0.1));
        assert!(ahead.1 > ahead.0, "{ahead:?}");
        assert!(behind.0 > behind.1, "{behind:?}");
        assert_eq!(colour_of(100.0), colour_of(1000.0));
    }
}
