//! A plot: its sentence, its pictures, how it was measured, and its rows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use maud::{Markup, PreEscaped, html};

use crate::plots::Plot;
use crate::report::page::{Picture, summary};
use crate::report::readable;
use crate::row::{Kind, Row, Rows};

pub(super) fn section(plot: &Plot, rows: &Rows, pictures: &[Picture]) -> Markup {
    let of_plot: Vec<&Row> = rows.of_plot(plot.id).collect();
    let (absent, found): (Vec<&Row>, Vec<&Row>) = of_plot.into_iter().partition(|row| row.absent.is_some());
    html! {
        section id=(plot.id) {
            h2 { (plot.title) }
            p .sentence { (summary::meaning(plot, rows)) }
            @for picture in pictures { (figure(plot, picture, command_of(&found))) }
            p .method { (plot.method) }
            @if !absent.is_empty() {
                h3 { "Not measured" }
                ul .absent { @for row in &absent { li { strong { (row.series) } (at(row)) ": " (row.absent.as_deref().unwrap_or_default()) } } }
            }
            details {
                summary { (found.len()) " rows" }
                div .scroll { (table(&found)) }
            }
        }
    }
}

/// What measured the plot.
fn command_of<'a>(rows: &[&'a Row]) -> &'a str {
    rows.iter().find(|row| row.kind != Kind::Paper).map_or("", |row| row.source.as_str())
}

fn figure(plot: &Plot, picture: &Picture, command: &str) -> Markup {
    let (svg, png) = (BASE64.encode(&picture.svg), BASE64.encode(&picture.png));
    html! {
        figure aria-label=(plot.title) {
            (PreEscaped(&picture.svg))
            figcaption {
                a download={ (picture.name) ".svg" } href={ "data:image/svg+xml;base64," (svg) } { "SVG" } " "
                a download={ (picture.name) ".png" } href={ "data:image/png;base64," (png) } { "PNG" }
                " made by " code { (command) }
            }
        }
    }
}

fn table(rows: &[&Row]) -> Markup {
    let mut commands: Vec<&str> = Vec::new();
    for row in rows {
        if !commands.contains(&row.source.as_str()) {
            commands.push(&row.source);
        }
    }
    let number = |row: &Row| commands.iter().position(|command| *command == row.source).map_or(0, |index| index + 1);
    html! {
        table .rows {
            thead { tr {
                th { "series" } th { "at" } th { "median" } th { "95 % interval" } th { "p95" } th { "p99" } th { "p99.9" } th { "most" }
                th { "samples" } th { "system" } th { "where" } th { "waiting" } th { "made by" }
            } }
            tbody {
                @for row in rows {
                    tr class=(class(row.kind)) {
                        th scope="row" { (row.series) @if let Some(note) = &row.note { br; small { (note) } } }
                        td { (place(row)) }
                        td .number { strong { (written(row.p50, row)) } }
                        td .number { (interval(row)) }
                        td .number { (written(row.p95, row)) }
                        td .number { (written(row.p99, row)) }
                        td .number { (written(row.p999, row)) }
                        td .number { (written(row.max, row)) }
                        td .number { (row.count) }
                        td { (row.system) " " (row.version) }
                        td { (row.placement) }
                        td { (row.wait) }
                        td .number { (number(row)) }
                    }
                }
            }
        }
        ol .commands { @for command in &commands { li { code { (command) } } } }
    }
}

/// The style sheet's name of a kind.
pub(super) fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Ours => "ours",
        Kind::Floor => "floor",
        Kind::Baseline => "baseline",
        Kind::Paper => "paper",
    }
}

fn written(value: Option<f64>, row: &Row) -> String {
    value.map_or_else(|| "–".to_owned(), |value| readable::figure(value, &row.unit))
}

fn interval(row: &Row) -> String {
    match (row.ci_low, row.ci_high) {
        (Some(low), Some(high)) => {
            format!("{} to {}", readable::figure(low, &row.unit), readable::figure(high, &row.unit))
        }
        _ => "–".to_owned(),
    }
}

/// Where a row stands: its payload and its axes.
fn place(row: &Row) -> String {
    let axis = |name: &Option<String>, value: Option<f64>| {
        value.map(|value| format!("{}: {}", name.as_deref().unwrap_or("x"), readable::count(value)))
    };
    let words = [row.payload_bytes.map(readable::bytes), axis(&row.x_name, row.x), axis(&row.y_name, row.y)];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn at(row: &Row) -> String {
    let place = place(row);
    if place.is_empty() { place } else { format!(" ({place})") }
}
