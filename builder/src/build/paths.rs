//! What a build reads and writes.

use std::fs;
use std::path::{Path, PathBuf};

use tobiuo_tensor::file;

use crate::BuildError;
use crate::options::BuildOptions;

/// Refuses, before any work, what cannot end well.
pub(super) fn check_paths(model: &Path, engine: &Path) -> Result<(), BuildError> {
    let usage = |what: String| Err(BuildError::Usage(what));
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |error| BuildError::Io { path, error }
    };
    let real_model = fs::canonicalize(model).map_err(io(model))?;
    if engine.file_name().is_none() || engine.is_dir() {
        return usage(format!(
            "{}: the engine's path is a directory; give a file name, such as {}",
            engine.display(),
            engine.join("model.tobiuo").display()
        ));
    }
    if fs::canonicalize(engine).is_ok_and(|real| real == real_model) {
        return usage(format!("{}: this would overwrite the model", engine.display()));
    }
    if engine.exists() && !engine.is_file() {
        return usage(format!(
            "{}: this is no regular file, and an engine is one; `tobiuo-builder check` tells \
             whether a model can be built without writing anything",
            engine.display()
        ));
    }
    check_folder("the engine", engine)
}

/// Refuses, before any work, places for other results where nothing can be written.
pub(super) fn check_results(options: &BuildOptions) -> Result<(), BuildError> {
    let (int8, cuda) = (&options.int8, &options.cuda);
    // A cache that is there is read.
    let cache = int8.cache.as_deref().filter(|path| !path.exists());
    let results = [
        ("--record", cuda.record.as_deref()),
        ("--calibration-cache", cache),
        ("--accuracy-svg", int8.svg.as_deref()),
    ];
    for (name, path) in results.into_iter().filter_map(|(name, path)| Some((name, path?))) {
        if path.file_name().is_none() || path.is_dir() {
            return Err(BuildError::Usage(format!(
                "{name} {}: this is a directory; give a file name",
                path.display()
            )));
        }
        check_folder(name, path)?;
    }
    Ok(())
}

/// Tries whether a file can be made where `path` is to be. Permission bits do not tell all
/// (read-only mounts, quotas).
fn check_folder(what: &str, path: &Path) -> Result<(), BuildError> {
    let folder = file::folder(path);
    if !folder.is_dir() {
        return Err(BuildError::Usage(format!(
            "{}: the directory of {what} does not exist",
            folder.display()
        )));
    }
    let probe = folder.join(format!(".tobiuo-{}.probe", std::process::id()));
    let tried = fs::OpenOptions::new().write(true).create_new(true).open(&probe);
    match tried {
        Ok(_) => {
            fs::remove_file(&probe).map_err(|error| BuildError::Io { path: probe.clone(), error })
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(BuildError::Io { path: folder.into(), error }),
    }
}

/// Refuses files of which one would overwrite another.
pub(super) fn check_distinct(
    model: &Path,
    engine: &Path,
    options: &BuildOptions,
) -> Result<(), BuildError> {
    let (int8, cuda) = (&options.int8, &options.cuda);
    let tactics = cuda.cache_file();
    // With whether it is written.
    let files = [
        ("the model", Some(model), false),
        ("the engine", Some(engine), true),
        ("--calibration", int8.calibration.as_deref(), false),
        ("--annotations", int8.annotations.as_deref(), false),
        ("--replay", cuda.replay.as_deref(), false),
        ("--record", cuda.record.as_deref(), true),
        ("the tactic cache", tactics.as_deref(), true),
        ("--calibration-cache", int8.cache.as_deref(), true),
        ("--accuracy-svg", int8.svg.as_deref(), true),
    ];
    let mut before: Vec<(&str, PathBuf, bool)> = Vec::new();
    for (name, path, written) in files.into_iter().filter_map(|(n, p, w)| Some((n, p?, w))) {
        if written && model.is_dir() && is_of_dump(path) {
            return Err(BuildError::Usage(format!(
                "{name} {}: this would overwrite a part of a dump",
                path.display()
            )));
        }
        let place = place(path);
        let same = |(_, its_place, its_written): &&(&str, PathBuf, bool)| {
            (written || *its_written) && *its_place == place
        };
        if let Some((other, ..)) = before.iter().find(same) {
            return Err(BuildError::Usage(format!(
                "{name} {}: this is {other}, too, and one would overwrite the other; give each a \
                 file of its own",
                path.display()
            )));
        }
        before.push((name, place, written));
    }
    Ok(())
}

/// True for a file that is there and is named as a chainer-trt dump's are.
fn is_of_dump(path: &Path) -> bool {
    let of_dump = path.extension().is_some_and(|e| e == "weights" || e == "tensor")
        || path.file_name().is_some_and(|n| n == "model.json");
    of_dump && path.exists()
}

/// Where a file is or will be, whatever way leads there.
fn place(path: &Path) -> PathBuf {
    let new = || Some(fs::canonicalize(file::folder(path)).ok()?.join(path.file_name()?));
    fs::canonicalize(path).ok().or_else(new).unwrap_or_else(|| path.into())
}
