//! Golden frames: the bytes, beside what they mean. The same frames stand in `WIRE.md`, and a test compares the two.

use praas_protocol::control::{
    DirectoryEntry, FunctionStats, ProcessState, ProcessStats, ProcessStatus, SessionTicket, StoredFolder, Transition,
};
use praas_protocol::message::{Address, SessionId};
use praas_protocol::wire::kind::{IdRule, KINDS};
use praas_protocol::wire::{
    Action, Cancel, Close, CountsPage, Dedicate, Done, Durability, Frame, Goaway, GoawayReason, HandedOver, Header,
    Hello, Kind, List, ListApplications, Open, OpenAs, OpenSession, Opened, Order, Output, OutputChunk, Ping, Pong,
    Refusal, Refused, Request, Response, SessionOpened, Side, Stats, StorageUsage, Watch, WatchTransitions, Welcome,
};
use praas_protocol::{FunctionId, Outcome, Phase};

use crate::samples::{alice, bob, bytes_of, from_hex, name};

const DOCUMENT: &str = include_str!("../../WIRE.md");

/// Name in the document, bytes, meaning.
fn golden() -> Vec<(&'static str, &'static str, Frame<'static>)> {
    vec![
        (
            "hello",
            "\
             2600000001000000000000000000000050524141534e4554010001000000000000001000000000000c00707261617331\
             2e30302e6666",
            Frame::Hello(Hello {
                version_min: 1,
                version_max: 1,
                features: 0,
                reply_window_bytes: 1 << 20,
                token: "praas1.00.ff",
            }),
        ),
        (
            "welcome",
            "\
             550000000200000000000000000000000100000000000000090000000000000088776655443322110001020304050607\
             08090a0b0c0d0e0f000000040001000000040000000000080000000000001000000000000f002f72756e2f7072616173\
             2e736f636b",
            Frame::Welcome(Welcome {
                version: 1,
                features: 0,
                connection_id: 9,
                incarnation: 0x1122_3344_5566_7788,
                host_id: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
                payload_bytes_max: 64 << 20,
                in_flight_max: 256,
                handles_max: 1024,
                window_bytes: 128 << 20,
                reply_window_bytes: 1 << 20,
                socket_path: "/run/praas.sock",
            }),
        ),
        (
            "refused-token",
            "\
             290000000300000000000000000000000200000000000000000000000000000000000000000000000000000000000700\
             657870697265640000",
            Frame::Refused(Refused {
                request_id: 0,
                code: 2,
                state: 0,
                numbers: [0; 3],
                subject: "",
                reason: "expired",
                advice: "",
            }),
        ),
        (
            "refused-limit",
            "\
             330000000300000005000000000000000700000010000000000000001000000000000000010000000000000009007072\
             6f6365737365730000080073746f70206f6e65",
            Frame::Refused(Refused {
                request_id: 5,
                code: 7,
                state: 0,
                numbers: [16, 16, 1],
                subject: "processes",
                reason: "",
                advice: "stop one",
            }),
        ),
        (
            "refused-state",
            "\
             2d000000030000000600000000000000090003000000000000000000000000000000000000000000000000000b006865\
             6c6c6f2f616c69636500000000",
            Frame::Refused(Refused {
                request_id: 6,
                code: 9,
                state: 3,
                numbers: [0; 3],
                subject: "hello/alice",
                reason: "",
                advice: "",
            }),
        ),
        (
            "refused-moved",
            "\
             2f0000000300000004000000000000000d0000000000000000000000000000000000000000000000000000000d003130\
             2e302e302e323a3734313100000000",
            Frame::Refused(Refused {
                request_id: 4,
                code: 13,
                state: 0,
                numbers: [0; 3],
                subject: "10.0.0.2:7411",
                reason: "",
                advice: "",
            }),
        ),
        (
            "goaway",
            "11000000040100000000000000000000290000000000000002000500647261696e",
            Frame::Goaway(Goaway {
                last_request_id: 41,
                reason: GoawayReason::Draining,
                may_reconnect: true,
                message: "drain",
            }),
        ),
        ("ping", "08000000050000000000000000000000cdab000000000000", Frame::Ping(Ping { opaque: 0xabcd })),
        (
            "pong",
            "18000000060000000000000000000000cdab000000000000e803000000000000dc05000000000000",
            Frame::Pong(Pong { opaque: 0xabcd, received_ns: 1000, sent_ns: 1500 }),
        ),
        (
            "open",
            "1500000010000000010000000000000000000000200000000b0068656c6c6f2f616c696365",
            Frame::Open(Open { request_id: 1, process: alice(), payload_bytes_max: 0, in_flight_max: 32 }),
        ),
        (
            "opened",
            "140000001100000001000000000000000100000000000004200000000100000001000000",
            Frame::Opened(Opened {
                request_id: 1,
                handle: 1,
                payload_bytes_max: 64 << 20,
                in_flight_max: 32,
                workers_max: 1,
                phase: Phase::Active,
            }),
        ),
        ("close", "0400000012000000000000000000000001000000", Frame::Close(Close { handle: 1 })),
        (
            "dedicate",
            "1500000013000000020000000000000000100000000000000b0068656c6c6f2f616c696365",
            Frame::Dedicate(Dedicate { request_id: 2, process: alice(), payload_bytes_max: 4096, in_flight_max: 0 }),
        ),
        (
            "handed-over",
            "140000001400000002000000000000000010000010000000000001000000000001000000",
            Frame::HandedOver(HandedOver {
                request_id: 2,
                payload_bytes_max: 4096,
                in_flight_max: 16,
                window_bytes: 65_536,
                phase: Phase::Active,
            }),
        ),
        (
            "request",
            "190000002000000007000000000000006441042660e5003000ca9a3b000000000100000068656c6c6f",
            Frame::Request(Request::new(7, 1, FunctionId::of("echo"), 1_000_000_000), b"hello"),
        ),
        (
            "request-full",
            "\
             76000000201f000008000000000000006441042660e50030000000000000000001000000111111111111111111111111\
             111111112222222222222222222222222222222203626f62000000000000000000000000000000000000000000000000\
             000000000000000000000000000000000000000000000000000000000000000000000000022a",
            Frame::Request(
                Request {
                    idempotency_key: Some([0x11; 16]),
                    rerun_lost: true,
                    root: Some([0x22; 16]),
                    principal: Some(name("bob")),
                    durability: Some(Durability::Logged),
                    ..Request::new(8, 1, FunctionId::of("echo"), 0)
                },
                &[42],
            ),
        ),
        (
            "response",
            "1100000021000000070000000000000000000000000000000000000068656c6c6f",
            Frame::Response(Response { request_id: 7, outcome_code: Outcome::Ok as u32, detail: 0, more: 0 }, b"hello"),
        ),
        (
            "response-failed",
            "18000000210000000800000000000000010000002a000000000000006e6f20737563682070616765",
            Frame::Response(
                Response { request_id: 8, outcome_code: Outcome::FunctionFailed as u32, detail: 42, more: 0 },
                b"no such page",
            ),
        ),
        (
            "response-moved",
            "190000002100000009000000000000000e000000000000000000000031302e302e302e323a37343131",
            Frame::Response(
                Response { request_id: 9, outcome_code: Outcome::Moved as u32, detail: 0, more: 0 },
                b"10.0.0.2:7411",
            ),
        ),
        ("cancel", "00000000220000000700000000000000", Frame::Cancel(Cancel { request_id: 7 })),
        (
            "create",
            "0b000000300000000a00000000000000090068656c6c6f2f626f62",
            Frame::Order(Order { request_id: 10, action: Action::Create, process: bob(), idle_swap_ms: None }),
        ),
        (
            "stop",
            "0b000000310000000b00000000000000090068656c6c6f2f626f62",
            Frame::Order(Order { request_id: 11, action: Action::Stop, process: bob(), idle_swap_ms: None }),
        ),
        (
            "restart",
            "0b000000320000000c00000000000000090068656c6c6f2f626f62",
            Frame::Order(Order { request_id: 12, action: Action::Restart, process: bob(), idle_swap_ms: None }),
        ),
        (
            "create-idle",
            "13000000300100001700000000000000090068656c6c6f2f626f623075000000000000",
            Frame::Order(Order { request_id: 23, action: Action::Create, process: bob(), idle_swap_ms: Some(30_000) }),
        ),
        (
            "swap",
            "0b0000003e0000001800000000000000090068656c6c6f2f626f62",
            Frame::Order(Order { request_id: 24, action: Action::Swap, process: bob(), idle_swap_ms: None }),
        ),
        (
            "restore",
            "0b0000003f0000001900000000000000090068656c6c6f2f626f62",
            Frame::Order(Order { request_id: 25, action: Action::Restore, process: bob(), idle_swap_ms: None }),
        ),
        (
            "watch-transitions",
            "0a000000400100001a0000000000000006000000000000000000",
            Frame::WatchTransitions(WatchTransitions { request_id: 26, process: None, after: Some(6) }),
        ),
        (
            "watch-transitions-of",
            "13000000400000001b000000000000000000000000000000090068656c6c6f2f626f62",
            Frame::WatchTransitions(WatchTransitions { request_id: 27, process: Some(bob()), after: None }),
        ),
        (
            "storage-usage",
            "15000000420000001c0000000000000011000000000000000b0068656c6c6f2f616c696365",
            Frame::StorageUsage(StorageUsage { request_id: 28, after: Some((alice(), 17)) }),
        ),
        ("done", "00000000330000000a00000000000000", Frame::Done(Done { request_id: 10 })),
        ("list", "02000000340000000d000000000000000000", Frame::List(List { request_id: 13, after: None })),
        (
            "list-after",
            "0d000000340000000e000000000000000b0068656c6c6f2f616c696365",
            Frame::List(List { request_id: 14, after: Some(alice()) }),
        ),
        (
            "list-applications",
            "07000000360000000f00000000000000050068656c6c6f",
            Frame::ListApplications(ListApplications { request_id: 15, after: Some(name("hello")) }),
        ),
        (
            "output",
            "1500000038010000100000000000000064000000000000000b0068656c6c6f2f616c696365",
            Frame::Output(Output { request_id: 16, process: alice(), from: 100, follow: true }),
        ),
        (
            "output-chunk",
            "0c00000039010000100000000000000064000000000000006279650a",
            Frame::OutputChunk(OutputChunk { request_id: 16, position: 100, bytes: b"bye\n", ended: true }),
        ),
        (
            "stats",
            "0f0000003a00000011000000000000000b0068656c6c6f2f616c6963650000",
            Frame::Stats(Stats { request_id: 17, process: alice(), after: "" }),
        ),
        (
            "stats-after",
            "130000003a00000012000000000000000b0068656c6c6f2f616c69636504006563686f",
            Frame::Stats(Stats { request_id: 18, process: alice(), after: "echo" }),
        ),
        (
            "open-as",
            "\
             a70000001500000013000000000000000000000020000000887766554433221103000000000000000500000000000000\
             05616c696365000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
             0000000000000000000000000000000003626f6200000000000000000000000000000000000000000000000000000000\
             0000000000000000000000000000000000000000000000000000000000000000050068656c6c6f",
            Frame::OpenAs(OpenAs {
                request_id: 19,
                payload_bytes_max: 0,
                in_flight_max: 32,
                instance: 0x1122_3344_5566_7788,
                generation: 3,
                incarnation: 5,
                application: name("hello"),
                source: Address::Process(name("alice")),
                to: Address::Process(name("bob")),
            }),
        ),
        (
            "session",
            "0b00000016000000140000000000000000100000050068656c6c6f",
            Frame::Session(OpenSession {
                request_id: 20,
                payload_bytes_max: 4096,
                resume: None,
                application: name("hello"),
            }),
        ),
        (
            "session-resume",
            "\
             2b00000016010000150000000000000000000000000102030405060708090a0b0c0d0e0f101112131415161718191a1b\
             1c1d1e1f050068656c6c6f",
            Frame::Session(OpenSession {
                request_id: 21,
                payload_bytes_max: 0,
                resume: Some(TICKET),
                application: name("hello"),
            }),
        ),
        (
            "session-opened",
            "\
             340000001701000015000000000000000200000000000004400000000700000000000000000102030405060708090a0b\
             0c0d0e0f101112131415161718191a1b1c1d1e1f",
            Frame::SessionOpened(SessionOpened {
                request_id: 21,
                handle: 2,
                payload_bytes_max: 64 << 20,
                in_flight_max: 64,
                incarnation: 7,
                ticket: TICKET,
                resumed: true,
            }),
        ),
        (
            "watch",
            "080000003c00000016000000000000002800000000000000",
            Frame::Watch(Watch { request_id: 22, after: 40 }),
        ),
    ]
}

