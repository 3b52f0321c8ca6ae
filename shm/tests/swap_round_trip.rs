//! A process as bytes and back: whatever was done to it, it comes back as it was, and goes on as if nothing had been.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

use std::sync::Arc;
use std::time::Duration;

use praas_protocol::control::MessageLaneGeometry;
use praas_protocol::message::{Accepted, Address, MessageId};
use praas_protocol::{FunctionId, IdempotencyKey};
use praas_shm::WorkerTag;
use praas_shm::log_ring::{Contents, KeptMessage};
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{MailError, Mailbox, NewMessage, Wanted};
use praas_shm::objects::{
    Begun, CallClock, CallEnd, CallName, Condition, Encoding, Key, Meta, Namespace, Objects, ObjectsLayout, StateError,
    Store,
};
use praas_shm::swap::{
    BadRemainder, CutGlimpse, CutValue, Import, ImportError, ImportFacts, ImportedObject, KeptLane, KeptMail, QuietCut,
    Remainder, WaitingMail,
};
use proptest::prelude::*;

const LIMIT_BYTES: u64 = 4 << 20;
const FIRST: WorkerTag = WorkerTag::new(0, 1);
const SECOND: WorkerTag = WorkerTag::new(1, 1);
const CLOCK: CallClock = CallClock { now_unix_ms: 1000, kept_for: Duration::from_secs(1) };

/// Something that happens to a process.
#[derive(Debug, Clone)]
enum Change {
    Put {
        key: u8,
        bytes: usize,
        type_id: u64,
    },
    Delete {
        key: u8,
    },
    Message {
        source: u8,
        key: u8,
        bytes: usize,
        repeats: bool,
    },
    /// From one source: whose turn it is among several is not kept.
    Receive {
        source: u8,
        key: u8,
        accept: bool,
    },
    Call {
        number: u8,
        finish: bool,
    },
    Sequence,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let bytes = prop_oneof![0..64_usize, 60..300_usize, Just(5000), Just(70_000)];
    let change = prop_oneof![
        4 => (any::<u8>(), bytes.clone(), any::<u64>()).prop_map(|(key, bytes, type_id)| Change::Put { key, bytes, type_id }),
        1 => any::<u8>().prop_map(|key| Change::Delete { key }),
        3 => (0..4_u8, 0..3_u8, bytes, any::<bool>())
            .prop_map(|(source, key, bytes, repeats)| Change::Message { source, key, bytes, repeats }),
        2 => (0..4_u8, 0..3_u8, any::<bool>())
            .prop_map(|(source, key, accept)| Change::Receive { source, key, accept }),
        1 => (0..20_u8, any::<bool>()).prop_map(|(number, finish)| Change::Call { number, finish }),
        1 => Just(Change::Sequence),
    ];
    proptest::collection::vec(change, 0..120)
}

fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    (0..bytes as u64).map(|at| (at.wrapping_mul(31) ^ at >> 8 ^ seed).to_le_bytes()[0]).collect()
}

fn source(number: u8) -> Address {
    format!("sender-{number}").parse().unwrap()
}

fn message_key(number: u8) -> String {
    format!("topic/{number}")
}

fn call(number: u8) -> CallName {
    CallName::new(&"alice".parse().unwrap(), FunctionId(7), IdempotencyKey::from_bytes([number; 16]))
}

fn mailbox(objects: &Arc<Objects>, tag: WorkerTag) -> Mailbox {
    Mailbox::new(Arc::clone(objects), tag, MailBell::create().unwrap()).unwrap()
}

fn segment() -> Arc<Objects> {
    Arc::new(Objects::create(ObjectsLayout::for_limit(LIMIT_BYTES).unwrap()).unwrap())
}

