//! The function binary: a praas server starts it as the workers of each `hello` process.
#![forbid(unsafe_code)]

fn main() {
    hello::application().run()
}
