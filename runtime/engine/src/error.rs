use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What kind of thing is wrong with an engine file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EngineErrorKind {
    /// No file has this path.
    NotFound,
    /// The system could not read or write the file.
    Io,
    /// The file is something else.
    NotAnEngine,
    /// The file's format is newer (or older) than this program reads.
    Version,
    /// The file ends too early.
    Truncated,
    /// Bytes were changed after the file was made.
    Damaged,
    /// The bytes are as they were made, but what they say cannot be right.
    Inconsistent,
    /// The engine is made for another device.
    WrongDevice,
    /// The engine is made for this device, and the device's driver is older than it needs.
    OldDriver,
    /// More of something than any engine needs.
    Limit,
}

/// Why an engine file cannot be read, written or used: which file, where in it, the reason,
/// and what to do.
pub struct EngineError(Box<Inner>);

struct Inner {
    kind: EngineErrorKind,
    path: Option<PathBuf>,
    place: String,
    offset: Option<u64>,
    reason: String,
    help: String,
    source: Option<io::Error>,
}

impl EngineError {
    pub(crate) fn new(kind: EngineErrorKind, reason: impl Into<String>) -> EngineError {
        let help = match kind {
            EngineErrorKind::NotAnEngine => "engines are made by `tobiuo-builder build`",
            EngineErrorKind::Truncated | EngineErrorKind::Damaged => {
                "copy it again from where it was made, or rebuild it with `tobiuo-builder build`"
            }
            EngineErrorKind::Inconsistent | EngineErrorKind::Limit => {
                "do not use it unless you trust where it comes from; rebuild it with \
                 `tobiuo-builder build`, and report this if the builder made it"
            }
            _ => "",
        };
        EngineError(Box::new(Inner {
            kind,
            path: None,
            place: String::new(),
            offset: None,
            reason: reason.into(),
            help: help.into(),
            source: None,
        }))
    }

    pub(crate) fn io(doing: &str, source: io::Error) -> EngineError {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => EngineErrorKind::NotFound,
            _ => EngineErrorKind::Io,
        };
        let mut e = EngineError::new(kind, format!("{doing}: {source}"));
        e.0.source = Some(source);
        e
    }

    /// In which file.
    pub(crate) fn in_file(mut self, path: &Path) -> EngineError {
        self.0.path = Some(path.to_path_buf());
        self
    }

    /// Where in the file's content: a section, a plan, a step.
    pub(crate) fn at(mut self, place: impl Into<String>) -> EngineError {
        self.0.place = place.into();
        self
    }

    /// At which byte of the file.
    pub(crate) fn at_byte(mut self, offset: u64) -> EngineError {
        self.0.offset = Some(offset);
        self
    }

    /// What to do, instead of the kind's own advice.
    pub(crate) fn help(mut self, help: impl Into<String>) -> EngineError {
        self.0.help = help.into();
        self
    }

    /// The kind.
    pub fn kind(&self) -> EngineErrorKind {
        self.0.kind
    }

    /// The file.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Where in the file's content: a section, a plan, a step; empty where the whole is meant.
    pub fn place(&self) -> &str {
        &self.0.place
    }

    /// The byte of the file where the damaged or inconsistent part begins, where known.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The reason alone.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// What to do about it; may be empty.
    pub fn advice(&self) -> &str {
        &self.0.help
    }

    /// The programs' exit status for it: 2 no such file, 3 made for another device, 4 damaged,
    /// untrusted or no engine, 5 for a newer driver, 1 anything else.
    pub fn exit_status(&self) -> u8 {
        match self.0.kind {
            EngineErrorKind::NotFound => 2,
            EngineErrorKind::WrongDevice => 3,
            EngineErrorKind::OldDriver => 5,
            EngineErrorKind::Io => 1,
            EngineErrorKind::NotAnEngine
            | EngineErrorKind::Version
            | EngineErrorKind::Truncated
            | EngineErrorKind::Damaged
            | EngineErrorKind::Inconsistent
            | EngineErrorKind::Limit => 4,
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        if let Some(path) = &e.path {
            write!(f, "{}: ", path.display())?;
        }
        match (e.place.is_empty(), e.offset) {
            (false, Some(offset)) => write!(f, "{} at byte {offset}: ", e.place)?,
            (false, None) => write!(f, "{}: ", e.place)?,
            (true, Some(offset)) => write!(f, "byte {offset}: ")?,
            (true, None) => (),
        }
        f.write_str(&e.reason)?;
        if !e.help.is_empty() {
            write!(f, "; {}", e.help)?;
        }
        Ok(())
    }
}

impl fmt::Debug for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EngineError({:?}: {self})", self.0.kind)
    }
}

impl std::error::Error for EngineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}

/// A name out of a file as messages show it: quoted, control characters escaped, not endless.
pub(crate) fn shown(name: &str) -> String {
    const LONGEST: usize = 96;
    if name.chars().count() <= LONGEST {
        return format!("{name:?}");
    }
    let start: String = name.chars().take(LONGEST).collect();
    format!("{start:?}...")
}
