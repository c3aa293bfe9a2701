//! The child's frames as a source.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::child::{Bytes, Child};
use super::pipeline::{Layout, arguments, has_nvvidconv, is_live};
use crate::clock::monotonic_ns;
use crate::error::{CaptureError, CaptureErrorKind as Kind};
use crate::format::{FrameFormat, FrameMeta, Read};
use crate::{Source, SourceConfig};

/// What to let GStreamer read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// The CSI sensor of this number.
    Csi(u32),
    /// A whole `rtsp://` URI.
    Rtsp(String),
    /// A file.
    Clip(PathBuf),
    /// The user's own pipeline, up to raw video.
    Pipeline(String),
}

/// Frames from a GStreamer child.
pub(crate) struct Gst {
    /// The URI without a password in it.
    name: String,
    what: What,
    cfg: SourceConfig,
    child: Child,
    format: FrameFormat,
    layout: Layout,
    rate: Option<f64>,
    sequence: u64,
    /// The frames of this run of the child.
    fruitful: bool,
    ended: bool,
    /// The bytes in `part` of a frame that a timeout or the stop flag cut.
    partial: usize,
    part: Vec<u8>,
}

impl Gst {
    /// Starts the child and waits until it has told what its frames look like.
    pub(crate) fn open(uri: &str, what: What, cfg: &SourceConfig) -> Result<Self, CaptureError> {
        let name = redact(uri);
        let what = match what {
            What::Clip(path) => What::Clip(
                path.canonicalize().map_err(|error| CaptureError::io(&name, "open", error))?,
            ),
            other => other,
        };
        let (child, format, rate) = launch(&name, &what, cfg)?;
        if format.frame_bytes().is_none() {
            let reason = format!("GStreamer gives frames of {format}, which cannot be taken");
            return Err(CaptureError::new(Kind::Unsupported, name, reason));
        }
        let layout = Layout::new(format);
        Ok(Self {
            name,
            what,
            cfg: cfg.clone(),
            child,
            format,
            layout,
            rate,
            sequence: 0,
            fruitful: false,
            ended: false,
            partial: 0,
            part: vec![0; layout.bytes],
        })
    }

    /// Reads one frame as it comes into `slot`.
    fn receive(&mut self, slot: &mut [u8], stop: &AtomicBool) -> Result<bool, CaptureError> {
        let bytes = self.layout.bytes;
        let done = std::mem::take(&mut self.partial);
        slot[..done].copy_from_slice(&self.part[..done]);
        let deadline = Instant::now() + self.cfg.timeout;
        let read = self.child.read(&mut slot[..bytes], done, deadline, stop);
        match read.map_err(|error| CaptureError::io(&self.name, "read the pipe", error))? {
            Bytes::Full => Ok(true),
            Bytes::Ended(done) => self.end(done).map(|()| false),
            Bytes::Stopped(done) => {
                self.keep(&slot[..done]);
                Err(CaptureError::stopped(&self.name))
            }
            Bytes::TimedOut(done) => {
                self.keep(&slot[..done]);
                let reason = format!("GStreamer gave no frame for {:?}", self.cfg.timeout);
                Err(CaptureError::new(Kind::Timeout, &self.name, reason)
                    .at(format!("frame {}", self.sequence)))
            }
        }
    }

    /// Keeps the start of a frame whose rest has not come yet.
    fn keep(&mut self, part: &[u8]) {
        self.part[..part.len()].copy_from_slice(part);
        self.partial = part.len();
    }

    /// The child's output has ended, `partial` bytes into a frame: in order, or why not?
    fn end(&mut self, partial: usize) -> Result<(), CaptureError> {
        self.ended = true;
        let (status, line) = self.child.end();
        let well = status.is_some_and(|status| status.success());
        self.same_format()?;
        if well && partial == 0 && !matches!(self.what, What::Csi(_) | What::Rtsp(_)) {
            return match self.fruitful {
                true => Ok(()),
                false => {
                    let reason = "there is no frame in it";
                    Err(CaptureError::new(Kind::Damaged, &self.name, reason))
                }
            };
        }
        Err(failure(&self.name, &self.what, status, &line, true)
            .at(format!("frame {}", self.sequence)))
    }

    /// Fails when the child has told another format: what comes then is not what it seems.
    fn same_format(&self) -> Result<(), CaptureError> {
        match self.child.caps() {
            Some((format, _)) if format != self.format => {
                let reason = format!("the video changed from {} to {format}", self.format);
                Err(CaptureError::new(Kind::Lost, &self.name, reason)
                    .at(format!("frame {}", self.sequence))
                    .remedy("ask for one size with --input-width and --input-height"))
            }
            _ => Ok(()),
        }
    }

    /// Starts the child again, for a file that is to be looped.
    fn restart(&mut self) -> Result<(), CaptureError> {
        let (child, format, _) = launch(&self.name, &self.what, &self.cfg)?;
        if format != self.format {
            let reason = format!("frames were {}, and are {format} the next time", self.format);
            return Err(CaptureError::new(Kind::Damaged, &self.name, reason));
        }
        self.child = child;
        (self.ended, self.fruitful) = (false, false);
        Ok(())
    }
}

