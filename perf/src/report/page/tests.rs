use std::sync::LazyLock;

use scraper::{Html, Selector};

use super::*;
use crate::claims::Verdict as ClaimVerdict;
use crate::harness::samples_of_rows;
use crate::report::build::{bars_by_payload, times};
use crate::report::drawing::Drawing;
use crate::report::readable;

const SIZES: [u64; 2] = [10, 1 << 10];

/// A plot of the paper's without its measurements.
const PLOT: Plot = Plot {
    id: "ipc",
    title: "Messages & such",
    method: "Half of an exchange; 1 < 2.",
    measure: |_| {},
    drawings,
    meaning,
};
/// One that was not measured.
const OTHER: Plot = Plot { id: "other", title: "Other", drawings: |_| Vec::new(), meaning: |_| None, ..PLOT };

fn drawings(rows: &Rows) -> Vec<Drawing> {
    bars_by_payload(rows, "ipc", "Messages <one way>", "One way", &[])
}

fn meaning(rows: &Rows) -> Option<String> {
    let ratio = times(rows, "ipc", "Redis <b>list</b>", "praas, spin", 10)?;
    Some(format!("A message arrives {} sooner.", readable::times(ratio)))
}

fn row(series: &str, kind: Kind, payload_bytes: u64, median: f64) -> Row {
    let rounds = [0.99, 1.0, 1.01].map(|factor| factor * median);
    Row {
        plot: "ipc".to_owned(),
        kind,
        payload_bytes: Some(payload_bytes),
        p95: Some(median * 1.5),
        p99: Some(median * 2.5),
        count: 4321,
        placement: "cores 0 and 1".to_owned(),
        wait: "spin".to_owned(),
        ..samples_of_rows::row(series, &rounds)
    }
}

fn rows() -> Rows {
    let mut rows = Vec::new();
    for size in SIZES {
        rows.push(row("praas, spin", Kind::Ours, size, 123.0 + size as f64));
        rows.push(row("bare mapping, spin", Kind::Floor, size, 77.0 + size as f64));
        rows.push(row("Redis <b>list</b>", Kind::Baseline, size, 45_600.0 + size as f64));
        let reason = "is not installed: run `perf/setup` & try <again>".to_owned();
        let absent = Row { p50: None, absent: Some(reason), ..row("rclone S3", Kind::Baseline, size, 1.0) };
        rows.push(Row { rounds: Vec::new(), ..absent });
    }
    Rows::new(rows)
}

/// The page of [`rows`], made once.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let (page, pictures) = compose(&[PLOT, OTHER], &rows(), None).expect("the pictures can be drawn");
    assert_eq!(pictures.iter().map(Vec::len).collect::<Vec<_>>(), [1], "one plot was measured, with one picture");
    page.into_string()
});

fn texts(page: &Html, selector: &str) -> Vec<String> {
    let selector = Selector::parse(selector).expect("a selector");
    page.select(&selector).map(|element| element.text().collect::<String>()).collect()
}

#[test]
fn the_page_is_whole_and_needs_nothing_beside_it() {
    let text = PAGE.as_str();
    let page = Html::parse_document(text);
    assert!(page.errors.is_empty(), "{:?}", page.errors);
    assert_eq!(texts(&page, "h1"), ["praas, measured"]);
    let headings = texts(&page, "h2");
    assert_eq!(headings, ["In one look", "Messages & such", "What is claimed", "Again"]);
    for wanted in ["src=", "<link", "<script", "@import", "url("] {
        assert!(!text.contains(wanted), "{wanted} asks for something else");
    }
    assert!(text.contains("data:image/png;base64,") && text.contains("data:image/svg+xml;base64,"));
    let pictures = Selector::parse("#ipc figure > svg[viewBox]").expect("a selector");
    assert_eq!(page.select(&pictures).count(), 1);
}

