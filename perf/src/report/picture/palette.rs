//! Which colour a series has, in every picture the same: praas in strong blues and greens, floors in blacks, other systems
//! in a muted colour of their own, and the paper's figures of a system in the same colour, pale.

use kuva::render::color::Color;

use crate::row::Kind;

/// Red, green, blue.
pub(super) type Rgb = (u8, u8, u8);

/// praas, by the order of its series in a picture.
const OURS: &[Rgb] = &[(0, 90, 181), (0, 140, 95), (38, 170, 225), (96, 190, 70), (20, 45, 120), (0, 105, 110)];
/// Floors, by their order.
const FLOORS: &[Rgb] = &[(20, 20, 20), (110, 110, 110), (160, 150, 140)];
/// Systems by a word of their series' names; the first that fits. Lower case.
const SYSTEMS: &[(&str, Rgb)] = &[
    ("praas", (60, 130, 90)),
    ("prototype", (125, 85, 160)),
    ("redis stream", (214, 125, 105)),
    ("redis (unix", (214, 125, 105)),
    ("redis", (184, 72, 64)),
    ("rclone", (224, 178, 82)),
    ("lambda", (226, 150, 50)),
    ("s3", (200, 140, 36)),
    ("dynamodb", (120, 120, 190)),
    ("knative", (70, 110, 190)),
    ("kubernetes", (70, 70, 70)),
    ("iceoryx", (90, 140, 140)),
    ("stateless", (236, 190, 150)),
    ("own worker", (140, 72, 30)),
    ("workerd", (196, 110, 58)),
    ("ray", (150, 100, 110)),
    ("grpc", (110, 120, 150)),
    ("restate", (150, 150, 90)),
    ("posix mq", (140, 110, 170)),
    ("unix socket", (150, 140, 90)),
    ("tcp", (120, 120, 120)),
];
/// Of a series of which nothing is known, by order.
const OTHERS: &[Rgb] = &[(166, 118, 29), (117, 112, 179), (150, 100, 130), (100, 130, 100), (130, 130, 130)];
/// How much of white is mixed in for each series of one colour that was drawn before.
const LIGHTER: f64 = 0.28;

/// The colours of the series of a picture, in their order; the paper's with so much of white. No two of one kind are the
/// same as long as there are few.
pub(super) fn colours<'a>(series: impl Iterator<Item = (&'a str, Kind)>, pale: f64) -> Vec<Rgb> {
    let (mut ours, mut floors, mut others) = (0, 0, 0);
    let mut taken: Vec<(Kind, Rgb)> = Vec::new();
    series
        .map(|(name, kind)| {
            let base = match kind {
                Kind::Ours => next(OURS, &mut ours),
                Kind::Floor => next(FLOORS, &mut floors),
                Kind::Baseline | Kind::Paper => system(name).unwrap_or_else(|| next(OTHERS, &mut others)),
            };
            let before = taken.iter().filter(|(of, colour)| *of == kind && *colour == base).count();
            taken.push((kind, base));
            let lighter = (0..before).fold(base, |colour, _| mixed(colour, LIGHTER));
            if kind == Kind::Paper { mixed(lighter, pale) } else { lighter }
        })
        .collect()
}

/// For the canvas.
pub(super) fn solid((red, green, blue): Rgb) -> Color {
    Color::Rgb(red, green, blue)
}

/// With so much of white.
pub(super) fn mixed(colour: Rgb, white: f64) -> Rgb {
    let mix = |part: u8| blend(part, u8::MAX, white);
    (mix(colour.0), mix(colour.1), mix(colour.2))
}

/// Between two parts: `share` of `to`.
pub(super) fn blend(from: u8, to: u8, share: f64) -> u8 {
    let value = f64::from(from) + (f64::from(to) - f64::from(from)) * share.clamp(0.0, 1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between two bytes.
    let byte = value.round() as u8;
    byte
}

/// White or black, whichever is read better on this colour.
pub(super) fn ink_on((red, green, blue): Rgb) -> Rgb {
    let light = 0.3 * f64::from(red) + 0.6 * f64::from(green) + 0.1 * f64::from(blue);
    if light < 140.0 { (255, 255, 255) } else { (35, 35, 35) }
}

fn system(name: &str) -> Option<Rgb> {
    let name = name.to_lowercase();
    SYSTEMS.iter().find(|(word, _)| name.contains(word)).map(|(_, colour)| *colour)
}

fn next(colours: &[Rgb], taken: &mut usize) -> Rgb {
    let colour = colours[*taken % colours.len()];
    *taken += 1;
    colour
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_has_one_colour_and_the_papers_is_paler() {
        let first = colours([("Redis (TCP)", Kind::Baseline)].into_iter(), 0.5);
        let second = colours([("praas, spin", Kind::Ours), ("Redis (TCP)", Kind::Baseline)].into_iter(), 0.5);
        assert_eq!(first[0], second[1]);
        let paper = colours([("Redis (AWS, paper)", Kind::Paper)].into_iter(), 0.5);
        let light = |colour: Rgb| u32::from(colour.0) + u32::from(colour.1) + u32::from(colour.2);
        assert!(light(paper[0]) > light(first[0]) + 100, "{paper:?} {first:?}");
    }

    #[test]
    fn series_of_one_kind_differ() {
        let names: Vec<String> = (0..6).map(|number| format!("praas, {number}")).collect();
        let mut found = colours(names.iter().map(|name| (name.as_str(), Kind::Ours)), 0.5);
        found.extend(colours([("SeaweedFS S3", Kind::Baseline), ("other S3", Kind::Baseline)].into_iter(), 0.5));
        let count = found.len();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), count);
    }
}
