//! The devices of this build. Without the feature `cpu` there is none, and making a context
//! says so.

#[cfg(feature = "cpu")]
pub(crate) use cpu::{Loaded, Preprocessor, Runner};
#[cfg(not(feature = "cpu"))]
pub(crate) use none::{Loaded, Preprocessor, Runner};

/// How many threads a context computes on.
pub(crate) type ThreadCount = Option<std::num::NonZeroUsize>;

#[cfg(feature = "cpu")]
mod cpu {
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    use tobiuo_capture::{FrameFormat, PixelFormat};
    use tobiuo_cpu::{CpuError, CpuExecutor, CpuProgram, Threads};
    use tobiuo_engine::manifest::Preprocess;
    use tobiuo_engine::{EngineFile, ThisDevice};
    use tobiuo_tensor::{TensorView, TensorViewMut, ViewDataMut};

    use super::ThreadCount;
    use crate::detect::Placement;
    use crate::{Error, ErrorKind};

    impl From<CpuError> for Error {
        fn from(e: CpuError) -> Error {
            Error::new(ErrorKind::Unsupported, format!("the CPU device: {e}"))
        }
    }

    /// The mapped weights, as the CPU device shares them.
    struct Weights(EngineFile);

    impl AsRef<[u8]> for Weights {
        fn as_ref(&self) -> &[u8] {
            self.0.weights()
        }
    }

    /// What the contexts of an engine share: threads, and each plan's packed kernels.
    pub(crate) struct Loaded {
        file: EngineFile,
        shared: Mutex<Shared>,
    }

    #[derive(Default)]
    struct Shared {
        threads: Option<Threads>,
        programs: Vec<Option<Arc<CpuProgram>>>,
    }

    impl Loaded {
        /// Checks that the engine is made for this device.
        pub fn new(file: &EngineFile) -> Result<Loaded, Error> {
            file.check_device(&ThisDevice::cpu())?;
            let programs = vec![None; file.manifest().plans.len()];
            let shared = Mutex::new(Shared { threads: None, programs });
            Ok(Loaded { file: file.clone(), shared })
        }

        /// Memory and threads to run a plan; kernels are packed when a plan is first used.
        pub fn runner(&self, plan: usize, count: ThreadCount) -> Result<Runner, Error> {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            let threads = match (count, &shared.threads) {
                (Some(count), _) => Threads::with_count(count)?,
                (None, Some(threads)) => threads.clone(),
                (None, None) => shared.threads.insert(Threads::new()?).clone(),
            };
            let program = match &shared.programs[plan] {
                Some(program) => program.clone(),
                None => {
                    let file = &self.file;
                    let release = |range: std::ops::Range<u64>| {
                        file.release(range.start as usize..range.end as usize);
                    };
                    let made = CpuProgram::new(
                        file.manifest().plans[plan].clone(),
                        Arc::new(Weights(file.clone())),
                        &threads,
                        &release,
                    )
                    .map_err(|e| {
                        let path = file.path().display();
                        Error::new(ErrorKind::Unsupported, format!("{path}: plan {plan}: {e}"))
                    })?;
                    shared.programs[plan].insert(made).clone()
                }
            };
            Ok(Runner { executor: CpuExecutor::new(program, &threads)?, threads })
        }
    }

    /// One context's memory and the threads that it runs on.
    pub(crate) struct Runner {
        executor: CpuExecutor,
        threads: Threads,
    }

    impl Runner {
        pub fn device(&self) -> String {
            format!("cpu ({}, {} threads)", std::env::consts::ARCH, self.threads.count())
        }

        pub fn input_mut(&mut self, i: usize) -> TensorViewMut<'_> {
            self.executor.input_mut(i)
        }

