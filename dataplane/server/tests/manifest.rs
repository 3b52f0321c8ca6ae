//! A `praas.toml` becomes an application, or every wrong field of it is named with its line and what is allowed.

use std::path::Path;

use praas_protocol::Durability;
use praas_protocol::control::WaitMode;
use praas_server::{Application, Network, Problem, SwapWait};

const GOOD: &str = r#"
[application]
name = "hello"
binary = "target/release/hello"
arguments = ["--fast"]
environment = { RUST_BACKTRACE = "1" }
wait = "park"
network = "host"
readable = ["data", "/etc/hosts"]
functions = ["greet", "count.words"]

[workers]
min = 2
max = 4

[state]
durability = "logged"
idle_swap_ms = 30000
swap_wait = "refuse"

[limits]
payload_bytes_max = "1MiB"
state_bytes_max = "16MiB"
call_ms_max = "none"
drain_ms = 500
memory_bytes = "256MiB"
open_files = 128
processes = 16
output_bytes = 65536
"#;

/// The least that there can be.
const TWO_LINES: &str = "[application]\nname = \"hello\"\nbinary = \"hello\"\n";

fn problems(text: &str) -> Vec<Problem> {
    match Application::parse(text, Path::new("/app")) {
        Ok(application) => panic!("accepted: {application:?}"),
        Err(problems) => problems,
    }
}

#[test]
fn a_full_manifest_reads_as_written() {
    let application = Application::parse(GOOD, Path::new("/app")).unwrap();
    assert_eq!(application.name.as_str(), "hello");
    assert_eq!(application.binary, Path::new("/app/target/release/hello"));
    assert_eq!(application.arguments, ["--fast"]);
    assert_eq!(application.environment["RUST_BACKTRACE"], "1");
    assert_eq!((application.wait, application.network), (WaitMode::Park, Network::Host));
    assert_eq!(application.readable, [Path::new("/app/data"), Path::new("/etc/hosts")]);
    assert_eq!(application.functions.unwrap().len(), 2);
    assert_eq!((application.workers_min, application.workers_max), (2, 4));
    assert_eq!(application.durability, Durability::Logged);
    assert_eq!((application.idle_swap_ms, application.swap_wait), (Some(30_000), SwapWait::Refuse));
    let limits = application.limits;
    assert_eq!((limits.payload_bytes_max, limits.call_ms_max, limits.drain_ms), (1 << 20, None, 500));
    assert_eq!(limits.state_bytes_max, 16 << 20);
    assert_eq!((limits.memory_bytes, limits.open_files), (Some(256 << 20), 128));
    assert_eq!((limits.processes, limits.output_bytes), (Some(16), 65536));
}

#[test]
fn a_durability_is_memory_unless_it_is_named_and_others_are_refused() {
    let of = |section: &str| Application::parse(&format!("{TWO_LINES}{section}"), Path::new("/app"));
    assert_eq!(of("").unwrap().durability, Durability::Memory);
    assert_eq!(of("[state]\n").unwrap().durability, Durability::Memory);
    assert_eq!(of("[state]\ndurability = \"memory\"\n").unwrap().durability, Durability::Memory);
    let checkpoints = of("[state]\ndurability = \"checkpoint\"\n").unwrap();
    assert_eq!((checkpoints.durability, checkpoints.checkpoint_interval_ms), (Durability::Checkpoint, 60_000));
    assert_eq!(of("[state]\ncheckpoint_interval_ms = 100\n").unwrap().checkpoint_interval_ms, 100);
    for wrong in [99, 24 * 3_600_000 + 1] {
        let wrong = of(&format!("[state]\ncheckpoint_interval_ms = {wrong}\n")).unwrap_err();
        assert_eq!(wrong[0].field, "state.checkpoint_interval_ms");
    }
    let wrong = of("[state]\ndurability = \"sometimes\"\nextra = 1\n").unwrap_err();
    let named: Vec<_> = wrong.iter().map(|problem| (problem.line, problem.field.as_str())).collect();
    assert_eq!(named, [(5, "state.durability"), (6, "state.extra")]);
    assert!(wrong[0].problem.contains("\"memory\", \"checkpoint\" or \"logged\""), "{}", wrong[0]);
}

#[test]
fn a_process_sleeps_only_where_a_time_is_named() {
    let of = |section: &str| Application::parse(&format!("{TWO_LINES}{section}"), Path::new("/app")).unwrap();
    for never in ["", "[state]\n", "[state]\nidle_swap_ms = 0\n", "[state]\nidle_swap_ms = \"none\"\n"] {
        assert_eq!(of(never).idle_swap_ms, None, "{never}");
    }
    assert_eq!(of("[state]\nidle_swap_ms = 10\n").idle_swap_ms, Some(10));
    assert_eq!(of("[state]\nswap_wait = \"wait\"\n").swap_wait, SwapWait::default());
    assert!(of("").wake_on_message && !of("[state]\nwake_on_message = false\n").wake_on_message);
}

#[test]
fn two_lines_are_enough() {
    let text = "[application]\nname = \"a\"\nbinary = \"/bin/a\"\n";
    let application = Application::parse(text, Path::new("/app")).unwrap();
    assert_eq!((application.workers_min, application.workers_max), (1, 1));
    assert_eq!((application.limits.call_ms_max, application.limits.state_bytes_max), (Some(60_000), 64 << 20));
    assert_eq!(application.checked().unwrap().network, Network::None);
}

