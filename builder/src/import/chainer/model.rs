//! `model.json`: `{"inputs": [...], "outputs": [...], "layers": [...]}`.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value};
use tobiuo_ops::{MAX_ELEMENTS, MAX_RANK};
use tobiuo_tensor::checked_numel;

use super::fields::Fields;
use crate::import::{ImportError, ImportOptions};

/// The largest `model.json` read. Weights are in files of their own: the JSON of a network of a
/// thousand layers, with tracebacks, has a few MiB.
const MAX_JSON: u64 = 64 << 20;

/// A dump's graph as the file has it.
#[derive(Debug, Default)]
pub struct Model {
    /// Input layers, in the order the file lists their names.
    pub inputs: Vec<Input>,
    /// Tensor and the name the user gave it.
    pub outputs: Vec<(String, String)>,
    /// All other layers, in the file's order.
    pub layers: Vec<Layer>,
}

/// A layer of type `input`.
#[derive(Debug)]
pub struct Input {
    /// Its name and its tensor's.
    pub name: String,
    /// Without the batch.
    pub shape: Vec<usize>,
}

/// Any other layer.
#[derive(Debug)]
pub struct Layer {
    /// Chainer's function or one of the dumper's own types.
    pub kind: String,
    /// Unique.
    pub name: String,
    /// Names of the tensors it makes.
    pub outputs: Vec<String>,
    /// Names of the tensors it takes.
    pub sources: Vec<String>,
    /// Everything the file says of it.
    pub fields: Map<String, Value>,
}

impl Model {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Model, ImportError> {
        let malformed = |reason: String| ImportError::Malformed { path: path.into(), reason };
        let io = |error| ImportError::Io { path: path.into(), error };
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(malformed("not a regular file".into()));
        }
        if metadata.len() > MAX_JSON {
            return Err(malformed(format!(
                "it has {} bytes, more than {MAX_JSON}; weights belong in files of their own",
                metadata.len()
            )));
        }
        let bytes = std::fs::read(path).map_err(io)?;
        // Nesting is bounded by the parser.
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
        Model::parse(value).map_err(malformed)
    }

    fn parse(value: Value) -> Result<Model, String> {
        let Value::Object(mut top) = value else {
            return Err("an object with 'inputs', 'outputs' and 'layers' is expected".into());
        };
        let Some(Value::Array(layers)) = top.remove("layers") else {
            return Err("it has no list of 'layers'".into());
        };
        let mut model = Model::default();
        let mut inputs = Vec::new();
        let mut names = HashSet::new();
        for (i, layer) in layers.into_iter().enumerate() {
            let Value::Object(fields) = layer else {
                return Err(format!("layer {i} is no object"));
            };
            let layer = Layer::parse(fields, i)?;
            if !names.insert(layer.name.clone()) {
                return Err(format!("two layers are called '{}'", layer.name));
            }
            if layer.kind == "input" {
                inputs.push(layer.into_input()?);
            } else {
                model.layers.push(layer);
            }
        }
        // The list gives the order; an input that it leaves out comes behind.
        for name in names_of(top.get("inputs"), "inputs")?.unwrap_or_default() {
            match inputs.iter().position(|i| i.name == name) {
                Some(at) => model.inputs.push(inputs.remove(at)),
                None if model.inputs.iter().any(|i| i.name == name) => {
                    return Err(format!("'inputs' lists '{name}' twice"));
                }
                None => return Err(format!("'inputs' lists '{name}', no layer of type input")),
            }
        }
        model.inputs.append(&mut inputs);
        model.outputs = outputs(top.get("outputs"))?;
        Ok(model)
    }

    /// What of the options does not fit: a dump's shapes are fixed but for the batch.
    pub fn shape_problems(&self, options: &ImportOptions) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, given) in &options.input_shapes {
            let Some(input) = self.inputs.iter().find(|i| i.name == *name) else {
                let names: Vec<_> = self.inputs.iter().map(|i| format!("'{}'", i.name)).collect();
                problems.push(format!(
                    "--input-shape {name}: the dump has no input '{name}', its inputs are {}",
                    names.join(", ")
                ));
                continue;
            };
            let fits = given.get(1..) == Some(&input.shape) && given[0] == options.batch;
            if !fits {
                problems.push(format!(
                    "--input-shape {name}={given:?}: the dump fixes it at {:?} without the batch, \
                     which --batch says; dump the network again for another size",
                    input.shape
                ));
            }
        }
        for input in &self.inputs {
            let mut shape = vec![options.batch];
            shape.extend(&input.shape);
            let fits = shape.len() <= MAX_RANK
                && shape.iter().all(|&d| d > 0)
                && checked_numel(&shape).is_some_and(|n| n <= MAX_ELEMENTS);
            if !fits {
                problems.push(format!("input '{}': {shape:?} is no tensor's shape", input.name));
            }
        }
        problems
    }
}

