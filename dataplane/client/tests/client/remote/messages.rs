//! A session over TCP, as far as the client decides it: what it asks for, what it repeats and with which number, when it
//! resumes, and what it makes of answers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use praas_client::{
    Address, ControlError, MessageId, RecvError, RequestError, SendError, Session, SessionError, SessionId,
    SessionTicket, Sources,
};
use praas_protocol::message::{Accepted, codes};
use praas_protocol::session::{
    ACCEPT_FUNCTION, END_FUNCTION, HeldMessage, RECV_FUNCTION, RELEASE_FUNCTION, ReceivedHead, RecvQuestion,
    SEND_FUNCTION, SendHead,
};
use praas_protocol::wire::Request;
use praas_protocol::{FunctionId, Outcome, control};

use super::wire_server::{Reaction, Script, Shared, WireServer, lock};
use crate::scripted::{PATIENCE, eventually};

const SHORT: Duration = Duration::from_millis(100);
const ANSWERS: [&str; 5] = [SEND_FUNCTION, RECV_FUNCTION, ACCEPT_FUNCTION, RELEASE_FUNCTION, END_FUNCTION];

/// A call that reached the room.
#[derive(Debug, Clone)]
struct Asked {
    function: &'static str,
    payload: Vec<u8>,
    deadline_ns: u64,
}

impl Asked {
    fn sequence(&self) -> u64 {
        SendHead::decode(&self.payload).unwrap().0.sequence
    }
}

/// A room that answers each call as the test has laid down, in order, and then as one that works.
#[derive(Default)]
struct Room {
    asked: Mutex<Vec<Asked>>,
    answers: Mutex<VecDeque<Reaction>>,
    message: AtomicBool,
}

const MESSAGE: ReceivedHead = ReceivedHead {
    source: Address::Client(SessionId(9)),
    id: MessageId { incarnation: 1, sequence: 17 },
    redelivered: true,
};

impl Room {
    fn react(&self, request: &Request, payload: &[u8]) -> Reaction {
        let known = ANSWERS.iter().find(|name| request.function == FunctionId::of(name));
        let function = known.expect("a function of sessions");
        lock(&self.asked).push(Asked { function, payload: payload.to_vec(), deadline_ns: request.time_remaining_ns });
        let usual = match *function {
            SEND_FUNCTION => vec![Accepted::Now as u8],
            RECV_FUNCTION if self.message.load(Ordering::SeqCst) => [&MESSAGE.encode()[..], b"words"].concat(),
            _ => Vec::new(),
        };
        lock(&self.answers).pop_front().unwrap_or(Reaction::Answer(Outcome::Ok, 0, usual))
    }

    fn will(&self, answers: impl IntoIterator<Item = Reaction>) {
        lock(&self.answers).extend(answers);
    }

    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *lock(&self.asked))
    }

    fn sequences(&self) -> Vec<u64> {
        self.asked().iter().map(Asked::sequence).collect()
    }
}

fn failed(code: u32) -> Reaction {
    Reaction::Answer(Outcome::FunctionFailed, code, b"words".to_vec())
}

fn lost(may_have_run: u32) -> Reaction {
    Reaction::Answer(Outcome::ConnectionLost, may_have_run, Vec::new())
}

fn accepted(how: Accepted) -> Reaction {
    Reaction::Answer(Outcome::Ok, 0, vec![how as u8])
}

/// A server with such a room, and a session in it.
fn stage() -> (WireServer, Arc<Room>, Session) {
    let room = Arc::new(Room::default());
    let own = Arc::clone(&room);
    let react = move |_: &Shared, request: &Request, payload: &[u8]| own.react(request, payload);
    let server = WireServer::start(Script { react: Arc::new(react), ..Script::default() });
    let session = server.client().session("hello".parse().unwrap()).unwrap();
    (server, room, session)
}

fn resumptions(server: &WireServer) -> usize {
    lock(&server.shared().resumed).len() - 1
}

