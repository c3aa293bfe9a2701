//! Identity, readings and the doctor's lines over file trees of JetPack 5, 6 and 7, made after
//! the published layouts, and over what goes wrong in them.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tobiuo_jetson::doctor::{Camera, Check, Engine, Gpu, Live, Question, Status, examine, verdict};
use tobiuo_jetson::{Identity, Readings, Root, recorded};

const XAVIER: &str = include_str!("trees/jp5-xavier-nx.tree");
const ORIN: &str = include_str!("trees/jp6-orin-nano.tree");
const THOR: &str = include_str!("trees/jp7-thor.tree");

struct Tree {
    folder: TempDir,
}

impl Tree {
    fn of(text: &str) -> Tree {
        let folder = tempfile::tempdir().unwrap();
        recorded::unpack(text, folder.path()).unwrap();
        Tree { folder }
    }

    /// The tree with changes, in its own form.
    fn with(self, changes: &str) -> Tree {
        recorded::unpack(changes, self.folder.path()).unwrap();
        self
    }

    fn without(self, path: &str) -> Tree {
        let path = self.folder.path().join(path.trim_start_matches('/'));
        match path.symlink_metadata().unwrap().is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
        self
    }

    fn root(&self) -> Root {
        Root::new(self.folder.path())
    }

    fn question(&self) -> Question {
        Question { root: self.root(), cache: "/var/cache/tobiuo".into(), ..Question::default() }
    }

    fn checks(&self) -> Vec<Check> {
        examine(&self.question())
    }

    /// The line of a name that is not ok, or the first of it.
    #[track_caller]
    fn line(&self, name: &str) -> Check {
        line(&self.checks(), name)
    }
}

#[track_caller]
fn line(checks: &[Check], name: &str) -> Check {
    let mut of_name = checks.iter().filter(|c| c.name == name);
    let bad = of_name.clone().find(|c| c.status != Status::Ok);
    bad.or(of_name.next()).unwrap_or_else(|| panic!("no line '{name}' in {checks:#?}")).clone()
}

#[track_caller]
fn is(check: &Check, status: Status, parts: &[&str]) {
    let text = check.to_string();
    assert_eq!(check.status, status, "{text}");
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    assert_eq!(check.remedy.is_some(), status != Status::Ok, "{text}");
}

#[test]
fn each_tree_is_known() {
    for (text, id, l4t, jetpack) in [
        (XAVIER, "xavier-nx", (35, 6, 4), "5.1"),
        (ORIN, "orin-nano-8gb", (36, 4, 7), "6.1 or 6.2"),
        (THOR, "agx-thor", (39, 2, 0), "7.2"),
    ] {
        let identity = Identity::read(&Tree::of(text).root());
        assert_eq!(identity.module.unwrap().id, id);
        assert_eq!(identity.l4t, Some(l4t));
        assert_eq!(identity.jetpack.unwrap().jetpack, jetpack);
        assert!(identity.is_jetson());
    }
}

#[test]
fn clocks_heat_and_power_are_read() {
    let read = |text| Readings::read(&Tree::of(text).root());
    let orin = read(ORIN);
    assert_eq!(
        orin.to_string(),
        "power mode MAXN_SUPER, GPU 306 of 1020 MHz, tj-thermal 51.4 °C, not throttled"
    );
    let clock = orin.gpu.unwrap();
    assert_eq!((clock.min, clock.chip_max), (Some(306.0), Some(1020.0)));
    assert_eq!(orin.temperatures.len(), 3, "a zone that is off is left out: {orin:?}");
    assert_eq!(orin.temperatures[1].throttles_at, Some(99.0));
    assert_eq!(orin.over_current_events, Some(0));
    assert_eq!(
        read(XAVIER).to_string(),
        "power mode MODE_20W_6CORE, GPU 115 of 1109 MHz, CPU-therm 43.5 °C, not throttled"
    );
    assert_eq!(
        read(THOR).to_string(),
        "power mode 120W, GPU 1386 of 1386 MHz, tj-thermal 46.2 °C, not throttled"
    );
    let nothing = Readings::read(&Tree::of("").root());
    assert!(nothing.is_empty() && nothing == Readings::default());
}

#[test]
fn throttling_is_seen() {
    let before = Readings::read(&Tree::of(ORIN).root());
    let tree = Tree::of(ORIN).with(
        "= /sys/class/thermal/cooling_device1/cur_state\n1\n\
         = /sys/class/thermal/thermal_zone1/temp\n98500\n\
         = /sys/class/hwmon/hwmon2/oc3_event_cnt\n7\n",
    );
    let hot = Readings::read(&tree.root());
    assert_eq!(hot.throttled_by, ["gpu-throttle-alert"]);
    assert_eq!(hot.events_since(&before), 7);
    assert!(hot.to_string().contains("throttled by gpu-throttle-alert, 7 over-current"), "{hot}");
    is(&tree.line("throttling"), Status::Warn, &["gpu-throttle-alert", "cool it"]);
    is(&tree.line("temperature"), Status::Warn, &["gpu-thermal is near 99 °C"]);
}

