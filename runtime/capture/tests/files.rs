//! Pictures, YUV4MPEG2 files and the synthetic source.

mod common;

use std::fs;

use common::{photo, read_all};
use image::{ExtendedColorType, ImageEncoder};
use tempfile::TempDir;
use tobiuo_capture::{CaptureErrorKind as Kind, PixelFormat, Read, SourceConfig, open, scene};

fn png(rgb: &[u8], w: u32, h: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut out);
    encoder.write_image(rgb, w, h, ExtendedColorType::Rgb8).unwrap();
    out
}

#[test]
fn pictures_of_a_folder_in_order() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (small, large) = (photo(5, 4, 1), photo(20, 10, 2));
    fs::write(at("b.png"), png(&small, 5, 4)).unwrap();
    fs::write(at("a.PNG"), png(&large, 20, 10)).unwrap();
    fs::write(at("c.txt"), "not a picture").unwrap();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    fs::copy(format!("{data}/420_progressive.jpg"), at("c.jpg")).unwrap();

    let uri = format!("file://{}/", folder.path().display());
    let mut source = open(&uri, &SourceConfig::default()).unwrap();
    assert_eq!(source.max_frame_bytes(), 61 * 45 * 3);
    assert!(source.describe().ends_with("3 pictures"), "{}", source.describe());
    assert_eq!(source.frame_name(), None);
    let mut slot = vec![0; source.max_frame_bytes()];
    let stop = false.into();
    for (name, size, pixels) in [
        ("a.PNG", "20x10 rgb", Some(&large)),
        ("b.png", "5x4 rgb", Some(&small)),
        ("c.jpg", "61x45 rgb", None),
    ] {
        let Read::Frame(meta) = source.read(&mut slot, &stop).unwrap() else { panic!("ended") };
        assert_eq!(meta.format.to_string(), size);
        assert_eq!(source.frame_name(), Some(name));
        if let Some(pixels) = pixels {
            assert_eq!(slot[..pixels.len()], **pixels);
        }
    }
    assert_eq!(source.read(&mut slot, &stop).unwrap(), Read::End);

    let glob = format!("{}/*.p?g", folder.path().display());
    let (frames, error) = read_all(&glob, &SourceConfig::default());
    assert!(error.is_none());
    assert_eq!(frames.len(), 1, "globs tell case apart");
    let one = at("b.png").display().to_string();
    let cfg = SourceConfig { loop_: true, frames: Some(3), ..Default::default() };
    assert_eq!(read_all(&one, &cfg).0.len(), 3);
}

#[test]
fn a_damaged_picture_is_named_or_skipped() {
    let folder = TempDir::new().unwrap();
    let rgb = photo(30, 20, 1);
    let whole = png(&rgb, 30, 20);
    fs::write(folder.path().join("1.png"), &whole).unwrap();
    fs::write(folder.path().join("2.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(folder.path().join("3.jpg"), b"\xff\xd8 no").unwrap();
    fs::write(folder.path().join("4.png"), &whole).unwrap();
    let uri = folder.path().display().to_string();
    let (frames, error) = read_all(&uri, &SourceConfig::default());
    let error = error.unwrap();
    assert!(frames.is_empty());
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains("3.jpg"), "headers are read first: {error}");

    fs::remove_file(folder.path().join("3.jpg")).unwrap();
    let (frames, error) = read_all(&uri, &SourceConfig::default());
    assert_eq!(frames.len(), 1);
    assert!(error.unwrap().to_string().contains("2.png"));

    fs::write(folder.path().join("3.jpg"), b"").unwrap();
    let cfg = SourceConfig { skip_damaged: true, ..Default::default() };
    let (frames, error) = read_all(&uri, &cfg);
    assert!(error.is_none());
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[1].0.dropped_before, 2);
    assert_eq!(frames[1].1, rgb);
}

/// The decoder would paint what is missing grey.
#[test]
fn a_jpeg_that_is_cut_short_is_damaged() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.jpg");
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let (frames, error) = read_all(path.to_str().unwrap(), &SourceConfig::default());
        assert_eq!(frames.len(), usize::from(error.is_none()));
        error
    };
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    let pictures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/camera/assets/pictures");
    for file in [format!("{data}/420_progressive.jpg"), format!("{pictures}/000042.jpg")] {
        let plain = fs::read(&file).unwrap();
        // A thumbnail within has an end, too.
        let length = u16::try_from(plain.len().min(2000) + 4).unwrap().to_be_bytes();
        let mut thumbnail = [b"\xff\xd8\xff\xe1", &length[..]].concat();
        thumbnail.extend(&plain[..plain.len().min(2000)]);
        thumbnail.extend(b"\xff\xd9");
        let with_thumbnail = [&thumbnail[..], &plain[2..]].concat();
        for whole in [plain, with_thumbnail] {
            assert!(read(&whole).is_none());
            assert!(read(&[&whole[..], b"\0more"].concat()).is_none());
            for missing in [whole.len() / 2, 40, 2, 1] {
                let error = read(&whole[..whole.len() - missing]).unwrap();
                assert_eq!(error.kind(), Kind::Damaged);
                let said = error.to_string();
                // Half of a small one has no whole header.
                assert!(said.contains("cut short") || missing > 40, "{file}: {said}");
                assert!(!said.contains('\n'), "{said}");
            }
        }
    }
}

