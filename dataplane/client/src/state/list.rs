//! A list of objects, page by page.
//!
//! Invariants
//! 1. At most one page is held: what was given out is gone before the next one is asked for.
//! 2. Keys strictly ascend, so a list goes on or ends: a page that does not ascend, or says that more follow and has
//!    nothing, ends it with an error. So does a list of more objects than any state can hold.

use std::vec;

use praas_protocol::Key;
use praas_protocol::state::{LIST_FUNCTION, ListPage, ListQuestion, ListedObject};

use crate::function::Function;
use crate::limits::STATE_OBJECTS_MAX;
use crate::state::{State, StateError};

const LIST: Function<'static> = Function::new(LIST_FUNCTION);

/// The objects of a list, as they come: see [`State::list`]. After an error there is nothing more.
#[derive(Debug)]
pub struct StateList<'process> {
    state: State<'process>,
    prefix: String,
    /// The last key of the pages that came.
    last: Option<String>,
    page: vec::IntoIter<ListedObject>,
    objects: u64,
    more: bool,
}

impl<'process> StateList<'process> {
    pub(super) fn new(state: State<'process>, prefix: &str) -> Result<Self, StateError> {
        if !prefix.is_empty() {
            Key::new(prefix)?;
        }
        let page = Vec::new().into_iter();
        Ok(Self { state, prefix: prefix.to_owned(), last: None, page, objects: 0, more: true })
    }

    fn next_page(&mut self) -> Result<(), StateError> {
        let after = self.last.as_deref().map(Key::new).transpose()?;
        let question = ListQuestion { prefix: &self.prefix, after };
        let page = ListPage::decode(&self.state.call(LIST, question.encode(), 0)?)?;
        check(&page, &self.prefix, self.last.as_deref()).map_err(StateError::malformed)?;
        self.objects += page.objects.len() as u64;
        if self.objects > STATE_OBJECTS_MAX {
            return Err(StateError::malformed("it lists more objects than any state has room for"));
        }
        self.more = page.more;
        self.last = page.objects.last().map(|object| object.key.clone());
        self.page = page.objects.into_iter();
        Ok(())
    }
}

/// Whether a page goes on where the last one ended.
fn check(page: &ListPage, prefix: &str, last: Option<&str>) -> Result<(), &'static str> {
    let mut last = last;
    for object in &page.objects {
        if !object.key.starts_with(prefix) {
            return Err("it lists a key that does not begin as asked for");
        }
        if last.is_some_and(|last| object.key.as_str() <= last) {
            return Err("its list is out of order");
        }
        last = Some(&object.key);
    }
    if page.more && page.objects.is_empty() { Err("its list goes on without an object") } else { Ok(()) }
}

impl Iterator for StateList<'_> {
    type Item = Result<ListedObject, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(object) = self.page.next() {
            return Some(Ok(object));
        }
        if !self.more {
            return None;
        }
        if let Err(error) = self.next_page() {
            self.more = false;
            return Some(Err(error));
        }
        self.page.next().map(Ok)
    }
}

impl std::iter::FusedIterator for StateList<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use praas_protocol::state::Attributes;

    fn page(keys: &[&str], more: bool) -> ListPage {
        let listed = |key: &&str| ListedObject { key: (*key).to_owned(), attributes: Attributes::default() };
        ListPage { objects: keys.iter().map(listed).collect(), more }
    }

    #[test]
    fn a_page_goes_on_where_the_last_one_ended_or_is_refused() {
        assert_eq!(check(&page(&[], false), "n/", None), Ok(()));
        assert_eq!(check(&page(&["n/1", "n/2"], true), "n/", None), Ok(()));
        assert_eq!(check(&page(&["n/2", "n/é"], true), "n/", Some("n/1")), Ok(()));
        assert!(check(&page(&["n/2", "n/1"], true), "n/", None).is_err());
        assert!(check(&page(&["n/1", "n/1"], true), "n/", None).is_err());
        assert!(check(&page(&["n/1"], true), "n/", Some("n/1")).is_err());
        assert!(check(&page(&["m/9"], false), "n/", None).is_err());
        assert!(check(&page(&[], true), "n/", None).is_err());
    }
}
