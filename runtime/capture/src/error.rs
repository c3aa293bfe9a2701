//! The one error type of this crate.

use std::fmt;
use std::io;

/// What sort of failure it is, so that a program can choose what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CaptureErrorKind {
    /// There is no such file, device or picture.
    NotFound,
    /// The file or device exists, but this user may not open it.
    PermissionDenied,
    /// The source is of a sort, codec or layout that cannot be read here.
    Unsupported,
    /// The bytes of a file or frame are not what its format says.
    Damaged,
    /// A live source went away (camera unplugged, stream closed). Opening it again may help.
    Lost,
    /// No frame came within [`SourceConfig::timeout`](crate::SourceConfig::timeout).
    Timeout,
    /// The caller's stop flag was set.
    Stopped,
    /// The URI or the configuration makes no sense.
    Usage,
    /// The device is in use by another program.
    Busy,
    /// Anything else the operating system refused.
    Io,
}

/// Why a source could not be opened or read.
///
/// Its text says what (the URI or file), where in it, why, and what to do about it.
pub struct CaptureError(Box<Inner>);

struct Inner {
    kind: CaptureErrorKind,
    subject: String,
    place: Option<String>,
    reason: String,
    remedy: Option<String>,
    source: Option<io::Error>,
}

impl CaptureError {
    /// An error of `kind` about `subject` (a URI, a file), and why.
    pub(crate) fn new(
        kind: CaptureErrorKind,
        subject: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            subject: subject.into(),
            place: None,
            reason: reason.into(),
            remedy: None,
            source: None,
        }))
    }

    /// An error the operating system gave while doing `action` on `subject`.
    pub(crate) fn io(subject: impl Into<String>, action: &str, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => CaptureErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => CaptureErrorKind::PermissionDenied,
            io::ErrorKind::UnexpectedEof => CaptureErrorKind::Damaged,
            _ => CaptureErrorKind::Io,
        };
        let mut made = Self::new(kind, subject, format!("{action}: {error}"));
        made.0.source = Some(error);
        made
    }

    /// The stop flag was set while waiting on `subject`.
    pub(crate) fn stopped(subject: &str) -> Self {
        Self::new(CaptureErrorKind::Stopped, subject, "stopped while waiting for a frame")
    }

    /// The caller's slot is smaller than a frame.
    pub(crate) fn small_slot(subject: &str, have: usize, need: usize) -> Self {
        Self::new(
            CaptureErrorKind::Usage,
            subject,
            format!("the slot has {have} bytes and a frame needs {need}"),
        )
        .remedy("allocate slots of Source::max_frame_bytes()")
    }

    /// Adds where in the subject it happened: a byte offset, a frame number, an ioctl.
    pub(crate) fn at(mut self, place: impl Into<String>) -> Self {
        self.0.place = Some(place.into());
        self
    }

    /// Adds what the reader can do about it.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// Says that it is an error of another kind.
    pub(crate) fn of_kind(mut self, kind: CaptureErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The sort of failure.
    pub fn kind(&self) -> CaptureErrorKind {
        self.0.kind
    }

    /// What it is about: the URI or the file.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.0.subject)?;
        if let Some(place) = &self.0.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.0.reason)?;
        match &self.0.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaptureError({:?}: {self})", self.0.kind)
    }
}

impl std::error::Error for CaptureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|error| error as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_why_and_what_to_do() {
        let error = CaptureError::new(CaptureErrorKind::Damaged, "a.avi", "chunk passes the end")
            .at("byte 12")
            .remedy("copy the file again");
        assert_eq!(error.to_string(), "a.avi: byte 12: chunk passes the end; copy the file again");
        assert_eq!(error.kind(), CaptureErrorKind::Damaged);
        assert_eq!(error.subject(), "a.avi");
    }

    #[test]
    fn io_errors_keep_their_sort() {
        let error = CaptureError::io("x", "open", io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(error.kind(), CaptureErrorKind::NotFound);
        assert!(std::error::Error::source(&error).is_some());
    }
}
