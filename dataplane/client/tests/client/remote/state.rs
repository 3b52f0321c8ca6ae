//! State from outside, as far as the client decides it: what it asks for byte by byte, and what it makes of answers.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use praas_client::{Attributes, CallError, Condition, StateError, StateType, Written};
use praas_protocol::state::{
    DELETE_FUNCTION, GET_FUNCTION, LIST_FUNCTION, ListPage, ListQuestion, ListedObject, PUT_FUNCTION, PutHead, codes,
};
use praas_protocol::{FunctionId, Outcome};
use rkyv::{Archive, Deserialize, Serialize};

use super::wire_server::{Reaction, Script, WireServer, lock};

#[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
struct Words {
    words: Vec<String>,
}

impl StateType for Words {
    const NAME: &'static str = "words";
    const SCHEMA_VERSION: u32 = 2;
}

fn words(count: usize) -> Words {
    Words { words: (0..count).map(|index| format!("word number {index}")).collect() }
}

/// A server whose functions of state do what `answer` says, given their names and payloads.
fn answering(answer: impl Fn(&str, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> WireServer {
    reacting(move |function, payload| (Outcome::Ok, 0, answer(function, payload)))
}

fn reacting(answer: impl Fn(&str, &[u8]) -> (Outcome, u32, Vec<u8>) + Send + Sync + 'static) -> WireServer {
    let names = [GET_FUNCTION, PUT_FUNCTION, DELETE_FUNCTION, LIST_FUNCTION];
    WireServer::start(Script {
        react: Arc::new(move |shared, request, payload| {
            shared.runs.fetch_add(1, Ordering::SeqCst);
            let name = names.iter().find(|name| request.function == FunctionId::of(name)).expect("a function of state");
            let (outcome, detail, bytes) = answer(name, payload);
            Reaction::Answer(outcome, detail, bytes)
        }),
        ..Script::default()
    })
}

/// A process with room for one object, whatever its key.
fn with_one_object() -> WireServer {
    let object: Mutex<Option<(Attributes, Vec<u8>)>> = Mutex::default();
    answering(move |function, payload| {
        let mut object = lock(&object);
        match function {
            GET_FUNCTION => {
                object.as_ref().map_or_else(Vec::new, |(attributes, value)| [&attributes.encode()[..], value].concat())
            }
            PUT_FUNCTION => {
                let (head, _, value) = PutHead::decode(payload).unwrap();
                let version = object.as_ref().map_or(1, |(attributes, _)| attributes.version + 1);
                let attributes = Attributes {
                    version,
                    modified_unix_ms: 1,
                    type_id: head.type_id,
                    schema_version: head.schema_version,
                    value_bytes: u32::try_from(value.len()).unwrap(),
                };
                *object = Some((attributes, value.to_vec()));
                Written::Done { version }.encode().to_vec()
            }
            _ => {
                let version = object.take().map_or(0, |(attributes, _)| attributes.version);
                Written::Done { version }.encode().to_vec()
            }
        }
    })
}

#[test]
fn what_is_asked_is_what_the_payloads_are_described_as() {
    let asked: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let kept = Arc::clone(&asked);
    let server = answering(move |function, payload| {
        lock(&kept).push(payload.to_vec());
        match function {
            GET_FUNCTION => Vec::new(),
            LIST_FUNCTION => ListPage::default().encode(usize::MAX),
            _ => Written::Refused { current: 9 }.encode().to_vec(),
        }
    });
    let process = server.process();
    let state = process.state();
    assert!(state.get("k").unwrap().is_none());
    assert_eq!(state.put_if("k", "v", Condition::Version(0x0102)).unwrap(), Written::Refused { current: 9 });
    assert_eq!(state.put_as_if("k", &words(0), Condition::Absent).unwrap(), Written::Refused { current: 9 });
    assert_eq!(state.delete_if("k", Condition::Any).unwrap(), Written::Refused { current: 9 });
    assert_eq!(state.list("pre").unwrap().count(), 0);
    let asked = lock(&asked);
    assert_eq!(asked[0], b"k");
    let put = [
        &[2_u8, 0, 0, 0, 0, 0, 0, 0][..], // the condition: a version
        &[2, 1, 0, 0, 0, 0, 0, 0],        // which
        &[0; 8],                          // no type
        &[0; 4],                          // no schema
        &[1, 0, 0, 0],                    // bytes of the key
        b"k",
        &[0; 15], // up to a multiple of 16
        b"v",
    ];
    assert_eq!(asked[1], put.concat());
    let typed = [
        &[1_u8, 0, 0, 0, 0, 0, 0, 0][..], // the condition: absent
        &[0; 8],
        &Words::TYPE_ID.to_le_bytes(),
        &[2, 0, 0, 0],
        &[1, 0, 0, 0],
        b"k",
        &[0; 15],
    ];
    assert!(asked[2].starts_with(&typed.concat()) && asked[2].len() == 48 + 8, "{:?}", asked[2]);
    assert_eq!(asked[3], [&[0; 16][..], b"k"].concat());
    assert_eq!(asked[4], b"\x03\x00pre");
}

#[test]
fn values_of_every_size_come_back_as_they_were_put() {
    let server = with_one_object();
    let process = server.process();
    let state = process.state();
    for bytes in [0, 1, 16, 1023, 1024, 1025, 70_000, 1 << 20, (8 << 20) - 48] {
        let value: Vec<u8> = (0..bytes).map(|index| u8::try_from(index % 251).unwrap()).collect();
        let version = state.put("key", &value).unwrap();
        let read = state.get("key").unwrap().unwrap();
        assert_eq!((read.version(), read.attributes().value_bytes as usize), (version, bytes));
        assert_eq!(read.as_slice().as_ptr().align_offset(16), 0);
        assert!(read.as_slice() == value && read.into_vec() == value, "{bytes} bytes");
    }
    assert!(state.delete("key").unwrap());
    assert!(state.get("key").unwrap().is_none());
    assert!(!state.delete("key").unwrap());
}

#[test]
fn typed_values_of_every_size_come_back_and_other_types_are_refused() {
    let server = with_one_object();
    let process = server.process();
    let state = process.state();
    for count in [0, 1, 20, 100, 10_000] {
        state.put_as("key", &words(count)).unwrap();
        let read = state.get_as::<Words>("key").unwrap().unwrap();
        assert_eq!(read.get().unwrap().words.len(), count);
        assert_eq!(read.to_value().unwrap(), words(count));
    }
    state.put("key", "raw").unwrap();
    let refused = state.get_as::<Words>("key").unwrap_err();
    assert!(matches!(refused, StateError::OtherType { type_name: "words", schema_version: 2, .. }), "{refused}");
}

#[test]
fn a_value_that_does_not_fit_one_call_is_not_sent() {
    let server = with_one_object();
    let process = server.process();
    let state = process.state();
    let limit_bytes = (8 << 20) - 48;
    let refused = state.put("key", vec![1; (8 << 20) - 47]).unwrap_err();
    assert_eq!(refused, StateError::TooLarge { limit_bytes, actual_bytes: limit_bytes + 1 });
    let typed = state.put_as("key", &words(400_000)).unwrap_err();
    assert!(matches!(typed, StateError::TooLarge { .. }), "{typed}");
    assert_eq!(server.shared().runs(), 0);
}

#[test]
fn keys_that_are_none_are_refused_before_anything_is_sent() {
    let server = with_one_object();
    let process = server.process();
    let state = process.state();
    let long = "x".repeat(256);
    for key in ["", "a\nb", &long] {
        assert!(matches!(state.get(key), Err(StateError::Key(_))));
        assert!(matches!(state.put(key, "v"), Err(StateError::Key(_))));
        assert!(matches!(state.put_as(key, &words(1)), Err(StateError::Key(_))));
        assert!(matches!(state.delete(key), Err(StateError::Key(_))));
        assert_eq!(state.list(key).is_err(), !key.is_empty());
    }
    assert_eq!(server.shared().runs(), 0);
}

fn listed(keys: impl IntoIterator<Item = String>, more: bool) -> Vec<u8> {
    let object = |key| ListedObject { key, attributes: Attributes::default() };
    ListPage { objects: keys.into_iter().map(object).collect(), more }.encode(usize::MAX)
}

#[test]
fn a_list_is_asked_for_page_by_page_as_it_is_read() {
    let key = |index: usize| format!("n/{index:05}");
    let server = answering(move |_, payload| {
        let question = ListQuestion::decode(payload).unwrap();
        assert_eq!(question.prefix, "n/");
        let first = question.after.map_or(0, |after| after.as_str()[2..].parse::<usize>().unwrap() + 1);
        listed((first..3000.min(first + 1000)).map(key), first + 1000 < 3000)
    });
    let process = server.process();
    let mut list = process.state().list("n/").unwrap();
    for index in 0..3000 {
        assert_eq!(list.next().unwrap().unwrap().key, key(index));
        assert_eq!(server.shared().runs(), index / 1000 + 1, "a page is asked for when it is needed");
    }
    assert!(list.next().is_none() && list.next().is_none());
    assert_eq!(server.shared().runs(), 3);
}

#[test]
fn a_list_that_would_never_end_ends_with_an_error() {
    let pages = [
        listed(["b".to_owned(), "a".to_owned()], true),
        listed(["a".to_owned()], true),
        listed([], true),
        listed(["n/a".to_owned()], true),
        vec![7; 8],
        Vec::new(),
    ];
    for page in pages {
        let server = answering(move |_, _| page.clone());
        let process = server.process();
        let ended: Vec<_> = process.state().list("").unwrap().collect();
        assert!(matches!(ended.last(), Some(Err(StateError::Malformed { .. }))), "{ended:?}");
        assert!(ended.len() <= 2 && server.shared().runs() <= 2, "{ended:?}");
    }
}

#[test]
fn each_way_in_which_a_function_of_state_fails_has_its_error() {
    let ends = [
        (Outcome::Unauthorized, 0, ""),
        (Outcome::UnknownFunction, 0, ""),
        (Outcome::FunctionFailed, codes::FULL, "no room"),
        (Outcome::FunctionFailed, codes::BUSY, "busy"),
        (Outcome::FunctionFailed, codes::CORRUPT, "damaged"),
        (Outcome::FunctionFailed, 1, "otherwise"),
        (Outcome::WorkerLost, 0, ""),
    ];
    for (outcome, detail, words) in ends {
        let server = reacting(move |_, _| (outcome, detail, words.as_bytes().to_vec()));
        let process = server.process();
        let error = process.state().put("k", "v").unwrap_err();
        let id = process.id();
        let message = words.to_owned();
        let expected = match (outcome, detail) {
            (Outcome::Unauthorized, _) => StateError::Unauthorized { process: id },
            (Outcome::UnknownFunction, _) => StateError::Unsupported { process: id },
            (_, codes::FULL) => StateError::Full { message },
            (_, codes::BUSY) => StateError::Busy { message },
            (_, codes::CORRUPT) => StateError::Damaged { message },
            (Outcome::WorkerLost, _) => StateError::Call(CallError::WorkerLost),
            _ => StateError::Call(CallError::FunctionFailed { code: 1, message }),
        };
        assert_eq!(error, expected);
        assert_eq!(process.state().get("k").unwrap_err(), expected);
        assert_eq!(process.state().delete("k").unwrap_err(), expected);
        assert_eq!(process.state().list("").unwrap().next().unwrap().unwrap_err(), expected);
    }
}

#[test]
fn an_answer_that_is_none_is_not_believed() {
    for junk in [vec![1; 5], vec![0xff; 16], vec![0; 33]] {
        let server = answering(move |_, _| junk.clone());
        let process = server.process();
        let state = process.state();
        assert!(matches!(state.get("k"), Err(StateError::Malformed { .. })));
        assert!(matches!(state.put("k", "v"), Err(StateError::Malformed { .. })));
        assert!(matches!(state.delete("k"), Err(StateError::Malformed { .. })));
    }
    // A write without a condition has none that fails.
    let server = answering(|_, _| Written::Refused { current: 3 }.encode().to_vec());
    let process = server.process();
    assert!(matches!(process.state().put("k", "v"), Err(StateError::Malformed { .. })));
    assert!(matches!(process.state().delete("k"), Err(StateError::Malformed { .. })));
}
