//! A person can learn the tool from its help, and a wrong command line is told apart from everything else.

mod support;

use support::{run_praas, scratch};

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let scratch = scratch();
    let help = run_praas(scratch.path(), &["--help"]).succeeded().out();
    for word in [
        "demo",
        "new",
        "check",
        "serve",
        "process",
        "invoke",
        "message",
        "ping",
        "state",
        "stats",
        "storage",
        "token",
        "doctor",
        "completions",
        "Exit codes",
        "praas.toml",
    ] {
        assert!(help.contains(word), "{word} is missing:\n{help}");
    }
    assert!(!help.contains("keeper") && !help.contains("demo-worker"), "{help}");
}

#[test]
fn every_command_shows_examples() {
    let scratch = scratch();
    for command in [
        "demo",
        "new",
        "check",
        "serve",
        "process",
        "invoke",
        "message",
        "ping",
        "state",
        "stats",
        "storage",
        "completions",
    ] {
        let help = run_praas(scratch.path(), &[command, "--help"]).succeeded().out();
        assert!(help.contains("Examples:"), "{command}:\n{help}");
    }
}

#[test]
fn the_help_of_a_command_tells_more_than_its_line_in_the_list() {
    let scratch = scratch();
    for (command, words) in [
        ("demo", "It leaves nothing behind"),
        ("serve", "SIGTERM or Ctrl-C"),
        ("invoke", "byte for byte"),
        ("message", "--rights messages"),
        ("state", "--rights invoke,state"),
        ("doctor", "walls"),
    ] {
        let help = run_praas(scratch.path(), &[command, "--help"]).succeeded().out();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(words), "{command}:\n{help}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_2_and_says_how_it_is_used() {
    let scratch = scratch();
    for arguments in [
        &["frobnicate"][..],
        &["invoke"],
        &["invoke", "no-slash", "f"],
        &["invoke", "a/b", "f", "payload", "--file", "x"],
        &["invoke", "a/b", "f", "--deadline", "soon"],
        &["invoke", "a/b", "f", "--repeat", "0"],
        &["process", "create", "Upper/case"],
        &["message", "send", "a/b"],
        &["message", "send", "a/b", "key", "data", "--file", "x"],
        &["message", "send", "a/b", "key", "data", "--timeout", "5s"],
        &["message", "recv", "a/b", "key"],
        &["message", "recv", "a", "key", "--from", "Upper"],
        &["state", "get", "a/b"],
        &["state", "put", "a/b", "key", "--value", "v", "--file", "x"],
        &["state", "put", "a/b", "key", "--value", "v", "--if-version", "0"],
        &["state", "delete", "a/b", "key", "--if-version", "absent"],
        &["serve", "--memory-budget", "lots"],
        &["serve", "--metrics", "0.0.0.0:9100"],
        &["token", "create", "--expires", "1h"],
        &["token", "create", "--any", "--process", "a/b", "--expires", "1h"],
        &["token", "create", "--any"],
        &["token", "create", "--any", "--expires", "1h", "--rights", "fly"],
        &["completions", "tcsh-but-better"],
    ] {
        let ended = run_praas(scratch.path(), arguments);
        assert_eq!(ended.code(), 2, "{arguments:?}: {ended:?}");
        assert!(ended.stdout.is_empty() && ended.err().contains("--help"), "{arguments:?}: {ended:?}");
    }
}

#[test]
fn under_json_a_wrong_command_line_is_json_too() {
    let scratch = scratch();
    let ended = run_praas(scratch.path(), &["--json", "invoke", "no-slash", "f"]);
    assert_eq!(ended.code(), 2);
    assert_eq!(ended.failure()["kind"], "usage");
    assert!(ended.failure()["message"].as_str().unwrap().contains("APPLICATION/PROCESS"));
}

#[test]
fn version_is_one_line() {
    let scratch = scratch();
    let version = run_praas(scratch.path(), &["--version"]).succeeded().out();
    assert_eq!(version, format!("praas {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn each_shell_gets_completions() {
    let scratch = scratch();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run_praas(scratch.path(), &["completions", shell]).succeeded().out();
        assert!(script.contains("invoke") && script.contains("praas"), "{shell}");
    }
}

#[test]
fn without_a_server_commands_end_with_3_and_say_how_to_start_one() {
    let scratch = scratch();
    for arguments in [
        &["process", "list"][..],
        &["process", "create", "demo/a"],
        &["process", "stop", "demo/a"],
        &["process", "restart", "demo/a"],
        &["process", "logs", "demo/a"],
        &["invoke", "demo/a", "noop"],
        &["state", "get", "demo/a", "key"],
        &["state", "put", "demo/a", "key", "--value", "v"],
        &["state", "delete", "demo/a", "key"],
        &["state", "list", "demo/a"],
    ] {
        let ended = run_praas(scratch.path(), arguments);
        assert_eq!(ended.code(), 3, "{arguments:?}: {ended:?}");
        assert!(ended.err().contains("praas serve"), "{arguments:?}: {ended:?}");
        let with_json = run_praas(scratch.path(), &[&["--json"][..], arguments].concat());
        assert_eq!(with_json.failure()["kind"], "no_server", "{arguments:?}: {with_json:?}");
        assert_eq!(with_json.failure()["exit_code"], 3);
    }
}

#[test]
fn the_keeper_and_the_worker_say_who_starts_them() {
    let scratch = scratch();
    let keeper = run_praas(scratch.path(), &["keeper"]);
    assert!(!keeper.status.success() && keeper.err().contains("praas serve"), "{keeper:?}");
    let worker = run_praas(scratch.path(), &["demo-worker"]);
    assert!(!worker.status.success() && worker.err().contains("praas server"), "{worker:?}");
}
