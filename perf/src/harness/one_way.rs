//! How long a message takes one way: half a ping-pong, by one loop for every system, so that all are timed at the same points.
//!
//! Each side builds a message, starts its clock, sends, and looks at what comes back. The clock stops twice: when the first
//! and the last line of what came are read, and when all of it is read and done with (accepted, popped, deleted). What the
//! other side takes between its own stop and its next start (reading the rest, checking, building) is its own span, and is
//! taken off: `one way = (span of the asking side - span of the answering side) / 2`.
//!
//! Invariants:
//! 1. Message `n` there is filled from `n`, the one back from `!n`; both sides know what must come, and check all of it.
//! 2. Each side takes differences of its own clock readings only.
//! 3. Nothing is checked, built or allocated while the clock runs, but for what sending and receiving themselves do.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use praas_benches::floors::{Batch, Clock, Samples, expected_sum, fill, sum};
use praas_benches::interleave::{Series, SeriesError};

/// One side of a ping-pong of messages of one size.
pub trait End {
    /// Why it failed.
    type Error: From<WrongMessage>;
    /// A message that is built and not sent yet.
    type Built;

    /// Builds a message by [`fill_message`].
    ///
    /// # Errors
    /// The system's.
    fn build(&mut self, seed: u64) -> Result<Self::Built, Self::Error>;

    /// Sends it. `is_answered` unless it is the last one of the round.
    ///
    /// # Errors
    /// The system's.
    fn send(&mut self, built: Self::Built, is_answered: bool) -> Result<(), Self::Error>;

    /// Waits for a message, hands it to `read` once, and is done with it.
    ///
    /// # Errors
    /// The system's; that none came in time is one.
    fn receive<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Result<T, Self::Error>;

    /// Ends a round.
    ///
    /// # Errors
    /// The system's.
    fn finish(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// A message is another one than it must be.
#[derive(Debug, thiserror::Error)]
#[error(
    "message {number} has {bytes} bytes that begin with {first:#x} and sum to {sum:#x}: it is not the one that was sent"
)]
pub struct WrongMessage {
    number: u64,
    bytes: usize,
    first: u64,
    sum: u64,
}

/// Fills a message from a seed: its words, and what is left after them.
pub fn fill_message(message: &mut [u8], seed: u64) {
    fill(message, seed);
    let (_, tail) = message.as_chunks_mut::<8>();
    let tail_bytes = tail.len();
    tail.copy_from_slice(&seed.to_le_bytes()[..tail_bytes]);
}

/// What a receiver saw of a message, and when.
struct Seen {
    bytes: usize,
    first: u64,
    last: u64,
    read_lines: u64,
    sum: u64,
    is_tail_right: bool,
}

impl Seen {
    /// Reads the first and the last line, stops the clock, and reads all.
    #[inline]
    fn of(message: &[u8], clock: Clock, seed: u64) -> Self {
        let (words, tail) = message.as_chunks::<8>();
        let word = |word: Option<&[u8; 8]>| std::hint::black_box(word.map_or(0, |word| u64::from_le_bytes(*word)));
        let (first, last) = (word(words.first()), word(words.last()));
        let read_lines = clock.ticks();
        let is_tail_right = tail == &seed.to_le_bytes()[..tail.len()];
        Self { bytes: message.len(), first, last, read_lines, sum: sum(message), is_tail_right }
    }

    fn check(&self, number: u64, seed: u64, bytes: usize) -> Result<(), WrongMessage> {
        let words = (bytes / 8) as u64;
        let is_right = self.bytes == bytes
            && (words == 0 || (self.first == seed && self.last == seed.wrapping_add(words - 1)))
            && self.sum == expected_sum(bytes, seed)
            && self.is_tail_right;
        if is_right {
            Ok(())
        } else {
            Err(WrongMessage { number, bytes: self.bytes, first: self.first, sum: self.sum })
        }
    }
}

/// The spans of one side of a round, in nanoseconds: by the first stop of its clock and by the second one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(Vec<[u64; 2]>);

