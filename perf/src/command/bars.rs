//! The bars of `praas-benches` as rows of a plot of their own: each row is a condition and what was found. They come with
//! their own verdicts, so they belong to no group and have no ratios with others.

use praas_benches::bars::{self, Bar};

use crate::harness::{Key, Run};
use crate::row::Verdict;

/// What the command line calls them.
pub(super) const ID: &str = "bars";

/// Measures every bar. One that cannot be measured is a row with its reason.
pub(super) fn measure(run: &mut Run, on_bar: impl Fn(&Bar)) {
    for bar in bars::ALL {
        on_bar(bar);
        match (bar.run)(run.settings()) {
            Ok(found) => found.into_iter().for_each(|row| add(run, row)),
            Err(error) => {
                let key = Key::ours(ID, bar.id).source(command(bar.id, run));
                run.absent(&key, error.to_string());
            }
        }
    }
}

fn add(run: &mut Run, found: praas_benches::report::Row) {
    let praas_benches::report::Row { id, case, placement, figure, unit, floor, ratio, bar: condition, met } = found;
    let key = Key::ours(ID, format!("{id}: {case}")).placement(&placement).source(command(&id, run));
    run.next_group();
    run.add_judged(&key, &unit, figure, Verdict { bar: id, floor, ratio, condition, met });
}

/// What measures a bar alone.
fn command(id: &str, run: &Run) -> String {
    let quick = if run.settings().quick { " --quick" } else { "" };
    format!("cargo run --release -p praas-benches -- bars {id}{quick}")
}
