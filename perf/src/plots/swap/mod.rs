//! Plot `swap`: how long processes of several sizes take to fall asleep and to wake, and where their memory goes meanwhile. The
//! paper's section 6.6.

mod beds;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use praas_benches::bars::Settings;
use praas_benches::floors::{Batch, Samples};
use praas_benches::interleave::Measured;
use praas_benches::subject::{Sleeper, SleeperState};

use self::beds::Bed;
use super::Plot;
use crate::harness::one_way::halves;
use crate::harness::{Entry, Key, Run};
use crate::report::build::{Axes, lines_by_payload, median, times};
use crate::report::drawing::Drawing;
use crate::report::readable;
use crate::row::{Kind, Rows};

const ID: &str = "swap";

/// The plot.
pub(super) const PLOT: Plot =
    Plot { id: ID, title: "Falling asleep and waking", method: METHOD, measure, drawings, meaning };

const METHOD: &str = "A process has so much state in objects of 1 MiB whose bytes nothing makes less of. Out: from a client's wish \
    to the answer that the process sleeps, its worker ended and all of it stored and lasting; each time a new process, of which \
    nothing is stored. First reply: from a call to a process that sleeps to its answer, which a new worker gives when it has \
    looked at every byte of one object drawn at random. In: the same call and one more, that has seen the beginning and the end of \
    every object. It is stored in a directory of this host (before each waking the kernel drops what it keeps of the files), in \
    a SeaweedFS with its files in memory, in Redis over TCP, all on this host. Beside them: one file of as many bytes, written \
    directly and synced, or read directly; aws-sdk-s3 with plain objects, several at once, of the size and number that were \
    quickest of five in a trial; SET and GET of values of 1 MiB, one at a time on one connection. The paper's line is \
    PutObject of the prototype's state to real S3.";

/// State of the processes: the paper's sizes, and the bar's.
const SIZES_BYTES: [u64; 4] = [1 << 20, 10 << 20, 100 << 20, JUDGED_BYTES];
const SIZES_BYTES_QUICK: [u64; 2] = [10 << 20, JUDGED_BYTES];
/// What `swap-s3` is judged at.
pub(crate) const JUDGED_BYTES: u64 = 256 << 20;
const OBJECT_BYTES: u64 = 1 << 20;
const ROUNDS: u32 = 7;
const ROUNDS_QUICK: u32 = 2;
/// One operation a round: each is long, and has to be prepared.
const ONCE: Batch = Batch { warm_up: 0, samples: 1 };
/// Drawn of the paper: of its numbers of threads, which differ little, the first, on both kinds of machines.
const PAPER: [&str; 2] = ["fargate, 1 thread(s) (AWS, paper)", "ec2, 1 thread(s) (AWS, paper)"];

/// What is measured of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Out,
    FirstReply,
    In,
}

/// How a series of praas is called.
pub(crate) fn series(step: Step, place: &str) -> String {
    match step {
        Step::Out => format!("praas out, {place}"),
        Step::FirstReply => format!("praas first reply, {place}"),
        Step::In => format!("praas in, {place}"),
    }
}

fn measure(run: &mut Run) {
    let quick = run.settings().quick;
    let beds = beds::all();
    let sizes: &[u64] = if quick { &SIZES_BYTES_QUICK } else { &SIZES_BYTES };
    for size_bytes in sizes {
        for bed in &beds {
            let at = |key: Key| key.payload_bytes(*size_bytes).wait("the client sleeps until it is answered");
            match bed {
                Err((place, reason)) => {
                    run.next_group();
                    for step in [Step::Out, Step::FirstReply, Step::In] {
                        let mut key = Key::ours(ID, series(step, place));
                        if *place != beds::DISK {
                            // Another system is missing: no failure of praas.
                            key.kind = Kind::Baseline;
                        }
                        run.absent(&at(key), reason.clone());
                    }
                }
                Ok(bed) => measure_bed(run, bed, *size_bytes, at),
            }
        }
    }
}

