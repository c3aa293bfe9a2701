//! The model's inputs, their shapes made static.

use std::collections::HashMap;
use std::path::Path;

use tobiuo_ops::{MAX_ELEMENTS, MAX_RANK};
use tobiuo_tensor::{DType, Shape, checked_numel};

use super::proto::{Dim, GraphProto, ValueInfo, type_name};
use super::tensor;
use crate::import::{ImportError, ImportOptions};

/// An input with a static shape.
pub struct Input<'a> {
    /// Its name.
    pub name: &'a str,
    /// Element type in the graph.
    pub dtype: DType,
    /// TensorProto.DataType in the file.
    pub data_type: i64,
    /// Static shape.
    pub shape: Shape,
}

/// All inputs, and what the named axes turned out to be.
pub struct Resolved<'a> {
    /// In the model's order.
    pub inputs: Vec<Input<'a>>,
    /// Size of each named axis.
    pub dims: HashMap<&'a str, usize>,
}

/// Fixes every input's shape: a symbolic first axis is the batch, others come from the
/// options. Inputs with an initializer of the same name are weights, not inputs.
pub fn resolve<'a>(
    graph: &GraphProto<'a>,
    options: &ImportOptions,
    path: &Path,
) -> Result<Resolved<'a>, ImportError> {
    let malformed = |reason: String| ImportError::Malformed { path: path.into(), reason };
    let weights: std::collections::HashSet<&str> =
        graph.initializers.iter().map(|t| t.name).collect();
    let inputs: Vec<&ValueInfo<'a>> =
        graph.inputs.iter().filter(|i| !weights.contains(i.name)).collect();
    let mut problems = Vec::new();
    for (name, _) in &options.input_shapes {
        if !inputs.iter().any(|i| i.name == name) {
            let names: Vec<String> = inputs.iter().map(|i| format!("'{}'", i.name)).collect();
            problems.push(format!(
                "--input-shape {name}: the model has no input '{name}', its inputs are {}",
                names.join(", ")
            ));
        }
    }
    // Named axes that an option or the batch fixes, so that they are known everywhere.
    let mut dims: HashMap<&'a str, usize> = HashMap::new();
    for input in &inputs {
        let axes = input.shape.as_deref().unwrap_or_default();
        let given = given(options, input.name);
        for (i, axis) in axes.iter().enumerate() {
            let size = match given {
                Some(shape) if shape.len() == axes.len() && (i > 0 || options.batch == 1) => {
                    shape[i]
                }
                _ if i == 0 => options.batch,
                _ => continue,
            };
            if let Dim::Param(name) = axis
                && !name.is_empty()
            {
                dims.entry(name).or_insert(size);
            }
        }
    }
    let mut resolved = Vec::new();
    for input in inputs {
        let name = input.name;
        if name.is_empty() {
            return Err(malformed("an input has no name".into()));
        }
        let dtype = match input.elem_type {
            Some(t) => tensor::dtype_of(t),
            None => None,
        };
        let Some(dtype) = dtype else {
            let what = input.elem_type.map_or_else(|| "no tensor".to_string(), type_name);
            return Err(ImportError::UnsupportedModel {
                path: path.into(),
                reason: format!(
                    "input '{name}' is {what}; inputs of FLOAT, FLOAT16, DOUBLE, INT64, INT32, \
                     INT8, UINT8 and BOOL are supported"
                ),
            });
        };
        match shape_of(input, options, &dims) {
            Ok(shape) => {
                let fits = shape.len() <= MAX_RANK
                    && checked_numel(&shape).is_some_and(|n| n <= MAX_ELEMENTS);
                if !fits {
                    return Err(malformed(format!("input '{name}' {shape:?} is too large")));
                }
                let data_type = input.elem_type.unwrap_or_default();
                resolved.push(Input { name, dtype, data_type, shape });
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(Resolved { inputs: resolved, dims })
    } else {
        Err(ImportError::InputShape { path: path.into(), problems })
    }
}

fn given<'o>(options: &'o ImportOptions, name: &str) -> Option<&'o [usize]> {
    options.input_shapes.iter().find(|(n, _)| n == name).map(|(_, s)| s.as_slice())
}

