//! `praas new` writes a crate that builds, is described well, and is the example under another name.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{praas, run, run_praas, scratch};

const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[test]
fn the_new_crate_compiles() {
    let scratch = scratch();
    run(praas(scratch.path()).args(["new", "my-shop"]).current_dir(scratch.path())).succeeded();
    let directory = scratch.path().join("my-shop");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    if Command::new(&cargo).arg("--version").output().is_err() {
        println!("skipped: there is no cargo to build the new crate with");
        return;
    }
    // The versions that this checkout was built with are those that can be had without a network.
    fs::copy(Path::new(CHECKOUT).join("Cargo.lock"), directory.join("Cargo.lock")).unwrap();
    let target = Path::new(CHECKOUT).join("target");
    let build = Command::new(cargo)
        .args(["check", "--offline", "--quiet", "--all-targets"])
        .env("CARGO_TARGET_DIR", target)
        .env_remove("RUSTFLAGS")
        .current_dir(&directory)
        .output()
        .unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
}

#[test]
fn the_new_manifest_is_well_described() {
    let scratch = scratch();
    let ended = run(praas(scratch.path()).args(["new", "shop"]).current_dir(scratch.path())).succeeded();
    assert!(ended.out().contains("cargo build --release"), "{}", ended.out());
    let report = run(praas(scratch.path()).args(["check", "--json", "shop"]).current_dir(scratch.path())).succeeded();
    assert_eq!(report.json()["application"], "shop");
    let warning = report.json()["warnings"][0].to_string();
    assert!(warning.contains("shop/target/release/shop"), "{warning}");
}

#[test]
fn the_new_crate_is_the_example_under_another_name() {
    let scratch = scratch();
    let directory = scratch.path().join("there");
    run(praas(scratch.path()).args(["new", "shop", "--path"]).arg(&directory)).succeeded();
    for (ours, example) in
        [("src/lib.rs", "src/lib.rs"), ("src/main.rs", "src/main.rs"), ("tests/shop.rs", "tests/hello.rs")]
    {
        let written = fs::read_to_string(directory.join(ours)).unwrap();
        let example = fs::read_to_string(Path::new(CHECKOUT).join("examples/hello").join(example)).unwrap();
        assert_eq!(written, example.replace("hello", "shop"), "{ours}");
    }
}

#[test]
fn nothing_is_written_over() {
    let scratch = scratch();
    fs::create_dir(scratch.path().join("shop")).unwrap();
    let ended = run(praas(scratch.path()).args(["--json", "new", "shop"]).current_dir(scratch.path()));
    assert_eq!((ended.code(), &ended.failure()["kind"]), (1, &"exists".into()));
    assert_eq!(fs::read_dir(scratch.path().join("shop")).unwrap().count(), 0);
}

#[test]
fn a_name_that_cargo_refuses_is_refused() {
    let scratch = scratch();
    let ended = run_praas(scratch.path(), &["--json", "new", "0day"]);
    assert_eq!((ended.code(), &ended.failure()["kind"]), (1, &"crate_name".into()));
}
