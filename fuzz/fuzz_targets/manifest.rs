//! `praas.toml`: any text gives an application within its limits, or at least one problem that points into the text.
//!
//! Input: the text.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use praas_server::{Application, parse_bytes};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = parse_bytes(text);
    match Application::parse(text, Path::new("/app")) {
        Ok(application) => {
            assert!(application.binary.is_absolute());
            assert!((1..=application.workers_max).contains(&application.workers_min));
            application.checked().expect("what was parsed lies within its limits");
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal without a reason");
            let lines = text.bytes().filter(|&byte| byte == b'\n').count() + 1;
            for problem in problems {
                assert!(problem.line <= lines, "{problem} is behind the last of {lines} lines");
            }
        }
    }
});
