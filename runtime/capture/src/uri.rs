//! From a URI, in the forms of jetson-utils, to the kind of source it means.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{CaptureError, CaptureErrorKind as Kind};

/// What a URI means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Test(TestAddress),
    /// Picture files, in the order to show them.
    Pictures(Vec<PathBuf>),
    Avi(PathBuf),
    Mjpeg(PathBuf),
    Y4m(PathBuf),
    V4l2(CameraAddress),
    Csi(u32),
    /// The whole URI.
    Rtsp(String),
    /// A file for GStreamer.
    Clip(PathBuf),
    /// The user's pipeline.
    Gst(String),
}

/// `test://pattern?key=value&…`, not yet judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestAddress {
    pub(crate) uri: String,
    pub(crate) pattern: String,
    pub(crate) options: Vec<(String, String)>,
}

/// `/dev/video0?memory=userptr&format=MJPG`: a V4L2 camera and how to take its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CameraAddress {
    pub(crate) path: PathBuf,
    /// Who owns the buffers.
    pub(crate) memory: BufferMemory,
    /// The only pixel format to take.
    pub(crate) fourcc: Option<[u8; 4]>,
}

/// Who owns the buffers that a V4L2 driver fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum BufferMemory {
    /// The driver (`V4L2_MEMORY_MMAP`).
    #[default]
    Mapped,
    /// This process (`V4L2_MEMORY_USERPTR`).
    User,
}

impl Address {
    /// Reads a URI. Looks at the file system for directories and globs.
    pub(crate) fn parse(uri: &str) -> Result<Self, CaptureError> {
        let usage = |reason: String| CaptureError::new(Kind::Usage, uri, reason);
        if uri.is_empty() {
            return Err(CaptureError::new(Kind::Usage, "input", "the input URI is empty"));
        }
        if uri.bytes().all(|byte| byte.is_ascii_digit()) {
            return Self::csi(uri, uri); // As in jetson-utils, a bare number is a CSI sensor.
        }
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Self::path(uri, uri);
        };
        match scheme.to_ascii_lowercase().as_str() {
            "test" => Ok(Self::Test(TestAddress::parse(uri, rest)?)),
            "file" => Self::path(uri, rest),
            "v4l2" => CameraAddress::parse(uri, rest).map(Self::V4l2),
            "csi" => Self::csi(uri, rest),
            "rtsp" | "rtsps" => Ok(Self::Rtsp(uri.to_owned())),
            "gst" if rest.trim().is_empty() => {
                Err(usage("no pipeline is given, as in gst://videotestsrc num-buffers=60".into()))
            }
            "gst" => Ok(Self::Gst(rest.trim().to_owned())),
            "rtp" | "udp" | "webrtc" | "http" | "https" => Err(CaptureError::new(
                Kind::Unsupported,
                uri,
                format!("{scheme}:// inputs are not read directly"),
            )
            .remedy("give a GStreamer pipeline: gst://<source and decoder elements>")),
            _ => Err(usage(format!("unknown scheme `{scheme}`"))
                .remedy("known: test:// file:// v4l2:// csi:// rtsp:// gst://, or a path")),
        }
    }

    fn csi(uri: &str, number: &str) -> Result<Self, CaptureError> {
        match number {
            "" => Ok(Self::Csi(0)),
            _ => number.parse().map(Self::Csi).map_err(|_| {
                CaptureError::new(Kind::Usage, uri, "a CSI camera is named by its sensor number")
                    .remedy("as in csi://0")
            }),
        }
    }

    /// A device, a file, a directory or a glob.
    fn path(uri: &str, path: &str) -> Result<Self, CaptureError> {
        if path.is_empty() {
            return Err(CaptureError::new(Kind::Usage, uri, "no file is named"));
        }
        // Also names that udev gives, which are away while the camera is.
        if path.starts_with("/dev/") && !path.starts_with("/dev/shm/") {
            return CameraAddress::parse(uri, path).map(Self::V4l2);
        }
        let place = Path::new(path);
        if place.is_dir() {
            return Self::pictures(uri, list(uri, place, |_| true)?);
        }
        let name = place.file_name().map_or("", |name| name.to_str().unwrap_or(""));
        if !place.exists() && name.contains(['*', '?']) {
            let folder = match place.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            return Self::pictures(uri, list(uri, folder, |file| matches(name, file))?);
        }
        let path = place.to_path_buf();
        match extension(place).as_str() {
            "jpg" | "jpeg" | "png" => Ok(Self::Pictures(vec![path])),
            "avi" => Ok(Self::Avi(path)),
            "mjpeg" | "mjpg" => Ok(Self::Mjpeg(path)),
            "y4m" => Ok(Self::Y4m(path)),
            "mp4" | "m4v" | "mov" | "mkv" | "webm" | "flv" | "ts" | "mts" | "mpg" | "mpeg"
            | "h264" | "264" | "h265" | "265" | "hevc" | "ivf" | "ogv" | "wmv" | "3gp" => {
                Ok(Self::Clip(path))
            }
            other if place.exists() => Err(CaptureError::new(
                Kind::Unsupported,
                uri,
                match other {
                    "" => "a file without an extension; what it holds cannot be told".to_owned(),
                    _ => format!("files of the type .{other} are not read"),
                },
            )
            .remedy(
                "read are .jpg .png .avi .mjpeg .y4m, and through GStreamer .mp4 .mkv .h264 \
                 .h265 …; anything else GStreamer can read by gst://filesrc location=… ! decodebin",
            )),
            _ => Err(CaptureError::new(Kind::NotFound, uri, "there is no such file or device")),
        }
    }

    fn pictures(uri: &str, files: Vec<PathBuf>) -> Result<Self, CaptureError> {
        if files.is_empty() {
            return Err(CaptureError::new(Kind::NotFound, uri, "no .jpg, .jpeg or .png matches")
                .remedy("quote a glob, so that the shell does not expand it"));
        }
        Ok(Self::Pictures(files))
    }
}

