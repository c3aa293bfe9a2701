//! Importers: a model's file becomes a [`Graph`].
//!
//! Which importer reads a file is decided by its content; a folder with a `model.json` is a
//! chainer-trt dump. The names of the model's format
//! stay here: behind this module there is only [`tobiuo_ops::Op`].

mod chainer;
mod error;
mod folder;
mod onnx;
mod order;
mod report;
mod sniff;
mod stop;

use std::fs;
use std::path::{Path, PathBuf};

pub use error::{CheckReport, ImportError, NodeReport, NodeStatus, OpCount, UnsupportedNode};

use crate::graph::Graph;

/// The largest file read: protobuf's own limit. Larger models keep weights in other files.
const MAX_FILE: u64 = (1 << 31) - 1;

/// What the user says beside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// Size of a symbolic first axis of the inputs. A fixed one stays when this is 1; any
    /// other value must agree with it.
    pub batch: usize,
    /// Shapes of inputs by name, for those with other symbolic axes.
    pub input_shapes: Vec<(String, Vec<usize>)>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        ImportOptions { batch: 1, input_shapes: Vec::new() }
    }
}

/// Reads a model.
///
/// # Errors
///
/// Any kind of [`ImportError`]; where nodes are not supported, all of them are listed.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Graph, ImportError> {
    match dump(path) {
        Some(folder) => chainer::import(&folder, options),
        None => import_bytes(&read(path)?, path, options),
    }
}

/// The dump's folder, where a path is one or its `model.json`.
pub(crate) fn dump(path: &Path) -> Option<PathBuf> {
    let folder = if path.file_name().is_some_and(|n| n == chainer::MODEL) && path.is_file() {
        tobiuo_tensor::file::folder(path)
    } else {
        path
    };
    folder.join(chainer::MODEL).exists().then(|| folder.into())
}

/// As [`import`] for a file that is in memory; `path` names it in messages, and its folder is
/// where external data is looked for.
///
/// # Errors
///
/// As [`import`].
pub fn import_bytes(
    bytes: &[u8],
    path: &Path,
    options: &ImportOptions,
) -> Result<Graph, ImportError> {
    expect_onnx(bytes, path)?;
    onnx::import(bytes, path, options)
}

/// Looks at every node of a model: supported, or why not.
///
/// # Errors
///
/// As [`import`], but for nodes that are not supported: those are in the report.
pub fn check(path: &Path, options: &ImportOptions) -> Result<CheckReport, ImportError> {
    if let Some(folder) = dump(path) {
        return chainer::check(&folder, options);
    }
    let bytes = read(path)?;
    expect_onnx(&bytes, path)?;
    onnx::check(&bytes, path, options)
}

/// Tells files that are surely no ONNX model.
fn expect_onnx(bytes: &[u8], path: &Path) -> Result<(), ImportError> {
    let reason = match sniff::other_format(bytes) {
        Some(what) => what,
        None if onnx::looks_like(bytes) => return Ok(()),
        None => "it does not begin like one, nor like anything known here".into(),
    };
    Err(ImportError::NotAModel { path: path.into(), reason })
}

/// A model file's bytes, unless it is too large or no file.
fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    let io = |error| ImportError::Io { path: path.into(), error };
    let not = |reason: String| ImportError::NotAModel { path: path.into(), reason };
    let metadata = fs::metadata(path).map_err(io)?;
    if metadata.is_dir() {
        return Err(not(sniff::folder(path)));
    }
    if !metadata.is_file() {
        return Err(not("not a regular file".into()));
    }
    if metadata.len() > MAX_FILE {
        return Err(not(format!(
            "it has {} bytes, a protobuf file ends at 2 GiB; save the weights as external data",
            metadata.len()
        )));
    }
    fs::read(path).map_err(io)
}
