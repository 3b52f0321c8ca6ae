//! Clients' sessions: messages to and from them, what is held, what comes back, who may have them, and when they end.

mod common;

use std::time::{Duration, Instant};

use common::client::Client;
use common::lingering::{self, end_cleanly, start_server};
use common::mails::{self, ask, mailing, processes};
use common::remote::Remote;
use common::sessions::{Letter, Session};
use common::stage::{Stage, process};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, network, stage};
use praas_client::CallError;
use praas_function::{Call, FunctionResult};
use praas_protocol::control::{ClientRequest, ControlError, ServerMessage, SessionTicket};
use praas_protocol::limits::LANES_PER_CLIENT_MAX;
use praas_protocol::message::{
    AWAIT_ROOM_FUNCTION, Accepted, Address, DELIVER_FUNCTION, MessageId, PUT_FUNCTION, PutHead, SessionId, codes,
};
use praas_protocol::session::{
    ACCEPT_FUNCTION, END_FUNCTION, RECV_FUNCTION, RELEASE_FUNCTION, ReceivedHead, RecvQuestion, SEND_FUNCTION, SendHead,
};
use praas_protocol::token::{Claims, Rights, Scope};
use praas_protocol::wire::{Close, Frame, OpenSession, SessionOpened};
use praas_protocol::{Key, Outcome, PING_FUNCTION};

const AT_ONCE: Duration = Duration::ZERO;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => {
            let application = mails::functions(praas_function::Application::new());
            application.function("post", post).function("answer", answer).run();
        }
        Ok("lingering server") if !is_keeper_socket(&std::io::stdin()) => lingering::play_server(mailing()),
        _ => stage::play(),
    }
}

/// Sends texts to a session: its number, the key, the texts.
fn post(call: &mut Call<'_>) -> FunctionResult<()> {
    let text = std::str::from_utf8(call.input())?.to_owned();
    let mut words = text.split(' ');
    let session = SessionId(u128::from_str_radix(words.next().unwrap_or_default(), 16)?);
    let key = words.next().unwrap_or_default();
    for text in words {
        call.context().send_within(Address::Client(session), key, text.as_bytes(), PATIENCE)?;
    }
    Ok(())
}

/// Receives from whoever sends, and sends the same back.
fn answer(call: &mut Call<'_>) -> FunctionResult<()> {
    let key = std::str::from_utf8(call.input())?.to_owned();
    let context = call.context();
    let (source, bytes) = {
        let message = context.recv(praas_function::Sources::Any, &key, PATIENCE)?;
        (message.source(), message.bytes().to_vec())
    };
    context.send(source, &key, &bytes)?;
    Ok(())
}

fn address(name: &str) -> Address {
    name.parse().unwrap()
}

fn texts(letters: &[Letter]) -> Vec<(&str, bool)> {
    letters.iter().map(|letter| (letter.text.as_str(), letter.redelivered)).collect()
}

fn all(session: &Session, key: &str) -> Vec<Letter> {
    std::iter::from_fn(|| session.recv(key, AT_ONCE)).collect()
}

/// A stage whose sessions are gone as soon as their clients are.
fn brief_stage(linger: Duration) -> Stage {
    Stage::new(mailing(), |options| options.session_linger = linger)
}

fn token(stage: &Stage, rights: Rights, scope: Scope) -> String {
    let secret = praas_server::read_secret(stage.path()).unwrap();
    let principal = "tester".parse().unwrap();
    secret.sign(&Claims { principal, scope, rights, expires_unix_s: None })
}

fn with_token(stage: &Stage, rights: Rights, scope: Scope) -> Result<Session, ControlError> {
    let control = common::client::Client::with_token(stage.path(), token(stage, rights, scope));
    Session::open(control, None, None)
}

