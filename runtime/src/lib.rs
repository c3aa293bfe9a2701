//! The Tobiuo runtime.
