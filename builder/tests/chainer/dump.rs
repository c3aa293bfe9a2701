//! Dumps written by hand, as chainer-trt's directories are laid out.

use std::path::Path;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A dump's folder in the making.
pub struct Dump {
    pub dir: TempDir,
    pub model: Value,
}

impl Dump {
    /// One without layers.
    pub fn new() -> Dump {
        let dir = tempfile::tempdir().unwrap();
        Dump { dir, model: json!({"inputs": [], "outputs": [], "layers": []}) }
    }

    /// Adds an input, its shape without the batch.
    pub fn input(mut self, name: &str, shape: &[usize]) -> Dump {
        self.list("inputs").push(json!(name));
        self.list("layers").push(json!({
            "type": "input", "name": name, "output_names": [name], "rank": -2, "shape": shape,
        }));
        self
    }

    /// Adds a layer with one tensor, `<name>_0`.
    pub fn layer(mut self, kind: &str, name: &str, sources: &[&str], more: Value) -> Dump {
        let mut fields = Map::new();
        fields.insert("type".into(), json!(kind));
        fields.insert("name".into(), json!(name));
        fields.insert("rank".into(), json!(0));
        fields.insert("output_names".into(), json!([format!("{name}_0")]));
        match sources {
            [one] => fields.insert("source".into(), json!(one)),
            several => fields.insert("sources".into(), json!(several)),
        };
        if let Value::Object(more) = more {
            fields.extend(more);
        }
        self.list("layers").push(Value::Object(fields));
        self
    }

    /// Adds a constant whose file has the whole `shape`.
    pub fn constant(mut self, name: &str, shape: &[usize], values: &[f32]) -> Dump {
        let file = format!("{name}.tensor");
        write(&self.dir.path().join(&file), shape, values);
        self.list("layers").push(json!({
            "type": "ConstantInput", "name": name, "output_names": [name], "rank": -1,
            "shape": shape.get(1..).unwrap_or_default(), "input_tensor": file,
        }));
        self
    }

    /// Adds a weight to the last layer, as file `<layer>_<key>.weights`.
    pub fn weight(mut self, key: &str, shape: &[usize], values: &[f32]) -> Dump {
        let folder = self.dir.path().to_path_buf();
        let layer = self.list("layers").last_mut().unwrap();
        let file = format!("{}_{key}.weights", layer["name"].as_str().unwrap());
        write(&folder.join(&file), shape, values);
        layer[format!("{key}_weights_file")] = json!(file);
        self
    }

    /// Adds an output.
    pub fn output(mut self, tensor: &str, name: &str) -> Dump {
        self.list("outputs").push(json!([tensor, name]));
        self
    }

    fn list(&mut self, key: &str) -> &mut Vec<Value> {
        self.model[key].as_array_mut().unwrap()
    }

    /// Writes `model.json`.
    pub fn save(self) -> Dump {
        std::fs::write(self.dir.path().join("model.json"), self.model.to_string()).unwrap();
        self
    }

    /// Writes `model.json` as these bytes.
    pub fn save_as(self, bytes: &[u8]) -> Dump {
        std::fs::write(self.dir.path().join("model.json"), bytes).unwrap();
        self
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Writes a weight file of f32.
pub fn write(path: &Path, shape: &[usize], values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    write_raw(path, 4, shape, &bytes);
}

/// Writes a weight file of elements of so many bytes.
pub fn write_raw(path: &Path, size: usize, shape: &[usize], bytes: &[u8]) {
    let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
    let mut file = format!("{size}\n{}\n", shape.join(",")).into_bytes();
    file.extend_from_slice(bytes);
    std::fs::write(path, file).unwrap();
}
