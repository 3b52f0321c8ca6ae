//! Logged processes over logs on a disk: what somebody was told of is in the files, at any moment.

mod common;

use std::path::Path;

use common::ROLE;
use common::journal::{self, logged};
use common::stage::{self, Stage, process};
use praas_server::DiskLog;
use praas_shm::log_ring::Contents;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") => journal::serve(),
        _ => stage::play(),
    }
}

/// What the files of a process's log make. Only files are read: that is what anybody finds if everything dies now.
fn logged_value(directory: &Path, key: &str) -> Option<String> {
    let log = DiskLog::open(directory).unwrap();
    let folders = log.folders().unwrap();
    assert_eq!(folders.len(), 1);
    let contents = log.replay(&folders[0], Contents::default(), 0).unwrap().expect("there is a log");
    contents.objects.get(&(0, key.to_owned())).map(|object| String::from_utf8(object.value.clone()).unwrap())
}

#[test]
fn whatever_was_answered_is_made_again_of_what_the_disk_has() {
    const CLIENTS: usize = 4;
    const PUTS: usize = 25;
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let directory = scratch.path().join("logs");
    let stage = Stage::new(logged(), |options| options.disk_log = Some(DiskLog::open(&directory).unwrap()));
    stage.client().create(process("alice")).unwrap();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (stage, directory) = (&stage, &directory);
            scope.spawn(move || {
                let alice = stage.client().process(process("alice")).unwrap();
                for number in 0..PUTS {
                    alice.invoke("put", format!("k{client} {number}").as_bytes()).unwrap();
                    if number % 8 == 0 {
                        assert_eq!(logged_value(directory, &format!("k{client}")), Some(number.to_string()));
                    }
                }
            });
        }
    });
    stage.end();
    for client in 0..CLIENTS {
        assert_eq!(logged_value(&directory, &format!("k{client}")), Some((PUTS - 1).to_string()));
    }
}

#[test]
fn when_it_is_told_that_a_process_could_not_be_created_no_log_makes_one() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let directory = scratch.path().join("logs");
    let mut application = logged();
    application.binary = "/bin/false".into();
    let stage = Stage::new(application, |options| options.disk_log = Some(DiskLog::open(&directory).unwrap()));
    let (client, log) = (stage.client(), DiskLog::open(&directory).unwrap());
    for name in ["alice", "bob", "alice", "carol", "alice"] {
        let failed = client.create(process(name)).unwrap_err().to_string();
        assert!(failed.contains("worker"), "{failed}");
        for folder in log.folders().unwrap() {
            let life = log.life(&folder).unwrap();
            assert!(life.is_none_or(|life| life.is_ended), "{folder} would come back");
        }
    }
    drop(client);
    stage.end();
}
