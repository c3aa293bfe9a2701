//! The files that say what a device runs: `/etc/tobiuo/NAME.conf`, one per camera.
//!
//! They are systemd's `EnvironmentFile`s: lines `KEY=VALUE`, comments behind `#` or `;`, values
//! with quotes around them or not. Read here are `MODEL`, `ENGINE`, `SEED` and `BUILD_OPTIONS`;
//! the rest is for the unit that runs the engine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::BuildError;

/// What one file says of its engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The file's name without `.conf`.
    pub name: String,
    /// `MODEL`.
    pub model: PathBuf,
    /// `ENGINE`; `None`: `NAME.tobiuo` in the cache folder.
    pub engine: Option<PathBuf>,
    /// `SEED`.
    pub seed: Option<PathBuf>,
    /// `BUILD_OPTIONS`, word by word.
    pub options: Vec<String>,
}

/// A file of this size is no configuration.
const MAX_BYTES: u64 = 1 << 20;

/// The entries of a folder, by name. Files that name no model are for the runtime alone.
pub fn read_folder(folder: &Path) -> Result<Vec<Entry>, BuildError> {
    let io = |path: &Path, error| BuildError::Io { path: path.into(), error };
    let mut paths = Vec::new();
    for file in fs::read_dir(folder).map_err(|e| io(folder, e))? {
        let path = file.map_err(|e| io(folder, e))?.path();
        if path.extension().is_some_and(|e| e == "conf") && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    let mut entries = Vec::new();
    for path in paths {
        let size = fs::metadata(&path).map_err(|e| io(&path, e))?.len();
        if size > MAX_BYTES {
            return Err(BuildError::Usage(format!("{}: {size} bytes", path.display())));
        }
        let text = fs::read(&path).map_err(|e| io(&path, e))?;
        let text = String::from_utf8_lossy(&text);
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let wrong = |what: String| BuildError::Usage(format!("{}: {what}", path.display()));
        entries.extend(parse(&name, &text).map_err(wrong)?);
    }
    Ok(entries)
}

fn parse(name: &str, text: &str) -> Result<Option<Entry>, String> {
    let mut entry = Entry {
        name: name.into(),
        model: PathBuf::new(),
        engine: None,
        seed: None,
        options: Vec::new(),
    };
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}", number + 1);
        let (key, value) = line.split_once('=').ok_or_else(|| wrong("KEY=VALUE is wanted"))?;
        let value = unquoted(value.trim()).ok_or_else(|| wrong("a quote is not closed"))?;
        let path = || (!value.is_empty()).then(|| PathBuf::from(&value));
        match key.trim() {
            "MODEL" => entry.model = path().unwrap_or_default(),
            "ENGINE" => entry.engine = path(),
            "SEED" => entry.seed = path(),
            "BUILD_OPTIONS" => {
                entry.options = value.split_whitespace().map(String::from).collect();
            }
            _ => {}
        }
    }
    Ok((!entry.model.as_os_str().is_empty()).then_some(entry))
}

/// A value without the quotes around it; a backslash takes the next character as it is.
fn unquoted(value: &str) -> Option<String> {
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let mut out = String::new();
    let mut chars = value[quote.map_or(0, char::len_utf8)..].chars();
    while let Some(c) = chars.next() {
        match c {
            _ if Some(c) == quote => return chars.as_str().trim().is_empty().then_some(out),
            '\\' if quote != Some('\'') => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    quote.is_none().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_files() {
        let text = "# a camera\n; and\nMODEL=/opt/m.onnx\nINPUT=\"/dev/video0\"\n\
                    BUILD_OPTIONS='--precision fp16  --batch 1,4'\nSEED=\"/usr/share/a \\\"b\"\n";
        let entry = parse("front", text).unwrap().unwrap();
        assert_eq!(entry.model, Path::new("/opt/m.onnx"));
        assert_eq!(entry.options, ["--precision", "fp16", "--batch", "1,4"]);
        assert_eq!(entry.seed.as_deref(), Some(Path::new("/usr/share/a \"b")));
        assert_eq!((entry.name.as_str(), entry.engine), ("front", None));
        assert_eq!(parse("x", "INPUT=/dev/video0\nSEED=\n").unwrap(), None);
        for wrong in ["MODEL", "MODEL=\"a", "MODEL='a' b", "\u{0}"] {
            assert!(parse("x", wrong).unwrap_err().starts_with("line 1: "), "{wrong}");
        }
    }

    #[test]
    fn only_conf_files_count() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("b.conf", "MODEL=b"), ("a.conf", "MODEL=a"), ("a.conf~", "junk")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let names: Vec<String> =
            read_folder(folder.path()).unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(read_folder(Path::new("/nonexistent")).unwrap_err().exit_status(), 2);
    }
}
