//! Files that a model names: looked for in its folder and nowhere else.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// The real path and the length of a regular file that a model in `folder` names, or why it is
/// not read: the model comes from somewhere, so a name may not lead out of the folder, neither
/// by itself nor through a link.
pub fn file_in(folder: &Path, name: &str) -> Result<(PathBuf, u64), String> {
    let inside = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    if name.is_empty() || name.contains('\0') || !Path::new(name).components().all(inside) {
        return Err("it lies outside the model's folder".into());
    }
    let real = |path: &Path| path.canonicalize().map_err(|e| e.to_string());
    let (real_folder, path) = (real(folder)?, real(&folder.join(name))?);
    if !path.starts_with(&real_folder) {
        return Err("a link that leads out of the model's folder".into());
    }
    match fs::metadata(&path) {
        Ok(m) if m.is_file() => Ok((path, m.len())),
        Ok(_) => Err("not a regular file".into()),
        Err(e) => Err(e.to_string()),
    }
}
