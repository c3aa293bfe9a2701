use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Sink, StreamInfo, label_of, make_parent, write_line};
use crate::pipeline::FrameResult;
use crate::{Error, ErrorKind};

/// One JSON object per frame and line:
///
/// ```json
/// {"frame":12,"timestamp_ns":81234567890,"source":"/dev/video0",
///  "detections":[{"class":0,"label":"mug","score":0.9132,"box":[10.5,20.0,90.2,120.9]}],
///  "latency_us":{"capture":2110,"upload":0,"preprocess":480,"network":15032,"postprocess":33,"download":0,
///  "total":17893}}
/// ```
///
/// (on one line). `source` is the picture's file name where there is one, else the source's
/// URI; `box` is left, top, right, bottom in pixels of the frame; `timestamp_ns` is
/// `CLOCK_MONOTONIC`. A classifier's lines have `"classes":[{"class","label","score"}]`
/// instead of `detections`.
pub struct JsonLines {
    out: Box<dyn Write + Send>,
    /// A file that is yet to be made.
    file: Option<PathBuf>,
    name: String,
    line: String,
    /// Of each class, `"class":0,"label":"mug"`.
    classes: Vec<String>,
    source: String,
}

/// Bytes that a frame's line takes without its detections: numbers of 20 digits and more, and
/// a file name of 255 bytes, each escaped.
const LINE: usize = 1024 + 6 * 255;
/// Bytes that a detection takes beside its class and label.
const DETECTION: usize = 160;

impl JsonLines {
    /// Lines to a writer; `name` stands for it in errors.
    pub fn new(out: Box<dyn Write + Send>, name: impl Into<String>) -> JsonLines {
        JsonLines {
            out,
            file: None,
            name: name.into(),
            line: String::new(),
            classes: Vec::new(),
            source: String::new(),
        }
    }

    /// Lines to standard output.
    pub fn stdout() -> JsonLines {
        Self::new(Box::new(std::io::stdout()), "stdout")
    }

    /// Lines to a file that is made, or replaced, when the source is open: what was there stays
    /// where nothing is run.
    pub fn file(path: impl AsRef<Path>) -> JsonLines {
        let path = path.as_ref();
        let mut sink = JsonLines::new(Box::new(std::io::sink()), path.display().to_string());
        sink.file = Some(path.into());
        sink
    }

    /// Lines to a file, made or replaced.
    pub fn create(path: impl AsRef<Path>) -> Result<JsonLines, Error> {
        let mut sink = JsonLines::file(path);
        sink.make()?;
        Ok(sink)
    }

    /// Makes the file, if it is yet to be made.
    fn make(&mut self) -> Result<(), Error> {
        let Some(path) = self.file.take() else { return Ok(()) };
        make_parent(&path)?;
        let file = File::create(&path).map_err(|e| Error::io(&path, "cannot create", e))?;
        self.out = Box::new(file);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn reserved(&self) -> usize {
        self.line.capacity()
    }
}

/// A result as one line of JSON, with its end.
fn format_line(
    line: &mut String,
    result: &FrameResult,
    classes: &[String],
    source: &str,
) -> std::fmt::Result {
    line.clear();
    let (frame, time) = (result.number(), result.timestamp_ns());
    write!(line, "{{\"frame\":{frame},\"timestamp_ns\":{time},\"source\":")?;
    match result.name() {
        Some(name) => quote(line, name),
        None => line.push_str(source),
    }
    let class = |i: u32| classes.get(i as usize).map_or("\"class\":null", String::as_str);
    if result.classes().is_empty() {
        line.push_str(",\"detections\":[");
        for (i, d) in result.detections().iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(
                line,
                "{comma}{{{},\"score\":{:.4},\"box\":[{:.1},{:.1},{:.1},{:.1}]}}",
                class(d.class),
                d.score,
                d.left,
                d.top,
                d.right,
                d.bottom
            )?;
        }
    } else {
        line.push_str(",\"classes\":[");
        for (i, c) in result.classes().iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(line, "{comma}{{{},\"score\":{:.6}}}", class(c.class), c.score)?;
        }
    }
    let l = result.latency();
    writeln!(
        line,
        "],\"latency_us\":{{\"capture\":{},\"upload\":{},\"preprocess\":{},\"network\":{},\
         \"postprocess\":{},\"download\":{},\"total\":{}}}}}",
        l.capture.as_micros(),
        l.upload.as_micros(),
        l.preprocess.as_micros(),
        l.network.as_micros(),
        l.postprocess.as_micros(),
        l.download.as_micros(),
        l.total.as_micros()
    )
}

/// Appends a JSON string (RFC 8259, section 7).
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\0'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

impl Sink for JsonLines {
    fn start(&mut self, info: &StreamInfo<'_>) -> Result<(), Error> {
        self.make()?;
        quote(&mut self.source, info.source);
        self.classes = (0..info.classes)
            .map(|i| {
                let mut text = format!("\"class\":{i},\"label\":");
                quote(&mut text, &label_of(info.labels, i));
                text
            })
            .collect();
        let class = self.classes.iter().map(String::len).max().unwrap_or(0);
        self.line.reserve(LINE + self.source.len() + info.max_results * (DETECTION + class));
        Ok(())
    }

    fn write(&mut self, result: &FrameResult) -> Result<(), Error> {
        format_line(&mut self.line, result, &self.classes, &self.source)
            .map_err(|e| Error::caused(ErrorKind::Other, &self.name, e))?;
        write_line(&mut *self.out, &self.name, &self.line)
    }

    fn describe(&self) -> String {
        if self.name == "stdout" { String::new() } else { self.name.clone() }
    }
}
