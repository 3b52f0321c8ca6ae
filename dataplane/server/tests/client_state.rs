//! State from outside: the client library, over lanes and over TCP, against a real server and real workers that keep objects.

mod common;

use common::network::{address, listening};
use common::stage::{Stage, application, process, status};
use common::{eventually, kill, stage};
use praas_client::{CallError, Client, Condition, ConnectOptions, Process, StateError, StateType, Transport, Written};
use praas_protocol::token::{Claims, Rights, Scope};
use praas_server::DriverChoice;
use rkyv::{Archive, Deserialize, Serialize};

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

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

/// Options of a client that may do this and no more.
fn with_rights(stage: &Stage, rights: Rights) -> ConnectOptions {
    let claims = Claims { principal: "bob".parse().unwrap(), scope: Scope::Any, rights, expires_unix_s: None };
    let token = praas_server::read_secret(stage.path()).unwrap().sign(&claims);
    ConnectOptions::new().data_directory(stage.path()).token(token)
}

fn over_network(stage: &Stage, options: ConnectOptions) -> Client {
    Client::connect(options.address(address(stage).to_string()).transport(Transport::Network)).unwrap()
}

/// Alice by each way that leads to her, for a token with these rights.
fn ways(stage: &Stage, rights: Rights) -> Vec<(&'static str, Process)> {
    let here = Client::connect(with_rights(stage, rights)).unwrap();
    let far = over_network(stage, with_rights(stage, rights));
    let alice = process("alice");
    vec![
        ("untrusted lane", here.process(alice).unwrap()),
        ("TCP", far.process(alice).unwrap()),
        ("dedicated TCP", far.dedicated_process(alice).unwrap()),
    ]
}

const STATE: Rights = Rights::INVOKE.with(Rights::STATE);

/// Alice by every way, the trusted lane first.
fn all_ways(stage: &Stage) -> Vec<(&'static str, Process)> {
    let trusted = stage.client().process(process("alice")).unwrap();
    assert!(trusted.is_trusted());
    [("trusted lane", trusted)].into_iter().chain(ways(stage, STATE)).collect()
}

