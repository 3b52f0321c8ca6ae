//! The function binary: a praas server starts it as the workers of each `counter` process.
#![forbid(unsafe_code)]

fn main() {
    counter::application().run()
}
