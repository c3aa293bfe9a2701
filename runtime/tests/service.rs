//! The program as a service: what a manager (systemd, here a socket) is told, and when it is
//! told nothing, so that it acts.

#![cfg(feature = "cpu")]

mod common;

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{SIDE, clip, colour_engine, output, tobiuo};
use tempfile::TempDir;
use tobiuo::capture::{
    CaptureError, FrameFormat, FrameMeta, PixelFormat, Read, Source, SourceConfig, monotonic_ns,
};
use tobiuo::{Engine, Notifier, Pipeline};

/// The manager's side.
struct Manager {
    socket: UnixDatagram,
    name: OsString,
    folder: TempDir,
}

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("notify").into_os_string();
        let socket = UnixDatagram::bind(&name).unwrap();
        Manager { socket, name, folder }
    }

    fn hidden() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("tobiuo-test-{}", folder.path().display());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Manager { socket, name: format!("@{name}").into(), folder }
    }

    /// The next message within a time.
    fn next(&self, patience: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 1024];
        let n = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..n].to_vec()).unwrap())
    }

    /// Messages until one has this line; what came before it.
    #[track_caller]
    fn until(&self, line: &str) -> Vec<String> {
        let mut before = Vec::new();
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            match self.next(Duration::from_secs(20)) {
                None => panic!("no {line} after {before:?}"),
                Some(_) if Instant::now() > patience => panic!("no {line} after {before:?}"),
                Some(message) if message.lines().any(|l| l.starts_with(line)) => return before,
                Some(message) => before.push(message),
            }
        }
    }

    /// Messages of so long a time.
    fn during(&self, time: Duration) -> Vec<String> {
        let until = Instant::now() + time;
        let mut all = Vec::new();
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            all.extend(self.next(left.max(Duration::from_millis(1))));
        }
        all
    }

    fn engine(&self) -> PathBuf {
        colour_engine(self.folder.path())
    }

    /// `tobiuo run ENGINE INPUT`, as the unit starts it.
    fn start(&self, engine: &Path, input: &str, more: &[&str], watchdog: &str) -> Child {
        let mut command = tobiuo();
        command.arg("run").arg(engine).arg(input).args(more);
        command.env("NOTIFY_SOCKET", &self.name).env("WATCHDOG_USEC", watchdog);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

fn terminate(child: &Child) {
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
}

#[test]
fn ready_comes_with_the_first_frame_and_the_watchdog_is_fed() {
    for manager in [Manager::new(), Manager::hidden()] {
        let scene = "test://scene?width=64&height=64&rate=50";
        let mut child = manager.start(&manager.engine(), scene, &["--realtime"], "200000");
        let before = manager.until("READY=1");
        assert!(before.iter().all(|m| m.starts_with("STATUS=")), "{before:?}");
        let during = manager.during(Duration::from_secs(1));
        let fed = during.iter().filter(|m| *m == "WATCHDOG=1").count();
        assert!((5..=25).contains(&fed), "fed {fed} times in a second of a 0.2 s watchdog");
        assert!(!during.iter().any(|m| m.contains("READY")), "{during:?}");
        terminate(&child);
        manager.until("STOPPING=1");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn nothing_is_ready_without_a_frame() {
    let manager = Manager::new();
    let mut child = manager.start(&manager.engine(), "/dev/video-none", &[], "100000");
    assert_eq!(child.wait().unwrap().code(), Some(6));
    let said = manager.during(Duration::from_millis(100));
    assert_eq!(said, ["STATUS=opening the source"]);
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let manager = Manager::new();
    let clip = clip(manager.folder.path(), 5);
    let mut command = tobiuo();
    command.arg("run").arg(manager.engine()).arg(clip);
    command
        .env("NOTIFY_SOCKET", &manager.name)
        .env("WATCHDOG_USEC", "1000")
        .env("WATCHDOG_PID", "1");
    let (out, _, stderr) = output(&mut command);
    assert!(out.status.success(), "{stderr}");
    let said = manager.during(Duration::from_millis(100)).concat();
    assert!(said.contains("READY=1") && !said.contains("WATCHDOG"), "{said}");
    // A socket that is not there is said once and is no reason to stop… but a wrong name is.
    let (out, _, stderr) = output(command.env("NOTIFY_SOCKET", "/none"));
    assert!(out.status.success(), "{stderr}");
    let (out, _, stderr) = output(command.env("NOTIFY_SOCKET", "x".repeat(200)));
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("$NOTIFY_SOCKET"), "{stderr}");
}

/// A camera that gives some frames of a side, and then ends as it is told.
struct Fake {
    frames: usize,
    side: usize,
    then: fn(&AtomicBool) -> Result<Read, CaptureError>,
}

impl Source for Fake {
    fn describe(&self) -> String {
        format!("fake, {0}x{0}", self.side)
    }

    fn max_frame_bytes(&self) -> usize {
        3 * self.side * self.side
    }

    fn frame_rate(&self) -> Option<f64> {
        None
    }

    fn is_live(&self) -> bool {
        true
    }

    fn read(&mut self, slot: &mut [u8], stop: &AtomicBool) -> Result<Read, CaptureError> {
        std::thread::sleep(Duration::from_millis(5));
        let Some(left) = self.frames.checked_sub(1) else { return (self.then)(stop) };
        self.frames = left;
        slot[..self.max_frame_bytes()].fill(9);
        Ok(Read::Frame(FrameMeta {
            format: FrameFormat::new(PixelFormat::Rgb8, self.side as u32, self.side as u32),
            sequence: 0,
            timestamp_ns: monotonic_ns(),
            dropped_before: 0,
        }))
    }
}

fn gone() -> CaptureError {
    match tobiuo::capture::open("/dev/video-that-is-not-there", &SourceConfig::default()) {
        Err(e) => e,
        Ok(_) => panic!("there is such a camera"),
    }
}

fn unplugged(_: &AtomicBool) -> Result<Read, CaptureError> {
    Err(gone())
}

/// Hangs, as in a driver that never returns, until the test ends.
fn hangs(stop: &AtomicBool) -> Result<Read, CaptureError> {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Read::End)
}

/// Runs a pipeline whose camera is opened by `open`, with its number, until `done`.
fn service(
    manager: &Manager,
    mut open: impl FnMut(usize) -> Result<Fake, CaptureError> + Send + 'static,
    test: impl FnOnce(&Arc<AtomicUsize>),
) -> Vec<(u32, u32)> {
    let engine = Engine::open(manager.engine()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let openings = Arc::new(AtomicUsize::new(0));
    let count = openings.clone();
    let notifier = Notifier::new(&manager.name, Some(Duration::from_millis(400))).unwrap();
    let mut pipeline = Pipeline::builder(&engine, "fake")
        .source(move || open(count.fetch_add(1, Ordering::Relaxed)).map(|f| Box::new(f) as _))
        .reconnect(true, Duration::from_millis(20))
        .notifier(notifier)
        .stop_flag(stop.clone())
        .start()
        .unwrap();
    let sizes = Mutex::new(Vec::new());
    /// Ends the pipeline also when the test fails.
    struct Stop(Arc<AtomicBool>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let _stop = Stop(stop);
        scope.spawn(|| {
            pipeline
                .run(|result| {
                    let format = result.format();
                    sizes.lock().unwrap().push((format.width, format.height));
                    Ok(())
                })
                .unwrap();
        });
        test(&openings);
    });
    sizes.into_inner().unwrap()
}

#[test]
fn a_camera_that_is_not_there_is_known_and_comes_back() {
    let manager = Manager::new();
    let back = Arc::new(AtomicBool::new(false));
    let plugged = back.clone();
    let open = move |n: usize| match n == 0 || plugged.load(Ordering::Relaxed) {
        true => Ok(Fake { frames: if n == 0 { 3 } else { 1000 }, side: SIDE, then: unplugged }),
        false => Err(gone()),
    };
    service(&manager, open, |openings| {
        manager.until("READY=1");
        manager.until("STATUS=source lost: ");
        // Gone for many watchdogs: it is fed, and nobody restarts what only waits.
        let during = manager.during(Duration::from_secs(2));
        let fed = during.iter().filter(|m| *m == "WATCHDOG=1").count();
        assert!(fed >= 4, "fed {fed} times in 2 s of a 0.4 s watchdog: {during:?}");
        assert!(openings.load(Ordering::Relaxed) > 2);
        back.store(true, Ordering::Relaxed);
        manager.until("STATUS=source is open again");
        manager.until("WATCHDOG=1");
    });
}

#[test]
fn a_camera_that_comes_back_in_another_format_is_taken() {
    let manager = Manager::new();
    let open = |n: usize| {
        let side = [SIDE, 3 * SIDE, SIDE / 2][n % 3];
        Ok(Fake { frames: 3, side, then: unplugged })
    };
    let sizes = service(&manager, open, |openings| {
        let patience = Instant::now() + Duration::from_secs(20);
        while openings.load(Ordering::Relaxed) < 5 && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let side = SIDE as u32;
    for wanted in [side, 3 * side, side / 2] {
        assert!(sizes.contains(&(wanted, wanted)), "{sizes:?}");
    }
}

#[test]
fn a_loop_that_hangs_feeds_nothing() {
    let manager = Manager::new();
    service(
        &manager,
        |_| Ok(Fake { frames: 3, side: SIDE, then: hangs }),
        |_| {
            manager.until("READY=1");
            std::thread::sleep(Duration::from_millis(100));
            manager.during(Duration::from_millis(20));
            assert_eq!(manager.during(Duration::from_millis(500)), Vec::<String>::new());
        },
    );
}

/// A camera that opens every time and never gives a frame looks alive to itself only.
#[test]
fn a_camera_that_opens_and_gives_nothing_feeds_nothing() {
    let manager = Manager::new();
    service(
        &manager,
        |n| Ok(Fake { frames: if n == 0 { 3 } else { 0 }, side: SIDE, then: unplugged }),
        |openings| {
            manager.until("READY=1");
            manager.until("STATUS=source is open again");
            let during = manager.during(Duration::from_millis(500));
            assert!(!during.iter().any(|m| m == "WATCHDOG=1"), "{during:?}");
            assert!(openings.load(Ordering::Relaxed) > 3);
        },
    );
}

/// A camera that this user may not open: a line that says what to do, and the status of cameras.
#[test]
fn no_permission_on_the_camera_is_said() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let manager = Manager::new();
    let folder = manager.folder.path();
    let set = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let engine = manager.engine();
    let camera = folder.join("video0");
    std::fs::write(&camera, "").unwrap();
    // Root may open everything, so somebody else runs a program that he can read.
    let program = folder.join("tobiuo");
    std::fs::copy(env!("CARGO_BIN_EXE_tobiuo"), &program).unwrap();
    for (path, mode) in [(folder, 0o755), (&program, 0o755), (&engine, 0o644), (&camera, 0)] {
        set(path, mode);
    }
    let mut command = std::process::Command::new(&program);
    let is_root = std::process::Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if is_root {
        command.uid(65534).gid(65534);
    }
    command.arg("run").arg(&engine).arg(format!("v4l2://{}", camera.display()));
    let (out, _, stderr) = output(&mut command);
    assert_eq!(out.status.code(), Some(6), "{stderr}");
    assert!(stderr.contains("Permission denied") && stderr.contains("group `video`"), "{stderr}");
}

#[test]
fn a_full_disk_is_said() {
    let manager = Manager::new();
    let results = manager.folder.path().join("out.jsonl");
    std::os::unix::fs::symlink("/dev/full", &results).unwrap();
    let mut command = tobiuo();
    command.arg("run").arg(manager.engine()).arg("test://scene?width=64&height=64").arg(&results);
    let (out, _, stderr) = output(command.args(["--frames", "2000", "-q"]));
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("out.jsonl") && stderr.contains("make room"), "{stderr}");
}

/// A clock that jumps, as when a device finds the time after it has started, changes nothing: no
/// part of the runtime reads the wall clock.
#[test]
fn nothing_looks_at_the_wall_clock() {
    fn look(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !["tests", "examples", "target"].contains(&name.as_str()) {
                look(&path, found);
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let wall = ["SystemTime", "ClockId::Realtime", "UNIX_EPOCH"];
                if wall.iter().any(|word| text.contains(word)) {
                    found.push(path.display().to_string());
                }
            }
        }
    }
    let mut found = Vec::new();
    look(Path::new(env!("CARGO_MANIFEST_DIR")), &mut found);
    assert_eq!(found, Vec::<String>::new());
}
