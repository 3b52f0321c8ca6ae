//! `praas doctor` tells what this host grants, to people and to programs.

mod support;

use support::{run_praas, scratch};

#[test]
fn findings_are_valid_json_and_whatever_is_short_has_advice() {
    let scratch = scratch();
    let report = run_praas(scratch.path(), &["doctor", "--json"]).succeeded().json();
    let findings = report["findings"].as_array().unwrap();
    assert!(!findings.is_empty());
    for finding in findings {
        let granted = finding["granted"].as_str().unwrap();
        assert!(["granted", "limited", "lacking"].contains(&granted), "{finding}");
        assert!(!finding["name"].as_str().unwrap().is_empty() && finding["detail"].is_string(), "{finding}");
        assert!(granted == "granted" || finding["advice"].is_string(), "{finding}");
    }
    let names: Vec<&str> = findings.iter().filter_map(|finding| finding["name"].as_str()).collect();
    for wanted in ["cores", "io_uring", "cgroup", "open files"] {
        let is_there = names.iter().any(|name| name.to_lowercase().contains(wanted));
        assert!(is_there, "nothing is said of {wanted}: {names:?}");
    }
}

#[test]
fn people_get_a_line_for_each_finding() {
    let scratch = scratch();
    let text = run_praas(scratch.path(), &["doctor"]).succeeded().out();
    assert!(text.lines().count() > 5 && text.contains("granted"), "{text}");
}
