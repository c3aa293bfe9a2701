//! Why the translation of one node stops.

/// Why the translation of one node stops.
#[derive(Clone, Debug)]
pub enum Stop {
    /// A form of the operator that is not supported.
    Unsupported {
        /// What is not supported.
        reason: String,
        /// What would be needed.
        need: String,
    },
    /// The node is against the standard.
    Invalid(String),
    /// It depends on a value that is not known.
    NotChecked(String),
}

/// A translation step's result.
pub type Res<T> = Result<T, Stop>;

/// Stops at a form that is not supported; `need` says what would help, or is empty.
pub fn unsupported<T>(reason: impl Into<String>, need: impl Into<String>) -> Res<T> {
    Err(Stop::Unsupported { reason: reason.into(), need: need.into() })
}

/// Stops at a violation of the standard.
pub fn invalid<T>(reason: impl Into<String>) -> Res<T> {
    Err(Stop::Invalid(reason.into()))
}
