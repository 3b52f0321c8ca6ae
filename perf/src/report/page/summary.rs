//! In one look: for each plot praas, the floor, the best of the other systems, the paper, and what it means.

use maud::{Markup, html};

use crate::paper;
use crate::plots::Plot;
use crate::report::readable;
use crate::row::{Kind, Row, Rows};

pub(super) fn section(plots: &[&Plot], rows: &Rows) -> Markup {
    html! {
        section #summary {
            h2 { "In one look" }
            p .hint {
                "Of each plot the place at which most series stand, by medians: praas's first series, the best floor and the best other \
                 system that were measured in turns with it, and the paper's own system where the plot has it."
            }
            div .scroll {
                table {
                    thead { tr {
                        th { "plot" } th { "at" } th { "praas" } th { "floor" } th { "best other" } th { "the paper, on AWS" }
                    } }
                    @for plot in plots { (lines(plot, rows)) }
                }
            }
        }
    }
}

fn lines(plot: &Plot, rows: &Rows) -> Markup {
    let found: Vec<&Row> = rows.of_plot(plot.id).filter(|row| row.p50.is_some()).collect();
    let place = usual_place(&found);
    let here: Vec<&Row> = found.into_iter().filter(|row| place_of(row) == place).collect();
    let ours = here.iter().copied().find(|row| row.kind == Kind::Ours);
    let best = |kind: Kind| {
        let ours = ours?;
        let others = here.iter().copied().filter(|row| row.kind == kind && row.unit == ours.unit);
        best_of(others.filter(|row| row.run == ours.run && row.group == ours.group))
    };
    let drawn = || here.iter().copied().filter(|row| paper::is_drawn(row));
    let paper = best_of(drawn().filter(|row| row.series.starts_with("PraaS"))).or_else(|| best_of(drawn()));
    html! {
        tbody {
            tr {
                th scope="row" { a href={ "#" (plot.id) } { (plot.id) } }
                td { (place.in_words()) }
                td .ours { (figure(ours)) }
                td { (figure(best(Kind::Floor))) }
                td { (figure(best(Kind::Baseline))) }
                td .paper { (figure(paper)) }
            }
            tr .meaning { td colspan="6" { (meaning(plot, rows)) } }
        }
    }
}

/// The plot's sentence. Without the rows that it needs, the reason of the first one that is absent.
pub(super) fn meaning(plot: &Plot, rows: &Rows) -> String {
    (plot.meaning)(rows).unwrap_or_else(|| {
        let absent = rows.of_plot(plot.id).find_map(|row| row.absent.as_ref().map(|reason| (row, reason)));
        match absent {
            Some((row, reason)) => format!("Not enough was measured for a sentence: {}: {reason}.", row.series),
            None => "Not enough was measured for a sentence.".to_owned(),
        }
    })
}

fn figure(row: Option<&Row>) -> Markup {
    match row {
        Some(row) => {
            html! { strong { (readable::figure(row.p50.unwrap_or(f64::NAN), &row.unit)) } br; small { (row.series) } }
        }
        None => html! { "–" },
    }
}

/// Where a row stands in its plot. What an axis is called does not count: the paper has pods where praas has processes.
#[derive(Clone, Debug)]
struct Place {
    payload_bytes: Option<u64>,
    x: Option<(String, f64)>,
    y: Option<(String, f64)>,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        let values = |place: &Self| [&place.x, &place.y].map(|axis| axis.as_ref().map(|(_, value)| *value));
        self.payload_bytes == other.payload_bytes && values(self) == values(other)
    }
}

impl Place {
    fn in_words(&self) -> String {
        let payload = self.payload_bytes.map(readable::bytes);
        let axes = [&self.x, &self.y]
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}: {}", readable::count(*value)));
        let words: Vec<String> = payload.into_iter().chain(axes).collect();
        if words.is_empty() { "–".to_owned() } else { words.join(", ") }
    }
}

/// Of places with an axis, the axis is the place: paper and praas may carry other payloads there.
fn place_of(row: &Row) -> Place {
    let axis = |name: &Option<String>, value: Option<f64>| value.map(|value| (name.clone().unwrap_or_default(), value));
    let x = row.x.map(|_| axis(&row.x_name, row.x)).unwrap_or_default();
    let payload_bytes = if x.is_some() { None } else { row.payload_bytes };
    Place { payload_bytes, x, y: axis(&row.y_name, row.y) }
}

/// The place of praas's rows at which most kinds and series stand; of several, the first.
fn usual_place(rows: &[&Row]) -> Place {
    let mut best: Option<(usize, Place)> = None;
    for row in rows.iter().filter(|row| row.kind == Kind::Ours) {
        let place = place_of(row);
        let count = rows.iter().filter(|other| place_of(other) == place).count();
        if best.as_ref().is_none_or(|(most, _)| count > *most) {
            best = Some((count, place));
        }
    }
    best.map_or(Place { payload_bytes: None, x: None, y: None }, |(_, place)| place)
}

/// The best of these: the least time, the most a second.
fn best_of<'a>(rows: impl Iterator<Item = &'a Row>) -> Option<&'a Row> {
    let value = |row: &&Row| match (row.p50, row.unit.as_str()) {
        (Some(median), "1/s") => -median,
        (Some(median), _) => median,
        (None, _) => f64::INFINITY,
    };
    rows.min_by(|left, right| value(left).total_cmp(&value(right)))
}
