//! State as functions use it: typed objects and bytes, conditions, updates, migrations, refusals; and from outside, through the
//! built-in functions.

use praas_function::testing::{Harness, HarnessOptions};
use praas_function::{Application, Call, Condition, FunctionError, FunctionResult, StateError, StateType};
use praas_protocol::state::{
    Attributes, DELETE_FUNCTION, GET_FUNCTION, LIST_FUNCTION, ListPage, ListQuestion, PUT_FUNCTION, PutHead, Written,
    codes, encode_delete,
};
use praas_protocol::{CallError, Key};

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Debug, Default, Clone, PartialEq)]
struct Note {
    text: String,
    tags: Vec<String>,
}

impl StateType for Note {
    const NAME: &'static str = "note";
    const SCHEMA_VERSION: u32 = 3;
}

/// Notes had no tags.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct NoteOfTwo {
    text: String,
}

impl StateType for NoteOfTwo {
    const NAME: &'static str = "note";
    const SCHEMA_VERSION: u32 = 2;
}

/// And were bytes before.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct NoteOfOne {
    bytes: Vec<u8>,
}

impl StateType for NoteOfOne {
    const NAME: &'static str = "note";
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Default)]
struct Count {
    count: u64,
}

impl StateType for Count {
    const NAME: &'static str = "count";
}

