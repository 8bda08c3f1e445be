//! What a person reads: plain lines that begin with `agent:`, and one bar where there is a terminal.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Prints one line. On a serial line nobody scrolls back: one thing a line, the reason in it.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // a console that is gone takes no more words
    let _ = writeln!(out, "agent: {line}");
    let _ = out.flush();
}

/// One bar, or one line every few seconds where there is no terminal.
pub(crate) struct Bar {
    bar: ProgressBar,
    is_terminal: bool,
    last_percent: u64,
    what: String,
}

/// A line is printed each time this many percent are done.
const PERCENT_A_LINE: u64 = 20;

impl Bar {
    pub(crate) fn new(what: &str, total: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template(
            "{msg:12} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
        ) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Self {
            bar,
            is_terminal,
            last_percent: 0,
            what: what.to_owned(),
        }
    }

    pub(crate) fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        let percent = done * 100 / self.bar.length().unwrap_or(1).max(1);
        if !self.is_terminal && percent >= self.last_percent + PERCENT_A_LINE {
            self.last_percent = percent - percent % PERCENT_A_LINE;
            say(&format!("{} {percent} %", self.what));
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