fn stage_with_alice() -> Stage {
    let stage = Stage::new(application(), listening(DriverChoice::Epoll));
    drop(stage.with_process("alice"));
    stage
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

#[test]
fn objects_are_written_and_read_by_every_way() {
    let stage = stage_with_alice();
    let ways = all_ways(&stage);
    let mut newest = 0;
    for (way, alice) in &ways {
        let state = alice.state();
        for count in [0, 1, 15, 16, 64, 1000, 1024, 1025, 5000, 100_000, (1 << 20) - 48] {
            let value = bytes(count);
            let version = state.put("key", &value).unwrap();
            assert!(version > newest, "{way}: versions never repeat");
            newest = version;
            // What one way writes every way reads.
            for (reader, alice) in &ways {
                let read = alice.state().get("key").unwrap().unwrap();
                assert!(read.as_slice() == value, "{count} bytes by {way}, read by {reader}");
                assert_eq!((read.version(), read.attributes().type_id), (version, 0));
                assert_eq!(read.as_slice().as_ptr().align_offset(16), 0);
            }
        }
        assert!(state.delete("key").unwrap(), "{way}");
        assert!(state.get("key").unwrap().is_none(), "{way}: missing is not empty");
        assert!(!state.delete("key").unwrap(), "{way}");
    }
    drop(ways);
    stage.end();
}

#[test]
fn a_condition_that_does_not_hold_changes_nothing() {
    let stage = stage_with_alice();
    for (way, alice) in all_ways(&stage) {
        let state = alice.state();
        assert_eq!(state.put_if("key", "a", Condition::Version(1)).unwrap(), Written::Refused { current: 0 }, "{way}");
        assert_eq!(state.delete_if("key", Condition::Version(1)).unwrap(), Written::Refused { current: 0 }, "{way}");
        let Written::Done { version } = state.put_if("key", "b", Condition::Absent).unwrap() else { panic!("{way}") };
        let refused = Written::Refused { current: version };
        assert_eq!(state.put_if("key", "c", Condition::Absent).unwrap(), refused, "{way}");
        assert_eq!(state.put_if("key", bytes(5000), Condition::Version(version + 1)).unwrap(), refused, "{way}");
        assert_eq!(state.put_as_if("key", &words(1), Condition::Absent).unwrap(), refused, "{way}");
        assert_eq!(state.delete_if("key", Condition::Version(version + 1)).unwrap(), refused, "{way}");
        assert_eq!(state.get("key").unwrap().unwrap().as_slice(), b"b", "{way}");
        let done = state.put_if("key", "d", Condition::Version(version)).unwrap();
        let Written::Done { version } = done else { panic!("{way}: {done:?}") };
        let Written::Done { version: deletion } = state.delete_if("key", Condition::Version(version)).unwrap() else {
            panic!("{way}")
        };
        assert!(deletion > version && state.get("key").unwrap().is_none(), "{way}");
    }
    stage.end();
}

#[test]
fn typed_objects_are_read_as_what_they_are_and_as_nothing_else() {
    let stage = stage_with_alice();
    let ways = all_ways(&stage);
    for (way, writer) in &ways {
        for count in [0, 1, 20, 40, 1000, 10_000] {
            writer.state().put_as("words", &words(count)).unwrap();
            for (reader, alice) in &ways {
                let read = alice.state().get_as::<Words>("words").unwrap().unwrap();
                assert_eq!(read.get().unwrap().words.len(), count, "by {way}, read by {reader}");
                assert_eq!(read.to_value().unwrap(), words(count));
            }
        }
        writer.state().put("words", bytes(100)).unwrap();
        let refused = writer.state().get_as::<Words>("words").unwrap_err();
        assert!(matches!(refused, StateError::OtherType { .. }), "{way}: {refused}");
        assert!(writer.state().get_as::<Words>("nothing").unwrap().is_none());
    }
    drop(ways);
    stage.end();
}

#[test]
fn a_list_has_every_key_once_in_order_and_only_those_asked_for() {
    const NOTES: usize = 2500;
    let stage = stage_with_alice();
    let ways = all_ways(&stage);
    let alice = ways[0].1.state();
    let mut keys: Vec<String> = (0..NOTES).map(|index| format!("notes/{index}")).collect();
    for key in &keys {
        alice.put(key, key).unwrap();
    }
    for other in ["a", "notes", "notes0", "é", "z"] {
        alice.put(other, "").unwrap();
    }
    alice.put_as("notes/typed", &words(3)).unwrap();
    keys.push("notes/typed".to_owned());
    keys.sort();
    for (way, alice) in &ways {
        let state = alice.state();
        let listed: Vec<_> = state.list("notes/").unwrap().map(Result::unwrap).collect();
        assert!(listed.iter().map(|object| &object.key).eq(&keys), "{way}: {} keys", listed.len());
        let object = listed.iter().find(|object| object.key == "notes/7").unwrap();
        let read = state.get("notes/7").unwrap().unwrap();
        assert_eq!((object.attributes, object.attributes.value_bytes), (read.attributes(), 7));
        let typed = listed.last().unwrap().attributes;
        assert_eq!((typed.type_id, typed.schema_version), (Words::TYPE_ID, 2));
        assert_eq!(state.list("").unwrap().count(), NOTES + 6, "{way}");
        assert_eq!(state.list("nothing").unwrap().count(), 0, "{way}");
    }
    drop(ways);
    stage.end();
}

#[test]
fn without_the_right_nothing_is_read_or_written() {
    let stage = stage_with_alice();
    stage.client().process(process("alice")).unwrap().state().put("secret", "of alice").unwrap();
    for rights in [Rights::INVOKE, Rights::INVOKE.with(Rights::MANAGE).with(Rights::TRUSTED)] {
        for (way, alice) in ways(&stage, rights) {
            let state = alice.state();
            let refused = StateError::Unauthorized { process: process("alice") };
            assert_eq!(state.get("secret").unwrap_err(), refused, "{way}");
            assert_eq!(state.put("secret", "of eve").unwrap_err(), refused, "{way}");
            assert_eq!(state.delete("secret").unwrap_err(), refused, "{way}");
            assert_eq!(state.list("").unwrap().next().unwrap().unwrap_err(), refused, "{way}");
            assert_eq!(alice.invoke("echo", "calls go on").unwrap().as_slice(), b"calls go on", "{way}");
        }
    }
    let alice = stage.client().process(process("alice")).unwrap();
    assert_eq!(alice.state().get("secret").unwrap().unwrap().as_slice(), b"of alice");
    drop(alice);
    stage.end();
}

#[test]
fn what_was_put_survives_killed_workers_and_restarts_and_ends_with_its_process() {
    let stage = stage_with_alice();
    let client = stage.client();
    let alice = client.process(process("alice")).unwrap();
    let state = alice.state();
    let mut versions = Vec::new();
    for round in 0..4_u8 {
        versions.push(state.put(&format!("round {round}"), [round; 3000]).unwrap());
        let worker = status(&client, "alice").worker_pids[0];
        if round == 2 {
            client.restart(process("alice")).unwrap();
        } else {
            kill(worker);
        }
        eventually("another worker serves", || {
            let status = status(&client, "alice");
            status.worker_pids.first().is_some_and(|&pid| pid != worker)
        });
        for (index, &version) in (0..=round).zip(&versions) {
            // A call that the killed worker had taken is lost; one that reads can be repeated.
            let mut read = None;
            eventually("it is read", || match state.get(&format!("round {index}")) {
                Ok(value) => {
                    read = value;
                    true
                }
                Err(StateError::Call(CallError::WorkerLost)) => false,
                Err(error) => panic!("{error}"),
            });
            let read = read.expect("it is there");
            assert_eq!((read.version(), read.as_slice()), (version, &[index; 3000][..]));
        }
    }
    assert!(versions.is_sorted() && state.list("").unwrap().count() == 4);
    client.stop(process("alice")).unwrap();
    client.create(process("alice")).unwrap();
    assert_eq!(state.list("").unwrap().count(), 0, "a new process has no objects");
    drop((alice, client));
    stage.end();
}

#[test]
fn a_full_state_refuses_with_figures_and_takes_more_when_something_is_deleted() {
    let mut application = application();
    application.limits.state_bytes_max = 1 << 20;
    let stage = Stage::new(application, listening(DriverChoice::Epoll));
    drop(stage.with_process("alice"));
    for (way, alice) in all_ways(&stage) {
        let state = alice.state();
        let mut put = 0;
        let full = loop {
            match state.put(&format!("object {put}"), vec![put; 60_000]) {
                Ok(_) => put += 1,
                Err(error) => break error,
            }
            assert!(put < 20, "{way}: more was put than there is room for");
        };
        assert!(put >= 8, "{way}: {put} objects fit");
        let StateError::Full { message } = &full else { panic!("{way}: {full}") };
        assert!(message.chars().any(|character| character.is_ascii_digit()), "{way}: {message}");
        for index in 0..put {
            assert_eq!(
                state.get(&format!("object {index}")).unwrap().unwrap().as_slice(),
                vec![index; 60_000],
                "{way}"
            );
        }
        assert!(state.delete("object 3").unwrap() && state.delete("object 4").unwrap());
        state.put("another", vec![9; 60_000]).unwrap();
        for object in state.list("").unwrap() {
            assert!(state.delete(&object.unwrap().key).unwrap());
        }
    }
    stage.end();
}

#[test]
fn no_change_of_several_writers_is_lost() {
    const CHANGES: u64 = 200;
    let mut application = application();
    (application.workers_min, application.workers_max) = (2, 2);
    let stage = Stage::new(application, listening(DriverChoice::Epoll));
    drop(stage.with_process("alice"));
    let ways = all_ways(&stage);
    std::thread::scope(|scope| {
        for (way, alice) in &ways {
            scope.spawn(move || (0..CHANGES).for_each(|_| add_one(way, alice)));
        }
    });
    let counted = ways[0].1.state().get("counter").unwrap().unwrap();
    assert_eq!(number(&counted), CHANGES * ways.len() as u64);
    drop(counted);
    drop(ways);
    stage.end();
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

fn add_one(way: &str, alice: &Process) {
    let state = alice.state();
    loop {
        let (count, condition) = match state.get("counter").unwrap() {
            Some(value) => (number(&value), Condition::Version(value.version())),
            None => (0, Condition::Absent),
        };
        match state.put_if("counter", (count + 1).to_le_bytes(), condition) {
            Ok(Written::Done { .. }) => return,
            Ok(Written::Refused { .. }) => {}
            Err(error) => panic!("{way}: {error}"),
        }
    }
}
