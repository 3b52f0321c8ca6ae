//! Other servers that lie, break the rules, or have no right to what they ask for: they spoil nothing but their own.

mod common;

use std::time::Duration;

use common::bringing::{Fate, INCARNATION, Watcher, message};
use common::client::Client;
use common::mails::{self, ask, mailing, processes};
use common::network::{address, listening, token};
use common::random::Random;
use common::remote::Remote;
use common::stage::{Stage, process};
use common::{ROLE, eventually, is_keeper_socket, stage};
use praas_protocol::control::{ClientMessage, ClientRequest, ControlError, ServerMessage};
use praas_protocol::message::{
    AWAIT_ROOM_FUNCTION, Address, DELIVER_FUNCTION, DELIVER_NEXT_FUNCTION, MessageId, PutHead, SessionId, codes,
    encode_room,
};
use praas_protocol::token::{Claims, Rights, Scope, Secret};
use praas_protocol::wire::GoawayReason;
use praas_protocol::{Key, Outcome};
use praas_server::DriverChoice;

#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => mails::serve(),
        _ => stage::play(),
    }
}

fn listening_stage() -> Stage {
    Stage::new(mailing(), listening(DriverChoice::Auto))
}

fn signed(stage: &Stage, scope: Scope, rights: Rights) -> String {
    let own: Secret = praas_server::read_secret(stage.path()).unwrap();
    own.sign(&Claims { principal: "peer".parse().unwrap(), scope, rights, expires_unix_s: None })
}

const OF_PEERS: Rights = Rights::INVOKE.with(Rights::TRUSTED).with(Rights::STATE).with(Rights::MESSAGES);

#[test]
fn only_tokens_that_share_the_trust_domain_speak_in_the_name_of_others() {
    let stage = listening_stage();
    let client = stage.client();
    let [bob] = processes(&client, ["bob"]);
    let application = || Scope::Application("hello".parse().unwrap());
    let untrusted = Rights::INVOKE.with(Rights::STATE).with(Rights::MESSAGES);
    let tokens = [
        signed(&stage, application(), untrusted),
        signed(&stage, Scope::Application("other".parse().unwrap()), OF_PEERS),
        // Its own process it speaks for, others not.
        signed(&stage, Scope::Process(process("bob")), OF_PEERS),
        signed(&stage, Scope::Process(process("alice")), OF_PEERS),
    ];
    for token in tokens {
        let mut remote = Remote::with_token(address(&stage), &token).0;
        let refused = remote.try_open_as(1, "alice", "bob").unwrap_err();
        assert!(format!("{:?}", refused.frame()).contains("trusted"), "{:?}", refused.frame());
    }
    let mut remote = Remote::with_token(address(&stage), &signed(&stage, application(), OF_PEERS)).0;
    let handle = remote.open_as("alice", "bob");
    assert_eq!(remote.deliver(handle, &message("alice", 1, "k", b"hello")), Fate::Accepted);
    // With fewer rights than a peer needs, what is lacking is refused where it is asked for.
    let calls_only = signed(&stage, application(), Rights::INVOKE.with(Rights::TRUSTED));
    let mut caller = Remote::with_token(address(&stage), &calls_only).0;
    let its = caller.open_as("carol", "bob");
    assert_eq!(caller.deliver(its, &message("carol", 1, "k", b"")), Fate::Other(Outcome::Unauthorized));
    let messages_only = signed(&stage, application(), Rights::MESSAGES.with(Rights::TRUSTED));
    let mut sender = Remote::with_token(address(&stage), &messages_only).0;
    let its = sender.open_as("carol", "bob");
    assert_eq!(sender.call(its, "all", b"* k").0, Outcome::Unauthorized);
    assert_eq!(sender.deliver(its, &message("carol", 1, "k", b"hello")), Fate::Accepted);
    assert_eq!(ask(&bob, "all", "alice k").unwrap(), "alice:hello");
    assert_eq!(ask(&bob, "all", "* k").unwrap(), "carol:hello");
    drop((remote, caller, sender, bob, client));
    stage.end();
}

