//! The disk backend does what every backend does.

mod conformance;

use std::sync::Arc;

use praas_storage::DiskBackend;

#[test]
fn the_disk_does_what_every_backend_does() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    conformance::check("disk", &|room| Arc::new(DiskBackend::open(&directory.path().join(room)).unwrap()), &[]);
}
