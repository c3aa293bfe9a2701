use std::fmt;
use std::io;
use std::path::PathBuf;

use tobiuo_engine::{EngineError, EngineErrorKind};

use tobiuo_gpu::{GpuError, GpuErrorKind};
use tobiuo_nvrtc::NvrtcError;

use crate::cuda::assemble::AssembleError;
use crate::import::{ImportError, UnsupportedNode};
use crate::passes::PassError;
use crate::plan::PlanError;
use crate::quantize::report::GateReport;
use crate::tactics::TacticError;

/// Why a build, a verification or a drawing failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// An option does not fit, or a file named on the command line is not there.
    Usage(String),
    /// The asked device is not one that this build of the program has.
    NoDevice(String),
    /// A file beside the model (labels, inputs) is damaged: which, where, why.
    Damaged(String),
    /// What is calibrated or measured on cannot be read, or is not what a network can use.
    Input(String),
    /// The accuracy that is asked for cannot be held.
    Accuracy {
        /// What is lost, and what to do.
        why: String,
        /// What the gate tried, where one was asked for.
        gate: Option<Box<GateReport>>,
    },
    /// The model cannot be imported.
    Import(ImportError),
    /// The device has no kernel for these nodes.
    Unsupported(Vec<UnsupportedNode>),
    /// A tactic record is of another device: what differs.
    OtherDevice(String),
    /// What is needed is more than the memory that may be used, or that there is: the numbers.
    Memory(String),
    /// The GPU failed.
    Gpu(GpuError),
    /// No kernels could be chosen.
    Tactic(TacticError),
    /// A mistake of the builder, found before anything was written.
    Assemble(AssembleError),
    /// A pass failed.
    Pass(PassError),
    /// The graph cannot be laid out.
    Plan(PlanError),
    /// The engine cannot be written or read.
    Engine(EngineError),
    /// The device cannot run something.
    Device(String),
    /// A folder or file of engines cannot be used: which, why, what to do.
    Provision(String),
    /// A new engine does not compute what its model computes: by how much.
    SelfTest(String),
    /// A file cannot be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
}

impl BuildError {
    /// The program's exit status for this error.
    pub fn exit_status(&self) -> u8 {
        match self {
            BuildError::Usage(_) => 2,
            BuildError::NoDevice(_) => 5,
            BuildError::Unsupported(_) => 9,
            BuildError::OtherDevice(_) => 3,
            BuildError::Memory(_) | BuildError::Tactic(TacticError::Memory(_)) => 8,
            BuildError::Gpu(e) | BuildError::Tactic(TacticError::Gpu(e)) => gpu_status(e),
            BuildError::Tactic(TacticError::Nvrtc(
                NvrtcError::Missing(_) | NvrtcError::Architecture { .. },
            )) => 5,
            BuildError::Tactic(TacticError::Record(_)) => 2,
            BuildError::Damaged(_) => 4,
            BuildError::Input(_) => 6,
            BuildError::Accuracy { .. } => 7,
            BuildError::SelfTest(_) => 7,
            BuildError::Import(ImportError::Io { error, .. })
                if error.kind() == io::ErrorKind::NotFound =>
            {
                2
            }
            BuildError::Import(e) => e.exit_status(),
            BuildError::Pass(PassError::Unknown(_)) => 2,
            BuildError::Plan(PlanError::TooLarge(_)) => 8,
            BuildError::Engine(e) if e.kind() == EngineErrorKind::Limit => 8,
            BuildError::Engine(e) => e.exit_status(),
            BuildError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => 2,
            BuildError::Pass(_)
            | BuildError::Tactic(_)
            | BuildError::Assemble(_)
            | BuildError::Plan(_)
            | BuildError::Device(_)
            | BuildError::Provision(_)
            | BuildError::Io { .. } => 1,
        }
    }
}

/// Memory that ran out is 8, code of another device 3; without driver or device, or with one that was lost, 5.
fn gpu_status(e: &GpuError) -> u8 {
    match e.kind() {
        GpuErrorKind::OutOfMemory => 8,
        GpuErrorKind::OtherDevice => 3,
        GpuErrorKind::NoDriver
        | GpuErrorKind::OldDriver
        | GpuErrorKind::NoDevice
        | GpuErrorKind::ContextLost => 5,
        _ => 1,
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Usage(s)
            | BuildError::NoDevice(s)
            | BuildError::OtherDevice(s)
            | BuildError::Memory(s)
            | BuildError::Damaged(s)
            | BuildError::Input(s)
            | BuildError::Accuracy { why: s, .. }
            | BuildError::Provision(s)
            | BuildError::SelfTest(s)
            | BuildError::Device(s) => f.write_str(s),
            BuildError::Import(e) => write!(f, "{e}"),
            BuildError::Unsupported(nodes) => {
                write!(f, "the CUDA device has no kernel for {} of the nodes:", nodes.len())?;
                for n in nodes {
                    write!(f, "\n  node '{}' ({}): {}", n.name, n.op_type, n.reason)?;
                }
                write!(f, "\n--device cpu builds it for the CPU")
            }
            BuildError::Gpu(e) => write!(f, "{e}"),
            BuildError::Tactic(e) => write!(f, "{e}"),
            BuildError::Assemble(e) => write!(f, "{e}"),
            BuildError::Pass(e) => write!(f, "{e}"),
            BuildError::Plan(e) => write!(f, "{e}"),
            BuildError::Engine(e) => write!(f, "{e}"),
            BuildError::Io { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BuildError::Import(e) => Some(e),
            BuildError::Gpu(e) => Some(e),
            BuildError::Tactic(e) => Some(e),
            BuildError::Assemble(e) => Some(e),
            BuildError::Pass(e) => Some(e),
            BuildError::Plan(e) => Some(e),
            BuildError::Engine(e) => Some(e),
            BuildError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<ImportError> for BuildError {
    fn from(e: ImportError) -> Self {
        BuildError::Import(e)
    }
}

impl From<GpuError> for BuildError {
    fn from(e: GpuError) -> Self {
        BuildError::Gpu(e)
    }
}

impl From<TacticError> for BuildError {
    fn from(e: TacticError) -> Self {
        BuildError::Tactic(e)
    }
}

impl From<AssembleError> for BuildError {
    fn from(e: AssembleError) -> Self {
        BuildError::Assemble(e)
    }
}

impl From<PassError> for BuildError {
    fn from(e: PassError) -> Self {
        BuildError::Pass(e)
    }
}

impl From<PlanError> for BuildError {
    fn from(e: PlanError) -> Self {
        BuildError::Plan(e)
    }
}

impl From<EngineError> for BuildError {
    fn from(e: EngineError) -> Self {
        BuildError::Engine(e)
    }
}
