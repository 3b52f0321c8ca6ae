//! How fast a directory is, beside what its disk does when nothing but bytes is asked of it: sequential direct writes and
//! reads of one file, a mebibyte at a time.
//!
//! `cargo run --release -p praas-storage --example disk_speed -- DIRECTORY [ROUNDS]`

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use praas_storage::buffer::AlignedBuffer;
use praas_storage::disk::{FileLayer, HostFiles};
use praas_storage::log::{LogPlan, LogWriter};
use praas_storage::{Backend, BlobName, DiskBackend, Folder};
use praas_sys::Errno;
use rustix::fs::{Mode, OFlags};

/// Bytes of one round.
const TOTAL_BYTES: u64 = 1 << 30;
const OPERATION_BYTES: usize = 1 << 20;
const CHUNK_BYTES: usize = 8 << 20;
/// Bytes of a record, and records that are synced as one.
const RECORD_BYTES: usize = 1024 + 64;
const GROUP: u64 = 32;

fn noise(bytes: &mut [u8], seed: u64) {
    let mut word = seed | 1;
    for chunk in bytes.chunks_exact_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.copy_from_slice(&word.to_le_bytes());
    }
}

fn gigabytes_a_second(begun: Instant) -> f64 {
    TOTAL_BYTES as f64 / begun.elapsed().as_secs_f64() / 1e9
}

/// The floor: one file, one operation after the other, one sync.
fn raw_write(path: &Path, bytes: &[u8]) -> std::io::Result<f64> {
    let _ = std::fs::remove_file(path);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    let begun = Instant::now();
    let mut ring = praas_sys::DiskRing::of_calls();
    for offset in (0..TOTAL_BYTES).step_by(OPERATION_BYTES) {
        let start = usize::try_from(offset).unwrap_or_default() % bytes.len();
        ring.write(file.as_fd(), offset, &bytes[start..start + OPERATION_BYTES])?;
    }
    rustix::fs::fsync(&file)?;
    Ok(gigabytes_a_second(begun))
}

fn raw_read(path: &Path, into: &mut [u8]) -> std::io::Result<f64> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECT, Mode::empty())?;
    let mut ring = praas_sys::DiskRing::of_calls();
    let begun = Instant::now();
    for offset in (0..TOTAL_BYTES).step_by(OPERATION_BYTES) {
        ring.read(file.as_fd(), offset, &mut into[..OPERATION_BYTES])?;
    }
    Ok(gigabytes_a_second(begun))
}

fn each_chunk(threads: usize, work: impl Fn(u64, &mut AlignedBuffer) + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut chunk = AlignedBuffer::new(CHUNK_BYTES);
                noise(&mut chunk, 7);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= TOTAL_BYTES / CHUNK_BYTES as u64 {
                        break;
                    }
                    work(number, &mut chunk);
                }
            });
        }
    });
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("which directory?")?;
    let rounds: usize = arguments.next().map_or(Ok(5), |rounds| rounds.parse())?;
    let place = Path::new(&directory).join("disk-speed");
    let backend = DiskBackend::open(&place)?;
    let folder = Folder { process: "disk/speed".parse()?, incarnation: 1 };
    let raw = place.join(".raw");
    let mut bytes = AlignedBuffer::new(64 << 20);
    noise(&mut bytes, 3);
    println!("GB/s: raw write, then puts by 1, 2, 3 threads; raw read, then reads by 1, 2, 3 threads");
    for _ in 0..rounds {
        let mut line = vec![raw_write(&raw, &bytes)?];
        for threads in 1..=3 {
            backend.remove_folder(&folder)?;
            let begun = Instant::now();
            each_chunk(threads, |number, chunk| {
                backend.put(&BlobName { folder, number: u128::from(number) }, chunk).expect("it is written");
            });
            backend.flush(&folder)?;
            backend.publish(&folder, None, b"manifest")?;
            line.push(gigabytes_a_second(begun));
        }
        line.push(raw_read(&raw, &mut bytes)?);
        for threads in 1..=3 {
            let begun = Instant::now();
            each_chunk(threads, |number, chunk| {
                backend.read(&BlobName { folder, number: u128::from(number) }, 0, chunk).expect("it is read");
            });
            line.push(gigabytes_a_second(begun));
        }
        println!("{}", line.iter().map(|rate| format!("{rate:5.2}")).collect::<Vec<_>>().join(" "));
    }
    log_rates(&place)?;
    std::fs::remove_dir_all(&place)?;
    Ok(())
}

/// One small write that lasts, in the ways that there are, beside the log.
fn log_rates(place: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let files = HostFiles::new();
    let block = AlignedBuffer::new(4096);
    files.create(&place.join(".log-a"))?.write(0, &AlignedBuffer::new(64 << 10))?;
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::DSYNC;
    let dsync = rustix::fs::open(place.join(".log-a"), flags, Mode::empty())?;
    let plain = rustix::fs::open(place.join(".log-c"), OFlags::RDWR | OFlags::CREATE, Mode::RUSR | Mode::WUSR)?;
    let mut ring = praas_sys::DiskRing::of_calls();
    let log_directory = place.join(".logs");
    files.make_directory(&log_directory)?;
    let mut log = LogWriter::begin(Arc::new(HostFiles::new()), &log_directory, 0, LogPlan::default())?;
    let record = [7; RECORD_BYTES];
    let mut position = 0;
    for _ in 0..5 {
        let fsync = measure("4 KiB write + fsync, a file that grows", 1, &mut |number| {
            rustix::io::pwrite(&plain, &block, number * 4096)?;
            rustix::fs::fsync(&plain)
        })?;
        let again = measure("4 KiB write + fsync, the same blocks  ", 1, &mut |number| {
            rustix::io::pwrite(&plain, &block, number % 16 * 4096)?;
            rustix::fs::fsync(&plain)
        })?;
        let direct = measure("4 KiB direct write, O_DSYNC, the same ", 1, &mut |number| {
            ring.write(dsync.as_fd(), number % 16 * 4096, &block)
        })?;
        let single = measure("log: a record of 1 KiB, sync          ", 1, &mut |_| {
            position += 1;
            log.append(&record, position).and_then(|()| log.sync()).map(drop).map_err(|_| Errno::IO)
        })?;
        let group = measure("log: 32 records of 1 KiB, sync        ", GROUP, &mut |_| {
            for _ in 0..GROUP {
                position += 1;
                log.append(&record, position).map_err(|_| Errno::IO)?;
            }
            log.sync().map(drop).map_err(|_| Errno::IO)
        })?;
        let times = [fsync, again, direct].map(|floor| format!("{:.2}", single.0 / floor.0)).join(", ");
        let rates = [fsync, again, direct].map(|floor| format!("{:.1}", group.1 / floor.1)).join(", ");
        println!("single: {times} times the three floors' p50; group: {rates} times their rates");
    }
    Ok(())
}

/// Prints one way, and returns its median in microseconds and its records a second.
fn measure(
    what: &str,
    records: u64,
    write: &mut dyn FnMut(u64) -> Result<(), Errno>,
) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    const WRITES: usize = 400;
    let mut spans = Vec::with_capacity(WRITES);
    let all = Instant::now();
    for number in 0..WRITES as u64 {
        let begun = Instant::now();
        write(number)?;
        spans.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    let rate = (WRITES as u64 * records) as f64 / all.elapsed().as_secs_f64();
    spans.sort_by(f64::total_cmp);
    println!("{what} p50 {:7.1} us, p99 {:8.1} us, {rate:9.0} records/s", spans[WRITES / 2], spans[WRITES * 99 / 100]);
    Ok((spans[WRITES / 2], rate))
}