const TICKET: SessionTicket = SessionTicket {
    session: SessionId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100),
    secret: 0x1f1e_1d1c_1b1a_1918_1716_1514_1312_1110,
};

const CHANGES: &str = "\
    e20000003d010000160000000000000003002b000000000000000205616c696365000000000000000000000000000000\
    00000000000000000000000000000000000000000000000000000000000000000000000000000000000000050068656c\
    6c6f0003626f620000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    00000000000000000000000000000000000000050068656c6c6f0280000102030405060708090a0b0c0d0e0f00000000\
    00000000000000000000000000000000000000000000000000000000000000000000000000000000000000050068656c\
    6c6f";

const PROCESSES: &str = "\
    82000000350100000d0000000000000002000b0068656c6c6f2f616c6963650202020000000300000001000000000000\
    00f40100000000000000000000000000000000000000000000a10f0000a20f000008007369676e616c2039090068656c\
    6c6f2f626f62070000000000000000000000000000000000070000000000000000001000000000000026acaa9a010000\
    0000";
const TRANSITIONS: &str = "\
    76000000410000001a00000000000000020008000000000000000000000000000000090068656c6c6f2f626f62060707\
    000000000000000026acaa9a01000028a00000000000000000100000000000040069646c650b0068656c6c6f2f616c69\
    6365030008000000000000000526acaa9a010000dc0500000000000000000000000000000000";
