//! The systems that praas is measured beside, real and at their best. Each is a file of its own; what has to be installed
//! is installed by `perf/setup` into a private folder, and started on loopback or a Unix socket.