#[test]
fn what_is_asked_is_what_the_payloads_are_described_as() {
    let (_server, room, session) = stage();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let id = session.send("alice", "k", b"hello").unwrap();
    assert!(id.incarnation == 3 && u128::from(id.sequence) <= now && u128::from(id.sequence) + 60_000_000_000 > now);
    session.send_within(SessionId(9), "k", &[7; 5000], Duration::from_secs(9)).unwrap();
    assert!(session.try_recv("alice", "k").unwrap().is_none());
    assert!(session.peek(&[MESSAGE.source, "alice".parse().unwrap()], "k").unwrap().is_none());
    room.message.store(true, Ordering::SeqCst);
    let message = session.recv(Sources::Any, "k", PATIENCE).unwrap();
    message.accept().unwrap();
    session.try_recv(Sources::Any, "k").unwrap().unwrap().release().unwrap();
    session.end().unwrap();

    let asked = room.asked();
    let (sent, bytes) = SendHead::decode(&asked[0].payload).unwrap();
    assert_eq!((sent.to, sent.sequence, sent.within_ns), ("alice".parse().unwrap(), id.sequence, 0));
    assert_eq!((sent.key.as_str(), bytes), ("k", &b"hello"[..]));
    let (sent, bytes) = SendHead::decode(&asked[1].payload).unwrap();
    assert_eq!((sent.to, sent.sequence), (Address::Client(SessionId(9)), id.sequence + 1));
    assert!(bytes == [7; 5000] && (8_000_000_000..=9_000_000_000).contains(&sent.within_ns));
    assert!(asked[1].deadline_ns > sent.within_ns, "the room's own word comes first");
    let question = RecvQuestion::decode(&asked[2].payload).unwrap();
    assert_eq!(
        (question.within_ns, question.peeks, &question.sources[..]),
        (0, false, &["alice".parse().unwrap()][..])
    );
    let question = RecvQuestion::decode(&asked[3].payload).unwrap();
    assert!(question.peeks && question.sources == [MESSAGE.source, "alice".parse().unwrap()]);
    let question = RecvQuestion::decode(&asked[4].payload).unwrap();
    assert!(question.within_ns > 0 && question.sources.is_empty() && asked[4].deadline_ns > question.within_ns);
    let held = HeldMessage { source: MESSAGE.source, id: MESSAGE.id, key: question.key };
    let rest: Vec<_> = asked[5..].iter().map(|asked| asked.function).collect();
    assert_eq!(rest, [ACCEPT_FUNCTION, RECV_FUNCTION, RELEASE_FUNCTION, END_FUNCTION]);
    assert_eq!(HeldMessage::decode(&asked[5].payload).unwrap(), held);
    assert_eq!(HeldMessage::decode(&asked[7].payload).unwrap(), held);
}

#[test]
fn a_message_is_given_as_it_came() {
    let (_server, room, session) = stage();
    room.message.store(true, Ordering::SeqCst);
    let message = session.recv("alice", "key", PATIENCE).unwrap();
    assert_eq!((message.source(), message.id(), message.key()), (MESSAGE.source, MESSAGE.id, "key"));
    assert!(message.is_redelivered() && &message[..] == b"words");
    assert_eq!(message.bytes().as_ptr().align_offset(16), 0);
    assert_eq!(message.into_bytes(), b"words");
    let peeked = session.peek(Sources::Any, "key").unwrap().unwrap();
    assert_eq!((peeked.source(), peeked.id(), peeked.bytes()), (MESSAGE.source, MESSAGE.id, &b"words"[..]));
}

#[test]
fn a_send_whose_fate_is_unknown_is_repeated_with_its_number_until_it_is_known() {
    let (server, room, session) = stage();
    // Lost with the connection, lost behind the server, refused by a process that restarts.
    room.will([Reaction::Reset, lost(1), Reaction::Answer(Outcome::WorkerLost, 0, vec![]), accepted(Accepted::Before)]);
    let id = session.send("alice", "k", &[1; 3000]).unwrap();
    assert_eq!(room.sequences(), [id.sequence; 4]);
    assert_eq!(resumptions(&server), 1);
    assert_eq!(lock(&server.shared().resumed)[1], Some(lock(&server.shared().script).session));
    assert_eq!(session.send("alice", "k", b"next").unwrap().sequence, id.sequence + 1);
}

