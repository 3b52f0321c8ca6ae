//! Prints what became better or worse between two runs.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use super::results;
use crate::compare::{compare, table_of};

/// Compares the rows of two files.
pub(super) fn print(old: &Path, new: &Path, json: bool, all: bool) -> Result<(), Box<dyn Error>> {
    let (old, new) = (results::read(old)?, results::read(new)?);
    let comparison = compare(&old.rows, &new.rows);
    if let (Some(here), Some(there)) = (&old.machine, &new.machine) {
        let differences = here.differences(there);
        if !differences.is_empty() {
            eprintln!("the machines differ; trust what is compared with a floor: {}", differences.join("; "));
        }
    }
    let mut stdout = io::stdout().lock();
    if json {
        for change in &comparison.changes {
            serde_json::to_writer(&mut stdout, change)?;
            writeln!(stdout)?;
        }
    } else {
        writeln!(stdout, "{}", table_of(&comparison, all))?;
    }
    Ok(())
}
