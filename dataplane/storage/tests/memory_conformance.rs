//! The backend in memory does what every backend must.

mod conformance;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use praas_storage::MemoryBackend;

#[test]
fn memory_does_what_every_backend_must() {
    let rooms: Mutex<HashMap<String, MemoryBackend>> = Mutex::default();
    let open = |room: &str| -> Arc<dyn praas_storage::Backend> {
        Arc::new(rooms.lock().unwrap().entry(room.to_owned()).or_default().clone())
    };
    conformance::check("memory", &open, &[]);
}
