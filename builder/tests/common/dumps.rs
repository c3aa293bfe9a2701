//! Dumps with what the framework computed beside them: every layer's output as a tensor file
//! that its entry in `model.json` names (tests/fixtures).

use std::path::{Path, PathBuf};

use serde_json::Value;
use tobiuo_tensor::Tensor;

/// Largest relative L2 error of a layer in f32.
pub const LIMIT: f64 = 1e-5;
/// And in f16.
const LIMIT_F16: f64 = 2e-3;
/// In f16 another of two nearly equal elements may be the larger: this share of indices may
/// differ from the framework's.
const OTHER_INDICES: f64 = 0.02;

/// A layer's output.
pub struct Layer {
    /// The tensor's name.
    pub name: String,
    /// What the framework computed.
    pub want: Tensor,
    /// The error it may have in f32: the framework's own arithmetic may be less exact.
    limit: f64,
    /// It holds indices.
    indices: bool,
}

/// A dump and what the framework computed.
pub struct Dump {
    /// Its folder.
    pub folder: PathBuf,
    /// Pictures at a time.
    pub batch: usize,
    /// The inputs by name.
    pub inputs: Vec<(String, Tensor)>,
    /// The layers whose outputs are known.
    pub layers: Vec<Layer>,
}

impl Layer {
    /// What is wrong with this result of the layer.
    pub fn compare(&self, got: &Tensor, f16: bool) -> Result<(), String> {
        // Files hold integers and truths as f32, too.
        let values = got.to_f64().into_iter().map(|v| v as f32).collect();
        let got = &Tensor::f32(got.shape(), values);
        match (f16, self.indices) {
            (false, _) => super::compare(got, &self.want, self.limit),
            (true, false) => super::compare(got, &self.want, self.limit.max(LIMIT_F16)),
            (true, true) => {
                let (a, b) = (got.to_f64(), self.want.to_f64());
                let other = a.iter().zip(&b).filter(|(a, b)| a != b).count();
                let many = other as f64 > OTHER_INDICES * b.len() as f64;
                if got.shape() != self.want.shape() || many {
                    return Err(format!("{other} of {} indices differ", b.len()));
                }
                Ok(())
            }
        }
    }
}

/// A tensor file of f32.
fn tensor(path: &Path) -> Result<Tensor, String> {
    let at = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let bytes = std::fs::read(path).map_err(|e| at(&e))?;
    let mut parts = bytes.splitn(3, |&b| b == b'\n');
    let mut part = || parts.next().ok_or_else(|| at(&"it has no values"));
    let (size, shape, values) = (part()?, part()?, part()?);
    if size != b"4" {
        return Err(at(&"its values are not f32"));
    }
    let shape = String::from_utf8_lossy(shape);
    let shape: Vec<usize> = shape.split(',').filter_map(|d| d.parse().ok()).collect();
    let values: Vec<f32> = values.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    if shape.iter().product::<usize>() != values.len() {
        return Err(at(&format_args!("{} values for shape {shape:?}", values.len())));
    }
    Ok(Tensor::f32(shape, values))
}

fn model(folder: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(folder.join("model.json")).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| format!("model.json: {e}"))
}

/// Folders with a dump, sorted.
pub fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(of).unwrap_or_else(|e| panic!("{}: {e}", of.display()));
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|p| p.join("model.json").is_file())
        .collect();
    found.sort();
    found
}

impl Dump {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// A file that is missing or is not as the dump's format has it.
    pub fn read(folder: &Path) -> Result<Dump, String> {
        let model = model(folder)?;
        let text = |v: &Value| v.as_str().map(str::to_string);
        let (mut inputs, mut layers) = (Vec::new(), Vec::new());
        for layer in model["layers"].as_array().ok_or("model.json: no layers")? {
            let name = text(&layer["name"]).ok_or("model.json: a layer without a name")?;
            if layer["type"] == "input" {
                let file = text(&layer["input_tensor"]);
                let file = file.ok_or_else(|| format!("input {name} has no input_tensor"))?;
                inputs.push((name, tensor(&folder.join(file))?));
                continue;
            }
            let names = layer["output_names"].as_array();
            let names = names.map_or(std::slice::from_ref(&layer["name"]), Vec::as_slice);
            for output in names {
                let Some(name) = text(output) else { continue };
                // A layer with several outputs names one of their files.
                let file = match text(&layer["output_tensor"]) {
                    Some(file) if names.len() == 1 => folder.join(file),
                    _ => folder.join(format!("{name}_output.tensor")),
                };
                if file.is_file() {
                    layers.push(Layer {
                        name,
                        want: tensor(&file)?,
                        limit: layer["x_tolerance"].as_f64().unwrap_or(LIMIT),
                        indices: matches!(layer["type"].as_str(), Some("ArgMax" | "ResizeArgmax")),
                    });
                }
            }
        }
        let batch = inputs.first().map_or(1, |(_, t)| t.shape()[0]);
        Ok(Dump { folder: folder.into(), batch, inputs, layers })
    }

    /// The inputs, as programs are given them.
    pub fn given(&self) -> Vec<(&str, &Tensor)> {
        self.inputs.iter().map(|(n, t)| (n.as_str(), t)).collect()
    }

    /// Copies the dump with all layers whose results are known for outputs.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or written.
    pub fn copy_with_all_outputs(&self, to: &Path) -> Result<(), String> {
        let mut model = model(&self.folder)?;
        model["outputs"] =
            self.layers.iter().map(|l| Value::from(vec![l.name.clone(); 2])).collect();
        let copy = || {
            for entry in std::fs::read_dir(&self.folder)? {
                let path = entry?.path();
                if path.is_file() {
                    std::fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
                }
            }
            std::fs::write(to.join("model.json"), model.to_string())
        };
        copy().map_err(|e| format!("{}: {e}", self.folder.display()))
    }
}