impl Spans {
    fn with_room(batch: Batch) -> Self {
        // Touched beforehand: a fresh page would cost as much as a message.
        let mut spans = vec![[1; 2]; usize::try_from(batch.samples).expect("a round's samples fit in memory")];
        std::hint::black_box(&mut spans);
        spans.clear();
        Self(spans)
    }

    /// As words of 8 bytes, for another process.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flatten().flat_map(|span| span.to_le_bytes()).collect()
    }

    /// What [`Spans::to_bytes`] made; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let (pairs, odd) = words.as_chunks::<2>();
        let spans = pairs.iter().map(|pair| pair.map(u64::from_le_bytes)).collect();
        (rest.is_empty() && odd.is_empty()).then_some(Self(spans))
    }
}

/// The side that begins: sends message after message of `bytes` bytes, and waits for the answer to each.
///
/// # Errors
/// The end's, and [`WrongMessage`].
pub fn ask<E: End>(end: &mut E, batch: Batch, bytes: usize) -> Result<Spans, E::Error> {
    let (clock, mut spans) = (Clock::calibrated(), Spans::with_room(batch));
    for number in 1..=batch.operations() {
        let built = end.build(number)?;
        let begun = clock.ticks();
        end.send(built, true)?;
        let seen = end.receive(|message| Seen::of(message, clock, !number))?;
        let done = clock.ticks();
        seen.check(number, !number, bytes)?;
        if number > batch.warm_up {
            spans.0.push([clock.ns_between(begun, seen.read_lines), clock.ns_between(begun, done)]);
        }
    }
    end.finish()?;
    Ok(spans)
}

/// The side that answers.
///
/// # Errors
/// The end's, and [`WrongMessage`].
pub fn answer<E: End>(end: &mut E, batch: Batch, bytes: usize) -> Result<Spans, E::Error> {
    let (clock, mut spans) = (Clock::calibrated(), Spans::with_room(batch));
    for number in 1..=batch.operations() {
        let seen = end.receive(|message| Seen::of(message, clock, number))?;
        let done = clock.ticks();
        seen.check(number, number, bytes)?;
        let built = end.build(!number)?;
        let sent = clock.ticks();
        if number > batch.warm_up {
            spans.0.push([clock.ns_between(seen.read_lines, sent), clock.ns_between(done, sent)]);
        }
        end.send(built, number < batch.operations())?;
    }
    end.finish()?;
    Ok(spans)
}

/// One way by both stops, exchange by exchange.
#[must_use]
pub fn one_way(asking: &Spans, answering: &Spans) -> [Samples; 2] {
    let mut samples = [Samples::empty(1), Samples::empty(1)];
    for (asking, answering) in asking.0.iter().zip(&answering.0) {
        for (stop, samples) in samples.iter_mut().enumerate() {
            samples.record(asking[stop].saturating_sub(answering[stop]) / 2);
        }
    }
    samples
}

/// One of two series that share a measurement: whichever has its turn first measures a round, and the other one has the rest
/// of that.
pub struct Half<F> {
    label: String,
    own: usize,
    shared: Rc<RefCell<Shared<F>>>,
}

struct Shared<F> {
    measure: F,
    /// Measured, and not asked for yet.
    kept: [Option<Samples>; 2],
}

/// The two series of `measure`, in its order.
pub fn halves<F>(label: &str, measure: F) -> [Half<F>; 2]
where
    F: FnMut(Batch) -> Result<[Samples; 2], SeriesError>,
{
    let shared = Rc::new(RefCell::new(Shared { measure, kept: [None, None] }));
    [0, 1].map(|own| Half { label: label.to_owned(), own, shared: Rc::clone(&shared) })
}

impl<F> fmt::Debug for Half<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Half").field("label", &self.label).field("own", &self.own).finish_non_exhaustive()
    }
}

