//! dataplane/client
