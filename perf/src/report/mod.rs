//! The page: plots, tables, claims.

pub mod drawing;
