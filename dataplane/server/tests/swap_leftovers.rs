//! What servers leave in storage that are killed while they write or remove: with the next swap of a process everything that its
//! snapshot does not need is gone, and nothing at all is left of a process that was stopped.

mod common;

use std::sync::Arc;

use common::deadly::{self, await_end, end, open, start, start_again};
use common::mails::{ask, processes};
use common::sleeping::{put_to_sleep, sleeping, sleeps, told};
use common::stage::{Stage, process, status};
use common::{ROLE, eventually, is_keeper_socket, stage};
use praas_client::{Client, Process, ProcessState};
use praas_storage::backend::each_blob_page;
use praas_storage::faulty::{Fault, Faulty, Operation, Refusal, When};
use praas_storage::snapshot::Snapshot;
use praas_storage::{Backend, BlobName, Folder, MemoryBackend, Owner};

/// Instants that a test goes through at most: far more than a swap or a removal has.
const INSTANTS_MAX: u64 = 60;

/// Bytes of an object that each process keeps, and that a swap writes again when it was changed.
const LARGE_BYTES: usize = 300_000;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        Ok("killed server") if !is_keeper_socket(&std::io::stdin()) => deadly::play_server(sleeping()),
        _ => stage::play(),
    }
}

/// The only life of a process that storage has anything of.
fn folder_of(backend: &dyn Backend, name: &str) -> Option<Folder> {
    let folders = backend.folders(None).unwrap();
    let mut own = folders.into_iter().filter(|folder| folder.process == process(name));
    let first = own.next();
    assert!(own.next().is_none(), "{name} has two lives in storage");
    first
}

/// Blobs that storage has of a process, and those of them that its snapshot needs.
fn blobs(backend: &Arc<dyn Backend>, name: &str) -> (u64, u64) {
    let folder = folder_of(&**backend, name).expect("it is stored");
    let mut there = (0, 0);
    let count = &mut |page: &[praas_storage::BlobEntry]| {
        there.0 += page.len() as u64;
        there.1 += page.iter().map(|entry| entry.bytes).sum::<u64>();
        Ok(())
    };
    each_blob_page(&**backend, &folder, count).unwrap();
    let usage = Snapshot::open(backend, &folder).unwrap().expect("it has a manifest").usage();
    if there.0 == usage.blobs {
        assert_eq!(there.1, usage.stored_bytes, "{name}");
    }
    (there.0, usage.blobs)
}

fn scatter(process: &Process, seed: u64) {
    ask(process, "scatter", &format!("large {LARGE_BYTES} {seed}")).unwrap();
}

fn await_list(client: &Client) {
    eventually("the client is connected again", || client.list().is_ok());
}

#[test]
fn what_a_server_left_that_was_killed_in_a_swap_out_is_gone_after_the_next_swap_out() {
    let stage = Stage::empty();
    let Some(mut server) = start(&stage, 0) else { return stage.end() };
    let client = stage.client();
    let mut left_over = 0;
    for killed_at in 1..=INSTANTS_MAX {
        let name = format!("user-{killed_at}");
        let [user] = processes(&client, [name.as_str()]);
        scatter(&user, killed_at);
        // Every other one has been stored before.
        if killed_at % 2 == 0 {
            client.swap(process(&name)).unwrap();
            scatter(&user, killed_at + 1);
        }
        server.kill();
        server = start_again(&stage, &client, killed_at);
        let is_through = client.swap(process(&name)).is_ok();
        if is_through {
            server.kill();
        } else {
            await_end(server);
        }
        let storage: Arc<dyn Backend> = Arc::new(open(stage.path()));
        if !is_through && folder_of(&*storage, &name).is_some_and(|folder| storage.manifest(&folder).unwrap().is_some())
        {
            let (there, needed) = blobs(&storage, &name);
            left_over += u64::from(there > needed);
        }
        drop(storage);
        server = start_again(&stage, &client, 0);
        client.swap(process(&name)).unwrap();
        let storage: Arc<dyn Backend> = Arc::new(open(stage.path()));
        if !is_through {
            let (there, needed) = blobs(&storage, &name);
            assert_eq!(there, needed, "killed at {killed_at}");
        }
        assert_eq!(
            ask(&user, "scattered", "large").unwrap(),
            told(LARGE_BYTES, killed_at + u64::from(killed_at % 2 == 0))
        );
        client.stop(process(&name)).unwrap();
        assert_eq!(folder_of(&*storage, &name), None, "killed at {killed_at}");
        if is_through {
            println!("{left_over} of {} kills left something", killed_at - 1);
            assert!(left_over > 0 && killed_at > 6);
            drop((user, client, storage));
            end(server);
            return stage.end();
        }
    }
    panic!("a swap-out takes more than {INSTANTS_MAX} instants");
}

