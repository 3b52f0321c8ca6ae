//! The peers are real: each answers what it is sent, is measured as often as asked, and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use praas_benches::floors::{Batch, Placement};
use praas_benches::interleave::Series;
use praas_perf::baselines::BaselineError;
use praas_perf::baselines::grpc::Grpc;
use praas_perf::baselines::iceoryx2::Iceoryx2;
use praas_perf::baselines::ray::{self, Ray};
use praas_perf::baselines::workerd::{self, CALLS_PER_SAMPLE, Workerd};
use praas_sys::{Pidfd, Signal};

const PROGRAM: &str = env!("CARGO_BIN_EXE_praas-perf");
const BATCH: Batch = Batch { warm_up: 3, samples: 20 };
/// How long the kernel may take to end killed processes on a busy machine, and how often they are looked at.
const END_PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
const FEW: Batch = Batch { warm_up: 1, samples: 2 };

/// Two rounds, because the second one meets what the first one left.
fn measured_twice(series: &mut impl Series, batch: Batch) {
    for round in 1..=2 {
        let samples = series.round(batch).unwrap_or_else(|error| panic!("{}, round {round}: {error}", series.label()));
        assert_eq!(samples.count(), batch.samples, "{}, round {round}", series.label());
        assert!(samples.p50_ns() > 0.0);
    }
}

/// The system, or `None` where it is not installed.
fn installed<T>(opened: Result<T, BaselineError>) -> Option<T> {
    match opened {
        Ok(system) => Some(system),
        Err(error @ BaselineError::NotInstalled { .. }) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Processes that work in `directory` or below it.
fn processes_in(directory: &Path) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").expect("processes are shown").flatten().map(|entry| entry.path());
    processes.filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|at| at.starts_with(directory))).collect()
}

#[test]
fn iceoryx2_answers_and_leaves_no_shared_memory() {
    let Ok(placement) = Placement::two_cores() else {
        println!("skipped: both sides spin, which takes two cores");
        return;
    };
    let mut small = Iceoryx2::<64>::open_by(Path::new(PROGRAM), placement).expect("it opens");
    let mut large = Iceoryx2::<1024>::open_by(Path::new(PROGRAM), placement).expect("another one opens beside it");
    measured_twice(&mut small, BATCH);
    measured_twice(&mut large, BATCH);
    let name = large.directory().file_name().expect("a name").to_owned();
    let segments = || -> Vec<_> {
        let entries =
            fs::read_dir("/dev/shm").expect("shared memory is shown").flatten().map(|entry| entry.file_name());
        entries.filter(|entry| entry.as_encoded_bytes().starts_with(name.as_encoded_bytes())).collect()
    };
    assert!(!segments().is_empty(), "its segments are named after its directory");
    drop(large);
    assert!(segments().is_empty(), "left behind: {:?}", segments());
    measured_twice(&mut small, BATCH);
}

#[test]
fn grpc_answers() {
    measured_twice(&mut Grpc::<64>::open_by(Path::new(PROGRAM), Placement::Free).expect("it opens"), BATCH);
    measured_twice(&mut Grpc::<1024>::open_by(Path::new(PROGRAM), Placement::Free).expect("it opens"), BATCH);
}

#[test]
fn workerd_answers_in_every_way_and_ends() {
    let Some(workerd) = installed(Workerd::start(Placement::Free)).map(Rc::new) else { return };
    assert!(workerd.version().starts_with("20"), "{}", workerd.version());
    for way in [workerd::Way::Stateless, workerd::Way::Object] {
        measured_twice(&mut workerd.echo::<1024>(way).expect("it connects"), BATCH);
    }
    let mut inside = workerd.echo::<64>(workerd::Way::ObjectFromWorker).expect("it connects");
    let samples = inside.round(FEW).expect("it answers");
    assert_eq!((samples.count(), samples.operations_per_sample()), (FEW.samples, CALLS_PER_SAMPLE));
    drop(inside);
    let directory = workerd.directory().to_owned();
    assert_eq!(processes_in(&directory).len(), 1);
    drop(workerd);
    assert!(processes_in(&directory).is_empty() && !directory.exists());
}

#[test]
fn ray_answers_in_both_ways_and_ends_with_all_its_processes() {
    let Some(ray) = installed(Ray::start()).map(Rc::new) else { return };
    for way in [ray::Way::Call, ray::Way::CompiledGraph, ray::Way::Call] {
        measured_twice(&mut ray.echo(way, 1024), BATCH);
    }
    let directory = ray.directory().to_owned();
    assert!(!processes_in(&directory).is_empty());
    drop(ray);
    assert!(processes_in(&directory).is_empty(), "{:?}", processes_in(&directory));
    assert!(!directory.exists());
}

#[test]
fn ray_ends_with_all_its_processes_when_its_driver_is_killed() {
    let Some(ray) = installed(Ray::start()) else { return };
    let driver = Pidfd::open(ray.process_id()).expect("it runs");
    driver.send_signal(Signal::KILL).expect("it is ours");
    let until = Instant::now() + END_PATIENCE;
    while !processes_in(ray.directory()).is_empty() {
        assert!(Instant::now() < until, "still there: {:?}", processes_in(ray.directory()));
        thread::sleep(POLL);
    }
}
