//! The streaming logic on a camera that follows a script.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::device::{Agreed, Camera, Filled};
use super::mode::{Coding, FourCc, Mode};
use super::stream::Stream;
use crate::CaptureErrorKind as Kind;
use crate::format::PixelFormat;
use crate::jpeg::Encoder;

const ENODEV: i32 = 19;
const EIO: i32 = 5;
const EINVAL: i32 = 22;

/// One thing that happens.
enum Event {
    /// A frame of this number is ready; all its bytes are the low byte of the number.
    Frame(u32),
    /// The same, of these bytes.
    Bytes(u32, Vec<u8>),
    /// The same, taken at a time by the monotonic clock.
    Stamped(u32, u64),
    /// The same, marked as damaged.
    Flawed(u32),
    /// Nothing more is ready now.
    Pause,
    /// The next dequeue fails.
    Fails(i32),
    /// The next wait fails.
    WaitFails(i32),
}

struct Script {
    events: VecDeque<Event>,
    buffers: Vec<Vec<u8>>,
    /// Which buffers the driver has.
    queued: VecDeque<usize>,
    frame_bytes: usize,
    queue_fails: Option<i32>,
}

impl Camera for Script {
    fn set_format(&mut self, _: &Mode) -> io::Result<Agreed> {
        unreachable!("set before streaming")
    }

    fn set_rate(&mut self, _: f64) -> io::Result<Option<f64>> {
        unreachable!("set before streaming")
    }

    fn start(&mut self, _: u32) -> Result<usize, (&'static str, io::Error)> {
        unreachable!("started before")
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        match self.events.front() {
            Some(Event::Pause) | None => {
                self.events.pop_front();
                std::thread::sleep(timeout.min(Duration::from_millis(2)));
                Ok(false)
            }
            Some(Event::WaitFails(number)) => Err(io::Error::from_raw_os_error(*number)),
            Some(_) => Ok(true),
        }
    }

    fn dequeue(&mut self) -> io::Result<Option<Filled>> {
        let stamp = match self.events.front() {
            Some(Event::Stamped(_, time)) => Some(*time),
            _ => None,
        };
        let (sequence, bytes, flawed) = match self.events.front() {
            None | Some(Event::Pause | Event::WaitFails(_)) => return Ok(None),
            Some(Event::Fails(number)) => return Err(io::Error::from_raw_os_error(*number)),
            Some(Event::Frame(number) | Event::Stamped(number, _)) => {
                (*number, vec![*number as u8; self.frame_bytes], false)
            }
            Some(Event::Flawed(number)) => (*number, vec![0xee; self.frame_bytes], true),
            Some(Event::Bytes(number, bytes)) => (*number, bytes.clone(), false),
        };
        let index = self.queued.pop_front().expect("the stream gave its buffers back");
        self.events.pop_front();
        let count = bytes.len();
        self.buffers[index] = bytes;
        Ok(Some(Filled { index, bytes: count, flawed, sequence, timestamp_ns: stamp }))
    }

    fn bytes(&self, index: usize) -> &[u8] {
        assert!(!self.queued.contains(&index), "looked at a buffer that the driver has");
        &self.buffers[index]
    }

    fn queue(&mut self, index: usize) -> io::Result<()> {
        if let Some(number) = self.queue_fails {
            return Err(io::Error::from_raw_os_error(number));
        }
        assert!(!self.queued.contains(&index), "queued twice");
        self.queued.push_back(index);
        Ok(())
    }
}

fn script(events: impl IntoIterator<Item = Event>, frame_bytes: usize) -> Script {
    Script {
        events: events.into_iter().collect(),
        buffers: vec![Vec::new(); 4],
        queued: (0..4).collect(),
        frame_bytes,
        queue_fails: None,
    }
}

fn agreed(fourcc: &[u8; 4], width: u32, height: u32, stride: u32) -> Agreed {
    Agreed { fourcc: FourCc(*fourcc), width, height, stride, interlaced: false }
}

/// Long enough on any machine, however busy.
const PATIENT: Duration = Duration::from_secs(30);
const HASTY: Duration = Duration::from_millis(60);

