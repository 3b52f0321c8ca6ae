//! Random frames and streams, and the bytes of any frame.

use praas_protocol::control::{
    DirectoryEntry, FunctionStats, ProcessState, ProcessStats, ProcessStatus, SessionTicket, StoredFolder, Transition,
};
use praas_protocol::message::{Address, SessionId};
use praas_protocol::wire::{
    Action, ApplicationPage, Cancel, ChangesPage, Close, CountsPage, Dedicate, Done, Durability, Frame, Goaway,
    GoawayReason, HandedOver, Hello, List, ListApplications, Open, OpenAs, OpenSession, Opened, Order, Output,
    OutputChunk, Ping, Pong, ProcessPage, Refused, Request, Response, SessionOpened, Side, Stats, StorageUsage,
    StoredPage, TransitionPage, Watch, WatchTransitions, Welcome,
};
use praas_protocol::{FunctionId, Name, Phase, ProcessId};
use proptest::prelude::*;

/// Payloads of random streams are not longer than this.
pub(crate) const PAYLOAD_BYTES_MAX: u32 = 3000;

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn alice() -> ProcessId {
    "hello/alice".parse().unwrap()
}

pub(crate) fn bob() -> ProcessId {
    "hello/bob".parse().unwrap()
}

pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The frame's bytes, written by the code that senders use.
pub(crate) fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match frame {
        Frame::Hello(frame) => frame.encode(&mut out).unwrap(),
        Frame::Welcome(frame) => frame.encode(&mut out).unwrap(),
        Frame::Refused(frame) => frame.encode(&mut out),
        Frame::Goaway(frame) => frame.encode(&mut out),
        Frame::Ping(frame) => frame.encode(&mut out),
        Frame::Pong(frame) => frame.encode(&mut out),
        Frame::Open(frame) => frame.encode(&mut out),
        Frame::Opened(frame) => frame.encode(&mut out),
        Frame::Close(frame) => frame.encode(&mut out),
        Frame::Dedicate(frame) => frame.encode(&mut out),
        Frame::HandedOver(frame) => frame.encode(&mut out),
        Frame::Request(frame, payload) => frame.encode(payload, &mut out),
        Frame::Response(frame, payload) => frame.encode(payload, &mut out),
        Frame::Cancel(frame) => frame.encode(&mut out),
        Frame::Order(frame) => frame.encode(&mut out),
        Frame::Done(frame) => frame.encode(&mut out),
        Frame::List(frame) => frame.encode(&mut out),
        Frame::Processes(frame) => {
            let mut page = ProcessPage::begin(frame.request_id, &mut out);
            for row in frame.rows() {
                assert!(page.push(&row.to_status()));
            }
            page.end(frame.more);
        }
        Frame::ListApplications(frame) => frame.encode(&mut out),
        Frame::Applications(frame) => {
            let mut page = ApplicationPage::begin(frame.request_id, &mut out);
            for name in frame.names() {
                assert!(page.push(&name));
            }
            page.end(frame.more);
        }
        Frame::Output(frame) => frame.encode(&mut out),
        Frame::OutputChunk(frame) => frame.encode(&mut out),
        Frame::Stats(frame) => frame.encode(&mut out),
        Frame::Counts(frame) => {
            let stats = frame.to_stats();
            let mut page = CountsPage::begin(frame.request_id, &stats, &mut out);
            assert!(stats.functions.iter().all(|row| page.push(row)));
            page.end(frame.more);
        }
        Frame::OpenAs(frame) => frame.encode(&mut out),
        Frame::Session(frame) => frame.encode(&mut out),
        Frame::SessionOpened(frame) => frame.encode(&mut out),
        Frame::Watch(frame) => frame.encode(&mut out),
        Frame::Changes(frame) => {
            let mut page = ChangesPage::begin(frame.request_id, frame.upto, frame.is_whole, &mut out);
            assert!(frame.entries().all(|entry| page.push(&entry)));
            page.end(frame.more);
        }
        Frame::WatchTransitions(frame) => frame.encode(&mut out),
        Frame::Transitions(frame) => {
            let mut page = TransitionPage::begin(frame.request_id, frame.upto, frame.lost, &mut out);
            assert!(frame.transitions().all(|transition| page.push(&transition)));
            page.end();
        }
        Frame::StorageUsage(frame) => frame.encode(&mut out),
        Frame::Stored(frame) => {
            let mut page = StoredPage::begin(frame.request_id, frame.place, &mut out);
            assert!(frame.folders().all(|folder| page.push(&folder)));
            page.end(frame.more);
        }
        Frame::Skipped(_) => unreachable!("nobody writes frames of later versions"),
    }
    out
}

