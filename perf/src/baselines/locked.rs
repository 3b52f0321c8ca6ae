//! Versions of the systems that are crates: as Cargo.lock has them, which this program was built from.

/// The lock file of the workspace.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// The version of a crate that this program was built with; "unknown" of one that it was not.
#[must_use]
pub fn version_of(name: &str) -> &'static str {
    version_in(LOCK, name).unwrap_or("unknown")
}

fn version_in<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let quoted = |line: &'a str, key: &str| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"');
    let mut lines = lock.lines();
    lines.find(|line| quoted(line, "name") == Some(name))?;
    quoted(lines.next()?, "version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let lock =
            "[[package]]\nname = \"first\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"fir\"\nversion = \"4.5.6\"\n";
        assert_eq!(version_in(lock, "first"), Some("1.2.3"));
        assert_eq!(version_in(lock, "fir"), Some("4.5.6"));
        assert_eq!(version_in(lock, "second"), None);
        assert_eq!(version_of("praas-perf"), env!("CARGO_PKG_VERSION"));
    }
}
