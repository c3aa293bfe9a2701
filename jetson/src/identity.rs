//! Which module and which release this is.

use std::fmt;

use serde::Serialize;

use crate::{JetPack, Module, Root, jetpack_of, module_of_part};

/// What a machine says it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Identity {
    /// The board, as its device tree says.
    pub model: Option<String>,
    /// The module of the table, if it is in it.
    pub module: Option<&'static Module>,
    /// The system on chip, such as `tegra234`.
    pub soc: Option<String>,
    /// L4T's release: major, minor, patch.
    pub l4t: Option<(u32, u32, u32)>,
    /// The JetPack of this release, if it is in the table.
    pub jetpack: Option<&'static JetPack>,
}

impl Identity {
    /// Reads it from the device tree and from `/etc/nv_tegra_release`.
    pub fn read(root: &Root) -> Identity {
        let tree = |name: &str| {
            let at = ["/proc/device-tree", "/sys/firmware/devicetree/base"];
            at.iter().find_map(|folder| root.bytes(format!("{folder}/{name}")))
        };
        let strings = |name: &str| -> Vec<String> {
            let bytes = tree(name).unwrap_or_default();
            let parts = bytes.split(|b| *b == 0).map(|s| String::from_utf8_lossy(s).trim().into());
            parts.filter(|s: &String| !s.is_empty()).collect()
        };
        let compatible = strings("compatible");
        let tegra = |s: &String| {
            s.strip_prefix("nvidia,").filter(|s| s.starts_with("tegra")).map(String::from)
        };
        let l4t = l4t(root);
        Identity {
            model: strings("model").into_iter().next(),
            module: compatible.iter().find_map(|s| module_of_part(s)),
            soc: compatible.iter().find_map(tegra),
            l4t,
            jetpack: l4t.and_then(|(major, minor, _)| jetpack_of((major, minor))),
        }
    }

    /// A Jetson, known or not.
    pub fn is_jetson(&self) -> bool {
        self.soc.is_some() || self.l4t.is_some()
    }
}

/// `# R36 (release), REVISION: 4.7, GCID: …`, or the package's version `36.4.7-…` where that
/// file is not kept (as from L4T 38 on).
fn l4t(root: &Root) -> Option<(u32, u32, u32)> {
    let release = || {
        let text = root.text("/etc/nv_tegra_release")?;
        let major = text.split_once('R')?.1.split_once(' ')?.0.parse().ok()?;
        let revision = text.split_once("REVISION: ")?.1.split(',').next()?.to_string();
        Some((major, revision))
    };
    let package = || {
        let status = root.text("/var/lib/dpkg/status")?;
        let behind = status.split("Package: nvidia-l4t-core\n").nth(1)?;
        let version = behind.lines().find_map(|line| line.strip_prefix("Version: "))?;
        let (major, rest) = version.split_once('.')?;
        Some((major.parse().ok()?, rest.split('-').next()?.to_string()))
    };
    let (major, revision) = release().or_else(package)?;
    let mut numbers = revision.split('.').map(|n| n.trim().parse().unwrap_or(0));
    Some((major, numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.module.map(|m| m.name.clone());
        let name = name.or(self.model.clone()).or(self.soc.clone());
        f.write_str(name.as_deref().unwrap_or("unknown machine"))?;
        if let Some((major, minor, patch)) = self.l4t {
            write!(f, ", L4T {major}.{minor}.{patch}")?;
        }
        if let Some(jetpack) = self.jetpack {
            write!(f, " (JetPack {})", jetpack.jetpack)?;
        }
        Ok(())
    }
}
