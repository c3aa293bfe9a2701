use std::path::PathBuf;

use serde_json::json;
use tobiuo::capture::cameras;
use tobiuo::jetson::Root;
use tobiuo::jetson::doctor::{self, Camera, Check, Gpu, Live, Question, Status};
use tobiuo::manifest::{DeviceKey, Manifest};
use tobiuo::{DeviceChoice, Engine, Error};
use tobiuo_engine::{EngineFile, driver_floor, driver_update};

use super::args::Args;
use super::{Command, print, print_json};

pub const COMMAND: Command = Command {
    name: "doctor",
    synopsis: "[ENGINE]",
    summary: "looks at driver, device, memory, clocks, heat, cameras and folders, and says what to do",
    options: "
  ENGINE            also whether this engine runs here, and fits the memory
  --cache FOLDER    where engines are provisioned; $CACHE_DIRECTORY, /var/cache/tobiuo
  --root FOLDER     looks at a copy of another machine's files instead
Exit status 0 when nothing failed, else that of the first line that did.
",
    device: false,
    run,
};

fn run(args: Args) -> Result<(), Error> {
    args.only("doctor", &["cache", "root"])?;
    args.values_at_most("doctor", 1)?;
    let root = args.root();
    let engine = args.values.first().map(|path| engine(path.into(), &root));
    let cache = args.cache.clone().or_else(|| std::env::var_os("CACHE_DIRECTORY").map(Into::into));
    let live = root.is_live().then(live);
    let question = Question {
        library_path: std::env::var("LD_LIBRARY_PATH").ok().filter(|_| root.is_live()),
        root,
        live,
        engine,
        cache: cache.unwrap_or_else(|| "/var/cache/tobiuo".into()),
    };
    let checks = doctor::examine(&question);
    let (worst, exit) = doctor::verdict(&checks);
    if args.json {
        print_json(&json!({ "status": worst, "checks": checks }))?;
    } else {
        let lines: Vec<String> =
            checks.iter().filter(|c| !args.quiet || c.status != Status::Ok).map(line).collect();
        print(&lines.concat())?;
    }
    match exit {
        0 => Ok(()),
        status => std::process::exit(status.into()),
    }
}

fn line(check: &Check) -> String {
    format!("{check}\n")
}

/// An engine as this device sees it; without the device where another's files are looked at.
fn engine(path: PathBuf, root: &Root) -> doctor::Engine {
    let shown = path.display().to_string();
    let opened = EngineFile::open(&path).map_err(Error::from);
    let problem = |e: &Error| Some((e.to_string(), e.exit_status()));
    match opened {
        Err(e) => doctor::Engine { path: shown, problem: problem(&e), gpu: None, needs: 0 },
        Ok(file) => {
            let here = match root.is_live() {
                true => Engine::from_file(file.clone(), DeviceChoice::Auto).err(),
                false => None,
            };
            let gpu = match &file.manifest().device {
                DeviceKey::Cuda(key) => Some((key.sm_count, key.tuned)),
                _ => None,
            };
            let needs = file.len() + arena(file.manifest());
            doctor::Engine { path: shown, problem: here.as_ref().and_then(problem), gpu, needs }
        }
    }
}

/// The activations of one context of the largest plan, bytes.
fn arena(manifest: &Manifest) -> u64 {
    manifest.plans.iter().map(|plan| plan.arena).max().unwrap_or(0)
}

fn live() -> Live {
    let gpus = gpus();
    let cameras = cameras::list().into_iter().map(|camera| {
        let modes = camera.modes.iter().filter(|mode| mode.supported);
        let modes = modes.map(|mode| {
            let rate = mode.rates.first().map_or(String::new(), |r| format!(" {r:.0}"));
            format!("{} {}x{}{rate}", mode.format, mode.width, mode.height)
        });
        Camera {
            path: camera.path.display().to_string(),
            name: camera.card.clone(),
            modes: modes.collect(),
            problem: camera.problem.as_ref().map(ToString::to_string),
        }
    });
    Live { gpus, cameras: cameras.collect(), loaded: loaded_driver() }
}

#[cfg(feature = "cuda")]
fn gpus() -> Result<Vec<Gpu>, String> {
    let devices = tobiuo::gpu::devices().map_err(|e| e.to_string())?;
    let gpu = |d: tobiuo::gpu::DeviceInfo| {
        let memory = tobiuo::gpu::Context::new(d.ordinal).and_then(|c| c.memory());
        let sm = 10 * d.compute.0 + d.compute.1;
        let needs = driver_floor(sm);
        let outdated = (d.driver < needs).then(|| {
            let update = driver_update(needs, sm).unwrap_or_else(|| "update the driver".into());
            (needs, update)
        });
        Gpu {
            sm,
            outdated,
            multiprocessors: d.sm_count,
            driver: d.driver,
            memory: memory.ok().map(|(free, total)| (free as u64, total as u64)),
            name: d.name,
        }
    };
    Ok(devices.into_iter().map(gpu).collect())
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> Result<Vec<Gpu>, String> {
    Err("this tobiuo was built without CUDA devices".into())
}

/// The driver library that this process has mapped: what the loader chose in fact.
fn loaded_driver() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mut files = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    files.find(|file| file.contains("/libcuda.so")).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use tobiuo::jetson::jetpacks;
    use tobiuo_engine::jetpack_for;

    /// What engines' messages say of JetPacks is what the table of devices says.
    #[test]
    fn the_table_and_the_messages_name_the_same_jetpacks() {
        let mut cuda = Vec::new();
        for release in jetpacks().iter().filter(|j| j.supported) {
            if cuda.contains(&&release.cuda) {
                continue;
            }
            cuda.push(&release.cuda);
            let (major, minor) = release.cuda.split_once('.').unwrap();
            let driver = 1000 * major.parse::<u32>().unwrap() + 10 * minor.parse::<u32>().unwrap();
            let named: Vec<&str> =
                [72, 87, 110].into_iter().filter_map(|sm| jetpack_for(driver, sm)).collect();
            let same = |name: &&str| release.jetpack.starts_with(*name);
            assert!(named.iter().any(same), "{}: {named:?}", release.jetpack);
        }
        assert_eq!(cuda.len(), 5, "a JetPack with another CUDA has come");
    }
}