#[test]
fn a_server_killed_at_any_instant_of_a_removal_leaves_a_process_that_can_be_stopped_and_then_nothing() {
    let stage = Stage::empty();
    let Some(mut server) = start(&stage, 0) else { return stage.end() };
    let client = stage.client();
    for (is_awake, killed_at) in [false, true].into_iter().flat_map(|is_awake| (1..=12).map(move |at| (is_awake, at))) {
        let name = format!("user-{is_awake}-{killed_at}");
        let [user] = processes(&client, [name.as_str()]);
        scatter(&user, killed_at);
        client.swap(process(&name)).unwrap();
        if is_awake {
            client.restore(process(&name)).unwrap();
        }
        server.kill();
        server = start_again(&stage, &client, killed_at);
        if client.stop(process(&name)).is_ok() {
            server.kill();
        } else {
            await_end(server);
        }
        server = start_again(&stage, &client, 0);
        let storage = open(stage.path());
        if client.list().unwrap().iter().any(|status| status.process == process(&name)) {
            assert_eq!(ask(&user, "scattered", "large").unwrap(), told(LARGE_BYTES, killed_at));
            client.stop(process(&name)).unwrap();
        }
        // What has no manifest any more is removed by a thread.
        eventually("nothing is left of it", || folder_of(&storage, &name).is_none());
        drop(user);
    }
    drop(client);
    end(server);
    stage.end();
}

#[test]
fn what_a_failed_swap_out_left_is_gone_after_the_next_one_and_counted() {
    let stage_with = |storage: Arc<dyn Backend>| Stage::new(sleeping(), |options| options.storage = Some(storage));
    let memory = Arc::new(MemoryBackend::new());
    let faulty = Faulty::new(Arc::clone(&memory) as Arc<dyn Backend>);
    let stage = stage_with(Arc::new(faulty.clone()));
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    scatter(&alice, 1);
    client.swap(process("alice")).unwrap();
    scatter(&alice, 2);
    // It fails, and cannot take back what it has written.
    faulty.plan(When::Every(Operation::Flush), Fault::Refuse(Refusal::Failed));
    faulty.plan(When::Every(Operation::Remove), Fault::Refuse(Refusal::Failed));
    assert!(!put_to_sleep(&client, "alice"));
    faulty.heal();
    let storage: Arc<dyn Backend> = Arc::clone(&memory) as _;
    let (there, needed) = blobs(&storage, "alice");
    assert!(there > needed, "{there} {needed}");
    let strange = BlobName { folder: folder_of(&*storage, "alice").unwrap(), number: 7 };
    memory.put(&strange, &[1; 1000]).unwrap();
    let left_over = || {
        let [folder] = &client.storage_usage().unwrap().folders[..] else { panic!("one process is stored") };
        assert!(folder.bytes > folder.leftover_bytes, "{folder:?}");
        folder.leftover_bytes
    };
    assert!(left_over() > 1000 + LARGE_BYTES as u64);
    client.swap(process("alice")).unwrap();
    let (there, needed) = blobs(&storage, "alice");
    assert_eq!((there, left_over()), (needed, 0));
    let removed = stage.server().metrics().unwrap().leftover_bytes_removed;
    assert!(removed > 1000 + LARGE_BYTES as u64, "{removed}");
    assert_eq!(ask(&alice, "scattered", "large").unwrap(), told(LARGE_BYTES, 2));
    // A swap out that found nothing to remove looks for nothing the next time.
    client.swap(process("alice")).unwrap();
    assert_eq!(ask(&alice, "add", "").unwrap(), "1");
    let listed = faulty.calls_of(Operation::Blobs);
    client.swap(process("alice")).unwrap();
    assert_eq!(faulty.calls_of(Operation::Blobs), listed);
    drop((alice, client));
    stage.end();
}

