//! What a pipeline did when: host threads and the device's slots side by side, as Chrome's trace
//! events (<https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>),
//! which chrome://tracing and Perfetto show, or as a picture in SVG.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::Error;

/// What works: a host thread, or a slot of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Track {
    Capture,
    /// Everything from frame to result, on the CPU.
    Inference,
    /// Queues work for the device.
    Submit,
    /// Waits for the device and reads results.
    Finish,
    /// The caller's thread, in the sinks.
    Sinks,
    /// The device's work on the frame in a slot.
    Slot(u8),
}

impl Track {
    fn name(self) -> String {
        match self {
            Track::Capture => "capture".into(),
            Track::Inference => "inference".into(),
            Track::Submit => "submit".into(),
            Track::Finish => "finish".into(),
            Track::Sinks => "sinks".into(),
            Track::Slot(i) => format!("slot {i}"),
        }
    }

    fn number(self) -> u32 {
        match self {
            Track::Capture => 1,
            Track::Inference => 2,
            Track::Submit => 3,
            Track::Finish => 4,
            Track::Sinks => 5,
            Track::Slot(i) => 10 + u32::from(i),
        }
    }

    fn is_device(self) -> bool {
        matches!(self, Track::Slot(_))
    }
}

/// A piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Who did it.
    pub track: Track,
    /// What it was.
    pub name: &'static str,
    /// The frame's number.
    pub frame: u64,
    /// Begin and end, nanoseconds of `CLOCK_MONOTONIC`.
    pub time: [u64; 2],
}

/// Takes spans from all threads, up to a number that memory was taken for at the beginning.
pub(crate) struct Recorder {
    spans: Option<Mutex<Vec<Span>>>,
}

impl Recorder {
    /// For so many frames; of none it takes nothing.
    pub fn new(frames: usize) -> Recorder {
        const SPANS_PER_FRAME: usize = 12;
        let capacity = frames.saturating_mul(SPANS_PER_FRAME).min(1 << 20);
        Recorder { spans: (frames > 0).then(|| Mutex::new(Vec::with_capacity(capacity))) }
    }

    /// True where spans are taken.
    #[cfg(feature = "cuda")]
    pub fn is_on(&self) -> bool {
        self.spans.is_some()
    }

    /// Adds a span while there is room. Allocates nothing.
    pub fn add(&self, track: Track, name: &'static str, frame: u64, time: [u64; 2]) {
        let Some(spans) = &self.spans else { return };
        let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() < spans.capacity() {
            spans.push(Span { track, name, frame, time: [time[0], time[1].max(time[0])] });
        }
    }

    pub fn timeline(&self, device: &str) -> Option<Timeline> {
        let spans = self.spans.as_ref()?;
        let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner).clone();
        spans.sort_by_key(|s| (s.time, s.track));
        Some(Timeline { spans, device: device.into() })
    }
}

/// What a pipeline did when.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    spans: Vec<Span>,
    device: String,
}

impl Timeline {
    /// All spans, by their begin.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Only what belongs to frames from this one on.
    pub fn from_frame(mut self, first: u64) -> Timeline {
        self.spans.retain(|s| s.frame >= first);
        self
    }

    fn origin(&self) -> u64 {
        self.spans.first().map_or(0, |s| s.time[0])
    }

    fn tracks(&self) -> Vec<Track> {
        let mut tracks: Vec<Track> = self.spans.iter().map(|s| s.track).collect();
        tracks.sort();
        tracks.dedup();
        tracks
    }

