//! The bars of this suite: praas beside the prototype, raw TCP, Redis, S3 and its peers.

use crate::claims::condition::{Bound, Condition, Place, cells, judge, payloads};
use crate::claims::{Claim, Whose, command_of};
use crate::plots::swap::{self, Step};
use crate::row::{Kind, Rows};

/// The paper's small payloads.
const SMALL: [u64; 2] = [10, 1 << 10];
/// Its large ones.
const LARGE: [u64; 3] = [100 << 10, 1 << 20, 5 << 20];
/// Those of the peers.
const PEERS: [u64; 2] = [64, 1 << 10];

const PROTOTYPES: &[&str] = &["prototype local, one core", "prototype local, two cores", "prototype local, unpinned"];
const REDIS: &[&str] = &["Redis list, blocking (Unix socket)", "Redis stream, blocking (Unix socket)"];
const WORKERD: &[&str] = &["workerd Durable Object (HTTP, keep-alive)", "workerd, stateless"];

pub(super) fn evaluate(rows: &Rows) -> Vec<Claim> {
    [local(rows), remote(rows), redis(rows), s3(rows), state(rows), peers(rows), swap_s3(rows)].concat()
}

fn claim(rows: &Rows, id: &str, text: &str, condition: &Condition<'_>) -> Claim {
    let (figure, verdict) = judge(rows, condition);
    let ours = rows.of_plot(condition.plot).find(|row| row.series == condition.ours);
    Claim {
        id: id.to_owned(),
        whose: Whose::Bar,
        text: text.to_owned(),
        paper: None,
        command: ours.map_or_else(|| command_of(condition.plot), |row| row.source.clone()),
        figure,
        verdict,
    }
}

fn local(rows: &Rows) -> Vec<Claim> {
    let claim = |text: &str, ours: &str, others: &[&str], sizes: &[u64], times: f64| {
        let places = sizes.iter().copied().map(Place::Payload).collect();
        let bound = Bound::AtLeastTimes(times);
        claim(rows, "perf-local", text, &Condition { plot: "invocations", ours, others, places, bound })
    };
    let (one_core, unpinned) = (&["prototype local, one core"], &["prototype local, unpinned"]);
    vec![
        claim(
            "a local call, spinning, is ≥ 35 × faster than the prototype's at its best placement, up to 1 KiB",
            "praas local, spin",
            PROTOTYPES,
            &SMALL,
            35.0,
        ),
        claim(
            "sleeping, with all parties on one core, ≥ 4 × faster than the prototype so placed, up to 1 KiB",
            "praas local, park, one core",
            one_core,
            &SMALL,
            4.0,
        ),
        claim(
            "sleeping, unpinned, ≥ 1.7 × faster than the prototype unpinned, up to 1 KiB",
            "praas local, park, unpinned",
            unpinned,
            &SMALL,
            1.7,
        ),
        claim(
            "spinning, ≥ 10 × faster than the prototype at its best placement from 100 KiB to 5 MiB",
            "praas local, spin",
            PROTOTYPES,
            &LARGE,
            10.0,
        ),
        claim(
            "sleeping on one core, ≥ 10 × faster than the prototype so placed from 100 KiB to 5 MiB",
            "praas local, park, one core",
            one_core,
            &LARGE,
            10.0,
        ),
        claim(
            "sleeping, unpinned, ≥ 10 × faster than the prototype unpinned from 100 KiB to 5 MiB",
            "praas local, park, unpinned",
            unpinned,
            &LARGE,
            10.0,
        ),
    ]
}

fn remote(rows: &Rows) -> Vec<Claim> {
    let claim = |text: &str, ours: &str, floor: &str| {
        let places = payloads(rows, "invocations", ours);
        let bound = Bound::AtMostTimes(1.15);
        claim(rows, "perf-remote", text, &Condition { plot: "invocations", ours, others: &[floor], places, bound })
    };
    vec![
        claim(
            "a remote call on a dedicated connection takes ≤ 1.15 × a raw TCP echo that receives all before it answers, at every size",
            "praas remote, dedicated",
            "TCP echo, blocking",
        ),
        claim("the same where both spin", "praas remote, dedicated, spin", "TCP echo, spin"),
    ]
}

