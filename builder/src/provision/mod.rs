//! An engine on the device that runs it, kept current: made when it is not there, made anew
//! when model, options, device or builder changed, tested before it is used, and exchanged so
//! that at every moment a good engine is there.

mod config;
mod files;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use tobiuo_engine::{DeviceKey, EngineFile};
use tobiuo_jetson::{Identity, Root};

pub use config::{Entry, read_folder};
use files::Places;

use crate::build::{Begun, Standing};
use crate::hardware::{Gpu, Hardware};
use crate::options::{BuildOptions, DeviceChoice};
use crate::progress::Progress;
use crate::verify::{VerifyOptions, verify};
use crate::{BuildError, BuildReport};

/// One engine to be provisioned.
#[derive(Clone, Debug)]
pub struct Job {
    /// The model.
    pub model: PathBuf,
    /// The engine, in a folder that this process may write to.
    pub engine: PathBuf,
    /// An engine that came with the model, used until a better one is made: for this kind of
    /// device, from a machine that is not one.
    pub seed: Option<PathBuf>,
    /// How it is built.
    pub build: BuildOptions,
    /// Build also where there is an engine whose kernels were not, or not all, timed here.
    pub retune: bool,
    /// Run a new engine against the CPU reference before it is used.
    pub check: bool,
}

/// How provisioning ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The engine was what it should be.
    UpToDate,
    /// The engine is the right one, but its kernels were not, or not all, timed on this device.
    Untuned,
    /// It was built.
    Built,
    /// The engine before was put back, as asked.
    RolledBack,
}

/// What provisioning did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The engine.
    pub engine: PathBuf,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// `previous` or `seed`: what took an unusable engine's place meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopted: Option<&'static str>,
    /// Relative L2 error of the worst output of a new engine, against the CPU reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_l2: Option<f64>,
    /// What the build did, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildReport>,
    /// Wall-clock time of it all.
    pub seconds: f64,
}

/// Why provisioning failed, and what is left to run.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub error: BuildError,
    /// There is an engine that runs on this device: the one that was there before.
    pub kept: bool,
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Failure {
        Failure { error, kept: false }
    }
}

impl Job {
    /// A job with default options; a new engine is checked.
    pub fn new(model: impl Into<PathBuf>, engine: impl Into<PathBuf>) -> Job {
        let build = BuildOptions { device: DeviceChoice::Auto, ..BuildOptions::default() };
        let (model, engine) = (model.into(), engine.into());
        Job { model, engine, seed: None, build, retune: false, check: true }
    }

