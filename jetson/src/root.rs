use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// The root of a file system: `/`, or a folder that stands for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Default for Root {
    /// `/`.
    fn default() -> Root {
        Root::new("/")
    }
}

/// More of a file is not read: what is read here is a line or a small table.
const MAX_BYTES: u64 = 16 << 20;
/// Symbolic links followed at most, as the kernel does.
const MAX_LINKS: usize = 40;

impl Root {
    /// A folder as the root.
    pub fn new(folder: impl Into<PathBuf>) -> Root {
        Root(folder.into())
    }

    /// This machine's own root, about which the running system can be asked, too.
    pub fn is_live(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Where a path of this root lies, links followed within it as if it were `/`. `None`: links
    /// without end.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let mut links = 0;
        // Components yet to be walked, the next one last.
        let mut todo: Vec<OsString> = components(path.as_ref());
        let mut inside: Vec<OsString> = Vec::new();
        while let Some(next) = todo.pop() {
            if next == ".." {
                inside.pop();
                continue;
            }
            inside.push(next);
            let at = self.0.join(inside.iter().collect::<PathBuf>());
            if let Ok(target) = fs::read_link(&at) {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                inside.pop();
                if target.is_absolute() {
                    inside.clear();
                }
                todo.extend(components(&target));
            }
        }
        Some(self.0.join(inside.iter().collect::<PathBuf>()))
    }

    /// A file's path as the system of this root would say it, links followed.
    pub fn real(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let at = self.resolve(path)?;
        let inside = at.strip_prefix(&self.0).ok()?;
        Some(Path::new("/").join(inside))
    }

    /// Whether something is there.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.resolve(path).is_some_and(|p| p.exists())
    }

    /// A file's length in bytes.
    pub fn size(&self, path: impl AsRef<Path>) -> Option<u64> {
        Some(fs::metadata(self.resolve(path)?).ok()?.len())
    }

    /// A file's bytes.
    pub fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let path = self.resolve(path)?;
        if !path.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// A file's text without white space and zeros around it; `None` where there is none.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = self.bytes(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.into())
    }

    /// A file's whole number.
    pub fn number(&self, path: impl AsRef<Path>) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    /// The names in a folder, sorted, numbers within names by their value.
    pub fn names(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let Some(folder) = self.resolve(folder) else { return Vec::new() };
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort_by_key(|name| {
            let at = name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len());
            let digits: String = name[at..].chars().take_while(char::is_ascii_digit).collect();
            (name[..at].to_string(), digits.parse::<u64>().unwrap_or(0), name.clone())
        });
        names
    }
}

/// The names of a path, the first one last.
fn components(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut names: Vec<OsString> = names.collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("etc/nvpmodel")).unwrap();
        fs::write(at("etc/nvpmodel/board.conf"), "mine\n\0").unwrap();
        symlink("/etc/nvpmodel/board.conf", at("etc/nvpmodel.conf")).unwrap();
        symlink("../../../../etc", at("etc/up")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let root = Root::new(folder.path());
        assert_eq!(root.text("/etc/nvpmodel.conf").as_deref(), Some("mine"));
        assert_eq!(root.real("etc/nvpmodel.conf").unwrap(), Path::new("/etc/nvpmodel/board.conf"));
        assert_eq!(root.text("etc/up/nvpmodel.conf").as_deref(), Some("mine"));
        assert_eq!(root.resolve("loop"), None);
        assert_eq!(root.text("etc"), None);
        assert!(!root.is_live() && !root.exists("none") && Root::default().exists("/proc"));
    }

    #[test]
    fn names_come_by_number() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["video10", "video2", "a"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(Root::new(folder.path()).names("/"), ["a", "video2", "video10"]);
    }
}