fn redis(rows: &Rows) -> Vec<Claim> {
    let claim = |text: &str, ours: &str, sizes: &[u64], share: f64| {
        let places = sizes.iter().copied().map(Place::Payload).collect();
        let bound = Bound::ReducedBy(share);
        claim(rows, "perf-redis", text, &Condition { plot: "ipc", ours, others: REDIS, places, bound })
    };
    let (small, large) = (&SMALL, &LARGE[1..]);
    vec![
        claim(
            "a message, spinning, takes ≥ 95 % less than over Redis at its best, up to 1 KiB",
            "praas, spin",
            small,
            0.95,
        ),
        claim("sleeping, ≥ 60 % less than over Redis that blocks, up to 1 KiB", "praas, park, two cores", small, 0.60),
        claim("spinning, ≥ 80 % less than over Redis at 1 and 5 MiB", "praas, spin", large, 0.80),
        claim("sleeping, ≥ 80 % less than over Redis at 1 and 5 MiB", "praas, park, two cores", large, 0.80),
    ]
}

fn s3(rows: &Rows) -> Vec<Claim> {
    let message = "praas, park, two cores";
    let servers = s3_series(rows, "ipc");
    let messages = Condition {
        plot: "ipc",
        ours: message,
        others: &servers,
        places: payloads(rows, "ipc", message),
        bound: Bound::ReducedBy(0.99),
    };
    let servers = s3_series(rows, "state");
    let state = Condition {
        plot: "state",
        ours: "praas",
        others: &servers,
        places: cells(rows, "state", "praas"),
        bound: Bound::ReducedBy(0.99),
    };
    vec![
        claim(rows, "perf-s3", "a message, sleeping, takes ≥ 99 % less than over S3, at every size", &messages),
        claim(
            rows,
            "perf-s3",
            "invocations that keep their state take ≥ 99 % less than those that put it into S3, in every cell",
            &state,
        ),
    ]
}

fn state(rows: &Rows) -> Vec<Claim> {
    let s3 = s3_series(rows, "state");
    [(&["Redis"][..], "Redis"), (&s3[..], "S3")]
        .into_iter()
        .map(|(others, name)| {
            let places = cells(rows, "state", "praas");
            let text =
                format!("invocations that keep their state are ahead of those that put it into {name}, in every cell");
            claim(
                rows,
                "perf-state",
                &text,
                &Condition { plot: "state", ours: "praas", others, places, bound: Bound::Ahead },
            )
        })
        .collect()
}

fn peers(rows: &Rows) -> Vec<Claim> {
    let claim = |text: &str, others: &[&str], times: f64| {
        let places = PEERS.map(Place::Payload).to_vec();
        let bound = Bound::AtLeastTimes(times);
        claim(rows, "perf-peers", text, &Condition { plot: "peers", ours: "praas, spin", others, places, bound })
    };
    vec![
        claim(
            "a no-op, spinning, is ≥ 4 × faster than one of iceoryx2, spinning as well",
            &["iceoryx2 request-response, spin"],
            4.0,
        ),
        claim("≥ 100 × faster than one of workerd, which sleeps", WORKERD, 100.0),
        claim("≥ 100 × faster than one of a Ray actor, which sleeps", &["Ray actor call"], 100.0),
    ]
}

fn swap_s3(rows: &Rows) -> Vec<Claim> {
    // 85 % of the rate is so many times the span.
    let bound = Bound::AtMostTimes(1.0 / 0.85);
    [(Step::Out, "out", "put"), (Step::In, "in", "got")]
        .into_iter()
        .map(|(step, way, carried)| {
            let ours = swap::series(step, "SeaweedFS S3");
            let plain = format!("aws-sdk-s3, plain objects {carried}, SeaweedFS S3");
            let places = vec![Place::Payload(swap::JUDGED_BYTES)];
            let text = format!(
                "{way}, 256 MiB, an S3 server on the same machine: ≥ 85 % of the rate that the SDK reaches with plain \
                 parallel objects"
            );
            let condition = Condition { plot: "swap", ours: &ours, others: &[&plain], places, bound };
            claim(rows, "swap-s3", &text, &condition)
        })
        .collect()
}

