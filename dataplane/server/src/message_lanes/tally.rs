//! How many lanes there are of whom: counted by what lives as long as the lane, so that none is forgotten.

use std::rc::Rc;

/// A count of lanes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(Rc<()>);

/// One of them, as long as it is kept.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Counted by its own references.
    _kept: Rc<()>,
}

impl Tally {
    pub(crate) fn count(&self) -> usize {
        Rc::strong_count(&self.0) - 1
    }

    pub(crate) fn add(&self) -> Counted {
        Counted { _kept: Rc::clone(&self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_counted_no_more() {
        let tally = Tally::default();
        let two = [tally.add(), tally.add()];
        assert_eq!(tally.count(), 2);
        drop(two);
        assert_eq!(tally.count(), 0);
    }
}