fn names() -> impl Strategy<Value = Name> {
    "[a-z0-9][a-z0-9._-]{0,62}".prop_map(|text| name(&text))
}

fn processes() -> impl Strategy<Value = ProcessId> {
    (names(), names()).prop_map(|(application, process)| ProcessId { application, process })
}

fn addresses() -> impl Strategy<Value = Address> {
    prop_oneof![names().prop_map(Address::Process), any::<u128>().prop_map(|id| Address::Client(SessionId(id))),]
}

fn tickets() -> impl Strategy<Value = SessionTicket> {
    any::<[u128; 2]>().prop_map(|[session, secret]| SessionTicket { session: SessionId(session), secret })
}

fn directory_entries() -> impl Strategy<Value = DirectoryEntry> {
    let states = prop_oneof![Just(None), Just(Some(ProcessState::Active)), Just(Some(ProcessState::Unreachable))];
    (names(), addresses(), states).prop_map(|(application, address, state)| DirectoryEntry {
        application,
        address,
        state,
    })
}

fn payloads() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..80),
        prop::collection::vec(any::<u8>(), 0..=PAYLOAD_BYTES_MAX as usize),
    ]
}

pub(crate) fn requests() -> impl Strategy<Value = Request> {
    let optional = (
        any::<Option<([u8; 16], bool)>>(),
        any::<Option<[u8; 16]>>(),
        prop::option::of(names()),
        prop::option::of((0_u8..3).prop_map(|code| Durability::from_code(code).unwrap())),
    );
    (1_u64.., any::<u32>(), any::<u64>(), any::<u64>(), prop_oneof![Just((None, None, None, None)), optional]).prop_map(
        |(id, handle, function, time, (key, root, principal, durability))| Request {
            idempotency_key: key.map(|(key, _)| key),
            rerun_lost: key.is_some_and(|(_, rerun_lost)| rerun_lost),
            root,
            principal,
            durability,
            ..Request::new(id, handle, FunctionId(function), time)
        },
    )
}

fn states() -> impl Strategy<Value = ProcessState> {
    let known: Vec<_> = (0..=u8::MAX).filter_map(ProcessState::from_code).collect();
    prop::sample::select(known)
}

fn statuses() -> impl Strategy<Value = ProcessStatus> {
    let pids = prop::collection::vec(any::<u32>(), 0..=64);
    let exits = prop::option::of("[a-zäß ]{1,80}");
    (processes(), states(), pids, any::<[u32; 2]>(), any::<[u64; 4]>(), exits).prop_map(
        |(process, state, worker_pids, [workers, lanes], numbers, last_exit)| {
            let [worker_restarts, calls_reported, stored_bytes, last_swap] = numbers;
            ProcessStatus {
                process,
                state,
                workers,
                worker_pids,
                lanes,
                worker_restarts,
                last_exit,
                calls_reported,
                stored_bytes,
                last_swap_unix_ms: (last_swap != 0).then_some(last_swap),
            }
        },
    )
}

fn transitions() -> impl Strategy<Value = Transition> {
    let states = (prop::option::of(states()), prop::option::of(states()));
    (processes(), states, any::<[u64; 4]>(), "[a-zäß ]{0,80}").prop_map(
        |(process, (from, to), [number, at_unix_ms, took_us, bytes], reason)| Transition {
            number,
            process,
            from,
            to,
            at_unix_ms,
            took_us,
            bytes,
            reason,
        },
    )
}