/// Runs a body that asserts; its panic is the test's.
fn check(body: impl Fn(&mut Call<'_>) -> FunctionResult + Copy + Send + Sync + 'static) {
    Harness::new(move || Application::new().function("body", body)).unwrap().invoke("body", b"").unwrap();
}

#[test]
fn workers_share_the_objects_and_no_update_is_lost() {
    let options = HarnessOptions { workers: 4, ..HarnessOptions::default() };
    let harness = Harness::with_options(options, || {
        Application::new()
            .function("count", |call: &mut Call| -> FunctionResult {
                call.context()
                    .update("count", |count: Option<Count>| Count { count: count.unwrap_or_default().count + 1 })?;
                Ok(())
            })
            .function("total", |call: &mut Call| -> FunctionResult<String> {
                Ok(call.context().state::<Count>("count")?.map_or(0, |count| count.count.to_native()).to_string())
            })
    })
    .unwrap();
    assert_eq!(harness.invoke("total", b"").unwrap(), b"0");
    for _ in 0..50 {
        let calls: Vec<_> = (0..8).map(|_| harness.begin("count", b"", None).unwrap()).collect();
        calls.into_iter().for_each(|call| drop(call.wait().unwrap()));
    }
    assert_eq!(harness.invoke("total", b"").unwrap(), b"400");
}

#[test]
fn an_object_in_view_stays_what_it_was_while_newer_versions_come_and_go() {
    check(|call| {
        let context = call.context();
        let first = Note { text: "first".into(), tags: Vec::new() };
        let version = context.put("note", &first)?;
        let seen = context.state::<Note>("note")?.unwrap();
        assert_eq!(seen.version(), version);
        for number in 0..10_000 {
            context.put("note", &Note { text: format!("later {number}"), tags: vec!["tag".into(); number % 7] })?;
        }
        assert!(seen.text == "first" && seen.tags.is_empty());
        assert!(context.delete("note")?);
        assert!(seen.text == "first" && context.state::<Note>("note")?.is_none());
        assert!(!context.delete("note")?, "it was there once");
        Ok(())
    });
}

#[test]
fn missing_differs_from_empty_and_large_values_are_whole() {
    check(|call| {
        let context = call.context();
        assert!(context.state_bytes("empty")?.is_none());
        context.put_bytes("empty", b"")?;
        assert_eq!(context.state_bytes("empty")?.map(|bytes| bytes.len()), Some(0));
        let large: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        context.put_bytes("large", &large)?;
        let seen = context.state_bytes("large")?.unwrap();
        assert!(*seen == *large && seen.as_ptr().addr().is_multiple_of(64));
        let note = Note { text: "x".repeat(100_000), tags: vec!["y".repeat(10_000)] };
        context.put("note", &note)?;
        assert_eq!(context.state::<Note>("note")?.unwrap().text, note.text);
        Ok(())
    });
}

#[test]
fn bytes_are_built_where_they_will_lie_and_an_unpublished_loan_leaves_nothing() {
    check(|call| {
        let context = call.context();
        drop(context.loan_state("never", 100_000)?);
        assert!(context.state_bytes("never")?.is_none());
        let mut loan = context.loan_state("built", 100_000)?;
        loan.fill(7);
        let place = loan.as_ptr();
        loan.publish(Condition::Absent)?;
        let seen = context.state_bytes("built")?.unwrap();
        assert!(seen.as_ptr() == place && seen.iter().all(|&byte| byte == 7) && seen.len() == 100_000);
        Ok(())
    });
}

#[test]
fn conditions_hold_or_are_refused_with_the_version_that_is_there() {
    check(|call| {
        let context = call.context();
        let refused = context.put_bytes_if("key", b"a", Condition::Version(1)).unwrap_err();
        assert_eq!(refused.as_conflict(), Some(None), "{refused}");
        let first = context.put_bytes_if("key", b"a", Condition::Absent)?;
        let refused = context.put_bytes_if("key", b"b", Condition::Absent).unwrap_err();
        assert_eq!(refused.as_conflict(), Some(Some(first)));
        let second = context.put_bytes_if("key", b"b", Condition::Version(first))?;
        assert!(second > first);
        assert_eq!(context.delete_if("key", Condition::Version(first)).unwrap_err().as_conflict(), Some(Some(second)));
        assert!(context.delete_if("key", Condition::Version(second))?);
        assert!(context.put_bytes("key", b"c")? > second, "a version came again");
        Ok(())
    });
}

#[test]
fn another_type_or_schema_is_refused_by_name_and_the_object_stays() {
    check(|call| {
        let context = call.context();
        context.put("count", &Count { count: 7 })?;
        let refused = context.state::<Note>("count").unwrap_err();
        assert!(matches!(&refused, StateError::WrongType { expected: "note", found_version: 1, .. }), "{refused}");
        context.put_bytes("raw", b"bytes")?;
        assert!(matches!(context.state::<Note>("raw"), Err(StateError::WrongType { found_id: 0, .. })));
        context.put("old", &NoteOfTwo { text: "old".into() })?;
        let refused = context.state::<Note>("old").unwrap_err();
        assert!(matches!(&refused, StateError::WrongSchema { expected: 3, found: 2, .. }), "{refused}");
        assert_eq!(context.state::<NoteOfTwo>("old")?.unwrap().text, "old");
        assert_eq!(context.state::<Count>("count")?.unwrap().count, 7);
        for key in ["", "a\n", &"k".repeat(256)] {
            assert!(matches!(context.put_bytes(key, b""), Err(StateError::Key(_))), "{key:?} was accepted");
        }
        Ok(())
    });
}

#[test]
fn old_objects_are_migrated_step_by_step_when_they_are_looked_at() {
    let harness = Harness::new(|| {
        Application::new()
            .migrate(|old: NoteOfTwo| Note { text: old.text, tags: vec!["migrated".into()] })
            .migrate(|older: NoteOfOne| NoteOfTwo { text: String::from_utf8_lossy(&older.bytes).into_owned() })
            .function("old", |call: &mut Call| -> FunctionResult {
                call.context().put("note", &NoteOfOne { bytes: b"hello".into() })?;
                Ok(())
            })
            .function("new", |call: &mut Call| -> FunctionResult<String> {
                let context = call.context();
                let note = context.state::<Note>("note")?.unwrap();
                let again = context.state::<Note>("note")?.unwrap();
                assert_eq!(note.version(), again.version(), "migrated twice");
                assert_eq!(note.tags.len(), 1);
                Ok(note.text.to_string())
            })
    })
    .unwrap();
    harness.invoke("old", b"").unwrap();
    assert_eq!(harness.invoke("new", b"").unwrap(), b"hello");
}

#[test]
fn a_list_is_sorted_filtered_and_paged() {
    check(|call| {
        let context = call.context();
        for number in 0..3_000 {
            context.put_bytes(&format!("a/{number:04}"), b"x")?;
        }
        context.put("b", &Count { count: 1 })?;
        let mut keys = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = context.list("a/", after.as_deref())?;
            keys.extend(page.objects.iter().map(|object| object.key.clone()));
            if !page.more {
                break;
            }
            after = keys.last().cloned();
        }
        assert_eq!(keys, (0..3_000).map(|number| format!("a/{number:04}")).collect::<Vec<_>>());
        let page = context.list("b", None)?;
        let [one] = page.objects.as_slice() else { panic!("{page:?}") };
        assert_eq!((one.attributes.type_id, one.attributes.schema_version), (Count::TYPE_ID, 1));
        assert!(one.attributes.modified_unix_ms > 1_700_000_000_000);
        Ok(())
    });
}

