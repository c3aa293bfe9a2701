//! What a network is calibrated on: pictures through the engine's own preprocessing, or tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};

use tobiuo::capture::{self, CaptureErrorKind, Read, SourceConfig};
use tobiuo_engine::Preprocess;
use tobiuo_tensor::Tensor;

use super::arrays;
use super::runner::filled;
use crate::BuildError;
use crate::graph::Graph;

/// What lies in folders of pictures.
const PICTURES: [&str; 3] = ["jpg", "jpeg", "png"];

/// How the names of lists of pictures end.
const LISTS: [&str; 4] = ["txt", "lst", "list", "csv"];

/// Samples, not yet read.
pub struct Source {
    kind: Kind,
    /// Pictures and frames that could not be read so far, with the reason.
    pub skipped: Vec<String>,
}

enum Kind {
    Pictures {
        files: Vec<PathBuf>,
        preprocess: Preprocess,
        shape: Vec<usize>,
    },
    Clip {
        uri: String,
        /// Frames that are looked at, of a source without an end.
        limit: Option<u64>,
        keep: Vec<usize>,
        preprocess: Preprocess,
        shape: Vec<usize>,
    },
    /// For each sample, the graph's inputs.
    Tensors(Vec<Vec<Tensor>>),
}

fn input(what: String) -> BuildError {
    BuildError::Input(what)
}

/// SplitMix64.
struct Random(u64);

/// Is shown a sample's number and its tensors.
pub type SeeSample<'a> = dyn FnMut(usize, &[Tensor]) -> Result<(), BuildError> + 'a;

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    /// `count` of `0..n`, in random order.
    fn choose(&mut self, n: usize, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            all.swap(i, self.below(i + 1));
        }
        all.truncate(count);
        all
    }
}

impl Source {
    /// `what` is a folder of pictures, a glob of them, a list of picture files (a text, one a
    /// line), a clip, a picture, or tensors (`.npz`, or `.npy` for a network with one input). At
    /// most `samples` are taken, chosen by `seed`.
    pub fn open(
        what: &Path,
        graph: &Graph,
        samples: usize,
        seed: u64,
    ) -> Result<Source, BuildError> {
        let mut random = Random(seed);
        let extension = what.extension().and_then(|e| e.to_str()).unwrap_or("").to_lowercase();
        if matches!(extension.as_str(), "npz" | "npy") && !what.is_dir() {
            let all = arrays::read(what, graph, &extension)?;
            let chosen = random.choose(all.len(), samples);
            let kind = Kind::Tensors(chosen.into_iter().map(|i| all[i].clone()).collect());
            return Ok(Source { kind, skipped: Vec::new() });
        }
        let (preprocess, shape) = picture_input(what, graph)?;
        let files = if what.is_dir() {
            folder(what)?
        } else if LISTS.contains(&extension.as_str()) {
            listed(what)?
        } else {
            let uri = uri_of(what);
            match capture::picture_files(&uri) {
                Ok(Some(files)) => files,
                Ok(None) => return Source::clip(uri, preprocess, shape, samples, &mut random),
                Err(e) if e.kind() == CaptureErrorKind::Unsupported && what.is_file() => {
                    return Err(input(format!(
                        "{e}; the name of a list of pictures ends in .{}",
                        LISTS.join(", .")
                    )));
                }
                Err(e) => return Err(capture_error(e)),
            }
        };
        if files.is_empty() {
            return Err(input(format!(
                "{}: there are no pictures (.jpg, .png) here; calibration needs some, 200 to \
                 1000 like those that the network will see",
                what.display()
            )));
        }
        let chosen = random.choose(files.len(), samples);
        let files = chosen.into_iter().map(|i| files[i].clone()).collect();
        Ok(Source { kind: Kind::Pictures { files, preprocess, shape }, skipped: Vec::new() })
    }

