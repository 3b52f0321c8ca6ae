//! The functions of the end-to-end tests: what a worker, willing or hostile, does with a call.
//!
//! Some misuse whatever a worker can reach: its control socket (a copy that its test left as descriptor
//! [`SOCKET_COPY`]), the segments it maps, the pipes it shares.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use praas_function::{Application, Call};
use praas_protocol::codec::encode;
use praas_protocol::control::{LaneId, WorkerMessage};
use praas_protocol::limits::CONTROL_MESSAGE_BYTES_MAX;
use praas_sys::MessageSocket;

use crate::common::random::Random;

/// Where a worker finds a copy of its control socket, if its test made one.
pub(crate) const SOCKET_COPY: i32 = 9;

/// Where a worker finds a copy of its pipe to the keeper, if its test made one.
pub(crate) const KEEPER_PIPE_COPY: i32 = 8;

/// File in the process's working directory where calls of `note` leave their effects, one line each.
pub(crate) const EFFECTS: &str = "effects";

/// Serves as a worker.
pub(crate) fn serve() {
    let socket = praas_sys::inherited::take(SOCKET_COPY).ok().map(MessageSocket::from);
    let keeper_pipe = praas_sys::inherited::take(KEEPER_PIPE_COPY).ok();
    Application::new()
        .function("echo", |call: &mut Call<'_>| call.reply(call.input()))
        .function("digest", |call: &mut Call<'_>| digest(call.input()).to_le_bytes())
        .function("grow", |call: &mut Call<'_>| vec![7; number(call.input())])
        .function("index", |call: &mut Call<'_>| {
            std::thread::sleep(Duration::from_millis(number(call.input()) as u64));
            [call.context().worker_index()]
        })
        .function("sleep", |call: &mut Call<'_>| std::thread::sleep(Duration::from_millis(number(call.input()) as u64)))
        .function("hold", |call: &mut Call<'_>| hold(call.input()))
        .function("stuck", |_: &mut Call<'_>| -> Vec<u8> {
            loop {
                std::hint::black_box(0);
            }
        })
        .function("until-unwanted", |call: &mut Call<'_>| {
            let end = Instant::now() + Duration::from_secs(20);
            while Instant::now() < end {
                call.context().ensure_wanted()?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        })
        .function("caller", |call: &mut Call<'_>| {
            let context = call.context();
            format!("{} {}", context.principal(), context.is_caller_trusted())
        })
        .function("panic", |_: &mut Call<'_>| -> Vec<u8> { panic!("as asked") })
        .function("note", |call: &mut Call<'_>| note(call.input()))
        .function("census", |_: &mut Call<'_>| format!("{} {}", own_descriptors(), own_segments()))
        .function("fork", |call: &mut Call<'_>| {
            let child = std::process::Command::new("/bin/sleep").arg(text(call.input())).spawn();
            child.map_or_else(|error| error.to_string(), |_| "forked".to_owned())
        })
        .function("spoil", |call: &mut Call<'_>| spoil(text(call.input())))
        .function("pipes", move |call: &mut Call<'_>| misuse_pipes(keeper_pipe.as_ref(), number(call.input()) as u64))
        .function("babble", |call: &mut Call<'_>| babble(number(call.input()) as u64))
        .function("socket", move |call: &mut Call<'_>| {
            socket.as_ref().map_or("no copy", |socket| misuse_socket(socket, text(call.input())))
        })
        .run()
}

fn text(input: &[u8]) -> &str {
    std::str::from_utf8(input).expect("the test sends text")
}

fn number(input: &[u8]) -> usize {
    text(input).parse().expect("the test sends a number")
}

/// Tells one payload from another.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// Says which OS process runs this call, then keeps it for so many milliseconds.
pub(crate) fn hold(input: &[u8]) -> &'static str {
    // The number in the namespace that /proc was mounted in, which is the server's.
    let own = std::fs::read_link("/proc/self").unwrap_or_default();
    println!("holding in {}.", own.display());
    std::thread::sleep(Duration::from_millis(number(input) as u64));
    "held"
}

/// Leaves "ID" in the effects, for an input of "ID MILLISECONDS"; answers with the id.
fn note(input: &[u8]) -> String {
    let (id, ms) = text(input).split_once(' ').expect("an id and a time");
    let mut effects = std::fs::OpenOptions::new().create(true).append(true).open(EFFECTS).expect("the effects");
    effects.write_all(format!("{id}\n").as_bytes()).expect("an effect");
    std::thread::sleep(Duration::from_millis(ms.parse().expect("a time")));
    id.to_owned()
}

pub(crate) fn own_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Segments of praas that this process maps.
pub(crate) fn own_segments() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter(|line| line.contains("memfd:praas-")).count()
}

/// This process's descriptors whose target's name contains `word`, as paths that open them anew.
fn descriptors_named(word: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let named = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains(word));
    all.map(|entry| entry.path()).filter(named).collect()
}

/// Writes junk over every segment called SEGMENT, for an input of "SEGMENT FROM BYTES SEED".
pub(crate) fn spoil(input: &str) -> String {
    let words: Vec<&str> = input.split(' ').collect();
    let [segment, from, bytes, seed] = words[..] else { return "four words".into() };
    let [from, bytes, seed] = [from, bytes, seed].map(|word| word.parse::<u64>().unwrap());
    let mut spoiled = 0;
    for path in descriptors_named(segment) {
        let opened = std::fs::OpenOptions::new().read(true).write(true).open(path);
        let Ok(file) = opened else { continue };
        spoil_file(&file, from, bytes, &mut Random::new(seed));
        spoiled += 1;
    }
    format!("spoiled {spoiled}")
}

/// Puts random, extreme or no bytes into a range of a segment, as far as it reaches.
pub(crate) fn spoil_file(file: &std::fs::File, from: u64, bytes: u64, random: &mut Random) {
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let bytes = bytes.min(size.saturating_sub(from));
    let junk = match random.below(4) {
        0 => vec![0xff; usize::try_from(bytes).unwrap()],
        1 => vec![0; usize::try_from(bytes).unwrap()],
        _ => random.bytes(usize::try_from(bytes).unwrap()),
    };
    // Whatever the system refuses is not spoiled.
    let _ = file.write_all_at(&junk, from);
    if random.below(4) == 0 {
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        let _ = rustix::fs::fallocate(file, flags, from, bytes.max(1));
    }
}

/// Fills and drains the pipes of this worker for so many milliseconds: the keeper's, and with the server's own user the
/// doorbells and the output.
fn misuse_pipes(keeper_pipe: Option<&OwnedFd>, ms: u64) -> String {
    let end = Instant::now() + Duration::from_millis(ms);
    let nonblocking = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let open = |flags| {
        let paths = descriptors_named("pipe:").into_iter();
        let opened =
            paths.filter_map(move |path| rustix::fs::open(&path, flags | nonblocking, rustix::fs::Mode::empty()).ok());
        opened.collect::<Vec<OwnedFd>>()
    };
    let (writers, readers) = (open(rustix::fs::OFlags::WRONLY), open(rustix::fs::OFlags::RDONLY));
    let mut moved = 0_u64;
    while keeper_pipe.is_some_and(|pipe| rustix::io::write(pipe, &[b'x'; 4096]).is_ok()) {
        moved += 1;
    }
    while Instant::now() < end {
        for _ in 0..64 {
            moved += writers.iter().filter(|pipe| rustix::io::write(pipe, &[b'x'; 4096]).is_ok()).count() as u64;
        }
        let mut buffer = [0; 65_536];
        moved += readers.iter().filter(|pipe| rustix::io::read(pipe, &mut buffer).is_ok()).count() as u64;
    }
    format!("{} pipes opened anew, {moved} moves", writers.len())
}

/// Writes to both output streams for so many milliseconds.
fn babble(ms: u64) -> &'static str {
    let end = Instant::now() + Duration::from_millis(ms);
    while Instant::now() < end {
        println!("{}", "out ".repeat(1000));
        eprintln!("{}", "err ".repeat(1000));
    }
    "babbled"
}

/// Does to the control socket what no honest worker does.
fn misuse_socket(socket: &MessageSocket, how: &str) -> &'static str {
    let send = |bytes: &[u8]| socket.send_deadline(bytes, &[], Duration::from_secs(5)).is_ok();
    let say = |message: &WorkerMessage| send(&encode(message).expect("a message"));
    match how {
        "rings" => {
            let _ = (0..20_000).take_while(|_| say(&WorkerMessage::Ring)).count();
        }
        "junk" => drop(send(&[0xee; 300])),
        "huge" => drop(send(&vec![1; CONTROL_MESSAGE_BYTES_MAX + 1])),
        "lies" => drop(say(&WorkerMessage::LaneAttached { lane: LaneId(77_777), error: None })),
        "hello" => drop(say(&WorkerMessage::Hello { version: 1, functions: Vec::new() })),
        "descriptors" => {
            use std::os::fd::AsFd;
            let _ = socket.try_send(&encode(&WorkerMessage::Ring).expect("a message"), &[std::io::stdin().as_fd()]);
        }
        "shut down" => drop(rustix::net::shutdown(socket, rustix::net::Shutdown::Both)),
        "half shut" => drop(rustix::net::shutdown(socket, rustix::net::Shutdown::Write)),
        "blocking" => drop(socket.set_nonblocking(false)),
        "steal" => {
            let end = Instant::now() + Duration::from_millis(300);
            let mut buffer = vec![0; CONTROL_MESSAGE_BYTES_MAX];
            while Instant::now() < end {
                let _ = socket.recv_deadline(&mut buffer, 8, Duration::from_millis(20));
            }
        }
        _ => return "unknown",
    }
    "done"
}
