//! The suite, from the command line.
#![forbid(unsafe_code)]

fn main() {
    praas_benches::subject::serve_role_if_asked_with(praas_perf::functions::with_functions);
    praas_benches::floors::serve_peer_if_asked();
}