/// `[[tensor, name], ...]`, or in older dumps `[name, ...]`.
fn outputs(value: Option<&Value>) -> Result<Vec<(String, String)>, String> {
    let Some(Value::Array(list)) = value else {
        return Err("it has no list of 'outputs'".into());
    };
    let mut outputs: Vec<(String, String)> = Vec::new();
    for entry in list {
        let pair = match entry {
            Value::String(name) => (name.clone(), name.clone()),
            Value::Array(pair) => match &pair[..] {
                [Value::String(tensor), Value::String(name)] => (tensor.clone(), name.clone()),
                _ => return Err(format!("output {entry} is not [tensor, name]")),
            },
            _ => return Err(format!("output {entry} is neither [tensor, name] nor a name")),
        };
        if outputs.iter().any(|(_, name)| *name == pair.1) {
            return Err(format!("two outputs are called '{}'", pair.1));
        }
        outputs.push(pair);
    }
    if outputs.is_empty() { Err("'outputs' is empty".into()) } else { Ok(outputs) }
}

/// A list of names, or one name.
fn names_of(value: Option<&Value>, what: &str) -> Result<Option<Vec<String>>, String> {
    let name = |v: &Value| match v {
        Value::String(s) if !s.is_empty() => Ok(s.clone()),
        other => Err(format!("{what}: {other} is no name")),
    };
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => list.iter().map(name).collect::<Result<_, _>>().map(Some),
        Some(one) => Ok(Some(vec![name(one)?])),
    }
}

impl Layer {
    fn parse(fields: Map<String, Value>, i: usize) -> Result<Layer, String> {
        let text = |key: &str| match fields.get(key) {
            Some(Value::String(s)) if !s.is_empty() => Ok(s.clone()),
            Some(other) => Err(format!("layer {i}: its {key} is {other}, no text")),
            None => Err(format!("layer {i} has no {key}")),
        };
        let (kind, name) = (text("type")?, text("name")?);
        let names = |key: &str| names_of(fields.get(key), &format!("layer '{name}': {key}"));
        let sources = match (names("sources")?, names("source")?) {
            (Some(_), Some(_)) => {
                return Err(format!("layer '{name}' has both 'source' and 'sources'"));
            }
            (Some(sources), None) | (None, Some(sources)) => sources,
            (None, None) => Vec::new(),
        };
        // Dumps of old versions know layers only.
        let outputs = names("output_names")?.unwrap_or_else(|| vec![name.clone()]);
        Ok(Layer { kind, name, outputs, sources, fields })
    }

    fn into_input(self) -> Result<Input, String> {
        let in_layer = |e: String| format!("layer '{}' (input): {e}", self.name);
        let fields = Fields::new(&self.fields);
        let shape = fields.sizes("shape").map_err(in_layer)?;
        let shape = shape.ok_or_else(|| in_layer("it has no shape".into()))?;
        if self.outputs != [self.name.as_str()] {
            return Err(in_layer("its output has another name than the layer".into()));
        }
        if let Some(key) = fields.unread().first() {
            return Err(in_layer(format!("'{key}' is not known for this type of layer")));
        }
        Ok(Input { name: self.name, shape })
    }
}