/// A Y4M of these frames.
fn y4m(head: &str, frames: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("YUV4MPEG2 {head}\n").into_bytes();
    for frame in frames {
        out.extend(b"FRAME Ip\n");
        out.extend(*frame);
    }
    out
}

fn first(head: &str, frame: &[u8]) -> (String, Vec<u8>) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.y4m");
    fs::write(&path, y4m(head, &[frame])).unwrap();
    let (frames, error) = read_all(path.to_str().unwrap(), &SourceConfig::default());
    assert!(error.is_none(), "{error:?}");
    let (meta, pixels) = frames.into_iter().next().unwrap();
    (meta.format.to_string(), pixels)
}

#[test]
fn y4m_layouts() {
    let planes: Vec<u8> = (100..150).collect();
    // 5x3: chroma of 3x2.
    assert_eq!(
        first("W5 H3 F25:1 C420jpeg", &planes[..15 + 12]),
        ("5x3 i420".into(), planes[..27].to_vec())
    );
    assert_eq!(first("W5 H3 Cmono", &planes[..15]), ("5x3 gray".into(), planes[..15].to_vec()));
    assert_eq!(
        first("W4 H1 C422", &[1, 2, 3, 4, 10, 11, 20, 21]),
        ("4x1 yuyv".into(), vec![1, 10, 2, 20, 3, 11, 4, 21])
    );
    let red = [254, 0, 0];
    assert_eq!(
        first("W1 H2 C444", &[81, 81, 90, 90, 240, 240]),
        ("1x2 rgb".into(), [red; 2].concat())
    );
    assert_eq!(
        first("W3 H1 C422", &[81, 81, 81, 90, 90, 240, 240]),
        ("3x1 rgb".into(), [red; 3].concat())
    );
    let (format, pixels) = first("W2 H2 XCOLORRANGE=FULL", &[76, 76, 76, 76, 85, 255]);
    assert_eq!((format, pixels), ("2x2 rgb".into(), [red; 4].concat()));
}

#[test]
fn y4m_files_loop_end_and_break() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.y4m");
    let uri = path.to_str().unwrap();
    let whole = y4m("W2 H2 F30000:1001 Cmono", &[&[1; 4], &[2; 4], &[3; 4]]);
    fs::write(&path, &whole).unwrap();
    let cfg = SourceConfig { loop_: true, frames: Some(7), ..Default::default() };
    let levels: Vec<_> = read_all(uri, &cfg).0.iter().map(|(_, pixels)| pixels[0]).collect();
    assert_eq!(levels, [1, 2, 3, 1, 2, 3, 1]);

    let head = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    for end in head..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        let (frames, error) = read_all(uri, &SourceConfig::default());
        assert_eq!(frames.len(), (end - head) / 13);
        let kind = error.map(|error| error.kind());
        assert_eq!(kind, (!(end - head).is_multiple_of(13)).then_some(Kind::Damaged), "{end}");
        let cfg =
            SourceConfig { skip_damaged: true, loop_: true, frames: Some(5), ..Default::default() };
        let (again, error) = read_all(uri, &cfg);
        assert!(error.is_none());
        assert_eq!(again.len(), if frames.is_empty() { 0 } else { 5 });
    }
    fs::write(&path, b"YUV4MPEG2 W99999 H99999\nFRAME\n").unwrap();
    assert_eq!(read_all(uri, &SourceConfig::default()).1.unwrap().kind(), Kind::Damaged);
    fs::write(&path, b"YUV4MPEG2 W4 H4 C420p10\n").unwrap();
    assert_eq!(read_all(uri, &SourceConfig::default()).1.unwrap().kind(), Kind::Unsupported);
}

#[test]
fn the_scene_shows_its_objects_in_every_format() {
    let number = 40;
    let sign = scene::objects(160, 120, number)[3];
    assert_eq!(sign.shape, scene::Shape::StopSign);
    let (x, y) = ((sign.left + sign.right) as usize / 2, (sign.top + sign.bottom) as usize / 2);
    for pixel in PixelFormat::ALL {
        let uri = format!("test://scene?width=160&height=120&frames=41&format={pixel}");
        let (frames, error) = read_all(&uri, &SourceConfig::default());
        assert!(error.is_none());
        assert_eq!(frames.len(), 41);
        let pixels = &frames[number as usize].1;
        assert_ne!(*pixels, frames[number as usize - 1].1, "{pixel}: it moves");
        // The sign's bar is white: its luma is high in every format.
        let luma = match pixel {
            PixelFormat::Rgb8 | PixelFormat::Bgr8 => pixels[(y * 160 + x) * 3 + 1],
            PixelFormat::Yuyv => pixels[(y * 160 + x) * 2],
            PixelFormat::Uyvy => pixels[(y * 160 + x) * 2 + 1],
            _ => pixels[y * 160 + x],
        };
        assert!(luma > 200, "{pixel}: {luma}");
        let (again, _) = read_all(&uri, &SourceConfig::default());
        assert!(frames.iter().zip(&again).all(|(a, b)| a.1 == b.1), "{pixel}: the same each time");
    }
}

