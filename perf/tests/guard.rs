//! What the guard counts beside instructions is the same in a debug build; instructions are counted in release builds only.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_praas-perf-guard")).args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_guarded_steps_neither_call_the_system_nor_allocate() {
    let output = run(&["__guard", "steady"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let counted: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("a list");
    assert!(counted.len() >= 12, "{counted:?}");
    for step in counted {
        assert!(step["system_calls"] == 0 && step["allocations"] == 0, "{step}");
    }
}

#[test]
fn a_guarded_step_is_not_run_by_hand() {
    assert!(!run(&["__guard"]).status.success());
}

#[test]
fn a_debug_build_refuses_to_guard() {
    if !cfg!(debug_assertions) {
        println!("skipped: this is a release build");
        return;
    }
    let output = run(&[]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("--release"), "{}", text(&output.stderr));
}
