//! The passes: each turns a graph into an equivalent, cheaper one, in a file of its own.
//!
//! [`PASSES`] is the ordered list. A pass does no I/O, keeps the graph's inputs and outputs,
//! and keeps the name of every value that survives it, so that layers can be compared by
//! name with the graph as imported. Every pass is tested by running graphs before and after
//! it on the CPU reference.

mod absorb_pad;
mod affine;
mod common;
mod fold_affine;
mod fold_constants;
mod fuse_activation;
mod fuse_residual;
mod identities;
pub(crate) mod integers;
mod matmul_to_gemm;
mod merge_siblings;
mod patterns;
mod patterns_norm;

use std::fmt;

use tobiuo_engine::PassRecord;

use crate::graph::{Graph, GraphError};

/// A pass: its name, what it does, and the function.
#[derive(Clone, Copy)]
pub struct Pass {
    /// Name, as `--passes-until` takes it.
    pub name: &'static str,
    /// One line for people.
    pub what: &'static str,
    /// The rewriting itself.
    pub run: fn(Graph) -> Result<Graph, GraphError>,
    /// Run only where [`PassOptions`] asks for it.
    pub optional: bool,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! pass {
    ($name:literal, $what:literal, $run:expr) => {
        Pass { name: $name, what: $what, run: $run, optional: false }
    };
}

/// Every pass, in the order they run.
pub const PASSES: &[Pass] = &[
    pass!("dead-code", "removes what no output needs", |g| Ok(g.compact())),
    pass!("fold-constants", "computes what depends on constants only", fold_constants::run),
    pass!("identities", "removes ops that change nothing, joins moves", identities::run),
    pass!("common", "computes equal things once", common::run),
    pass!("patterns", "finds Silu, HardSwish, Mish, Gelu in their parts", patterns::run),
    pass!("layer-norm", "finds LayerNorm in its parts", patterns_norm::run),
    pass!("matmul-to-gemm", "turns MatMul by a constant (+ Add) into Gemm", matmul_to_gemm::run),
    pass!("absorb-pad", "moves padding into convolutions and pools", absorb_pad::run),
    pass!("fold-affine", "folds BatchNorm, Mul, Add into weights", fold_affine::run),
    pass!("fuse-residual", "adds a residual inside the convolution", fuse_residual::run),
    pass!("fuse-activation", "applies activations where values are made", fuse_activation::run),
    Pass {
        name: "merge-siblings",
        what: "convolutions of one input become one",
        run: merge_siblings::run,
        optional: true,
    },
    Pass {
        name: "integers",
        what: "layers between Dequantize and Quantize take integers",
        run: integers::run,
        optional: true,
    },
    pass!("cleanup", "folds, removes and shares what earlier passes left", |g| {
        common::run(identities::run(fold_constants::run_all(g)?)?)
    }),
];

/// Which passes run.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    /// Stop after this pass (to find the one that goes wrong); `None` runs all.
    pub until: Option<String>,
    /// Names of optional passes to run.
    pub with: Vec<String>,
}

/// Why the passes failed.
#[derive(Debug)]
pub enum PassError {
    /// No pass has this name.
    Unknown(String),
    /// A pass made a graph that is not well formed: a mistake of the builder.
    Broken {
        /// The pass.
        pass: &'static str,
        /// What is wrong.
        error: GraphError,
    },
}

impl fmt::Display for PassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassError::Unknown(name) => {
                let names: Vec<_> = PASSES.iter().map(|p| p.name).collect();
                write!(f, "no pass is called '{name}'; there are: {}", names.join(", "))
            }
            PassError::Broken { pass, error } => write!(
                f,
                "the pass '{pass}' broke the graph: {error}. This is a mistake in the builder; \
                 --passes-until NAME with the pass before it goes around it"
            ),
        }
    }
}

impl std::error::Error for PassError {}

/// Runs the passes; `on_pass` is told of each before it runs.
pub fn optimise(
    mut graph: Graph,
    options: &PassOptions,
    on_pass: &mut dyn FnMut(&Pass),
) -> Result<(Graph, Vec<PassRecord>), PassError> {
    for name in options.until.iter().chain(&options.with) {
        if !PASSES.iter().any(|p| p.name == name) {
            return Err(PassError::Unknown(name.clone()));
        }
    }
    let mut records = Vec::new();
    for pass in PASSES {
        if !pass.optional || options.with.iter().any(|n| n == pass.name) {
            on_pass(pass);
            let nodes_before = graph.nodes.len();
            let broken = |error| PassError::Broken { pass: pass.name, error };
            graph = (pass.run)(graph).map_err(broken)?;
            graph.check().map_err(broken)?;
            let nodes_after = graph.nodes.len();
            records.push(PassRecord { name: pass.name.into(), nodes_before, nodes_after });
        }
        if options.until.as_deref() == Some(pass.name) {
            break;
        }
    }
    Ok((graph, records))
}

/// The two passes that make integer layers of a graph with Quantize and Dequantize.
pub(crate) fn integer_layers(mut graph: Graph) -> Result<Graph, PassError> {
    for pass in PASSES.iter().filter(|p| matches!(p.name, "integers" | "cleanup")) {
        let broken = |error| PassError::Broken { pass: pass.name, error };
        graph = (pass.run)(graph).map_err(broken)?;
        graph.check().map_err(broken)?;
    }
    Ok(graph)
}

#[cfg(test)]
mod tests;
