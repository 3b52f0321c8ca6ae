//! Sessions of clients: the client library, over lanes and over TCP, against a real server and real workers that answer.

mod common;

use std::time::Duration;

use common::answering::{self, told};
use common::lingering::{self, end_cleanly, start_server};
use common::mails::{ask, mailing, processes};
use common::network::{address, listening, with_each_driver};
use common::stage::{Stage, process};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, stage};
use praas_client::{Client, ConnectOptions, RecvError, SendError, Session, SessionError, Sources, Transport};
use praas_protocol::token::{Claims, Rights, Scope};
use praas_server::DriverChoice;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => answering::serve(),
        Ok("lingering server") if !is_keeper_socket(&std::io::stdin()) => {
            let mut application = mailing();
            (application.workers_min, application.workers_max) = (2, 2);
            lingering::play_server(application);
        }
        _ => stage::play(),
    }
}

/// Options of a client that may do this, there.
fn with_rights(stage: &Stage, rights: Rights, scope: Scope) -> ConnectOptions {
    let claims = Claims { principal: "bob".parse().unwrap(), scope, rights, expires_unix_s: None };
    let token = praas_server::read_secret(stage.path()).unwrap().sign(&claims);
    ConnectOptions::new().data_directory(stage.path()).token(token)
}

fn over_network(stage: &Stage, options: ConnectOptions) -> Client {
    Client::connect(options.address(address(stage).to_string()).transport(Transport::Network)).unwrap()
}

/// A client for each way to the server; those but the first have no other right than to exchange messages.
fn ways(stage: &Stage) -> Vec<(&'static str, Client)> {
    let messages = || with_rights(stage, Rights::MESSAGES, Scope::Application("hello".parse().unwrap()));
    vec![
        ("trusted lane", stage.client()),
        ("untrusted lane", Client::connect(messages()).unwrap()),
        ("TCP", over_network(stage, messages())),
    ]
}