#[test]
fn one_session_sends_another_receives_in_order_and_accepts_what_it_likes() {
    let stage = Stage::new(mailing(), |_| ());
    let (mut alice, bob) = (Session::begin(stage.path()), Session::begin(stage.path()));
    assert!(!alice.resumed && alice.ticket.session != bob.ticket.session);
    assert_eq!(bob.recv("k", AT_ONCE), None);
    for text in ["one", "two", "three"] {
        alice.send(bob.address(), "k", text);
    }
    alice.send(bob.address(), "other", "beside");
    assert_eq!(bob.peek("k").unwrap().text, "one");
    let letters = all(&bob, "k");
    assert_eq!(texts(&letters), [("one", false), ("two", false), ("three", false)]);
    assert!(letters.iter().all(|letter| letter.source == alice.address()));
    assert_eq!(letters[2].id, MessageId { incarnation: alice.incarnation, sequence: 3 });
    assert_eq!(bob.accept(&letters[1], "k").0, Outcome::Ok);
    let again = bob.accept(&letters[1], "k");
    assert_eq!((again.0, again.1), (Outcome::FunctionFailed, codes::NOT_HELD));
    // With a message that is given back, those come back that were received after it.
    assert_eq!(bob.release(&letters[0], "k").0, Outcome::Ok);
    assert_eq!(texts(&all(&bob, "k")), [("one", true), ("three", true)]);
    // From somebody who has sent nothing, there is nothing.
    let from_carol = bob.start_recv(&[address("carol")], "other", AT_ONCE);
    assert_eq!(bob.received(from_carol), None);
    let from_both = bob.start_recv(&[address("carol"), alice.address()], "other", AT_ONCE);
    assert_eq!(bob.received(from_both).unwrap().text, "beside");
    assert_eq!(bob.call(PING_FUNCTION, b"").0, Outcome::Ok);
    drop((alice, bob));
    stage.end();
}

#[test]
fn a_receiver_waits_for_as_long_as_it_says_and_is_answered_when_a_message_comes() {
    let stage = Stage::new(mailing(), |_| ());
    let (mut alice, bob) = (Session::begin(stage.path()), Session::begin(stage.path()));
    assert_eq!(bob.recv("k", Duration::from_millis(30)), None);
    let waits = [bob.start_recv(&[], "k", PATIENCE), bob.start_recv(&[alice.address()], "k", PATIENCE)];
    let peeks = bob.start_recv(&[], "nothing", PATIENCE);
    alice.send(bob.address(), "k", "first");
    alice.send(bob.address(), "k", "second");
    let received = waits.map(|ticket| bob.received(ticket).unwrap().text);
    assert_eq!(received, ["first", "second"]);
    // A receiver that gave up gets nothing that the next would miss.
    bob.lane.abandon(peeks);
    eventually("the abandoned call is answered", || bob.lane.quarantined() == 0);
    alice.send(bob.address(), "nothing", "something");
    assert_eq!(bob.recv("nothing", PATIENCE).unwrap().text, "something");
    drop((alice, bob));
    stage.end();
}

#[test]
fn messages_go_from_a_session_to_a_process_that_waits_for_them_and_back() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let mut session = Session::begin(stage.path());
    // The only worker of the process is in the call that waits.
    let waiting = alice.call("answer").payload(b"talk").start().unwrap();
    session.send(address("alice"), "talk", "hello");
    let back = session.recv("talk", PATIENCE).unwrap();
    assert_eq!((back.text.as_str(), back.source), ("hello", address("alice")));
    assert_eq!(session.accept(&back, "talk").0, Outcome::Ok);
    waiting.wait().unwrap();
    ask(&alice, "post", &format!("{} talk a b c", session.name())).unwrap();
    assert_eq!(texts(&all(&session, "talk")), [("a", false), ("b", false), ("c", false)]);
    // Large ones, both ways.
    let large = "x".repeat(700_000);
    session.send(address("alice"), "talk", &large);
    ask(&alice, "answer", "talk").unwrap();
    assert_eq!(session.recv("talk", PATIENCE).unwrap().text, large);
    match ask(&alice, "post", "1234 talk a") {
        Err(CallError::FunctionFailed { code, message }) => {
            assert!(code == codes::NOT_SENT && message.contains("1234"), "{code:x} {message}");
        }
        other => panic!("{other:?}"),
    }
    drop((alice, client, session));
    stage.end();
}

