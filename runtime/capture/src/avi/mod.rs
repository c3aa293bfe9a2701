//! AVI files of Motion-JPEG, read and written.

mod reader;
mod writer;

pub(crate) use reader::open;
pub use writer::Writer;
