//! What a worker counts of its functions: calls, failures, and how long sampled calls took, in its own page.
//!
//! Memory: one slot a function, behind the words of the worker page; a slot that is never used takes no page. The worker
//! alone writes, with plain stores: nothing is locked and nobody is stopped to read. The server reads at any time, and so may
//! see a call counted whose time is not yet; what it reads are claims of the worker, to be shown and nothing else.
//!
//! Time is sampled 1 in [`CALLS_PER_SAMPLE`] calls, by the time-stamp counter: from the start of the function to the
//! publication of its answer. The histogram has [`SUB_BUCKETS`] buckets an octave, so a quantile is off by at most 6 %.

use praas_protocol::FunctionId;

use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::ticks;

/// Calls of which one is timed: two reads of the counter (20 ns) then cost a third of a nanosecond a call.
pub const CALLS_PER_SAMPLE: u64 = 64;

/// Buckets between a power of two and the next.
pub const SUB_BUCKETS: usize = 8;
const SUB_BUCKET_BITS: u32 = SUB_BUCKETS.trailing_zeros();

/// Octaves above the first [`SUB_BUCKETS`] nanoseconds: the last one ends at 2^44 ns, five hours, beyond every call.
const OCTAVES: usize = 41;

/// Buckets of a histogram.
pub const BUCKETS: usize = SUB_BUCKETS * (OCTAVES + 1);

/// The counts of one function.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Slot {
    /// [`FunctionId`]; 0 while the slot was never used.
    function: AtomicU64,
    calls: AtomicU64,
    failed: AtomicU64,
    sampled: AtomicU64,
    sampled_ns: AtomicU64,
    longest_ns: AtomicU64,
    reserved: [AtomicU64; 2],
    buckets: [AtomicU32; BUCKETS],
}

const _: () = assert!(size_of::<Slot>() == 64 + BUCKETS * 4 && size_of::<Slot>().is_multiple_of(64));

/// The bucket of a duration.
#[allow(clippy::cast_possible_truncation, reason = "the index is below BUCKETS, the sub-bucket below SUB_BUCKETS")]
fn bucket_of(ns: u64) -> usize {
    if ns < SUB_BUCKETS as u64 {
        return ns as usize;
    }
    let octave = ns.ilog2() - SUB_BUCKET_BITS;
    let sub_bucket = (ns >> octave) as usize - SUB_BUCKETS;
    ((octave as usize + 1) * SUB_BUCKETS + sub_bucket).min(BUCKETS - 1)
}

/// The middle of a bucket, in nanoseconds.
fn middle_ns(bucket: usize) -> f64 {
    if bucket < SUB_BUCKETS {
        return bucket as f64;
    }
    let octave = bucket / SUB_BUCKETS - 1;
    let start = (SUB_BUCKETS + bucket % SUB_BUCKETS) as u64;
    ((start << octave) as f64 + ((start + 1) << octave) as f64) / 2.0
}

/// One writer's plain addition: no other thread writes these words.
#[inline]
fn add(word: &AtomicU64, amount: u64) {
    word.store(word.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

/// A call that is being counted; see [`begin`].
#[derive(Debug)]
#[must_use = "a call that is begun is to be ended"]
pub struct CountedCall<'w> {
    slot: Option<&'w Slot>,
    /// 0 for a call that is not timed.
    started_ticks: u64,
}

/// Begins to count a call of the function with this index in its worker's table.
#[inline]
pub(crate) fn begin(slots: &[Slot], index: usize, function: FunctionId) -> CountedCall<'_> {
    let Some(slot) = slots.get(index) else { return CountedCall { slot: None, started_ticks: 0 } };
    let calls = slot.calls.load(Ordering::Relaxed);
    if calls == 0 {
        // Release pairs with the Acquire in `seen`.
        slot.function.store(function.0, Ordering::Release);
    }
    let started_ticks = if calls.is_multiple_of(CALLS_PER_SAMPLE) { ticks::now() } else { 0 };
    CountedCall { slot: Some(slot), started_ticks }
}

impl CountedCall<'_> {
    /// The call was answered.
    #[inline]
    pub fn end(self, is_ok: bool) {
        let Some(slot) = self.slot else { return };
        add(&slot.calls, 1);
        if !is_ok {
            add(&slot.failed, 1);
        }
        if self.started_ticks != 0 {
            slot.time(ticks::elapsed_ns(self.started_ticks));
        }
    }
}

impl Slot {
    #[cold]
    fn time(&self, ns: u64) {
        add(&self.sampled, 1);
        add(&self.sampled_ns, ns);
        if ns > self.longest_ns.load(Ordering::Relaxed) {
            self.longest_ns.store(ns, Ordering::Relaxed);
        }
        let bucket = &self.buckets[bucket_of(ns)];
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// What it says now, if it was ever used.
    pub(crate) fn seen(&self) -> Option<FunctionSeen> {
        let function = self.function.load(Ordering::Acquire);
        (function != 0).then(|| FunctionSeen {
            function: FunctionId(function),
            calls: self.calls.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            latency: Latency {
                sampled: self.sampled.load(Ordering::Relaxed),
                total_ns: self.sampled_ns.load(Ordering::Relaxed),
                longest_ns: self.longest_ns.load(Ordering::Relaxed),
                buckets: self.buckets.iter().map(|bucket| u64::from(bucket.load(Ordering::Relaxed))).collect(),
            },
        })
    }
}

/// What a worker says of one of its functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionSeen {
    /// The function.
    pub function: FunctionId,
    /// Calls answered.
    pub calls: u64,
    /// Calls that ended otherwise than well.
    pub failed: u64,
    /// How long the timed ones took.
    pub latency: Latency,
}

