//! What is shown of rows: the page, the summary, the list of plots.

use std::error::Error;
use std::path::Path;

use praas_benches::report::{new_table, number};

use super::{bars, results};
use crate::claims::{self, Claim, Verdict};
use crate::plots::{self, Plot};
use crate::report::page;
use crate::row::{Row, Rows};

/// Prints the plots.
pub(super) fn list() {
    for Plot { id, title, .. } in plots::ALL {
        println!("{id:12} {title}");
    }
    println!("{:12} The bars of praas-benches, with their verdicts", bars::ID);
}

/// Writes the page of rows that were measured before.
pub(super) fn report(results: &Path, out: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let found = results::read(results)?;
    let directory = out.unwrap_or(&found.directory);
    std::fs::create_dir_all(directory)?;
    let page = page::write(directory, &found.rows, found.machine.as_ref())?;
    println!("page: {}", page.display());
    Ok(())
}

/// Prints the claims and what a run found of them.
pub(super) fn claims(results: &Path) -> Result<(), Box<dyn Error>> {
    let found = results::read(results)?;
    let mut table = new_table(&["claim", "", "the paper", "this run", "met"]);
    let all = claims::evaluate(&found.rows);
    for Claim { id, text, paper, figure, verdict, .. } in &all {
        let met = match verdict {
            Verdict::Met => "yes".to_owned(),
            Verdict::NotMet => "NO".to_owned(),
            Verdict::NotMeasured(reason) => format!("not measured: {reason}"),
        };
        table.add_row([id, text, paper.as_deref().unwrap_or_default(), figure, &met]);
    }
    println!("{table}");
    println!("{}", count_of(&all));
    Ok(())
}

/// How many of these are met.
fn count_of(claims: &[Claim]) -> String {
    let count = |is: fn(&Verdict) -> bool| claims.iter().filter(|claim| is(&claim.verdict)).count();
    let met = count(|verdict| *verdict == Verdict::Met);
    let missed = count(|verdict| *verdict == Verdict::NotMet);
    format!("claims: {met} met, {missed} not met, {} not measured", claims.len() - met - missed)
}

/// Prints what each plot found, in a table and a sentence each.
pub(super) fn print_summary(rows: &Rows) {
    let mut table = new_table(&["plot", "rows", "absent", "what it means"]);
    for plot in plots::ALL {
        let found: Vec<&Row> = rows.of_plot(plot.id).collect();
        if !found.is_empty() {
            add_line(&mut table, plot.id, &found, (plot.meaning)(rows).unwrap_or_default());
        }
    }
    let found: Vec<&Row> = rows.of_plot(bars::ID).collect();
    if !found.is_empty() {
        let verdicts = found.iter().filter_map(|row| row.verdict.as_ref());
        let missed: Vec<&str> = verdicts.clone().filter(|verdict| !verdict.met).map(|it| it.bar.as_str()).collect();
        // A bar's conditions stand beside each other.
        let mut ids = missed.clone();
        ids.dedup();
        let words = match missed.len() {
            0 => "every condition is met".to_owned(),
            count => format!("{count} of {} conditions are not met: {}", verdicts.count(), ids.join(", ")),
        };
        add_line(&mut table, bars::ID, &found, words);
    }
    println!("{table}");
    for row in rows.all().iter().filter(|row| row.absent.is_some()) {
        println!("absent: {}, {}: {}", row.plot, row.series, row.absent.as_deref().unwrap_or_default());
    }
    println!("{}; `praas-perf claims` shows them", count_of(&claims::evaluate(rows)));
}

fn add_line(table: &mut comfy_table::Table, id: &str, found: &[&Row], words: String) {
    let absent = found.iter().filter(|row| row.absent.is_some()).count();
    table.add_row([id.into(), number(found.len().to_string()), number(absent.to_string()), words.into()]);
}