/// Does everything as one worker, which then dies.
fn live(objects: &Arc<Objects>, tag: WorkerTag, changes: &[Change]) {
    let (store, mail) = (objects.worker_store(tag).unwrap(), mailbox(objects, tag));
    for (number, change) in (1..).zip(changes) {
        carry_out(&store, &mail, change, number);
    }
    // It dies with what it holds: nothing is given back by itself.
    std::mem::forget(mail);
    std::mem::forget(store);
    objects.recover(tag).unwrap();
}

fn carry_out(store: &Store, mail: &Mailbox, change: &Change, number: u64) {
    match *change {
        Change::Put { key, bytes, type_id } => {
            let text = format!("key-{key}");
            let key = Key::new(Namespace::USER, &text).unwrap();
            let meta = Meta { type_id, schema_version: number as u32, encoding: Encoding::Raw };
            store.put(&key, &pattern(bytes, number), meta, Condition::Any).unwrap();
        }
        Change::Delete { key } => {
            let text = format!("key-{key}");
            store.delete(&Key::new(Namespace::USER, &text).unwrap(), Condition::Any).unwrap();
        }
        Change::Message { source: from, key, bytes, repeats } => {
            let (source, key) = (source(from), message_key(key));
            let id = MessageId { incarnation: 1, sequence: number };
            let key = praas_protocol::Key::new(&key).unwrap();
            let put = mail.put(&NewMessage { source: &source, id, key, bytes: &pattern(bytes, number), repeats });
            assert_eq!(put, Ok(Accepted::Now));
        }
        Change::Receive { source: from, key, accept } => {
            let (source, key) = (source(from), message_key(key));
            if let Some(received) = mail.take(Wanted::One(&source), praas_protocol::Key::new(&key).unwrap()).unwrap() {
                // Otherwise it is held until its worker dies.
                if accept {
                    received.accept().unwrap();
                }
            }
        }
        Change::Call { number, finish } => {
            let name = call(number);
            if let Begun::Run(claim) = store.begin_call(&name, [1; 16], false, CLOCK).unwrap()
                && finish
            {
                let end = CallEnd { outcome_code: 0, detail: 1, more: 2, reply: &pattern(usize::from(number) * 9, 3) };
                claim.finish(&end, (13, 1, 2), CLOCK).unwrap();
            }
        }
        Change::Sequence => drop(mail.next_sequence()),
    }
}

/// An object as the cut shows it, with its value.
type Seen = (u64, u8, String, praas_shm::objects::ObjectHeader, Vec<u8>);

fn seen(cut: &QuietCut) -> Vec<Seen> {
    let mut all = Vec::new();
    cut.objects(|object| -> Result<(), StateError> {
        let CutValue::Here { token } = object.value else { panic!("nothing was stored: {object:?}") };
        let mut value = vec![0; object.header.value_bytes as usize];
        // In two pieces, as long values are read.
        let half = value.len() / 2;
        cut.read(token, 0, &mut value[..half])?;
        cut.read(token, half as u64, &mut value[half..])?;
        assert!(cut.read(token, 1, &mut vec![0; value.len()]).is_err(), "more than there is");
        all.push((object.hash, object.key.namespace().0, object.key.text().to_owned(), object.header, value));
        Ok(())
    })
    .unwrap();
    all.sort_by(|one, other| (one.1, &one.2).cmp(&(other.1, &other.2)));
    assert_eq!(all.len() as u64, cut.object_count());
    all
}

/// All objects by a survey in so many parts: what was glimpsed, and which of that were shown because of it.
fn surveyed(cut: &QuietCut, parts: u32) -> (Vec<CutGlimpse>, Vec<(u64, u64)>) {
    let (mut glimpsed, mut shown) = (Vec::new(), Vec::new());
    for part in 0..parts {
        let glance = |object: &CutGlimpse| {
            glimpsed.push(*object);
            object.version.is_multiple_of(2)
        };
        cut.survey((part, parts), glance, |object| -> Result<(), StateError> {
            shown.push((object.hash, object.header.version));
            Ok(())
        })
        .unwrap();
    }
    glimpsed.sort_unstable_by_key(|object| object.version);
    shown.sort_unstable();
    (glimpsed, shown)
}