impl TestAddress {
    fn parse(uri: &str, rest: &str) -> Result<Self, CaptureError> {
        let (pattern, options) = options(uri, rest)?;
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let options = options.into_iter().map(owned).collect();
        Ok(Self { uri: uri.to_owned(), pattern: pattern.to_owned(), options })
    }
}

impl CameraAddress {
    fn parse(uri: &str, rest: &str) -> Result<Self, CaptureError> {
        let usage = |reason: String| CaptureError::new(Kind::Usage, uri, reason);
        let (device, options) = options(uri, rest)?;
        let path = match device {
            "" => return Err(usage("no device is named, as in v4l2:///dev/video0".into())),
            _ if device.bytes().all(|byte| byte.is_ascii_digit()) => {
                PathBuf::from(format!("/dev/video{device}"))
            }
            _ => PathBuf::from(device),
        };
        let mut address = Self { path, memory: BufferMemory::default(), fourcc: None };
        for (key, value) in options {
            match (key, value) {
                ("memory", "mmap") => address.memory = BufferMemory::Mapped,
                ("memory", "userptr") => address.memory = BufferMemory::User,
                ("memory", _) => {
                    return Err(usage(format!("memory={value}: mmap or userptr is wanted")));
                }
                ("format", _) => {
                    let upper = value.to_ascii_uppercase();
                    address.fourcc = Some(upper.as_bytes().try_into().map_err(|_| {
                        usage(format!("format={value}: four characters are wanted, as in YUYV"))
                    })?);
                }
                _ => {
                    return Err(usage(format!("a camera has no option `{key}`"))
                        .remedy("there are memory=mmap|userptr and format=YUYV|MJPG|…"));
                }
            }
        }
        Ok(address)
    }
}

/// A query's names and values.
type Parameters<'a> = Vec<(&'a str, &'a str)>;

/// What stands before `?`, and the `key=value`s behind it.
fn options<'a>(uri: &str, rest: &'a str) -> Result<(&'a str, Parameters<'a>), CaptureError> {
    let (what, query) = rest.split_once('?').unwrap_or((rest, ""));
    let pair = |option: &'a str| {
        let reason = || format!("`{option}` is not of the form key=value");
        option.split_once('=').ok_or_else(|| CaptureError::new(Kind::Usage, uri, reason()))
    };
    let parts = query.split('&').filter(|option| !option.is_empty());
    Ok((what, parts.map(pair).collect::<Result<_, _>>()?))
}

/// A path's extension in lower case, or "".
fn extension(path: &Path) -> String {
    path.extension().and_then(|end| end.to_str()).unwrap_or("").to_ascii_lowercase()
}

/// The pictures of a folder whose names are `wanted`, sorted by name.
fn list(
    uri: &str,
    folder: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<PathBuf>, CaptureError> {
    let fail = |error| CaptureError::io(uri, "list the folder", error);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let path = entry.path();
        let is_picture = matches!(extension(&path).as_str(), "jpg" | "jpeg" | "png");
        let name = entry.file_name();
        if is_picture && wanted(name.to_str().unwrap_or("")) && path.is_file() {
            files.push(if folder == Path::new(".") { PathBuf::from(name) } else { path });
        }
    }
    files.sort();
    Ok(files)
}

