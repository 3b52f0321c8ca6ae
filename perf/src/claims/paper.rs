//! The claims of the paper. What it measured is computed from its data each time; what the same comparison gives here is
//! this run's. AWS Lambda, Kubernetes and Knative are not on this machine: where a claim is about them, the claim is not
//! measured, and the figure is what stands nearest.

use crate::claims::condition::{Bound, Condition, Place, cells, judge, payloads, times_at};
use crate::claims::{Claim, Verdict, Whose, command_of};
use crate::paper::{Figure, figures};
use crate::plots::cost;
use crate::report::readable;
use crate::row::Rows;

/// The paper's payloads.
const PAYLOADS: [u64; 5] = [10, 1 << 10, 100 << 10, 1 << 20, 5 << 20];
const REDIS: &[&str] = &["Redis list, blocking (Unix socket)", "Redis stream, blocking (Unix socket)"];
const S3: &[&str] = &["SeaweedFS S3", "rclone S3", "S3"];
/// What a message is judged by: nobody spins, as in the paper.
const MESSAGE: &str = "praas, park, two cores";

pub(super) fn evaluate(rows: &Rows) -> Vec<Claim> {
    let mut claims = vec![lambda(rows), tcp(rows)];
    claims.extend(messages(rows));
    claims.extend([overhead(rows), state_s3(rows), state_redis(rows), allocation(rows)]);
    claims.push(memory_price(rows));
    claims.extend(later());
    claims
}

fn claim(text: &str, paper: String, plot: &str, figure: String, verdict: Verdict) -> Claim {
    Claim {
        id: "paper".to_owned(),
        whose: Whose::Paper,
        text: text.to_owned(),
        paper: Some(paper),
        command: command_of(plot),
        figure,
        verdict,
    }
}

fn lambda(rows: &Rows) -> Claim {
    let ratio = |payload| {
        median("fig_invocations", "AWS Lambda", payload) / median("fig_invocations", "PraaS (Remote)", payload)
    };
    let paper = format!("{} at 10 B, {} at 5 MiB", readable::times(ratio(10)), readable::times(ratio(5 << 20)));
    let here = rows.at_payload("invocations", "praas remote, brokered", 10).and_then(|row| row.p50);
    let figure = here.map_or_else(String::new, |span| {
        format!("a remote call through the server takes {} at 10 B, on loopback", readable::span_ns(span))
    });
    let reason = "AWS Lambda is not on this machine; figures of two machines have no ratio".to_owned();
    claim(
        "remote invocations are up to 17 × faster than AWS Lambda's",
        paper,
        "invocations",
        figure,
        Verdict::NotMeasured(reason),
    )
}

fn tcp(rows: &Rows) -> Claim {
    let ratio = |payload| {
        median("fig_invocations", "PraaS (Remote)", payload) / median("fig_invocations", "TCP (baseline)", payload)
    };
    let ratios: Vec<f64> = PAYLOADS.into_iter().map(ratio).collect();
    let (least, most) = bounds(&ratios);
    let paper = format!("{} to {} of TCP by medians", readable::times(least), readable::times(most));
    let ours = "praas remote, dedicated";
    let condition = Condition {
        plot: "invocations",
        ours,
        others: &["TCP echo, blocking"],
        places: payloads(rows, "invocations", ours),
        bound: Bound::AtMostTimes(most),
    };
    let (figure, verdict) = judge(rows, &condition);
    claim(
        "a remote no-op matches plain TCP (here: at least as closely as the paper's worst size)",
        paper,
        "invocations",
        figure,
        verdict,
    )
}

