//! Runs Tobiuo engines: on tensors, and on camera frames.
//!
//! An engine file is made from a model by `tobiuo-builder`, on the machine that runs it. To
//! run it on tensors, open it, make a context, bind by name:
//!
//! ```no_run
//! use tobiuo::{Engine, Tensor};
//!
//! let engine = Engine::open("resnet50.tobiuo")?;
//! let mut context = engine.context()?;
//! context.set_input("data", &Tensor::f32([1, 3, 224, 224], vec![0.0; 3 * 224 * 224]))?;
//! context.run()?;
//! let probabilities = context.output("prob")?; // f32 [1, 1000]
//! # Ok::<(), tobiuo::Error>(())
//! ```
//!
//! To run a detector on a camera, a video or pictures, make a [`Pipeline`]:
//!
//! ```no_run
//! use tobiuo::{Engine, Pipeline, sink};
//!
//! let engine = Engine::open("detector.tobiuo")?;
//! let mut pipeline = Pipeline::builder(&engine, "/dev/video0")
//!     .score_threshold(0.4)
//!     .sink(sink::open("annotated.avi")?)
//!     .start()?;
//! pipeline.run(|result| {
//!     for d in result.detections() {
//!         println!("{}: {} {:.2}", result.number(), engine.label(d.class), d.score);
//!     }
//!     Ok(())
//! })?;
//! println!("{}", pipeline.finish()?);
//! # Ok::<(), tobiuo::Error>(())
//! ```
//!
//! Shapes are outermost axis first; pictures are NCHW; boxes are in pixels of the frame;
//! times are nanoseconds of `CLOCK_MONOTONIC` where they are points and [`Duration`]s where
//! they are spans. Every fallible call gives an [`Error`], whose [`ErrorKind`] knows the
//! program's [exit status](exit).
//!
//! [`Duration`]: std::time::Duration

#![forbid(unsafe_code)]

pub mod bench;
pub mod console;
mod context;
pub mod detect;
mod device;
pub mod draw;
mod engine;
mod error;
pub mod eval;
pub mod exit;
pub mod logging;
mod machine;
mod notify;
pub mod pipeline;
mod pixels;
pub mod process;
pub mod sink;
pub mod stats;
pub mod timeline;
mod vision;

pub use context::{ContextOptions, ExecutionContext, TensorRef};
pub use detect::Detection;
pub use device::{DeviceChoice, MemoryPath, Preprocessor, TransferTimes};
pub use engine::Engine;
pub use error::{Error, ErrorKind};
pub use machine::Machine;
pub use notify::Notifier;
pub use pipeline::{FrameResult, Pipeline, Summary};
pub use tobiuo_capture as capture;
pub use tobiuo_engine::manifest;
/// Memory, streams and events of CUDA devices, for device pointers as inputs and outputs.
#[cfg(feature = "cuda")]
pub use tobiuo_gpu as gpu;
/// The machine: modules, clocks, heat and power, the doctor's lines.
pub use tobiuo_jetson as jetson;
pub use tobiuo_tensor::{DType, Tensor, TensorView, TensorViewMut, ViewData, ViewDataMut, npy};

impl From<capture::CaptureError> for Error {
    fn from(e: capture::CaptureError) -> Error {
        let kind = match e.kind() {
            capture::CaptureErrorKind::Usage => ErrorKind::Usage,
            _ => ErrorKind::Input,
        };
        Error::new(kind, e.to_string())
    }
}