fn imported(cut: &QuietCut, objects: &[Seen]) -> Arc<Objects> {
    let remainder = Remainder::from_bytes(&cut.remainder().unwrap().to_bytes()).unwrap();
    let facts = ImportFacts { hash_seed: Some(cut.hash_seed()), position: cut.position() };
    let import = Import::create(cut.segment().layout(), &facts).unwrap();
    let mut rooms = Vec::new();
    for (index, (_, namespace, text, header, value)) in objects.iter().enumerate() {
        let object = ImportedObject { key: Key::new(Namespace(*namespace), text).unwrap(), header: *header };
        if index % 2 == 0 {
            import.put(&object, value).unwrap();
        } else {
            rooms.push((import.room(&object).unwrap(), value));
        }
    }
    import.remainder(&remainder, 1).unwrap();
    // Rooms are filled by other threads.
    std::thread::scope(|scope| {
        for (mut room, value) in rooms {
            scope.spawn(move || room.bytes_mut().copy_from_slice(value));
        }
    });
    Arc::new(import.finish().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_process_comes_back_as_it_was_and_goes_on_as_if_nothing_had_been(before in changes(), after in changes()) {
        let first = segment();
        live(&first, FIRST, &before);
        let cut = QuietCut::begin(Arc::clone(&first), Vec::new()).unwrap();
        let objects = seen(&cut);
        let glimpse = |(hash, namespace, _, header, _): &Seen| CutGlimpse {
            hash: *hash,
            namespace: Namespace(*namespace),
            version: header.version,
            value_bytes: header.value_bytes,
        };
        let mut glimpses: Vec<CutGlimpse> = objects.iter().map(glimpse).collect();
        glimpses.sort_unstable_by_key(|object| object.version);
        let even = glimpses.iter().filter(|object| object.version.is_multiple_of(2));
        let mut even: Vec<_> = even.map(|object| (object.hash, object.version)).collect();
        even.sort_unstable();
        for parts in [1, 3, 1000] {
            prop_assert!(surveyed(&cut, parts) == (glimpses.clone(), even.clone()), "{} parts", parts);
        }
        let second = imported(&cut, &objects);
        second.check().unwrap();
        let cut_again = QuietCut::begin(Arc::clone(&second), Vec::new()).unwrap();
        prop_assert!(seen(&cut_again) == objects, "objects differ");
        prop_assert!(cut_again.remainder().unwrap() == cut.remainder().unwrap(), "the rest differs");
        prop_assert_eq!((cut_again.position(), cut_again.hash_seed()), (cut.position(), cut.hash_seed()));
        drop((cut, cut_again));

        // What comes next means the same to both; numbers of messages differ from those before.
        for objects in [&first, &second] {
            live_on(objects, &after);
            objects.check().unwrap();
        }
        let (cut, cut_again) = (QuietCut::begin(first, Vec::new()).unwrap(), QuietCut::begin(second, Vec::new()).unwrap());
        let unstamped = |mut all: Vec<Seen>| {
            all.iter_mut().for_each(|(.., header, _)| header.modified_unix_ms = 0);
            all
        };
        prop_assert!(unstamped(seen(&cut_again)) == unstamped(seen(&cut)), "objects differ later");
        let (mut one, mut other) = (cut.remainder().unwrap(), cut_again.remainder().unwrap());
        one.sources.iter_mut().chain(&mut other.sources).for_each(|(_, source)| source.used_s = 0);
        prop_assert!(one == other, "the rest differs later");
    }

    #[test]
    fn bytes_of_a_remainder_that_were_changed_or_cut_are_refused_or_read_and_never_panic(
        before in changes(), at in any::<prop::sample::Index>(), value in any::<u8>(), cut_at in any::<prop::sample::Index>(),
    ) {
        let objects = segment();
        live(&objects, FIRST, &before);
        let remainder = QuietCut::begin(objects, Vec::new()).unwrap().remainder().unwrap();
        let bytes = remainder.to_bytes();
        prop_assert!(Remainder::from_bytes(&bytes).unwrap() == remainder);
        let shorter = &bytes[..cut_at.index(bytes.len())];
        prop_assert!(Remainder::from_bytes(shorter).is_err(), "{} of {} bytes", shorter.len(), bytes.len());
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] = value;
        if let Ok(other) = Remainder::from_bytes(&changed) {
            prop_assert!(other.to_bytes() == changed);
        }
    }
}

