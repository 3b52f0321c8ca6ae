//! The function binary: a praas server starts it as the workers of each `pipeline` process.
#![forbid(unsafe_code)]

fn main() {
    pipeline::application().run()
}