    /// How long two things went on at once, nanoseconds: spans of names of two lists, of
    /// different frames.
    pub fn overlap(&self, of: &[&str], with: &[&str]) -> u64 {
        let list = |names: &[&str]| -> Vec<Span> {
            self.spans.iter().filter(|s| names.contains(&s.name)).copied().collect()
        };
        let (of, with) = (list(of), list(with));
        let mut sum = 0;
        let mut first = 0;
        for a in &of {
            // Both are sorted by their begin; what ended long before is passed over.
            while with.get(first).is_some_and(|b| b.time[1] + 1_000_000_000 < a.time[0]) {
                first += 1;
            }
            for b in with[first..].iter().take_while(|b| b.time[0] < a.time[1]) {
                if a.frame != b.frame {
                    sum += a.time[1].min(b.time[1]).saturating_sub(a.time[0].max(b.time[0]));
                }
            }
        }
        sum
    }

    /// As a document of trace events, times in microseconds from the first span.
    pub fn to_json(&self) -> Value {
        let origin = self.origin();
        let us = |ns: u64| ns as f64 / 1e3;
        let process = |track: Track| if track.is_device() { 2 } else { 1 };
        let mut events = vec![
            json!({ "name": "process_name", "ph": "M", "pid": 1, "args": { "name": "host" } }),
            json!({ "name": "process_name", "ph": "M", "pid": 2, "args": { "name": self.device } }),
        ];
        for track in self.tracks() {
            events.push(json!({
                "name": "thread_name", "ph": "M", "pid": process(track), "tid": track.number(),
                "args": { "name": track.name() },
            }));
        }
        for s in &self.spans {
            events.push(json!({
                "name": s.name, "ph": "X", "cat": if s.track.is_device() { "device" } else { "host" },
                "pid": process(s.track), "tid": s.track.number(),
                "ts": us(s.time[0] - origin), "dur": us(s.time[1] - s.time[0]),
                "args": { "frame": s.frame },
            }));
        }
        json!({ "traceEvents": events, "displayTimeUnit": "ns" })
    }

    /// As a picture of some frames from the middle of the run: a row for each thread and slot.
    pub fn to_svg(&self, frames: usize) -> String {
        const WIDTH: f64 = 1000.0;
        const LEFT: f64 = 90.0;
        const ROW: f64 = 26.0;
        let mut numbers: Vec<u64> = self.spans.iter().map(|s| s.frame).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let middle = numbers.len().saturating_sub(frames) / 2;
        let shown = &numbers[middle..(middle + frames).min(numbers.len())];
        let inside = |s: &&Span| shown.binary_search(&s.frame).is_ok();
        let spans: Vec<&Span> = self.spans.iter().filter(inside).collect();
        let begin = spans.iter().map(|s| s.time[0]).min().unwrap_or(0);
        let end = spans.iter().map(|s| s.time[1]).max().unwrap_or(1).max(begin + 1);
        let x = |ns: u64| LEFT + (ns - begin) as f64 / (end - begin) as f64 * (WIDTH - LEFT - 10.0);
        let tracks = self.tracks();
        let height = ROW * tracks.len() as f64 + 46.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        for (row, track) in tracks.iter().enumerate() {
            let y = ROW * row as f64 + 8.0;
            let _ = writeln!(
                svg,
                "<text x=\"6\" y=\"{:.1}\">{}</text>\
                 <line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>",
                y + 14.0,
                track.name(),
                WIDTH - 10.0,
                y + ROW - 3.0,
                y + ROW - 3.0
            );
            for s in spans.iter().filter(|s| s.track == *track) {
                let (from, to) = (x(s.time[0]), x(s.time[1]));
                let us = (s.time[1] - s.time[0]) as f64 / 1e3;
                // Even and odd frames differ in strength, stages in colour.
                let strength = if s.frame % 2 == 0 { 1.0 } else { 0.6 };
                let _ = write!(
                    svg,
                    "<rect x=\"{from:.2}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"20\" fill=\"{}\" \
                     fill-opacity=\"{strength}\"><title>{}, frame {}: {us:.1} us</title></rect>",
                    (to - from).max(0.4),
                    colour(s.name),
                    s.name,
                    s.frame
                );
                let label = format!("{} {}", s.name, s.frame);
                if to - from > 6.0 * label.len() as f64 {
                    let _ = write!(
                        svg,
                        "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"white\">{label}</text>",
                        from + 3.0,
                        y + 14.0
                    );
                }
                svg.push('\n');
            }
        }
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{:.1}\">{} frames in {:.0} us on {}</text>\n</svg>",
            height - 12.0,
            shown.len(),
            (end - begin) as f64 / 1e3,
            self.device.replace('&', "&amp;").replace('<', "&lt;")
        );
        svg
    }

    /// Writes the picture where the file's name ends in `.svg`, else the trace events.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let picture = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("svg"));
        let text = if picture { self.to_svg(6) } else { self.to_json().to_string() };
        std::fs::write(path, text).map_err(|e| Error::io(path, "cannot write the timeline", e))
    }

    /// Whether a timeline can be written there. A file that is there stays as it is, one that is
    /// not is not left behind.
    pub fn try_write(path: &Path) -> Result<(), Error> {
        // A pipe's reader would take the try for the end.
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            return Ok(());
        }
        let there = path.exists();
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
        opened.map_err(|e| Error::io(path, "cannot write the timeline", e))?;
        if !there {
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }
}