#[test]
fn a_message_in_another_name_than_its_handle_is_refused() {
    let stage = listening_stage();
    let client = stage.client();
    let [bob] = processes(&client, ["bob"]);
    let mut remote = Remote::connect(&stage);
    let handle = remote.open_as("alice", "bob");
    assert_eq!(remote.deliver(handle, &message("alice", 1, "k", b"mine")), Fate::Accepted);
    let sources: [(Address, u64); 4] = [
        ("carol".parse().unwrap(), INCARNATION),
        ("bob".parse().unwrap(), INCARNATION),
        (SessionId(7).into(), INCARNATION),
        ("alice".parse().unwrap(), INCARNATION + 1),
    ];
    for (source, incarnation) in sources {
        for bytes in [5, 3000, 200_000] {
            let id = MessageId { incarnation, sequence: 2 };
            let payload = PutHead { source, id, key: Key::new("k").unwrap() }.encode(&vec![1; bytes]);
            let fate = remote.deliver_once(handle, &payload);
            assert_eq!(fate, Fate::Failed(codes::BAD_REQUEST), "{source} {incarnation} {bytes}");
        }
    }
    // An ordinary handle delivers nothing: there it is the name of a function that nobody has.
    let plain = remote.open(process("bob"));
    for function in [DELIVER_FUNCTION, DELIVER_NEXT_FUNCTION, AWAIT_ROOM_FUNCTION] {
        let (outcome, _) = remote.call(plain, function, &message("alice", 9, "k", b""));
        assert_ne!(outcome, Outcome::Ok, "{function}");
    }
    assert_eq!(ask(&bob, "all", "* k").unwrap(), "alice:mine");
    drop((remote, bob, client));
    stage.end();
}

#[test]
fn payloads_of_any_bytes_spoil_nothing() {
    let stage = listening_stage();
    let client = stage.client();
    let [bob] = processes(&client, ["bob"]);
    let mut remote = Remote::connect(&stage);
    let handle = remote.open_as("alice", "bob");
    assert_eq!(remote.deliver(handle, &message("alice", 1, "k", b"first")), Fate::Accepted);
    let mut random = Random::printed("payloads of deliveries");
    let honest = [message("alice", 2, "k", &[1; 100]), message("alice", 2, "k", &vec![1; 60_000])];
    for turn in 0..600 {
        let mut payload = honest[turn % 2].clone();
        match random.below(3) {
            // Cut somewhere in its head.
            0 => payload.truncate(usize::try_from(random.below(96)).unwrap()),
            1 => payload = random.below(30_000).try_into().map(|count| random.bytes(count)).unwrap(),
            _ => {
                // Source or incarnation; the sequence may be any, and a longer head is one.
                let at = usize::try_from(random.below(72)).unwrap();
                payload[at] ^= 1 << random.below(8);
            }
        }
        let function = [DELIVER_FUNCTION, DELIVER_NEXT_FUNCTION, AWAIT_ROOM_FUNCTION][turn % 3];
        let id = remote.start_within(handle, function, &payload, Duration::from_millis(1));
        let (response, answer) = remote.end_of(id);
        assert_ne!(
            response.outcome(),
            Some(Outcome::Ok),
            "turn {turn}: {answer:?} to {:?}",
            &payload[..payload.len().min(120)]
        );
    }
    assert_eq!(remote.deliver(handle, &message("alice", 2, "k", b"last")), Fate::Accepted);
    assert_eq!(ask(&bob, "all", "* k").unwrap(), "alice:first alice:last");
    drop((remote, bob, client));
    stage.end();
}

#[test]
fn a_link_takes_no_more_handles_and_waits_than_it_may_and_gives_them_all_back() {
    let stage = listening_stage();
    let client = stage.client();
    let [bob] = processes(&client, ["bob"]);
    for turn in 0..3 {
        let mut remote = Remote::connect(&stage);
        let ids: Vec<_> =
            (0..40).map(|number| remote.ask_to_open_as(1, &format!("p{number}"), "bob".parse().unwrap())).collect();
        for id in ids {
            let came = remote.answer_to(id);
            assert!(matches!(came.frame(), praas_protocol::wire::Frame::Opened(_)), "{:?}", came.frame());
        }
        let mut handles = 40;
        let refused = loop {
            match remote.try_open_as(1, &format!("p{}", handles % 100), "bob") {
                Ok(_) => handles += 1,
                Err(refused) => break refused,
            }
        };
        assert_eq!(handles, 1024);
        assert!(format!("{:?}", refused.frame()).contains("handles"), "{:?}", refused.frame());
        // As many ask for room as may be in flight; the next breaks the rules.
        let first = turn * 10_000;
        assert_eq!(remote.deliver(1, &message("p0", first, "full", b"")), Fate::Accepted);
        for sequence in first + 1.. {
            if remote.deliver_once(1, &message("p0", sequence, "full", b"")) != Fate::Accepted {
                break;
            }
        }
        for _ in 0..256 {
            remote.start(1, AWAIT_ROOM_FUNCTION, &encode_room(10));
        }
        remote.start(1, AWAIT_ROOM_FUNCTION, &encode_room(10));
        assert_eq!(remote.farewell().0, GoawayReason::Limit);
        drop(remote);
        // What it sent is accepted, and received.
        let taken = ask(&bob, "all", "p0 full").unwrap();
        assert!(taken.split(' ').count() >= 1000, "{}", taken.len());
    }
    drop((bob, client));
    stage.end();
}

