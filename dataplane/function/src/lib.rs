//! dataplane/function