fn live_on(objects: &Arc<Objects>, changes: &[Change]) {
    let (store, mail) = (objects.worker_store(SECOND).unwrap(), mailbox(objects, SECOND));
    for (number, change) in (1000..).zip(changes) {
        carry_out(&store, &mail, change, number);
    }
    std::mem::forget(mail);
    std::mem::forget(store);
    objects.recover(SECOND).unwrap();
}

fn put_message(mail: &Mailbox, sequence: u64) -> Result<Accepted, MailError> {
    let (source, id) = (source(1), MessageId { incarnation: 1, sequence });
    let key = praas_protocol::Key::new("topic/1").unwrap();
    mail.put(&NewMessage { source: &source, id, key, bytes: b"text", repeats: true })
}

#[test]
fn a_message_that_was_received_is_marked_and_one_that_is_repeated_after_the_wake_changes_nothing() {
    let first = segment();
    {
        let mail = mailbox(&first, FIRST);
        for sequence in 1..=3 {
            assert_eq!(put_message(&mail, sequence), Ok(Accepted::Now));
        }
        let key = praas_protocol::Key::new("topic/1").unwrap();
        mail.take(Wanted::Any, key).unwrap().unwrap().accept().unwrap();
        assert!(mail.take(Wanted::Any, key).unwrap().is_some(), "it is held from now on");
        assert_eq!(mail.next_sequence(), 1);
        std::mem::forget(mail);
    }
    first.recover(FIRST).unwrap();
    let cut = QuietCut::begin(Arc::clone(&first), Vec::new()).unwrap();
    let second = imported(&cut, &seen(&cut));
    let mail = mailbox(&second, SECOND);
    for sequence in 1..=3 {
        assert_eq!(put_message(&mail, sequence), Ok(Accepted::Before), "message {sequence}");
    }
    assert_eq!(put_message(&mail, 4), Ok(Accepted::Now));
    assert_eq!(mail.next_sequence(), 2, "numbers of messages never come again");
    let key = praas_protocol::Key::new("topic/1").unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| {
        let received = mail.take(Wanted::Any, key).unwrap()?;
        let seen = (received.id().sequence, received.is_redelivered());
        received.accept().unwrap();
        Some(seen)
    })
    .collect();
    assert_eq!(taken, [(2, true), (3, false), (4, false)]);
}

#[test]
fn a_cut_waits_for_no_worker_and_keeps_writers_out() {
    let objects = segment();
    let store = objects.worker_store(FIRST).unwrap();
    assert!(
        matches!(QuietCut::begin(Arc::clone(&objects), Vec::new()), Err(MailError::Busy { .. })),
        "a worker has its row"
    );
    drop(store);
    let cut = QuietCut::begin(Arc::clone(&objects), Vec::new()).unwrap();
    assert!(
        matches!(QuietCut::begin(Arc::clone(&objects), Vec::new()), Err(MailError::Busy { .. })),
        "there is one at a time"
    );
    let store = objects.worker_store(SECOND).unwrap();
    store.set_patience(Duration::from_millis(1));
    let key = Key::new(Namespace::USER, "key").unwrap();
    let refused = store.put(&key, b"value", Meta::RAW, Condition::Any);
    assert!(matches!(refused, Err(StateError::Busy { .. })), "{refused:?}");
    drop(cut);
    store.put(&key, b"value", Meta::RAW, Condition::Any).unwrap();
}

