//! The paper's plots, measured on this machine beside Redis, S3 and peers, in one page.
//!
//! | room | what |
//! |---|---|
//! | [`row`] | what is found: rows, as lines of `results.jsonl` |
//! | [`harness`] | how it is found: series in turns, intervals of confidence, loads that do not wait |
//! | [`baselines`] | the systems that praas is measured beside, real and at their best |
//! | [`functions`] | the functions that workers run in these measurements |
//! | [`plots`] | one file a plot: what is measured, how it is drawn, what it means |
//! | [`paper`] | the figures that the paper's plots are drawn from |
//! | [`report`] | the page: plots, tables, claims |
//!
//! Four rules keep the figures honest:
//! 1. Series that are compared are measured in one run, in turns; a ratio of rows of different runs is refused.
//! 2. Every payload is filled by its sender and checked by its receiver, for praas and baselines alike, or the row says so.
//! 3. Every row says where each party ran and how it waited.
//! 4. What could not be measured is a row, too: with the reason.
#![forbid(unsafe_code)]

pub mod baselines;
pub mod functions;
pub mod harness;
pub mod paper;
pub mod plots;
pub mod report;
pub mod row;