fn begin(client: &Client) -> Session {
    client.session("hello".parse().unwrap()).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn messages_of_every_size_go_to_a_process_and_back_by_every_way() {
    with_each_driver(|driver| {
        let stage = Stage::new(mailing(), listening(driver));
        let client = stage.client();
        let [alice] = processes(&client, ["alice"]);
        let ways = ways(&stage);
        for (way, client) in &ways {
            let session = begin(client);
            assert!(session.try_recv(Sources::Any, "answers").unwrap().is_none(), "{way}");
            for bytes in [0, 1, 15, 64, 1000, 1025, 70_000, 900_000] {
                let sent: Vec<u8> = (0..bytes).map(|index| u8::try_from(index % 251).unwrap()).collect();
                let answering = alice.call("answer").payload(b"questions").start().unwrap();
                session.send("alice", "questions", &sent).unwrap();
                let peeked = |session: &Session| session.peek("alice", "answers").unwrap();
                let message = session.recv("alice", "answers", PATIENCE).unwrap();
                answering.wait().unwrap();
                assert!(message.bytes() == sent && !message.is_redelivered(), "{bytes} bytes by {way}");
                assert_eq!((message.source(), message.key()), ("alice".parse().unwrap(), "answers"));
                assert!(peeked(&session).is_none(), "what is held is not shown");
                message.accept().unwrap();
            }
            session.end().unwrap();
        }
        drop((ways, alice, client));
        stage.end();
    });
}

#[test]
fn messages_come_in_their_order_whoever_waits_for_them() {
    const COUNT: u64 = 400;
    let stage = Stage::new(mailing(), listening(DriverChoice::Epoll));
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    let ways = ways(&stage);
    for (way, client) in &ways {
        let session = begin(client);
        let telling = [(&alice, 0), (&bob, 5000)].map(|(process, from)| {
            let order = format!("{} numbers {from} {COUNT} 4", told(&session));
            process.call("tell").payload(order).deadline(PATIENCE).start().unwrap()
        });
        for number in 0..COUNT {
            let message = session.recv("alice", "numbers", PATIENCE).unwrap();
            assert_eq!(text(&message), format!("{number:04}"), "{way}");
            message.accept().unwrap();
        }
        for number in 5000..5000 + COUNT {
            let message = session.recv(Sources::Any, "numbers", PATIENCE).unwrap();
            assert_eq!(text(&message), number.to_string(), "{way}");
            // Later ones come although this one is still held.
            if number % 7 == 0 {
                message.accept().unwrap();
            }
        }
        telling.into_iter().for_each(|one| drop(one.wait().unwrap()));
        let nothing = session.recv(&["alice".parse().unwrap()], "numbers", Duration::from_millis(30)).unwrap_err();
        assert!(matches!(nothing, RecvError::DeadlineExceeded { .. }), "{way}: {nothing}");

        for number in 0..COUNT {
            session.send_within("alice", "back", number.to_string().as_bytes(), PATIENCE).unwrap();
        }
        let expected: Vec<_> = (0..COUNT).map(|number| number.to_string()).collect();
        assert_eq!(ask(&alice, "all", "back").unwrap(), expected.join(" "), "{way}");
        session.end().unwrap();
    }
    drop((ways, alice, bob, client));
    stage.end();
}

#[test]
fn what_was_not_accepted_comes_again_to_who_goes_on_with_the_session() {
    let stage = Stage::new(mailing(), listening(DriverChoice::Epoll));
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let ways = ways(&stage);
    // From each way to each other.
    for (from, first) in &ways {
        for (to, second) in &ways {
            let session = begin(first);
            ask(&alice, "tell", &format!("{} numbers 0 5 1", told(&session))).unwrap();
            let receive = |session: &Session| session.recv("alice", "numbers", PATIENCE).unwrap();
            let [zero, one, two] = [0, 1, 2].map(|_| receive(&session));
            one.accept().unwrap();
            let ticket = session.ticket().to_string();
            drop((zero, two, session));
            ask(&alice, "tell", &format!("{} numbers 5 1 1", ticket.split(':').nth(2).unwrap())).unwrap();

            let session = second.resume_session(&ticket.parse().unwrap()).unwrap();
            let mut came = Vec::new();
            for _ in 0..5 {
                let message = receive(&session);
                came.push(format!("{}{}", text(&message), if message.is_redelivered() { "!" } else { "" }));
                message.accept().unwrap();
            }
            assert_eq!(came, ["0!", "2!", "3", "4", "5"], "from {from} to {to}");
            // And numbers of its own messages go on.
            session.send("alice", "again", b"x").unwrap();
            assert_eq!(ask(&alice, "all", "again").unwrap(), "x");
            session.end().unwrap();
        }
    }
    drop((ways, alice, client));
    stage.end();
}

#[test]
fn a_released_message_comes_again_and_with_it_those_behind_it() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let session = begin(&client);
    ask(&alice, "tell", &format!("{} numbers 0 4 1", told(&session))).unwrap();
    let receive = || session.recv("alice", "numbers", PATIENCE).unwrap();
    let [zero, one, two] = [0, 1, 2].map(|_| receive());
    zero.accept().unwrap();
    one.release().unwrap();
    for expected in ["1!", "2!", "3"] {
        let message = receive();
        assert_eq!(format!("{}{}", text(&message), if message.is_redelivered() { "!" } else { "" }), expected);
        message.accept().unwrap();
    }
    // It was accepted meanwhile, when it came again.
    assert!(matches!(two.accept(), Err(RecvError::NotHeld)));
    drop((session, alice, client));
    stage.end();
}

