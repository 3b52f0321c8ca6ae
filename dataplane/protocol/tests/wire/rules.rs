//! The rules: what may come when, and that two sides which keep to them never accuse each other.

use std::collections::{HashMap, VecDeque};

use praas_protocol::limits::{WIRE_PINGS_IN_FLIGHT_MAX, WIRE_QUESTIONS_IN_FLIGHT_MAX};
use praas_protocol::wire::kind::{IdRule, KINDS};
use praas_protocol::wire::{
    GoawayReason, Header, Kind, RuleError, Session, Side, State, Verdict, Window, WindowLimits,
};
use proptest::prelude::*;

const LIMITS: WindowLimits = WindowLimits { calls: 4, bytes: 1000 };

fn header(kind: Kind, request_id: u64) -> Header {
    Header { body_bytes: kind.facts().body_bytes_min, kind: Some(kind), flags: 0, request_id }
}

fn request(request_id: u64, payload_bytes: u32) -> Header {
    Header { body_bytes: 20 + payload_bytes, ..header(Kind::Request, request_id) }
}

/// A session of `us` after WELCOME.
fn open(us: Side) -> Session {
    let mut session = Session::new(us);
    assert_eq!(session.show(Side::Client, &header(Kind::Hello, 0)), Ok(Verdict::Accept));
    assert_eq!(session.show(Side::Server, &header(Kind::Welcome, 0)), Ok(Verdict::Accept));
    session.set_limits(LIMITS);
    session
}

#[test]
fn nothing_but_a_hello_opens_a_connection() {
    for facts in KINDS {
        let mut session = Session::new(Side::Server);
        let shown = session.show(facts.sender, &header(facts.kind, 1));
        let allowed = facts.kind == Kind::Hello;
        assert_eq!(shown.is_ok(), allowed, "{}: {shown:?}", facts.name);
    }
    let mut session = Session::new(Side::Client);
    assert!(session.show(Side::Server, &header(Kind::Refused, 0)).is_ok());
    assert_eq!(session.state(), State::Over);
}

#[test]
fn request_ids_only_grow_and_a_replay_is_noticed() {
    let mut session = open(Side::Server);
    assert!(session.show(Side::Client, &request(5, 0)).is_ok());
    for id in [5, 4, 1] {
        let error = session.show(Side::Client, &request(id, 0)).unwrap_err();
        assert_eq!(error, RuleError::IdNotGrowing { request_id: id, last_request_id: 5 });
        assert_eq!(error.goaway_reason(), GoawayReason::Protocol);
    }
    assert!(session.show(Side::Client, &header(Kind::Open, 6)).is_ok(), "questions share the ids of calls");
    assert!(session.show(Side::Client, &request(6, 0)).is_err());
    assert!(session.show(Side::Client, &header(Kind::Cancel, 7)).is_err(), "a cancel of what was never asked");
    assert!(session.show(Side::Client, &header(Kind::Cancel, 5)).is_ok());
}

#[test]
fn calls_beyond_the_window_are_refused_and_change_nothing() {
    let mut session = open(Side::Server);
    assert!(session.show(Side::Client, &request(1, 600)).is_ok());
    let error = session.show(Side::Client, &request(2, 401)).unwrap_err();
    assert_eq!(error, RuleError::WindowExceeded { in_flight_bytes: 600, asked_bytes: 401, limit_bytes: 1000 });
    assert_eq!(error.goaway_reason(), GoawayReason::Limit);
    assert!(session.show(Side::Client, &request(2, 400)).is_ok(), "a refused id is not used up");
    assert!(session.show(Side::Client, &request(3, 0)).is_ok());
    assert!(session.show(Side::Client, &request(4, 0)).is_ok());
    assert_eq!(session.show(Side::Client, &request(5, 0)), Err(RuleError::TooManyCalls { limit: 4 }));
    session.answered(600).unwrap();
    assert!(session.show(Side::Client, &request(5, 600)).is_ok());
}

#[test]
fn an_answer_to_nothing_is_refused() {
    let mut session = open(Side::Client);
    assert!(session.show(Side::Server, &header(Kind::Response, 1)).is_err());
    assert!(session.show(Side::Server, &header(Kind::Pong, 0)).is_err());
    assert!(session.show(Side::Client, &request(1, 10)).is_ok());
    assert!(session.show(Side::Server, &header(Kind::Done, 1)).is_err(), "no question is open");
    assert!(session.show(Side::Server, &header(Kind::Response, 2)).is_err());
    assert!(session.show(Side::Server, &header(Kind::Response, 1)).is_ok());
    session.answered(10).unwrap();
    assert!(session.show(Side::Server, &header(Kind::Response, 1)).is_err());
    assert!(session.answered(0).is_err());
}

