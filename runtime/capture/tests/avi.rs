//! AVI and raw Motion-JPEG files: what is written is read, and what recorders leave behind too.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Frames, avi, read_all};
use tempfile::TempDir;
use tobiuo_capture::jpeg::Encoder;
use tobiuo_capture::{AviWriter, CaptureErrorKind as Kind, SourceConfig, open};

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        text(&self.path(name))
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The frames' levels in tens.
fn levels(frames: &Frames) -> Vec<u8> {
    frames.iter().map(|(_, pixels)| (pixels[0] + 5) / 10).collect()
}

fn read(uri: &str) -> (Frames, Option<Kind>) {
    let (frames, error) = read_all(uri, &SourceConfig::default());
    (frames, error.map(|error| error.kind()))
}

/// A chunk.
fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut out = name.to_vec();
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    if data.len() % 2 == 1 {
        out.push(0);
    }
    out
}

fn list(name: &[u8; 4], kind: &[u8; 4], parts: &[Vec<u8>]) -> Vec<u8> {
    let mut data = kind.to_vec();
    parts.iter().for_each(|part| data.extend(part));
    chunk(name, &data)
}

/// The header list of an AVI with these streams: (type, codec).
fn headers(streams: &[(&[u8; 4], &[u8; 4])]) -> Vec<u8> {
    let mut parts = vec![chunk(b"avih", &[40_000u32.to_le_bytes().as_slice(), &[0; 52]].concat())];
    for (kind, codec) in streams {
        let mut header = [0; 56];
        header[..4].copy_from_slice(*kind);
        header[20] = 1;
        header[24] = 15;
        let mut format = [0; 40];
        format[16..20].copy_from_slice(*codec);
        parts.push(list(b"LIST", b"strl", &[chunk(b"strh", &header), chunk(b"strf", &format)]));
    }
    list(b"LIST", b"hdrl", &parts)
}

#[test]
fn what_is_written_is_read() {
    let folder = Folder::new();
    let path = folder.path("x.AVI");
    avi(&path, 8);
    let (frames, error) = read(&format!("file://{}", path.display()));
    assert_eq!(error, None);
    assert_eq!(levels(&frames), [0, 1, 2, 3, 4, 5, 6, 7]);
    for (number, (meta, _)) in frames.iter().enumerate() {
        assert_eq!((meta.sequence, meta.dropped_before), (number as u64, 0));
        assert_eq!(meta.format.to_string(), "32x16 rgb");
    }
    let source = open(&text(&path), &SourceConfig::default()).unwrap();
    assert_eq!(source.frame_rate(), Some(25.0));
    assert!(!source.is_live());
    assert!(source.describe().contains("32x16 rgb, 25.000 frames/s"), "{}", source.describe());
}

#[test]
fn the_index_and_the_lengths_are_right() {
    let folder = Folder::new();
    let path = folder.path("x.avi");
    let jpegs = avi(&path, 3);
    let bytes = fs::read(&path).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(number(4), bytes.len() - 8);
    assert_eq!(number(48), 3, "frames in avih");
    let movi = bytes.windows(4).position(|four| four == b"movi").unwrap();
    let index = movi - 4 + 4 + number(movi - 4);
    assert_eq!(&bytes[index..index + 4], b"idx1");
    assert_eq!(number(index + 4), 3 * 16);
    for (entry, jpeg) in jpegs.iter().enumerate() {
        let at = index + 8 + entry * 16;
        assert_eq!(&bytes[at..at + 4], b"00dc");
        let (offset, length) = (number(at + 8), number(at + 12));
        assert_eq!(&bytes[movi + offset..movi + offset + 4], b"00dc");
        assert_eq!(&bytes[movi + offset + 8..movi + offset + 8 + length], jpeg);
    }
}

#[test]
fn a_writer_that_is_dropped_finishes_its_file() {
    let folder = Folder::new();
    let jpegs = avi(&folder.path("whole.avi"), 4);
    let path = folder.path("dropped.avi");
    let mut writer = AviWriter::create(&path, 32, 16, 25.0).unwrap();
    jpegs.iter().for_each(|jpeg| writer.write(jpeg).unwrap());
    assert_eq!(writer.frames(), 4);
    drop(writer);
    assert_eq!(fs::read(path).unwrap(), fs::read(folder.path("whole.avi")).unwrap());
}

#[test]
fn a_writer_that_died_leaves_a_readable_file() {
    let folder = Folder::new();
    let jpegs = avi(&folder.path("whole.avi"), 4);
    let path = folder.path("died.avi");
    let mut writer = AviWriter::create(&path, 32, 16, 25.0).unwrap();
    jpegs.iter().for_each(|jpeg| writer.write(jpeg).unwrap());
    std::mem::forget(writer);
    let (frames, error) = read(&text(&path));
    assert_eq!((levels(&frames), error), (vec![0, 1, 2, 3], None));
}

