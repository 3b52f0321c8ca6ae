//! The functions of an application: checked when the worker starts, found by id at every call.
//!
//! The table is sorted by id and never changes; no two functions share a name or an id.

use std::fmt;
use std::panic::Location;

use praas_protocol::limits::FUNCTIONS_MAX;
use praas_protocol::{BUILT_IN_PREFIX, FunctionId, Name, NameError, PING_FUNCTION};

use crate::call::Call;
use crate::error::FunctionResult;
use crate::{built_in, built_in_messages, built_in_state};

/// What is run for a call.
pub(crate) type Body = Box<dyn FnMut(&mut Call<'_>) -> FunctionResult>;

/// A function as it was registered, unchecked.
pub(crate) struct Registration {
    pub(crate) name: String,
    pub(crate) place: &'static Location<'static>,
    pub(crate) body: Body,
}

/// What is wrong with an application's functions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplicationError {
    /// A function's name is not a name.
    #[error("the function registered at {place} cannot be called {name:?}: {error}")]
    Name {
        /// The refused name.
        name: String,
        /// Where it was registered.
        place: &'static Location<'static>,
        /// What is wrong with it.
        error: NameError,
    },
    /// Two functions have the same name.
    #[error("function {name} is registered twice, at {first_place} and at {second_place}: rename one")]
    Duplicate {
        /// The name.
        name: String,
        /// Where it was registered first.
        first_place: &'static Location<'static>,
        /// Where it was registered again.
        second_place: &'static Location<'static>,
    },
    /// The names of two functions have the same hash, by which calls name their function.
    #[error("functions {first} (at {first_place}) and {second} (at {second_place}) share a hash: rename one")]
    Collision {
        /// One name.
        first: String,
        /// Where it was registered.
        first_place: &'static Location<'static>,
        /// The other name.
        second: String,
        /// Where it was registered.
        second_place: &'static Location<'static>,
    },
    /// The name is one of those that praas adds itself.
    #[error(
        "the function registered at {place} cannot be called {name}: names that begin with {BUILT_IN_PREFIX} are built in"
    )]
    BuiltIn {
        /// The refused name.
        name: String,
        /// Where it was registered.
        place: &'static Location<'static>,
    },
    /// There are too many functions.
    #[error("{actual} functions are registered, the limit is {FUNCTIONS_MAX}: split the application")]
    TooMany {
        /// How many.
        actual: usize,
    },
    /// There is no function.
    #[error("no function is registered: add one with `Application::function` or `Application::typed`")]
    Empty,
}

struct Entry {
    id: FunctionId,
    name: Name,
    place: &'static Location<'static>,
    body: Body,
}

/// The functions of a worker.
pub(crate) struct FunctionTable {
    entries: Vec<Entry>,
    /// Index of the function that was found last: calls of one function tend to follow each other.
    last: usize,
}

impl FunctionTable {
    pub(crate) fn new(registrations: Vec<Registration>) -> Result<Self, ApplicationError> {
        Self::with_ids(registrations, FunctionId::of)
    }

    fn with_ids(registrations: Vec<Registration>, id_of: fn(&str) -> FunctionId) -> Result<Self, ApplicationError> {
        match registrations.len() {
            0 => return Err(ApplicationError::Empty),
            actual if actual > FUNCTIONS_MAX => return Err(ApplicationError::TooMany { actual }),
            _ => {}
        }
        let mut entries = registrations.into_iter().map(|one| Entry::new(one, id_of)).collect::<Result<Vec<_>, _>>()?;
        entries.push(Entry::built_in(PING_FUNCTION, Box::new(built_in::ping), id_of));
        let of_state = built_in_state::FUNCTIONS.into_iter();
        let of_messages = built_in_messages::FUNCTIONS.into_iter();
        let more = of_state.chain(of_messages);
        entries.extend(more.map(|(name, body)| Entry::built_in(name, Box::new(body), id_of)));
        // Stable: of two equal ids the one registered first stays first.
        entries.sort_by_key(|entry| entry.id);
        match entries.windows(2).find(|pair| pair[0].id == pair[1].id) {
            None => Ok(Self { entries, last: 0 }),
            Some(pair) => Err(clash(&pair[0], &pair[1])),
        }
    }

