//! Where results go: JSON lines, annotated pictures and video, KITTI text.

mod files;
mod json;
mod kitti;
mod pictures;
mod text;
mod video;

use std::io::Write;
use std::path::Path;

use crate::Error;
use crate::pipeline::FrameResult;

pub use json::JsonLines;
pub use kitti::Kitti;
pub use pictures::Pictures;
pub use text::TextLines;
pub use video::Video;

/// What a sink may know before the first frame.
#[derive(Clone, Debug)]
pub struct StreamInfo<'a> {
    /// The source's URI.
    pub source: &'a str,
    /// Frames a second, where the source tells.
    pub frame_rate: Option<f64>,
    /// Class names, in class order.
    pub labels: &'a [String],
    /// Number of classes.
    pub classes: usize,
    /// A frame's result has at most so many detections or classes.
    pub max_results: usize,
}

/// Takes the results of a pipeline, frame by frame.
pub trait Sink: Send {
    /// Told once, before the first frame: the place for allocation.
    fn start(&mut self, info: &StreamInfo<'_>) -> Result<(), Error>;

    /// Takes one frame's result.
    fn write(&mut self, result: &FrameResult) -> Result<(), Error>;

    /// Told once, after the last frame.
    fn finish(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// What it made, for people; empty where there is nothing to open.
    fn describe(&self) -> String {
        String::new()
    }
}

/// The forms of an output URI, for help and errors.
pub const FORMS: &str = "\
  -  or  out.jsonl          JSON lines, one per frame
  out.avi  or  out.mjpg     annotated Motion-JPEG video
  out_%i.jpg  or  .png      annotated pictures; %i is the frame's number, %06i with zeros
  out.jpg                   one annotated picture
  folder/                   annotated pictures in a folder, named as the frames are
  kitti:folder  or  %i.txt  KITTI text, one file per frame
  null                      nothing";

/// Opens a sink by its URI: one of [`FORMS`], with or without `file://`.
///
/// Fails with [`ErrorKind::Usage`](crate::ErrorKind::Usage) when the URI has no such form.
pub fn open(uri: &str) -> Result<Box<dyn Sink>, Error> {
    let path = uri.strip_prefix("file://").unwrap_or(uri);
    if let Some(folder) = path.strip_prefix("kitti:").filter(|f| !f.is_empty()) {
        return Ok(Box::new(Kitti::folder(folder)));
    }
    match path {
        "null" | "null://" => return Ok(Box::new(Null)),
        "-" => return Ok(Box::new(JsonLines::stdout())),
        _ => {}
    }
    let extension = Path::new(path).extension().map(|e| e.to_ascii_lowercase());
    let extension = extension.as_deref().and_then(|e| e.to_str()).unwrap_or("");
    match extension {
        _ if path.ends_with('/') || (!path.is_empty() && Path::new(path).is_dir()) => {
            Ok(Box::new(Pictures::folder(path)))
        }
        "jsonl" | "ndjson" => Ok(Box::new(JsonLines::file(path))),
        "avi" | "mjpg" | "mjpeg" => Ok(Box::new(Video::new(path)?)),
        "jpg" | "jpeg" | "png" => Ok(Box::new(Pictures::pattern(path)?)),
        "txt" => Ok(Box::new(Kitti::pattern(path)?)),
        _ => Err(Error::usage(format!("output '{uri}': no known form; the forms are\n{FORMS}"))),
    }
}

/// Takes results and does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

impl Sink for Null {
    fn start(&mut self, _: &StreamInfo<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn write(&mut self, _: &FrameResult) -> Result<(), Error> {
        Ok(())
    }
}

/// Writes a whole line and passes it on at once.
fn write_line(out: &mut dyn Write, name: &str, line: &str) -> Result<(), Error> {
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Error::io(Path::new(name), "cannot write", e))
}

/// The caption or name of a class, made once per class.
fn label_of(labels: &[String], class: usize) -> String {
    labels.get(class).cloned().unwrap_or_else(|| class.to_string())
}

/// Makes the folder that a file is to lie in.
fn make_parent(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => make_folder(parent),
        _ => Ok(()),
    }
}

fn make_folder(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|e| Error::io(path, "cannot make the folder", e))
}

/// Writes a file whole or not at all.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    tobiuo_tensor::file::replace(path, bytes).map_err(|e| Error::io(path, "cannot write", e))
}

#[cfg(test)]
mod tests;