fn stored_folders() -> impl Strategy<Value = StoredFolder> {
    (processes(), prop::option::of(states()), any::<[u64; 4]>()).prop_map(
        |(process, state, [incarnation, blobs, bytes, leftover_bytes])| StoredFolder {
            process,
            incarnation,
            state,
            blobs,
            bytes,
            leftover_bytes,
        },
    )
}

fn counts() -> impl Strategy<Value = ProcessStats> {
    let function = (names(), any::<[u64; 8]>()).prop_map(
        |(function, [calls, failed, timed, mean_ns, p50_ns, p99_ns, p999_ns, max_ns])| FunctionStats {
            function,
            calls,
            failed,
            timed,
            mean_ns,
            p50_ns,
            p99_ns,
            p999_ns,
            max_ns,
        },
    );
    (prop::collection::vec(function, 0..20), any::<[u64; 4]>()).prop_map(
        |(functions, [queued, running, lanes, worker_restarts])| ProcessStats {
            functions,
            queued,
            running,
            lanes,
            worker_restarts,
        },
    )
}

/// Bytes of a random frame that the client sends.
pub(crate) fn client_frames() -> impl Strategy<Value = Vec<u8>> {
    let id = 1_u64..;
    let orders = prop_oneof![
        prop::option::of(any::<u64>()).prop_map(|idle_swap_ms| (Action::Create, idle_swap_ms)),
        prop::sample::select(vec![Action::Stop, Action::Restart, Action::Swap, Action::Restore])
            .prop_map(|action| (action, None)),
    ];
    prop_oneof![
        4 => (requests(), payloads()).prop_map(|(request, payload)| bytes_of(&Frame::Request(request, &payload))),
        1 => id.clone().prop_map(|request_id| bytes_of(&Frame::Cancel(Cancel { request_id }))),
        1 => (any::<(u16, u32, u64)>(), "[ -~]{0,1024}").prop_map(|((version_max, features, reply_window_bytes), token)| {
            let version_min = version_max / 2;
            bytes_of(&Frame::Hello(Hello { version_min, version_max, features, reply_window_bytes, token: &token }))
        }),
        1 => any::<u64>().prop_map(|opaque| bytes_of(&Frame::Ping(Ping { opaque }))),
        1 => (id.clone(), processes(), 0..=i32::MAX.cast_unsigned(), any::<u32>()).prop_map(
            |(request_id, process, payload_bytes_max, in_flight_max)| {
                bytes_of(&Frame::Open(Open { request_id, process, payload_bytes_max, in_flight_max }))
            }
        ),
        1 => (id.clone(), processes(), 0..=i32::MAX.cast_unsigned(), any::<u32>()).prop_map(
            |(request_id, process, payload_bytes_max, in_flight_max)| {
                bytes_of(&Frame::Dedicate(Dedicate { request_id, process, payload_bytes_max, in_flight_max }))
            }
        ),
        1 => any::<u32>().prop_map(|handle| bytes_of(&Frame::Close(Close { handle }))),
        1 => (id.clone(), orders, processes()).prop_map(|(request_id, (action, idle_swap_ms), process)| {
            bytes_of(&Frame::Order(Order { request_id, action, process, idle_swap_ms }))
        }),
        1 => (id.clone(), prop::option::of(processes()), any::<Option<u64>>()).prop_map(|(request_id, process, after)| {
            bytes_of(&Frame::WatchTransitions(WatchTransitions { request_id, process, after }))
        }),
        1 => (id.clone(), prop::option::of((processes(), any::<u64>())))
            .prop_map(|(request_id, after)| bytes_of(&Frame::StorageUsage(StorageUsage { request_id, after }))),
        1 => (id.clone(), prop::option::of(processes()))
            .prop_map(|(request_id, after)| bytes_of(&Frame::List(List { request_id, after }))),
        1 => (id.clone(), prop::option::of(names()))
            .prop_map(|(request_id, after)| bytes_of(&Frame::ListApplications(ListApplications { request_id, after }))),
        1 => (id.clone(), processes(), prop::option::of(names()))
            .prop_map(|(request_id, process, after)| {
                let after = after.as_ref().map_or("", Name::as_str);
                bytes_of(&Frame::Stats(Stats { request_id, process, after }))
            }),
        1 => (id.clone(), any::<[u64; 3]>(), 0..=i32::MAX.cast_unsigned(), any::<u32>(), names(), addresses(), addresses()).prop_map(
            |(request_id, [instance, generation, incarnation], payload_bytes_max, in_flight_max, application, source, to)| {
                bytes_of(&Frame::OpenAs(OpenAs {
                    request_id,
                    payload_bytes_max,
                    in_flight_max,
                    instance,
                    generation,
                    incarnation,
                    application,
                    source,
                    to,
                }))
            }
        ),
        1 => (id.clone(), 0..=i32::MAX.cast_unsigned(), prop::option::of(tickets()), names()).prop_map(
            |(request_id, payload_bytes_max, resume, application)| {
                bytes_of(&Frame::Session(OpenSession { request_id, payload_bytes_max, resume, application }))
            }
        ),
        1 => (id.clone(), any::<u64>()).prop_map(|(request_id, after)| bytes_of(&Frame::Watch(Watch { request_id, after }))),
        1 => (id, processes(), any::<u64>(), any::<bool>()).prop_map(|(request_id, process, from, follow)| {
            bytes_of(&Frame::Output(Output { request_id, process, from, follow }))
        }),
        1 => skipped_frames(),
    ]
}

