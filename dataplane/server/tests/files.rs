//! Files of processes: they outlive workers and servers, sleep and wake with their process, and end with it; whatever a worker does
//! with them, nothing of anybody else is read or written.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::filing::{FILES_BYTES_MAX, directories, filing};
use common::mails::{ask, processes};
use common::sleeping::{sleeping, sleeps, told};
use common::stage::{DIRECTORY, Played, Stage, options, process, status};
use common::{ROLE, eventually, is_keeper_socket, kill, stage};
use praas_client::{CallError, ProcessState, RequestError};
use praas_protocol::control::ControlError;
use praas_server::{Application, Server};
use praas_storage::snapshot::Snapshot;
use praas_storage::{Backend, BlobName, DiskBackend, MemoryBackend};

/// How long the keeper of a server role waits for the next one, in seconds.
const LINGER: &str = "TEST_LINGER";

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::filing::serve(),
        Ok("filing server") if !is_keeper_socket(&std::io::stdin()) => play_server(),
        _ => stage::play(),
    }
}

/// A server whose processes sleep on disk.
fn play_server() {
    let signals = praas_sys::SignalQueue::termination().unwrap();
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    let mut options = options(directory, filing());
    options.keeper_linger = Duration::from_secs(std::env::var(LINGER).unwrap().parse().unwrap());
    options.storage = Some(Arc::new(DiskBackend::open(&directory.join("swapped")).unwrap()));
    let server = Server::start(options).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap();
    std::process::exit(42);
}

/// A server inside this test whose processes sleep in memory that outlives it.
fn with_storage(application: Application) -> (Stage, Arc<MemoryBackend>) {
    let backend = Arc::new(MemoryBackend::new());
    let storage: Arc<dyn Backend> = Arc::clone(&backend) as _;
    (Stage::new(application, |options| options.storage = Some(storage)), backend)
}