#[test]
fn only_the_server_itself_opens_lanes_in_the_name_of_others() {
    let stage = listening_stage();
    drop(stage.with_process("bob"));
    let name = "alice".parse().unwrap();
    let lane = |payload_bytes| ClientRequest::MessageLaneOpen {
        process: process("bob"),
        source: Address::Process(name),
        incarnation: 1,
        payload_bytes,
    };
    let calls = ClientRequest::LaneOpen {
        process: process("bob"),
        payload_bytes_max: None,
        calls_in_flight: None,
        on_behalf: Some(name),
    };
    let ask_for = |client: &mut Client, body: &ClientRequest| {
        let number = client.ask(body.clone());
        client.await_answer(number).0
    };
    let mut stranger = Client::connect(stage.path());
    for body in [lane(10), calls.clone()] {
        match ask_for(&mut stranger, &body) {
            ServerMessage::Failed { error: ControlError::Protocol { .. }, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    // The server's own sessions are bound by the token that they speak for.
    let untrusted = signed(&stage, Scope::Any, Rights::INVOKE.with(Rights::MESSAGES));
    let mut own = Client::network(stage.path(), untrusted).unwrap();
    for body in [lane(10), calls.clone(), ClientRequest::DirectoryWatch { after: 0 }] {
        match ask_for(&mut own, &body) {
            ServerMessage::Failed { error: ControlError::Unauthorized { right, .. }, .. } => {
                assert_eq!(right, "trusted");
            }
            other => panic!("{other:?}"),
        }
    }
    drop(own);
    let mut own = Client::network(stage.path(), token(&stage)).unwrap();
    assert!(matches!(ask_for(&mut own, &calls), ServerMessage::LaneOpened { .. }));
    let opened = (0..2).map(|_| match ask_for(&mut own, &lane(10)) {
        ServerMessage::MessageLaneOpened { serial, .. } => serial,
        other => panic!("{other:?}"),
    });
    let serials: Vec<_> = opened.collect();
    // One to grow into, no more; a lane that is closed makes room for another.
    match ask_for(&mut own, &lane(10)) {
        ServerMessage::Failed { error: ControlError::LimitReached { what, .. }, .. } => {
            assert!(what.contains("into one mailbox"), "{what}");
        }
        other => panic!("{other:?}"),
    }
    let close = ClientMessage::MessageLaneClose { serial: serials[0] };
    own.send_bytes(&praas_protocol::codec::encode(&close).unwrap());
    own.send_bytes(&praas_protocol::codec::encode(&close).unwrap());
    assert!(matches!(ask_for(&mut own, &lane(10)), ServerMessage::MessageLaneOpened { .. }));
    match ask_for(&mut own, &lane(u32::MAX)) {
        ServerMessage::Failed { error: ControlError::LimitReached { limit, asked, .. }, .. } => {
            assert_eq!((limit, asked), (1 << 20, u32::MAX.into()));
        }
        other => panic!("{other:?}"),
    }
    // All of them go with the session.
    drop((own, stranger));
    eventually("the lanes are removed", || {
        let metrics = stage.server().metrics().unwrap();
        metrics.message_lanes_removed == metrics.message_lanes_opened
    });
    stage.end();
}

#[test]
fn what_is_watched_is_what_the_token_covers() {
    let stage = listening_stage();
    let client = stage.client();
    drop(processes(&client, ["alice", "bob"]));
    let told = |token: &str| {
        let mut remote = Remote::with_token(address(&stage), token).0;
        let mut watcher = Watcher::default();
        watcher.look(&mut remote);
        watcher.known.into_keys().map(|address| address.to_string()).collect::<Vec<_>>()
    };
    let application = Scope::Application("hello".parse().unwrap());
    assert_eq!(told(&signed(&stage, application.clone(), OF_PEERS)), ["alice", "bob"]);
    assert_eq!(told(&signed(&stage, Scope::Process(process("bob")), OF_PEERS)), ["bob"]);
    assert!(told(&signed(&stage, Scope::Application("other".parse().unwrap()), OF_PEERS)).is_empty());
    let mut remote = Remote::with_token(address(&stage), &signed(&stage, application, Rights::MANAGE)).0;
    let id = Watcher::default().ask(&mut remote);
    let came = remote.answer_to(id);
    assert!(format!("{:?}", came.frame()).contains("trusted"), "{:?}", came.frame());
    drop((remote, client));
    stage.end();
}