fn messages(rows: &Rows) -> Vec<Claim> {
    [("Redis", "Redis", REDIS), ("AWS S3", "S3", S3)]
        .into_iter()
        .map(|(series, name, others)| {
            let reduced = |payload| {
                1.0 - median("fig_ipc_latency", "PraaS Send-Recv", payload) / median("fig_ipc_latency", series, payload)
            };
            let shares: Vec<f64> = PAYLOADS.into_iter().map(reduced).collect();
            let (least, most) = bounds(&shares);
            let paper = format!("−{} to −{}, polled with sleeps", readable::percent(least), readable::percent(most));
            let judged = PAYLOADS.into_iter().zip(&shares).map(|(payload, share)| {
                let places = vec![Place::Payload(payload)];
                let condition =
                    Condition { plot: "ipc", ours: MESSAGE, others, places, bound: Bound::ReducedBy(*share) };
                judge(rows, &condition)
            });
            let (figure, verdict) = all_of(judged);
            let text = format!(
                "messages take less time than over {name}: here at each size, sleeping, at least the paper's share less"
            );
            claim(&text, paper, "ipc", figure, verdict)
        })
        .collect()
}

fn overhead(rows: &Rows) -> Claim {
    let share =
        1.0 - median("fig_ipc_latency", "PraaS Send-Recv", 1 << 10) / median("fig_ipc_latency", "AWS S3", 1 << 10);
    let places = vec![Place::Payload(1 << 10)];
    let condition = Condition { plot: "ipc", ours: MESSAGE, others: S3, places, bound: Bound::ReducedBy(0.99) };
    let (figure, verdict) = judge(rows, &condition);
    let paper = format!("−{} at 1 KiB against S3", readable::percent(share));
    claim("communication overhead is reduced by up to 99 %", paper, "ipc", figure, verdict)
}

fn state_s3(rows: &Rows) -> Claim {
    let (_, most) = heat_map("fig_state_s3", "AWS S3 / PraaS");
    let found = state_times(rows, S3);
    let text = "invocations that keep their state are up to 55 × faster than with S3";
    let paper = format!("up to {}", readable::times(most));
    let (figure, verdict) = greatest(found, most);
    claim(text, paper, "state", figure, verdict)
}

fn state_redis(rows: &Rows) -> Claim {
    let (least, most) = heat_map("fig_state_redis", "Redis / PraaS");
    let condition = Condition {
        plot: "state",
        ours: "praas",
        others: &["Redis"],
        places: cells(rows, "state", "praas"),
        bound: Bound::AtLeastTimes(least),
    };
    let (figure, verdict) = judge(rows, &condition);
    let paper = format!("{} to {}", readable::times(least), readable::times(most));
    claim(
        "and 1.0 to 2.1 × faster than with Redis (here: in each cell at least the paper's least)",
        paper,
        "state",
        figure,
        verdict,
    )
}

fn allocation(rows: &Rows) -> Claim {
    let mean = |series: &str| {
        let first = |line: &&Figure| line.figure == "fig_tradeoff_allocation" && line.series == series && line.x == "0";
        figures().iter().find(first).and_then(|line| line.mean).unwrap_or(f64::NAN)
    };
    let paper = format!(
        "{} of Kubernetes with no other pod, by means",
        readable::times(mean("PraaS (Kubernetes)") / mean("Kubernetes (baseline)"))
    );
    let here = rows.of_plot("allocation").find(|row| row.series == "praas create to first reply" && row.x == Some(0.0));
    let figure = here.and_then(|row| row.p50).map_or_else(String::new, |span| {
        format!("a process is created and answers in {} beside no other", readable::span_ns(span))
    });
    let reason = "there is no Kubernetes on this machine".to_owned();
    claim(
        "allocation costs up to 15 % more than a pod of Kubernetes",
        paper,
        "allocation",
        figure,
        Verdict::NotMeasured(reason),
    )
}

fn memory_price(rows: &Rows) -> Claim {
    let line = figures().iter().find(|line| line.series == "AWS x86: cost decrease with container memory");
    let share = line.and_then(|line| line.median).unwrap_or(f64::NAN);
    let reason = "prices are the provider's, nothing here measures them".to_owned();
    claim(
        "memory of containers costs about 70 % less than of provisioned functions",
        format!("−{} on AWS x86", readable::percent(share)),
        "cost",
        cost::asleep_in_words(rows).unwrap_or_default(),
        Verdict::NotMeasured(reason),
    )
}

