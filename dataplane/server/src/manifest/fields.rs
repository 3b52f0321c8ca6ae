//! One section of a `praas.toml`: its fields are taken out one by one, and what is left over at the end is unknown.

use toml::de::{DeTable, DeValue};

use super::{Problem, Read, line_of};

/// A section that is being read. Every failed field becomes a [`Problem`].
pub(super) struct Section<'text, 'problems> {
    text: &'text str,
    name: &'static str,
    table: &'text DeTable<'text>,
    known: Vec<&'static str>,
    problems: &'problems mut Vec<Problem>,
}

impl<'text, 'problems> Section<'text, 'problems> {
    /// The section called `name` of `document`; a missing one is a problem.
    pub(super) fn open(
        text: &'text str,
        document: &'text DeTable<'text>,
        name: &'static str,
        problems: &'problems mut Vec<Problem>,
    ) -> Option<Self> {
        let Some(section) = document.get(name) else {
            let problem = "is missing: a praas.toml starts with this section".into();
            problems.push(Problem { line: 0, field: format!("[{name}]"), problem });
            return None;
        };
        let Some(table) = section.get_ref().as_table() else {
            let line = line_of(text, section.span().start);
            let problem = format!("is not a section, write [{name}]");
            problems.push(Problem { line, field: format!("[{name}]"), problem });
            return None;
        };
        Some(Self { text, name, table, known: Vec::new(), problems })
    }

    /// The field, read by `read`; `None` with a problem noted when it is missing or wrong.
    pub(super) fn required<T>(
        &mut self,
        field: &'static str,
        allowed: &str,
        read: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Option<T> {
        if !self.table.contains_key(field) {
            self.known.push(field);
            let problem = format!("is missing, it must be {allowed}");
            self.problems.push(Problem { line: 0, field: format!("{}.{field}", self.name), problem });
            return None;
        }
        self.optional(field, allowed, read)
    }

    /// The field, read by `read`; `None` when it is absent, or wrong with a problem noted.
    pub(super) fn optional<T>(
        &mut self,
        field: &'static str,
        allowed: &str,
        read: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Option<T> {
        self.known.push(field);
        let value = self.table.get(field)?;
        match read(value.get_ref()) {
            Ok(value) => Some(value),
            Err(reason) => {
                let line = line_of(self.text, value.span().start);
                let problem = reason.unwrap_or_else(|| {
                    let found = self.text.get(value.span()).unwrap_or("?");
                    let found: String = found.chars().take(60).collect();
                    format!("is {found}, it must be {allowed}")
                });
                self.problems.push(Problem { line, field: format!("{}.{field}", self.name), problem });
                None
            }
        }
    }

    /// Notes every field that was not asked for.
    pub(super) fn close(self) {
        for (key, _) in self.table {
            if !self.known.contains(&key.get_ref().as_ref()) {
                self.problems.push(Problem {
                    line: line_of(self.text, key.span().start),
                    field: format!("{}.{}", self.name, key.get_ref()),
                    problem: format!("is unknown, allowed in [{}] are: {}", self.name, self.known.join(", ")),
                });
            }
        }
    }
}