#[test]
fn a_repeated_send_is_accepted_once_by_processes_and_sessions() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let (session, other) = (Session::begin(stage.path()), Session::begin(stage.path()));
    for to in [address("alice"), other.address()] {
        for sequence in [5, 6, 5, 9, 6, 9] {
            let answer = session.send_as(sequence, to, "k", &sequence.to_string());
            assert!(answer.0 == Outcome::Ok && Accepted::from_answer(&answer.2).is_some(), "{answer:?}");
        }
    }
    let name = session.address().to_string();
    let expected = ["5", "6", "9"].map(|text| format!("{name}:{text}")).join(" ");
    assert_eq!(ask(&alice, "all", "* k").unwrap(), expected);
    assert_eq!(texts(&all(&other, "k")), [("5", false), ("6", false), ("9", false)]);
    let answer = session.send_as(5, other.address(), "k", "5");
    assert_eq!(Accepted::from_answer(&answer.2), Some(Accepted::Before));
    drop((alice, client, session, other));
    stage.end();
}

#[test]
fn what_was_not_accepted_comes_back_after_a_disconnect_and_nothing_is_lost_or_doubled() {
    let stage = Stage::new(mailing(), |_| ());
    let (mut alice, bob) = (Session::begin(stage.path()), Session::begin(stage.path()));
    for text in ["one", "two", "three"] {
        alice.send(bob.address(), "k", text);
    }
    let letters = [bob.recv("k", AT_ONCE).unwrap(), bob.recv("k", AT_ONCE).unwrap()];
    assert_eq!(bob.accept(&letters[0], "k").0, Outcome::Ok);
    let ticket = bob.ticket;
    let incarnation = bob.incarnation;
    drop(bob);
    // Sent while nobody is there.
    alice.send(ticket.session.into(), "k", "four");
    let mut bob = Session::resume(stage.path(), ticket).unwrap();
    assert!(bob.resumed && bob.ticket == ticket && bob.incarnation == incarnation);
    let letters = all(&bob, "k");
    assert_eq!(texts(&letters), [("two", true), ("three", false), ("four", false)]);
    // Leaving is the same without closing the connection; what returned is accepted where it lies.
    bob.leave();
    let left = bob;
    let bob = Session::resume(stage.path(), ticket).unwrap();
    drop(left);
    assert_eq!(bob.accept(&letters[1], "k").0, Outcome::Ok);
    assert_eq!(texts(&all(&bob, "k")), [("two", true), ("four", true)]);
    drop((alice, bob));
    stage.end();
}

#[test]
fn the_last_client_that_shows_the_ticket_has_the_session_and_the_one_before_is_told() {
    let stage = Stage::new(mailing(), |_| ());
    let (mut alice, bob) = (Session::begin(stage.path()), Session::begin(stage.path()));
    alice.send(bob.address(), "k", "one");
    let letter = bob.recv("k", AT_ONCE).unwrap();
    let waiting = bob.start_recv(&[], "later", PATIENCE);
    // Calls are taken in their order: the receiver waits when this is answered.
    assert_eq!(bob.call(PING_FUNCTION, b"").0, Outcome::Ok);
    let thief = Session::resume(stage.path(), bob.ticket).unwrap();
    assert_eq!(bob.answer(waiting).0, Outcome::ConnectionLost);
    for function in [RECV_FUNCTION, SEND_FUNCTION, ACCEPT_FUNCTION, RELEASE_FUNCTION, END_FUNCTION] {
        let answer = bob.call(function, b"");
        assert_eq!((answer.0, answer.1), (Outcome::FunctionFailed, codes::TAKEN_OVER), "{function}");
    }
    assert_eq!(texts(&[thief.recv("k", PATIENCE).unwrap()]), [("one", true)]);
    assert_eq!(thief.accept(&letter, "k").0, Outcome::Ok);
    // The end of the first one's connection takes nothing from the second.
    drop(bob);
    alice.send(thief.address(), "later", "two");
    assert_eq!(thief.recv("later", PATIENCE).unwrap().text, "two");
    drop((alice, thief));
    stage.end();
}