#[test]
fn clients_exchange_messages_with_each_other() {
    let stage = Stage::new(mailing(), listening(DriverChoice::Epoll));
    let ways = ways(&stage);
    let sessions: Vec<_> = ways.iter().map(|(way, client)| (way, begin(client))).collect();
    for (from, sender) in &sessions {
        for (to, receiver) in &sessions {
            for bytes in [3, 5000, 500_000] {
                let id = sender.send(receiver.address(), "k", &vec![7; bytes]).unwrap();
                let message = receiver.recv(sender.id(), "k", PATIENCE).unwrap();
                assert!(message.bytes() == vec![7; bytes] && message.id() == id, "{bytes} bytes from {from} to {to}");
                message.accept().unwrap();
            }
        }
    }
    let (_, gone) = &sessions[0];
    gone.end().unwrap();
    let (_, left) = &sessions[1];
    eventually("nobody is there", || match left.send(gone.address(), "k", b"x") {
        Ok(_) => false,
        Err(SendError::UnknownDestination { to }) => to == gone.address(),
        Err(error) => panic!("{error}"),
    });
    let over = gone.send(left.address(), "k", b"x").unwrap_err();
    assert!(matches!(over, SendError::Session(SessionError::Ended { .. })), "{over}");
    drop(sessions);
    drop(ways);
    stage.end();
}

#[test]
fn a_full_mailbox_refuses_or_is_waited_for() {
    let mut application = mailing();
    application.limits.state_bytes_max = 1 << 20;
    let stage = Stage::new(application, listening(DriverChoice::Epoll));
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let ways = ways(&stage);
    for (way, client) in &ways {
        let session = begin(client);
        let letter = vec![7; 100_000];
        let mut sent = 0;
        let full = loop {
            match session.send("alice", "much", &letter) {
                Ok(_) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 1000, "{way}: it must be full some time");
        };
        assert!(full.is_full() && sent > 0, "{way}: {full}");
        let late = session.send_within("alice", "much", &letter, Duration::from_millis(50)).unwrap_err();
        assert!(late.is_full(), "{way}: {late}");
        // Others are not held up by that.
        let other = begin(client);
        session.send(other.address(), "k", b"x").unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| session.send_within("alice", "much", &letter, PATIENCE));
            ask(&alice, "take", &format!("much {sent}")).unwrap();
            waiting.join().unwrap().unwrap();
        });
        ask(&alice, "take", "much 1").unwrap();
        assert_eq!(ask(&alice, "all", "much").unwrap(), "", "{way}: nothing of what was refused came");
        session.end().unwrap();
        other.end().unwrap();
    }
    drop((ways, alice, client));
    stage.end();
}