/// An input's static shape, or what the user must say.
fn shape_of(
    input: &ValueInfo<'_>,
    options: &ImportOptions,
    dims: &HashMap<&str, usize>,
) -> Result<Shape, String> {
    let name = input.name;
    let batch = options.batch;
    let given = given(options, name);
    let Some(axes) = &input.shape else {
        return given.map(<[usize]>::to_vec).ok_or_else(|| {
            format!(
                "input '{name}' has no shape in the file; give it: --input-shape {name}=1x3x224x224 \
                 (with your network's size)"
            )
        });
    };
    if let Some(shape) = given {
        if shape.len() != axes.len() {
            return Err(format!(
                "--input-shape {name}={} has {} axes, the input has {}: {}",
                join(shape),
                shape.len(),
                axes.len(),
                show(axes)
            ));
        }
        let mut shape = shape.to_vec();
        if let Some(first) = shape.first_mut()
            && batch != 1
        {
            if *first != 1 && *first != batch {
                return Err(format!(
                    "--batch {batch} and --input-shape {name}={} disagree on the batch",
                    join(&shape)
                ));
            }
            *first = batch;
        }
        return Ok(shape);
    }
    let mut shape = Vec::with_capacity(axes.len());
    let mut open = false;
    for (i, axis) in axes.iter().enumerate() {
        let known = match axis {
            // 0 and below stand for the batch in some exporters' files; elsewhere an axis may be
            // empty.
            Dim::Value(v) if *v > 0 || (*v == 0 && i > 0) => usize::try_from(*v).ok(),
            Dim::Param(p) => dims.get(p).copied().or((i == 0).then_some(batch)),
            _ => (i == 0).then_some(batch),
        };
        open |= known.is_none();
        if i == 0 && batch != 1 && known.is_some_and(|k| k != batch) {
            return Err(format!(
                "input '{name}' is {}: its batch is fixed at {}, --batch {batch} does not fit; \
                 export the model with a dynamic batch axis",
                show(axes),
                known.unwrap_or_default()
            ));
        }
        shape.push(known);
    }
    if open {
        let example: Vec<String> = shape
            .iter()
            .enumerate()
            .map(|(i, d)| match d {
                Some(d) => d.to_string(),
                None if i == 1 => "3".into(),
                None => "640".into(),
            })
            .collect();
        return Err(format!(
            "input '{name}' is {}: shapes must be static; give the sizes, for example \
             --input-shape {name}={}",
            show(axes),
            example.join("x")
        ));
    }
    Ok(shape.into_iter().flatten().collect())
}

fn join(shape: &[usize]) -> String {
    let parts: Vec<String> = shape.iter().map(usize::to_string).collect();
    parts.join("x")
}

fn show(axes: &[Dim<'_>]) -> String {
    let parts: Vec<String> = axes
        .iter()
        .map(|a| match a {
            Dim::Value(v) if *v >= 0 => v.to_string(),
            Dim::Param(p) if !p.is_empty() => p.to_string(),
            _ => "?".into(),
        })
        .collect();
    format!("[{}]", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph<'a>(inputs: Vec<(&'a str, Vec<Dim<'a>>)>) -> GraphProto<'a> {
        let info = |(name, shape)| ValueInfo { name, elem_type: Some(1), shape: Some(shape) };
        GraphProto { inputs: inputs.into_iter().map(info).collect(), ..GraphProto::default() }
    }

    fn shapes(
        inputs: Vec<(&str, Vec<Dim<'_>>)>,
        batch: usize,
        given: &[(&str, &[usize])],
    ) -> Result<Vec<Shape>, String> {
        let input_shapes = given.iter().map(|(n, s)| (n.to_string(), s.to_vec())).collect();
        let options = ImportOptions { batch, input_shapes };
        resolve(&graph(inputs), &options, Path::new("m.onnx"))
            .map(|r| r.inputs.into_iter().map(|i| i.shape).collect())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_symbolic_first_axis_is_the_batch() {
        use Dim::*;
        let image = || vec![("x", vec![Param("n"), Value(3), Value(8), Value(9)])];
        assert_eq!(shapes(image(), 4, &[]).unwrap(), [vec![4, 3, 8, 9]]);
        let dynamic = vec![("x", vec![Value(-1), Value(3)]), ("y", vec![Unknown])];
        assert_eq!(shapes(dynamic, 2, &[]).unwrap(), [vec![2, 3], vec![2]]);
        // The same name elsewhere is the same size.
        let two = vec![("x", vec![Param("n"), Value(3)]), ("y", vec![Value(5), Param("n")])];
        assert_eq!(shapes(two, 7, &[]).map_err(|e| e.contains("fixed at 5")), Err(true));
        let two = vec![("x", vec![Param("n"), Value(3)]), ("y", vec![Value(1), Param("n")])];
        assert_eq!(shapes(two, 1, &[]).unwrap(), [vec![1, 3], vec![1, 1]]);
        // A fixed batch stays unless another one is asked for.
        assert_eq!(shapes(vec![("x", vec![Value(8), Value(2)])], 1, &[]).unwrap(), [vec![8, 2]]);
    }

    #[test]
    fn other_symbolic_axes_need_the_option() {
        use Dim::*;
        let image = || vec![("in", vec![Param("n"), Value(3), Param("h"), Unknown])];
        let e = shapes(image(), 1, &[]).unwrap_err();
        assert!(e.contains("input 'in' is [n, 3, h, ?]"), "{e}");
        assert!(e.contains("--input-shape in=1x3x640x640"), "{e}");
        let given: &[(&str, &[usize])] = &[("in", &[1, 3, 32, 48])];
        assert_eq!(shapes(image(), 1, given).unwrap(), [vec![1, 3, 32, 48]]);
        assert_eq!(shapes(image(), 4, given).unwrap(), [vec![4, 3, 32, 48]]);
        assert!(shapes(image(), 1, &[("in", &[3, 32, 48])]).unwrap_err().contains("3 axes"));
        assert!(shapes(image(), 4, &[("in", &[2, 3, 8, 8])]).unwrap_err().contains("disagree"));
        assert!(shapes(image(), 1, &[("on", &[1])]).unwrap_err().contains("are 'in'"));
    }
}
