//! File trees as one text, for tests: what a device's `/proc`, `/sys` and `/etc` say.
//!
//! ```text
//! # comment
//! = /proc/device-tree/model
//! NVIDIA Jetson Orin Nano\0
//! -> /etc/nvpmodel.conf /etc/nvpmodel/board.conf
//! ```
//!
//! A line `= PATH` begins a file, whose lines follow (`\0` is a zero byte, `\#` a `#`); a line
//! `-> PATH TARGET` is a symbolic link; `/ PATH` is an empty folder.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Lays a tree out below a folder.
pub fn unpack(text: &str, folder: &Path) -> io::Result<()> {
    let at = |path: &str| -> io::Result<PathBuf> {
        let path = folder.join(path.trim().trim_start_matches('/'));
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        Ok(path)
    };
    let mut file: Option<(PathBuf, String)> = None;
    let write = |file: Option<(PathBuf, String)>| match file {
        Some((path, content)) => fs::write(path, content.replace("\\0", "\0").replace("\\#", "#")),
        None => Ok(()),
    };
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        } else if let Some(path) = line.strip_prefix("= ") {
            write(file.replace((at(path)?, String::new())))?;
        } else if let Some(link) = line.strip_prefix("-> ") {
            write(file.take())?;
            let (path, target) = link.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
            symlink(target.trim(), at(path)?)?;
        } else if let Some(path) = line.strip_prefix("/ ") {
            write(file.take())?;
            fs::create_dir_all(at(path)?)?;
        } else if let Some((_, content)) = &mut file {
            content.push_str(line);
            content.push('\n');
        }
    }
    write(file)
}
