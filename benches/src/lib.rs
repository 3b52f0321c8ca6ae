//! What this machine can do at best (`floors`), how that is compared with what praas does (`interleave`), and the
//! bars that praas sets itself (`bars`, `report`; feature `bars`).
//!
//! Three rules keep the figures honest:
//! 1. Each floor exists once, here; whoever compares with it calls it.
//! 2. A floor and the figure it judges come from one run, in alternating rounds, timed by the same code
//!    ([`floors::timed`]).
//! 3. A ratio is the median of the rounds' own ratios: a burst of foreign work meets floor and figure of its round alike.
//!
//! A program that measures floors calls [`floors::serve_peer_if_asked`] first thing in `main`: the other side of a
//! floor is a process of its own, which runs the same executable again. So are the server and the workers that the bars
//! measure (`subject`).
#![deny(unsafe_code)]

#[cfg(feature = "bars")]
pub mod bars;
#[cfg(feature = "bars")]
pub mod catalogue;
// The one module that maps memory, forks and reads the time-stamp counter.
#[allow(unsafe_code)]
pub mod floors;
pub mod interleave;
#[cfg(feature = "bars")]
pub mod machine;
#[cfg(feature = "bars")]
pub mod progress;
#[cfg(feature = "bars")]
pub mod report;
#[cfg(feature = "bars")]
pub mod subject;
