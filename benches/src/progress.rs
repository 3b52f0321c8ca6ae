//! Progress for people: a bar on standard error, drawn only where that is a terminal, and only between rounds: nothing
//! draws while something is measured.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `steps` steps; `advance` it, and it disappears when dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Shows a bar.
    #[must_use]
    pub fn new(label: impl Into<String>, steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        let style = ProgressStyle::with_template("{msg:40!} {bar:30} {pos}/{len} {elapsed}");
        // The template is a constant; a default bar is as good if the library's syntax ever changes.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(label.into());
        bar.tick();
        Self { bar }
    }

    /// One step done.
    pub fn advance(&self) {
        self.bar.inc(1);
    }

    /// What is being done now.
    pub fn label(&self, label: impl Into<String>) {
        self.bar.set_message(label.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