fn colour(name: &str) -> &'static str {
    match name {
        "capture" => "#7f7f7f",
        "upload" => "#1f77b4",
        "preprocess" => "#17becf",
        "network" => "#d62728",
        "decode" | "postprocess" => "#9467bd",
        "download" => "#2ca02c",
        "submit" | "results" => "#bc6c25",
        "sinks" => "#8c564b",
        _ => "#c7c7c7",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        let r = Recorder::new(4);
        for frame in 0..4u64 {
            let t = 1_000_000 + frame * 10_000;
            r.add(Track::Slot((frame % 2) as u8), "upload", frame, [t, t + 4_000]);
            r.add(Track::Slot((frame % 2) as u8), "network", frame, [t + 4_000, t + 13_000]);
            r.add(Track::Sinks, "sinks", frame, [t + 13_000, t + 13_500]);
        }
        r.timeline("cuda:0 <x>").expect("it is on")
    }

    #[test]
    fn spans_become_trace_events() {
        let json = timeline().to_json();
        let events = json["traceEvents"].as_array().unwrap();
        let spans: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
        assert_eq!(spans.len(), 12);
        assert_eq!((spans[0]["ts"].as_f64(), spans[0]["dur"].as_f64()), (Some(0.0), Some(4.0)));
        assert_eq!(spans[0]["args"]["frame"], 0);
        let names: Vec<&str> = events.iter().filter_map(|e| e["args"]["name"].as_str()).collect();
        assert_eq!(names, ["host", "cuda:0 <x>", "sinks", "slot 0", "slot 1"]);
    }

    #[test]
    fn the_overlap_of_different_frames_is_summed() {
        // Each upload but the first lies 3 us in the network of the frame before.
        assert_eq!(timeline().overlap(&["upload"], &["network"]), 9_000);
        assert_eq!(timeline().overlap(&["sinks"], &["upload"]), 1_500);
    }

    #[test]
    fn the_picture_shows_the_frames_of_the_middle() {
        let svg = timeline().to_svg(2);
        assert!(svg.contains("network, frame 1") && svg.contains("network, frame 2"), "{svg}");
        assert!(!svg.contains("frame 0:") && !svg.contains("frame 3:"), "{svg}");
        assert!(svg.contains("cuda:0 &lt;x>") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn a_full_recorder_takes_no_more_and_one_for_no_frames_nothing() {
        let r = Recorder::new(1);
        (0..100).for_each(|i| r.add(Track::Capture, "capture", i, [i, i + 1]));
        let kept = r.timeline("").unwrap().spans().len();
        assert!((1..100).contains(&kept), "{kept}");
        assert!(Recorder::new(0).timeline("").is_none());
    }
}