/// Claims whose plots are not part of this suite yet.
fn later() -> Vec<Claim> {
    let latex = |series: &str, x: &str| {
        let line = |line: &&Figure| line.figure == "fig_latex_full" && line.series == series && line.x == x;
        figures().iter().find(line).and_then(|line| line.mean).unwrap_or(f64::NAN)
    };
    let files = latex("Lambda, 3538 MiB", "get-file, Input 2") / latex("PraaS, 2 vCPU", "get-file, Input 2");
    let compile = latex("Lambda, 1769 MiB", "compile, No Update") / latex("PraaS, 1 vCPU", "compile, No Update");
    let kmeans = |series: &str| {
        let line = |line: &&Figure| line.figure == "fig_kmeans" && line.series == series && line.x == "100000";
        figures().iter().find(line).and_then(|line| line.median).unwrap_or(f64::NAN)
    };
    let claims = [
        ("LaTeX: files are served up to 34.3 × faster than by Lambda", readable::times(files), "latex"),
        (
            "LaTeX: a compilation without changes is 1.92 × faster",
            format!("{}, by means", readable::times(compile)),
            "latex",
        ),
        (
            "k-means is up to 6.0 × faster than with S3 and 1.46 × than with Redis",
            format!(
                "{} and {}",
                readable::times(kmeans("Knative, S3") / kmeans("PraaS")),
                readable::times(kmeans("Knative, Redis") / kmeans("PraaS"))
            ),
            "kmeans",
        ),
    ];
    let reason = |plot: &str| Verdict::NotMeasured(format!("the plot `{plot}` is not part of this suite yet"));
    claims
        .into_iter()
        .map(|(text, paper, plot)| Claim {
            command: String::new(),
            ..claim(text, paper, plot, String::new(), reason(plot))
        })
        .collect()
}

/// Several judgements as one: it misses where one misses, and is not measured where one is not.
fn all_of(judged: impl Iterator<Item = (String, Verdict)>) -> (String, Verdict) {
    let mut figures = Vec::new();
    let mut all = Verdict::Met;
    for (figure, verdict) in judged {
        if !figure.is_empty() {
            figures.push(figure);
        }
        all = match (all, verdict) {
            (Verdict::NotMet, _) | (_, Verdict::NotMet) => Verdict::NotMet,
            (Verdict::NotMeasured(reason), _) | (Verdict::Met, Verdict::NotMeasured(reason)) => {
                Verdict::NotMeasured(reason)
            }
            (Verdict::Met, Verdict::Met) => Verdict::Met,
        };
    }
    (figures.join("; "), all)
}

/// In each cell how many times longer it takes than ours, with the quickest of the others.
fn state_times(rows: &Rows, others: &[&str]) -> Vec<(Place, f64)> {
    let places = cells(rows, "state", "praas");
    let condition = Condition { plot: "state", ours: "praas", others, places: Vec::new(), bound: Bound::Ahead };
    places.into_iter().filter_map(|place| Some((place, times_at(rows, &condition, place)?))).collect()
}

/// The greatest of these, which is to reach a bar.
fn greatest(found: Vec<(Place, f64)>, bar: f64) -> (String, Verdict) {
    match found.into_iter().max_by(|left, right| left.1.total_cmp(&right.1)) {
        None => (String::new(), Verdict::NotMeasured("no cell was measured with both".to_owned())),
        Some((place, times)) => {
            let figure = format!("up to {} against the quicker server, at {place}", readable::times(times));
            (figure, if times >= bar { Verdict::Met } else { Verdict::NotMet })
        }
    }
}

/// The median of a series of a figure at a payload, in the file's unit. Not a number if there is none, as tests see.
fn median(figure: &str, series: &str, payload_bytes: u64) -> f64 {
    let is_it =
        |line: &&Figure| line.figure == figure && line.series == series && line.payload_bytes == Some(payload_bytes);
    figures().iter().find(is_it).and_then(|line| line.median).unwrap_or(f64::NAN)
}

