//! The machine that a run was made on, for `machine.json` and the page: what a reader has to know before believing a figure
//! or comparing it with another machine's.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use praas_benches::floors::FloorError;
use praas_benches::machine::Machine;
use serde::{Deserialize, Serialize};

/// Its name in the directory of a run.
pub const FILE: &str = "machine.json";
/// Runnable programs above which figures are not to be trusted: something else uses a core most of the time.
const QUIET_LOAD_MAX: f64 = 0.5;

/// A machine, the programs and the moment. Its keys are an interface: add, never rename.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The processor's name.
    pub processor: Option<String>,
    /// Cores that the suite may use.
    pub cores: usize,
    /// Hardware threads that share a core with the first one, itself included.
    pub threads_per_core: Option<usize>,
    /// Whether the processor is a virtual one.
    pub is_virtual: bool,
    /// Main memory.
    pub memory_bytes: Option<u64>,
    /// The kernel's release.
    pub kernel: String,
    /// What sets the processor's frequency; nothing is known of most virtual machines.
    pub governor: Option<String>,
    /// What the kernel does against faults of the processor, where it does anything.
    pub mitigations: Vec<Mitigation>,
    /// When the kernel gives pages of 2 MiB to private memory and to shared memory.
    pub huge_pages: HugePages,
    /// The clock of all figures.
    pub clock: String,
    /// Nanoseconds of a reading, which are part of every figure.
    pub clock_reading_ns: f64,
    /// Runnable programs at the beginning, mean of a minute.
    pub load: Option<f64>,
    /// The compiler.
    pub rustc: String,
    /// praas.
    pub praas: String,
    /// The commit of the sources, with `+` for changes that are in none.
    pub commit: Option<String>,
    /// When the run began, UTC.
    pub date: String,
}

/// A fault of the processor, and what the kernel does against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mitigation {
    /// The fault's name.
    pub fault: String,
    /// What is done.
    pub state: String,
}

/// The kernel's settings of huge pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// Of private memory.
    pub private: Option<String>,
    /// Of shared memory.
    pub shared: Option<String>,
}

impl Description {
    /// Looks at this machine.
    ///
    /// # Errors
    /// [`FloorError`] if the kernel does not tell which cores are there.
    pub fn look() -> Result<Self, FloorError> {
        let machine = Machine::look()?;
        Ok(Self {
            processor: machine.processor,
            cores: machine.cores,
            threads_per_core: threads_per_core(),
            is_virtual: line_of("/proc/cpuinfo", "flags")
                .is_some_and(|flags| words(&flags).any(|flag| flag == "hypervisor")),
            memory_bytes: memory_bytes(),
            kernel: machine.kernel,
            governor: first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            mitigations: mitigations(),
            huge_pages: HugePages {
                private: chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
                shared: chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            },
            clock: machine.clock.name().to_owned(),
            clock_reading_ns: machine.clock.reading_cost_ns(),
            load: machine.load,
            rustc: env!("PRAAS_PERF_RUSTC").to_owned(),
            praas: env!("CARGO_PKG_VERSION").to_owned(),
            commit: commit(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        })
    }

    /// What a reader should be warned of.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let load = self.load.filter(|load| *load > QUIET_LOAD_MAX);
        let load = load.map(|load| {
            format!("other programs were running (load {load:.1}): trust the ratios, not the figures, and repeat on a quiet machine")
        });
        let governor = self.governor.as_deref().filter(|governor| *governor != "performance");
        let governor = governor.map(|governor| {
            format!(
                "the processor's frequency changes (governor `{governor}`): set `performance` for figures that repeat"
            )
        });
        load.into_iter().chain(governor).collect()
    }

