//! Where pictures come from: files that each worker opens itself, so that they are decoded at
//! once, and inputs of several frames, which are read one frame after the other.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use tobiuo::capture::{self, FrameFormat, Read, Source, SourceConfig};
use tobiuo::{Error, ErrorKind};

/// The largest list of pictures read.
const MAX_LIST: u64 = 256 << 20;

/// A picture's pixels.
pub struct Picture {
    pub format: FrameFormat,
    pub pixels: Vec<u8>,
}

/// A picture to classify.
pub struct Job {
    /// Its place in the order of pictures.
    pub number: usize,
    pub name: String,
    /// Its class, where the list tells.
    pub wanted: Option<usize>,
    picture: Option<Picture>,
}

impl Job {
    /// The picture's pixels.
    pub fn picture(&mut self) -> Result<Picture, Error> {
        if let Some(picture) = self.picture.take() {
            return Ok(picture);
        }
        let mut source = capture::open(&self.name, &SourceConfig::default())?;
        match read(&mut *source)? {
            Some((picture, _)) => Ok(picture),
            None => {
                Err(Error::new(ErrorKind::Input, format!("{}: there is no picture", self.name)))
            }
        }
    }
}

fn read(source: &mut dyn Source) -> Result<Option<(Picture, Option<String>)>, Error> {
    let mut slot = vec![0; source.max_frame_bytes()];
    match source.read(&mut slot, &AtomicBool::new(false))? {
        Read::Frame(meta) => {
            slot.truncate(meta.format.frame_bytes().unwrap_or(0));
            let name = source.frame_name().map(str::to_string);
            Ok(Some((Picture { format: meta.format, pixels: slot }, name)))
        }
        Read::End => Ok(None),
    }
}

enum Item {
    File { name: String, wanted: Option<usize> },
    Input(String),
}

struct State {
    items: VecDeque<Item>,
    open: Option<(String, Box<dyn Source>)>,
    next: usize,
}

/// Pictures for several workers.
pub struct Feed(Mutex<State>);

impl Feed {
    /// Of inputs and of a list's lines: a path and, where it is known, a class's number.
    pub fn new(inputs: &[String], list: Option<&Path>, base: &Path) -> Result<Feed, Error> {
        let one = |uri: &String| match Path::new(uri).is_file() && is_picture(uri) {
            true => Item::File { name: uri.clone(), wanted: None },
            false => Item::Input(uri.clone()),
        };
        let mut items: VecDeque<Item> = inputs.iter().map(one).collect();
        if let Some(list) = list {
            let failed =
                |e: String| Error::new(ErrorKind::Input, format!("{}: {e}", list.display()));
            let length = std::fs::metadata(list).map_err(|e| failed(e.to_string()))?.len();
            if length > MAX_LIST {
                return Err(failed(format!("{length} bytes are too many for a list")));
            }
            let text = std::fs::read_to_string(list).map_err(|e| failed(e.to_string()))?;
            for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
                // A path may hold spaces: the class is what follows the last one.
                let (path, wanted) = match line.rsplit_once(char::is_whitespace) {
                    Some((path, class)) if class.parse::<usize>().is_ok() => {
                        (path.trim_end(), class.parse().ok())
                    }
                    _ => (line, None),
                };
                let name = base.join(path).to_string_lossy().into_owned();
                items.push_back(Item::File { name, wanted });
            }
        }
        Ok(Feed(Mutex::new(State { items, open: None, next: 0 })))
    }

    /// At most `count` pictures, in order; none when there are no more.
    pub fn take(&self, count: usize) -> Result<Vec<Job>, Error> {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let mut jobs = Vec::with_capacity(count);
        while jobs.len() < count {
            let Some(job) = state.next()? else { break };
            jobs.push(job);
        }
        Ok(jobs)
    }

    /// Lets no worker have any more.
    pub fn stop(&self) {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        (state.items, state.open) = (VecDeque::new(), None);
    }
}

impl State {
    fn next(&mut self) -> Result<Option<Job>, Error> {
        loop {
            if let Some((uri, source)) = &mut self.open {
                if let Some((picture, name)) = read(&mut **source)? {
                    let number = self.next;
                    let name = name.unwrap_or_else(|| format!("{uri} #{number}"));
                    self.next += 1;
                    return Ok(Some(Job { number, name, wanted: None, picture: Some(picture) }));
                }
                self.open = None;
            }
            match self.items.pop_front() {
                None => return Ok(None),
                Some(Item::File { name, wanted }) => {
                    self.next += 1;
                    return Ok(Some(Job { number: self.next - 1, name, wanted, picture: None }));
                }
                Some(Item::Input(uri)) => {
                    let source = capture::open(&uri, &SourceConfig::default())?;
                    self.open = Some((uri, source));
                }
            }
        }
    }
}

fn is_picture(name: &str) -> bool {
    let name = name.to_lowercase();
    [".jpg", ".jpeg", ".png"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_classes_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list.txt");
        std::fs::write(&list, "a.jpg 7\n\n  b c.png\t12 \nlone.jpg\n3 4\n").unwrap();
        let feed = Feed::new(&[], Some(&list), Path::new("/base")).unwrap();
        let jobs = feed.take(10).unwrap();
        let seen: Vec<(&str, Option<usize>)> =
            jobs.iter().map(|j| (j.name.as_str(), j.wanted)).collect();
        let want = [
            ("/base/a.jpg", Some(7)),
            ("/base/b c.png", Some(12)),
            ("/base/lone.jpg", None),
            ("/base/3", Some(4)),
        ];
        assert_eq!(seen, want);
        assert!(feed.take(1).unwrap().is_empty());
    }

    #[test]
    fn frames_of_an_input_come_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.png", "b.png", "c.png"] {
            image::RgbImage::new(4, 3).save(dir.path().join(name)).unwrap();
        }
        let folder = dir.path().to_string_lossy().into_owned();
        let file = dir.path().join("b.png").to_string_lossy().into_owned();
        let feed = Feed::new(&[folder, file], None, Path::new("")).unwrap();
        let mut jobs = feed.take(3).unwrap();
        jobs.extend(feed.take(3).unwrap());
        let numbers: Vec<usize> = jobs.iter().map(|j| j.number).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert!(jobs[0].name.ends_with("a.png") && jobs[3].name.ends_with("b.png"));
        for job in &mut jobs {
            let picture = job.picture().unwrap();
            assert_eq!((picture.format.width, picture.format.height), (4, 3));
        }
    }
}