/// Files that are cut off or hold something else are nothing known.
#[test]
fn odd_files_are_no_errors() {
    let tree = Tree::of(ORIN).with(
        "= /var/lib/nvpmodel/status\npmode:\n\
         = /etc/nv_tegra_release\n\\# R99 (release), REVISION: x.y\n\
         = /sys/class/thermal/thermal_zone0/temp\nhot\n\
         = /proc/meminfo\n\n= /proc/self/status\nUid:\n= /etc/ld.so.cache\njunk\n\
         = /sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu/cur_freq\n-\n",
    );
    let readings = Readings::read(&tree.root());
    assert_eq!((readings.power_mode, readings.gpu), (None, None));
    assert_eq!(Identity::read(&tree.root()).l4t, Some((99, 0, 0)));
    is(&tree.line("board"), Status::Warn, &["not in this version's table"]);
    is(&tree.line("memory"), Status::Warn, &[]);
    // A mode that the configuration does not name; a module that is new.
    let tree = Tree::of(ORIN).with("= /var/lib/nvpmodel/status\npmode:0009\n");
    is(&tree.line("power mode"), Status::Ok, &["number 9"]);
    let tree = Tree::of("= /proc/device-tree/compatible\nnvidia,p4000-0000\\0nvidia,tegra999\\0\n");
    is(&tree.line("board"), Status::Warn, &["tegra999"]);
}

#[test]
fn what_is_as_it_should_be_is_ok() {
    for text in [XAVIER, ORIN, THOR] {
        let tree = Tree::of(text);
        let checks = tree.checks();
        for check in &checks {
            let lesser = text == THOR && check.name == "GPU clock";
            let no_camera = text == THOR && check.name == "cameras";
            assert!(check.status == Status::Ok || lesser || no_camera, "{check}");
        }
        assert_eq!(verdict(&checks).1, 0);
    }
    is(&Tree::of(THOR).line("GPU clock"), Status::Warn, &["1386 of 1386", "1575", "nvpmodel -m 0"]);
    is(&Tree::of(THOR).line("compiler"), Status::Ok, &["libnvrtc.so.13.2.50"]);
    is(&Tree::of(XAVIER).line("compiler"), Status::Ok, &["libnvrtc.so.11.4.300"]);
}

#[test]
fn drivers_and_what_stands_in_front_of_them() {
    let of = |text: &str, changes: &str| Tree::of(text).with(changes).line("driver");
    is(&of(ORIN, ""), Status::Ok, &["/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1"]);
    is(&of(THOR, ""), Status::Ok, &["openrm/libcuda.so.1"]);
    // A desktop driver's package.
    let shadow = "= /etc/ld.so.conf.d/aa-desktop.conf\n/usr/lib/desktop\n\
                  = /usr/lib/desktop/libcuda.so.1\nELF\n";
    let check = of(ORIN, shadow);
    is(&check, Status::Fail, &["/usr/lib/desktop/libcuda.so.1 stands in front of", "apt purge"]);
    assert_eq!(check.exit, 5);
    // A container without its runtime.
    let stub = Tree::of(XAVIER);
    fs::write(stub.folder.path().join("usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1.1"), "")
        .unwrap();
    is(&stub.line("driver"), Status::Fail, &["an empty file", "--runtime nvidia"]);
    let none = Tree::of(XAVIER).without("/usr/lib/aarch64-linux-gnu/tegra");
    is(&none.line("driver"), Status::Fail, &["nowhere", "nvidia-l4t-cuda"]);
    let unknown = Tree::of(THOR).without("/etc/ld.so.conf.d/nv-gpu-libs.conf");
    is(&unknown.line("driver"), Status::Fail, &["loader does not know it", "ldconfig"]);
    is(&Tree::of("").line("driver"), Status::Warn, &["--device cpu"]);
}

#[test]
fn the_rest_has_remedies() {
    let of = |changes: &str, name: &str| Tree::of(ORIN).with(changes).line(name);
    let alone = "= /proc/self/status\nUid:\t1001\t1001\nGid:\t1001\t1001\nGroups:\t1001\n";
    let check = of(alone, "groups");
    is(&check, Status::Fail, &["video,render", "usermod -aG video,render"]);
    assert_eq!(check.exit, 5);
    is(&of("= /proc/self/status\nUid:\t0\t0\n", "groups"), Status::Ok, &["root"]);
    let full = "= /proc/meminfo\nMemTotal: 7802968 kB\nMemAvailable: 120000 kB\n";
    is(&of(full, "memory"), Status::Warn, &["117 MiB of 7620 MiB"]);
    let tree = Tree::of(ORIN).without("/proc/901").without("/usr/local/cuda-12.6");
    is(&tree.line("nvargus"), Status::Warn, &["systemctl restart nvargus-daemon"]);
    is(&tree.line("compiler"), Status::Warn, &["apt install cuda-nvrtc-12-6"]);
    let tree = Tree::of(ORIN).without("/var/cache/tobiuo").without("/sys/class/video4linux");
    is(&tree.line("cache"), Status::Warn, &["/var/cache/tobiuo is not there"]);
    is(&tree.line("cameras"), Status::Warn, &["none under /dev/video*"]);
    is(
        &Tree::of(ORIN).without("/var/lib/nvpmodel").line("power mode"),
        Status::Warn,
        &["nvpmodel"],
    );
    let old = "= /etc/nv_tegra_release\n\\# R32 (release), REVISION: 7.6\n";
    is(&of(old, "board"), Status::Fail, &["JetPack 4.6", "2.27", "2.31"]);
}

