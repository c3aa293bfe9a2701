use std::fmt;

use crate::{console, exit};

/// What sort of failure an [`Error`] is; each has its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller asked for something that makes no sense: a name that is not there, a shape
    /// that does not fit.
    Usage,
    /// The engine is made for another device.
    WrongDevice,
    /// A file is damaged, or is not what it should be.
    Damaged,
    /// No usable device or driver, or this build has no support for it.
    NoDevice,
    /// A kernel faulted or the device was lost while it worked. What was on it is gone; contexts
    /// made anew may work ([`Engine::reset_device`](crate::Engine::reset_device)).
    DeviceLost,
    /// A camera, picture or video cannot be opened or read.
    Input,
    /// An accuracy gate was not met.
    Accuracy,
    /// Memory or time ran out.
    Limit,
    /// The model, or what it is asked to do, is not supported.
    Unsupported,
    /// The operating system refused something else.
    Other,
}

impl ErrorKind {
    /// The exit status of a program that ends because of it; see [`exit`].
    pub fn exit_status(self) -> u8 {
        match self {
            ErrorKind::Usage => exit::USAGE,
            ErrorKind::WrongDevice => exit::WRONG_DEVICE,
            ErrorKind::Damaged => exit::DAMAGED,
            ErrorKind::NoDevice | ErrorKind::DeviceLost => exit::NO_DEVICE,
            ErrorKind::Input => exit::INPUT,
            ErrorKind::Accuracy => exit::ACCURACY,
            ErrorKind::Limit => exit::LIMIT,
            ErrorKind::Unsupported => exit::UNSUPPORTED,
            ErrorKind::Other => exit::OTHER,
        }
    }
}

/// Why something could not be done: what, where, why, and what to do about it.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of a kind, with its full text.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), source: None }
    }

    /// An error of a kind that another one caused; the cause's text is part of the message.
    pub fn caused(
        kind: ErrorKind,
        what: impl fmt::Display,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        Error { kind, message: format!("{what}: {cause}"), source: Some(Box::new(cause)) }
    }

    /// An error the operating system gave about a file.
    pub fn io(path: &std::path::Path, action: &str, cause: std::io::Error) -> Error {
        use std::io::ErrorKind as Io;
        let remedy = match cause.kind() {
            Io::StorageFull | Io::QuotaExceeded => "; make room there, or name another place",
            Io::ReadOnlyFilesystem => "; name a place on a file system that can be written to",
            _ => "",
        };
        let mut error =
            Error::caused(ErrorKind::Other, format!("{}: {action}", path.display()), cause);
        error.message.push_str(remedy);
        error
    }

    pub(crate) fn usage(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Usage, message)
    }

    /// The sort of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The exit status of a program that ends because of it.
    pub fn exit_status(&self) -> u8 {
        self.kind.exit_status()
    }

    /// True when the reader of our output has gone (`| head`): a program ends quietly.
    pub fn is_broken_pipe(&self) -> bool {
        console::is_broken_pipe(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {})", self.kind, self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e.as_ref() as _)
    }
}
