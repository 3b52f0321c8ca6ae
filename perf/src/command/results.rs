//! A run's files: rows and machine, in one directory.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use crate::harness::machine::{self, Description};
use crate::row::Rows;

/// The rows.
pub(super) const FILE: &str = "results.jsonl";

/// What a run left.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) directory: PathBuf,
    pub(super) rows: Rows,
    pub(super) machine: Option<Description>,
}

/// Reads rows, given their file or its directory. Without a description of the machine it says so and goes on.
pub(super) fn read(path: &Path) -> Result<Found, Box<dyn Error>> {
    let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
    let rows = Rows::read(&file).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => error.to_string(),
        _ => format!("cannot read {}: {error}; `praas-perf all` makes rows", file.display()),
    })?;
    let directory = file.parent().map(Path::to_owned).unwrap_or_default();
    let machine = Description::read(&directory);
    if let Err(error) = &machine {
        eprintln!("the machine of {} is not known: {}: {error}", file.display(), machine::FILE);
    }
    Ok(Found { directory, rows, machine: machine.ok() })
}

/// Writes rows beside and then over what was there, so that a run that is broken off leaves whole rows.
pub(super) fn write(rows: &Rows, directory: &Path) -> io::Result<()> {
    let path = directory.join(FILE);
    let fresh = path.with_extension("jsonl.new");
    rows.write(BufWriter::new(File::create(&fresh)?))?;
    fs::rename(&fresh, &path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::samples_of_rows::row;

    #[test]
    fn rows_are_read_by_file_and_by_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let rows = Rows::new(vec![row("a", &[1.0, 2.0]), row("b", &[])]);
        write(&rows, directory.path()).expect("it is written");
        for path in [directory.path().to_owned(), directory.path().join(FILE)] {
            let found = read(&path).expect("it is read");
            assert_eq!((found.rows.all(), found.directory.as_path()), (rows.all(), directory.path()));
            assert!(found.machine.is_none());
        }
    }

    #[test]
    fn what_is_no_row_is_named_by_its_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(FILE);
        fs::write(&path, "{}\n").expect("it is written");
        assert!(read(&path).expect_err("it is no row").to_string().contains("results.jsonl, line 1: missing field"));
        let gone = read(&directory.path().join("gone")).expect_err("it is not there").to_string();
        assert!(gone.contains("cannot read") && gone.contains("praas-perf all"), "{gone}");
    }
}
