//! Samples from arrays: `.npz`, or `.npy` for a network with one input.

use std::path::Path;

use tobiuo_tensor::{DType, Tensor, npy};

use super::npz;
use crate::BuildError;
use crate::graph::Graph;

/// For each sample, the graph's inputs; samples lie along axis 0.
pub fn read(path: &Path, graph: &Graph, extension: &str) -> Result<Vec<Vec<Tensor>>, BuildError> {
    let damaged = |what: String| BuildError::Damaged(format!("{}: {what}", path.display()));
    for &v in &graph.inputs {
        let value = graph.value(v);
        if value.fact.dtype != DType::F32 {
            return Err(BuildError::Usage(format!(
                "{}: input '{}' is {}; only networks whose inputs are all f32 can be calibrated, \
                 build this one without --precision int8",
                path.display(),
                value.name,
                value.fact
            )));
        }
    }
    // What cannot be opened is no damaged file.
    std::fs::File::open(path).map_err(|e| BuildError::Input(format!("{}: {e}", path.display())))?;
    let arrays: Vec<(String, Tensor)> = if extension == "npy" {
        let [only] = graph.inputs[..] else {
            return Err(damaged(format!(
                "the network has {} inputs; give a .npz with an array for each",
                graph.inputs.len()
            )));
        };
        let tensor = npy::read(path).map_err(|e| damaged(e.to_string()))?;
        vec![(graph.value(only).name.clone(), tensor)]
    } else {
        npz::read(path).map_err(damaged)?
    };
    let mut count = None;
    let mut columns = Vec::new();
    for &v in &graph.inputs {
        let value = graph.value(v);
        let Some((_, array)) = arrays.iter().find(|(name, _)| *name == value.name) else {
            let names: Vec<&str> = arrays.iter().map(|(n, _)| n.as_str()).collect();
            return Err(damaged(format!(
                "there is no array '{}' for that input; there are: {}",
                value.name,
                names.join(", ")
            )));
        };
        let wanted = &value.fact.shape;
        let Some((&have, sample)) = array.shape().split_first() else {
            return Err(damaged(format!(
                "array '{}' is a single number without axes; samples of {} are wanted, along \
                 axis 0",
                value.name, value.fact
            )));
        };
        // [M, ...] of items, or [M, N, ...] of whole inputs.
        let whole = sample == wanted.as_slice();
        let fits = whole || wanted.get(1..) == Some(sample);
        if !fits || array.dtype() != DType::F32 {
            return Err(damaged(format!(
                "array '{}' is {} {:?}, samples of {} are wanted, along axis 0",
                value.name,
                array.dtype(),
                array.shape(),
                value.fact
            )));
        }
        if *count.get_or_insert(have) != have {
            return Err(damaged("the arrays have different numbers of samples".into()));
        }
        let data = array.as_f32().unwrap_or_default();
        let size: usize = sample.iter().product();
        let batch = if whole { 1 } else { wanted.first().copied().unwrap_or(1) };
        let one = |i: usize| {
            let part = &data[i * size..(i + 1) * size];
            Tensor::f32(wanted.clone(), part.repeat(batch))
        };
        columns.push((0..have).map(one).collect::<Vec<_>>());
    }
    let count = count.unwrap_or(0);
    if count == 0 {
        return Err(damaged("there are no samples in it".into()));
    }
    Ok((0..count).map(|i| columns.iter().map(|c| c[i].clone()).collect()).collect())
}
