//! Processes that sleep in a bucket or in Redis, on real servers, and what goes wrong there or on the way: whoever asks is told what and
//! what to do, and the process is what it was.

#[path = "../../storage/tests/buckets/mod.rs"]
mod buckets;
mod common;
#[path = "../../storage/tests/proxy/mod.rs"]
mod proxy;
#[path = "../../storage/tests/redises/mod.rs"]
mod redises;
#[path = "../../storage/tests/servers/mod.rs"]
mod servers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buckets::{seaweedfs, settings};
use common::mails::{ask, processes};
use common::sleeping::{sleeping, told};
use common::stage::{self, Stage, options, process, status};
use common::{ROLE, eventually, is_keeper_socket};
use praas_client::{ProcessState, RequestError};
use praas_protocol::Durability;
use praas_protocol::control::ControlError;
use praas_server::{Server, ServerHandle, StartError};
use praas_storage::faulty::{Fault, Faulty, Refusal, When};
use praas_storage::redis::RedisBackend;
use praas_storage::s3::{S3Backend, S3Settings};
use praas_storage::{Backend, DiskBackend, MemoryBackend};
use proxy::{Proxy, Trouble};
use redises::redis;

/// Bytes of the object that the process keeps: more than is read before it runs.
const LARGE_BYTES: usize = 5_000_000;

/// Time after which a bucket that says nothing is late here.
const SHORT_LIMIT_MS: u64 = 5000;

/// The same of a Redis: a question may meet it twice, and clients wait 10 s.
const REDIS_LIMIT_MS: u64 = 2000;

/// Milliseconds between two checkpoints.
const CHECKPOINT_MS: u64 = 200;

/// Operations of a removal that a test goes through at most: far more than it has.
const OPERATIONS_MAX: u64 = 40;

/// One test at a time, from before its services start: their connections are descriptors of this program, and each test counts these.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        _ => stage::play(),
    }
}

fn start(stage: &Stage, storage: &Arc<dyn Backend>) -> Result<ServerHandle, StartError> {
    let mut application = sleeping();
    application.limits.state_bytes_max = 64 << 20;
    application.durability = Durability::Checkpoint;
    application.checkpoint_interval_ms = CHECKPOINT_MS;
    let mut options = options(stage.path(), application);
    options.storage = Some(Arc::clone(storage));
    Server::start(options)
}

/// Something that goes wrong, and what is said then.
struct Wrong<'w> {
    trouble: Trouble,
    /// All of these words.
    said: &'w [&'w str],
}