#[test]
fn a_send_that_is_never_settled_ends_as_unknown_and_can_be_settled_later() {
    let (_server, room, session) = stage();
    room.will((0..1000).map(|_| lost(1)));
    let unknown = session.send_within("alice", "k", b"x", SHORT).unwrap_err();
    let SendError::Unknown { to, id } = unknown else { panic!("{unknown}") };
    assert!(unknown.to_string().contains("send_again"), "{unknown}");
    lock(&room.answers).clear();
    room.asked();
    room.will([accepted(Accepted::Before)]);
    assert_eq!(session.send_again(id, to, "k", b"x", PATIENCE).unwrap(), id);
    assert_eq!(room.sequences(), [id.sequence]);
    room.will([failed(codes::TOO_OLD)]);
    assert!(matches!(session.send_again(id, to, "k", b"x", PATIENCE), Err(SendError::TooOld { .. })));
    let other = MessageId { incarnation: 2, ..id };
    room.asked();
    assert!(matches!(session.send_again(other, to, "k", b"x", PATIENCE), Err(SendError::TooOld { .. })));
    assert!(room.asked().is_empty(), "an id of another life is not sent in this one");
    // Whatever is said of a repetition that is not its acceptance leaves open what became of the first attempt.
    for code in [codes::MAILBOX_FULL, codes::NO_DESTINATION, codes::NOT_SENT, codes::CORRUPT] {
        room.will((0..1000).map(|_| failed(code)));
        let error = session.send_again(id, to, "k", b"x", SHORT).unwrap_err();
        assert!(matches!(error, SendError::Unknown { .. }), "{code:#x}: {error}");
        lock(&room.answers).clear();
    }
}

#[test]
fn a_number_that_was_used_before_this_program_is_left_behind() {
    let (_server, room, session) = stage();
    room.will([accepted(Accepted::Before), failed(codes::TOO_OLD), failed(codes::TOO_OLD), accepted(Accepted::Now)]);
    let id = session.send("alice", "k", b"x").unwrap();
    let sequences = room.sequences();
    assert_eq!(sequences.len(), 4);
    assert!(sequences.windows(2).all(|pair| pair[1] - pair[0] >= 1 << 40), "{sequences:?}");
    assert_eq!(id.sequence, sequences[3]);
    assert_eq!(session.send("alice", "k", b"x").unwrap().sequence, id.sequence + 1);
    // Somebody who says so for ever is not believed for ever.
    room.will((0..1000).map(|_| failed(codes::TOO_OLD)));
    let error = session.send("alice", "k", b"x").unwrap_err();
    assert!(matches!(error, SendError::Unavailable { .. }), "{error}");
}

#[test]
fn each_refusal_of_a_send_has_its_error() {
    let (_server, room, session) = stage();
    let send = |reaction| {
        room.will([reaction]);
        session.send("alice", "k", b"x").unwrap_err()
    };
    let alice: Address = "alice".parse().unwrap();
    let full = send(failed(codes::MAILBOX_FULL));
    assert!(
        full.is_full()
            && matches!(&full, SendError::MailboxFull { to, message, .. } if *to == alice && message == "words")
    );
    assert!(matches!(send(failed(codes::NO_DESTINATION)), SendError::UnknownDestination { to } if to == alice));
    assert!(matches!(send(failed(codes::CORRUPT)), SendError::Refused { code: codes::CORRUPT, .. }));
    assert!(matches!(send(Reaction::Answer(Outcome::Unauthorized, 0, vec![])), SendError::Unauthorized { .. }));
    assert!(matches!(send(Reaction::Answer(Outcome::Ok, 0, vec![9])), SendError::Refused { .. }));
    assert!(matches!(send(Reaction::Answer(Outcome::DeadlineExceeded, 0, vec![])), SendError::Unknown { .. }));
    for key in ["", "a\nb"] {
        assert!(matches!(session.send("alice", key, b"x"), Err(SendError::Key(_))));
        assert!(matches!(session.try_recv("alice", key), Err(RecvError::Key(_))));
    }
    assert!(matches!(session.send("No name", "k", b"x"), Err(SendError::Name(_))));
    let limit =
        session.payload_bytes_max() as usize - SendHead::bytes_before_payload(&praas_protocol::Key::new("k").unwrap());
    session.send("alice", "k", &vec![1; limit]).unwrap();
    let large = session.send("alice", "k", &vec![1; limit + 1]).unwrap_err();
    let (limit_bytes, actual_bytes) = (limit as u64, limit as u64 + 1);
    assert!(
        matches!(large, SendError::TooLarge { limit_bytes: l, actual_bytes: a } if (l, a) == (limit_bytes, actual_bytes)),
        "{large}"
    );
}

