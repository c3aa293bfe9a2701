use std::fmt;

use crate::driver::{cuda_version, driver_floor, driver_update};
use crate::error::shown;
use crate::{CudaKey, DeviceKey, EngineError, EngineErrorKind, Manifest, Precision};

/// The device of this machine, to compare an engine's with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThisDevice {
    key: DeviceKey,
}

impl ThisDevice {
    /// The CPU device of this program's architecture.
    pub fn cpu() -> ThisDevice {
        ThisDevice { key: DeviceKey::Cpu { arch: std::env::consts::ARCH.into() } }
    }

    /// The key of an engine that is built here.
    pub fn key(&self) -> &DeviceKey {
        &self.key
    }
}

impl From<DeviceKey> for ThisDevice {
    /// A device described by its key, for example a simulated one.
    fn from(key: DeviceKey) -> ThisDevice {
        ThisDevice { key }
    }
}

/// The driver's name in the comparison.
const DRIVER: &str = "CUDA driver";

/// One line of the comparison.
struct Field {
    name: &'static str,
    built_for: String,
    here: String,
    fits: bool,
}

fn field(name: &'static str, built_for: impl ToString, here: impl ToString, fits: bool) -> Field {
    Field { name, built_for: built_for.to_string(), here: here.to_string(), fits }
}

fn compare(built_for: &DeviceKey, here: &DeviceKey) -> Vec<Field> {
    match (built_for, here) {
        (DeviceKey::Cpu { arch: a }, DeviceKey::Cpu { arch: b }) => vec![
            Field {
                name: "device",
                built_for: built_for.name().into(),
                here: here.name().into(),
                fits: true,
            },
            Field {
                name: "architecture",
                built_for: a.clone(),
                here: b.clone(),
                fits: a == "any" || a == b,
            },
        ],
        (DeviceKey::Cuda(a), DeviceKey::Cuda(b)) => {
            let mut fields = vec![
                field("device", &a.name, &b.name, true),
                field("compute capability", compute(a.sm), compute(b.sm), a.sm == b.sm),
                field(
                    "shared memory of a block",
                    a.shared_per_block,
                    b.shared_per_block,
                    a.shared_per_block <= b.shared_per_block,
                ),
                field(DRIVER, at_least(a.driver), cuda_version(b.driver), a.driver <= b.driver),
            ];
            if a.tuned {
                fields.push(field(
                    "multiprocessors",
                    a.sm_count,
                    b.sm_count,
                    a.sm_count == b.sm_count,
                ));
                fields.push(field("L2 cache", a.l2_bytes, b.l2_bytes, a.l2_bytes == b.l2_bytes));
            }
            fields
        }
        (a, b) => vec![field("device", a.name(), b.name(), false)],
    }
}

fn compute(sm: u32) -> String {
    format!("{}.{}", sm / 10, sm % 10)
}

fn at_least(oldest: u32) -> String {
    format!("{} or newer", cuda_version(oldest))
}

/// `Ok` when every field fits, else the table of all fields and the command that rebuilds.
pub(crate) fn check(
    manifest: &Manifest,
    here: &ThisDevice,
    engine_path: &str,
) -> Result<(), EngineError> {
    let fields = compare(&manifest.device, &here.key);
    if fields.iter().all(|f| f.fits) {
        return Ok(());
    }
    // The right device with an old driver is a matter of the driver alone.
    if let (DeviceKey::Cuda(engine), DeviceKey::Cuda(device)) = (&manifest.device, &here.key)
        && fields.iter().all(|f| f.fits || f.name == DRIVER)
    {
        return Err(old_driver(engine, device, || rebuild(manifest, here, engine_path)));
    }
    let printable = |s: &str| shown(s).trim_matches('"').to_string();
    let mut rows = vec![[String::new(), "built for".into(), "this device".into(), String::new()]];
    rows.extend(fields.iter().map(|f| {
        let mark = if f.fits { "" } else { "<- differs" };
        [f.name.into(), printable(&f.built_for), printable(&f.here), mark.into()]
    }));
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let table: Vec<String> = rows
        .iter()
        .map(|[a, b, c, mark]| {
            let line =
                format!("  {a:<0$}  {b:<1$}  {c:<2$}  {mark}", widths[0], widths[1], widths[2]);
            line.trim_end().to_string()
        })
        .collect();
    Err(EngineError::new(
        EngineErrorKind::WrongDevice,
        format!("made for another device\n{}\n", table.join("\n")),
    )
    .help(format!("rebuild it on this device:\n  {}", rebuild(manifest, here, engine_path))))
}

/// A driver that does not load the engine, and how to get to one that does, or to an engine that
/// it loads.
fn old_driver(engine: &CudaKey, here: &CudaKey, rebuild: impl Fn() -> String) -> EngineError {
    let (needs, has) = (engine.driver, here.driver);
    let mut ways: Vec<String> = driver_update(needs, here.sm).into_iter().collect();
    // Device code loads on drivers of its compiler's major version, so an older compiler helps
    // where the driver is new enough for engines at all.
    if has >= driver_floor(here.sm) {
        ways.push(format!(
            "rebuild it on this device with NVRTC {} (TOBIUO_NVRTC names it):\n  {}",
            has / 1000,
            rebuild()
        ));
    }
    EngineError::new(
        EngineErrorKind::OldDriver,
        format!(
            "the NVIDIA driver is too old: it supports CUDA {}, the engine needs {} or newer",
            cuda_version(has),
            cuda_version(needs)
        ),
    )
    .help(ways.join(", or "))
}

/// The command that builds the engine anew on this device.
fn rebuild(manifest: &Manifest, here: &ThisDevice, engine_path: &str) -> String {
    let model = match manifest.provenance.model.as_str() {
        "" => "MODEL".to_string(),
        model => quoted(model),
    };
    let batches: Vec<String> = manifest.plans.iter().map(|p| p.batch.to_string()).collect();
    format!(
        "tobiuo-builder build {model} -o {} --device {} --precision {} --batch {}",
        quoted(engine_path),
        here.key.name(),
        manifest.precision,
        batches.join(",")
    )
}

/// One word of a POSIX shell command. Control characters become `?`: this is printed.
fn quoted(word: &str) -> String {
    let word: String = word.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let word = if word.starts_with('-') { format!("./{word}") } else { word };
    let plain = |c: char| c.is_alphanumeric() || "_-./+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

impl DeviceKey {
    /// The device's name on the builder's command line (`--device`).
    pub fn name(&self) -> &'static str {
        match self {
            DeviceKey::Cpu { .. } => "cpu",
            DeviceKey::Cuda(_) => "cuda",
        }
    }
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceKey::Cpu { arch } => write!(f, "cpu ({})", arch.escape_debug()),
            DeviceKey::Cuda(key) => write!(f, "cuda ({}, sm_{})", key.name.escape_debug(), key.sm),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Fp16 => "fp16",
            Precision::Int8 => "int8",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        let cases = [
            ("yolo.onnx", "yolo.onnx"),
            ("a b.onnx", "'a b.onnx'"),
            ("it's", r"'it'\''s'"),
            ("-rf", "./-rf"),
            ("x;reboot", "'x;reboot'"),
            ("\x1b[2Jx", "'?[2Jx'"),
            ("", "''"),
        ];
        for (word, want) in cases {
            assert_eq!(quoted(word), want);
        }
    }
}
