//! `index.html`: one page that needs nothing beside it, for everything that a run found.
//!
//! Pictures stand in it as SVG, with links that carry them as files of both kinds; the same files lie in `plots/`. All text
//! that comes from rows is escaped by the templates. The page is written whole and then put in its place, so that a reader
//! never sees half of one.
//!
//! | file | what |
//! |---|---|
//! | `summary.rs` | in one look: for each plot praas, its floor, the best other system, the paper, a sentence |
//! | `plots.rs` | a plot: pictures, how it was measured, its rows |
//! | `claims.rs` | what is claimed and what became of it |

mod claims;
mod plots;
mod summary;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::claims::{Claim, evaluate};
use crate::harness::machine::Description;
use crate::paper;
use crate::plots::{ALL, Plot};
use crate::report::picture;
use crate::row::{Kind, Row, Rows};

/// The page's file.
pub const FILE: &str = "index.html";
/// The pictures' directory, beside it.
pub const PICTURES: &str = "plots";

const STYLE: &str = include_str!("style.css");

/// A picture that was drawn: as files, and for the page.
pub(super) struct Picture {
    /// The files' name without what tells the kind.
    name: String,
    svg: String,
    png: Vec<u8>,
}

/// Writes the page of these measured rows, and its pictures, into a directory that exists. Returns the page's path.
///
/// # Errors
/// The directory's or a file's, and what the rasteriser of pictures says.
pub fn write(directory: &Path, rows: &Rows, machine: Option<&Description>) -> io::Result<PathBuf> {
    let pictures = directory.join(PICTURES);
    fs::create_dir_all(&pictures)?;
    let (page, drawn) = compose(ALL, rows, machine)?;
    for Picture { name, svg, png } in drawn.iter().flatten() {
        fs::write(pictures.join(format!("{name}.svg")), svg)?;
        fs::write(pictures.join(format!("{name}.png")), png)?;
    }
    let path = directory.join(FILE);
    let unfinished = directory.join("index.html.part");
    fs::write(&unfinished, page.into_string())?;
    fs::rename(&unfinished, &path)?;
    Ok(path)
}

/// The page, and the pictures of each plot.
fn compose(plots: &[Plot], rows: &Rows, machine: Option<&Description>) -> io::Result<(Markup, Vec<Vec<Picture>>)> {
    let with_paper = with_paper(rows);
    let shown: Vec<&Plot> = plots.iter().filter(|plot| rows.of_plot(plot.id).next().is_some()).collect();
    let left_out: Vec<&Plot> = plots.iter().filter(|plot| rows.of_plot(plot.id).next().is_none()).collect();
    let drawn = shown.iter().map(|plot| draw(plot, &with_paper)).collect::<io::Result<Vec<_>>>()?;
    let claims = evaluate(rows);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "praas, measured" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "praas, measured" }
                    (introduction(rows))
                    @if let Some(machine) = machine { p .hint { (in_brief(machine)) " " a href="#machine" { "more" } } }
                    nav {
                        a href="#summary" { "in one look" }
                        @for plot in &shown { a href={ "#" (plot.id) } { (plot.id) } }
                        a href="#claims" { "claims" }
                        a href="#machine" { "machine" }
                        a href="#again" { "again" }
                    }
                }
                main {
                    (summary::section(&shown, &with_paper))
                    @for (plot, pictures) in shown.iter().zip(&drawn) {
                        (plots::section(plot, &with_paper, pictures))
                    }
                    (claims::section(&claims))
                    @if let Some(machine) = machine { (machine_section(machine)) }
                    (again(rows, &left_out, &claims))
                }
            }
        }
    };
    Ok((page, drawn))
}

/// These rows and the paper's.
fn with_paper(rows: &Rows) -> Rows {
    let mut all = rows.clone();
    all.extend(paper::rows());
    all
}

