//! The words of the pipelines, and the layout of GStreamer's raw frames.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::source::What;
use crate::SourceConfig;
use crate::format::{FrameFormat, PixelFormat};

/// The name of our sink, by which its caps are found in the child's output.
const SINK: &str = "tobiuo_sink";

/// Where Jetson Linux has the element that takes frames out of NVIDIA's memory.
const NVVIDCONV: [&str; 2] = [
    "/usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvvidconv.so",
    "/usr/lib/aarch64-linux-gnu/nvidia/gstreamer-1.0/libgstnvvidconv.so",
];

/// Whether this is a machine whose decoders put frames in NVIDIA's memory.
pub(super) fn has_nvvidconv() -> bool {
    NVVIDCONV.iter().any(|path| Path::new(path).exists())
}

/// Whether the pipeline of `what` takes its frames from something that does not wait.
pub(super) fn is_live(what: &What) -> bool {
    const LIVE: [&str; 10] = [
        "v4l2src",
        "nvv4l2camerasrc",
        "nvarguscamerasrc",
        "libcamerasrc",
        "rtspsrc",
        "udpsrc",
        "ximagesrc",
        "is-live=true",
        "is-live=1",
        "do-timestamp=true",
    ];
    match what {
        What::Csi(_) | What::Rtsp(_) => true,
        What::Clip(_) => false,
        What::Pipeline(text) => split(text).iter().any(|word| LIVE.contains(&word.as_str())),
    }
}

/// The arguments of `gst-launch-1.0` that write frames of `what` to file descriptor 3.
pub(super) fn arguments(what: &What, cfg: &SourceConfig, nvvidconv: bool) -> Vec<String> {
    let mut words = vec!["-v".to_owned()];
    match what {
        What::Csi(sensor) => {
            // The sensor's own scaler and clock, and no copy by the CPU.
            let (width, height) = (cfg.width.unwrap_or(1280), cfg.height.unwrap_or(720));
            let rate = fraction(cfg.rate.unwrap_or(30.0));
            words.extend(split(&format!(
                "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),format=NV12,\
                 width={width},height={height},framerate={rate} ! nvvidconv ! \
                 video/x-raw,format=NV12"
            )));
        }
        What::Rtsp(uri) => {
            words.push("rtspsrc".into());
            words.push(format!("location={uri}"));
            // 10 ms as in jetson-utils: fresh frames go before smooth ones.
            words.extend(split(
                "latency=10 drop-on-latency=true ! application/x-rtp,media=video ! decodebin",
            ));
            words.extend(convert(cfg, nvvidconv));
        }
        What::Clip(path) => {
            words.push("uridecodebin".into());
            words.push(format!("uri={}", file_uri(path)));
            words.extend(convert(cfg, nvvidconv));
        }
        What::Pipeline(text) => {
            words.extend(split(text));
            words.extend(convert(cfg, nvvidconv));
        }
    }
    if is_live(what) {
        // The newest frame waits, the older ones leak.
        words.extend(split("! queue leaky=downstream max-size-buffers=1"));
    }
    let sync = cfg.realtime && !is_live(what);
    words.extend(split(&format!("! fdsink name={SINK} fd=3 sync={sync}")));
    words
}

/// What brings any raw video to NV12 in BT.601 and in the asked size and rate.
fn convert(cfg: &SourceConfig, nvvidconv: bool) -> Vec<String> {
    let mut text = String::new();
    if nvvidconv {
        text.push_str("! nvvidconv ! video/x-raw ");
    }
    text.push_str("! videoconvert ");
    if cfg.width.is_some() || cfg.height.is_some() {
        text.push_str("! videoscale ");
    }
    if cfg.rate.is_some() {
        text.push_str("! videorate ");
    }
    text.push_str("! video/x-raw,format=NV12,colorimetry=bt601");
    for (name, side) in [("width", cfg.width), ("height", cfg.height)] {
        if let Some(side) = side {
            text.push_str(&format!(",{name}={side}"));
        }
    }
    if cfg.width.is_some() && cfg.height.is_some() {
        // With square pixels asked for, what is left over becomes a border.
        text.push_str(",pixel-aspect-ratio=1/1");
    }
    if let Some(rate) = cfg.rate {
        text.push_str(&format!(",framerate={}", fraction(rate)));
    }
    split(&text)
}

