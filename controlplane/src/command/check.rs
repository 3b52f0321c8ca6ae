//! `praas check`: everything that is wrong in a `praas.toml`, field by field.

use std::path::{Path, PathBuf};

use clap::Args;
use praas_server::{Application, ManifestError, Problem};
use serde_json::{Value, json};

use crate::command::{Context, manifest_path};
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  praas check                          ./praas.toml
  praas check hello/praas.toml other   a file, and other/praas.toml
  praas check --json | jq .problems

Exit code 1 when a file is wrong or cannot be read. That the program has not been built yet is a warning.";

/// Arguments of `praas check`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArguments {
    /// praas.toml files, or directories that hold one
    #[arg(value_name = "PATH", default_value = ".")]
    pub paths: Vec<PathBuf>,
}

/// Reads manifests and names what is wrong.
///
/// # Errors
/// [`Failure::CheckFailed`] when a file is wrong.
pub fn check(context: &Context, arguments: &CheckArguments) -> Result<(), Failure> {
    let output = context.output();
    let mut wrong = 0;
    for path in &arguments.paths {
        let path = manifest_path(path);
        let found = Application::load(&path);
        wrong += usize::from(found.is_err());
        output.value(&as_json(&path, &found))?;
        output.line(as_text(&path, &found))?;
    }
    if wrong == 0 { Ok(()) } else { Err(Failure::CheckFailed { wrong, files: arguments.paths.len() }) }
}

fn as_text(path: &Path, found: &Result<Application, ManifestError>) -> String {
    match found {
        Ok(application) => {
            let mut text = format!("{}: application {} is well described", path.display(), application.name);
            if let Some(functions) = &application.functions {
                let names: Vec<String> = functions.iter().map(ToString::to_string).collect();
                text = format!("{text}; its functions: {}", names.join(", "));
            }
            match warning(application) {
                Some(warning) => format!("{text}\n  warning: {warning}"),
                None => text,
            }
        }
        Err(error) => error.to_string(),
    }
}

fn as_json(path: &Path, found: &Result<Application, ManifestError>) -> Value {
    let path = path.display().to_string();
    match found {
        Ok(application) => json!({
            "path": path,
            "ok": true,
            "application": application.name,
            "functions": application.functions,
            "warnings": Vec::from_iter(warning(application)),
            "problems": [],
        }),
        Err(ManifestError::Wrong { problems, .. }) => {
            json!({ "path": path, "ok": false, "problems": problems.iter().map(problem_as_json).collect::<Vec<_>>() })
        }
        Err(error) => {
            let problem = json!({ "line": 0, "field": "", "problem": error.to_string() });
            json!({ "path": path, "ok": false, "problems": [problem] })
        }
    }
}

pub(crate) fn problem_as_json(problem: &Problem) -> Value {
    json!({ "line": problem.line, "field": problem.field, "problem": problem.problem })
}

/// What is right in the file and will yet keep the application from running.
pub(crate) fn warning(application: &Application) -> Option<String> {
    let binary = &application.binary;
    if binary.is_file() {
        return None;
    }
    Some(format!("application.binary: there is no file {}; build it before a process is created", binary.display()))
}