/// A grey camera of 4x2 pixels.
fn grey(events: impl IntoIterator<Item = Event>) -> Stream<Script> {
    grey_within(events, PATIENT)
}

fn grey_within(events: impl IntoIterator<Item = Event>, timeout: Duration) -> Stream<Script> {
    let agreed = agreed(b"GREY", 4, 2, 4);
    let coding = Coding::Raw(PixelFormat::Gray8);
    Stream::new("cam", script(events, 8), &agreed, coding, timeout).unwrap()
}

/// Reads a frame: its number, its first byte, and what was dropped before.
fn read(stream: &mut Stream<Script>) -> Result<(u64, u8, u32), Kind> {
    let mut slot = [0; 64];
    let frame = stream.read(&mut slot, &AtomicBool::new(false));
    frame.map(|meta| (meta.sequence, slot[0], meta.dropped_before)).map_err(|error| error.kind())
}

use Event::*;

#[test]
fn frames_in_turn() {
    let mut stream = grey([Frame(7), Pause, Frame(8), Pause, Frame(9)]);
    assert_eq!(read(&mut stream), Ok((0, 7, 0)));
    assert_eq!(read(&mut stream), Ok((1, 8, 0)));
    assert_eq!(read(&mut stream), Ok((2, 9, 0)));
}

#[test]
fn the_newest_frame_wins_and_the_rest_is_counted() {
    let mut stream = grey([Frame(0), Frame(1), Frame(2), Pause, Frame(3)]);
    assert_eq!(read(&mut stream), Ok((2, 2, 2)));
    assert_eq!(read(&mut stream), Ok((3, 3, 0)));
}

#[test]
fn gaps_in_the_numbers_are_dropped_frames() {
    let mut stream = grey([Frame(0), Pause, Frame(5), Pause, Frame(6)]);
    assert_eq!(read(&mut stream), Ok((0, 0, 0)));
    assert_eq!(read(&mut stream), Ok((5, 5, 4)));
    assert_eq!(read(&mut stream), Ok((6, 6, 0)));
}

#[test]
fn numbers_may_wrap_or_start_anew() {
    let mut stream = grey([Frame(u32::MAX), Pause, Frame(1), Pause, Frame(0), Pause, Frame(1)]);
    assert_eq!(read(&mut stream), Ok((0, 255, 0)));
    assert_eq!(read(&mut stream), Ok((2, 1, 1)));
    assert_eq!(read(&mut stream), Ok((3, 0, 0)));
    assert_eq!(read(&mut stream), Ok((4, 1, 0)));
}

#[test]
fn flawed_and_short_frames_are_passed_over() {
    let mut stream =
        grey([Flawed(0), Pause, Bytes(1, vec![9; 5]), Pause, Frame(2), Flawed(3), Pause, Frame(4)]);
    // The good frame 2 is taken although a flawed one is newer.
    assert_eq!(read(&mut stream), Ok((2, 2, 2)));
    assert_eq!(read(&mut stream), Ok((4, 4, 1)));
}

#[test]
fn an_unplugged_camera_is_lost() {
    for event in [Fails(ENODEV), Fails(EIO), WaitFails(ENODEV)] {
        let mut stream = grey([Frame(0), Pause, event]);
        assert_eq!(read(&mut stream), Ok((0, 0, 0)));
        assert_eq!(read(&mut stream), Err(Kind::Lost));
        assert_eq!(read(&mut stream), Err(Kind::Lost));
    }
    let mut stream = grey([Fails(EINVAL)]);
    assert_eq!(read(&mut stream), Err(Kind::Io));
}

#[test]
fn a_failed_requeue_is_told() {
    let mut camera = script([Frame(0)], 8);
    camera.queue_fails = Some(ENODEV);
    let coding = Coding::Raw(PixelFormat::Gray8);
    let agreed = agreed(b"GREY", 4, 2, 4);
    let mut stream = Stream::new("cam", camera, &agreed, coding, PATIENT).unwrap();
    let error = stream.read(&mut [0; 8], &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.kind(), Kind::Lost);
    assert!(error.to_string().contains("VIDIOC_QBUF"), "{error}");
}

