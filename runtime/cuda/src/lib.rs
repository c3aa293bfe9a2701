//! Runs the CUDA plans of engines.
//!
//! A [`CudaEngine`] has the weights on a device, once; a [`CudaPlan`] adds the kernels of one
//! plan; each [`CudaExecutor`] of it has its own activations, and its launches as one captured
//! graph. Executors of one plan run at once on several threads.
//!
//! ```no_run
//! use tobiuo_cuda::{CudaEngine, CudaExecutor, ExecutorOptions};
//! use tobiuo_gpu::Context;
//! # fn weights() -> Vec<u8> { vec![] }
//! # fn code() -> Vec<u8> { vec![] }
//! # fn plan() -> tobiuo_engine::Plan { unimplemented!() }
//!
//! let context = Context::new(0)?;
//! let engine = CudaEngine::new(&context, &weights(), &|_| ())?;
//! let plan = engine.plan(&plan(), &code())?;
//! let mut executor = CudaExecutor::new(&plan, &ExecutorOptions::default())?;
//! // Fill executor.input_mut(0), then:
//! executor.run()?;
//! println!("{:?}", executor.output(0).shape);
//! # Ok::<(), tobiuo_gpu::GpuError>(())
//! ```

#![forbid(unsafe_code)]

mod camera;
mod engine;
mod executor;
mod key;
mod launches;
mod layers;

pub use camera::{
    BoxChoice, Camera, CameraOptions, DeviceSpans, DeviceTimes, Found, FrameSize, Slot,
};
pub use engine::{CudaEngine, CudaPlan};
pub use executor::{CudaExecutor, ExecutorOptions, MemoryPath, RunTimes};
pub use key::device_key;
pub use tobiuo_engine::{DRIVER_FLOOR, driver_floor};
