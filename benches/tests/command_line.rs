//! What a person sees who runs the program.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_praas-benches")).args(arguments).output().expect("the program runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_unknown_bar_is_answered_with_the_known_ones() {
    let output = run(&["bars", "no-such-bar"]);
    assert!(!output.status.success());
    let text = stderr(&output);
    assert!(text.contains("no bar `no-such-bar`") && text.contains("the bars are:"), "{text}");
}

#[test]
fn a_debug_build_refuses_to_judge() {
    if !cfg!(debug_assertions) {
        println!("skipped: this is a release build");
        return;
    }
    let output = run(&["bars"]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("--release"), "{}", stderr(&output));
}

#[test]
fn the_list_names_every_bar() {
    let output = run(&["bars", "--list"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for bar in praas_benches::bars::ALL {
        assert!(text.contains(bar.id), "{} is missing in {text}", bar.id);
    }
}

#[test]
fn a_peer_is_not_started_by_hand() {
    let output = run(&["__floor-peer", "ping-pong-spin", "free", "1"]);
    assert!(!output.status.success());
}