const STORED: &str = "\
    3a000000430100001c0000000000000001000a002f7661722f7072616173090068656c6c6f2f626f6207120000000000\
    0000030000000000000000001000000000000010000000000000";
const COUNTS: &str = "\
    680000003b010000110000000000000001000200000000000000010000000000000003000000000000000100000000000000\
    04006563686fe80300000000000003000000000000000f0000000000000084030000000000002003000000000000d0070000\
    0000000088130000000000002823000000000000";
const APPLICATIONS: &str = "\
    0f000000370000000f00000000000000020006007365617263680300776562";

fn parse(bytes: &[u8]) -> Frame<'_> {
    let (header, body) = bytes.split_first_chunk().unwrap();
    Frame::parse(&Header::parse(header).unwrap(), body).unwrap()
}

#[test]
fn every_golden_frame_means_what_stands_beside_it_and_is_written_so() {
    for (name, hex, frame) in golden() {
        let bytes = from_hex(hex);
        assert_eq!(parse(&bytes), frame, "{name}");
        assert_eq!(bytes_of(&frame), bytes, "{name}");
    }
}

#[test]
fn a_page_of_processes_reads_and_writes_as_documented() {
    let status = ProcessStatus {
        process: alice(),
        state: ProcessState::Active,
        workers: 2,
        worker_pids: vec![4001, 4002],
        lanes: 3,
        worker_restarts: 1,
        last_exit: Some("signal 9".to_owned()),
        calls_reported: 500,
        stored_bytes: 0,
        last_swap_unix_ms: None,
    };
    let asleep = ProcessStatus {
        process: "hello/bob".parse().unwrap(),
        state: ProcessState::Swapped,
        workers: 0,
        worker_pids: Vec::new(),
        lanes: 0,
        worker_restarts: 0,
        last_exit: None,
        calls_reported: 7,
        stored_bytes: 1 << 20,
        last_swap_unix_ms: Some(1_763_800_000_000),
    };
    let bytes = from_hex(PROCESSES);
    let Frame::Processes(page) = parse(&bytes) else { panic!("another kind") };
    assert!(page.more && page.request_id == 13);
    let rows: Vec<ProcessStatus> = page.rows().map(|row| row.to_status()).collect();
    assert_eq!(rows, [status, asleep]);
    assert_eq!(bytes_of(&Frame::Processes(page)), bytes);
}