/// Why a process did not fall asleep.
fn refusal(refused: Result<(), RequestError>) -> String {
    match refused {
        Err(RequestError::Refused(ControlError::SwapFailed { reason, .. })) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_outlive_workers_and_sleep_and_end_with_their_process() {
    let mut application = filing();
    (application.workers_min, application.workers_max) = (2, 2);
    let (stage, backend) = with_storage(application);
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "file-put", "text 5000 1").unwrap();
    ask(&alice, "file-put", "deep/er/long 20000000 2").unwrap();
    ask(&alice, "file-put", "none 0 3").unwrap();
    let expected = || {
        assert_eq!(ask(&alice, "file-told", "text").unwrap(), told(5000, 1));
        assert_eq!(ask(&alice, "file-told", "deep/er/long").unwrap(), told(20_000_000, 2));
        assert_eq!(ask(&alice, "file-told", "none").unwrap(), told(0, 3));
    };
    status(&client, "alice").worker_pids.iter().for_each(|pid| kill(*pid));
    eventually("other workers are there", || status(&client, "alice").worker_restarts >= 2);
    expected();
    client.restart(process("alice")).unwrap();
    expected();
    assert_eq!(ask(&bob, "file-list", "").unwrap(), "", "those of another process are not seen");
    // A program that a function starts.
    assert_eq!(ask(&alice, "file-shell", "").unwrap(), "5000");
    assert_eq!(ask(&alice, "file-told", "by-shell").unwrap().split(' ').next(), Some("4"));

    let mut written = Vec::new();
    for round in 0..3 {
        let before = stage.server().metrics().unwrap().swapped_out_bytes;
        client.swap(process("alice")).unwrap();
        assert!(sleeps(&client, "alice"));
        written.push(stage.server().metrics().unwrap().swapped_out_bytes - before);
        eventually("only those of bob are left", || directories(stage.path()).len() == 1);
        client.restore(process("alice")).unwrap();
        expected();
        ask(&alice, "file-put", &format!("round 1000 {round}")).unwrap();
    }
    assert!(written[0] > 20_000_000 && written[1..].iter().all(|bytes| *bytes < 100_000), "{written:?}");
    assert_eq!(ask(&alice, "file-list", "").unwrap(), "by-shell deep deep/er deep/er/long none round text");
    ask(&alice, "file-remove", "deep/er/long").unwrap();
    client.swap(process("alice")).unwrap();
    let storage: Arc<dyn Backend> = Arc::clone(&backend) as _;
    let stored = Snapshot::open(&storage, &backend.folders(None).unwrap()[0]).unwrap();
    let live_bytes = stored.unwrap().usage().live_bytes;
    assert!(live_bytes < 100_000, "what was removed is not needed any more: {live_bytes} bytes");

    for name in ["alice", "bob"] {
        client.stop(process(name)).unwrap();
    }
    assert_eq!((backend.used_bytes(), directories(stage.path())), (0, Vec::new()));
    let [again] = processes(&client, ["alice"]);
    assert_eq!(ask(&again, "file-list", "").unwrap(), "", "another life of the name knows nothing of it");
    client.stop(process("alice")).unwrap();
    assert!(directories(stage.path()).is_empty());
    drop((alice, bob, again, client));
    stage.end();
}

#[test]
fn a_process_with_more_files_than_it_may_have_stays_awake_and_says_so() {
    let (stage, _backend) = with_storage(filing());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    ask(&alice, "file-put", &format!("large {FILES_BYTES_MAX} 1")).unwrap();
    assert_eq!(ask(&alice, "file-room", "0").unwrap(), "room");
    let full = ask(&alice, "file-room", "1").unwrap();
    assert!(full.contains(&format!("has {FILES_BYTES_MAX} bytes, 1 more do not fit {FILES_BYTES_MAX}")), "{full}");
    ask(&alice, "file-put", "small 1 1").unwrap();
    let reason = refusal(client.swap(process("alice")));
    assert!(reason.contains(&format!("{} bytes in 2 files", FILES_BYTES_MAX + 1)), "{reason}");
    assert_eq!(status(&client, "alice").state, ProcessState::Active);
    let is_told = |expected: bool| {
        let says = |exit: Option<String>| exit.is_some_and(|words| words.contains("files_bytes_max is"));
        eventually("lists say whether it can sleep", || {
            ask(&alice, "add", "").unwrap();
            says(status(&client, "alice").last_exit) == expected
        });
    };
    is_told(true);
    assert_eq!(ask(&alice, "file-told", "small").unwrap(), told(1, 1), "it goes on");
    ask(&alice, "file-misuse", "pipe pipe").unwrap();
    ask(&alice, "file-remove", "small").unwrap();
    is_told(false);
    let reason = refusal(client.swap(process("alice")));
    assert!(reason.contains("`pipe` is a named pipe"), "{reason}");
    ask(&alice, "file-remove", "pipe").unwrap();
    client.swap(process("alice")).unwrap();
    assert_eq!(ask(&alice, "file-list", "").unwrap(), "large");
    drop((alice, client));
    stage.end();
}

#[test]
fn without_a_limit_there_is_no_directory_and_the_function_is_told_what_to_do() {
    let (stage, _backend) = with_storage(sleeping());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let told = ask(&alice, "file-room", "0").unwrap();
    assert!(told.contains("set `files_bytes_max` in the section [limits]"), "{told}");
    assert!(matches!(ask(&alice, "file-list", ""), Err(CallError::FunctionFailed { .. })));
    client.swap(process("alice")).unwrap();
    ask(&alice, "add", "").unwrap();
    assert!(directories(stage.path()).is_empty());
    drop((alice, client));
    stage.end();
}

#[test]
fn a_damaged_file_leaves_the_process_asleep_and_is_named() {
    let (stage, backend) = with_storage(filing());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    ask(&alice, "file-put", "only 300000 1").unwrap();
    client.swap(process("alice")).unwrap();
    let folder = backend.folders(None).unwrap()[0];
    let largest = backend.blobs(&folder, None).unwrap().into_iter().max_by_key(|entry| entry.bytes).unwrap();
    let blob: BlobName = largest.blob;
    let mut bytes = vec![0; usize::try_from(largest.bytes).unwrap()];
    backend.read(&blob, 0, &mut bytes).unwrap();
    let put = |bytes: &[u8]| {
        backend.remove(&[blob]).unwrap();
        backend.put(&blob, bytes).unwrap();
    };
    bytes[150_000] ^= 1;
    put(&bytes);
    for _ in 0..2 {
        let error = client.restore(process("alice")).unwrap_err().to_string();
        assert!(error.contains("the file `only`") && error.contains("damaged"), "{error}");
        assert!(sleeps(&client, "alice"));
        assert!(directories(stage.path()).is_empty(), "half of its files is nowhere");
        // Whoever asks again within a fifth of a second is only told so.
        std::thread::sleep(Duration::from_millis(250));
    }
    bytes[150_000] ^= 1;
    put(&bytes);
    assert_eq!(ask(&alice, "file-told", "only").unwrap(), told(300_000, 1));
    drop((alice, client));
    stage.end();
}

#[test]
fn a_hostile_worker_reads_and_writes_nothing_of_anybody_else() {
    let (stage, backend) = with_storage(filing());
    let foreign = tempfile::tempdir().unwrap();
    let secret = foreign.path().join("secret");
    let words = b"what nobody but its owner has ever seen: 0123456789";
    std::fs::write(&secret, words).unwrap();
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&bob, "file-put", "private 1000 1").unwrap();
    let misuse = |what: &str| ask(&alice, "file-misuse", what).unwrap();
    assert_eq!(misuse(&format!("symbolic out {}", foreign.path().display())), "done");
    assert_eq!(misuse(&format!("symbolic file {}", secret.display())), "done");
    assert_eq!(misuse("symbolic up ../.."), "done");
    let bobs = directories(stage.path()).into_iter().find(|name| name.contains("+bob+")).unwrap();
    let attempts = [
        format!("hard linked {}", secret.display()),
        "read file".into(),
        "write out/planted x".into(),
        "write ../planted x".into(),
        format!("read ../{bobs}/private"),
        "write up/planted x".into(),
    ];
    for attempt in attempts {
        let outcome = misuse(&attempt);
        println!("{attempt}: {outcome}");
        let is_confined = rustix::process::geteuid().is_root();
        assert!(!is_confined || outcome != "done", "{attempt}");
    }
    if misuse("write out/planted x") == "done" {
        println!("skipped: this host does not confine workers");
        drop((alice, bob, client));
        return stage.end();
    }
    let list = ask(&alice, "file-list", "").unwrap();
    for _ in 0..2 {
        client.swap(process("alice")).unwrap();
        for folder in backend.folders(None).unwrap() {
            for entry in backend.blobs(&folder, None).unwrap() {
                let mut bytes = vec![0; usize::try_from(entry.bytes).unwrap()];
                backend.read(&entry.blob, 0, &mut bytes).unwrap();
                assert!(!bytes.windows(words.len()).any(|window| window == words), "a foreign file was stored");
            }
        }
        assert_eq!(ask(&alice, "file-list", "").unwrap(), list, "links are links again");
    }
    assert_eq!(std::fs::read(&secret).unwrap(), words);
    assert_eq!(std::fs::read_dir(foreign.path()).unwrap().count(), 1);
    client.stop(process("alice")).unwrap();
    assert_eq!(std::fs::read(&secret).unwrap(), words, "links are removed, not what they lead to");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn files_outlive_a_server_that_is_killed_awake_and_asleep() {
    let stage = Stage::empty();
    let start = |linger: &str| Played::start("filing server", stage.path(), &[(LINGER, Path::new(linger))]);
    let Some(mut server) = start("60") else { return stage.end() };
    let client = stage.client();
    let [alice, bob, carol] = processes(&client, ["alice", "bob", "carol"]);
    for (process, seed) in [(&alice, 1), (&bob, 2), (&carol, 3)] {
        ask(process, "file-put", &format!("sub/text 100000 {seed}")).unwrap();
    }
    client.swap(process("alice")).unwrap();
    client.swap(process("carol")).unwrap();
    ask(&carol, "file-put", "since 10 4").unwrap();
    for linger in ["60", "0"] {
        server.kill();
        server = start(linger).unwrap();
        eventually("the client is connected again", || client.list().is_ok());
        assert_eq!(status(&client, "alice").state, ProcessState::Swapped);
        assert_eq!(directories(stage.path()).len(), 2, "those of bob and carol");
        assert_eq!(ask(&bob, "file-told", "sub/text").unwrap(), told(100_000, 2));
        assert_eq!(ask(&carol, "file-told", "since").unwrap(), told(10, 4));
    }
    // Its keeper waits for nobody: what was awake is gone, or is what it was when it slept last.
    server.kill();
    server = start("60").unwrap();
    eventually("the client is connected again", || client.list().is_ok());
    assert!(directories(stage.path()).is_empty(), "directories of nobody are swept");
    assert_eq!(ask(&alice, "file-told", "sub/text").unwrap(), told(100_000, 1));
    assert_eq!(ask(&carol, "file-told", "sub/text").unwrap(), told(100_000, 3));
    assert_eq!(ask(&carol, "file-list", "").unwrap(), "sub sub/text", "files are taken when a process goes to sleep");
    assert!(matches!(ask(&bob, "file-list", ""), Err(CallError::UnknownProcess { .. })));
    drop((alice, bob, carol, client));
    server.terminate();
    assert_eq!(server.end(), Some(42));
    assert!(directories(stage.path()).is_empty());
    stage.end();
}
