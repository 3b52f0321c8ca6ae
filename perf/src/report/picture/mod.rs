//! Pictures of [`Drawing`]s, as SVG for the page and as PNG for everywhere else: the same scene, written twice.
//!
//! Colours mean the same in all pictures: see [`palette`]. Vertical axes that are logarithmic show whole decades. What the
//! paper measured is pale and hatched, floors are dashed lines, and everything else is measured here. The scene has no
//! ids and no style sheet, so that many pictures stand in one page without meeting.

mod bars;
mod canvas;
mod heat_map;
mod lines;
mod palette;
mod scale;

use kuva::backend::raster::RasterBackend;
use kuva::backend::svg::SvgBackend;
use kuva::render::render::Scene;

use crate::report::drawing::Drawing;

/// Pixels of a PNG for each unit of the picture.
const PNG_SCALE: f32 = 1.5;

/// The picture as an `<svg>` element, with a view box: a page may show it at any width.
#[must_use]
pub fn svg(drawing: &Drawing) -> String {
    let scene = scene(drawing);
    let mut svg = SvgBackend::new().render_scene(&scene);
    let view_box = format!("<svg viewBox=\"0 0 {} {}\" role=\"img\" ", scene.width, scene.height);
    svg.replace_range(.."<svg ".len(), &view_box);
    svg
}

/// The picture as a PNG file.
///
/// # Errors
/// What the rasteriser says.
pub fn png(drawing: &Drawing) -> Result<Vec<u8>, String> {
    RasterBackend::new().with_scale(PNG_SCALE).render_scene(&scene(drawing))
}

fn scene(drawing: &Drawing) -> Scene {
    match drawing {
        Drawing::Bars(drawing) => bars::scene(drawing),
        Drawing::Lines(drawing) => lines::scene(drawing),
        Drawing::HeatMap(drawing) => heat_map::scene(drawing),
    }
}