#[test]
fn a_client_that_takes_its_session_over_again_and_again_takes_no_more_than_a_few_lanes() {
    let stage = Stage::new(mailing(), |_| ());
    let mut alice = Session::begin(stage.path());
    let mut control = Client::connect(stage.path());
    let application = "hello".parse().unwrap();
    let wish = ClientRequest::SessionOpen { application, resume: Some(alice.ticket), payload_bytes_max: None };
    // More than a connection may have lanes.
    for time in 0..LANES_PER_CLIENT_MAX + 10 {
        let number = control.ask(wish.clone());
        let (message, _) = control.await_answer(number);
        assert!(matches!(message, ServerMessage::SessionOpened { .. }), "{time}: {message:?}");
    }
    let before = Session::resume(stage.path(), alice.ticket).unwrap();
    let bob = Session::resume(stage.path(), alice.ticket).unwrap();
    let answer = before.call(RECV_FUNCTION, b"");
    assert_eq!((answer.0, answer.1), (Outcome::FunctionFailed, codes::TAKEN_OVER));
    drop((before, control));
    alice = Session::begin(stage.path());
    alice.send(bob.address(), "k", "there");
    assert_eq!(bob.recv("k", PATIENCE).unwrap().text, "there");
    drop((alice, bob));
    stage.end();
}