        pub fn output(&self, i: usize) -> TensorView<'_> {
            self.executor.output(i)
        }

        pub fn run(&mut self) -> Result<(), Error> {
            self.executor.run();
            Ok(())
        }

        pub fn layer_times(&self) -> &[Duration] {
            self.executor.layer_times()
        }
    }

    /// Turns frames of any format and size into a picture input.
    pub(crate) struct Preprocessor {
        settings: Preprocess,
        /// Channels, height, width.
        input: [usize; 3],
        made: Option<(FrameFormat, tobiuo_cpu::Preprocessor)>,
    }

    impl Preprocessor {
        /// For an input of this shape, `[1, channels, height, width]`.
        pub fn new(settings: &Preprocess, shape: &[usize]) -> Result<Preprocessor, Error> {
            let [1, channels, height, width] = *shape else {
                let what = format!("the input is {shape:?}, not one picture in NCHW");
                return Err(Error::new(ErrorKind::Unsupported, what));
            };
            let input = [channels, height, width];
            Ok(Preprocessor { settings: settings.clone(), input, made: None })
        }

        /// Fills the input; tells where the frame lies on it. Allocates only when frames have
        /// another format or size than the last one.
        pub fn run(
            &mut self,
            format: FrameFormat,
            pixels: &[u8],
            input: TensorViewMut<'_>,
        ) -> Result<Placement, Error> {
            let ViewDataMut::F32(input) = input.data else {
                return Err(Error::new(ErrorKind::Unsupported, "the picture input is not of f32"));
            };
            let made = match &mut self.made {
                Some((known, made)) if *known == format => made,
                other => {
                    let [width, height] = [format.width as usize, format.height as usize];
                    let pixel = pixel_format(format.pixel);
                    let made = tobiuo_cpu::Preprocessor::new(
                        pixel,
                        width,
                        height,
                        self.input,
                        &self.settings,
                    )?;
                    &mut other.insert((format, made)).1
                }
            };
            made.run(pixels, input)?;
            let p = made.placement();
            Ok(Placement {
                scale_x: p.scale_x,
                scale_y: p.scale_y,
                offset_x: p.offset_x,
                offset_y: p.offset_y,
                frame_width: format.width,
                frame_height: format.height,
            })
        }
    }

    fn pixel_format(pixel: PixelFormat) -> tobiuo_cpu::PixelFormat {
        match pixel {
            PixelFormat::Rgb8 => tobiuo_cpu::PixelFormat::Rgb8,
            PixelFormat::Bgr8 => tobiuo_cpu::PixelFormat::Bgr8,
            PixelFormat::Gray8 => tobiuo_cpu::PixelFormat::Gray8,
            PixelFormat::Yuyv => tobiuo_cpu::PixelFormat::Yuyv,
            PixelFormat::Uyvy => tobiuo_cpu::PixelFormat::Uyvy,
            PixelFormat::Nv12 => tobiuo_cpu::PixelFormat::Nv12,
            PixelFormat::I420 => tobiuo_cpu::PixelFormat::I420,
        }
    }
}

#[cfg(not(feature = "cpu"))]
mod none {
    use std::time::Duration;

    use tobiuo_capture::FrameFormat;
    use tobiuo_engine::EngineFile;
    use tobiuo_engine::manifest::Preprocess;
    use tobiuo_tensor::{TensorView, TensorViewMut};

    use super::ThreadCount;
    use crate::detect::Placement;
    use crate::{Error, ErrorKind};

    pub(crate) struct Loaded(String);

    impl Loaded {
        pub fn new(file: &EngineFile) -> Result<Loaded, Error> {
            Ok(Loaded(format!(
                "{}: made for {}, and this tobiuo was built without that device; build it with \
                 `--features cpu`",
                file.path().display(),
                file.manifest().device
            )))
        }

        pub fn runner(&self, _: usize, _: ThreadCount) -> Result<Runner, Error> {
            Err(Error::new(ErrorKind::NoDevice, self.0.clone()))
        }
    }

    /// Cannot be made.
    pub(crate) enum Runner {}

    impl Runner {
        pub fn device(&self) -> String {
            match *self {}
        }

        pub fn input_mut(&mut self, _: usize) -> TensorViewMut<'_> {
            match *self {}
        }

        pub fn output(&self, _: usize) -> TensorView<'_> {
            match *self {}
        }

        pub fn run(&mut self) -> Result<(), Error> {
            match *self {}
        }

        pub fn layer_times(&self) -> &[Duration] {
            match *self {}
        }
    }

    /// Cannot be made.
    pub(crate) enum Preprocessor {}

    impl Preprocessor {
        pub fn new(_: &Preprocess, _: &[usize]) -> Result<Preprocessor, Error> {
            Err(Error::new(ErrorKind::NoDevice, "this tobiuo was built without any device"))
        }

        pub fn run(
            &mut self,
            _: FrameFormat,
            _: &[u8],
            _: TensorViewMut<'_>,
        ) -> Result<Placement, Error> {
            match *self {}
        }
    }
}