#[test]
fn what_was_left_beside_a_sleeper_by_a_server_that_died_with_its_keeper_is_gone_when_it_sleeps_again() {
    let stage = Stage::empty();
    let memory = Arc::new(MemoryBackend::new());
    let storage: Arc<dyn Backend> = Arc::clone(&memory) as _;
    let serve = || {
        let mut options = stage::options(stage.path(), sleeping());
        options.storage = Some(Arc::clone(&storage));
        praas_server::Server::start(options).unwrap()
    };
    let server = serve();
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    scatter(&alice, 1);
    client.swap(process("alice")).unwrap();
    server.shutdown().unwrap();
    let folder = folder_of(&*storage, "alice").unwrap();
    memory.put(&BlobName { folder, number: 7 }, &[1; 1000]).unwrap();
    let server = serve();
    await_list(&client);
    // As long as it sleeps here it may be another server's.
    assert!(sleeps(&client, "alice"));
    assert_eq!(ask(&alice, "scattered", "large").unwrap(), told(LARGE_BYTES, 1));
    eventually("all of it is back", || status(&client, "alice").state == ProcessState::Active);
    let (there, needed) = blobs(&storage, "alice");
    assert_eq!(there, needed + 1);
    client.swap(process("alice")).unwrap();
    let (there, needed) = blobs(&storage, "alice");
    assert_eq!(there, needed);
    assert_eq!(server.metrics().unwrap().leftover_bytes_removed, 1000);
    assert_eq!(ask(&alice, "scattered", "large").unwrap(), told(LARGE_BYTES, 1));
    drop((alice, client));
    server.shutdown().unwrap();
    stage.end();
}

#[test]
fn nothing_is_removed_in_the_name_of_a_server_that_another_has_replaced() {
    let memory = Arc::new(MemoryBackend::new());
    let storage: Arc<dyn Backend> = Arc::clone(&memory) as _;
    let stage = Stage::new(sleeping(), |options| options.storage = Some(Arc::clone(&storage)));
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    scatter(&alice, 1);
    client.swap(process("alice")).unwrap();
    client.restore(process("alice")).unwrap();
    // Another server takes the process over, and is just writing.
    let folder = folder_of(&*storage, "alice").unwrap();
    let theirs = Snapshot::open(&storage, &folder).unwrap().unwrap();
    let theirs = theirs.claim(theirs.epoch() + 1, Owner::default()).unwrap();
    memory.put(&BlobName { folder, number: 7 }, &[1; 1000]).unwrap();
    scatter(&alice, 2);
    for _ in 0..3 {
        let refused = client.swap(process("alice")).unwrap_err().to_string();
        assert!(refused.contains("another") && refused.contains("owns"), "{refused}");
    }
    let mut there = [0; 1000];
    memory.read(&BlobName { folder, number: 7 }, 0, &mut there).unwrap();
    let (stored, needed) = blobs(&storage, "alice");
    assert_eq!((stored, there), (needed + 1, [1; 1000]), "what this server wrote is gone, nothing else");
    assert_eq!(Snapshot::open(&storage, &folder).unwrap().unwrap().epoch(), theirs.epoch());
    // Who stops it here ends what is in memory here.
    client.stop(process("alice")).unwrap();
    assert!(client.list().unwrap().is_empty());
    assert_eq!(blobs(&storage, "alice"), (needed + 1, needed));
    drop((alice, client));
    stage.end();
}
