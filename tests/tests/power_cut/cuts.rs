//! The cuts.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use tobiuo_engine::{EngineFile, ThisDevice};

use super::BUILDER;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../builder/tests/models").join(name)
}

/// A call that changes files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Write(u64),
    Sync(u64),
    Rename,
    /// Creating, linking, removing and the like.
    Other,
}

/// What a system call does to files, if it does something.
fn step(number: u64, arguments: [u64; 6]) -> Option<Step> {
    let [first, _, flags, ..] = arguments;
    match number as libc::c_long {
        // Standard output and error are no files of ours.
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev if first > 2 => {
            Some(Step::Write(first))
        }
        libc::SYS_copy_file_range => Some(Step::Write(arguments[2])),
        libc::SYS_sendfile => Some(Step::Write(first)),
        libc::SYS_fsync | libc::SYS_fdatasync => Some(Step::Sync(first)),
        libc::SYS_renameat | libc::SYS_renameat2 => Some(Step::Rename),
        libc::SYS_openat if flags & libc::O_CREAT as u64 != 0 => Some(Step::Other),
        libc::SYS_linkat | libc::SYS_unlinkat | libc::SYS_mkdirat | libc::SYS_ftruncate => {
            Some(Step::Other)
        }
        libc::SYS_rename => Some(Step::Rename),
        libc::SYS_link | libc::SYS_unlink | libc::SYS_mkdir => Some(Step::Other),
        _ => None,
    }
}

/// Where a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Never,
    /// Before the step of this number is done.
    Before(usize),
    After(usize),
}

