//! Which host a server runs on, so that a client can tell whether it is its own.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The host id of a welcome: the first 16 bytes of the BLAKE3 hash of the host's boot id (the text of
/// `/proc/sys/kernel/random/boot_id` without its line end), a zero byte, and the canonical path of the server's data
/// directory, in which its Unix socket lies.
#[must_use]
pub fn host_id(boot_id: &str, data_directory: &Path) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(boot_id.as_bytes());
    hasher.update(&[0]);
    hasher.update(data_directory.as_os_str().as_bytes());
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_and_directory_both_tell_hosts_apart() {
        let id = host_id("boot", Path::new("/data"));
        assert_eq!(id, host_id("boot", Path::new("/data")));
        assert_ne!(id, host_id("boot", Path::new("/other")));
        assert_ne!(id, host_id("later", Path::new("/data")));
        assert_ne!(host_id("a", Path::new("b")), host_id("", Path::new("ab")));
    }
}
