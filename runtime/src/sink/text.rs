use std::fmt::Write as _;
use std::io::Write;

use super::{Sink, StreamInfo, label_of, write_line};
use crate::pipeline::FrameResult;
use crate::{Error, ErrorKind};

/// One line per frame, for people:
///
/// ```text
/// frame 12  17.9 ms  mug 0.91 (10, 20, 90, 121)  pen 0.88 (...)
/// ```
///
/// The time is from capture to result; a box is left, top, right, bottom in pixels.
pub struct TextLines {
    out: Box<dyn Write + Send>,
    name: String,
    line: String,
    labels: Vec<String>,
}

impl TextLines {
    /// Lines to a writer; `name` stands for it in errors.
    pub fn new(out: Box<dyn Write + Send>, name: impl Into<String>) -> TextLines {
        TextLines { out, name: name.into(), line: String::new(), labels: Vec::new() }
    }

    /// Lines to standard output.
    pub fn stdout() -> TextLines {
        Self::new(Box::new(std::io::stdout()), "stdout")
    }

    fn format(&mut self, result: &FrameResult) -> std::fmt::Result {
        let line = &mut self.line;
        line.clear();
        match result.name() {
            Some(name) => {
                name.chars().for_each(|c| line.push(if c.is_control() { '?' } else { c }))
            }
            None => write!(line, "frame {}", result.number())?,
        }
        write!(line, "  {:.1} ms", result.latency().total.as_secs_f64() * 1e3)?;
        let label = |class: u32| self.labels.get(class as usize).map_or("?", String::as_str);
        for d in result.detections() {
            let (l, t, r, b) = (d.left, d.top, d.right, d.bottom);
            write!(line, "  {} {:.2} ({l:.0}, {t:.0}, {r:.0}, {b:.0})", label(d.class), d.score)?;
        }
        for c in result.classes() {
            write!(line, "  {} {:.4}", label(c.class), c.score)?;
        }
        line.push('\n');
        Ok(())
    }
}

impl Sink for TextLines {
    fn start(&mut self, info: &StreamInfo<'_>) -> Result<(), Error> {
        let plain = |text: String| text.replace(|c: char| c.is_control(), "?");
        self.labels = (0..info.classes).map(|i| plain(label_of(info.labels, i))).collect();
        let longest = self.labels.iter().map(String::len).max().unwrap_or(0);
        self.line.reserve(1024 + info.max_results * (longest + 96));
        Ok(())
    }

    fn write(&mut self, result: &FrameResult) -> Result<(), Error> {
        self.format(result).map_err(|e| Error::caused(ErrorKind::Other, &self.name, e))?;
        write_line(&mut *self.out, &self.name, &self.line)
    }
}