#[test]
fn who_begins_a_session_for_each_message_is_stopped_before_receivers_forget_whom_they_know() {
    let stage = Stage::new(mailing(), |_| ());
    let mut begun = 0;
    let end = Instant::now() + PATIENCE;
    let refused = loop {
        match Session::open(Client::connect(stage.path()), None, None) {
            Ok(session) => {
                session.end();
                begun += 1;
            }
            // Those that were ended are forgotten in the server's own time.
            Err(ControlError::LimitReached { limit, .. }) if limit < 1024 => {
                assert!(Instant::now() < end, "sessions that were ended are still there");
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, ControlError::LimitReached { limit: 1024, used: 1024, .. }), "{begun}: {refused}");
    assert_eq!(begun, 1024);
    // Others are not kept from theirs.
    drop(with_token(&stage, Rights::MESSAGES, Scope::Any).unwrap());
    stage.end();
}

#[test]
fn a_wrong_secret_a_foreign_session_and_a_token_without_the_right_are_refused() {
    let stage = Stage::new(mailing(), |_| ());
    let session = Session::begin(stage.path());
    let SessionTicket { session: id, secret } = session.ticket;
    let wrong = [
        SessionTicket { session: id, secret: secret ^ 1 },
        SessionTicket { session: id, secret: 0 },
        SessionTicket { session: SessionId(id.0 ^ 1), secret },
    ];
    for ticket in wrong {
        match Session::resume(stage.path(), ticket) {
            Err(ControlError::UnknownSession { session }) => assert_eq!(session, ticket.session),
            other => panic!("{:?}", other.err()),
        }
    }
    let hello = Scope::Application("hello".parse().unwrap());
    let refused = with_token(&stage, Rights::INVOKE.with(Rights::TRUSTED), hello.clone());
    assert!(matches!(refused, Err(ControlError::Unauthorized { .. })));
    let refused = with_token(&stage, Rights::MESSAGES, Scope::Application("other".parse().unwrap()));
    assert!(matches!(refused, Err(ControlError::Unauthorized { .. })));
    // A token for one process sends to that one alone.
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    let mut narrow = with_token(&stage, Rights::MESSAGES, Scope::Process(process("alice"))).unwrap();
    narrow.send(address("alice"), "k", "hello");
    for to in [address("bob"), session.address()] {
        assert_eq!(narrow.send_as(99, to, "k", "hello").0, Outcome::Unauthorized);
    }
    assert!(ask(&alice, "recv", "* k 0").unwrap().ends_with(":hello"));
    assert_eq!(ask(&bob, "all", "* k").unwrap(), "");
    assert_eq!(narrow.send_as(100, address("nobody"), "k", "x").0, Outcome::Unauthorized);
    let answer = session.send_as(7, address("nobody"), "k", "x");
    assert_eq!((answer.0, answer.1), (Outcome::FunctionFailed, codes::NO_DESTINATION), "{answer:?}");
    let answer = session.send_as(8, Address::Client(SessionId(5)), "k", "x");
    assert_eq!((answer.0, answer.1), (Outcome::FunctionFailed, codes::NO_DESTINATION));
    drop((alice, bob, client, session, narrow));
    stage.end();
}

#[test]
fn a_session_ends_when_its_client_says_so_or_stays_away_for_too_long() {
    let stage = brief_stage(Duration::from_millis(200));
    let gone = |ticket| {
        let refused = Session::resume(stage.path(), ticket).err();
        matches!(refused, Some(ControlError::UnknownSession { .. }))
    };
    let session = Session::begin(stage.path());
    let ticket = session.ticket;
    session.end();
    drop(session);
    eventually("the session is gone", || gone(ticket));
    let (mut alice, bob) = (Session::begin(stage.path()), Session::begin(stage.path()));
    let ticket = bob.ticket;
    drop(bob);
    // Each look at it while it is there makes it begin to linger anew, so nobody looks before it must be over.
    std::thread::sleep(Duration::from_millis(400));
    eventually("the session is gone", || gone(ticket));
    let answer = alice.send_as(1, ticket.session.into(), "k", "late");
    assert_eq!((answer.0, answer.1), (Outcome::FunctionFailed, codes::NO_DESTINATION));
    // One that has a client stays.
    let carol = Session::begin(stage.path());
    std::thread::sleep(Duration::from_millis(400));
    alice.send(carol.address(), "k", "there");
    assert_eq!(carol.recv("k", PATIENCE).unwrap().text, "there");
    drop((alice, carol));
    stage.end();
}

#[test]
fn a_full_mailbox_refuses_or_waits_for_as_long_as_the_sender_says_and_loses_nothing() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [poster] = processes(&client, ["poster"]);
    let small = common::client::Client::connect(stage.path());
    let bob = Session::open(small, None, Some(64 << 10)).unwrap();
    let mut alice = Session::begin(stage.path());
    let text = "y".repeat(60 << 10);
    let mut sent = 0;
    loop {
        let ticket = alice.start_send(bob.address(), "k", text.as_bytes(), AT_ONCE);
        let answer = alice.answer(ticket);
        if answer.0 == Outcome::FunctionFailed {
            assert_eq!(answer.1, codes::MAILBOX_FULL, "{answer:?}");
            break;
        }
        assert_eq!(answer.0, Outcome::Ok);
        sent += 1;
        assert!(sent < 10_000, "it is never full");
    }
    assert!(sent > 10, "{sent} messages fit");
    // A session and a process wait for room; others are not held up.
    let waiting = alice.start_send(bob.address(), "k", b"waited", PATIENCE);
    let posting = poster.call("post").payload(format!("{} k posted", bob.name()).as_bytes()).start().unwrap();
    let other = Session::begin(stage.path());
    alice.send(other.address(), "k", "beside");
    assert_eq!(other.recv("k", PATIENCE).unwrap().text, "beside");
    assert!(!alice.lane.is_answered(&waiting));
    for _ in 0..sent {
        let letter = bob.received(bob.start_recv(&[alice.address()], "k", PATIENCE)).unwrap();
        assert_eq!((letter.text.len(), bob.accept(&letter, "k").0), (text.len(), Outcome::Ok));
    }
    assert_eq!(alice.answer(waiting).0, Outcome::Ok);
    posting.wait().unwrap();
    let mut last: Vec<_> = (0..2).map(|_| bob.recv("k", PATIENCE).unwrap().text).collect();
    last.sort();
    assert_eq!(last, ["posted", "waited"]);
    let too_large = alice.send_as(1_000_000, bob.address(), "k", &"z".repeat(70 << 10));
    assert_eq!(too_large.0, Outcome::PayloadTooLarge);
    drop((poster, client, alice, bob, other));
    stage.end();
}

