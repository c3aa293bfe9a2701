//! Driver, device, engine, compiler.

use super::{Check, Engine, Gpu, NO_DEVICE, Question};
use crate::Identity;
use crate::libraries::{self, Library};

/// Oldest compute capability that kernels are made for.
const OLDEST_SM: u32 = 72;

pub(super) fn checks(q: &Question, identity: &Identity) -> Vec<Check> {
    let mut out = vec![driver(q, identity)];
    if let Some(live) = &q.live {
        let first = live.gpus.as_ref().ok().and_then(|gpus| gpus.first());
        if let Some(gpu) = first {
            out.push(device(gpu, identity));
        }
    }
    out.extend(q.engine.as_ref().map(|engine| self::engine(engine, q)));
    out
}

fn driver(q: &Question, identity: &Identity) -> Check {
    const NAME: &str = "driver";
    let found = libraries::drivers(&q.root, q.library_path.as_deref());
    let here = |l: &Library| match l.path == l.real {
        true => l.path.display().to_string(),
        false => format!("{} -> {}", l.path.display(), l.real.display()),
    };
    let loaded = q.live.as_ref().and_then(|live| live.loaded.as_ref());
    let list = |found: &[Library]| found.iter().map(here).collect::<Vec<_>>().join("\nalso ");
    let refused = q.live.as_ref().and_then(|live| live.gpus.as_ref().err());
    let Some(first) = found.first() else {
        let text = "libcuda.so.1 is nowhere";
        if !identity.is_jetson() {
            let text = refused.map_or(text.to_string(), |why| format!("{text} ({why})"));
            return Check::warn(NAME, text, "without an NVIDIA GPU, build with --device cpu");
        }
        return Check::fail(
            NAME,
            NO_DEVICE,
            text,
            "install the driver: sudo apt install nvidia-l4t-cuda; in a container, start it with \
             --runtime nvidia",
        );
    };
    if first.bytes == 0 {
        return Check::fail(
            NAME,
            NO_DEVICE,
            format!("{}: an empty file, a container's placeholder", here(first)),
            "start the container with --runtime nvidia (docker run --runtime nvidia …), which puts \
             the driver in its place",
        );
    }
    // A desktop's driver in front of Tegra's finds no device (cuInit 100).
    let tegra = found.iter().find(|l| l.is_tegra());
    if let (true, false, Some(tegra)) = (identity.is_jetson(), first.is_tegra(), tegra) {
        return Check::fail(
            NAME,
            NO_DEVICE,
            format!("{} stands in front of Tegra's own {}", here(first), here(tegra)),
            "a desktop driver's package shadows it: sudo apt purge 'libnvidia-compute-*' 'nvidia-driver-*' \
             && sudo ldconfig (or clear LD_LIBRARY_PATH)",
        );
    }
    let known = libraries::in_cache(&q.root);
    if loaded.is_none() && first.is_tegra() && !known.contains(&first.path) {
        return Check::fail(
            NAME,
            NO_DEVICE,
            format!("{}: it is there, but the loader does not know it", here(first)),
            "sudo ldconfig; on JetPack 7.2 sudo systemctl restart nv-load-gpu-libs",
        );
    }
    let version = |v: u32| format!("CUDA {}.{}", v / 1000, v % 1000 / 10);
    match q.live.as_ref().map(|live| &live.gpus) {
        Some(Err(why)) => Check::fail(
            NAME,
            NO_DEVICE,
            format!("{}: {why}", list(&found)),
            "see that the user is in the groups video and render (below), that a container has \
             the host's L4T release (801: it has not) and --runtime nvidia",
        ),
        Some(Ok(gpus)) => {
            let first = loaded.map_or_else(|| list(&found), |l| l.display().to_string());
            if let Some((needs, remedy)) = gpus.first().and_then(|gpu| gpu.outdated.clone()) {
                let text = format!(
                    "{first}, {}: too old, engines for this GPU need {} or newer",
                    version(gpus[0].driver),
                    version(needs)
                );
                return Check::fail(NAME, NO_DEVICE, text, remedy);
            }
            let driver = gpus.first().map(|gpu| format!(", {}", version(gpu.driver)));
            match gpus.is_empty() {
                false => Check::ok(NAME, first + &driver.unwrap_or_default()),
                true => Check::fail(
                    NAME,
                    NO_DEVICE,
                    format!("{first}: it shows no GPU"),
                    "CUDA_VISIBLE_DEVICES or the container may hide it",
                ),
            }
        }
        None => Check::ok(NAME, list(&found)),
    }
}