#[test]
fn a_page_of_applications_reads_and_writes_as_documented() {
    let bytes = from_hex(APPLICATIONS);
    let Frame::Applications(page) = parse(&bytes) else { panic!("another kind") };
    assert!(!page.more && page.request_id == 15);
    assert_eq!(page.names().collect::<Vec<_>>(), [name("search"), name("web")]);
    assert_eq!(bytes_of(&Frame::Applications(page)), bytes);
}

#[test]
fn the_counts_of_a_process_read_and_write_as_documented() {
    let echo = FunctionStats {
        function: name("echo"),
        calls: 1000,
        failed: 3,
        timed: 15,
        mean_ns: 900,
        p50_ns: 800,
        p99_ns: 2000,
        p999_ns: 5000,
        max_ns: 9000,
    };
    let bytes = from_hex(COUNTS);
    let Frame::Counts(page) = parse(&bytes) else { panic!("another kind") };
    assert!(page.more && page.request_id == 17);
    let stats = ProcessStats { functions: vec![echo], queued: 2, running: 1, lanes: 3, worker_restarts: 1 };
    assert_eq!(page.to_stats(), stats);
    assert_eq!(bytes_of(&Frame::Counts(page)), bytes);
}

#[test]
fn what_changed_on_a_server_reads_and_writes_as_documented() {
    let application = name("hello");
    let bytes = from_hex(CHANGES);
    let Frame::Changes(page) = parse(&bytes) else { panic!("another kind") };
    assert!(page.more && !page.is_whole);
    assert_eq!((page.request_id, page.upto), (22, 43));
    let entry = |address, state| DirectoryEntry { application, address, state };
    let expected = [
        entry(Address::Process(name("alice")), Some(ProcessState::Active)),
        entry(Address::Process(name("bob")), None),
        entry(Address::Client(TICKET.session), Some(ProcessState::Active)),
    ];
    assert_eq!(page.entries().collect::<Vec<_>>(), expected);
    assert_eq!(bytes_of(&Frame::Changes(page)), bytes);
}

