//! A comparison for people.

use praas_benches::report::{new_table, number, readable, readable_ns};

use super::{Change, Comparison, Outcome};

/// The series that became better or worse; with `all`, the others too.
#[must_use]
pub fn table_of(comparison: &Comparison, all: bool) -> String {
    let mut table = new_table(&["series", "old", "new", "new ÷ old", "of ratios to the floor", "outcome"]);
    let is_shown = |change: &&Change| all || matches!(change.outcome, Outcome::Better | Outcome::Worse);
    for change in comparison.changes.iter().filter(is_shown) {
        table.add_row([
            change.name.as_str().into(),
            number(figure(change.old, &change.unit)),
            number(figure(change.new, &change.unit)),
            number(with_interval(change.ratio, change.interval)),
            number(
                change.to_floor.map_or_else(String::new, |(value, low, high)| with_interval(value, Some((low, high)))),
            ),
            words(change.outcome).into(),
        ]);
    }
    let count = |outcome| comparison.changes.iter().filter(|change| change.outcome == outcome).count();
    let mut text = format!(
        "{table}\n{} better, {} worse, {} the same, {} with too few rounds to say",
        count(Outcome::Better),
        count(Outcome::Worse),
        count(Outcome::Same),
        count(Outcome::Unjudged),
    );
    for (names, which) in [(&comparison.only_old, "old"), (&comparison.only_new, "new")] {
        if !names.is_empty() {
            text.push_str(&format!("\nonly in the {which} run: {}", names.join(", ")));
        }
    }
    text
}

fn figure(value: f64, unit: &str) -> String {
    if unit == "ns" { readable_ns(value) } else { format!("{} {unit}", readable(value)) }
}

fn with_interval(ratio: f64, interval: Option<(f64, f64)>) -> String {
    let interval = interval.map(|(low, high)| format!(" [{low:.3}, {high:.3}]"));
    format!("{ratio:.3}{}", interval.unwrap_or_default())
}

fn words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Better => "better",
        Outcome::Worse => "WORSE",
        Outcome::Same => "same",
        Outcome::Unjudged => "too few rounds",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, outcome: Outcome) -> Change {
        let (interval, to_floor) = (Some((1.4, 1.6)), Some((1.2, 1.1, 1.3)));
        Change { name: name.into(), unit: "ns".into(), old: 1e3, new: 1.5e3, ratio: 1.5, interval, to_floor, outcome }
    }

    #[test]
    fn changes_are_shown_and_the_rest_is_counted() {
        let changes = vec![change("slow", Outcome::Worse), change("steady", Outcome::Same)];
        let comparison = Comparison { changes, only_old: vec!["`plot: gone`".into()], only_new: Vec::new() };
        let text = table_of(&comparison, false);
        for part in ["slow", "1 µs", "1.50 µs", "1.500 [1.400, 1.600]", "1.200 [1.100, 1.300]", "WORSE"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(text.contains("0 better, 1 worse, 1 the same") && text.contains("only in the old run: `plot: gone`"));
        assert!(!text.contains("steady") && table_of(&comparison, true).contains("steady"));
    }
}
