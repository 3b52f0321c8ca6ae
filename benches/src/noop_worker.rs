//! The smallest function binary: one function that echoes. The bar `create` measures how long a process of it takes to
//! answer; the measuring program itself, which can also be its worker, is six times as large and takes longer to load.
#![forbid(unsafe_code)]

use praas_function::{Application, Call};

fn main() {
    Application::new().function("noop", |call: &mut Call| call.reply(call.input())).run()
}