#[test]
fn what_no_function_takes_is_refused_and_harms_nobody() {
    let stage = Stage::new(mailing(), |_| ());
    let (mut alice, bob) = (Session::begin(stage.path()), Session::begin(stage.path()));
    let key = Key::new("k").unwrap();
    let send = SendHead { to: bob.address(), sequence: 1, within_ns: 0, again: false, key }.encode(b"x");
    let question = RecvQuestion { within_ns: 0, peeks: false, sources: vec![bob.address()], key }.encode();
    for (function, whole) in [(SEND_FUNCTION, &send[..send.len() - 2]), (RECV_FUNCTION, &question)] {
        for cut in (0..whole.len()).step_by(7) {
            let answer = alice.call(function, &whole[..cut]);
            assert_eq!((answer.0, answer.1), (Outcome::FunctionFailed, codes::BAD_REQUEST), "{function} {cut}");
        }
    }
    for function in [ACCEPT_FUNCTION, RELEASE_FUNCTION] {
        for payload in [&[][..], &[7; 80], &[0xff; 4000]] {
            let answer = alice.call(function, payload);
            assert_eq!((answer.0, answer.1), (Outcome::FunctionFailed, codes::BAD_REQUEST));
        }
    }
    // A client does not speak for others, nor put anything into its own mailbox.
    let head = PutHead { source: bob.address(), id: MessageId { incarnation: 1, sequence: 1 }, key };
    for function in [PUT_FUNCTION, DELIVER_FUNCTION, AWAIT_ROOM_FUNCTION, "echo"] {
        assert_eq!(alice.call(function, &head.encode(b"x")).0, Outcome::UnknownFunction, "{function}");
    }
    assert_eq!(alice.call(SEND_FUNCTION, &vec![1; 1 << 20]).0, Outcome::FunctionFailed);
    alice.send(bob.address(), "k", "fine");
    assert_eq!(bob.recv("k", PATIENCE).unwrap().text, "fine");
    drop((alice, bob));
    stage.end();
}

#[test]
fn junk_in_a_sessions_lane_harms_nobody_else() {
    use std::os::unix::fs::FileExt;
    let stage = Stage::new(mailing(), |_| ());
    let (mut alice, bob) = (Session::begin(stage.path()), Session::begin(stage.path()));
    let vandal = Session::begin(stage.path());
    let file = std::fs::File::from(vandal.segment.try_clone().unwrap());
    let mut random = common::random::Random::printed("junk");
    for round in 0..300_u64 {
        let mut junk = [0_u8; 512];
        junk.iter_mut().for_each(|byte| *byte = if random.below(3) == 0 { random.next().to_le_bytes()[0] } else { 0 });
        file.write_all_at(&junk, 256 + 512 * (round % 40)).unwrap();
        if round % 50 == 0 {
            alice.send(bob.address(), "k", &round.to_string());
            assert_eq!(bob.recv("k", PATIENCE).unwrap().text, round.to_string());
        }
    }
    drop((alice, bob, vandal, file));
    stage.end();
}

#[test]
fn sessions_and_what_they_have_outlive_a_killed_server() {
    let stage = Stage::empty();
    let Some(server) = start_server(&stage) else { return stage.end() };
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let mut session = Session::begin(stage.path());
    let mut other = Session::begin(stage.path());
    ask(&alice, "post", &format!("{} k one two three four", session.name())).unwrap();
    let letters = [session.recv("k", PATIENCE).unwrap(), session.recv("k", PATIENCE).unwrap()];
    assert_eq!(session.accept(&letters[0], "k").0, Outcome::Ok);
    other.send(session.address(), "large", &"L".repeat(300_000));
    let sent = other.send_as(70, session.address(), "again", "once");
    assert_eq!(Accepted::from_answer(&sent.2), Some(Accepted::Now));
    session.send(address("alice"), "k", "to alice");
    let tickets = [session.ticket, other.ticket];
    server.kill();
    drop((session, other));

    let server = start_server(&stage).expect("the second server starts as the first did");
    let [session, other] = tickets.map(|ticket| Session::resume(stage.path(), ticket).unwrap());
    assert!(session.resumed && other.resumed);
    assert_eq!(texts(&all(&session, "k")), [("two", true), ("three", false), ("four", false)]);
    assert_eq!(session.recv("large", PATIENCE).unwrap().text.len(), 300_000);
    // A repetition of what the killed server has accepted is known.
    let sent = other.send_as(70, session.address(), "again", "once");
    assert_eq!(Accepted::from_answer(&sent.2), Some(Accepted::Before), "{sent:?}");
    assert_eq!(all(&session, "again").len(), 1);
    eventually("alice answers again", || ask(&alice, "recv", "* k 0").is_ok_and(|text| text.ends_with(":to alice")));
    drop((alice, client, session, other));
    end_cleanly(server, stage);
}

