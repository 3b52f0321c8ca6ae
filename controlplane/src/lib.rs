//! The control plane of `praas`, and the parts that its one binary is made of.

#![forbid(unsafe_code)]

pub mod demo;
