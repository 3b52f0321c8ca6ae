//! A small function binary for the bars of processes that sleep: how long one of them takes to answer is not to be how long a
//! large program takes to load. Those bars take it where it was built beside the measuring program, and say so.
#![forbid(unsafe_code)]

use praas_function::Application;

fn main() {
    praas_benches::subject::with_sleeper_functions(Application::new()).run()
}
