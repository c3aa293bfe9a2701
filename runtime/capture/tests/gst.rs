//! Sources through `gst-launch-1.0`: with a stand-in, and with the real one where it is installed.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::read_all;
use tempfile::TempDir;
use tobiuo_capture::{CaptureErrorKind as Kind, Read, SourceConfig, open};

/// What the real one prints of its sink's caps, for NV12 of 6x2 pixels: 8 bytes a row.
const CAPS: &str = "echo '/GstPipeline:pipeline0/GstFdSink:tobiuo_sink.GstPad:sink: caps = \
                    video/x-raw, format=(string)NV12, width=(int)6, height=(int)2, \
                    framerate=(fraction)30/1'\n";

/// A frame of one character, with dots for padding.
fn frame(letter: char) -> String {
    let row = format!("{}..", letter.to_string().repeat(6));
    format!("printf '{row}{row}{row}' >&3\n")
}

/// A shell script that stands in for `gst-launch-1.0`.
struct StandIn {
    folder: TempDir,
    cfg: SourceConfig,
}

impl StandIn {
    fn new(script: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("gst-launch-1.0");
        fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let timeout = Duration::from_secs(20);
        let cfg = SourceConfig { gst_launch: path, timeout, ..Default::default() };
        Self { folder, cfg }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, uri: &str) -> (Vec<u8>, Option<(Kind, String)>) {
        let (frames, error) = read_all(uri, &self.cfg);
        let letters = frames.iter().map(|(_, pixels)| {
            assert_eq!(pixels.len(), 18, "the padding is taken out");
            assert!(pixels.iter().all(|&byte| byte == pixels[0]));
            pixels[0]
        });
        (letters.collect(), error.map(|error| (error.kind(), error.to_string())))
    }
}

#[test]
fn frames_of_a_pipeline_to_its_end() {
    let stand_in = StandIn::new(&[CAPS, &frame('a'), &frame('b'), &frame('c')].concat());
    let (letters, error) = stand_in.read("gst://anything");
    assert_eq!((letters, error), (b"abc".to_vec(), None));
    let source = open("gst://anything", &stand_in.cfg).unwrap();
    assert_eq!(source.describe(), "gst://anything: GStreamer, 6x2 nv12, 30.000 frames/s");
    assert_eq!(source.frame_rate(), Some(30.0));
    assert!(!source.is_live());
}

#[test]
fn arguments_arrive_as_they_are() {
    let stand_in =
        StandIn::new(&format!("printf '%s|' \"$@\" > \"$0.args\"\n{CAPS}{}", frame('a')));
    stand_in.read("gst://filesrc location=\"a $(b) 'c\" ! x");
    let arguments = fs::read_to_string(stand_in.path("gst-launch-1.0.args")).unwrap();
    assert!(
        arguments.starts_with("-v|filesrc|location=a $(b) 'c|!|x|!|videoconvert|"),
        "{arguments}"
    );
    assert!(arguments.ends_with("|fdsink|name=tobiuo_sink|fd=3|sync=false|"), "{arguments}");
}

