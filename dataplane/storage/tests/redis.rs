//! The backend in Redis, on a real server.
#![cfg(feature = "redis")]

mod conformance;
mod redises;
mod servers;

use std::net::TcpListener;
use std::sync::Arc;

use praas_storage::redis::{Lasting, RedisBackend};
use praas_storage::{Backend, BlobName, Folder, StorageError};
use redises::{PASSWORD, redis};

fn blob(number: u128) -> BlobName {
    BlobName { folder: Folder { process: "notes/alice".parse().unwrap(), incarnation: 1 }, number }
}

#[test]
fn redis_does_what_every_backend_must() {
    let Some((_server, address)) = redis(&["--appendonly", "no"]) else { return };
    let open = |room: &str| -> Arc<dyn Backend> {
        Arc::new(RedisBackend::open(&format!("{address}?prefix=rooms:{room}")).expect("it opens"))
    };
    conformance::check("redis", &open, &[PASSWORD]);
}

#[test]
fn it_says_how_long_things_last_by_how_the_server_is_set() {
    let sets = [
        (&["--appendonly", "no"][..], Lasting::ServerOnly),
        (&["--appendonly", "yes", "--appendfsync", "always"], Lasting::Always),
        (&["--appendonly", "yes", "--appendfsync", "everysec"], Lasting::LastSecond),
    ];
    for (settings, expected) in sets {
        let Some((_server, address)) = redis(settings) else { return };
        let backend = RedisBackend::open(&address).expect("it opens");
        // From 7.2 on it can be waited for.
        let lasting = backend.lasting();
        assert!(
            lasting == expected || (lasting == Lasting::Always && settings[1] == "yes"),
            "{settings:?}: {lasting:?}"
        );
        backend.put(&blob(1), b"bytes").expect("it is written");
        backend.flush(&blob(1).folder).expect("as far as it can be");
        backend.publish(&blob(1).folder, None, b"manifest").expect("it is published");
    }
}

#[test]
fn a_server_that_is_full_says_so_and_one_that_drops_keys_is_refused() {
    let limits = ["--maxmemory", "20mb", "--maxmemory-policy"];
    let Some((_server, address)) = redis(&[limits[0], limits[1], limits[2], "noeviction"]) else { return };
    let backend = RedisBackend::open(&address).expect("it opens");
    let bytes = vec![7; 6 << 20];
    let refused = (0..10).find_map(|number| backend.put(&blob(number), &bytes).err()).expect("it becomes full");
    assert!(matches!(refused, StorageError::Full { .. }), "{refused}");
    for entry in backend.blobs(&blob(0).folder, None).expect("it answers") {
        assert_eq!(entry.bytes, bytes.len() as u64, "what is listed is whole");
    }
    backend.remove_folder(&blob(0).folder).expect("removing needs no room");
    backend.put(&blob(20), &bytes).expect("there is room again");
    let Some((_server, address)) = redis(&[limits[0], limits[1], limits[2], "noeviction"]) else { return };
    let client = redis::Client::open(address.as_str()).expect("an address");
    let mut connection = client.get_connection().expect("it listens");
    let set = ["SET", "maxmemory-policy", "allkeys-lru"];
    redis::cmd("CONFIG").arg(&set).exec(&mut connection).expect("it is set");
    let error = RedisBackend::open(&address).map(drop).expect_err("it is refused");
    assert!(matches!(error, StorageError::Unusable { .. }) && error.to_string().contains("noeviction"), "{error}");
}

#[test]
fn wrong_passwords_silence_and_absence_are_told() {
    let Some((server, address)) = redis(&[]) else { return };
    for wrong in [address.replace(PASSWORD, "wrong"), address.replace(&format!(":{PASSWORD}@"), "")] {
        let error = RedisBackend::open(&wrong).map(drop).expect_err("it is refused");
        assert!(matches!(error, StorageError::Denied { .. }), "{error}");
    }
    let backend = RedisBackend::open_with_limit_ms(&address, 1000).expect("it opens");
    backend.put(&blob(1), b"bytes").expect("it is written");
    drop(server);
    let error = backend.put(&blob(2), b"bytes").expect_err("nobody is there");
    assert!(matches!(error, StorageError::Unusable { .. }), "{error}");
    assert!(!error.to_string().contains(PASSWORD), "{error}");
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("it is bound").port();
    let error = RedisBackend::open_with_limit_ms(&format!("redis://127.0.0.1:{port}"), 300).map(drop);
    let error = error.expect_err("it says nothing");
    assert!(matches!(error, StorageError::Late { limit_ms: 300, .. }), "{error}");
}
