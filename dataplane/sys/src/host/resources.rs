//! Cores, memory and limits of this host and this process.

use rustix::process::{Resource, getrlimit};

use super::{Finding, bytes};

/// Open files a server wants: 100 processes with a worker, lanes, doorbells and clients each.
const OPEN_FILES_WANTED: u64 = 16 * 1024;
/// Memory below which the default segments do not fit comfortably.
const MEMORY_WANTED: u64 = 512 * 1024 * 1024;
/// Locked memory that registered buffers want.
const LOCKED_WANTED: u64 = 8 * 1024 * 1024;

pub(super) fn cores() -> Finding {
    let count = super::cores();
    let detail = format!("{count} usable");
    if count >= 2 {
        return Finding::granted("cores", detail);
    }
    let advice = "with one core a call costs two context switches and spinning cannot help; use wait = \"park\"";
    Finding::limited("cores", detail, advice)
}

pub(super) fn memory_figure(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

pub(super) fn memory() -> Finding {
    let (Some(total), Some(available)) = (super::total_memory_bytes(), super::available_memory_bytes()) else {
        return Finding::limited("memory", "unknown: /proc/meminfo is not readable", "mount /proc");
    };
    let detail = format!("{} available of {}", bytes(available), bytes(total));
    if available >= MEMORY_WANTED {
        return Finding::granted("memory", detail);
    }
    Finding::limited("memory", detail, "few processes will be admitted; end other programs or lower the limits")
}

fn number(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

pub(super) fn open_files() -> Finding {
    let limit = getrlimit(Resource::Nofile);
    let detail = format!("{} (can be raised to {})", number(limit.current), number(limit.maximum));
    if limit.maximum.is_none_or(|maximum| maximum >= OPEN_FILES_WANTED) {
        return Finding::granted("open files", detail);
    }
    let advice = format!("raise the hard limit to {OPEN_FILES_WANTED} (ulimit -Hn, systemd LimitNOFILE=)");
    Finding::limited("open files", detail, advice)
}

pub(super) fn locked_memory() -> Finding {
    let limit = getrlimit(Resource::Memlock);
    let detail = limit.current.map_or_else(|| "unlimited".to_owned(), bytes);
    // Buffers registered with a ring are charged here unless the process has CAP_IPC_LOCK.
    if limit.current.is_none_or(|current| current >= LOCKED_WANTED) {
        return Finding::granted("locked memory", detail);
    }
    Finding::limited("locked memory", detail, "fewer registered buffers; raise `ulimit -l` to 8192 or more")
}

pub(super) fn message_queues() -> Finding {
    const NAME: &str = "POSIX message queues";
    let read = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/proc/sys/fs/mqueue/{name}")).ok()?.trim().parse().ok()
    };
    match (read("queues_max"), read("msgsize_max")) {
        (Some(queues), Some(size)) => {
            Finding::granted(NAME, format!("{queues} queues of messages up to {}", bytes(size)))
        }
        _ => Finding::lacking(NAME, "the kernel has none", "only the benchmarks' comparison needs them"),
    }
}

pub(super) fn time_stamp_counter() -> Finding {
    const NAME: &str = "time-stamp counter";
    if cfg!(target_arch = "aarch64") {
        return Finding::granted(NAME, "the generic timer, constant by architecture");
    }
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|one| one == flag);
    let source = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let detail = format!("clock source {}", source.as_deref().map_or("unknown", str::trim));
    if has("constant_tsc") && has("nonstop_tsc") {
        return Finding::granted(NAME, format!("invariant, {detail}"));
    }
    Finding::limited(NAME, format!("not invariant, {detail}"), "latency is sampled with the system clock instead")
}