    /// Of these very pictures, in this order.
    pub fn of_files(files: Vec<PathBuf>, graph: &Graph) -> Result<Source, BuildError> {
        let what = files.first().cloned().unwrap_or_default();
        let (preprocess, shape) = picture_input(&what, graph)?;
        Ok(Source { kind: Kind::Pictures { files, preprocess, shape }, skipped: Vec::new() })
    }

    fn clip(
        uri: String,
        preprocess: Preprocess,
        shape: Vec<usize>,
        samples: usize,
        random: &mut Random,
    ) -> Result<Source, BuildError> {
        // A made scene goes on for ever: its first frames are taken.
        let endless = uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("test://"));
        let limit = endless.then_some(samples as u64);
        let mut frames = 0;
        each_frame(&uri, limit, &mut |_, _| {
            frames += 1;
            Ok(())
        })?;
        if frames == 0 {
            return Err(input(format!("{uri}: there is no frame in it")));
        }
        let mut keep = random.choose(frames, samples);
        keep.sort_unstable();
        let kind = Kind::Clip { uri, limit, keep, preprocess, shape };
        Ok(Source { kind, skipped: Vec::new() })
    }

    /// How many samples there are, those that cannot be read counted.
    pub fn len(&self) -> usize {
        match &self.kind {
            Kind::Pictures { files, .. } => files.len(),
            Kind::Clip { keep, .. } => keep.len(),
            Kind::Tensors(all) => all.len(),
        }
    }

    /// Gives each sample with its number: the graph's inputs, one item repeated to the batch.
    /// What cannot be read is passed over and named in `skipped`; when nothing can be read,
    /// that is an error.
    pub fn each(&mut self, see: &mut SeeSample) -> Result<(), BuildError> {
        let total = self.len();
        self.skipped.clear();
        match &self.kind {
            Kind::Tensors(all) => {
                for (i, inputs) in all.iter().enumerate() {
                    see(i, inputs)?;
                }
            }
            Kind::Pictures { files, preprocess, shape } => {
                let mut makers = Vec::new();
                for _ in 0..readers(files.len()) {
                    makers.push(Maker::new(preprocess, shape)?);
                }
                read_ahead(files, makers, &mut |i, made| match made {
                    Ok(tensor) => see(i, &[tensor]),
                    Err(why) => {
                        self.skipped.push(why);
                        Ok(())
                    }
                })?;
            }
            Kind::Clip { uri, limit, keep, preprocess, shape } => {
                let mut maker = Maker::new(preprocess, shape)?;
                let skipped = &mut self.skipped;
                each_frame(uri, *limit, &mut |n, frame| {
                    let Ok(i) = keep.binary_search(&n) else { return Ok(()) };
                    match frame.and_then(|(format, pixels)| maker.make(format, pixels)) {
                        Ok(tensor) => see(i, &[tensor]),
                        Err(why) => {
                            skipped.push(why);
                            Ok(())
                        }
                    }
                })?;
            }
        }
        if self.skipped.len() == total {
            let first = self.skipped.first().cloned().unwrap_or_default();
            let what = if matches!(self.kind, Kind::Clip { .. }) { "frames" } else { "pictures" };
            return Err(input(format!(
                "none of the {total} {what} can be read; the first: {first}"
            )));
        }
        Ok(())
    }
}

/// A path as a URI; one that is no file may be a URI already.
fn uri_of(what: &Path) -> String {
    let text = what.to_string_lossy().into_owned();
    if what.exists() { format!("file://{text}") } else { text }
}

