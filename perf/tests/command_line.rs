//! What a person sees who runs the suite.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use praas_benches::subject::descendants_of;
use praas_perf::harness::machine::Description;
use praas_perf::harness::ratio::ratio;
use praas_perf::plots;
use praas_perf::row::{Kind, Row, Rows};

/// Makes a debug build measure; its figures mean nothing, and nothing here looks at them.
const DEBUG_BUILD_VARIABLE: &str = "PRAAS_PERF_DEBUG_BUILD";
/// The plot of these tests: it needs no server but praas's own.
const PLOT: &str = "ipc-micro";
/// Far beyond what a quick plot takes in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often something is looked for.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_praas-perf"));
    command.args(arguments).env_remove(DEBUG_BUILD_VARIABLE);
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Starts measuring into this directory.
fn start_measuring(directory: &Path) -> Child {
    let out = directory.to_str().expect("a path of words");
    program(&[PLOT, "--quick", "--out", out])
        .env(DEBUG_BUILD_VARIABLE, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

/// Waits for it, and ends it if that takes too long.
fn wait_for(child: &mut Child) -> std::process::ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("its status can be asked for") {
            return status;
        }
        if Instant::now() > until {
            let _ = child.kill();
            panic!("{PLOT} did not end within {PATIENCE:?}");
        }
        std::thread::sleep(LOOK_PERIOD);
    }
}

#[test]
fn the_list_names_every_plot() {
    let output = run(&["list"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let listed = text(&output.stdout);
    let listed: Vec<&str> = listed.lines().filter_map(|line| line.split_ascii_whitespace().next()).collect();
    let known: Vec<&str> = plots::ALL.iter().map(|plot| plot.id).chain(["bars"]).collect();
    assert_eq!(listed, known);
}

#[test]
fn an_unknown_plot_is_answered_with_the_known_ones() {
    let output = run(&["no-such-plot"]);
    assert!(!output.status.success());
    let words = text(&output.stderr);
    assert!(words.contains("no plot `no-such-plot`") && words.contains(PLOT), "{words}");
}

#[test]
fn a_debug_build_refuses_to_measure() {
    if !cfg!(debug_assertions) {
        println!("skipped: this is a release build");
        return;
    }
    for arguments in [&["all"][..], &[PLOT, "--quick"]] {
        let output = run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(text(&output.stderr).contains("--release"), "{}", text(&output.stderr));
    }
}

#[test]
fn without_anything_to_do_it_says_what_can_be_done() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2));
    let words = text(&output.stdout);
    assert!(words.contains("Usage") && words.contains("compare"), "{words}");
}

/// One measured plot, and everything that reads it: measuring takes long, so it is done once.
#[test]
fn a_plot_is_measured_reported_and_compared() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = start_measuring(directory.path());
    let status = wait_for(&mut child);
    let mut printed = String::new();
    child.stdout.take().expect("it is piped").read_to_string(&mut printed).expect("it printed words");
    assert!(status.success(), "{printed}");

    let rows = Rows::read(&directory.path().join("results.jsonl")).expect("rows were written");
    rows_are_whole(rows.all());
    let page = fs::read_to_string(directory.path().join("index.html")).expect("a page was written");
    for row in rows.all() {
        assert!(page.contains(&row.series), "the page does not name {}", row.series);
    }
    Description::read(directory.path()).expect("the machine was described");
    assert!(printed.contains(PLOT) && printed.contains("index.html"), "{printed}");

    let run_directory = directory.path().to_str().expect("a path of words");
    let again = tempfile::tempdir().expect("a directory");
    let out = again.path().to_str().expect("a path of words");
    let report = run(&["report", run_directory, "--out", out]);
    assert!(report.status.success(), "{}", text(&report.stderr));
    assert!(again.path().join("index.html").exists());

    let claims = run(&["claims", run_directory]);
    assert!(claims.status.success() && text(&claims.stdout).contains("perf-local"), "{}", text(&claims.stderr));

    let compared = run(&["compare", run_directory, run_directory, "--json"]);
    assert!(compared.status.success(), "{}", text(&compared.stderr));
    let changes: Vec<serde_json::Value> =
        text(&compared.stdout).lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect();
    assert_eq!(changes.len(), rows.all().iter().filter(|row| row.absent.is_none()).count());
    assert!(changes.iter().all(|change| change["outcome"] == "same" && change["ratio"] == 1.0), "{changes:?}");
}

/// Every row says what the page's reader has to know.
fn rows_are_whole(rows: &[Row]) {
    assert!(rows.iter().any(|row| row.kind == Kind::Ours && row.absent.is_none()), "praas was measured");
    for row in rows {
        assert!(row.plot == PLOT && !row.system.is_empty() && row.source.contains(PLOT), "{row:?}");
        assert_eq!(row.run, rows[0].run);
        if row.absent.is_some() {
            continue;
        }
        assert!(!row.placement.is_empty() && !row.wait.is_empty(), "{row:?}");
        let in_order = [row.min, row.p50, row.p95, row.p99, row.p999, row.max].map(|figure| figure.expect("a figure"));
        assert!(in_order[0] > 0.0 && in_order.is_sorted(), "{row:?}");
        assert!(row.ci_low <= row.ci_high && row.count > 0, "{row:?}");
    }
    // Series of a group have ratios, others have not.
    let measured: Vec<&Row> = rows.iter().filter(|row| row.absent.is_none()).collect();
    for (one, other) in measured.iter().zip(&measured[1..]) {
        assert_eq!(ratio(one, other).is_ok(), one.group == other.group, "{} and {}", one.series, other.series);
    }
}

#[test]
fn when_it_is_interrupted_nothing_is_left_running() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = start_measuring(directory.path());
    let until = Instant::now() + PATIENCE;
    // Itself, and the peers of a floor or a server with its keeper.
    let started = loop {
        let started = descendants_of(child.id()).expect("processes are listed");
        if started.len() >= 3 {
            break started;
        }
        assert!(
            child.try_wait().expect("its status can be asked for").is_none(),
            "it ended before it started anything"
        );
        assert!(Instant::now() < until, "it starts nothing");
        std::thread::sleep(LOOK_PERIOD);
    };
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(interrupted.success());
    assert!(!wait_for(&mut child).success());
    for process in started.into_iter().filter(|process| *process != child.id()) {
        while is_running(process) {
            assert!(Instant::now() < until, "process {process} outlives the suite");
            std::thread::sleep(LOOK_PERIOD);
        }
    }
}

/// Whether a process still runs; one that has ended and waits to be collected does not.
fn is_running(process: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else { return false };
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