#[test]
fn waits_end_by_time_or_by_the_stop_flag() {
    let start = Instant::now();
    let mut stream = grey_within([], HASTY);
    assert_eq!(read(&mut stream), Err(Kind::Timeout));
    assert!(start.elapsed() >= HASTY);
    let stopped = stream.read(&mut [0; 8], &AtomicBool::new(true)).unwrap_err();
    assert_eq!(stopped.kind(), Kind::Stopped);
}

#[test]
fn only_damaged_frames_end_in_a_timeout_that_says_so() {
    let events = (0..1000).flat_map(|number| [Flawed(number), Pause]);
    let mut stream = grey_within(events, HASTY);
    let error = stream.read(&mut [0; 8], &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout);
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[test]
fn timestamps_are_the_drivers_unless_they_cannot_be() {
    let taken = crate::monotonic_ns() - 2000;
    let hour = 3_600_000_000_000;
    let later = taken + hour;
    // The machine may be up for less than an hour; a clock that wrapped shows 0 in any case.
    let events = [Stamped(2, taken), Pause, Frame(3), Pause, Stamped(4, later), Pause];
    let mut stream = grey(events.into_iter().chain([Stamped(5, 0)]));
    let stop = AtomicBool::new(false);
    let mut time = || stream.read(&mut [0; 8], &stop).unwrap().timestamp_ns;
    assert_eq!(time(), taken);
    for wrong in ["none", "in the future", "wrapped"] {
        let before = crate::monotonic_ns();
        let time = time();
        assert!((before..=crate::monotonic_ns()).contains(&time), "{wrong}: {time}");
    }
}

#[test]
fn padding_of_rows_is_left_out() {
    // NV12 of 3x2 pixels with rows 5 bytes apart: the last row may lack its padding.
    let frame = vec![1, 2, 3, 0, 0, 4, 5, 6, 0, 0, 7, 8, 9, 10];
    let agreed = agreed(b"NV12", 3, 2, 5);
    let coding = Coding::Raw(PixelFormat::Nv12);
    let camera = script([Bytes(0, frame)], 0);
    let mut stream = Stream::new("cam", camera, &agreed, coding, PATIENT).unwrap();
    let mut slot = [0; 10];
    stream.read(&mut slot, &AtomicBool::new(false)).unwrap();
    assert_eq!(slot, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn jpeg_frames_are_decoded_and_damaged_ones_skipped() {
    let mut jpeg = Vec::new();
    Encoder::new(16, 8, 90).unwrap().encode(&[200; 16 * 8 * 3], &mut jpeg).unwrap();
    let mut padded = jpeg.clone();
    padded.extend([0; 100]); // Cameras pad their frames.
    let mut other = Vec::new();
    Encoder::new(8, 8, 90).unwrap().encode(&[200; 8 * 8 * 3], &mut other).unwrap();
    let cut = jpeg[..jpeg.len() / 2].to_vec();
    let events =
        [Bytes(0, cut), Pause, Bytes(1, vec![]), Pause, Bytes(2, other), Pause, Bytes(3, padded)];
    let agreed = agreed(b"MJPG", 16, 8, 0);
    let mut stream = Stream::new("cam", script(events, 0), &agreed, Coding::Jpeg, PATIENT).unwrap();
    let mut slot = [0; 16 * 8 * 3];
    let meta = stream.read(&mut slot, &AtomicBool::new(false)).unwrap();
    assert_eq!((meta.sequence, meta.dropped_before), (3, 3));
    assert!(slot.iter().all(|byte| byte.abs_diff(200) <= 1));
}

#[test]
fn frames_that_cannot_be_are_refused() {
    for (width, height) in [(0, 480), (640, 0), (40_000, 4), (641, 480)] {
        let agreed = agreed(b"YUYV", width, height, 0);
        let coding = Coding::Raw(PixelFormat::Yuyv);
        let made = Stream::new("cam", script([], 0), &agreed, coding, Duration::ZERO);
        assert_eq!(made.err().unwrap().kind(), Kind::Unsupported);
    }
}