#[test]
fn who_may_not_is_told_so() {
    let stage = Stage::new(mailing(), listening(DriverChoice::Epoll));
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    let only_alice = || with_rights(&stage, Rights::MESSAGES, Scope::Process(process("alice")));
    let no_right = || with_rights(&stage, Rights::INVOKE.with(Rights::STATE), Scope::Any);
    for far in [false, true] {
        let connect = |options| if far { over_network(&stage, options) } else { Client::connect(options).unwrap() };
        let refused = connect(no_right()).session("hello".parse().unwrap()).unwrap_err();
        assert!(matches!(refused, SessionError::Unauthorized { .. }), "{refused}");
        assert!(refused.to_string().contains("--rights messages"), "{refused}");
        let unknown = stage.client().session("nothing".parse().unwrap()).unwrap_err();
        assert!(unknown.to_string().contains("nothing"), "{unknown}");
        let session = begin(&connect(only_alice()));
        session.send("alice", "k", b"x").unwrap();
        let refused = session.send("bob", "k", b"x").unwrap_err();
        assert!(matches!(refused, SendError::Unauthorized { .. }), "{refused}");
        let nobody = begin(&stage.client()).send("nobody", "k", b"x").unwrap_err();
        assert!(matches!(nobody, SendError::UnknownDestination { .. }), "{nobody}");
        session.end().unwrap();
        assert_eq!(ask(&alice, "all", "k").unwrap(), "x");
        assert_eq!(ask(&bob, "all", "k").unwrap(), "");
    }
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn a_ticket_is_for_one_client_at_a_time_and_another_secret_opens_nothing() {
    let stage = Stage::new(mailing(), listening(DriverChoice::Epoll));
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let ways = ways(&stage);
    for (way, client) in &ways {
        let first = begin(client);
        let ticket = first.ticket();
        let text = ticket.to_string();
        let (head, secret) = text.rsplit_once(':').unwrap();
        let digit = if secret.ends_with('0') { '1' } else { '0' };
        let wrong = format!("{head}:{}{digit}", &secret[..31]).parse().unwrap();
        let refused = client.resume_session(&wrong).unwrap_err();
        assert!(matches!(refused, SessionError::Lapsed { .. }), "{way}: {refused}");

        let second = client.resume_session(&ticket).unwrap();
        let over = first.try_recv(Sources::Any, "k").unwrap_err();
        assert!(matches!(over, RecvError::Session(SessionError::TakenOver { .. })), "{way}: {over}");
        let over = first.send("alice", "k", b"x").unwrap_err();
        assert!(matches!(over, SendError::Session(SessionError::TakenOver { .. })), "{way}: {over}");
        second.send("alice", "k", b"y").unwrap();
        assert_eq!(ask(&alice, "all", "k").unwrap(), "y");
        drop(first);
        second.end().unwrap();
    }
    drop((ways, alice, client));
    stage.end();
}

#[test]
fn a_session_that_was_left_lapses_and_one_that_is_used_does_not() {
    let linger = Duration::from_millis(300);
    let stage = Stage::new(mailing(), |options| {
        listening(DriverChoice::Epoll)(options);
        options.session_linger = linger;
    });
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let ways = ways(&stage);
    for (way, client) in &ways {
        let (kept, left) = (begin(client), begin(client));
        let ticket = left.ticket();
        drop(left);
        let address = ticket.address();
        eventually("it lapses", || matches!(kept.send(address, "k", b"x"), Err(SendError::UnknownDestination { .. })));
        let refused = client.resume_session(&ticket).unwrap_err();
        assert!(matches!(refused, SessionError::Lapsed { .. }), "{way}: {refused}");
        std::thread::sleep(linger);
        ask(&alice, "tell", &format!("{} k 0 1 1", told(&kept))).unwrap();
        kept.recv("alice", "k", PATIENCE).unwrap().accept().unwrap();
    }
    drop((ways, alice, client));
    stage.end();
}

#[test]
fn a_session_goes_on_after_a_killed_server_and_loses_nothing() {
    let stage = Stage::empty();
    let mut server = start_server(&stage);
    if server.is_none() {
        return stage.end();
    }
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let session = begin(&client);
    let address = session.address();
    for round in 0..3 {
        ask(&alice, "tell", &format!("{} numbers {round}0 4 2", told(&session))).unwrap();
        let receive = || session.recv("alice", "numbers", PATIENCE).unwrap();
        receive().accept().unwrap();
        let held = receive();
        session.send("alice", "back", format!("{round}a").as_bytes()).unwrap();
        server.take().unwrap().kill();
        let sending = std::thread::scope(|scope| {
            let sending =
                scope.spawn(|| session.send_within("alice", "back", format!("{round}b").as_bytes(), PATIENCE));
            server = start_server(&stage);
            sending.join().unwrap()
        });
        sending.unwrap();
        assert_eq!(text(&held), format!("{round}1"), "what was received is still here");
        for expected in [format!("{round}1!"), format!("{round}2"), format!("{round}3")] {
            let message = receive();
            assert_eq!(format!("{}{}", text(&message), if message.is_redelivered() { "!" } else { "" }), expected);
            message.accept().unwrap();
        }
        assert_eq!(session.address(), address);
        assert_eq!(ask(&alice, "all", "back").unwrap(), format!("{round}a {round}b"));
    }
    drop((session, alice, client));
    end_cleanly(server.unwrap(), stage);
}