#[test]
fn what_a_log_has_made_becomes_a_segment() {
    let first = segment();
    let changes: Vec<_> = (0..60_u8)
        .map(|number| match number % 4 {
            0 | 1 => Change::Put { key: number, bytes: usize::from(number) * 100, type_id: 5 },
            2 => Change::Message { source: number % 3, key: number % 2, bytes: 90, repeats: true },
            _ => Change::Call { number, finish: number % 8 == 3 },
        })
        .collect();
    live(&first, FIRST, &changes);
    let contents = Contents::of(&first).unwrap();
    let facts = ImportFacts { hash_seed: None, position: contents.position };
    let import = Import::create(first.layout(), &facts).unwrap();
    import.contents(&contents, 7 << 36).unwrap();
    let second = Arc::new(import.finish().unwrap());
    second.check().unwrap();
    let sent = QuietCut::begin(Arc::clone(&second), Vec::new()).unwrap().remainder().unwrap().last_sequence;
    assert_eq!(sent, 7 << 36, "what it sends next is behind what it may have sent");
    // But that a call which ran belongs to nobody now: what is known of calls is looked at below.
    let [before, after] = [contents, Contents::of(&second).unwrap()].map(|mut contents| {
        let calls = contents.objects.iter_mut().filter(|((namespace, _), _)| *namespace != Namespace::USER.0);
        calls.for_each(|(_, record)| record.value.clear());
        contents
    });
    assert!(before == after, "an object, a message or a source is another one");
    // A call that had ended is known.
    let store = second.worker_store(SECOND).unwrap();
    assert!(matches!(store.begin_call(&call(3), [1; 16], false, CLOCK), Ok(Begun::Finished(_))));
    assert!(matches!(store.begin_call(&call(7), [1; 16], false, CLOCK), Ok(Begun::Lost)));
}