#[test]
fn a_full_state_refuses_with_figures_and_takes_more_once_there_is_room() {
    check(|call| {
        let context = call.context();
        let block = vec![1; 8 << 20];
        let mut number = 0;
        let refused = loop {
            match context.put_bytes(&number.to_string(), &block) {
                Ok(_) => number += 1,
                Err(error) => break error,
            }
            assert!(number < 1000, "nothing is ever full");
        };
        assert!(refused.to_string().contains("state is full: 8388"), "{refused}");
        assert!(context.delete("0")?);
        context.put_bytes("again", &block)?;
        assert!(context.state_bytes("1")?.unwrap().iter().all(|&byte| byte == 1));
        Ok(())
    });
}

#[test]
fn callers_with_the_right_read_and_write_from_outside() {
    let harness = Harness::new(application_of_notes).unwrap();
    let key = Key::new("greeting").unwrap();
    assert_eq!(harness.invoke(GET_FUNCTION, b"greeting").unwrap(), b"");
    let put = |condition, value: &[u8]| {
        let mut payload = PutHead { condition, ..PutHead::default() }.encode(key);
        payload.extend(value);
        Written::decode(&harness.invoke(PUT_FUNCTION, &payload).unwrap()).unwrap()
    };
    let Written::Done { version } = put(Condition::Absent, b"hello") else { panic!("it was refused") };
    assert_eq!(put(Condition::Absent, b"again"), Written::Refused { current: version });
    let answer = harness.invoke(GET_FUNCTION, b"greeting").unwrap();
    let (attributes, value) = Attributes::decode_answer(&answer).unwrap().unwrap();
    assert_eq!((attributes.version, attributes.type_id, value), (version, 0, &b"hello"[..]));
    harness.invoke("write", b"typed").unwrap();
    let question = ListQuestion { prefix: "", after: None }.encode();
    let page = ListPage::decode(&harness.invoke(LIST_FUNCTION, &question).unwrap()).unwrap();
    let keys: Vec<_> = page.objects.iter().map(|object| object.key.as_str()).collect();
    assert_eq!((keys, page.more), (vec!["greeting", "note"], false));
    assert_eq!(page.objects[1].attributes.type_id, Note::TYPE_ID);
    let delete =
        |condition| Written::decode(&harness.invoke(DELETE_FUNCTION, &encode_delete(condition, key)).unwrap()).unwrap();
    assert_eq!(delete(Condition::Version(version + 9)), Written::Refused { current: version });
    assert!(matches!(delete(Condition::Any), Written::Done { version: deleted } if deleted > version));
    assert_eq!(delete(Condition::Any), Written::Done { version: 0 });
}

#[test]
fn what_comes_from_outside_is_checked_and_needs_the_right() {
    let harness = Harness::new(application_of_notes).unwrap();
    for function in [GET_FUNCTION, PUT_FUNCTION, DELETE_FUNCTION, LIST_FUNCTION] {
        let refused = harness.untrusted().invoke(function, b"greeting").unwrap_err();
        assert!(matches!(refused, CallError::Unauthorized { .. }), "{function}: {refused}");
        let refused = harness.invoke(function, b"\xff\xff").unwrap_err();
        let CallError::FunctionFailed { code, .. } = refused else { panic!("{function}: {refused}") };
        assert_eq!(code, codes::BAD_REQUEST, "{function}");
    }
    // Bytes that say they are a note are put, and refused when a function wants to read them.
    let head = PutHead { type_id: Note::TYPE_ID, schema_version: Note::SCHEMA_VERSION, ..PutHead::default() };
    let mut payload = head.encode(Key::new("note").unwrap());
    payload.extend([0xff; 64]);
    harness.invoke(PUT_FUNCTION, &payload).unwrap();
    let refused = harness.invoke("read", b"").unwrap_err().to_string();
    assert!(refused.contains("\"note\" cannot be read"), "{refused}");
}

fn application_of_notes() -> Application {
    Application::new()
        .function("write", |call: &mut Call| -> FunctionResult<String> {
            let text = String::from_utf8(call.input().to_vec())?;
            let version = call.context().put("note", &Note { text, tags: vec!["new".into()] })?;
            Ok(version.to_string())
        })
        .function("read", |call: &mut Call| -> FunctionResult<String> {
            let note = call.context().state::<Note>("note").map_err(FunctionError::from)?;
            Ok(note.map_or("none".into(), |note| format!("{} {}", note.text, note.tags.len())))
        })
}
