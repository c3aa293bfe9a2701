use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tobiuo_engine::manifest::{Detect, Manifest, Port, Task};
use tobiuo_engine::{EngineError, EngineErrorKind, EngineFile};

use crate::context::{ContextOptions, ExecutionContext};
use crate::device::{DeviceChoice, Loaded};
use crate::{Error, ErrorKind};

/// An engine, opened and checked. Cheap to clone and to share between threads; each worker
/// makes its own [`ExecutionContext`] of it.
///
/// ```no_run
/// use tobiuo::{Engine, Tensor};
///
/// let engine = Engine::open("resnet50.tobiuo")?;
/// let mut context = engine.context()?;
/// context.set_input("data", &Tensor::f32([1, 3, 224, 224], vec![0.0; 3 * 224 * 224]))?;
/// context.run()?;
/// println!("{:?}", context.output("prob")?.shape);
/// # Ok::<(), tobiuo::Error>(())
/// ```
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    file: EngineFile,
    loaded: Loaded,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Engine").field(&self.0.file).finish()
    }
}

impl Engine {
    /// Maps an engine file and checks all of it: its head, the hash of every byte, and that
    /// what it says is sound.
    ///
    /// Fails with [`ErrorKind::Damaged`] for a file that is no engine, cut short, changed or
    /// inconsistent, with [`ErrorKind::WrongDevice`] for one made for another device, and with
    /// [`ErrorKind::NoDevice`] when there is no device or driver for it.
    pub fn open(path: impl AsRef<Path>) -> Result<Engine, Error> {
        Self::open_on(path, DeviceChoice::Auto)
    }

    /// The same for a device of the caller's choice.
    pub fn open_on(path: impl AsRef<Path>, device: DeviceChoice) -> Result<Engine, Error> {
        Self::from_file(EngineFile::open(path)?, device)
    }

    /// The same for the bytes of a whole file in memory, of which a copy is made.
    pub fn from_bytes(bytes: &[u8]) -> Result<Engine, Error> {
        Self::from_file(EngineFile::from_bytes(bytes)?, DeviceChoice::Auto)
    }

    /// The same for a file that is open already.
    pub fn from_file(file: EngineFile, device: DeviceChoice) -> Result<Engine, Error> {
        let loaded = Loaded::new(&file, device)?;
        Ok(Engine(Arc::new(Inner { file, loaded })))
    }

    /// What the file says.
    pub fn manifest(&self) -> &Manifest {
        self.0.file.manifest()
    }

    /// The mapped file.
    pub fn file(&self) -> &EngineFile {
        &self.0.file
    }

    /// The named inputs; shapes are with the smallest plan's batch.
    pub fn inputs(&self) -> &[Port] {
        &self.manifest().inputs
    }

    /// The named outputs; shapes are with the smallest plan's batch.
    pub fn outputs(&self) -> &[Port] {
        &self.manifest().outputs
    }

    /// Class names, in class order; empty when not known.
    pub fn labels(&self) -> &[String] {
        &self.manifest().labels
    }

    /// The name of a class, or its number where it has none.
    pub fn label(&self, class: u32) -> String {
        match self.labels().get(class as usize) {
            Some(label) => label.clone(),
            None => class.to_string(),
        }
    }

    /// How the detector's output is to be read; `None` for an engine that is no detector.
    pub fn detect(&self) -> Option<&Detect> {
        match &self.manifest().task {
            Task::Detect(detect) => Some(detect),
            _ => None,
        }
    }

    /// A context for one item at a time on all cores.
    pub fn context(&self) -> Result<ExecutionContext, Error> {
        ExecutionContext::new(self, &ContextOptions::default())
    }

    /// Forgets what contexts share on CUDA devices, so that the next context loads it anew: the
    /// way back after [`ErrorKind::DeviceLost`], once all contexts of the engine are dropped.
    pub fn reset_device(&self) {
        self.0.loaded.reset();
    }

    pub(crate) fn loaded(&self) -> &Loaded {
        &self.0.loaded
    }
}

impl From<EngineError> for Error {
    fn from(e: EngineError) -> Error {
        let kind = match e.kind() {
            EngineErrorKind::NotFound => ErrorKind::Usage,
            EngineErrorKind::WrongDevice => ErrorKind::WrongDevice,
            EngineErrorKind::OldDriver => ErrorKind::NoDevice,
            EngineErrorKind::Io => ErrorKind::Other,
            _ => ErrorKind::Damaged,
        };
        Error::new(kind, e.to_string())
    }
}
