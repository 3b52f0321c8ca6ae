//! What the segments of this host may grow to, in sum.
//!
//! Segments are sparse, so their memory is charged when pages are touched; what is admitted here is the sum of their
//! limits. A charge is given back by dropping it, so a path that fails half-way cannot leak it.

use std::cell::Cell;
use std::rc::Rc;

use praas_protocol::control::ControlError;

/// The budget of one server.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    limit_bytes: u64,
    used_bytes: Rc<Cell<u64>>,
}

/// A part of the budget in use.
#[derive(Debug)]
pub(crate) struct Charge {
    bytes: u64,
    used_bytes: Rc<Cell<u64>>,
}

impl Budget {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, used_bytes: Rc::new(Cell::new(0)) }
    }

    /// Admits `bytes` more, or says with figures why not. `advice` is what else than a larger budget would help.
    pub(crate) fn charge(&self, bytes: u64, advice: &str) -> Result<Charge, ControlError> {
        let used = self.used_bytes.get();
        match used.checked_add(bytes).filter(|&sum| sum <= self.limit_bytes) {
            Some(sum) => {
                self.used_bytes.set(sum);
                Ok(Charge { bytes, used_bytes: Rc::clone(&self.used_bytes) })
            }
            None => Err(ControlError::LimitReached {
                what: "bytes of shared memory on this host".into(),
                used,
                limit: self.limit_bytes,
                asked: bytes,
                advice: format!("{advice}, or serve with a larger --memory-budget"),
            }),
        }
    }

    /// Counts bytes that are in use already, whether or not there is room for them.
    pub(crate) fn charge_in_use(&self, bytes: u64) -> Charge {
        let used = self.used_bytes.get();
        let bytes = bytes.min(u64::MAX - used);
        self.used_bytes.set(used + bytes);
        Charge { bytes, used_bytes: Rc::clone(&self.used_bytes) }
    }

    /// A budget of its own, one of `parts` equal parts of this one large.
    pub(crate) fn part(&self, parts: u64) -> Self {
        Self::new(self.limit_bytes / parts)
    }

    /// Whether the use, with `bytes` more, stays within one of `parts` equal parts of the whole.
    pub(crate) fn leaves_free(&self, bytes: u64, parts: u64) -> bool {
        self.used_bytes.get().saturating_add(bytes) <= self.limit_bytes / parts
    }

    #[cfg(test)]
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.get()
    }
}

impl Charge {
    /// Makes the charge one for `bytes`, which are in use already, whether or not there is room for them.
    pub(crate) fn cover(&mut self, bytes: u64) {
        let others = self.used_bytes.get() - self.bytes;
        self.bytes = bytes.min(u64::MAX - others);
        self.used_bytes.set(others + self.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.used_bytes.set(self.used_bytes.get() - self.bytes);
    }
}

/// Bytes of memory that the host has, from `/proc/meminfo`.
pub(crate) fn host_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_refuses_with_figures_and_a_dropped_charge_frees_it() {
        let budget = Budget::new(100);
        let first = budget.charge(60, "wait").unwrap();
        let error = budget.charge(41, "wait").unwrap_err();
        assert!(matches!(error, ControlError::LimitReached { used: 60, limit: 100, asked: 41, .. }), "{error}");
        assert!(budget.charge(u64::MAX, "wait").is_err());
        assert!(!budget.leaves_free(0, 2) && budget.leaves_free(40, 1));
        drop(first);
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.charge(100, "wait").is_ok());
        let mut more = budget.charge_in_use(150);
        assert!(budget.charge(1, "wait").is_err());
        more.cover(60);
        assert_eq!(budget.used_bytes(), 60);
        more.cover(u64::MAX);
        assert!(budget.charge(0, "wait").is_err());
        drop(more);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn the_host_says_how_much_memory_it_has() {
        assert!(host_memory_bytes().unwrap() > 1 << 20);
    }
}