/// The network's picture input, which must be its only one.
fn picture_input(what: &Path, graph: &Graph) -> Result<(Preprocess, Vec<usize>), BuildError> {
    let Some(preprocess) = &graph.metadata.preprocess else {
        return Err(BuildError::Usage(format!(
            "{}: no input of this network is known to be a picture; give its inputs as tensors: \
             a .npz with an array for each input, samples along axis 0",
            what.display()
        )));
    };
    if graph.inputs.len() != 1 {
        return Err(BuildError::Usage(format!(
            "{}: the network has {} inputs, pictures are one; give tensors: a .npz with an \
             array for each input, samples along axis 0",
            what.display(),
            graph.inputs.len()
        )));
    }
    Ok((preprocess.clone(), graph.shape(graph.inputs[preprocess.input]).to_vec()))
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let io = |error| BuildError::Io { path: path.into(), error };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let known = |e: &std::ffi::OsStr| PICTURES.iter().any(|p| e.eq_ignore_ascii_case(p));
        if path.extension().is_some_and(known) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A picture of a list.
struct Entry {
    /// The line's number, from 1 on.
    line: usize,
    file: PathBuf,
    /// What follows a tab, comma or the last space.
    rest: Option<String>,
}

/// A list's pictures with what stands behind them.
pub fn list(path: &Path) -> Result<Vec<(PathBuf, Option<String>)>, BuildError> {
    Ok(entries(path)?.into_iter().map(|entry| (entry.file, entry.rest)).collect())
}

/// A list's pictures to calibrate on.
fn listed(path: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let mut files = Vec::new();
    for Entry { line, file, .. } in entries(path)? {
        // What is not there or cannot be read is passed over when it is its turn.
        let single = match capture::picture_files(&format!("file://{}", file.display())) {
            Ok(files) => files.is_some_and(|files| files == [file.as_path()]),
            Err(_) => !file.is_dir(),
        };
        if !single {
            return Err(input(format!(
                "{}, line {line}: {} is not one picture; a list has a picture (.jpg, .png) on \
                 each line, a folder or a clip is given to --calibration itself",
                path.display(),
                file.display()
            )));
        }
        files.push(file);
    }
    Ok(files)
}

/// A list of pictures: a file a line, relative to the list's folder.
fn entries(path: &Path) -> Result<Vec<Entry>, BuildError> {
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => input(format!(
            "{}: not a list of pictures: it is no text in UTF-8; a list has a file on each line",
            path.display()
        )),
        _ => input(format!("{}: {error}", path.display())),
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let entry = |(i, line): (usize, &str)| {
        let whole = folder.join(line);
        let (file, rest) = match line.rsplit_once(['\t', ',', ' ']) {
            Some((file, rest)) if !whole.exists() => {
                (folder.join(file.trim()), Some(rest.trim().to_string()))
            }
            _ => (whole, None),
        };
        Entry { line: i + 1, file, rest }
    };
    let lines = text.lines().map(str::trim).enumerate();
    Ok(lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#')).map(entry).collect())
}

/// From frames to the network's input.
struct Maker {
    preprocessor: tobiuo::Preprocessor,
    shape: Vec<usize>,
}

impl Maker {
    fn new(settings: &Preprocess, shape: &[usize]) -> Result<Maker, BuildError> {
        let mut one = shape.to_vec();
        one[0] = 1;
        let preprocessor = tobiuo::Preprocessor::new(settings, &one)
            .map_err(|e| BuildError::Usage(e.to_string()))?;
        Ok(Maker { preprocessor, shape: shape.to_vec() })
    }

    fn make(&mut self, format: capture::FrameFormat, pixels: &[u8]) -> Result<Tensor, String> {
        let mut one = self.shape.clone();
        let batch = std::mem::replace(&mut one[0], 1);
        let mut failed = None;
        let tensor = filled(&one, |view| {
            failed = self.preprocessor.run(format, pixels, 0, view).err();
        });
        if let Some(e) = failed {
            return Err(e.to_string());
        }
        if batch == 1 {
            return Ok(tensor);
        }
        let items = tensor.as_f32().unwrap_or_default().repeat(batch);
        Ok(Tensor::f32(self.shape.clone(), items))
    }
}

/// Threads that read pictures.
fn readers(pictures: usize) -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(16).min(pictures.max(1))
}

/// Pictures that a thread may be ahead.
const AHEAD: usize = 3;

type SeeMade<'a> = dyn FnMut(usize, Result<Tensor, String>) -> Result<(), BuildError> + 'a;

/// Reads pictures on a thread for each maker; `see` gets them in their order.
fn read_ahead(
    files: &[PathBuf],
    makers: Vec<Maker>,
    see: &mut SeeMade<'_>,
) -> Result<(), BuildError> {
    let next = AtomicUsize::new(0);
    // A permit for each picture that may be in memory: one that takes long holds up the others.
    let (permit, permits) = mpsc::channel();
    (0..AHEAD * makers.len()).for_each(|_| permit.send(()).unwrap_or_default());
    let permits = Mutex::new(permits);
    let allowed = || permits.lock().is_ok_and(|permits| permits.recv().is_ok());
    std::thread::scope(|scope| {
        let (give, made) = mpsc::channel();
        for mut maker in makers {
            let (give, next, allowed) = (give.clone(), &next, &allowed);
            scope.spawn(move || {
                while allowed() {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(file) = files.get(i) else { break };
                    if give.send((i, picture(file, &mut maker))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(give);
        // Both are dropped when `see` fails, and the readers end.
        let (permit, made) = (permit, made);
        let (mut early, mut at) = (BTreeMap::new(), 0);
        for (i, picture) in made {
            early.insert(i, picture);
            while let Some(picture) = early.remove(&at) {
                see(at, picture)?;
                at += 1;
                let _ = permit.send(());
            }
        }
        Ok(())
    })
}

/// A picture file as the network's input, or why not.
fn picture(file: &Path, maker: &mut Maker) -> Result<Tensor, String> {
    let mut made = None;
    let uri = format!("file://{}", file.display());
    each_frame(&uri, None, &mut |_, frame| {
        made = Some(frame.and_then(|(format, pixels)| maker.make(format, pixels)));
        Ok(())
    })
    .map_err(|e| e.to_string())?;
    made.unwrap_or_else(|| Err(format!("{}: there is no picture in it", file.display())))
}

fn capture_error(e: capture::CaptureError) -> BuildError {
    match e.kind() {
        CaptureErrorKind::Usage => BuildError::Usage(e.to_string()),
        _ => input(e.to_string()),
    }
}

/// A frame, or why it cannot be read.
type Frame<'a> = Result<(capture::FrameFormat, &'a [u8]), String>;

type See<'a> = dyn FnMut(usize, Frame<'_>) -> Result<(), BuildError> + 'a;

/// Shows each frame with its number, at most `limit`; a damaged one has a number too.
fn each_frame(uri: &str, limit: Option<u64>, see: &mut See<'_>) -> Result<(), BuildError> {
    let stop = AtomicBool::new(false);
    let cfg = SourceConfig { frames: limit, ..Default::default() };
    let mut source = capture::open(uri, &cfg).map_err(capture_error)?;
    if source.is_live() {
        return Err(BuildError::Usage(format!(
            "{uri}: calibration wants pictures or a clip, not a camera"
        )));
    }
    let mut pixels = vec![0; source.max_frame_bytes()];
    let (mut n, mut damage) = (0, String::new());
    loop {
        match source.read(&mut pixels, &stop) {
            Ok(Read::Frame(meta)) => {
                let bytes = meta.format.frame_bytes().unwrap_or(0).min(pixels.len());
                see(n, Ok((meta.format, &pixels[..bytes])))?;
                damage.clear();
            }
            Ok(Read::End) => return Ok(()),
            Err(e) if e.kind() == CaptureErrorKind::Damaged && e.to_string() != damage => {
                damage = e.to_string();
                see(n, Err(damage.clone()))?;
            }
            // Nothing can be found behind the damage.
            Err(_) if !damage.is_empty() => return Ok(()),
            Err(e) => return Err(capture_error(e)),
        }
        n += 1;
    }
}