/// Starts a child; gives what its frames look like.
fn launch(
    name: &str,
    what: &What,
    cfg: &SourceConfig,
) -> Result<(Child, FrameFormat, Option<f64>), CaptureError> {
    let words = arguments(what, cfg, has_nvvidconv());
    log::debug!("{name}: {} {}", cfg.gst_launch.display(), redact(&words.join(" ")));
    let mut child = Child::start(&cfg.gst_launch, &words)
        .map_err(|error| CaptureError::io(name, "start /bin/sh for gst-launch-1.0", error))?;
    // Cameras and network streams take their time to start.
    let patience = cfg.timeout.max(Duration::from_millis(100));
    let started = Instant::now();
    match child.wait_caps(patience) {
        Some((format, rate)) => Ok((child, format, rate)),
        None => {
            let late = started.elapsed() >= patience;
            let (status, line) = child.end();
            if late {
                let reason = format!("GStreamer told no video format within {patience:?}");
                let error = CaptureError::new(Kind::Timeout, name, reason);
                return Err(match line.as_str() {
                    "" => error,
                    line => error.at(format!("gst-launch-1.0 said `{}`", redact(line))),
                });
            }
            Err(failure(name, what, status, &line, false))
        }
    }
}

/// Why a child ended that should not have.
fn failure(
    name: &str,
    what: &What,
    status: Option<ExitStatus>,
    line: &str,
    was_running: bool,
) -> CaptureError {
    const PACKAGES: &str = "try: sudo apt install gstreamer1.0-tools gstreamer1.0-plugins-base \
                            gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav";
    let code = status.and_then(|status| status.code());
    let has = |texts: &[&str]| texts.iter().any(|text| line.contains(text));
    if code == Some(127) || code == Some(126) {
        return CaptureError::new(
            Kind::Unsupported,
            name,
            "this input is read through gst-launch-1.0, which is not installed",
        )
        .remedy(PACKAGES);
    }
    let said = match (line, status) {
        ("", Some(status)) => format!("GStreamer ended ({status})"),
        ("", None) => "GStreamer ended".to_owned(),
        (line, _) => format!("GStreamer: {}", redact(line)),
    };
    if has(&["no element \"nvarguscamerasrc\"", "no element \"nvvidconv\""]) {
        return CaptureError::new(Kind::Unsupported, name, said).remedy(
            "CSI cameras need a Jetson with NVIDIA's GStreamer plugins: \
             sudo apt install nvidia-l4t-gstreamer nvidia-l4t-camera",
        );
    }
    if has(&["no element", "plug-in is missing", "missing plugin", "No decoder"]) {
        return CaptureError::new(Kind::Unsupported, name, said).remedy(PACKAGES);
    }
    if has(&["syntax error", "erroneous pipeline", "no property"]) {
        return CaptureError::new(Kind::Usage, name, said)
            .remedy("try the pipeline by itself with gst-launch-1.0");
    }
    if has(&["Permission denied", "Unauthorized", "401"]) {
        return CaptureError::new(Kind::PermissionDenied, name, said);
    }
    match what {
        What::Clip(_) => CaptureError::new(Kind::Damaged, name, said),
        What::Csi(_) if !was_running => CaptureError::new(Kind::Lost, name, said)
            .remedy("if the sensor is there, try: sudo systemctl restart nvargus-daemon"),
        _ => CaptureError::new(Kind::Lost, name, said),
    }
}

/// Takes the password out of every URI in a text.
fn redact(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        out.push_str(before);
        let end = after.find(['/', ' ', '"', '!']).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) if after[..at].contains(':') => {
                out.push_str(after[..at].split(':').next().unwrap_or(""));
                out.push_str(":***");
                &after[at..]
            }
            _ => after,
        };
    }
    out + rest
}

impl Source for Gst {
    fn describe(&self) -> String {
        let rate = self.rate.map_or(String::new(), |rate| format!(", {rate:.3} frames/s"));
        format!("{}: GStreamer, {}{rate}", self.name, self.format)
    }

    fn max_frame_bytes(&self) -> usize {
        self.layout.bytes.max(self.format.frame_bytes().unwrap_or(0))
    }

    fn frame_rate(&self) -> Option<f64> {
        self.rate
    }

    fn is_live(&self) -> bool {
        is_live(&self.what)
    }

    fn read(&mut self, slot: &mut [u8], stop: &AtomicBool) -> Result<Read, CaptureError> {
        let need = self.max_frame_bytes();
        if slot.len() < need {
            return Err(CaptureError::small_slot(&self.name, slot.len(), need));
        }
        let mut dropped_before = 0;
        loop {
            if self.ended {
                return Ok(Read::End);
            }
            if !self.receive(slot, stop)? {
                let again = self.cfg.loop_ && self.fruitful && matches!(self.what, What::Clip(_));
                if !again {
                    return Ok(Read::End);
                }
                self.restart()?;
                continue;
            }
            self.same_format()?;
            self.fruitful = true;
            if !(self.is_live() && self.child.waiting() >= self.layout.bytes) {
                break;
            }
            self.sequence += 1;
            dropped_before += 1;
        }
        let timestamp_ns = monotonic_ns();
        self.layout.pack(slot);
        let (format, sequence) = (self.format, self.sequence);
        self.sequence += 1;
        Ok(Read::Frame(FrameMeta { format, sequence, timestamp_ns, dropped_before }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_told() {
        assert_eq!(redact("rtsp://me:se:cret@host:1/x@y"), "rtsp://me:***@host:1/x@y");
        assert_eq!(redact("rtsp://host:554/a:b@c"), "rtsp://host:554/a:b@c");
        assert_eq!(redact("a rtsp://u:p@h b http://v:q@i/"), "a rtsp://u:***@h b http://v:***@i/");
        assert_eq!(redact("x"), "x");
    }
}