#[test]
fn a_full_mailbox_is_waited_for_only_by_who_says_so() {
    let (_server, room, session) = stage();
    room.will([failed(codes::MAILBOX_FULL), failed(codes::MAILBOX_FULL), accepted(Accepted::Now)]);
    session.send_within("alice", "k", b"x", PATIENCE).unwrap();
    let sequences = room.sequences();
    assert_eq!(sequences, [sequences[0]; 3]);
    room.will((0..1000).map(|_| failed(codes::MAILBOX_FULL)));
    assert!(session.send_within("alice", "k", b"x", SHORT).unwrap_err().is_full());
    lock(&room.answers).clear();
    // Busy is not full: it passes soon.
    room.will([failed(codes::BUSY), failed(codes::BUSY)]);
    session.send("alice", "k", b"x").unwrap();
}

#[test]
fn recv_asks_again_over_a_new_connection_and_waits_no_longer_than_it_may() {
    let (server, room, session) = stage();
    room.message.store(true, Ordering::SeqCst);
    room.will([Reaction::Reset, lost(0), Reaction::Answer(Outcome::Interrupted, 0, vec![])]);
    session.recv("alice", "k", PATIENCE).unwrap();
    assert_eq!(resumptions(&server), 1);
    room.message.store(false, Ordering::SeqCst);
    // A room that says too early that nothing came is asked again; the whole time is waited.
    let start = Instant::now();
    let nothing = session.recv("alice", "k", SHORT).unwrap_err();
    assert!(matches!(nothing, RecvError::DeadlineExceeded { waited: SHORT }) && start.elapsed() >= SHORT, "{nothing}");
    room.will([Reaction::Answer(Outcome::DeadlineExceeded, 0, vec![])]);
    assert!(session.try_recv("alice", "k").unwrap().is_none());
    room.will((0..1000).map(|_| lost(0)));
    assert!(matches!(session.recv("alice", "k", SHORT), Err(RecvError::Unavailable { .. })));
}

#[test]
fn a_recv_that_nobody_answers_gives_the_way_up_so_that_no_message_is_held_unseen() {
    let (server, room, session) = stage();
    room.will([Reaction::Silence]);
    let error = session.recv("alice", "k", SHORT).unwrap_err();
    assert!(matches!(error, RecvError::Unavailable { .. }), "{error}");
    room.message.store(true, Ordering::SeqCst);
    session.recv("alice", "k", PATIENCE).unwrap();
    assert_eq!(resumptions(&server), 1);
    eventually("the old handle is given back", || server.shared().closes.load(Ordering::SeqCst) == 1);
    assert_eq!(server.shared().connections.load(Ordering::SeqCst), 1, "the connection is good");
}

#[test]
fn an_acceptance_is_repeated_and_one_that_had_happened_is_no_error() {
    let (_server, room, session) = stage();
    room.message.store(true, Ordering::SeqCst);
    let recv = || session.recv("alice", "k", PATIENCE).unwrap();
    let (first, second, third) = (recv(), recv(), recv());
    room.will([Reaction::Reset, failed(codes::NOT_HELD)]);
    first.accept().unwrap();
    room.will([failed(codes::NOT_HELD)]);
    assert!(matches!(second.accept(), Err(RecvError::NotHeld)));
    room.will([failed(codes::BUSY), failed(codes::CORRUPT)]);
    assert!(matches!(third.release(), Err(RecvError::Refused { code: codes::CORRUPT, .. })));
}