/// Runs the builder in a folder up to a cut; the steps it did. `None`: it ended by itself
/// before the cut.
// It is waited for by its number, as a traced process must be.
#[allow(clippy::zombie_processes)]
fn run(folder: &Path, arguments: &[&str], cut: Cut) -> (Vec<Step>, Option<i32>) {
    // The program begins when the line comes, and by then it is traced.
    let mut child = Command::new("sh")
        .args(["-c", "read go; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(arguments)
        .env(BUILDER, "1")
        .current_dir(folder)
        .env("CUDA_VISIBLE_DEVICES", "")
        .env("XDG_CACHE_HOME", folder.join("home"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    use ptrace::Options as O;
    ptrace::seize(pid, O::PTRACE_O_TRACESYSGOOD | O::PTRACE_O_EXITKILL | O::PTRACE_O_TRACEEXEC)
        .expect("ptrace");
    ptrace::interrupt(pid).unwrap();
    waitpid(pid, None).unwrap();
    ptrace::syscall(pid, None).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut started = false;
    let mut steps = Vec::new();
    let mut within = false;
    let status = loop {
        match waitpid(pid, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => {
                use libc::{PTRACE_SYSCALL_INFO_ENTRY as ENTRY, PTRACE_SYSCALL_INFO_EXIT as EXIT};
                let info = ptrace::syscall_info(pid).unwrap();
                if info.op == EXIT {
                    if within && cut == Cut::After(steps.len() - 1) {
                        break None;
                    }
                    within = false;
                } else if info.op == ENTRY && started {
                    let r = ptrace::getregs(pid).unwrap();
                    if let Some(step) = step(r.orig_rax, [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]) {
                        steps.push(step);
                        within = true;
                        if cut == Cut::Before(steps.len() - 1) {
                            break None;
                        }
                    }
                }
                ptrace::syscall(pid, None).unwrap();
            }
            WaitStatus::PtraceEvent(_, _, event) => {
                started |= event == libc::PTRACE_EVENT_EXEC;
                ptrace::syscall(pid, None).unwrap();
            }
            WaitStatus::Stopped(_, signal) => {
                let signal = (signal != Signal::SIGTRAP).then_some(signal);
                ptrace::syscall(pid, signal).unwrap();
            }
            WaitStatus::Exited(_, status) => break Some(status),
            other => panic!("{other:?}"),
        }
    };
    if status.is_none() {
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        loop {
            match waitpid(pid, None) {
                Ok(WaitStatus::Signaled(..)) | Err(_) => break,
                _ => {}
            }
        }
    }
    (steps, status)
}

/// A device before provisioning, and what may be its engine after a cut.
struct Scene {
    name: &'static str,
    prepare: fn(&Path),
    arguments: &'static [&'static str],
    /// There was an engine, so there is one at every moment.
    had_engine: bool,
}

const PROVISION: [&str; 5] = ["provision", "m.onnx", "-o", "a.tobiuo", "-q"];

fn with_model(folder: &Path) {
    fs::copy(model("classifier.onnx"), folder.join("m.onnx")).unwrap();
}

fn provision(folder: &Path, arguments: &[&str]) {
    let (_, status) = run(folder, &[&PROVISION, arguments].concat(), Cut::Never);
    assert_eq!(status, Some(0));
}

fn with_engine(folder: &Path) {
    with_model(folder);
    provision(folder, &["--task", "tensors"]);
}

fn with_damage(folder: &Path) {
    with_model(folder);
    provision(folder, &["--passes-until", "dead-code"]);
    provision(folder, &["--task", "tensors"]);
    let engine = folder.join("a.tobiuo");
    let bytes = fs::read(&engine).unwrap();
    fs::remove_file(&engine).unwrap();
    fs::write(&engine, &bytes[..bytes.len() / 2]).unwrap();
}

fn with_seed(folder: &Path) {
    with_engine(folder);
    fs::rename(folder.join("a.tobiuo"), folder.join("seed.tobiuo")).unwrap();
}

const SCENES: [Scene; 4] = [
    Scene { name: "first build", prepare: with_model, arguments: &[], had_engine: false },
    Scene { name: "new options", prepare: with_engine, arguments: &[], had_engine: true },
    Scene { name: "damaged engine", prepare: with_damage, arguments: &[], had_engine: false },
    Scene {
        name: "seed",
        prepare: with_seed,
        arguments: &["--seed", "seed.tobiuo"],
        had_engine: false,
    },
];

fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

fn whole(path: &Path) -> bool {
    EngineFile::open(path).is_ok_and(|engine| engine.check_device(&ThisDevice::cpu()).is_ok())
}

pub fn a_good_engine_is_there_after_a_cut_at_every_step() {
    let mut cuts = 0;
    let mut round = 0;
    while cuts < 200 {
        for scene in &SCENES {
            let prepared = tempfile::tempdir().unwrap();
            (scene.prepare)(prepared.path());
            let arguments = [&PROVISION, scene.arguments].concat();
            let complete = copy_of(prepared.path());
            let (steps, status) = run(complete.path(), &arguments, Cut::Never);
            assert_eq!(status, Some(0), "{}", scene.name);
            assert!(steps.len() >= 8, "{}: {steps:?}", scene.name);
            let wanted = fs::read(complete.path().join("a.tobiuo")).unwrap();
            for cut in (0..steps.len()).flat_map(|n| [Cut::Before(n), Cut::After(n)]) {
                let place = copy_of(prepared.path());
                let engine = place.path().join("a.tobiuo");
                let (_, status) = run(place.path(), &arguments, cut);
                let at = format!("{}, round {round}, {cut:?} of {steps:?}", scene.name);
                assert_eq!(status, None, "{at}: it ended before it was cut");
                cuts += 1;
                // One that is whole, or, where there was none, still none or still the damage,
                // with something whole beside it that the next run takes.
                let good = whole(&engine);
                assert!(good || !scene.had_engine, "{at}: no good engine");
                let beside = ["a.tobiuo.previous", "seed.tobiuo"];
                let other = beside.iter().any(|name| whole(&place.path().join(name)));
                assert!(good || other || scene.name == "first build", "{at}: nothing to take");
                // Every few, that the next start ends well and leaves nothing lying about.
                if cuts % 4 == round % 4 {
                    assert_eq!(run(place.path(), &arguments, Cut::Never).1, Some(0), "{at}");
                    assert!(fs::read(&engine).unwrap() == wanted, "{at}: not the right engine");
                    let left: Vec<PathBuf> = fs::read_dir(place.path())
                        .unwrap()
                        .map(|f| f.unwrap().path())
                        .filter(|p| p.extension().is_some_and(|e| e == "tmp" || e == "candidate"))
                        .collect();
                    assert!(left.is_empty(), "{at}: {left:?}");
                }
            }
        }
        round += 1;
    }
    println!("{cuts} power cuts, a good engine after each");
}

/// What is written is synced before it gets a name, and the name after.
pub fn bytes_are_synced_before_they_get_a_name() {
    for scene in &SCENES {
        let folder = tempfile::tempdir().unwrap();
        (scene.prepare)(folder.path());
        let arguments = [&PROVISION, scene.arguments].concat();
        let (steps, status) = run(folder.path(), &arguments, Cut::Never);
        assert_eq!(status, Some(0));
        let mut unsynced = Vec::new();
        let mut renames = 0;
        for (i, step) in steps.iter().enumerate() {
            match step {
                Step::Write(file) => unsynced.push(*file),
                Step::Sync(file) => unsynced.retain(|f| f != file),
                Step::Rename => {
                    renames += 1;
                    assert!(unsynced.is_empty(), "{}: {steps:?}", scene.name);
                    let then = steps[i + 1..].iter().find(|s| !matches!(s, Step::Other));
                    assert!(
                        matches!(then, Some(Step::Sync(_))),
                        "{}: a name that is not synced: {steps:?}",
                        scene.name
                    );
                }
                Step::Other => {}
            }
        }
        assert!(renames >= 2, "{}: {steps:?}", scene.name);
    }
}