/// The least and the most of a heat map's cells.
fn heat_map(figure: &str, series: &str) -> (f64, f64) {
    let cells = figures().iter().filter(|line| line.figure == figure && line.series == series);
    bounds(&cells.filter_map(|line| line.median).collect::<Vec<_>>())
}

fn bounds(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (least, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::testing::{cell, row};
    use crate::row::Kind;

    fn find(claims: &[Claim], word: &str) -> Claim {
        claims.iter().find(|claim| claim.text.contains(word)).cloned().unwrap_or_else(|| panic!("a claim on {word}"))
    }

    #[test]
    fn the_papers_own_figures_are_those_of_its_claims() {
        let claims = evaluate(&Rows::default());
        let papers = |word: &str| find(&claims, word).paper.unwrap_or_default();
        assert!(papers("17 ×").starts_with("17.3 × at 10 B, 3.19 ×"), "{}", papers("17 ×"));
        assert_eq!(papers("plain TCP"), "1.01 × to 1.26 × of TCP by medians");
        assert_eq!(papers("over Redis"), "−39.3 % to −93.2 %, polled with sleeps");
        assert_eq!(papers("over S3"), "−77.2 % to −99.53 %, polled with sleeps");
        assert!(papers("up to 99 %").starts_with("−99.53 %"));
        assert_eq!(papers("55 ×"), "up to 55.4 ×");
        assert_eq!(papers("2.1 ×"), "1.01 × to 2.14 ×");
        assert!(papers("15 %").starts_with("1.16 ×"));
        assert_eq!(papers("34.3 ×"), "34.3 ×");
        assert!(papers("1.92 ×").starts_with("1.91 ×"));
        assert_eq!(papers("k-means"), "6.00 × and 1.46 ×");
        assert_eq!(papers("70 %"), "−70.4 % on AWS x86");
        assert!(claims.iter().all(|claim| !claim.paper.as_deref().unwrap_or_default().contains("NaN")), "{claims:#?}");
    }

    #[test]
    fn without_rows_nothing_is_measured() {
        for claim in evaluate(&Rows::default()) {
            assert!(matches!(claim.verdict, Verdict::NotMeasured(_)), "{claim:?}");
        }
    }

    #[test]
    fn messages_are_judged_at_each_size_by_the_papers_share() {
        let rows = |large: f64| {
            let rows = PAYLOADS.into_iter().flat_map(|size| {
                let ours = if size == 5 << 20 { large } else { 1.0 };
                [
                    row("ipc", MESSAGE, Kind::Ours, Some(size), ours),
                    row("ipc", REDIS[0], Kind::Baseline, Some(size), 100.0),
                ]
            });
            Rows::new(rows.collect())
        };
        // The paper's share at 5 MiB is 46.12 %.
        assert_eq!(find(&evaluate(&rows(53.0)), "over Redis").verdict, Verdict::Met);
        assert_eq!(find(&evaluate(&rows(54.5)), "over Redis").verdict, Verdict::NotMet);
        assert!(matches!(find(&evaluate(&rows(1.0)), "over S3").verdict, Verdict::NotMeasured(_)));
    }

    #[test]
    fn state_is_judged_by_the_greatest_cell() {
        let rows = |s3: f64| {
            Rows::new(vec![
                cell("state", "praas", Kind::Ours, (1.0, 10.0), 10.0),
                cell("state", "rclone S3", Kind::Baseline, (1.0, 10.0), s3),
                cell("state", "SeaweedFS S3", Kind::Baseline, (1.0, 10.0), 10_000.0),
            ])
        };
        let met = find(&evaluate(&rows(560.0)), "55 ×");
        assert_eq!(
            (met.verdict, met.figure.as_str()),
            (Verdict::Met, "up to 56.0 × against the quicker server, at 1 × 10")
        );
        assert_eq!(find(&evaluate(&rows(540.0)), "55 ×").verdict, Verdict::NotMet);
    }
}