#[test]
fn every_rows_figures_are_there() {
    let rows = rows();
    let page = Html::parse_document(&PAGE);
    let lines = texts(&page, "#ipc table.rows tbody tr");
    let with_paper = with_paper(&rows);
    let found: Vec<&Row> = with_paper.of_plot("ipc").filter(|row| row.absent.is_none()).collect();
    assert_eq!(lines.len(), found.len());
    assert!(found.iter().any(|row| row.kind == Kind::Paper), "the paper's rows stand beside ours");
    for (line, row) in lines.iter().zip(found) {
        let figures = [row.p50, row.p95, row.p99, row.ci_low, row.ci_high, row.max];
        for figure in figures.into_iter().flatten() {
            assert!(line.contains(&readable::figure(figure, &row.unit)), "{figure} in {line}");
        }
        for word in [&row.series, &row.placement, &row.wait, &row.count.to_string()] {
            assert!(line.contains(word.as_str()), "{word} in {line}");
        }
    }
    let commands = texts(&page, "#ipc ol.commands li");
    assert!(commands.iter().any(|command| command.contains(paper::ARTIFACT)), "{commands:?}");
}

#[test]
fn what_rows_say_is_text_and_nothing_else() {
    let text = PAGE.as_str();
    assert!(text.contains("Redis &lt;b&gt;list&lt;/b&gt;"));
    assert!(!text.contains("<b>list"), "a series' name is no markup");
    let page = Html::parse_document(text);
    assert!(texts(&page, "th").iter().any(|name| name == "Redis <b>list</b>"));
}

#[test]
fn absent_rows_say_why() {
    let page = Html::parse_document(&PAGE);
    let absent = texts(&page, "#ipc ul.absent li");
    assert_eq!(absent.len(), SIZES.len());
    assert_eq!(absent[1], "rclone S3 (1 KiB): is not installed: run `perf/setup` & try <again>");
    assert!(texts(&page, "#again p").iter().any(|words| words == "Not part of this run: other."));
}

#[test]
fn in_one_look_the_best_of_each_kind_stand_together() {
    let page = Html::parse_document(&PAGE);
    let cells = texts(&page, "#summary tbody tr:first-child > *");
    assert_eq!(cells[..2], ["ipc", "10 B"]);
    assert_eq!(cells[2], "133 nspraas, spin");
    assert_eq!(cells[3], "87.0 nsbare mapping, spin");
    assert_eq!(cells[4], "45.6 µsRedis <b>list</b>");
    assert!(cells[5].starts_with("196 µsPraaS send-receive"), "{}", cells[5]);
    let meaning = texts(&page, "#summary tr.meaning");
    assert_eq!(meaning, ["A message arrives 343 × sooner."]);
}

#[test]
fn every_claim_has_a_line_with_its_verdict() {
    let rows = rows();
    let claims = evaluate(&rows);
    let page = Html::parse_document(&PAGE);
    assert_eq!(texts(&page, "table.claims tbody tr").len(), claims.len());
    let unmeasured = claims.iter().filter(|claim| matches!(claim.verdict, ClaimVerdict::NotMeasured(_))).count();
    assert_eq!(texts(&page, "table.claims .unmeasured").len(), unmeasured);
}

#[test]
fn page_and_pictures_are_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = write(directory.path(), &rows(), None).expect("it can be written");
    assert_eq!(path, directory.path().join(FILE));
    let names: Vec<_> = fs::read_dir(directory.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names.len(), 2, "nothing unfinished is left: {names:?}");
}

#[test]
fn the_machine_is_described() {
    let machine = Description::look().expect("the kernel tells");
    let (page, _) = compose(&[], &rows(), Some(&machine)).expect("there is nothing to draw");
    let page = Html::parse_document(&page.into_string());
    let facts = texts(&page, "#machine tr");
    for (name, value) in machine.facts() {
        assert!(facts.contains(&format!("{name}{value}")), "{name}: {value} in {facts:?}");
    }
    assert!(texts(&page, "header p").iter().any(|words| words.contains(&machine.kernel)));
}