/// Whether `name` matches a glob of `*` (any characters) and `?` (one character).
fn matches(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    let (mut g, mut n) = (0, 0);
    // Where to go on when the characters behind the last star do not fit.
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        match glob.get(g) {
            Some('*') => {
                back = Some((g, n));
                g += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                g += 1;
                n += 1;
            }
            _ => match back {
                Some((star, start)) => {
                    back = Some((star, start + 1));
                    (g, n) = (star + 1, start + 1);
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_jetson_utils() {
        let parse = |uri| Address::parse(uri).unwrap();
        assert_eq!(parse("0"), Address::Csi(0));
        assert_eq!(parse("csi://1"), Address::Csi(1));
        let camera = |path: &str, memory, fourcc| {
            Address::V4l2(CameraAddress { path: path.into(), memory, fourcc })
        };
        assert_eq!(parse("v4l2:///dev/video2"), camera("/dev/video2", BufferMemory::Mapped, None));
        assert_eq!(parse("/dev/video2"), camera("/dev/video2", BufferMemory::Mapped, None));
        assert_eq!(
            parse("v4l2://3?memory=userptr"),
            camera("/dev/video3", BufferMemory::User, None)
        );
        assert_eq!(
            parse("/dev/tobiuo/by-path/platform-3610000.usb-usb-0:2.1:1.0"),
            camera(
                "/dev/tobiuo/by-path/platform-3610000.usb-usb-0:2.1:1.0",
                BufferMemory::Mapped,
                None
            )
        );
        assert_eq!(
            parse("/dev/v4l/by-id/x?format=mjpg&memory=mmap"),
            camera("/dev/v4l/by-id/x", BufferMemory::Mapped, Some(*b"MJPG"))
        );
        assert_eq!(parse("rtsp://u:p@h:5/x"), Address::Rtsp("rtsp://u:p@h:5/x".into()));
        assert_eq!(parse("file://a/b.MP4"), Address::Clip("a/b.MP4".into()));
        assert_eq!(parse("file:///a/b.avi"), Address::Avi("/a/b.avi".into()));
        assert_eq!(parse("x.jpg"), Address::Pictures(vec!["x.jpg".into()]));
        assert_eq!(parse("x.y4m"), Address::Y4m("x.y4m".into()));
        assert_eq!(parse("gst://videotestsrc ! x"), Address::Gst("videotestsrc ! x".into()));
    }

    #[test]
    fn test_options() {
        let Address::Test(test) = Address::parse("test://bars?width=5&rate=2").unwrap() else {
            panic!("not a test source");
        };
        assert_eq!(test.pattern, "bars");
        assert_eq!(test.options[1], ("rate".into(), "2".into()));
        assert!(Address::parse("test://?width").is_err());
    }

    #[test]
    fn mistakes_are_told_apart() {
        let kind = |uri| Address::parse(uri).unwrap_err().kind();
        assert_eq!(kind(""), Kind::Usage);
        assert_eq!(kind("v4l2://"), Kind::Usage);
        assert_eq!(kind("/dev/video0?memory=dma"), Kind::Usage);
        assert_eq!(kind("/dev/video0?format=x"), Kind::Usage);
        assert_eq!(kind("/dev/video0?memory"), Kind::Usage);
        assert_eq!(kind("v4l2://0?rate=3"), Kind::Usage);
        assert_eq!(kind("csi://x"), Kind::Usage);
        assert_eq!(kind("ftp://x"), Kind::Usage);
        assert_eq!(kind("webrtc://@:8554/x"), Kind::Unsupported);
        assert_eq!(kind("no/such/file.xyz"), Kind::NotFound);
        assert_eq!(kind("no_such_*.jpg"), Kind::NotFound);
        assert_eq!(kind("Cargo.toml"), Kind::Unsupported);
    }

    #[test]
    fn globs() {
        for (glob, name, fits) in [
            ("*.jpg", "a.jpg", true),
            ("*.jpg", "a.jpgx", false),
            ("a?c*.jpg", "abcdef.jpg", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("**", "", true),
            ("?", "é", true),
        ] {
            assert_eq!(matches(glob, name), fits, "{glob} {name}");
        }
    }
}