#[test]
fn a_writer_tells_what_it_cannot() {
    let error = AviWriter::create(Path::new("/no/such/folder/x.avi"), 4, 4, 1.0).err().unwrap();
    assert_eq!(error.kind(), Kind::NotFound);
    let folder = Folder::new();
    let error = AviWriter::create(&folder.path("x.avi"), 0, 4, 1.0).err().unwrap();
    assert_eq!(error.kind(), Kind::Usage);
    // Full: the index is counted in, and what was written stays whole.
    let jpegs = avi(&folder.path("x.avi"), 5);
    let four = 224 + jpegs[..4].iter().map(|jpeg| jpeg.len() + jpeg.len() % 2 + 8).sum::<usize>();
    for (room, fit) in [(four + 8 + 4 * 16, 4), (four + 8 + 4 * 16 - 1, 3)] {
        let path = folder.path("full.avi");
        let mut writer = AviWriter::create(&path, 32, 16, 1.0).unwrap();
        writer.set_max_bytes(room as u64);
        let written = jpegs.iter().take_while(|jpeg| writer.write(jpeg).is_ok()).count();
        assert_eq!(written, fit);
        let error = writer.write(&jpegs[0]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("another file"), "{error}");
        writer.finish().unwrap();
        assert!(fs::metadata(&path).unwrap().len() <= room as u64);
        assert_eq!(read(&text(&path)).0.len(), fit);
    }
}

#[test]
fn a_truncated_file_gives_its_whole_frames() {
    let folder = Folder::new();
    avi(&folder.path("x.avi"), 6);
    let bytes = fs::read(folder.path("x.avi")).unwrap();
    let index = bytes.windows(4).position(|four| four == b"idx1").unwrap();
    let mut counts = Vec::new();
    for end in (240..index).step_by(37) {
        let uri = folder.write("cut.avi", &bytes[..end]);
        let (frames, error) = read(&uri);
        if frames.is_empty() {
            assert_eq!(error, Some(Kind::Damaged));
            continue;
        }
        // Cut within a frame it is an error, cut between two it is the end.
        assert!(matches!(error, None | Some(Kind::Damaged)), "{error:?}");
        counts.push(frames.len());
        let cfg = SourceConfig { skip_damaged: true, ..Default::default() };
        let (skipping, error) = read_all(&uri, &cfg);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(levels(&skipping), levels(&frames));
    }
    assert!(counts.is_sorted() && counts.contains(&1) && counts.contains(&5), "{counts:?}");
    // Without its index it is whole.
    let uri = folder.write("cut.avi", &bytes[..index]);
    assert_eq!(levels(&read(&uri).0), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn long_files_rec_lists_other_streams_and_lost_frames() {
    let folder = Folder::new();
    let jpegs = avi(&folder.path("x.avi"), 5);
    let frame = |number: usize| chunk(b"01dc", &jpegs[number]);
    let first = list(
        b"RIFF",
        b"AVI ",
        &[
            headers(&[(b"auds", b"\0\0\0\0"), (b"vids", b"mjpg")]),
            chunk(b"JUNK", &[1; 13]),
            list(
                b"LIST",
                b"movi",
                &[
                    list(b"LIST", b"rec ", &[chunk(b"00wb", &[0; 7]), frame(0)]),
                    chunk(b"ix01", &[0; 24]),
                    frame(1),
                    chunk(b"01dc", &[]), // A frame that the recorder lost.
                    frame(2),
                ],
            ),
            chunk(b"idx1", &[0; 16]),
        ],
    );
    let second = list(b"RIFF", b"AVIX", &[list(b"LIST", b"movi", &[frame(3), frame(4)])]);
    let uri = folder.write("long.avi", &[first, vec![0; 16], second].concat());
    let (frames, error) = read(&uri);
    assert_eq!((levels(&frames), error), (vec![0, 1, 2, 3, 4], None));
    let numbers: Vec<_> =
        frames.iter().map(|(meta, _)| (meta.sequence, meta.dropped_before)).collect();
    assert_eq!(numbers, [(0, 0), (1, 0), (3, 1), (4, 0), (5, 0)]);
    assert_eq!(open(&uri, &SourceConfig::default()).unwrap().frame_rate(), Some(15.0));
}

#[test]
fn another_codec_goes_to_gstreamer() {
    let folder = Folder::new();
    let film = [headers(&[(b"vids", b"H264")]), list(b"LIST", b"movi", &[])];
    let uri = folder.write("h264.avi", &list(b"RIFF", b"AVI ", &film));
    let cfg = SourceConfig { gst_launch: "/no/such/gst-launch".into(), ..Default::default() };
    let error = open(&uri, &cfg).err().unwrap();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("apt install"), "{error}");
}

#[test]
fn what_is_no_film_is_told() {
    let folder = Folder::new();
    let kind = |bytes: &[u8]| read(&folder.write("x.avi", bytes)).1;
    assert_eq!(kind(b""), Some(Kind::Damaged));
    assert_eq!(kind(b"RIFF\0\0\0\0WAVE"), Some(Kind::Damaged));
    assert_eq!(kind(b"RIFF\0\0\0\0AVI "), Some(Kind::Damaged));
    let empty = [headers(&[(b"vids", b"MJPG")]), list(b"LIST", b"movi", &[])];
    assert_eq!(kind(&list(b"RIFF", b"AVI ", &empty)), Some(Kind::Damaged));
    assert_eq!(read(&text(&folder.path("none.avi"))).1, Some(Kind::NotFound));
    fs::create_dir(folder.path("dir.avi")).unwrap();
    assert_eq!(read(&text(&folder.path("dir.avi"))).1, Some(Kind::NotFound), "no pictures in it");
}

#[test]
fn a_damaged_frame_is_named_or_skipped() {
    let folder = Folder::new();
    let mut jpegs = avi(&folder.path("x.avi"), 4);
    jpegs[1].truncate(300);
    let mut other = Vec::new();
    Encoder::new(16, 16, 90).unwrap().encode(&[9; 16 * 16 * 3], &mut other).unwrap();
    jpegs[2] = other;
    let frames: Vec<_> = jpegs.iter().map(|jpeg| chunk(b"00dc", jpeg)).collect();
    let parts = [headers(&[(b"vids", b"MJPG")]), list(b"LIST", b"movi", &frames)];
    let uri = folder.write("x.avi", &list(b"RIFF", b"AVI ", &parts));

    let mut source = open(&uri, &SourceConfig::default()).unwrap();
    let mut slot = vec![0; source.max_frame_bytes()];
    let stop = false.into();
    source.read(&mut slot, &stop).unwrap();
    let error = source.read(&mut slot, &stop).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains("frame 1 (byte"), "{error}");
    let error = source.read(&mut slot, &stop).unwrap_err();
    assert!(error.to_string().contains("16x16 pixels in a stream of 32x16"), "{error}");
    source.read(&mut slot, &stop).unwrap();

    let cfg = SourceConfig { skip_damaged: true, ..Default::default() };
    let (frames, error) = read_all(&uri, &cfg);
    assert!(error.is_none());
    assert_eq!(levels(&frames), [0, 3]);
    assert_eq!(frames[1].0.dropped_before, 2);
}