/// `rate` as GStreamer writes it: whole, or in 1001sts as film and television have it.
fn fraction(rate: f64) -> String {
    let rate = if rate.is_finite() { rate.clamp(0.01, 1000.0) } else { 30.0 };
    match rate.fract() == 0.0 {
        true => format!("{rate}/1"),
        false => format!("{}/1001", (rate * 1001.0).round()),
    }
}

/// A `file:` URI of an absolute path, with everything but the plainest bytes escaped.
fn file_uri(path: &Path) -> String {
    let mut uri = "file://".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

/// Splits a pipeline into words as a shell does: at blanks outside of quotes, quotes taken off.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The format of the frames on our sink, and their rate, when `line` tells them.
pub(super) fn caps(line: &str) -> Option<(FrameFormat, Option<f64>)> {
    let (object, caps) = line.split_once("caps = ")?;
    if !object.contains(SINK) || !caps.starts_with("video/x-raw") {
        return None;
    }
    let field = |name: &str| {
        caps.split(", ").find_map(|field| {
            let value = field.strip_prefix(name)?.strip_prefix("=(")?;
            Some(value.split_once(')')?.1.trim_matches(['"', ' ', ';']))
        })
    };
    let pixel = match field("format")? {
        "NV12" => PixelFormat::Nv12,
        "I420" => PixelFormat::I420,
        "YUY2" => PixelFormat::Yuyv,
        "UYVY" => PixelFormat::Uyvy,
        "RGB" => PixelFormat::Rgb8,
        "BGR" => PixelFormat::Bgr8,
        "GRAY8" => PixelFormat::Gray8,
        _ => return None,
    };
    let format =
        FrameFormat::new(pixel, field("width")?.parse().ok()?, field("height")?.parse().ok()?);
    let rate = field("framerate").and_then(|rate| {
        let (count, time) = rate.split_once('/')?;
        let rate = count.parse::<f64>().ok()? / time.parse::<f64>().ok()?;
        (rate.is_finite() && rate > 0.0).then_some(rate)
    });
    Some((format, rate))
}

/// How GStreamer lays out a frame: its planes' rows are padded to 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    planes: [Plane; 3],
    /// The bytes of a frame in the pipe.
    pub(super) bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Plane {
    start: usize,
    stride: usize,
    row: usize,
    rows: usize,
}

impl Layout {
    /// The default layout (`GstVideoInfo`) of a format.
    pub(super) fn new(format: FrameFormat) -> Self {
        let (w, h) = (format.width as usize, format.height as usize);
        let (half_w, half_h) = (w.div_ceil(2), h.div_ceil(2));
        let plane = |start: usize, row: usize, stride: usize, rows: usize| Plane {
            start,
            row,
            stride: stride.next_multiple_of(4),
            rows,
        };
        let mut planes = [Plane::default(); 3];
        let bytes = match format.pixel {
            PixelFormat::Rgb8 | PixelFormat::Bgr8 => {
                planes[0] = plane(0, w * 3, w * 3, h);
                planes[0].stride * h
            }
            PixelFormat::Gray8 => {
                planes[0] = plane(0, w, w, h);
                planes[0].stride * h
            }
            PixelFormat::Yuyv | PixelFormat::Uyvy => {
                planes[0] = plane(0, w * 2, w * 2, h);
                planes[0].stride * h
            }
            PixelFormat::Nv12 => {
                planes[0] = plane(0, w, w, h);
                let luma = planes[0].stride * half_h * 2;
                planes[1] = plane(luma, half_w * 2, w, half_h);
                luma + planes[1].stride * half_h
            }
            PixelFormat::I420 => {
                planes[0] = plane(0, w, w, h);
                let luma = planes[0].stride * half_h * 2;
                planes[1] = plane(luma, half_w, half_w, half_h);
                let chroma = planes[1].stride * half_h;
                planes[2] = plane(luma + chroma, half_w, half_w, half_h);
                luma + 2 * chroma
            }
        };
        Self { planes, bytes }
    }

    /// Takes the padding out of a frame, in place.
    pub(super) fn pack(&self, frame: &mut [u8]) {
        let mut to = 0;
        for plane in &self.planes {
            for row in 0..plane.rows {
                let from = plane.start + row * plane.stride;
                if from != to {
                    frame.copy_within(from..from + plane.row, to);
                }
                to += plane.row;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_a_shell_splits_them() {
        assert_eq!(split("a  b='c d' \"e\"f ''"), ["a", "b=c d", "ef", ""]);
        assert_eq!(split("  "), Vec::<String>::new());
    }

    #[test]
    fn pipelines() {
        let cfg = SourceConfig { width: Some(640), height: Some(480), ..Default::default() };
        let text = |what| arguments(&what, &cfg, false).join(" ");
        assert_eq!(
            text(What::Csi(1)),
            "-v nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),format=NV12,width=640,\
             height=480,framerate=30/1 ! nvvidconv ! video/x-raw,format=NV12 ! queue \
             leaky=downstream max-size-buffers=1 ! fdsink name=tobiuo_sink fd=3 sync=false"
        );
        assert_eq!(
            text(What::Clip("/a b%.mp4".into())),
            "-v uridecodebin uri=file:///a%20b%25.mp4 ! videoconvert ! videoscale ! \
             video/x-raw,format=NV12,colorimetry=bt601,width=640,height=480,pixel-aspect-ratio=1/1 \
             ! fdsink name=tobiuo_sink fd=3 sync=false"
        );
        let rtsp = text(What::Rtsp("rtsp://u:p@h/x y".into()));
        assert!(rtsp.contains("rtspsrc location=rtsp://u:p@h/x y latency=10"), "{rtsp}");
        let cfg = SourceConfig { rate: Some(29.97), realtime: true, ..Default::default() };
        let words = arguments(&What::Pipeline("videotestsrc".into()), &cfg, true).join(" ");
        assert_eq!(
            words,
            "-v videotestsrc ! nvvidconv ! video/x-raw ! videoconvert ! videorate ! \
             video/x-raw,format=NV12,colorimetry=bt601,framerate=30000/1001 ! fdsink \
             name=tobiuo_sink fd=3 sync=true"
        );
    }

    #[test]
    fn caps_of_our_sink_only() {
        let line = "/GstPipeline:pipeline0/GstFdSink:tobiuo_sink.GstPad:sink: caps = video/x-raw, \
                    format=(string)NV12, width=(int)322, height=(int)240, \
                    framerate=(fraction)30000/1001, multiview-mode=(string)mono";
        let (format, rate) = caps(line).unwrap();
        assert_eq!(format, FrameFormat::new(PixelFormat::Nv12, 322, 240));
        assert!((rate.unwrap() - 29.97).abs() < 0.001);
        assert_eq!(caps(&line.replace(SINK, "other")), None);
        assert_eq!(caps(&line.replace("NV12", "P010_10LE")), None);
        assert_eq!(caps("caps = "), None);
    }

    #[test]
    fn padding_is_taken_out() {
        for pixel in PixelFormat::ALL {
            for (width, height) in [(6, 3), (5, 5), (8, 4), (2, 1)] {
                let format = FrameFormat::new(pixel, width, height);
                let Some(tight) = format.frame_bytes() else { continue };
                let layout = Layout::new(format);
                assert!(layout.bytes >= tight, "{format}");
                // Mark what counts with numbers, the padding with 0.
                let (mut frame, mut number) = (vec![0; layout.bytes], 0u8);
                for plane in &layout.planes {
                    for row in 0..plane.rows {
                        for at in 0..plane.row {
                            number += 1;
                            frame[plane.start + row * plane.stride + at] = number;
                        }
                    }
                }
                assert_eq!(usize::from(number), tight, "{format}");
                layout.pack(&mut frame);
                assert!(frame.iter().zip(1..=number).all(|(have, want)| *have == want), "{format}");
            }
        }
        // By hand: gst-video-info of NV12 5x5 is stride 8, luma 8 x 6, chroma 8 x 3.
        assert_eq!(Layout::new(FrameFormat::new(PixelFormat::Nv12, 5, 5)).bytes, 8 * 6 + 8 * 3);
    }
}