#[test]
fn a_session_that_lapsed_or_was_taken_over_is_never_begun_anew_by_itself() {
    let session_id = SessionId(42);
    let forgotten = ControlError::UnknownSession { session: session_id };
    type Change = Box<dyn Fn(&mut Script)>;
    let changes: [Change; 3] = [
        Box::new(move |script| script.refuse_session = Some(forgotten.clone())),
        Box::new(|script| script.forgets_sessions = true),
        Box::new(|script| script.session = control::SessionTicket { session: SessionId(43), secret: 7 }),
    ];
    for change in changes {
        let (server, _room, session) = stage();
        server.shared().rewrite(change);
        server.shared().disconnect();
        let error = session.try_recv("alice", "k").unwrap_err();
        assert!(
            matches!(error, RecvError::Session(SessionError::Lapsed { session }) if session == session_id),
            "{error}"
        );
        let asked = resumptions(&server);
        let error = session.send("alice", "k", b"x").unwrap_err();
        assert!(matches!(error, SendError::Session(SessionError::Lapsed { .. })), "{error}");
        assert_eq!(resumptions(&server), asked, "nobody asks again");
        session.end().unwrap();
    }
    let (server, room, session) = stage();
    room.will([failed(codes::TAKEN_OVER)]);
    let error = session.recv("alice", "k", PATIENCE).unwrap_err();
    assert!(matches!(error, RecvError::Session(SessionError::TakenOver { .. })), "{error}");
    server.shared().disconnect();
    assert!(matches!(session.send("alice", "k", b"x"), Err(SendError::Session(SessionError::TakenOver { .. }))));
    assert_eq!(resumptions(&server), 0);
}

#[test]
fn a_refusal_for_now_is_told_and_asked_for_again() {
    let (server, _room, session) = stage();
    let full =
        ControlError::LimitReached { what: "sessions".into(), used: 1, limit: 1, asked: 1, advice: "wait".into() };
    server.shared().rewrite(|script| script.refuse_session = Some(full.clone()));
    server.shared().disconnect();
    let error = session.try_recv("alice", "k").unwrap_err();
    let RecvError::Session(SessionError::Request(RequestError::Refused(refusal))) = error else { panic!("{error}") };
    assert_eq!(refusal, full);
    server.shared().rewrite(|script| script.refuse_session = None);
    server.shared().disconnect();
    assert!(session.try_recv("alice", "k").unwrap().is_none());
}

#[test]
fn a_session_is_begun_resumed_and_refused_as_the_server_says() {
    let (server, _room, session) = stage();
    let text = session.ticket().to_string();
    assert_eq!(session.address(), Address::Client(SessionId(42)));
    assert_eq!(session.application().as_str(), "hello");
    let ticket: SessionTicket = text.parse().unwrap();
    let resumed = server.client().resume_session(&ticket).unwrap();
    assert_eq!(resumed.id(), session.id());
    assert_eq!(lock(&server.shared().resumed).last().copied().flatten(), Some(lock(&server.shared().script).session));
    server.shared().rewrite(|script| {
        script.refuse_session = Some(ControlError::Unauthorized { right: "messages".into(), what: "hello".into() });
    });
    let error = server.client().session("hello".parse().unwrap()).unwrap_err();
    assert!(
        matches!(error, SessionError::Unauthorized { .. }) && error.to_string().contains("--rights messages"),
        "{error}"
    );
    let session = SessionId(42);
    server.shared().rewrite(|script| script.refuse_session = Some(ControlError::UnknownSession { session }));
    let error = server.client().resume_session(&ticket).unwrap_err();
    assert!(matches!(error, SessionError::Lapsed { .. }), "{error}");
}

#[test]
fn a_session_whose_client_asks_nothing_is_resumed_when_its_connection_is_lost() {
    let (server, _room, session) = stage();
    server.shared().disconnect();
    eventually("somebody resumes it", || resumptions(&server) == 1);
    session.send("alice", "k", b"x").unwrap();
    assert_eq!(resumptions(&server), 1);
}

#[test]
fn an_answer_that_is_none_is_not_believed() {
    for junk in [vec![1; 5], vec![0xff; 200], vec![0; 96]] {
        let (_server, room, session) = stage();
        room.will([Reaction::Answer(Outcome::Ok, 0, junk)]);
        assert!(matches!(session.try_recv("alice", "k"), Err(RecvError::Malformed { .. })));
    }
}
