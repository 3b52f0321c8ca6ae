//! The paper's plots, measured on this machine beside Redis, S3 and peers, in one page.
//!
//! | room | what |
//! |---|---|
//! | [`row`] | what is found: rows, as lines of `results.jsonl` |
//! | [`harness`] | how it is found: series in turns, intervals of confidence, loads that do not wait |
//! | [`baselines`] | the systems that praas is measured beside, real and at their best |
//! | [`functions`] | the functions that workers run in these measurements |
//! | [`plots`] | one file a plot: what is measured, how it is drawn, what it means |
//! | [`claims`] | what is claimed, and what a run found of it |
//! | [`paper`] | the figures that the paper's plots are drawn from |
//! | [`compare`] | two runs beside each other |
//! | [`guard`] | figures that no noise touches, held against stored ones |
//! | [`command`] | what can be asked for on the command line |
//! | [`report`] | the page: plots, tables, claims |
//!
//! Four rules keep the figures honest:
//! 1. Series that are compared are measured in one run, in turns; a ratio of rows of different runs is refused.
//! 2. Every payload is filled by its sender and checked by its receiver, for praas and baselines alike, or the row says so.
//! 3. Every row says where each party ran and how it waited.
//! 4. What could not be measured is a row, too: with the reason.
#![forbid(unsafe_code)]

#[cfg(feature = "suite")]
pub mod baselines;
#[cfg(feature = "suite")]
pub mod claims;
#[cfg(feature = "suite")]
pub mod command;
#[cfg(feature = "suite")]
pub mod compare;
#[cfg(feature = "suite")]
pub mod functions;
pub mod guard;
#[cfg(feature = "suite")]
pub mod harness;
#[cfg(feature = "suite")]
pub mod paper;
#[cfg(feature = "suite")]
pub mod plots;
#[cfg(feature = "suite")]
pub mod report;
#[cfg(feature = "suite")]
pub mod row;