#[test]
fn what_contradicts_itself_is_named() {
    let key = Key::new(Namespace::USER, "key").unwrap();
    let layout = ObjectsLayout::for_limit(LIMIT_BYTES).unwrap();
    let create = || Import::create(layout, &ImportFacts { hash_seed: Some(7), position: 10 }).unwrap();
    let header = |version, value_bytes| praas_shm::objects::ObjectHeader {
        version,
        meta: Meta::RAW,
        value_bytes,
        modified_unix_ms: 0,
    };
    let import = create();
    for (version, bytes, says) in [(0, 1, "version"), (11, 1, "version"), (1, 2, "length")] {
        let error = import.put(&ImportedObject { key, header: header(version, bytes) }, b"x").unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    import.put(&ImportedObject { key, header: header(1, 1) }, b"x").unwrap();
    let twice = import.put(&ImportedObject { key, header: header(2, 1) }, b"x").unwrap_err();
    assert!(matches!(&twice, ImportError::Object { key, .. } if key == "key"), "{twice}");
    let huge =
        import.room(&ImportedObject { key: Key::new(Namespace::USER, "huge").unwrap(), header: header(1, 8 << 20) });
    assert!(matches!(huge, Err(ImportError::Object { error: StateError::Full { .. }, .. })), "{huge:?}");
    drop(huge);

    let import = create();
    import.remainder(&Remainder { calls: vec![1, 2], ..Remainder::default() }, 1).unwrap();
    assert!(matches!(import.finish(), Err(ImportError::Contradiction { .. })), "calls without their records");

    let mut newer = Remainder::default().to_bytes();
    newer[8] = 9;
    assert_eq!(Remainder::from_bytes(&newer), Err(BadRemainder::Version { actual: 9, newest: 2 }));
}

/// What lies in a lane must fit it, and the lane must be there.
#[test]
fn a_lane_that_cannot_be_made_anew_is_named() {
    let layout = ObjectsLayout::for_limit(LIMIT_BYTES).unwrap();
    let import = || Import::create(layout, &ImportFacts { hash_seed: Some(7), position: 10 }).unwrap();
    let geometry = MessageLaneGeometry { entries: 8, blocks: 1, arena_bytes: 64 << 10 };
    let id = MessageId { incarnation: 3, sequence: 4 };
    let waiting = WaitingMail { id, key: "key".into(), payload: vec![7; 64 << 10] };
    let lane = KeptLane { slot: 5, geometry, source: source(1), incarnation: 3, repeats: true, waiting: vec![waiting] };
    let of = |lane: KeptLane| Remainder { lanes: vec![lane], ..Remainder::default() };
    let returned = import().remainder(&of(lane.clone()), 9).unwrap();
    assert_eq!((returned.len(), returned[0].slot, returned[0].serial, returned[0].repeats), (1, 5, 9, true));
    let mut twice = lane.clone();
    twice.waiting.extend(lane.waiting.clone());
    let refused = import().remainder(&of(twice), 9);
    assert!(matches!(&refused, Err(ImportError::Lane { slot: 5, .. })), "{refused:?}");

    let message = KeptMessage { source: source(1), key: "key".into(), id, payload: vec![7] };
    let mail = KeptMail { arrival: 9, is_redelivered: false, lane: Some(6), message };
    let stray = Remainder { mail: vec![mail], ..of(lane) };
    let refused = import().remainder(&stray, 9);
    assert!(matches!(&refused, Err(ImportError::Contradiction { .. })), "{refused:?}");
    assert!(matches!(Remainder::from_bytes(&stray.to_bytes()), Err(BadRemainder::Field { .. })));
}

/// The bytes of formats 1 and 2 are read for good.
#[test]
fn golden_bytes_of_a_remainder_are_read() {
    let mut golden = Vec::new();
    golden.extend_from_slice(b"praasrem");
    golden.extend_from_slice(&[1, 0, 0, 0]);
    golden.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0]);
    golden.extend_from_slice(&[1, 0, 0, 0]);
    golden.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1]);
    golden.extend_from_slice(&source(1).to_bytes());
    golden.extend_from_slice(&[3, 2, 0, 0, 0]);
    golden.extend_from_slice(b"keyhi");
    golden.extend_from_slice(&[0, 0, 0, 0]);
    golden.extend_from_slice(&[1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    let first = Remainder::from_bytes(&golden).unwrap();
    assert_eq!((first.last_sequence, first.mail.len(), first.sources.len(), &first.calls[..]), (5, 1, 0, &[7][..]));
    let mail = &first.mail[0];
    assert_eq!((mail.arrival, mail.is_redelivered, mail.lane), (9, true, None));
    assert_eq!(
        (&mail.message.source, &mail.message.key[..], &mail.message.payload[..]),
        (&source(1), "key", &b"hi"[..])
    );
    // The second has the lanes at its end, and the slot of one behind the source of a message that is marked so.
    golden[8] = 2;
    let (marks_at, lane_at) = (48, 49 + source(1).to_bytes().len());
    golden[marks_at] = 3;
    golden.splice(lane_at..lane_at, [4, 0]);
    golden.extend_from_slice(&[1, 0, 0, 0, 4, 0, 16, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0]);
    golden.extend_from_slice(&source(1).to_bytes());
    golden.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0]);
    golden.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0]);
    golden.extend_from_slice(b"kyo");
    let second = Remainder::from_bytes(&golden).unwrap();
    assert_eq!(second.to_bytes(), golden);
    assert_eq!(second.mail, [KeptMail { lane: Some(4), ..mail.clone() }]);
    let id = MessageId { incarnation: 1, sequence: 3 };
    let geometry = MessageLaneGeometry { entries: 16, blocks: 8, arena_bytes: 64 << 10 };
    let waiting = vec![WaitingMail { id, key: "k".into(), payload: b"yo".to_vec() }];
    let lane = KeptLane { slot: 4, geometry, source: source(1), incarnation: 1, repeats: true, waiting };
    assert_eq!(second, Remainder { mail: second.mail.clone(), lanes: vec![lane], ..first });
}
