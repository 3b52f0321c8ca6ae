//! dataplane/sys
