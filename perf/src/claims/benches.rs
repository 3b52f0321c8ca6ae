//! The bars of `praas-benches`: praas against what the machine can do at best. They are rows of the plot `bars`, each with
//! the verdict of the bar itself.

use crate::claims::{Claim, Verdict, Whose, command_of};
use crate::report::readable;
use crate::row::{Row, Rows};

/// The plot of their rows.
const PLOT: &str = "bars";

pub(super) fn evaluate(rows: &Rows) -> Vec<Claim> {
    let found: Vec<Claim> = rows.of_plot(PLOT).map(claim).collect();
    if !found.is_empty() {
        return found;
    }
    vec![Claim {
        id: PLOT.to_owned(),
        whose: Whose::Floor,
        text: "the bars of praas-benches: praas against the floors of the machine".to_owned(),
        paper: None,
        command: command_of(PLOT),
        figure: String::new(),
        verdict: Verdict::NotMeasured("this run left them out".to_owned()),
    }]
}

fn claim(row: &Row) -> Claim {
    let (id, case) = row.series.split_once(": ").unwrap_or((&row.series, ""));
    let condition = row.verdict.as_ref().map_or("", |verdict| verdict.condition.as_str());
    let verdict = match (&row.absent, &row.verdict) {
        (Some(reason), _) => Verdict::NotMeasured(reason.clone()),
        (None, Some(verdict)) if verdict.met => Verdict::Met,
        (None, Some(_)) => Verdict::NotMet,
        (None, None) => Verdict::NotMeasured("the row brings no verdict".to_owned()),
    };
    Claim {
        id: id.to_owned(),
        whose: Whose::Floor,
        text: words(case, &row.placement, condition),
        paper: None,
        command: row.source.clone(),
        figure: figure(row),
        verdict,
    }
}

fn words(case: &str, placement: &str, condition: &str) -> String {
    let placement = if placement.is_empty() { String::new() } else { format!(" ({placement})") };
    let condition = if condition.is_empty() { String::new() } else { format!(": {condition}") };
    format!("{case}{placement}{condition}")
}

/// The figure, and the floor that it is measured by.
fn figure(row: &Row) -> String {
    let Some(value) = row.p50 else { return String::new() };
    let mut written = readable::figure(value, &row.unit);
    if let Some(floor) = row.verdict.as_ref().and_then(|verdict| verdict.floor) {
        written.push_str(&format!("; floor {}", readable::figure(floor, &row.unit)));
    }
    if let Some(ratio) = row.verdict.as_ref().and_then(|verdict| verdict.ratio) {
        written.push_str(&format!("; {}", readable::times(ratio)));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::testing::{absent, row};
    use crate::row::{Kind, Verdict as RowVerdict};

    #[test]
    fn a_bar_keeps_its_own_verdict() {
        let with = |met: bool| {
            let verdict = RowVerdict {
                bar: "shm-noop-spin".into(),
                floor: Some(150.0),
                ratio: Some(1.2),
                condition: "≤ 1.3 × floor".into(),
                met,
            };
            Row { verdict: Some(verdict), ..row(PLOT, "shm-noop-spin: trusted, 64 B", Kind::Ours, None, 180.0) }
        };
        let claims = evaluate(&Rows::new(vec![with(true), with(false), absent(PLOT, "create", None, "no program")]));
        assert_eq!(claims[0].id, "shm-noop-spin");
        assert_eq!(claims[0].text, "trusted, 64 B (core 1): ≤ 1.3 × floor");
        assert_eq!(claims[0].figure, "180 ns; floor 150 ns; 1.20 ×");
        let verdicts: Vec<&Verdict> = claims.iter().map(|claim| &claim.verdict).collect();
        assert_eq!(verdicts, [&Verdict::Met, &Verdict::NotMet, &Verdict::NotMeasured("no program".into())]);
    }

    #[test]
    fn a_run_without_them_says_so() {
        let claims = evaluate(&Rows::default());
        assert!(matches!(claims.as_slice(), [Claim { verdict: Verdict::NotMeasured(_), .. }]), "{claims:?}");
    }
}