#[test]
fn questions_and_pings_are_bounded() {
    let mut session = open(Side::Server);
    for id in 1..=u64::from(WIRE_QUESTIONS_IN_FLIGHT_MAX) {
        assert!(session.show(Side::Client, &header(Kind::List, id)).is_ok());
    }
    let error = session.show(Side::Client, &header(Kind::List, 1000)).unwrap_err();
    assert_eq!(error.goaway_reason(), GoawayReason::Limit);
    assert!(session.show(Side::Server, &header(Kind::Processes, 1)).is_ok());
    assert!(session.show(Side::Client, &header(Kind::List, 1000)).is_ok());
    for _ in 0..WIRE_PINGS_IN_FLIGHT_MAX {
        assert!(session.show(Side::Client, &header(Kind::Ping, 0)).is_ok());
    }
    assert!(session.show(Side::Client, &header(Kind::Ping, 0)).is_err());
    assert!(session.show(Side::Server, &header(Kind::Pong, 0)).is_ok());
    assert!(session.show(Side::Client, &header(Kind::Ping, 0)).is_ok());
}

#[test]
fn a_hand_over_needs_quiet_and_silences_the_client() {
    for us in [Side::Client, Side::Server] {
        let mut session = open(us);
        assert!(session.show(Side::Client, &request(1, 0)).is_ok());
        assert!(session.show(Side::Client, &header(Kind::Dedicate, 2)).is_err());
        assert!(session.show(Side::Server, &header(Kind::Response, 1)).is_ok());
        session.answered(0).unwrap();
        assert!(session.show(Side::Client, &header(Kind::Dedicate, 2)).is_ok());
        for facts in KINDS.iter().filter(|facts| facts.sender == Side::Client) {
            assert!(session.show(Side::Client, &header(facts.kind, 3)).is_err(), "{} before the answer", facts.name);
        }
        let mut refused = session.clone();
        assert!(refused.show(Side::Server, &header(Kind::Refused, 2)).is_ok());
        assert_eq!(refused.state(), State::Open);
        assert!(session.show(Side::Server, &header(Kind::HandedOver, 1)).is_err());
        assert!(session.show(Side::Server, &header(Kind::HandedOver, 2)).is_ok());
        session.set_limits(LIMITS);
        assert!(session.show(Side::Client, &header(Kind::Open, 3)).is_err(), "only calls from here on");
        assert!(session.show(Side::Client, &request(2, 0)).is_err(), "ids go on growing");
        assert!(session.show(Side::Client, &request(3, 0)).is_ok());
    }
    let mut worker = Session::dedicated(2, LIMITS);
    assert!(worker.show(Side::Client, &request(2, 0)).is_err());
    assert!(worker.show(Side::Client, &request(3, 0)).is_ok());
}