/// How long calls took, of one worker or of several together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// Calls timed.
    pub sampled: u64,
    /// Their time together, in nanoseconds.
    pub total_ns: u64,
    /// The longest of them, in nanoseconds.
    pub longest_ns: u64,
    buckets: Vec<u64>,
}

impl Default for Latency {
    fn default() -> Self {
        Self { sampled: 0, total_ns: 0, longest_ns: 0, buckets: vec![0; BUCKETS] }
    }
}

impl Latency {
    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        self.sampled = self.sampled.saturating_add(other.sampled);
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        for (sum, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum = sum.saturating_add(*more);
        }
    }

    /// Calls by how long they took: for each octave that has some, its end in nanoseconds and its calls, in order.
    pub fn octaves(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let ends = (0..=OCTAVES).map(|octave| (SUB_BUCKETS as u64) << octave);
        let counts = self
            .buckets
            .chunks(SUB_BUCKETS)
            .map(|octave| octave.iter().fold(0_u64, |sum, more| sum.saturating_add(*more)));
        ends.zip(counts).filter(|(_, count)| *count > 0)
    }

    /// The time in nanoseconds that `quantile` of the timed calls did not exceed, to within 6 % and at most the longest; `None`
    /// without any.
    ///
    /// ```
    /// let latency = praas_shm::function_stats::Latency::default();
    /// assert_eq!(latency.quantile_ns(0.5), None);
    /// ```
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank within a count, and a bucket's middle"
    )]
    pub fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        // Counted anew: a worker may write counts that do not agree with each other.
        let counted = self.buckets.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        if counted == 0 {
            return None;
        }
        let rank = ((counted as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut below = 0_u64;
        let reaches = |count: &u64| {
            below = below.saturating_add(*count);
            below >= rank
        };
        let bucket = self.buckets.iter().position(reaches)?;
        // The middle of the last bucket may lie beyond what was found in it.
        Some((middle_ns(bucket) as u64).min(self.longest_ns))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn slots(count: usize) -> Vec<Slot> {
        let zero = || AtomicU64::new(0);
        let slot = |_| Slot {
            function: zero(),
            calls: zero(),
            failed: zero(),
            sampled: zero(),
            sampled_ns: zero(),
            longest_ns: zero(),
            reserved: [zero(), zero()],
            buckets: std::array::from_fn(|_| AtomicU32::new(0)),
        };
        (0..count).map(slot).collect()
    }

    #[test]
    fn buckets_follow_each_other_and_their_middles_lie_within_six_percent() {
        let mut last = 0;
        for ns in (0..5000).chain((13..44).flat_map(|power| [(1 << power) - 1, 1 << power, 3 << (power - 1)])) {
            let bucket = bucket_of(ns);
            assert!(bucket < BUCKETS);
            let off = (middle_ns(bucket) - ns as f64).abs();
            assert!(off <= 0.0626 * ns as f64, "{ns} ns: middle {}", middle_ns(bucket));
            if ns < 5000 {
                assert!(bucket == last || bucket == last + 1, "{ns} ns");
                last = bucket;
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn every_call_is_counted_and_one_in_sixty_four_is_timed() {
        ticks::anchor();
        let slots = slots(2);
        for number in 0..1000 {
            begin(&slots, 1, FunctionId(7)).end(number % 10 != 0);
        }
        assert_eq!(slots[0].seen(), None);
        let seen = slots[1].seen().unwrap();
        assert_eq!((seen.function, seen.calls, seen.failed, seen.latency.sampled), (FunctionId(7), 1000, 100, 16));
        let median = seen.latency.quantile_ns(0.5).unwrap();
        assert!(median <= seen.latency.quantile_ns(1.0).unwrap());
        assert!(seen.latency.total_ns >= seen.latency.longest_ns);
    }

    #[test]
    fn a_function_beyond_the_slots_is_not_counted_and_harms_nobody() {
        begin(&slots(1), 1, FunctionId(7)).end(true);
    }

    #[test]
    fn quantiles_of_several_workers_are_those_of_all_their_calls() {
        let slots = slots(2);
        for ns in 1..=1000 {
            slots[usize::from(ns % 3 == 0)].time(ns * 1000);
        }
        let mut all = Latency::default();
        for slot in &slots {
            slot.function.store(1, Ordering::Relaxed);
            all.merge(&slot.seen().unwrap().latency);
        }
        for (quantile, expected) in [(0.0, 1_000.0), (0.5, 500_000.0), (0.99, 990_000.0), (1.0, 1_000_000.0)] {
            let found = all.quantile_ns(quantile).unwrap() as f64;
            assert!((found - expected).abs() <= 0.07 * expected, "{quantile}: {found} instead of {expected}");
        }
        assert_eq!((all.sampled, all.longest_ns), (1000, 1_000_000));
        let octaves: Vec<_> = all.octaves().collect();
        assert_eq!(octaves.iter().map(|(_, count)| count).sum::<u64>(), 1000);
        assert!(octaves.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(octaves[0], (1024, 1), "only one call took less than 1024 ns");
    }

    #[test]
    fn counts_that_a_hostile_worker_made_up_end_in_figures_and_not_in_a_panic() {
        let slots = slots(1);
        slots[0].function.store(u64::MAX, Ordering::Relaxed);
        for word in [&slots[0].calls, &slots[0].sampled, &slots[0].sampled_ns, &slots[0].longest_ns] {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        slots[0].buckets.iter().for_each(|bucket| bucket.store(u32::MAX, Ordering::Relaxed));
        let mut latency = slots[0].seen().unwrap().latency;
        for _ in 0..40 {
            let same = latency.clone();
            latency.merge(&same);
        }
        assert!(latency.quantile_ns(f64::NAN).is_some() && latency.quantile_ns(2.0).is_some());
    }
}