    /// What the application registered; built-in functions are everywhere and named nowhere.
    pub(crate) fn names(&self) -> Vec<Name> {
        let registered = self.entries.iter().filter(|entry| !entry.name.as_str().starts_with(BUILT_IN_PREFIX));
        let mut names: Vec<Name> = registered.map(|entry| entry.name).collect();
        names.sort_unstable();
        names
    }

    /// The function with this id, and its index.
    #[inline]
    pub(crate) fn find(&mut self, id: FunctionId) -> Option<(usize, &mut Body)> {
        if self.entries.get(self.last).is_none_or(|entry| entry.id != id) {
            self.last = self.entries.binary_search_by_key(&id, |entry| entry.id).ok()?;
        }
        Some((self.last, &mut self.entries[self.last].body))
    }
}

impl Entry {
    #[track_caller]
    fn built_in(name: &str, body: Body, id_of: fn(&str) -> FunctionId) -> Self {
        let checked = name.parse().expect("built-in functions have good names");
        Self { id: id_of(name), name: checked, place: Location::caller(), body }
    }

    fn new(registration: Registration, id_of: fn(&str) -> FunctionId) -> Result<Self, ApplicationError> {
        let Registration { name, place, body } = registration;
        match name.parse::<Name>() {
            Ok(checked) if checked.as_str().starts_with(BUILT_IN_PREFIX) => {
                Err(ApplicationError::BuiltIn { name, place })
            }
            Ok(checked) => Ok(Self { id: id_of(&name), name: checked, place, body }),
            Err(error) => Err(ApplicationError::Name { name, place, error }),
        }
    }
}

fn clash(first: &Entry, second: &Entry) -> ApplicationError {
    let (first_place, second_place) = (first.place, second.place);
    let (first, second) = (first.name.to_string(), second.name.to_string());
    if first == second {
        return ApplicationError::Duplicate { name: first, first_place, second_place };
    }
    ApplicationError::Collision { first, first_place, second, second_place }
}

impl fmt::Debug for FunctionTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.entries.iter().map(|entry| entry.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn registered(name: &str) -> Registration {
        Registration { name: name.to_owned(), place: Location::caller(), body: Box::new(|_| Ok(())) }
    }

    fn refusal(names: &[&str]) -> String {
        FunctionTable::new(names.iter().map(|name| registered(name)).collect()).unwrap_err().to_string()
    }

    #[test]
    fn functions_are_found_by_the_hash_of_their_names() {
        let mut table = FunctionTable::new(["c", "a", "b"].map(registered).into()).unwrap();
        for name in ["a", "b", "c"] {
            assert!(table.find(FunctionId::of(name)).is_some());
        }
        assert!(table.find(FunctionId::of("d")).is_none());
        assert_eq!(table.names().iter().map(Name::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn bad_names_and_duplicates_are_refused_by_name_and_place() {
        assert!(refusal(&["ok", "Not ok"]).contains("\"Not ok\""));
        let duplicate = refusal(&["twice", "once", "twice"]);
        assert!(duplicate.contains("function twice") && duplicate.matches("table.rs:").count() == 2, "{duplicate}");
        assert!(refusal(&[]).contains("no function"));
        let many: Vec<String> = (0..=FUNCTIONS_MAX).map(|index| format!("f{index}")).collect();
        assert!(refusal(&many.iter().map(String::as_str).collect::<Vec<_>>()).contains("513"));
    }

    #[test]
    fn names_that_share_a_hash_are_refused_with_both_names() {
        let same = |_: &str| FunctionId(1);
        let error = FunctionTable::with_ids(["left", "right"].map(registered).into(), same).unwrap_err().to_string();
        assert!(error.contains("left") && error.contains("right") && error.contains("share a hash"), "{error}");
    }
}
