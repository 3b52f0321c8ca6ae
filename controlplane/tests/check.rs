//! `praas check` accepts what is right, and names each field that is wrong.

mod support;

use std::fs;

use support::{praas, run, run_praas, scratch};

const GOOD: &str = r#"[application]
name = "shop"
binary = "/bin/true"
arguments = ["--fast"]
environment = { KEY = "value" }
wait = "park"
network = "host"
readable = ["/etc/hosts"]
functions = ["buy", "sell"]

[workers]
min = 2
max = 4

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

#[test]
fn a_good_file_is_well_described_by_file_directory_or_default() {
    let scratch = scratch();
    let file = scratch.path().join("praas.toml");
    fs::write(&file, GOOD).unwrap();
    for path in [file.as_path(), scratch.path()] {
        let ended = run(praas(scratch.path()).arg("check").arg(path)).succeeded();
        assert!(ended.out().contains("shop") && ended.out().contains("buy, sell"), "{}", ended.out());
    }
    let ended = run(praas(scratch.path()).arg("check").current_dir(scratch.path())).succeeded();
    assert!(ended.out().contains("shop"), "{}", ended.out());
    let ended = run(praas(scratch.path()).args(["check", "--json"]).arg(&file)).succeeded();
    assert_eq!((&ended.json()["ok"], &ended.json()["warnings"]), (&true.into(), &serde_json::json!([])));
}

#[test]
fn each_wrong_field_is_named() {
    let scratch = scratch();
    let cases = [
        ("name = \"shop\"", "name = \"Shop\"", "application.name"),
        ("binary = \"/bin/true\"", "binary = 1", "application.binary"),
        ("arguments = [\"--fast\"]", "arguments = \"--fast\"", "application.arguments"),
        ("KEY = \"value\"", "PRAAS_X = \"value\"", "application.environment"),
        ("wait = \"park\"", "wait = \"doze\"", "application.wait"),
        ("network = \"host\"", "network = \"all\"", "application.network"),
        ("readable = [\"/etc/hosts\"]", "readable = [1]", "application.readable"),
        ("\"sell\"", "\"buy\"", "application.functions"),
        ("min = 2", "min = 5", "workers.min"),
        ("max = 4", "max = 400", "workers.max"),
        ("payload_bytes_max = \"1MiB\"", "payload_bytes_max = \"9GiB\"", "limits.payload_bytes_max"),
        ("state_bytes_max = \"16MiB\"", "state_bytes_max = 0", "limits.state_bytes_max"),
        ("call_ms_max = \"none\"", "call_ms_max = 1", "limits.call_ms_max"),
        ("drain_ms = 500", "drain_ms = -1", "limits.drain_ms"),
        ("memory_bytes = \"256MiB\"", "memory_bytes = \"1KiB\"", "limits.memory_bytes"),
        ("open_files = 128", "open_files = 1", "limits.open_files"),
        ("processes = 16", "processes = 0", "limits.processes"),
        ("output_bytes = 65536", "output_bytes = true", "limits.output_bytes"),
        ("drain_ms = 500", "dream_ms = 500", "limits.dream_ms"),
        ("[workers]", "[labourers]", "[labourers]"),
    ];
    for (good, bad, field) in cases {
        assert!(GOOD.contains(good), "{good}");
        let file = scratch.path().join("wrong.toml");
        fs::write(&file, GOOD.replacen(good, bad, 1)).unwrap();
        let line = GOOD.lines().position(|line| line.contains(good)).unwrap() + 1;
        let ended = run(praas(scratch.path()).arg("check").arg(&file));
        assert_eq!(ended.code(), 1, "{bad}: {ended:?}");
        let named = format!("line {line}: {field}");
        assert!(ended.out().contains(&named), "{bad}: {named} is missing in {}", ended.out());
        let ended = run(praas(scratch.path()).args(["--json", "check"]).arg(&file));
        let json = ended.json();
        let problems = json["problems"].as_array().unwrap();
        assert!(
            problems.iter().any(|problem| problem["field"] == field && problem["line"] == line),
            "{bad}: {problems:?}"
        );
        assert_eq!(ended.failure()["kind"], "manifest_wrong");
    }
}

#[test]
fn all_problems_of_all_files_are_told() {
    let scratch = scratch();
    for (name, text) in [("a.toml", "[application]\nname = 1\nbinary = 2\n"), ("b.toml", GOOD), ("c.toml", "nonsense")]
    {
        fs::write(scratch.path().join(name), text).unwrap();
    }
    let files = ["a.toml", "b.toml", "c.toml"];
    let ended = run(praas(scratch.path()).arg("check").args(files).current_dir(scratch.path()));
    let out = ended.out();
    for word in ["application.name", "application.binary", "shop", "c.toml"] {
        assert!(out.contains(word), "{word} is missing:\n{out}");
    }
    assert!(ended.err().contains("2 of 3"), "{}", ended.err());
}

#[test]
fn a_program_that_is_not_built_yet_is_a_warning() {
    let scratch = scratch();
    let file = scratch.path().join("praas.toml");
    fs::write(&file, "[application]\nname = \"a\"\nbinary = \"target/release/a\"\n").unwrap();
    let ended = run(praas(scratch.path()).arg("check").arg(&file)).succeeded();
    assert!(ended.out().contains("warning") && ended.out().contains("target/release/a"), "{}", ended.out());
}

#[test]
fn a_missing_file_says_what_to_do() {
    let scratch = scratch();
    let ended = run_praas(scratch.path(), &["check", "/nonexistent/praas.toml"]);
    assert_eq!(ended.code(), 1);
    assert!(ended.out().contains("praas new"), "{ended:?}");
    let ended = run(praas(scratch.path()).arg("serve").current_dir(scratch.path()));
    assert_eq!(ended.code(), 1);
    assert!(ended.err().contains("praas new"), "{ended:?}");
}