#[test]
fn loops_limits_rates_and_stops() {
    let folder = Folder::new();
    avi(&folder.path("x.avi"), 2);
    let uri = text(&folder.path("x.avi"));
    let cfg = SourceConfig { loop_: true, frames: Some(5), ..Default::default() };
    let (frames, error) = read_all(&uri, &cfg);
    assert!(error.is_none());
    assert_eq!(levels(&frames), [0, 1, 0, 1, 0]);
    assert_eq!(frames[4].0.sequence, 4);

    let paced = SourceConfig { realtime: true, rate: Some(50.0), frames: Some(5), ..cfg.clone() };
    let start = std::time::Instant::now();
    let (frames, _) = read_all(&uri, &paced);
    assert!(start.elapsed().as_millis() >= 80);
    assert_eq!(frames.len(), 5);

    let mut source = open(&uri, &SourceConfig::default()).unwrap();
    let mut slot = vec![0; source.max_frame_bytes()];
    let stopped = source.read(&mut slot, &true.into()).unwrap_err();
    assert_eq!(stopped.kind(), Kind::Stopped);
    let small = source.read(&mut slot[1..], &false.into()).unwrap_err();
    assert_eq!(small.kind(), Kind::Usage);
}

#[test]
fn raw_motion_jpeg() {
    let folder = Folder::new();
    let jpegs = avi(&folder.path("x.avi"), 4);
    let uri = folder.write("x.mjpeg", &jpegs.concat());
    let (frames, error) = read(&uri);
    assert_eq!((levels(&frames), error), (vec![0, 1, 2, 3], None));

    // A thumbnail in a segment of the second, junk between the others, the last end marker gone.
    let thumbnail = &jpegs[0];
    let mut second = jpegs[1][..2].to_vec();
    second.extend([0xff, 0xe1]);
    second.extend((thumbnail.len() as u16 + 2).to_be_bytes());
    second.extend(thumbnail);
    second.extend(&jpegs[1][2..]);
    let last = &jpegs[3][..jpegs[3].len() - 2];
    let film = [&jpegs[0], &second, b"junk\xff\x00".as_slice(), &jpegs[2], last].concat();
    let uri = folder.write("y.mjpg", &film);
    let (frames, error) = read(&uri);
    assert_eq!((levels(&frames), error), (vec![0, 1, 2, 3], None));

    let cut = &film[..film.len() - 200];
    let (frames, error) = read(&folder.write("z.mjpg", cut));
    assert_eq!((levels(&frames), error), (vec![0, 1, 2], Some(Kind::Damaged)));
    assert_eq!(read(&folder.write("z.mjpg", b"no picture")).1, Some(Kind::Damaged));
}