fn draw(plot: &Plot, rows: &Rows) -> io::Result<Vec<Picture>> {
    let drawings = (plot.drawings)(rows);
    let draw = |(index, drawing)| {
        let png = picture::png(drawing).map_err(io::Error::other)?;
        Ok(Picture { name: format!("{}-{}", plot.id, index + 1), svg: picture::svg(drawing), png })
    };
    drawings.iter().enumerate().map(draw).collect()
}

fn introduction(rows: &Rows) -> Markup {
    let measured: Vec<&Row> = rows.all().iter().filter(|row| row.kind != Kind::Paper).collect();
    let absent = measured.iter().filter(|row| row.absent.is_some()).count();
    let runs = {
        let mut runs: Vec<&str> = measured.iter().map(|row| row.run.as_str()).collect();
        runs.sort_unstable();
        runs.dedup();
        runs.len()
    };
    html! {
        p {
            "The plots of the paper on cloud processes, measured on one machine: praas beside what the machine can do at best, \
             beside other systems in the same run, and beside what the paper measured on AWS. "
            (measured.len()) " rows, " (absent) " of them absent with their reasons. Every figure is a median unless it says otherwise; \
             intervals are of 95 %, by the bootstrap over rounds in which all series of a group took turns."
        }
        @if runs > 1 {
            p .warning { "These rows are of " (runs) " runs. Ratios are made within a run only." }
        }
        p .key {
            span .ours { "praas" } " " span .floor { "floor: the machine at its best" } " "
            span .baseline { "another system, measured here" } " " span .paper { "the paper: measured on AWS, another machine" }
        }
    }
}

/// What a reader wants to know of the machine first.
fn in_brief(machine: &Description) -> String {
    const FIRST: [&str; 5] = ["processor", "cores", "memory", "kernel", "date"];
    let facts = machine.facts();
    let brief = facts.iter().filter(|(name, _)| FIRST.contains(name));
    brief.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("; ")
}

fn machine_section(machine: &Description) -> Markup {
    html! {
        section #machine {
            h2 { "The machine" }
            @for warning in machine.warnings() { p .warning { (warning) } }
            table .facts {
                tbody {
                    @for (name, value) in machine.facts() { tr { th scope="row" { (name) } td { (value) } } }
                }
            }
        }
    }
}

fn again(rows: &Rows, left_out: &[&Plot], claims: &[Claim]) -> Markup {
    let mut commands: Vec<&str> =
        rows.all().iter().filter(|row| row.kind != Kind::Paper).map(|row| row.source.as_str()).collect();
    commands.extend(claims.iter().map(|claim| claim.command.as_str()).filter(|command| !command.is_empty()));
    commands.sort_unstable();
    commands.dedup();
    html! {
        section #again {
            h2 { "Again" }
            p { "All of it, from a checkout, with the other systems installed into a folder of their own:" }
            pre { "perf/setup\ncargo run --release -p praas-perf -- all --quick    # a few minutes\ncargo run --release -p praas-perf -- all            # the paper's repetitions" }
            p { "One plot, this page again from its rows, two runs beside each other:" }
            pre { "cargo run --release -p praas-perf -- ipc --out somewhere\ncargo run --release -p praas-perf -- report somewhere/results.jsonl\ncargo run --release -p praas-perf -- compare before/results.jsonl somewhere/results.jsonl" }
            p {
                "The rows of this page lie beside it in " a href="results.jsonl" { "results.jsonl" } ". The paper's are those of its artifact ("
                (paper::ARTIFACT) "), as " code { "perf/data/paper" } " holds them."
            }
            details {
                summary { "Every command of this page" }
                ul { @for command in &commands { li { code { (command) } } } }
            }
            @if !left_out.is_empty() {
                p { "Not part of this run: " @for (index, plot) in left_out.iter().enumerate() { @if index > 0 { ", " } (plot.id) } "." }
            }
        }
    }
}

#[cfg(test)]
mod tests;
