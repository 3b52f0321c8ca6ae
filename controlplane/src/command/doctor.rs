//! `praas doctor`: what this host grants, in the order in which a person wants to know it.

use praas_sys::host::{self, Finding, Granted};
use serde_json::{Value, json};

use crate::command::Context;
use crate::failure::Failure;

/// Tells what the host grants. What it lacks is a finding, not a failure.
///
/// # Errors
/// [`Failure::Output`].
pub fn doctor(context: &Context) -> Result<(), Failure> {
    let findings = host::examine();
    let output = context.output();
    output.value(&json!({ "findings": findings.iter().map(as_json).collect::<Vec<Value>>() }))?;
    output.line(as_text(&findings))
}

fn as_json(finding: &Finding) -> Value {
    json!({
        "name": finding.name,
        "granted": finding.granted.to_string(),
        "detail": finding.detail,
        "advice": finding.advice,
    })
}

fn as_text(findings: &[Finding]) -> String {
    let name_width = findings.iter().map(|finding| finding.name.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for finding in findings {
        lines.push(format!("{:8}  {:name_width$}  {}", finding.granted, finding.name, finding.detail));
        if let Some(advice) = &finding.advice {
            lines.push(format!("{:8}  {:name_width$}  → {advice}", "", ""));
        }
    }
    lines.push(String::new());
    lines.push(summary(findings));
    lines.join("\n")
}

fn summary(findings: &[Finding]) -> String {
    let short = findings.iter().filter(|finding| finding.granted != Granted::Granted).count();
    match short {
        0 => "This host grants everything that praas can use.".to_owned(),
        1 => "One thing is not fully granted; praas works without it.".to_owned(),
        short => format!("{short} things are not fully granted; praas works without them."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(granted: Granted, advice: Option<&str>) -> Finding {
        let advice = advice.map(str::to_owned);
        Finding { name: "io_uring", granted, detail: "forbidden".into(), advice }
    }

    #[test]
    fn advice_stands_below_its_finding() {
        let text = as_text(&[finding(Granted::Lacking, Some("allow it")), finding(Granted::Granted, None)]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("lacking") && lines[0].ends_with("forbidden"), "{text}");
        assert!(lines[1].ends_with("→ allow it"), "{text}");
        assert!(lines[2].starts_with("granted"), "{text}");
        assert!(text.contains("One thing"), "{text}");
    }
}
