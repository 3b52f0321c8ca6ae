//! The function binary: a praas server starts it as the workers of each `notes` process.
#![forbid(unsafe_code)]

fn main() {
    notes::application().run()
}