#[test]
fn the_sign_is_red_in_its_box() {
    let (frames, _) = read_all("test://?frames=1", &SourceConfig::default());
    let (meta, pixels) = &frames[0];
    assert_eq!(meta.format.to_string(), "640x480 rgb");
    let sign = scene::objects(640, 480, 0)[3];
    let red = |x: i32, y: i32| {
        let at = (y * 640 + x) as usize * 3;
        pixels[at] > 150 && pixels[at + 1] < 60
    };
    let inside = (sign.top..sign.bottom)
        .flat_map(|y| (sign.left..sign.right).map(move |x| (x, y)))
        .filter(|&(x, y)| red(x, y))
        .count() as i32;
    let area = (sign.right - sign.left) * (sign.bottom - sign.top);
    assert!(inside * 10 > area * 4 && inside * 10 < area * 8, "{inside} of {area}");
    let all = (0..480).flat_map(|y| (0..640).map(move |x| (x, y))).filter(|&(x, y)| red(x, y));
    assert_eq!(all.count() as i32, inside, "and nowhere else");
}

#[test]
fn yuv_scenes_have_the_colours_of_the_rgb_one() {
    let pixels = |format: &str| {
        let uri = format!("test://bars?width=16&height=2&frames=1&format={format}");
        read_all(&uri, &SourceConfig::default()).0.remove(0).1
    };
    let (rgb, nv12, i420) = (pixels("rgb"), pixels("nv12"), pixels("i420"));
    let (yuyv, uyvy) = (pixels("yuyv"), pixels("uyvy"));
    for x in (2..16).step_by(2) {
        let [y, cb, cr] = [nv12[x], nv12[32 + x], nv12[33 + x]].map(f64::from);
        let luma = (y - 16.0) * 1.164;
        let want = [
            luma + 1.596 * (cr - 128.0),
            luma - 0.392 * (cb - 128.0) - 0.813 * (cr - 128.0),
            luma + 2.017 * (cb - 128.0),
        ];
        for (have, want) in rgb[x * 3..x * 3 + 3].iter().zip(want) {
            assert!((f64::from(*have) - want).abs() < 3.0, "{x}: {have} {want}");
        }
        assert_eq!(
            [i420[x], i420[32 + x / 2], i420[40 + x / 2]],
            [nv12[x], nv12[32 + x], nv12[33 + x]]
        );
        assert_eq!(yuyv[x * 2..x * 2 + 4], [nv12[x], nv12[32 + x], nv12[x + 1], nv12[33 + x]]);
        assert_eq!(uyvy[x * 2..x * 2 + 4], [nv12[32 + x], nv12[x], nv12[33 + x], nv12[x + 1]]);
    }
}

#[test]
fn a_synthetic_camera_keeps_its_rate_and_drops() {
    let cfg = SourceConfig { realtime: true, ..Default::default() };
    let mut source = open("test://black?rate=100&width=16&height=16", &cfg).unwrap();
    assert!(source.is_live());
    let mut slot = vec![0; source.max_frame_bytes()];
    let mut read = || match source.read(&mut slot, &false.into()).unwrap() {
        Read::Frame(meta) => meta,
        Read::End => panic!("ended"),
    };
    let first = read();
    std::thread::sleep(std::time::Duration::from_millis(60));
    let second = read();
    assert!(second.dropped_before >= 4, "{second:?}");
    assert_eq!(second.sequence, first.sequence + 1 + u64::from(second.dropped_before));
    assert!(second.timestamp_ns - first.timestamp_ns >= 50_000_000);
    let paced = open("test://?rate=100", &SourceConfig::default()).unwrap();
    assert!(!paced.is_live(), "only in real time");
}

#[test]
fn wrong_options_are_told() {
    for uri in [
        "test://nothing",
        "test://?width=0",
        "test://?width=20000",
        "test://?width=x",
        "test://?rate=-1",
        "test://?rate=nan",
        "test://?format=p010",
        "test://?colour=red",
        "test://?width=641&format=yuyv",
    ] {
        let error = open(uri, &SourceConfig::default()).err().unwrap();
        assert_eq!(error.kind(), Kind::Usage, "{uri}");
        assert!(error.to_string().starts_with(uri), "{error}");
    }
}
