//! A ring without room, junk in a ring, and who is woken.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

#[path = "support/logged.rs"]
mod logged;

use std::sync::Arc;
use std::time::{Duration, Instant};

use logged::{Logged, READ_BYTES, RING_BYTES, image, put_message, records, restore, user};
use praas_protocol::Key;
use praas_shm::WorkerTag;
use praas_shm::control_page::{ControlPage, ControlView};
use praas_shm::log_ring::{Contents, DurableWatch, Replay, RingError};
use praas_shm::mailbox::{MailError, Wanted};
use praas_shm::objects::{Condition, Meta, StateError};

const LIMIT_BYTES: u64 = 4 << 20;
const WORKER: WorkerTag = WorkerTag::new(0, 1);
const OTHER: WorkerTag = WorkerTag::new(1, 1);
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_full_ring_refuses_with_figures_and_nothing_has_happened() {
    let process = Logged::create(LIMIT_BYTES);
    let (store, mailbox) = (process.store(WORKER), process.mailbox(WORKER));
    store.set_patience(Duration::from_millis(20));
    mailbox.set_patience(Duration::from_millis(20));
    put_message(&mailbox, "alice", "k", 1, b"text", true).unwrap();
    let value = vec![1; 60_000];
    let full = loop {
        match store.put(&user("k"), &value, Meta::RAW, Condition::Any) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let StateError::LogFull { needed_bytes, free_bytes, capacity_bytes, waited } = full else { panic!("{full}") };
    assert!(needed_bytes > 60_000 && free_bytes < needed_bytes && capacity_bytes == RING_BYTES, "{full}");
    assert!(waited >= Duration::from_millis(20) && full.to_string().contains("1048576"), "{full}");
    let before = Contents::of(&process.objects).unwrap();
    // To the last word.
    while store.put(&user("small"), b"", Meta::RAW, Condition::Any).is_ok() {}
    while store.delete(&user("small"), Condition::Any).is_ok_and(|deleted| deleted.is_some()) {}
    let message = mailbox.take(Wanted::Any, Key::new("k").unwrap()).unwrap().unwrap();
    assert!(matches!(message.accept(), Err(MailError::LogFull { .. })));
    let put = put_message(&mailbox, "alice", "k", 2, b"text", true);
    assert!(matches!(put, Err(MailError::LogFull { .. })), "{put:?}");
    assert!(matches!(store.put(&user("k"), b"other", Meta::RAW, Condition::Any), Err(StateError::LogFull { .. })));
    process.objects.check().unwrap();
    let now = Contents::of(&process.objects).unwrap();
    assert_eq!(
        (&now.messages, now.objects.get(&(0, "k".into()))),
        (&before.messages, before.objects.get(&(0, "k".into())))
    );
    let mut replay = Replay::default();
    replay.apply_all(&records(&mut process.reader())).unwrap();
    assert_eq!(replay.contents(), &now);
}

#[test]
fn whoever_waits_for_room_goes_on_when_there_is_some() {
    let process = Logged::create(LIMIT_BYTES);
    let mut reader = process.reader();
    let objects = Arc::clone(&process.objects);
    let writer = std::thread::spawn(move || {
        let store = objects.worker_store(WORKER).unwrap();
        store.set_patience(PATIENCE);
        // Several times the ring, with values longer than a piece among them.
        for index in 0..200_usize {
            let value = vec![index as u8; 20_000 + index % 5 * 30_000];
            store.put(&user(["a", "b", "c"][index % 3]), &value, Meta::RAW, Condition::Any).unwrap();
        }
    });
    let (mut replay, mut bytes, start) = (Replay::default(), Vec::new(), Instant::now());
    while !(writer.is_finished() && replay.contents().position == process.objects.position()) {
        reader.read(&mut bytes, READ_BYTES / 2).unwrap();
        replay.apply_all(&bytes).unwrap();
        reader.release();
        if bytes.is_empty() {
            assert!(start.elapsed() < PATIENCE, "the writer does not go on");
            std::thread::yield_now();
        }
    }
    writer.join().unwrap();
    assert_eq!(replay.contents().position, 200);
    assert_eq!(replay.contents(), &Contents::of(&process.objects).unwrap());
}

#[test]
fn a_reader_that_sleeps_is_rung_once_and_one_that_is_awake_is_not() {
    let process = Logged::create(LIMIT_BYTES);
    let store = process.store(WORKER);
    let mut reader = process.reader();
    let rings = || {
        let mut bytes = [0; 64];
        rustix::io::read(&process.listen, &mut bytes).unwrap_or(0)
    };
    let put = || store.put(&user("k"), b"v", Meta::RAW, Condition::Any).unwrap();
    put();
    assert_eq!(rings(), 0, "it is awake");
    let seen = reader.begin_look();
    records(&mut reader);
    assert!(reader.arm(seen));
    put();
    put();
    assert_eq!(rings(), 1);
    let seen = reader.begin_look();
    put();
    assert!(!reader.arm(seen), "something came since it looked");
}

#[test]
fn junk_in_a_ring_is_refused_by_its_reader() {
    let process = Logged::create(LIMIT_BYTES);
    let store = process.store(WORKER);
    store.put(&user("a"), b"value", Meta::RAW, Condition::Any).unwrap();
    store.delete(&user("a"), Condition::Any).unwrap();
    let good = image(process.log().fd(), 8192);
    let mut bytes = Vec::new();
    for (committed, is_wrong) in [(u64::MAX, true), (RING_BYTES + 8, true), (3, true), (8, true), (0, false)] {
        let mut junk = good.clone();
        junk[128..136].copy_from_slice(&committed.to_le_bytes());
        restore(process.log().fd(), &junk);
        let read = process.reader().read(&mut bytes, READ_BYTES);
        assert_eq!(read.is_err(), is_wrong, "{committed}: {read:?}");
    }
    let mut refused = 0;
    for at in 4096..4096 + 128 {
        for value in [0, 1, 0xff] {
            let mut junk = good.clone();
            junk[at] = value;
            restore(process.log().fd(), &junk);
            refused += usize::from(process.reader().read(&mut bytes, READ_BYTES).is_err());
        }
    }
    assert!(refused > 100, "{refused}");
    let mut junk = good.clone();
    junk[4096 + 8] = 2;
    restore(process.log().fd(), &junk);
    assert_eq!(process.reader().read(&mut bytes, READ_BYTES), Err(RingError::Gap { after: 0, actual: 2 }));
    // A writer whose server's word is junk finds no room, and nothing else.
    let mut junk = good;
    junk[256..264].copy_from_slice(&u64::MAX.to_le_bytes());
    restore(process.log().fd(), &junk);
    let other = process.store(OTHER);
    other.set_patience(Duration::from_millis(5));
    let put = other.put(&user("b"), b"value", Meta::RAW, Condition::Any);
    assert!(matches!(put, Ok(_) | Err(StateError::LogFull { .. })), "{put:?}");
}

#[test]
fn a_wait_for_a_position_ends_when_it_is_durable_and_at_its_deadline() {
    let process = Logged::create(LIMIT_BYTES);
    let page = ControlPage::create(1, 1).unwrap();
    let view = || Arc::new(ControlView::attach(page.fd().try_clone_to_owned().unwrap()).unwrap());
    let watch = DurableWatch::new(Arc::clone(&process.objects), view());
    let store = process.store(WORKER);
    assert!(watch.is_durable(watch.position()), "nothing has happened");
    let position = store.put(&user("k"), b"v", Meta::RAW, Condition::Any).unwrap();
    assert_eq!(watch.position(), position);
    assert!(!watch.is_durable(position));
    assert!(!watch.wait(position, Instant::now() + Duration::from_millis(5)));
    let waiter = std::thread::spawn({
        let watch = watch.clone();
        move || watch.wait(position, Instant::now() + PATIENCE)
    });
    page.set_durable(position);
    assert!(waiter.join().unwrap() && watch.durable() == position);
    // One that was read in the middle of a change that was taken back never comes.
    assert!(watch.is_durable(position + 1));
}

#[test]
fn a_wait_that_polls_ends_as_one_that_sleeps_however_long_it_takes() {
    let process = Logged::create(LIMIT_BYTES);
    let page = ControlPage::create(1, 1).unwrap();
    let view = Arc::new(ControlView::attach(page.fd().try_clone_to_owned().unwrap()).unwrap());
    let watch = DurableWatch::new(Arc::clone(&process.objects), view).polling();
    let store = process.store(WORKER);
    // Learns that waits are short, is surprised by longer ones, and learns again.
    for pause_us in [100, 100, 100, 100, 5000, 5000, 100, 100] {
        let position = store.put(&user("k"), b"v", Meta::RAW, Condition::Any).unwrap();
        assert!(!watch.wait(position, Instant::now() + Duration::from_micros(10)));
        let (waits, page) = (std::sync::Barrier::new(2), &page);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                waits.wait();
                std::thread::sleep(Duration::from_micros(pause_us));
                page.set_durable(position);
            });
            waits.wait();
            assert!(watch.wait(position, Instant::now() + PATIENCE) && watch.durable() == position);
        });
    }
}

#[test]
fn a_reader_that_polls_finds_records_and_only_records() {
    let process = Logged::create(LIMIT_BYTES);
    let mut reader = process.reader();
    let store = process.store(WORKER);
    let mut batch = Vec::new();
    for _ in 0..20 {
        assert!(!reader.has_more() && !reader.poll(Duration::from_micros(50)));
        store.put(&user("k"), b"v", Meta::RAW, Condition::Any).unwrap();
        assert!(reader.has_more() && reader.poll(Duration::ZERO));
        reader.read(&mut batch, READ_BYTES).unwrap();
        assert!(!batch.is_empty());
    }
}