#[test]
fn what_happened_to_processes_reads_and_writes_as_documented() {
    let bytes = from_hex(TRANSITIONS);
    let Frame::Transitions(page) = parse(&bytes) else { panic!("another kind") };
    assert_eq!((page.request_id, page.upto, page.lost), (26, 8, 0));
    let swapped = Transition {
        number: 7,
        process: bob(),
        from: Some(ProcessState::Swapping),
        to: Some(ProcessState::Swapped),
        at_unix_ms: 1_763_800_000_000,
        took_us: 41_000,
        bytes: 1 << 20,
        reason: "idle".to_owned(),
    };
    let ended = Transition {
        number: 8,
        process: alice(),
        from: Some(ProcessState::Draining),
        to: None,
        at_unix_ms: 1_763_800_000_005,
        took_us: 1500,
        bytes: 0,
        reason: String::new(),
    };
    assert_eq!(page.transitions().collect::<Vec<_>>(), [swapped, ended]);
    assert_eq!(bytes_of(&Frame::Transitions(page)), bytes);
}

#[test]
fn what_storage_holds_reads_and_writes_as_documented() {
    let bytes = from_hex(STORED);
    let Frame::Stored(page) = parse(&bytes) else { panic!("another kind") };
    assert_eq!((page.request_id, page.more, page.place), (28, true, "/var/praas"));
    let state = Some(ProcessState::Swapped);
    let folder =
        StoredFolder { process: bob(), incarnation: 18, state, blobs: 3, bytes: 1 << 20, leftover_bytes: 4096 };
    assert_eq!(page.folders().collect::<Vec<_>>(), [folder]);
    assert_eq!(bytes_of(&Frame::Stored(page)), bytes);
}

#[test]
fn a_page_of_functions_takes_as_many_as_fit_the_frame() {
    let row = FunctionStats {
        function: name(&"f".repeat(63)),
        calls: u64::MAX,
        failed: u64::MAX,
        timed: u64::MAX,
        mean_ns: u64::MAX,
        p50_ns: u64::MAX,
        p99_ns: u64::MAX,
        p999_ns: u64::MAX,
        max_ns: u64::MAX,
    };
    let mut bytes = Vec::new();
    let mut page = CountsPage::begin(5, &ProcessStats::default(), &mut bytes);
    let taken = (0..).take_while(|_| page.push(&row)).count();
    page.end(true);
    let Frame::Counts(page) = parse(&bytes) else { panic!("another kind") };
    assert!(taken > 500 && page.more && page.functions().all(|read| read == row));
    assert_eq!(page.functions().count(), taken);
}