fn measure_bed(run: &mut Run, bed: &Rc<Bed>, size_bytes: u64, at: impl Fn(Key) -> Key) {
    let state = SleeperState { objects: size_bytes / OBJECT_BYTES, value_bytes: OBJECT_BYTES };
    let ours = |step| at(Key::ours(ID, series(step, bed.name))).placement(bed.server.sleeper_words());
    let falling = Rc::clone(bed);
    let out = Measured::new(series(Step::Out, bed.name), move |_| {
        let sleeper = Sleeper::create(&falling.server, state)?;
        Ok(one(sleeper.fall_asleep()?))
    });
    let mut entries = vec![Entry::new(ours(Step::Out), ONCE, out)];
    let asleep = Sleeper::create(&bed.server, state).and_then(|sleeper| sleeper.fall_asleep().map(|_| sleeper));
    let steps = [Step::FirstReply, Step::In];
    match asleep {
        Ok(sleeper) => {
            let (sleeper, waking) = (RefCell::new(sleeper), Rc::clone(bed));
            let measured = halves(&series(Step::FirstReply, bed.name), move |_| {
                waking.make_cold()?;
                let mut sleeper = sleeper.borrow_mut();
                let (first, whole) = sleeper.wake_whole()?;
                sleeper.fall_asleep()?;
                Ok([one(first), one(whole)])
            });
            for (step, half) in steps.into_iter().zip(measured) {
                entries.push(Entry::new(ours(step), ONCE, half));
            }
        }
        Err(error) => {
            entries.extend(steps.map(|step| Entry::boxed(ours(step), ONCE, Err(error.to_string()))));
        }
    }
    entries.extend(bed.beside(size_bytes).into_iter().map(|(key, series)| Entry::boxed(at(key), ONCE, series)));
    let label = format!("{ID}, {} in {}", readable::bytes(size_bytes), bed.name);
    run.measure_rounds(&label, rounds(run.settings()), entries);
}

fn rounds(settings: Settings) -> u32 {
    if settings.quick { ROUNDS_QUICK } else { ROUNDS }
}

fn one(span: Duration) -> Samples {
    let mut samples = Samples::empty(1);
    samples.record(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    samples
}

fn drawings(rows: &Rows) -> Vec<Drawing> {
    let axes = |y_label| Axes { x_label: "State", y_label, x_logarithmic: true, y_logarithmic: true };
    let draw = |title: &str, y_label, step, beside: &[&str], papers: &[&str]| {
        let ours = beds::PLACES.map(|place| series(step, place));
        let names: Vec<&str> = ours.iter().map(String::as_str).chain(beside.iter().copied()).collect();
        // With none of the paper's named, all of them would join.
        let papers: Vec<&str> = if papers.is_empty() { vec![" (AWS, paper)"] } else { papers.to_vec() };
        lines_by_payload(rows, ID, title, &axes(y_label), &[names, papers].concat())
    };
    [
        draw("Falling asleep", "Time until it sleeps", Step::Out, &beds::BESIDE_OUT, &PAPER),
        draw("The first reply of a process that sleeps", "Time to the first reply", Step::FirstReply, &[], &[]),
        draw("All of it back", "Time until all was seen", Step::In, &beds::BESIDE_IN, &[]),
    ]
    .concat()
}

fn meaning(rows: &Rows) -> Option<String> {
    let place = beds::DISK;
    let [out, first, whole] = [Step::Out, Step::FirstReply, Step::In].map(|step| series(step, place));
    let at = |series: &str| median(rows, ID, series, JUDGED_BYTES).map(readable::span_ns);
    let mut words = format!(
        "A process of {} falls asleep on this disk in {}, answers its first call in {} and has all of its state back in {}",
        readable::bytes(JUDGED_BYTES),
        at(&out)?,
        at(&first)?,
        at(&whole)?
    );
    let beside = |over: &str, under: &str| times(rows, ID, over, under, JUDGED_BYTES).map(readable::times);
    if let (Some(written), Some(read)) = (beside(&out, beds::WRITES), beside(&whole, beds::READS)) {
        words += &format!(", {written} and {read} of one file of as many bytes");
    }
    Some(words + ".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paper;

    #[test]
    fn the_papers_line_stands_beside_falling_asleep_alone() {
        let mut run = Run::new("test".to_owned(), Settings { quick: true });
        run.next_group();
        for step in [Step::Out, Step::FirstReply, Step::In] {
            let key = Key::ours(ID, series(step, beds::DISK)).payload_bytes(JUDGED_BYTES);
            run.add_figures(&key, "ns", &[1e9, 1.1e9]);
        }
        let (mut rows, _) = run.finish();
        rows.extend(paper::rows());
        let drawings = drawings(&rows);
        let counts: Vec<usize> = drawings
            .iter()
            .map(|drawing| match drawing {
                Drawing::Lines(lines) => lines.series.len(),
                other => panic!("lines, not {other:?}"),
            })
            .collect();
        assert_eq!(counts, [1 + PAPER.len(), 1, 1]);
        assert!(meaning(&rows).is_some_and(|words| words.contains("256 MiB")));
        assert_eq!(meaning(&Rows::default()), None);
    }

    #[test]
    fn every_size_is_whole_objects_and_the_judged_one_is_always_measured() {
        for sizes in [&SIZES_BYTES[..], &SIZES_BYTES_QUICK[..]] {
            assert!(sizes.contains(&JUDGED_BYTES) && sizes.iter().all(|size| size.is_multiple_of(OBJECT_BYTES)));
        }
    }
}
