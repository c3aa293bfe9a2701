use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Why a model cannot become a graph.
#[derive(Debug)]
#[non_exhaustive]
pub enum ImportError {
    /// The file, or a file beside it that holds its weights, cannot be read.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The file is no model of a known format.
    NotAModel {
        /// The file.
        path: PathBuf,
        /// Why, and what it looks like.
        reason: String,
    },
    /// The file is a model, but damaged or against its format.
    Malformed {
        /// The file.
        path: PathBuf,
        /// The place and the reason.
        reason: String,
    },
    /// The model as a whole asks for something that is not supported.
    UnsupportedModel {
        /// The file.
        path: PathBuf,
        /// What.
        reason: String,
    },
    /// An input's shape is not fixed, or an option does not fit the model's inputs.
    InputShape {
        /// The file.
        path: PathBuf,
        /// One line per input: its name, its axes, and the option that fixes it.
        problems: Vec<String>,
    },
    /// Nodes that are not supported or do not fit their operands: every one of them.
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The nodes, in the model's order.
        nodes: Vec<UnsupportedNode>,
    },
}

/// What stands in the way of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Nothing.
    Supported,
    /// The operator, an attribute or an operand's form is not supported.
    Unsupported,
    /// It is against the standard.
    Invalid,
    /// An operand's type or shape is unknown because of an earlier node.
    NotChecked,
}

/// A node that cannot be translated.
#[derive(Clone, Debug, Serialize)]
pub struct UnsupportedNode {
    /// Its name, or a name made of operator and place.
    pub name: String,
    /// Operator.
    pub op_type: String,
    /// Operator domain; empty for the format's own.
    pub domain: String,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Type and shape of every operand, as far as known.
    pub inputs: Vec<String>,
    /// What kind of problem.
    pub status: NodeStatus,
    /// What is wrong.
    pub reason: String,
    /// What would be needed, or what to change in the model; may be empty.
    pub would_need: String,
}

/// What `check` found of one node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// Its name, or a name made of operator and place.
    pub name: String,
    /// Operator.
    pub op_type: String,
    /// Operator domain; empty for the format's own.
    pub domain: String,
    /// Supported or why not.
    pub status: NodeStatus,
    /// Everything about the problem, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<UnsupportedNode>,
}

/// How many nodes of an operator the model has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OpCount {
    /// Nodes.
    pub total: usize,
    /// Nodes that can be translated.
    pub supported: usize,
}

/// What `tobiuo-builder check` prints: every node, supported or why not.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// File name without its folder.
    pub model: String,
    /// Producer, version, opset.
    pub producer: String,
    /// True when every node is supported.
    pub supported: bool,
    /// Name, type and shape of each input.
    pub inputs: Vec<String>,
    /// Name, type and shape of each output, as far as known.
    pub outputs: Vec<String>,
    /// Nodes by operator (`domain.Operator` where the domain is not ONNX's own).
    pub operators: BTreeMap<String, OpCount>,
    /// Every node in the model's order.
    pub nodes: Vec<NodeReport>,
    /// What a user should know beside that.
    pub notes: Vec<String>,
}

impl ImportError {
    /// The program's exit status for this error: 9 not supported, 4 damaged file, 2 an option
    /// is missing or does not fit, 1 the system's errors.
    pub fn exit_status(&self) -> u8 {
        match self {
            ImportError::Io { .. } => 1,
            ImportError::NotAModel { .. } | ImportError::Malformed { .. } => 4,
            ImportError::UnsupportedModel { .. } => 9,
            ImportError::InputShape { .. } => 2,
            ImportError::Unsupported { nodes, .. } => {
                let only_invalid = nodes
                    .iter()
                    .all(|n| matches!(n.status, NodeStatus::Invalid | NodeStatus::NotChecked));
                if only_invalid { 4 } else { 9 }
            }
        }
    }

    /// The nodes that cannot be translated, where that is the problem.
    pub fn nodes(&self) -> &[UnsupportedNode] {
        if let ImportError::Unsupported { nodes, .. } = self { nodes } else { &[] }
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportError::Io { path, error } => write!(f, "{}: {error}", path.display()),
            ImportError::NotAModel { path, reason } => {
                write!(f, "{}: not an ONNX model or dump: {reason}", path.display())
            }
            ImportError::Malformed { path, reason } => {
                write!(f, "{}: damaged or invalid model: {reason}", path.display())
            }
            ImportError::UnsupportedModel { path, reason } => {
                write!(f, "{}: {reason}", path.display())
            }
            ImportError::InputShape { path, problems } => {
                write!(f, "{}: {}", path.display(), problems.join("\n"))
            }
            ImportError::Unsupported { path, nodes } => {
                let n = nodes.len();
                let are = if n == 1 { "node cannot" } else { "nodes cannot" };
                write!(f, "{}: {n} {are} be translated:", path.display())?;
                nodes.iter().try_for_each(|node| write!(f, "\n  {node}"))
            }
        }
    }
}

impl fmt::Display for UnsupportedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domain = if self.domain.is_empty() { "" } else { "." };
        write!(f, "'{}' ({}{domain}{}", self.name, self.domain, self.op_type)?;
        if !self.inputs.is_empty() {
            write!(f, " of {}", self.inputs.join(", "))?;
        }
        for (i, (key, value)) in self.attributes.iter().enumerate() {
            write!(f, "{}{key}={value}", if i == 0 { "; " } else { ", " })?;
        }
        write!(f, "): {}", self.reason)?;
        if !self.would_need.is_empty() {
            write!(f, "; {}", self.would_need)?;
        }
        Ok(())
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let ImportError::Io { error, .. } = self { Some(error) } else { None }
    }
}