    /// Makes the engine what it should be.
    ///
    /// A build that fails, or whose engine fails its check, leaves the engine that was there:
    /// [`Failure::kept`]. A second process that provisions the same engine waits for the first.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<Report, Failure> {
        let begun = Instant::now();
        let places = Places::of(&self.engine)?;
        let build = Begun::new(&self.model, &places.candidate, &self.build, progress);
        let build = build.map_err(|error| Failure { kept: self.runs_as_it_is(), error })?;
        // An engine in a folder that nobody writes to, as in a read-only image, can be right.
        let locked = places.lock();
        let mut report = Report {
            engine: self.engine.clone(),
            outcome: Outcome::UpToDate,
            why: None,
            adopted: None,
            relative_l2: None,
            build: None,
            seconds: 0.0,
        };
        if locked.is_ok() {
            places.sweep();
        }
        let mut found = usable(&build, &places.engine);
        if let (Err(why), true) = (&found, locked.is_ok()) {
            if places.engine.exists() {
                log::warn!("{why}");
            }
            let others =
                [Some((&places.previous, "previous")), self.seed.as_ref().map(|s| (s, "seed"))];
            for (path, name) in others.into_iter().flatten() {
                let Ok(engine) = usable(&build, path) else { continue };
                let io = |error| BuildError::Io { path: path.clone(), error };
                places.adopt(path).map_err(io)?;
                log::warn!("{}: taken from {}", places.engine.display(), path.display());
                (found, report.adopted) = (Ok(engine), Some(name));
                break;
            }
        }
        let why = match &found {
            Err(why) => why.clone(),
            Ok(engine) => match build.standing(engine) {
                Standing::Current => {
                    report.seconds = begun.elapsed().as_secs_f64();
                    return Ok(report);
                }
                Standing::Untuned if !self.retune => {
                    report.outcome = Outcome::Untuned;
                    report.seconds = begun.elapsed().as_secs_f64();
                    return Ok(report);
                }
                Standing::Untuned => "its kernels are to be timed on this device".into(),
                Standing::Stale(why) => why,
            },
        };
        let kept = found.is_ok();
        let failure = |error| Failure { error, kept };
        let lock = locked.map_err(failure)?;
        self.refuse_fallback(&build, found.as_ref().ok()).map_err(failure)?;
        let (built, relative_l2) = self.make(build, &places, progress).map_err(failure)?;
        let io = |error| BuildError::Io { path: places.engine.clone(), error };
        if kept {
            places.keep().map_err(|e| failure(io(e)))?;
        }
        places.publish().map_err(|e| failure(io(e)))?;
        drop(lock);
        report.outcome = Outcome::Built;
        report.why = Some(why);
        report.relative_l2 = relative_l2;
        report.build = Some(BuildReport { engine: self.engine.clone(), ..built });
        report.seconds = begun.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Puts the engine before back: for updates that are taken back with their model.
    pub fn roll_back(&self) -> Result<Report, BuildError> {
        let begun = Instant::now();
        let places = Places::of(&self.engine)?;
        let _lock = places.lock()?;
        places.sweep();
        EngineFile::open(&places.previous)?;
        let io = |error| BuildError::Io { path: places.engine.clone(), error };
        places.adopt(&places.previous).map_err(io)?;
        Ok(Report {
            engine: self.engine.clone(),
            outcome: Outcome::RolledBack,
            why: None,
            adopted: Some("previous"),
            relative_l2: None,
            build: None,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    /// Builds the candidate and runs it.
    fn make(
        &self,
        build: Begun,
        places: &Places,
        progress: &mut dyn Progress,
    ) -> Result<(BuildReport, Option<f64>), BuildError> {
        let built = build.finish(progress)?;
        if !self.check {
            return Ok((built, None));
        }
        let options = VerifyOptions {
            samples: 1,
            input_shapes: self.build.input_shapes.clone(),
            ..VerifyOptions::default()
        };
        let checked = verify(&self.model, &places.candidate, &options);
        let outcome = checked.and_then(|report| {
            let outputs = report.plans.iter().flat_map(|plan| &plan.outputs);
            let worst = outputs.map(|o| o.relative_l2).fold(0.0, f64::max);
            if report.ok {
                return Ok(worst);
            }
            Err(BuildError::SelfTest(format!(
                "{}: the new engine differs from its model by {worst:.1e} (relative L2, at most \
                 {:.1e}); it is not used. `tobiuo-builder verify --layers` names the layer",
                self.engine.display(),
                report.tolerance
            )))
        });
        if outcome.is_err() {
            let _ = std::fs::remove_file(&places.candidate);
        }
        outcome.map(|worst| (built, Some(worst)))
    }

    /// A GPU that cannot be used today does not make this a device of the CPU.
    fn refuse_fallback(&self, build: &Begun, found: Option<&EngineFile>) -> Result<(), BuildError> {
        match build.hardware() {
            (Hardware::Gpu(Gpu { device: None, .. }), _) => Err(BuildError::Usage(
                "provision builds for the device that it runs on: --device auto, cpu or cuda"
                    .into(),
            )),
            (Hardware::Cpu, Some(why)) if self.build.device == DeviceChoice::Auto => {
                let cuda =
                    |engine: &EngineFile| matches!(engine.manifest().device, DeviceKey::Cuda(_));
                let there = EngineFile::open(&self.engine).ok();
                let seed = self.seed.as_ref().and_then(|seed| EngineFile::open(seed).ok());
                let jetson = Identity::read(&Root::default()).is_jetson();
                let was_gpu =
                    [found, there.as_ref(), seed.as_ref()].into_iter().flatten().any(cuda);
                if !was_gpu && !jetson {
                    return Ok(());
                }
                Err(BuildError::NoDevice(format!(
                    "{}: the engine is for the GPU, and none can be used now: {why}. `tobiuo \
                     doctor` looks for the reason; --device cpu builds for the CPU",
                    self.engine.display()
                )))
            }
            _ => Ok(()),
        }
    }

    /// Whether an engine is there that at least is whole, where nothing more can be known.
    fn runs_as_it_is(&self) -> bool {
        EngineFile::open(&self.engine).is_ok()
    }
}

/// An engine that is whole and for this device, or why not.
fn usable(build: &Begun, path: &Path) -> Result<EngineFile, String> {
    if !path.exists() {
        return Err(format!("{}: there is none yet", path.display()));
    }
    let engine = EngineFile::open(path).map_err(|e| e.to_string())?;
    build.fits(&engine).map_err(|e| e.to_string())?;
    Ok(engine)
}