fn device(gpu: &Gpu, identity: &Identity) -> Check {
    const NAME: &str = "device";
    let (major, minor) = (gpu.sm / 10, gpu.sm % 10);
    let text = format!(
        "{}, compute capability {major}.{minor}, {} multiprocessors",
        gpu.name, gpu.multiprocessors
    );
    if gpu.sm < OLDEST_SM {
        let remedy = "kernels are made for 7.2 (Xavier) and later; --device cpu builds for the CPU";
        return Check::fail(NAME, NO_DEVICE, text, remedy);
    }
    match identity.module.map(|m| m.multiprocessors) {
        Some(whole) if gpu.multiprocessors < whole => Check::warn(
            NAME,
            format!("{text} of the {whole} that the module has"),
            "the power mode switches some off: `sudo nvpmodel -q` shows it, `sudo nvpmodel -m 0` \
             is usually the largest; engines are made for the number they were tuned with",
        ),
        _ => Check::ok(NAME, text),
    }
}

fn engine(engine: &Engine, q: &Question) -> Check {
    const NAME: &str = "engine";
    let gpus = q.live.as_ref().and_then(|live| live.gpus.as_ref().ok());
    if let Some((problem, exit)) = &engine.problem {
        // No engine can be built for a GPU whose driver is too old for any.
        let remedy = match gpus.and_then(|g| g.first()).is_some_and(|g| g.outdated.is_some()) {
            true => "the driver (above) comes first",
            false => "tobiuo-builder provision MODEL -o ENGINE builds it for this device",
        };
        return Check::fail(NAME, *exit, problem.clone(), remedy);
    }
    match (engine.gpu, gpus.and_then(|g| g.first())) {
        (None, _) => Check::ok(NAME, format!("{}: for the CPU", engine.path)),
        (Some((_, false)), _) => Check::warn(
            NAME,
            format!("{}: untuned, its kernels were not timed on this device", engine.path),
            "tobiuo-builder provision MODEL -o ENGINE --retune times them",
        ),
        (Some((count, true)), Some(gpu)) => Check::ok(
            NAME,
            format!(
                "{}: tuned with {count} multiprocessors, now there are {}",
                engine.path, gpu.multiprocessors
            ),
        ),
        (Some((count, true)), None) => {
            Check::ok(NAME, format!("{}: tuned with {count} multiprocessors", engine.path))
        }
    }
}

pub(super) fn compiler(q: &Question, identity: &Identity) -> Check {
    const NAME: &str = "compiler";
    let named = std::env::var_os("TOBIUO_NVRTC").filter(|v| q.root.is_live() && !v.is_empty());
    let mut found: Vec<String> =
        libraries::compilers(&q.root).iter().map(|p| p.display().to_string()).collect();
    found.extend(named.map(|path| path.to_string_lossy().into_owned()));
    if !found.is_empty() {
        return Check::ok(NAME, found.join("\n"));
    }
    let package = identity.jetpack.map_or("cuda-nvrtc-12-6".into(), |jetpack| {
        format!("cuda-nvrtc-{}", jetpack.cuda.replace('.', "-"))
    });
    Check::warn(
        NAME,
        "NVRTC (libnvrtc.so) is not in CUDA's folders; engines run without it, building for the \
         GPU needs it",
        format!(
            "sudo apt install {package}; or pip install nvidia-cuda-nvrtc, whose library \
                 TOBIUO_NVRTC may name"
        ),
    )
}