    /// In what two machines differ that figures depend on, as `name: here, there`.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let facts = |it: &Self| {
            let unknown = || "unknown".to_owned();
            [
                ("processor", it.processor.clone().unwrap_or_else(unknown)),
                ("cores", it.cores.to_string()),
                ("threads of a core", it.threads_per_core.map_or_else(unknown, |count| count.to_string())),
                ("memory", it.memory_bytes.map_or_else(unknown, readable_gib)),
                ("kernel", it.kernel.clone()),
                ("governor", it.governor.clone().unwrap_or_else(unknown)),
                ("mitigations", mitigation_words(&it.mitigations)),
                ("clock", it.clock.clone()),
                ("compiler", it.rustc.clone()),
            ]
        };
        let pairs = facts(self).into_iter().zip(facts(other));
        pairs
            .filter(|(here, there)| here != there)
            .map(|((name, here), (_, there))| format!("{name}: {here}; {there}"))
            .collect()
    }

    /// As names and values, for tables.
    #[must_use]
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let optional = |value: &Option<String>| value.clone();
        let shared = [
            ("processor", optional(&self.processor)),
            ("cores", Some(self.cores_in_words())),
            ("memory", self.memory_bytes.map(readable_gib)),
            ("kernel", Some(format!("Linux {}", self.kernel))),
            ("governor", optional(&self.governor)),
            ("mitigations", Some(mitigation_words(&self.mitigations))),
            ("huge pages, private memory", optional(&self.huge_pages.private)),
            ("huge pages, shared memory", optional(&self.huge_pages.shared)),
            (
                "clock",
                Some(format!("{}, {:.0} ns a reading (part of every figure)", self.clock, self.clock_reading_ns)),
            ),
            ("load when it began", self.load.map(|load| format!("{load:.2}"))),
            ("compiler", Some(self.rustc.clone())),
            (
                "praas",
                Some(self.commit.as_ref().map_or(self.praas.clone(), |commit| format!("{}, {commit}", self.praas))),
            ),
            ("date", Some(self.date.clone())),
        ];
        shared.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn cores_in_words(&self) -> String {
        let kind = if self.is_virtual { " (virtual)" } else { "" };
        let threads =
            self.threads_per_core.map(|count| format!(", {count} hardware threads a core")).unwrap_or_default();
        format!("{}{kind}{threads}", self.cores)
    }

    /// Writes `machine.json`.
    ///
    /// # Errors
    /// The file's.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let mut writer = BufWriter::new(File::create(directory.join(FILE))?);
        serde_json::to_writer_pretty(&mut writer, self)?;
        writer.write_all(b"\n")?;
        writer.flush()
    }

    /// Reads what [`Description::write`] wrote.
    ///
    /// # Errors
    /// The file's, or [`io::ErrorKind::InvalidData`].
    pub fn read(directory: &Path) -> io::Result<Self> {
        let reader = BufReader::new(File::open(directory.join(FILE))?);
        serde_json::from_reader(reader).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

fn readable_gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn mitigation_words(mitigations: &[Mitigation]) -> String {
    if mitigations.is_empty() {
        return "none in force".to_owned();
    }
    mitigations.iter().map(|Mitigation { fault, state }| format!("{fault}: {state}")).collect::<Vec<_>>().join("; ")
}

fn first_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

/// What stands behind the colon of a line of the kernel's.
fn line_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_ascii_whitespace()
}

/// The one of the kernel's words that stands in brackets.
fn chosen(path: &str) -> Option<String> {
    let line = first_line(path)?;
    let (_, rest) = line.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn threads_per_core() -> Option<usize> {
    let siblings = first_line("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")?;
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1)
    };
    siblings.split(',').map(range).sum()
}

fn memory_bytes() -> Option<u64> {
    let line = line_of("/proc/meminfo", "MemTotal")?;
    Some(words(&line).next()?.parse::<u64>().ok()? * 1024)
}

/// What the kernel does anything against.
fn mitigations() -> Vec<Mitigation> {
    let Ok(faults) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return Vec::new() };
    let mut found: Vec<Mitigation> = faults
        .filter_map(|fault| {
            let fault = fault.ok()?;
            let state = fs::read_to_string(fault.path()).ok()?.trim().strip_prefix("Mitigation: ")?.to_owned();
            Some(Mitigation { fault: fault.file_name().to_string_lossy().into_owned(), state })
        })
        .collect();
    found.sort_by(|one, other| one.fault.cmp(&other.fault));
    found
}

/// The commit that this program was built of, where it was built in a repository that is still there.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let is_changed = git(&["status", "--porcelain"]).is_none_or(|changes| !changes.is_empty());
    Some(if is_changed { commit + "+" } else { commit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described_and_read_back() {
        let here = Description::look().expect("the kernel tells");
        assert!(here.cores > 0 && here.clock_reading_ns > 0.0 && here.rustc.starts_with("rustc "), "{here:?}");
        assert!(here.memory_bytes.is_some_and(|bytes| bytes > 1 << 20), "{here:?}");
        let directory = tempfile::tempdir().expect("a directory");
        here.write(directory.path()).expect("it is written");
        let back = Description::read(directory.path()).expect("it is read");
        assert!(here.differences(&back).is_empty());
        assert_eq!((back.date, back.commit), (here.date, here.commit));
    }

    #[test]
    fn another_machine_is_told_apart() {
        let here = Description::look().expect("the kernel tells");
        let there = Description { cores: here.cores + 1, kernel: "9.9".into(), date: "later".into(), ..here.clone() };
        let differences = here.differences(&there);
        assert_eq!(differences.len(), 2, "{differences:?}");
        assert!(differences[0].starts_with("cores: ") && differences[1].ends_with("; 9.9"), "{differences:?}");
    }

    #[test]
    fn a_busy_machine_is_warned_of() {
        let here = Description::look().expect("the kernel tells");
        let busy = Description { load: Some(3.0), governor: Some("powersave".into()), ..here.clone() };
        assert_eq!(busy.warnings().len(), 2);
        let quiet = Description { load: Some(0.1), governor: None, ..here };
        assert!(quiet.warnings().is_empty());
    }
}
