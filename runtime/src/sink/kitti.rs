use std::fmt::Write as _;

use super::files::Naming;
use super::{Sink, StreamInfo, label_of, write_file};
use crate::Error;
use crate::pipeline::FrameResult;

/// KITTI object text, one file per frame, one line per detection: `label 0.0 0 0.0 left top
/// right bottom 0 0 0 0 0 0 0 score`. The fields that a picture does not tell (truncation,
/// occlusion, angle, size and place in space) are 0.
///
/// Source: the readme of KITTI's object development kit (Geiger et al., 2012).
pub struct Kitti {
    naming: Naming,
    written: u64,
    labels: Vec<String>,
    text: String,
}

impl Kitti {
    /// Files in a folder, named as the frames are, else by number.
    pub fn folder(folder: &str) -> Kitti {
        Self::with(Naming::Folder(folder.into(), "txt"))
    }

    /// Files by a pattern with `%i` for the frame's number.
    pub fn pattern(pattern: &str) -> Result<Kitti, Error> {
        Ok(Self::with(Naming::parse(pattern)?))
    }

    fn with(naming: Naming) -> Kitti {
        Kitti { naming, written: 0, labels: Vec::new(), text: String::new() }
    }
}

impl Sink for Kitti {
    fn start(&mut self, info: &StreamInfo<'_>) -> Result<(), Error> {
        // Fields are separated by spaces, so a label has none.
        let word = |text: String| text.replace(|c: char| c.is_whitespace() || c.is_control(), "_");
        self.labels = (0..info.classes).map(|i| word(label_of(info.labels, i))).collect();
        self.naming.prepare()
    }

    fn write(&mut self, result: &FrameResult) -> Result<(), Error> {
        self.text.clear();
        for d in result.detections() {
            let label = self.labels.get(d.class as usize).map_or("DontCare", String::as_str);
            let (l, t, r, b, s) = (d.left, d.top, d.right, d.bottom, d.score);
            let _ = writeln!(
                self.text,
                "{label} 0.0 0 0.0 {l:.2} {t:.2} {r:.2} {b:.2} 0 0 0 0 0 0 0 {s:.4}"
            );
        }
        let path = self.naming.path(result, self.written)?;
        write_file(&path, self.text.as_bytes())?;
        self.written += 1;
        Ok(())
    }

    fn describe(&self) -> String {
        self.naming.describe(self.written)
    }
}
