//! Where the programs of other systems are: in the private folder that `perf/setup` fills, or else on the search path.
//!
//! Nothing is ever installed from here: a program that is missing is a [`BaselineError::NotInstalled`], whose words say
//! how to get it, and its rows are shown as absent with these words.

use std::env;
use std::path::{Path, PathBuf};

use super::BaselineError;

/// Names another folder than `perf/servers`.
pub const DIRECTORY_VARIABLE: &str = "PRAAS_PERF_SERVERS";
/// Where in the folder programs lie that need nothing but themselves.
const PROGRAMS: &str = "bin";

/// The private folder: `$PRAAS_PERF_SERVERS`, or `perf/servers` of the source tree that this program was built from.
#[must_use]
pub fn servers_directory() -> PathBuf {
    match env::var_os(DIRECTORY_VARIABLE) {
        Some(directory) if !directory.is_empty() => directory.into(),
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).join("servers"),
    }
}

/// A program of this name: of the private folder, else of the search path. `part` is what `perf/setup` calls it.
///
/// # Errors
/// [`BaselineError::NotInstalled`].
pub fn program(program: &'static str, part: &'static str) -> Result<PathBuf, BaselineError> {
    let search = env::var_os("PATH").unwrap_or_default();
    let directories = [servers_directory().join(PROGRAMS)].into_iter().chain(env::split_paths(&search));
    first_with(directories, program).ok_or(BaselineError::NotInstalled { program, part })
}

/// A file below the private folder, such as a program of a package that brings more than itself.
///
/// # Errors
/// [`BaselineError::NotInstalled`].
pub fn file(relative: &Path, program: &'static str, part: &'static str) -> Result<PathBuf, BaselineError> {
    let path = servers_directory().join(relative);
    if path.is_file() { Ok(path) } else { Err(BaselineError::NotInstalled { program, part }) }
}

fn first_with(directories: impl Iterator<Item = PathBuf>, program: &str) -> Option<PathBuf> {
    directories.map(|directory| directory.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_private_folder_comes_before_the_search_path() {
        let directory = tempfile::tempdir().expect("a directory");
        let [private, search] = ["private", "search"].map(|name| directory.path().join(name));
        for path in [&private, &search] {
            fs::create_dir(path).expect("a directory");
        }
        let directories = || [private.clone(), search.clone()].into_iter();
        assert_eq!(first_with(directories(), "served"), None);
        fs::write(search.join("served"), "").expect("a file");
        assert_eq!(first_with(directories(), "served"), Some(search.join("served")));
        fs::write(private.join("served"), "").expect("a file");
        assert_eq!(first_with(directories(), "served"), Some(private.join("served")));
    }

    #[test]
    fn what_is_missing_says_how_to_get_it() {
        let error = program("no-such-program-of-praas", "none").expect_err("it is not there");
        assert!(error.to_string().contains("perf/setup none"), "{error}");
    }
}