fn check_words(wrong: &Wrong<'_>, said: &str) {
    println!("{said}");
    for words in wrong.said {
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// What a refusal of a swap says.
fn reason(refused: RequestError) -> String {
    match refused {
        RequestError::Refused(ControlError::SwapFailed { reason, .. }) => reason,
        other => panic!("{other}"),
    }
}

/// Everything that asks something of storage, while that goes wrong, and afterwards.
fn goes_wrong_and_right_again(storage: Arc<dyn Backend>, proxy: Proxy, all: &[Wrong<'_>]) {
    let stage = Stage::empty();
    let mut server = start(&stage, &storage).unwrap();
    let client = stage.client();
    for (number, wrong) in all.iter().enumerate() {
        let name = format!("user-{number}");
        let fail = || proxy.set(wrong.trouble);
        let heal = || proxy.set(Trouble::default());
        let [user] = processes(&client, [name.as_str()]);
        fail();
        ask(&user, "scatter", &format!("large {LARGE_BYTES} 1")).unwrap();
        eventually("it is told that no checkpoint was taken", || {
            let status = status(&client, &name);
            assert_eq!(status.state, ProcessState::Active);
            status.last_exit.is_some_and(|failure| wrong.said.iter().all(|words| failure.contains(words)))
        });
        check_words(wrong, &reason(client.swap(process(&name)).unwrap_err()));
        assert_eq!(ask(&user, "add", "").unwrap(), "1", "it goes on");
        check_words(wrong, &client.storage_usage().unwrap_err().to_string());
        heal();
        client.swap(process(&name)).unwrap();
        fail();
        for _ in 0..2 {
            check_words(wrong, &reason(client.restore(process(&name)).unwrap_err()));
            assert_eq!(status(&client, &name).state, ProcessState::Swapped);
        }
        check_words(wrong, &reason(client.stop(process(&name)).unwrap_err()));
        server.shutdown().unwrap();
        check_words(wrong, &start(&stage, &storage).map(drop).unwrap_err().to_string());
        heal();
        server = start(&stage, &storage).unwrap();
        eventually("the client is connected again", || client.list().is_ok());
        assert_eq!(status(&client, &name).state, ProcessState::Swapped);
        assert_eq!(ask(&user, "add", "").unwrap(), "2");
        assert_eq!(ask(&user, "scattered", "large").unwrap(), told(LARGE_BYTES, 1));
        client.stop(process(&name)).unwrap();
        assert_eq!(storage.folders(None).unwrap(), []);
    }
    drop(client);
    server.shutdown().unwrap();
    // With their connections.
    drop((storage, proxy));
    stage.end();
}

/// A process is stopped, and storage fails for good at each operation of that in turn: the next server finishes what was begun, or has
/// the process as it was.
fn leaves_nothing(inner: Arc<dyn Backend>) {
    let stage = Stage::empty();
    for failing_from in 0..OPERATIONS_MAX {
        let faulty = Faulty::new(Arc::clone(&inner));
        let storage: Arc<dyn Backend> = Arc::new(faulty.clone());
        let server = start(&stage, &storage).unwrap();
        let client = stage.client();
        let [alice] = processes(&client, ["alice"]);
        for seed in 1..=2 {
            ask(&alice, "scatter", &format!("large {LARGE_BYTES} {seed}")).unwrap();
            client.swap(process("alice")).unwrap();
        }
        faulty.plan(When::From(faulty.calls() + failing_from), Fault::Refuse(Refusal::Failed));
        let is_through = client.stop(process("alice")).is_ok();
        server.shutdown().unwrap();
        faulty.heal();
        let server = start(&stage, &storage).unwrap();
        eventually("the client is connected again", || client.list().is_ok());
        if !client.list().unwrap().is_empty() {
            assert!(!is_through);
            assert_eq!(ask(&alice, "scattered", "large").unwrap(), told(LARGE_BYTES, 2));
            client.stop(process("alice")).unwrap();
        }
        eventually("nothing is stored of it", || inner.folders(None).unwrap().is_empty());
        drop((alice, client));
        server.shutdown().unwrap();
        if is_through {
            println!("a removal has {failing_from} operations");
            assert!(failing_from > 3);
            drop((storage, faulty, inner));
            return stage.end();
        }
    }
    panic!("a removal has more than {OPERATIONS_MAX} operations");
}

/// What S3 says when it refuses.
macro_rules! refusal {
    ($status:literal, $code:literal, $message:literal) => {
        concat!(
            "HTTP/1.1 ",
            $status,
            "\r\nContent-Type: application/xml\r\nConnection: close\r\n\r\n",
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>",
            $code,
            "</Code><Message>",
            $message,
            "</Message></Error>"
        )
    };
}

#[test]
fn a_bucket_that_is_gone_and_credentials_that_are_wrong_or_expired_are_told_and_nothing_is_lost() {
    let _one = one_at_a_time();
    let Some((_weed, port)) = seaweedfs() else { return };
    let proxy = Proxy::to(port);
    let storage: Arc<dyn Backend> = Arc::new(S3Backend::open(settings(proxy.port(), "wrong")).unwrap());
    let answer = |answer| Trouble { answer: Some(answer), ..Trouble::default() };
    let gone = refusal!("404 Not Found", "NoSuchBucket", "The specified bucket does not exist");
    let unknown = refusal!("403 Forbidden", "InvalidAccessKeyId", "The key does not exist in our records");
    let expired = refusal!("400 Bad Request", "ExpiredToken", "The provided token has expired.");
    let all = [
        Wrong { trouble: answer(gone), said: &["NoSuchBucket", "make the bucket, or name another one"] },
        Wrong { trouble: answer(unknown), said: &["InvalidAccessKeyId", "check the credentials"] },
        Wrong { trouble: answer(expired), said: &["ExpiredToken", "check the credentials"] },
    ];
    goes_wrong_and_right_again(storage, proxy, &all);
}

#[test]
fn a_bucket_that_does_not_answer_is_late_and_nothing_is_lost() {
    let _one = one_at_a_time();
    let Some((_weed, port)) = seaweedfs() else { return };
    let proxy = Proxy::to(port);
    // A server that has just started is slow with its first writes.
    drop(S3Backend::open(settings(port, "first")).unwrap());
    let late = S3Settings { operation_limit_ms: SHORT_LIMIT_MS, ..settings(proxy.port(), "late") };
    let storage: Arc<dyn Backend> = Arc::new(S3Backend::open(late).unwrap());
    let held = Trouble { held: true, ..Trouble::default() };
    goes_wrong_and_right_again(storage, proxy, &[Wrong { trouble: held, said: &["took more than 5000 ms"] }]);
}

#[test]
fn a_redis_that_goes_away_or_does_not_answer_is_told_and_nothing_is_lost() {
    let _one = one_at_a_time();
    let Some((_redis, address)) = redis(&[]) else { return };
    let port = address.rsplit([':', '/']).nth(1).unwrap().parse().unwrap();
    let proxy = Proxy::to(port);
    let address = address.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    let storage = RedisBackend::open_with_limit_ms(&address, REDIS_LIMIT_MS).unwrap();
    let storage: Arc<dyn Backend> = Arc::new(storage);
    let lost = Trouble { lost: u32::MAX, ..Trouble::default() };
    let held = Trouble { held: true, ..Trouble::default() };
    let all =
        [Wrong { trouble: lost, said: &["redis://"] }, Wrong { trouble: held, said: &["took more than 2000 ms"] }];
    goes_wrong_and_right_again(storage, proxy, &all);
}

#[test]
fn a_redis_that_ends_leaves_a_process_that_goes_on() {
    let _one = one_at_a_time();
    let Some((server, address)) = redis(&[]) else { return };
    let storage: Arc<dyn Backend> = Arc::new(RedisBackend::open_with_limit_ms(&address, REDIS_LIMIT_MS).unwrap());
    let stage = Stage::empty();
    let praas = start(&stage, &storage).unwrap();
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    assert_eq!(ask(&alice, "add", "").unwrap(), "1");
    drop(server);
    let refused = reason(client.swap(process("alice")).unwrap_err());
    assert!(refused.contains("redis://") && refused.contains("cannot be used"), "{refused}");
    assert_eq!(ask(&alice, "add", "").unwrap(), "2");
    assert_eq!(status(&client, "alice").state, ProcessState::Active);
    drop((alice, client));
    // It takes with it what it could not store, and says so; the next server cleans up.
    praas.shutdown().unwrap();
    let memory: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    start(&stage, &memory).unwrap().shutdown().unwrap();
    drop((storage, memory));
    stage.end();
}

#[test]
fn nothing_is_left_of_a_process_that_is_stopped_in_a_bucket_whenever_that_fails() {
    let _one = one_at_a_time();
    let Some((_weed, port)) = seaweedfs() else { return };
    leaves_nothing(Arc::new(S3Backend::open(settings(port, "stopped")).unwrap()));
}

#[test]
fn nothing_is_left_of_a_process_that_is_stopped_in_redis_whenever_that_fails() {
    let _one = one_at_a_time();
    let Some((_redis, address)) = redis(&[]) else { return };
    leaves_nothing(Arc::new(RedisBackend::open(&address).unwrap()));
}

#[test]
fn nothing_is_left_of_a_process_that_is_stopped_on_a_disk_or_in_memory_whenever_that_fails() {
    let _one = one_at_a_time();
    let directory = common::private_directory();
    leaves_nothing(Arc::new(DiskBackend::open(directory.path()).unwrap()));
    leaves_nothing(Arc::new(MemoryBackend::new()));
}