#[test]
fn after_a_goaway_the_server_ignores_what_crossed_it_and_the_client_sends_no_more() {
    let mut server = open(Side::Server);
    assert!(server.show(Side::Client, &request(1, 5)).is_ok());
    assert!(server.show_goaway(2).is_err(), "an id that never came");
    server.show_goaway(1).unwrap();
    assert_eq!(server.show(Side::Client, &request(2, 5)), Ok(Verdict::Ignore));
    assert_eq!(server.show(Side::Client, &header(Kind::Cancel, 2)), Ok(Verdict::Ignore));
    assert_eq!(server.show(Side::Client, &header(Kind::Cancel, 1)), Ok(Verdict::Accept));
    assert_eq!(server.show(Side::Server, &header(Kind::Response, 1)), Ok(Verdict::Accept));
    assert!(server.show(Side::Server, &header(Kind::Response, 2)).is_err());
    assert!(server.show_goaway(1).is_err(), "once is enough");
    let mut client = open(Side::Client);
    client.show_goaway(0).unwrap();
    assert!(client.show(Side::Client, &request(1, 0)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_window_is_a_count_and_a_sum_that_never_exceed_their_limits(
        calls in 0_u32..6,
        bytes in 0_u64..2000,
        steps in prop::collection::vec((any::<bool>(), 0_u32..900), 0..80),
    ) {
        let mut window = Window::new(WindowLimits { calls, bytes });
        let mut model: Vec<u32> = Vec::new();
        for (give, payload) in steps {
            if give {
                match model.pop() {
                    Some(payload) => prop_assert_eq!(window.give(payload), Ok(())),
                    None => prop_assert!(window.give(payload).is_err()),
                }
            } else {
                let sum: u64 = model.iter().map(|&payload| u64::from(payload)).sum();
                let fits = model.len() < calls as usize && sum + u64::from(payload) <= bytes;
                prop_assert_eq!(window.fits(payload), fits);
                prop_assert_eq!(window.take(payload).is_ok(), fits);
                if fits {
                    model.push(payload);
                }
            }
            prop_assert_eq!(window.calls() as usize, model.len());
            prop_assert_eq!(window.bytes(), model.iter().map(|&payload| u64::from(payload)).sum::<u64>());
        }
    }

    /// A client that sends only what its own session allows, and a server that answers as it likes, over pipes in which
    /// frames wait for any time: neither ever sees the other break a rule.
    #[test]
    fn two_sides_that_keep_to_the_rules_never_accuse_each_other(steps in prop::collection::vec(any::<(u8, u8, u16)>(), 0..300)) {
        let mut talk = Talk::new();
        for (what, kind, size) in steps {
            match what % 8 {
                0..=2 => talk.client_sends(kind, u32::from(size % 700)),
                3 | 4 => talk.server_reads(),
                5 => talk.server_answers(usize::from(size)),
                6 => talk.client_reads(),
                _ if size < 300 => talk.server_leaves(),
                _ => talk.client_reads(),
            }
        }
    }
}

/// A client, a server, and the frames on their way. A GOAWAY carries its last id beside its header.
struct Talk {
    client: Session,
    server: Session,
    to_server: VecDeque<Header>,
    to_client: VecDeque<(Header, u64)>,
    next_id: u64,
    /// What the client waits for: payload bytes of each call.
    calls: HashMap<u64, u32>,
    /// What the server took and has not answered.
    taken: Vec<Header>,
}

impl Talk {
    fn new() -> Self {
        Self {
            client: Session::new(Side::Client),
            server: Session::new(Side::Server),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            next_id: 1,
            calls: HashMap::new(),
            taken: Vec::new(),
        }
    }

    fn client_sends(&mut self, kind: u8, payload_bytes: u32) {
        let kinds: Vec<_> = KINDS.iter().filter(|facts| facts.sender == Side::Client).collect();
        // Calls are the common case once there is a connection.
        let facts = match self.client.state() {
            State::Fresh => kinds[0],
            _ if kind.is_multiple_of(2) => Kind::Request.facts(),
            _ => kinds[usize::from(kind) % kinds.len()],
        };
        let id = match facts.id {
            IdRule::Zero => 0,
            IdRule::New => self.next_id,
            _ => (self.next_id - 1).max(1),
        };
        let header = match facts.kind {
            Kind::Request => request(id, payload_bytes),
            other => header(other, id),
        };
        if self.client.show(Side::Client, &header) == Ok(Verdict::Accept) {
            if facts.id == IdRule::New {
                self.next_id += 1 + u64::from(kind % 3);
            }
            if facts.kind == Kind::Request {
                self.calls.insert(id, payload_bytes);
            }
            self.to_server.push_back(header);
        }
    }

    fn server_reads(&mut self) {
        let Some(header) = self.to_server.pop_front() else { return };
        let verdict = self.server.show(Side::Client, &header).unwrap_or_else(|error| panic!("{header:?}: {error}"));
        let kind = header.kind.unwrap();
        if verdict == Verdict::Accept && !matches!(kind, Kind::Close | Kind::Cancel) {
            self.taken.push(header);
        }
    }

    fn server_answers(&mut self, pick: usize) {
        if self.taken.is_empty() {
            return;
        }
        let asked = self.taken.swap_remove(pick % self.taken.len());
        let refuse = pick.is_multiple_of(5);
        let (kind, id) = match asked.kind.unwrap() {
            Kind::Hello => (Kind::Welcome, 0),
            Kind::Ping => (Kind::Pong, 0),
            Kind::Request => (Kind::Response, asked.request_id),
            _ if refuse => (Kind::Refused, asked.request_id),
            Kind::Open => (Kind::Opened, asked.request_id),
            Kind::Dedicate => (Kind::HandedOver, asked.request_id),
            Kind::List => (Kind::Processes, asked.request_id),
            Kind::ListApplications => (Kind::Applications, asked.request_id),
            Kind::Output => (Kind::OutputChunk, asked.request_id),
            Kind::Stats => (Kind::Counts, asked.request_id),
            Kind::WatchTransitions => (Kind::Transitions, asked.request_id),
            Kind::StorageUsage => (Kind::Stored, asked.request_id),
            _ => (Kind::Done, asked.request_id),
        };
        let answer = header(kind, id);
        if kind == Kind::Welcome && self.server.state() != State::Greeted
            || matches!(self.server.state(), State::Leaving { .. }) && asked.kind == Some(Kind::Dedicate)
        {
            return;
        }
        assert_eq!(self.server.show(Side::Server, &answer), Ok(Verdict::Accept));
        match kind {
            Kind::Response => self.server.answered(asked.payload_bytes()).unwrap(),
            Kind::Welcome | Kind::HandedOver => self.server.set_limits(LIMITS),
            _ => {}
        }
        self.to_client.push_back((answer, 0));
    }

    fn server_leaves(&mut self) {
        // The answer to a DEDICATE that is under way is the farewell itself.
        let last = self.server.last_request_id();
        if self.server.show_goaway(last).is_ok() {
            self.to_client.push_back((header(Kind::Goaway, 0), last));
        }
    }

    fn client_reads(&mut self) {
        let Some((header, last)) = self.to_client.pop_front() else { return };
        if header.kind == Some(Kind::Goaway) {
            self.client.show_goaway(last).unwrap_or_else(|error| panic!("{error}"));
            return;
        }
        let verdict = self.client.show(Side::Server, &header).unwrap_or_else(|error| panic!("{header:?}: {error}"));
        assert_eq!(verdict, Verdict::Accept);
        match header.kind.unwrap() {
            Kind::Response => {
                let payload_bytes = self.calls.remove(&header.request_id).expect("answered once");
                self.client.answered(payload_bytes).unwrap();
            }
            Kind::Welcome | Kind::HandedOver => self.client.set_limits(LIMITS),
            _ => {}
        }
    }
}
