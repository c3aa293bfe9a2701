//! File names of outputs that are one file per frame.

use std::path::{Path, PathBuf};

use super::make_folder;
use crate::Error;
use crate::pipeline::FrameResult;

/// How the file of a frame is named.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Naming {
    /// Text before and after the number, and its least digits.
    Numbered(String, usize, String),
    /// One file, for one frame.
    Single(PathBuf),
    /// In a folder, with an extension: as the frame is named, else by number.
    Folder(PathBuf, &'static str),
}

impl Naming {
    /// A pattern with `%i`, `%d`, `%6i` or `%06i` in it; without one, a single file.
    pub fn parse(pattern: &str) -> Result<Naming, Error> {
        let Some((before, rest)) = pattern.split_once('%') else {
            return Ok(Naming::Single(PathBuf::from(pattern)));
        };
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let width = rest[..digits].parse().unwrap_or(0usize);
        let kind = rest[digits..].chars().next();
        let after = rest.get(digits + 1..).unwrap_or_default();
        if !matches!(kind, Some('i' | 'd')) || width > 20 || after.contains('%') {
            return Err(Error::usage(format!(
                "output '{pattern}': one %i (or %06i, %d) stands for the frame's number"
            )));
        }
        Ok(Naming::Numbered(before.into(), width, after.into()))
    }

    /// Makes the folder that the files go to.
    pub fn prepare(&self) -> Result<(), Error> {
        match self {
            Naming::Folder(folder, _) => make_folder(folder),
            Naming::Single(path) => super::make_parent(path),
            Naming::Numbered(..) => super::make_parent(&self.numbered(0)),
        }
    }

    fn numbered(&self, number: u64) -> PathBuf {
        match self {
            Naming::Numbered(before, width, after) => {
                PathBuf::from(format!("{before}{number:0width$}{after}"))
            }
            Naming::Single(path) => path.clone(),
            Naming::Folder(folder, extension) => folder.join(format!("{number:06}.{extension}")),
        }
    }

    /// The file of a frame, the `nth` that is written.
    pub fn path(&self, result: &FrameResult, nth: u64) -> Result<PathBuf, Error> {
        match self {
            Naming::Folder(folder, extension) => {
                let stem = result.name().and_then(|n| Path::new(n).file_stem());
                Ok(match stem.and_then(|s| s.to_str()) {
                    Some(stem) => folder.join(format!("{stem}.{extension}")),
                    None => self.numbered(result.number()),
                })
            }
            Naming::Single(path) if nth > 0 => Err(Error::usage(format!(
                "output '{}' is one file and there are more frames; put %i where the frame's \
                 number belongs, or give --frames 1",
                path.display()
            ))),
            _ => Ok(self.numbered(result.number())),
        }
    }

    /// What is made, for people.
    pub fn describe(&self, count: u64) -> String {
        match self {
            Naming::Numbered(before, width, after) => {
                let digits = if *width > 0 { format!("0{width}") } else { String::new() };
                format!("{before}%{digits}i{after} ({count} files)")
            }
            Naming::Single(path) => path.display().to_string(),
            Naming::Folder(folder, _) => format!("{} ({count} files)", folder.display()),
        }
    }
}