impl<F> Series for Half<F>
where
    F: FnMut(Batch) -> Result<[Samples; 2], SeriesError>,
{
    fn label(&self) -> String {
        self.label.clone()
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        let Shared { measure, kept } = &mut *self.shared.borrow_mut();
        if let Some(samples) = kept[self.own].take() {
            return Ok(samples);
        }
        let [first, second] = measure(batch)?;
        let (own, other) = if self.own == 0 { (first, second) } else { (second, first) };
        kept[1 - self.own] = Some(other);
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    use super::*;

    const BATCH: Batch = Batch { warm_up: 2, samples: 30 };

    /// An end over channels, which may spoil one message.
    struct Channel {
        bytes: usize,
        to: Sender<Vec<u8>>,
        from: Receiver<Vec<u8>>,
        spoils: Option<u64>,
        built: u64,
    }

    impl End for Channel {
        type Error = SeriesError;
        type Built = Vec<u8>;

        fn build(&mut self, seed: u64) -> Result<Vec<u8>, SeriesError> {
            let mut message = vec![0; self.bytes];
            fill_message(&mut message, seed);
            self.built += 1;
            if self.spoils == Some(self.built) {
                message[self.bytes / 2] ^= 1;
            }
            Ok(message)
        }

        fn send(&mut self, built: Vec<u8>, _is_answered: bool) -> Result<(), SeriesError> {
            Ok(self.to.send(built)?)
        }

        fn receive<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Result<T, SeriesError> {
            Ok(read(&self.from.recv()?))
        }
    }

    fn exchange(bytes: usize, spoils: Option<u64>) -> (Result<Spans, SeriesError>, Result<Spans, SeriesError>) {
        let ((there, from_there), (back, from_back)) = (channel(), channel());
        let mut first = Channel { bytes, to: there, from: from_back, spoils: None, built: 0 };
        let mut second = Channel { bytes, to: back, from: from_there, spoils, built: 0 };
        thread::scope(|scope| {
            let answers = scope.spawn(move || answer(&mut second, BATCH, bytes));
            let asked = ask(&mut first, BATCH, bytes);
            drop(first);
            (asked, answers.join().expect("no panic"))
        })
    }

    #[test]
    fn every_size_goes_there_and_back_and_is_timed_twice() {
        for bytes in [1, 8, 10, 1024, 100_003] {
            let (asked, answered) = exchange(bytes, None);
            let (asked, answered) = (asked.expect("it is answered"), answered.expect("it is asked"));
            assert_eq!((asked.0.len(), answered.0.len()), (30, 30), "{bytes} bytes");
            assert!(asked.0.iter().all(|[lines, all]| lines <= all), "{bytes} bytes: the second stop is the later one");
            assert!(
                answered.0.iter().all(|[lines, all]| lines >= all),
                "{bytes} bytes: and leaves less until the start"
            );
            let [lines, all] = one_way(&asked, &answered);
            assert_eq!((lines.count(), all.count()), (30, 30));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found() {
        for bytes in [1, 10, 4096] {
            let (asked, _) = exchange(bytes, Some(3));
            let error = asked.expect_err("the third answer is another one").to_string();
            assert!(error.starts_with("message 3 "), "{bytes} bytes: {error}");
        }
    }

    #[test]
    fn one_way_is_half_of_what_the_other_side_did_not_take() {
        let (asking, answering) = (Spans(vec![[1_000, 5_000]]), Spans(vec![[400, 1_000]]));
        let [lines, all] = one_way(&asking, &answering).map(|samples| samples.p50_ns());
        assert!((lines - 300.0).abs() < 1.0 && (all - 2_000.0).abs() < 2.0, "{lines} and {all}");
        assert_eq!(Spans::from_bytes(&asking.to_bytes()), Some(asking));
        assert_eq!(Spans::from_bytes(&[0; 8]), None);
    }

    #[test]
    fn two_series_share_a_round_in_whatever_order() {
        let mut rounds = 0;
        let [mut first, mut second] = halves("pair", move |_| {
            rounds += 1;
            let mut samples = [Samples::empty(1), Samples::empty(1)];
            samples[0].record(100 * rounds);
            samples[1].record(1_000 * rounds);
            Ok(samples)
        });
        let mut found = Vec::new();
        for (one, other) in [(0, 1), (1, 0)] {
            for index in [one, other] {
                let series = if index == 0 { &mut first } else { &mut second };
                found.push((index, series.round(BATCH).expect("it works").p50_ns().round()));
            }
        }
        assert_eq!(found, [(0, 100.0), (1, 1_000.0), (1, 2_000.0), (0, 200.0)]);
    }
}