/// Bytes of a random frame that the server sends.
pub(crate) fn server_frames() -> impl Strategy<Value = Vec<u8>> {
    let id = 1_u64..;
    let limits = (0..=i32::MAX.cast_unsigned(), 1_u32.., any::<u64>());
    let phases = prop_oneof![Just(Phase::Active), Just(Phase::Draining), Just(Phase::Closed)];
    prop_oneof![
        4 => (id.clone(), any::<[u32; 3]>(), payloads()).prop_map(|(request_id, [outcome_code, detail, more], payload)| {
            bytes_of(&Frame::Response(Response { request_id, outcome_code, detail, more }, &payload))
        }),
        1 => (any::<(u16, u32, u64, u64)>(), any::<[u8; 16]>(), limits.clone(), any::<u32>(), "[ -~]{0,108}").prop_map(
            |((version, features, connection_id, incarnation), host_id, (payload, calls, window), handles_max, path)| {
                bytes_of(&Frame::Welcome(Welcome {
                    version,
                    features,
                    connection_id,
                    incarnation,
                    host_id,
                    payload_bytes_max: payload,
                    in_flight_max: calls,
                    handles_max,
                    window_bytes: window.max(u64::from(payload)),
                    reply_window_bytes: window,
                    socket_path: &path,
                }))
            }
        ),
        1 => (any::<(u64, u16, u8)>(), any::<[u64; 3]>(), "[a-zäß]{0,100}", "[a-zß]{0,1000}", "[a-zß]{0,300}").prop_map(
            |((request_id, code, state), numbers, subject, reason, advice)| {
                let (subject, reason, advice) = (subject.as_str(), reason.as_str(), advice.as_str());
                bytes_of(&Frame::Refused(Refused { request_id, code, state, numbers, subject, reason, advice }))
            }
        ),
        1 => (any::<(u64, u16, bool)>(), "[a-zäß]{0,300}").prop_map(|((last_request_id, code, may_reconnect), message)| {
            let reason = GoawayReason::from_code(code);
            bytes_of(&Frame::Goaway(Goaway { last_request_id, reason, may_reconnect, message: &message }))
        }),
        1 => any::<[u64; 3]>().prop_map(|[opaque, received_ns, sent_ns]| {
            bytes_of(&Frame::Pong(Pong { opaque, received_ns, sent_ns }))
        }),
        1 => (id.clone(), 1_u32.., limits.clone(), any::<u32>(), phases.clone()).prop_map(
            |(request_id, handle, (payload_bytes_max, in_flight_max, _), workers_max, phase)| {
                bytes_of(&Frame::Opened(Opened {
                    request_id,
                    handle,
                    payload_bytes_max,
                    in_flight_max,
                    workers_max,
                    phase,
                }))
            }
        ),
        1 => (id.clone(), limits.clone(), phases).prop_map(|(request_id, (payload_bytes_max, in_flight_max, window), phase)| {
            let window_bytes = window.max(u64::from(payload_bytes_max));
            bytes_of(&Frame::HandedOver(HandedOver { request_id, payload_bytes_max, in_flight_max, window_bytes, phase }))
        }),
        1 => id.clone().prop_map(|request_id| bytes_of(&Frame::Done(Done { request_id }))),
        1 => (id.clone(), prop::collection::vec(statuses(), 0..20), any::<bool>()).prop_map(|(id, rows, more)| {
            let mut out = Vec::new();
            let mut page = ProcessPage::begin(id, &mut out);
            assert!(rows.iter().all(|row| page.push(row)));
            page.end(more);
            out
        }),
        1 => (id.clone(), prop::collection::vec(names(), 0..20), any::<bool>()).prop_map(|(id, rows, more)| {
            let mut out = Vec::new();
            let mut page = ApplicationPage::begin(id, &mut out);
            assert!(rows.iter().all(|row| page.push(row)));
            page.end(more);
            out
        }),
        1 => (id.clone(), 1_u32.., limits.clone(), any::<u64>(), tickets(), any::<bool>()).prop_map(
            |(request_id, handle, (payload_bytes_max, in_flight_max, _), incarnation, ticket, resumed)| {
                bytes_of(&Frame::SessionOpened(SessionOpened {
                    request_id,
                    handle,
                    payload_bytes_max,
                    in_flight_max,
                    incarnation,
                    ticket,
                    resumed,
                }))
            }
        ),
        1 => (id.clone(), any::<(u64, bool, bool)>(), prop::collection::vec(directory_entries(), 0..20)).prop_map(
            |(id, (upto, is_whole, more), entries)| {
                let mut out = Vec::new();
                let mut page = ChangesPage::begin(id, upto, is_whole, &mut out);
                assert!(entries.iter().all(|entry| page.push(entry)));
                page.end(more);
                out
            }
        ),
        1 => (id.clone(), counts(), any::<bool>()).prop_map(|(id, stats, more)| {
            let mut out = Vec::new();
            let mut page = CountsPage::begin(id, &stats, &mut out);
            assert!(stats.functions.iter().all(|row| page.push(row)));
            page.end(more);
            out
        }),
        1 => (id.clone(), any::<[u64; 2]>(), prop::collection::vec(transitions(), 0..20)).prop_map(
            |(id, [upto, lost], rows)| {
                let mut out = Vec::new();
                let mut page = TransitionPage::begin(id, upto, lost, &mut out);
                assert!(rows.iter().all(|row| page.push(row)));
                page.end();
                out
            }
        ),
        1 => (id.clone(), "[ -~]{0,300}", prop::collection::vec(stored_folders(), 0..20), any::<bool>()).prop_map(
            |(id, place, rows, more)| {
                let mut out = Vec::new();
                let mut page = StoredPage::begin(id, &place, &mut out);
                assert!(rows.iter().all(|row| page.push(row)));
                page.end(more);
                out
            }
        ),
        1 => (id, any::<u64>(), payloads(), any::<bool>()).prop_map(|(request_id, position, bytes, ended)| {
            bytes_of(&Frame::OutputChunk(OutputChunk { request_id, position, bytes: &bytes, ended }))
        }),
        1 => skipped_frames(),
    ]
}

/// Bytes of frames of a random stream of one side.
pub(crate) fn frames_of(sender: Side) -> BoxedStrategy<Vec<Vec<u8>>> {
    match sender {
        Side::Client => prop::collection::vec(client_frames(), 1..8).boxed(),
        Side::Server => prop::collection::vec(server_frames(), 1..8).boxed(),
    }
}

/// A frame of a later version, which a receiver skips.
fn skipped_frames() -> impl Strategy<Value = Vec<u8>> {
    (0x80_u8.., any::<u8>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(
        |(kind, flags, id, body)| {
            let length = u32::try_from(body.len()).unwrap();
            [&length.to_le_bytes()[..], &[kind, flags, 0, 0], &id.to_le_bytes(), &body].concat()
        },
    )
}