#[test]
fn each_wrong_field_is_named_with_its_line_and_what_is_allowed() {
    let cases = [
        ("name = \"hello\"", "name = \"Hello\"", "application.name", "a–z"),
        ("name = \"hello\"", "name = 5", "application.name", "a name"),
        ("name = \"hello\"", "", "application.name", "missing"),
        ("binary = \"target/release/hello\"", "binary = []", "application.binary", "path"),
        ("binary = \"target/release/hello\"", "binari = \"x\"", "application.binari", "binary, arguments"),
        ("arguments = [\"--fast\"]", "arguments = [\"a\", 1]", "application.arguments", "list of texts"),
        ("RUST_BACKTRACE = \"1\"", "RUST_BACKTRACE = 1", "application.environment", "table of texts"),
        ("RUST_BACKTRACE = \"1\"", "PRAAS_WORKER = \"1\"", "application.environment", "PRAAS_"),
        ("wait = \"park\"", "wait = \"sleep\"", "application.wait", "\"adaptive\""),
        ("network = \"host\"", "network = true", "application.network", "\"none\""),
        ("readable = [\"data\", \"/etc/hosts\"]", "readable = \"data\"", "application.readable", "list of paths"),
        ("\"count.words\"", "\"greet\"", "application.functions", "greet twice"),
        ("\"count.words\"", "\"no spaces\"", "application.functions", "character ' '"),
        ("min = 2", "min = 5", "workers.min", "1 to 4"),
        ("min = 2", "min = 0", "workers.min", "1 to 4"),
        ("max = 4", "max = 65", "workers.max", "1 to 64"),
        ("max = 4", "max = -1", "workers.max", "number of workers"),
        ("max = 4", "maximum = 4", "workers.maximum", "min, max"),
        ("payload_bytes_max = \"1MiB\"", "payload_bytes_max = \"1megs\"", "limits.payload_bytes_max", "64MiB"),
        ("payload_bytes_max = \"1MiB\"", "payload_bytes_max = \"3GiB\"", "limits.payload_bytes_max", "2147483647"),
        ("state_bytes_max = \"16MiB\"", "state_bytes_max = \"some\"", "limits.state_bytes_max", "64MiB"),
        ("state_bytes_max = \"16MiB\"", "state_bytes_max = 0", "limits.state_bytes_max", "1048576 to 68719476736"),
        ("state_bytes_max = \"16MiB\"", "state_bytes_max = \"65GiB\"", "limits.state_bytes_max", "1048576 to"),
        ("call_ms_max = \"none\"", "call_ms_max = \"never\"", "limits.call_ms_max", "\"none\""),
        ("call_ms_max = \"none\"", "call_ms_max = 1", "limits.call_ms_max", "20 to"),
        ("drain_ms = 500", "drain_ms = 99999999999", "limits.drain_ms", "86400000"),
        ("memory_bytes = \"256MiB\"", "memory_bytes = 100", "limits.memory_bytes", "8388608"),
        ("open_files = 128", "open_files = 3", "limits.open_files", "64 to"),
        ("processes = 16", "processes = 0", "limits.processes", "1 to"),
        ("output_bytes = 65536", "output_bytes = 1.5", "limits.output_bytes", "64MiB"),
        ("idle_swap_ms = 30000", "idle_swap_ms = 5", "state.idle_swap_ms", "10 to"),
        ("idle_swap_ms = 30000", "idle_swap_ms = \"soon\"", "state.idle_swap_ms", "milliseconds, 0 or \"none\""),
        ("swap_wait = \"refuse\"", "swap_wait = \"maybe\"", "state.swap_wait", "\"wait\" or \"refuse\""),
        ("swap_wait = \"refuse\"", "wake_on_message = 1", "state.wake_on_message", "true or false"),
        ("swap_wait = \"refuse\"", "wake_on_message = false", "state.wake_on_message", "\"memory\" or \"checkpoint\""),
        ("[workers]", "[worker]", "[worker]", "[workers]"),
    ];
    for (good, bad, field, allowed) in cases {
        assert!(GOOD.contains(good), "{good}");
        let text = GOOD.replacen(good, bad, 1);
        let problems = problems(&text);
        let problem = problems.iter().find(|problem| problem.field == field);
        let problem = problem.unwrap_or_else(|| panic!("{bad}: {field} is not named in {problems:?}"));
        assert!(problem.problem.contains(allowed), "{bad}: {problem}");
        let line = GOOD.lines().position(|line| line.contains(good)).unwrap() + 1;
        assert!(problem.line == line || (bad.is_empty() && problem.line == 0), "{bad}: line {line}, {problem}");
    }
}

#[test]
fn every_problem_is_found_not_only_the_first() {
    let text =
        "[application]\nname = \"Bad\"\nbinary = 1\nwait = \"x\"\n[workers]\nmin = 9\nmax = 3\n[limits]\nfoo = 1\n";
    let fields: Vec<_> = problems(text).into_iter().map(|problem| (problem.line, problem.field)).collect();
    let expected = [(2, "application.name"), (3, "application.binary"), (4, "application.wait"), (6, "workers.min")];
    for (line, field) in expected.into_iter().chain([(9, "limits.foo")]) {
        assert!(fields.contains(&(line, field.to_owned())), "{field} on line {line} in {fields:?}");
    }
    assert_eq!(fields.len(), 5, "{fields:?}");
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    assert_eq!(problems("[application]\nname = \n")[0].line, 2);
    assert!(problems("").iter().any(|problem| problem.field == "[application]"));
    assert!(problems("application = 3").iter().any(|problem| problem.field == "[application]"));
}

#[test]
fn an_unreadable_file_says_where_and_what_next() {
    let error = Application::load(Path::new("/nonexistent/praas.toml")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/praas.toml") && error.contains("praas new"), "{error}");
}
