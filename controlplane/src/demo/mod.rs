//! The demo application: a full-text index over real text files.
//!
//! One function adds batches of documents, another searches them; a client walks a directory, makes the batches and
//! chooses the queries. This module is the application itself and knows nothing of servers, lanes or workers; who drives it is
//! [`command::demo`](crate::command::demo).
//!
//! - [`application`] — the functions, as workers register them;
//! - [`messages`] — what travels between client and functions;
//! - [`index`], [`search`] — the index, owned by the process of the function, and the queries it answers;
//! - [`corpus`] — the client's side: walking a directory and making batches, within bounds;
//! - [`queries`] — choosing queries that suit whatever was found;
//! - [`tokenize`], [`snippet`], [`limits`] — what both sides agree on.

pub mod application;
pub mod corpus;
pub mod index;
pub mod limits;
pub mod messages;
pub mod queries;
pub mod search;
pub mod snippet;
pub mod tokenize;

#[cfg(test)]
mod testing;