/// The series of a plot that are S3 servers, whichever were there.
fn s3_series<'a>(rows: &'a Rows, plot: &'a str) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for row in rows.of_plot(plot) {
        let is_s3 = row.kind == Kind::Baseline && row.series.split([' ', ',']).any(|word| word == "S3");
        if is_s3 && !row.series.ends_with("read whole") && !found.contains(&row.series.as_str()) {
            found.push(&row.series);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Verdict;
    use crate::claims::testing::{absent, cell, row};

    fn verdicts(rows: Vec<crate::row::Row>, id: &str) -> Vec<Verdict> {
        let claims = evaluate(&Rows::new(rows));
        claims.into_iter().filter(|claim| claim.id == id).map(|claim| claim.verdict).collect()
    }

    #[test]
    fn every_bar_is_there_without_rows_and_says_what_measures_it() {
        let claims = evaluate(&Rows::default());
        for id in ["perf-local", "perf-remote", "perf-redis", "perf-s3", "perf-state", "perf-peers", "swap-s3"] {
            assert!(claims.iter().any(|claim| claim.id == id), "{id}");
        }
        for claim in claims {
            assert!(matches!(claim.verdict, Verdict::NotMeasured(_)), "{claim:?}");
            assert!(claim.command.starts_with("cargo run --release -p praas-perf -- "), "{claim:?}");
        }
    }

    #[test]
    fn local_is_judged_against_the_best_placement_of_the_prototype() {
        let rows = |best: f64| {
            SMALL
                .iter()
                .chain(&LARGE)
                .flat_map(|size| {
                    let size = Some(*size);
                    [
                        row("invocations", "praas local, spin", Kind::Ours, size, 1_000.0),
                        row("invocations", "prototype local, one core", Kind::Baseline, size, best),
                        row("invocations", "prototype local, two cores", Kind::Baseline, size, 90_000.0),
                        absent("invocations", "prototype local, unpinned", size, "not here"),
                    ]
                })
                .collect::<Vec<_>>()
        };
        let met = verdicts(rows(35_000.0), "perf-local");
        assert_eq!((&met[0], &met[3]), (&Verdict::Met, &Verdict::Met));
        let missed = verdicts(rows(34_900.0), "perf-local");
        assert_eq!((&missed[0], &missed[3]), (&Verdict::NotMet, &Verdict::Met));
        assert!(matches!(missed[1], Verdict::NotMeasured(_)));
    }

    #[test]
    fn state_is_judged_in_every_cell_and_against_every_s3() {
        let rows = |last: f64| {
            let cells = [(1.0, 10.0), (1.0, 1e5), (100.0, 10.0), (100.0, 1e5)];
            cells
                .into_iter()
                .flat_map(|place| {
                    let ours = if place == (100.0, 1e5) { last } else { 10.0 };
                    [
                        cell("state", "praas", Kind::Ours, place, ours),
                        cell("state", "Redis", Kind::Baseline, place, 25.0),
                        cell("state", "SeaweedFS S3", Kind::Baseline, place, 9_000.0),
                        cell("state", "rclone S3", Kind::Baseline, place, 2_500.0),
                    ]
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(verdicts(rows(10.0), "perf-state"), [Verdict::Met, Verdict::Met]);
        assert_eq!(verdicts(rows(26.0), "perf-state"), [Verdict::NotMet, Verdict::Met]);
        assert_eq!(verdicts(rows(10.0), "perf-s3")[1], Verdict::Met);
        assert_eq!(verdicts(rows(25.5), "perf-s3")[1], Verdict::NotMet);
    }

    #[test]
    fn remote_is_judged_at_every_size_that_was_measured() {
        let rows = |large: f64| {
            [(10, 11.0), (64 << 20, large)]
                .into_iter()
                .flat_map(|(size, ours)| {
                    [
                        row("invocations", "praas remote, dedicated", Kind::Ours, Some(size), ours),
                        row("invocations", "TCP echo, blocking", Kind::Floor, Some(size), 10.0),
                    ]
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(verdicts(rows(11.5), "perf-remote")[0], Verdict::Met);
        assert_eq!(verdicts(rows(11.6), "perf-remote")[0], Verdict::NotMet);
    }

    #[test]
    fn storing_and_waking_are_judged_by_the_rate_of_plain_objects() {
        let rows = |ours: f64| {
            let of = |series: &str, kind, figure| row("swap", series, kind, Some(256 << 20), figure);
            vec![
                of("praas out, SeaweedFS S3", Kind::Ours, ours),
                of("aws-sdk-s3, plain objects put, SeaweedFS S3", Kind::Baseline, 85.0),
                of("praas in, SeaweedFS S3", Kind::Ours, 100.1),
                of("aws-sdk-s3, plain objects got, SeaweedFS S3", Kind::Baseline, 85.0),
            ]
        };
        assert_eq!(verdicts(rows(99.9), "swap-s3"), [Verdict::Met, Verdict::NotMet]);
        assert_eq!(verdicts(rows(101.0), "swap-s3"), [Verdict::NotMet, Verdict::NotMet]);
    }
}
