//! Ten thousand processes that sleep: they are listed, told of, woken at random, and found again by the next server.

mod common;

use std::sync::Arc;
use std::time::Instant;

use common::mails::{ask, processes};
use common::random::Random;
use common::sleeping::sleeping;
use common::stage::{self, Stage, options, process};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket};
use praas_client::{ProcessState, Transition};
use praas_server::Server;
use praas_storage::backend::each_blob_page;
use praas_storage::snapshot::{Manifest, SectionPlace};
use praas_storage::{Backend, BlobName, Folder, MemoryBackend};

/// Processes of the test.
const SLEEPERS: usize = 10_000;

/// Of these, that are woken.
const WOKEN: usize = 12;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        _ => stage::play(),
    }
}

/// All names are as long as each other.
fn name(number: usize) -> String {
    format!("user-{number:05}")
}

/// Stores others that know what the only one that sleeps knows, each under a name of its own.
fn multiply(storage: &MemoryBackend) {
    let [first] = storage.folders(None).unwrap()[..] else { panic!("one process sleeps") };
    let manifest = Manifest::parse(&storage.manifest(&first).unwrap().unwrap().bytes).unwrap();
    let mut blobs = Vec::new();
    each_blob_page(storage, &first, &mut |page| {
        for entry in page {
            let mut bytes = vec![0; usize::try_from(entry.bytes).unwrap()];
            storage.read(&entry.blob, 0, &mut bytes)?;
            blobs.push((entry.blob.number, bytes));
        }
        Ok(())
    })
    .unwrap();
    let old = name(0).into_bytes();
    for number in 1..SLEEPERS {
        let (folder, new) = (Folder { process: process(&name(number)), ..first }, name(number).into_bytes());
        let mut manifest = Manifest { folder, ..manifest.clone() };
        for (kind, place) in &mut manifest.sections {
            let SectionPlace::Inline(bytes) = place else { panic!("{kind:?} is small") };
            // The ledger says whose it is.
            for at in 0..bytes.len().saturating_sub(old.len() - 1) {
                if bytes[at..].starts_with(&old) {
                    bytes[at..at + new.len()].copy_from_slice(&new);
                }
            }
        }
        blobs.iter().for_each(|(number, bytes)| storage.put(&BlobName { folder, number: *number }, bytes).unwrap());
        storage.publish(&folder, None, &manifest.encode()).unwrap();
    }
}

#[test]
fn ten_thousand_that_sleep_are_listed_watched_woken_at_random_and_found_by_the_next_server() {
    let mut random = Random::printed("sleepers");
    let stage = Stage::empty();
    let memory = Arc::new(MemoryBackend::new());
    let start = || {
        let mut options = options(stage.path(), sleeping());
        options.storage = Some(Arc::clone(&memory) as Arc<dyn Backend>);
        let begun = Instant::now();
        let server = Server::start(options).unwrap();
        println!(
            "a server with {} in storage starts within {:?}",
            memory.folders(None).unwrap().len(),
            begun.elapsed()
        );
        server
    };
    let first = start();
    let client = stage.client();
    let [zero] = processes(&client, [name(0).as_str()]);
    assert_eq!(ask(&zero, "add", "").unwrap(), "1");
    first.shutdown().unwrap();
    multiply(&memory);
    let mut server = start();
    eventually("the client is connected again", || client.list_page(None).is_ok());
    let all_sleep = || {
        let listed = client.list().unwrap();
        assert!(listed.iter().all(|status| status.state == ProcessState::Swapped && status.stored_bytes > 0));
        let expected: Vec<_> = (0..SLEEPERS).map(|number| process(&name(number))).collect();
        assert!(listed.iter().map(|status| status.process).eq(expected), "{} are listed", listed.len());
    };
    all_sleep();
    let woken: Vec<_> = (0..WOKEN).map(|_| name(usize::try_from(random.below(SLEEPERS as u64)).unwrap())).collect();
    for (index, name) in woken.iter().enumerate() {
        let mut watcher = client.watch(Some(process(name))).unwrap();
        if index % 2 == 0 {
            client.restore(process(name)).unwrap();
        }
        let one = client.process(process(name)).unwrap();
        let before: u64 = ask(&one, "sum", "").unwrap().parse().unwrap();
        assert_eq!(ask(&one, "add", "").unwrap(), (before + 1).to_string());
        let mut seen: Vec<Transition> = Vec::new();
        while !seen.last().is_some_and(|transition| transition.to == Some(ProcessState::Active)) {
            let news = watcher.next(PATIENCE).unwrap();
            seen.extend(news.unwrap_or_else(|| panic!("nothing more came after {seen:?}")).transitions);
        }
        assert!(seen.iter().all(|transition| transition.process == process(name)), "{seen:?}");
        assert!(seen.iter().any(|transition| transition.to == Some(ProcessState::Restoring)), "{seen:?}");
        if index % 3 == 0 {
            client.swap(process(name)).unwrap();
        }
    }
    server.shutdown().unwrap();
    server = start();
    eventually("the client is connected again", || client.list_page(None).is_ok());
    all_sleep();
    for name in &woken {
        let times = woken.iter().filter(|other| *other == name).count();
        let one = client.process(process(name)).unwrap();
        assert_eq!(ask(&one, "sum", "").unwrap(), (1 + times).to_string(), "{name}");
    }
    drop((zero, client));
    server.shutdown().unwrap();
    stage.end();
}
