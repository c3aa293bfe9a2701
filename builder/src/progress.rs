//! How far a long command is: a bar with an ETA on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use tobiuo::console;

/// Is told how far the work is. Implement it to show a build's progress in a program of your
/// own; `()` shows nothing.
pub trait Progress {
    /// A stage begins: its name and its share of the whole work, of 1.
    fn stage(&mut self, name: &str, share: f64);
    /// The part of the stage that is done, 0 to 1, and what is at hand.
    fn advance(&mut self, done: f64, what: &str);
    /// All stages are done.
    fn finish(&mut self) {}
}

impl Progress for () {
    fn stage(&mut self, _name: &str, _share: f64) {}
    fn advance(&mut self, _done: f64, _what: &str) {}
}

/// Shows progress on stderr.
#[derive(Debug)]
pub struct Terminal {
    tty: bool,
    begun: Instant,
    stage_begun: Instant,
    drawn: Option<Instant>,
    stage: String,
    before: f64,
    share: f64,
}

/// The bar is drawn again at most this often.
const REDRAW: Duration = Duration::from_millis(50);
const WIDTH: usize = 24;

impl Terminal {
    /// A bar where stderr is a terminal, a line per stage where not.
    pub fn new() -> Terminal {
        let now = Instant::now();
        Terminal {
            tty: std::io::stderr().is_terminal(),
            begun: now,
            stage_begun: now,
            drawn: None,
            stage: String::new(),
            before: 0.0,
            share: 0.0,
        }
    }

    fn end_stage(&mut self) {
        if !self.stage.is_empty() && !self.tty {
            let took = self.stage_begun.elapsed().as_secs_f64();
            console::say(format_args!("{} ({took:.2} s)", self.stage));
        }
        self.before += self.share;
        self.share = 0.0;
    }

    fn draw(&mut self, done: f64, what: &str) {
        let due = self.drawn.is_none_or(|t| t.elapsed() >= REDRAW);
        if !self.tty || !due {
            return;
        }
        self.drawn = Some(Instant::now());
        let part = (self.before + self.share * done.clamp(0.0, 1.0)).clamp(0.0, 1.0);
        let line = bar(part, self.begun.elapsed(), &self.stage, what);
        let _ = write!(std::io::stderr(), "\r\x1b[2K{line}");
        let _ = std::io::stderr().flush();
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Terminal::new()
    }
}

/// One line of the bar.
fn bar(part: f64, elapsed: Duration, stage: &str, what: &str) -> String {
    let full = (part * WIDTH as f64) as usize;
    let eta = if part > 0.02 {
        format!("ETA {:.0} s", (elapsed.as_secs_f64() * (1.0 - part) / part).ceil())
    } else {
        "ETA -".into()
    };
    let line = format!(
        "[{}{}] {:3.0}% {eta:>8}  {stage} {what}",
        "#".repeat(full),
        "-".repeat(WIDTH - full),
        part * 100.0
    );
    // A line that wraps could not be drawn over; names may hold anything.
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(79).collect()
}

impl Progress for Terminal {
    fn stage(&mut self, name: &str, share: f64) {
        self.end_stage();
        (self.stage, self.share) = (name.to_string(), share);
        self.stage_begun = Instant::now();
        self.drawn = None;
        self.draw(0.0, "");
    }

    fn advance(&mut self, done: f64, what: &str) {
        self.draw(done, what);
    }

    fn finish(&mut self) {
        self.end_stage();
        self.stage.clear();
        if self.tty {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
            let _ = std::io::stderr().flush();
        }
    }
}

impl Drop for Terminal {
    // An error's words begin on a clean line.
    fn drop(&mut self) {
        if self.tty && self.drawn.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_part_and_time_left() {
        let line = bar(0.25, Duration::from_secs(2), "passes", "fold");
        assert!(line.starts_with("[######----"), "{line}");
        assert!(line.contains(" 25%") && line.contains("ETA 6 s"), "{line}");
        let long = bar(1.0, Duration::from_secs(2), "weights", &"x\n".repeat(100));
        assert!(long.len() <= 79 && !long.contains('\n'), "{long}");
    }
}
