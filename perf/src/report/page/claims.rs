//! What is claimed and what became of it, in three tables.

use maud::{Markup, html};

use crate::claims::{Claim, Verdict, Whose};

pub(super) fn section(claims: &[Claim]) -> Markup {
    html! {
        section #claims {
            h2 { "What is claimed" }
            p { (count(claims)) " A claim of several conditions has a line for each; what does not hold is shown so." }
            (table(claims, Whose::Bar, "Bars: praas beside other systems"))
            (table(claims, Whose::Paper, "Claims of the paper"))
            (table(claims, Whose::Floor, "Bars: praas beside what the machine can do at best"))
        }
    }
}

/// How many hold, do not, and were not measured.
fn count(claims: &[Claim]) -> String {
    let of = |is: fn(&Verdict) -> bool| claims.iter().filter(|claim| is(&claim.verdict)).count();
    format!(
        "{} hold, {} do not, {} were not measured in this run.",
        of(|verdict| *verdict == Verdict::Met),
        of(|verdict| *verdict == Verdict::NotMet),
        of(|verdict| matches!(verdict, Verdict::NotMeasured(_)))
    )
}

fn table(claims: &[Claim], whose: Whose, title: &str) -> Markup {
    let of_whose: Vec<&Claim> = claims.iter().filter(|claim| claim.whose == whose).collect();
    html! {
        h3 { (title) }
        div .scroll {
            table .claims {
                thead { tr {
                    th { "id" } th { "claim" }
                    @if whose == Whose::Paper { th { "the paper, on AWS" } }
                    th { "this run" } th { "" } th { "command" }
                } }
                tbody {
                    @for claim in of_whose {
                        tr {
                            th scope="row" { (claim.id) }
                            td { (claim.text) }
                            @if whose == Whose::Paper { td { (claim.paper.as_deref().unwrap_or("–")) } }
                            td { @if claim.figure.is_empty() { "–" } @else { (claim.figure) } }
                            td { (verdict(&claim.verdict)) }
                            td { @if !claim.command.is_empty() { code { (claim.command) } } }
                        }
                    }
                }
            }
        }
    }
}

fn verdict(verdict: &Verdict) -> Markup {
    match verdict {
        Verdict::Met => html! { span .met { "met" } },
        Verdict::NotMet => html! { span .missed { "not met" } },
        Verdict::NotMeasured(reason) => html! { span .unmeasured { "not measured" } br; small { (reason) } },
    }
}