#[test]
fn a_live_stream_that_ends_is_lost_and_says_why() {
    let script = [CAPS, &frame('a'), "echo 'ERROR: from element x: gone' >&2\nexit 1\n"].concat();
    let stand_in = StandIn::new(&script);
    for uri in ["csi://0", "rtsp://me:secret@host/x"] {
        let (letters, error) = stand_in.read(uri);
        let (kind, text) = error.unwrap();
        assert_eq!((letters, kind), (b"a".to_vec(), Kind::Lost));
        assert!(text.contains("frame 1: GStreamer: ERROR: from element x: gone"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
    // Even when it ends in order.
    let stand_in = StandIn::new(&[CAPS, &frame('a')].concat());
    assert_eq!(stand_in.read("csi://0").1.unwrap().0, Kind::Lost);
}

#[test]
fn a_clip_that_fails_is_damaged_and_one_that_ends_is_not() {
    let stand_in = StandIn::new(&[CAPS, &frame('a'), "printf half >&3\n"].concat());
    let clip = stand_in.path("x.mp4");
    fs::write(&clip, "").unwrap();
    let uri = clip.to_str().unwrap();
    let (letters, error) = stand_in.read(uri);
    assert_eq!((letters, error.unwrap().0), (b"a".to_vec(), Kind::Damaged));
    let stand_in = StandIn::new(&[CAPS, &frame('a'), &frame('b')].concat());
    assert_eq!(stand_in.read(uri), (b"ab".to_vec(), None));
    let again = SourceConfig { loop_: true, frames: Some(5), ..stand_in.cfg.clone() };
    assert_eq!(read_all(uri, &again).0.len(), 5);
    let (letters, error) = StandIn::new(CAPS).read(uri);
    assert_eq!((letters, error.unwrap().0), (vec![], Kind::Damaged));
    assert_eq!(stand_in.read("no_such.mp4").1.unwrap().0, Kind::NotFound);
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let cfg = SourceConfig { gst_launch: "/no/such/gst-launch-1.0".into(), ..Default::default() };
    let error = open("csi://0", &cfg).err().unwrap();
    assert_eq!(error.kind(), Kind::Unsupported);
    let text = error.to_string();
    assert!(
        text.contains("not installed") && text.contains("apt install gstreamer1.0-tools"),
        "{text}"
    );
    for (said, kind, remedy) in [
        (
            "WARNING: erroneous pipeline: no element \"nvarguscamerasrc\"",
            Kind::Unsupported,
            "nvidia-l4t",
        ),
        ("WARNING: erroneous pipeline: no element \"foo\"", Kind::Unsupported, "apt install"),
        ("WARNING: erroneous pipeline: syntax error", Kind::Usage, "by itself"),
        ("ERROR: from element x: Unauthorized", Kind::PermissionDenied, "Unauthorized"),
        ("ERROR: from element x: no camera", Kind::Lost, "no camera"),
    ] {
        let (_, error) = StandIn::new(&format!("echo '{said}' >&2\nexit 1\n")).read("csi://0");
        let (found, text) = error.unwrap();
        assert_eq!(found, kind, "{text}");
        assert!(text.contains(remedy), "{text}");
    }
}

#[test]
fn silence_is_a_timeout_and_the_child_is_ended() {
    let mut stand_in = StandIn::new("echo $$ > \"$0.pid\"\nexec sleep 60\n");
    stand_in.cfg.timeout = Duration::from_millis(300);
    let start = Instant::now();
    let (_, error) = stand_in.read("gst://x");
    assert_eq!(error.unwrap().0, Kind::Timeout);
    assert!(start.elapsed() < Duration::from_secs(10));
    let pid = fs::read_to_string(stand_in.path("gst-launch-1.0.pid")).unwrap();
    assert!(!PathBuf::from(format!("/proc/{}", pid.trim())).exists(), "the child is gone");
}

#[test]
fn a_frame_that_comes_in_two_halves_survives_a_timeout() {
    let script = format!(
        "{CAPS}printf 'aaaaaa..aaaa' >&3\nwhile [ ! -e \"$0.go\" ]; do sleep 0.02; done\n\
         printf 'aa..aaaaaa..' >&3\n"
    );
    let mut stand_in = StandIn::new(&script);
    stand_in.cfg.timeout = Duration::from_millis(1500);
    let mut source = open("gst://x", &stand_in.cfg).unwrap();
    let mut slot = vec![0; source.max_frame_bytes()];
    let error = source.read(&mut slot, &false.into()).unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout);
    assert_eq!(source.read(&mut slot, &true.into()).unwrap_err().kind(), Kind::Stopped);
    fs::write(stand_in.path("gst-launch-1.0.go"), "").unwrap();
    slot.fill(0);
    assert!(matches!(source.read(&mut slot, &false.into()), Ok(Read::Frame(_))));
    assert_eq!(slot[..18], [b'a'; 18]);
}

#[test]
fn a_live_stream_gives_its_newest_frame() {
    let script =
        [CAPS, &frame('a'), &frame('b'), &frame('c'), "touch \"$0.done\"\nexec sleep 60\n"]
            .concat();
    let stand_in = StandIn::new(&script);
    let mut source = open("rtsp://host/x", &stand_in.cfg).unwrap();
    assert!(source.is_live());
    while !stand_in.path("gst-launch-1.0.done").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut slot = vec![0; source.max_frame_bytes()];
    let Read::Frame(meta) = source.read(&mut slot, &false.into()).unwrap() else { panic!("ended") };
    assert_eq!((slot[0], meta.sequence, meta.dropped_before), (b'c', 2, 2));
}

#[test]
fn a_size_that_changes_is_told() {
    let other = CAPS.replace("width=(int)6", "width=(int)10");
    let wait = "while [ ! -e \"$0.go\" ]; do sleep 0.02; done\n";
    for more in ["printf xxxx >&3\n".to_owned(), frame('x').repeat(3) + "sleep 60\n"] {
        // Words and frames come by two pipes: the words are given a head start.
        let script = [CAPS, &frame('a'), wait, &other, "sleep 0.3\n", &more].concat();
        let stand_in = StandIn::new(&script);
        let mut source = open("gst://x", &stand_in.cfg).unwrap();
        let mut slot = vec![0; source.max_frame_bytes()];
        source.read(&mut slot, &false.into()).unwrap();
        fs::write(stand_in.path("gst-launch-1.0.go"), "").unwrap();
        let error = source.read(&mut slot, &false.into()).unwrap_err();
        assert_eq!(error.kind(), Kind::Lost);
        assert!(error.to_string().contains("changed from 6x2 nv12 to 10x2 nv12"), "{error}");
    }
}

#[test]
fn the_real_one() {
    let real = Command::new("gst-launch-1.0").arg("--version").output();
    if !real.is_ok_and(|output| output.status.success()) {
        eprintln!("gst-launch-1.0 is not installed: not tried");
        return;
    }
    let cfg = SourceConfig { timeout: Duration::from_secs(30), ..Default::default() };
    let (frames, error) = read_all("gst://videotestsrc num-buffers=4 pattern=white", &cfg);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(frames.len(), 4);
    assert_eq!(frames[0].0.format.to_string(), "320x240 nv12");
    assert!(frames[3].1[..320 * 240].iter().all(|luma| luma.abs_diff(235) <= 1));
    assert!(frames[3].1[320 * 240..].iter().all(|chroma| chroma.abs_diff(128) <= 1));

    let sized = SourceConfig { width: Some(202), height: Some(101), ..cfg.clone() };
    let (frames, error) = read_all("gst://videotestsrc num-buffers=2", &sized);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(frames[1].0.format.to_string(), "202x101 nv12");

    let error = open("gst://no_such_element", &cfg).err().unwrap();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
}
