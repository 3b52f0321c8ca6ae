//! dataplane/server