fn gpu(sm: u32, multiprocessors: u32) -> Gpu {
    let memory = Some((3 << 30, 8 << 30));
    Gpu { name: "Orin".into(), sm, multiprocessors, driver: 12060, outdated: None, memory }
}

#[test]
fn what_the_running_system_says() {
    let tree = Tree::of(ORIN);
    let camera = |problem: Option<&str>| Camera {
        path: "/dev/video0".into(),
        name: "C920".into(),
        modes: ["YUYV 640x480 30", "MJPG 1920x1080 30"].map(String::from).to_vec(),
        problem: problem.map(String::from),
    };
    let live = |gpus: Result<Vec<Gpu>, String>| Live {
        gpus,
        loaded: Some(Path::new("/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1").into()),
        cameras: vec![camera(None)],
    };
    let ask = |live: Live, engine: Option<Engine>| {
        examine(&Question { live: Some(live), engine, ..tree.question() })
    };
    let checks = ask(live(Ok(vec![gpu(87, 8)])), None);
    assert!(checks.iter().all(|c| c.status == Status::Ok), "{checks:#?}");
    is(&line(&checks, "driver"), Status::Ok, &["libcuda.so.1.1, CUDA 12.6"]);
    is(&line(&checks, "cameras"), Status::Ok, &["C920: YUYV 640x480 30, MJPG"]);
    is(&line(&checks, "memory"), Status::Ok, &["3072 MiB of 8192 MiB free for the GPU"]);
    // The power mode switched multiprocessors off.
    let checks = ask(live(Ok(vec![gpu(87, 4)])), None);
    is(&line(&checks, "device"), Status::Warn, &["4 multiprocessors of the 8", "nvpmodel"]);
    is(&line(&ask(live(Ok(vec![gpu(53, 1)])), None), "device"), Status::Fail, &["5.3", "7.2"]);
    // A driver that no engine for this GPU runs on; building one anew would not help.
    let update = "update the driver (on a Jetson: JetPack 6 or newer)";
    let old = Gpu { driver: 12010, outdated: Some((12020, update.into())), ..gpu(87, 8) };
    let refused = Engine {
        path: "a.tobiuo".into(),
        problem: Some(("the NVIDIA driver is too old".into(), 5)),
        gpu: Some((8, true)),
        needs: 0,
    };
    let checks = ask(live(Ok(vec![old])), Some(refused));
    is(&line(&checks, "driver"), Status::Fail, &["CUDA 12.1", "need CUDA 12.2", "JetPack 6"]);
    is(&line(&checks, "engine"), Status::Fail, &["too old", "comes first"]);
    assert_eq!(verdict(&checks), (Status::Fail, 5));
    let checks = ask(live(Err("cuInit: 999".into())), None);
    is(&line(&checks, "driver"), Status::Fail, &["cuInit: 999", "video and render"]);
    assert_eq!(verdict(&checks), (Status::Fail, 5));
    // Engines.
    let engine = |gpu, problem, needs| Engine { path: "a.tobiuo".into(), problem, gpu, needs };
    let with = |engine| ask(live(Ok(vec![gpu(87, 8)])), Some(engine));
    let checks = with(engine(Some((8, true)), None, 64 << 20));
    is(&line(&checks, "engine"), Status::Ok, &["tuned with 8 multiprocessors, now there are 8"]);
    let checks = with(engine(Some((8, false)), None, 0));
    is(&line(&checks, "engine"), Status::Warn, &["untuned", "--retune"]);
    let checks = with(engine(None, None, 0));
    is(&line(&checks, "engine"), Status::Ok, &["for the CPU"]);
    let other = Some(("made for another device\n  x  y".to_string(), 3));
    let checks = with(engine(Some((16, true)), other, 0));
    is(&line(&checks, "engine"), Status::Fail, &["another device", "provision"]);
    assert_eq!(verdict(&checks), (Status::Fail, 3));
    let checks = with(engine(Some((8, true)), None, 4 << 30));
    is(&line(&checks, "memory"), Status::Fail, &["takes 4096 MiB", "--memory-limit"]);
    assert_eq!(verdict(&checks).1, 8);
    // A camera that may not be opened.
    let mut locked = live(Ok(vec![gpu(87, 8)]));
    locked.cameras = vec![camera(Some("/dev/video0: permission denied"))];
    let checks = ask(locked, None);
    is(&line(&checks, "cameras"), Status::Fail, &["permission denied"]);
    assert_eq!(verdict(&checks).1, 6);
}