fn begin_remotely(remote: &mut Remote, resume: Option<SessionTicket>) -> SessionOpened {
    let request_id = remote.id();
    let application = "hello".parse().unwrap();
    remote.send(|out| OpenSession { request_id, payload_bytes_max: 0, resume, application }.encode(out));
    let came = remote.answer_to(request_id);
    match came.frame() {
        Frame::SessionOpened(opened) => opened,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_on_the_network_has_a_session_like_any_other() {
    network::with_each_driver(|driver| {
        let stage = Stage::new(mailing(), network::listening(driver));
        let client = stage.client();
        let [alice] = processes(&client, ["alice"]);
        let mut remote = Remote::connect(&stage);
        let opened = begin_remotely(&mut remote, None);
        assert!(!opened.resumed && opened.in_flight_max > 0);
        let key = Key::new("k").unwrap();
        let send = |sequence, text: &str| {
            SendHead { to: address("alice"), sequence, within_ns: 0, again: false, key }.encode(text.as_bytes())
        };
        // The first opens the way; it says how long it waits for that.
        let first = SendHead { to: address("alice"), sequence: 1, within_ns: 20_000_000_000, again: false, key }
            .encode(b"hello");
        let waiting = alice.call("answer").payload(b"k").start().unwrap();
        assert_eq!(remote.call(opened.handle, SEND_FUNCTION, &first), (Outcome::Ok, vec![Accepted::Now as u8]));
        let wait = RecvQuestion { within_ns: 20_000_000_000, peeks: false, sources: Vec::new(), key }.encode();
        let (outcome, bytes) = remote.call(opened.handle, RECV_FUNCTION, &wait);
        let (head, text) = ReceivedHead::decode(&bytes).unwrap().unwrap();
        assert_eq!((outcome, head.source, text), (Outcome::Ok, address("alice"), &b"hello"[..]));
        waiting.wait().unwrap();
        assert_eq!(remote.call(opened.handle, SEND_FUNCTION, &send(2, "more")).0, Outcome::Ok);
        assert!(ask(&alice, "recv", "* k 0").unwrap().ends_with(":more"));
        // It leaves with its handle, and with its connection.
        let number = opened.ticket.session.0;
        remote.send(|out| Close { handle: opened.handle }.encode(out));
        let mut opened = begin_remotely(&mut remote, Some(opened.ticket));
        for text in ["large", "last"] {
            assert!(opened.resumed);
            let large = RecvQuestion { within_ns: 20_000_000_000, peeks: false, sources: Vec::new(), key }.encode();
            let (_, bytes) = remote.call(opened.handle, RECV_FUNCTION, &large);
            assert!(ReceivedHead::decode(&bytes).unwrap().unwrap().0.redelivered);
            drop(std::mem::replace(&mut remote, Remote::connect(&stage)));
            ask(&alice, "post", &format!("{number:x} {text} x")).unwrap();
            opened = begin_remotely(&mut remote, Some(opened.ticket));
        }
        assert_eq!(remote.call(opened.handle, END_FUNCTION, b"").0, Outcome::Ok);
        drop((alice, client, remote));
        stage.end();
    });
}