/// The hexadecimal of the document's blocks: a line is bytes, then `#` and words.
fn documented() -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("```frame ") {
            let body = lines.by_ref().take_while(|line| *line != "```");
            let hex = body.flat_map(|line| line.split('#').next().unwrap().split_whitespace()).collect();
            blocks.push((name.to_owned(), hex));
        }
    }
    blocks
}

#[test]
fn the_document_shows_exactly_the_golden_frames() {
    let mut expected: Vec<(String, String)> =
        golden().iter().map(|(name, hex, _)| (name.to_string(), hex.to_string())).collect();
    expected.push(("processes".to_owned(), PROCESSES.to_owned()));
    expected.push(("applications".to_owned(), APPLICATIONS.to_owned()));
    expected.push(("transitions".to_owned(), TRANSITIONS.to_owned()));
    expected.push(("stored".to_owned(), STORED.to_owned()));
    expected.push(("counts".to_owned(), COUNTS.to_owned()));
    expected.push(("changes".to_owned(), CHANGES.to_owned()));
    let mut found = documented();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn every_kind_has_a_golden_frame_and_a_row_in_the_document() {
    let shown: Vec<u8> = documented().iter().map(|(_, hex)| from_hex(hex)[4]).collect();
    for facts in KINDS {
        assert!(shown.contains(&facts.kind.code()), "{} has no golden frame", facts.name);
        let id = match facts.id {
            IdRule::Zero => "0",
            IdRule::New => "new",
            IdRule::Earlier => "earlier",
            IdRule::EarlierOrZero => "earlier or 0",
        };
        let (code, sender, flags) = (facts.kind.code(), facts.sender, facts.flags);
        let limit = match facts.kind {
            Kind::Request | Kind::Response => "payload".to_owned(),
            _ => facts.body_bytes_max.to_string(),
        };
        let row = format!(
            "| 0x{code:02x} | {} | {sender} | {id} | {flags} | {} | {limit} |",
            facts.name, facts.body_bytes_min
        );
        assert!(DOCUMENT.contains(&row), "the document lacks the row {row:?}");
    }
    assert!(KINDS.iter().any(|facts| facts.sender == Side::Client));
}

#[test]
fn the_document_lists_every_outcome_and_every_reason() {
    for outcome in (0..).map_while(Outcome::from_code) {
        let row = format!("| {} | {outcome:?} |", outcome as u32);
        assert!(DOCUMENT.contains(&row), "the document lacks {row:?}");
    }
    for code in 1.. {
        let reason = GoawayReason::from_code(code);
        if reason == GoawayReason::Other(code) {
            break;
        }
        let row = format!("| {code} | {reason:?} |");
        assert!(DOCUMENT.contains(&row), "the document lacks {row:?}");
    }
    for phase in [Phase::Active, Phase::Draining, Phase::Closed] {
        assert!(DOCUMENT.contains(&format!("{} = {phase}", phase as u8)), "the document lacks the phase {phase}");
    }
}

#[test]
fn the_document_lists_every_refusal() {
    for code in 1_u16.. {
        // Texts that make sense for every code.
        let subject = match code {
            4 => "hello",
            14 => "0f",
            _ => "hello/alice",
        };
        let refused = Refused { request_id: 1, code, state: 1, numbers: [1; 3], subject, reason: "r", advice: "a" };
        let refusal = refused.refusal().unwrap();
        let name = match &refusal {
            Refusal::Unknown { .. } => break,
            Refusal::Control(error) => format!("{error:?}"),
            other => format!("{other:?}"),
        };
        let name = name.split([' ', '{']).next().unwrap();
        let row = format!("| {code} | {name} |");
        assert!(DOCUMENT.contains(&row), "the document lacks {row:?}");
    }
}

#[test]
fn the_document_s_function_ids_are_those_of_the_code() {
    let vectors: Vec<(&str, u64)> = DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("| `\"")?.split_once("\"` | `0x"))
        .map(|(name, rest)| (name, u64::from_str_radix(rest.trim_end_matches("` |"), 16).unwrap()))
        .collect();
    assert!(vectors.len() >= 5, "{vectors:?}");
    for (name, id) in vectors {
        assert_eq!(FunctionId::of(name).0, id, "{name}");
    }
}
