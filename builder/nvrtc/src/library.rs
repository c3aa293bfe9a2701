//! Finding and opening the shared library.

use std::ffi::{c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::NvrtcError;

macro_rules! api {
    ($($name:ident: $kind:ty = $symbol:literal;)*) => {
        /// Function pointers of the library, which stays open until the process ends: it may
        /// have left destructors with its threads and ours, which a closed library cannot run.
        pub(crate) struct Api {
            $(pub $name: $kind,)*
            _library: ManuallyDrop<Library>,
            _builtins: Option<ManuallyDrop<Library>>,
        }

        fn resolve(library: Library, builtins: Option<Library>) -> Result<Api, String> {
            $(
                // SAFETY: the symbol is NVRTC's and has the type that nvrtc.h declares.
                let $name = *unsafe { library.get::<$kind>($symbol.as_bytes()) }
                    .map_err(|_| format!("it has no function {}", $symbol))?;
            )*
            Ok(Api {
                $($name,)*
                _library: ManuallyDrop::new(library),
                _builtins: builtins.map(ManuallyDrop::new),
            })
        }
    };
}

type Texts = *const *const c_char;

api! {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int = "nvrtcVersion";
    num_supported_archs: unsafe extern "C" fn(*mut c_int) -> c_int = "nvrtcGetNumSupportedArchs";
    supported_archs: unsafe extern "C" fn(*mut c_int) -> c_int = "nvrtcGetSupportedArchs";
    create_program: unsafe extern "C" fn(*mut *mut c_void, *const c_char, *const c_char, c_int, Texts, Texts) -> c_int = "nvrtcCreateProgram";
    destroy_program: unsafe extern "C" fn(*mut *mut c_void) -> c_int = "nvrtcDestroyProgram";
    compile_program: unsafe extern "C" fn(*mut c_void, c_int, Texts) -> c_int = "nvrtcCompileProgram";
    log_size: unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int = "nvrtcGetProgramLogSize";
    log: unsafe extern "C" fn(*mut c_void, *mut u8) -> c_int = "nvrtcGetProgramLog";
    cubin_size: unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int = "nvrtcGetCUBINSize";
    cubin: unsafe extern "C" fn(*mut c_void, *mut u8) -> c_int = "nvrtcGetCUBIN";
    ptx_size: unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int = "nvrtcGetPTXSize";
    ptx: unsafe extern "C" fn(*mut c_void, *mut u8) -> c_int = "nvrtcGetPTX";
    error_string: unsafe extern "C" fn(c_int) -> *const c_char = "nvrtcGetErrorString";
}

const NAMES: [&str; 4] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"];

/// Opens one library file; its builtins first, because NVRTC 13 has no RUNPATH and looks for
/// them by bare name when the first program is compiled.
pub(crate) fn open(path: &Path) -> Result<Api, NvrtcError> {
    let builtins = path.parent().and_then(builtins_in).and_then(|b| {
        // SAFETY: NVIDIA's library; its initialisers take no input of ours.
        unsafe { Library::new(b) }.ok()
    });
    // SAFETY: as above.
    let library = unsafe { Library::new(path) }
        .map_err(|e| NvrtcError::Missing(format!("{} cannot be opened: {e}", path.display())))?;
    resolve(library, builtins).map_err(|why| {
        NvrtcError::Missing(format!("{} is not a usable NVRTC: {why}", path.display()))
    })
}

fn builtins_in(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libnvrtc-builtins.so") && !name.contains("alt")
        })
        .collect();
    found.sort();
    found.pop()
}

/// Every library there is, the one to prefer first, each opened only when it is asked for; and
/// where it was looked for.
pub(crate) fn find() -> (impl Iterator<Item = Result<(Api, PathBuf), NvrtcError>>, String) {
    let (files, looked) = match named() {
        Some(asked) => {
            let files = if asked.is_dir() { in_folder(&asked) } else { vec![asked.clone()] };
            (files, format!("in TOBIUO_NVRTC={}", asked.display()))
        }
        None => {
            let folders = folders();
            let mut files: Vec<PathBuf> = NAMES.iter().map(PathBuf::from).collect();
            files.extend(folders.iter().flat_map(|f| in_folder(f)));
            let names: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
            let looked = "by the dynamic linker, in CUDA's folders, nor in Python's packages";
            let places = match names.len() {
                0 => String::new(),
                _ => format!(" ({})", names.join(", ")),
            };
            (files, format!("{looked}{places}"))
        }
    };
    (files.into_iter().map(|f| open(&f).map(|api| (api, f))), looked)
}

/// The library or folder that `TOBIUO_NVRTC` names; an empty one names none.
pub(crate) fn named() -> Option<PathBuf> {
    std::env::var_os("TOBIUO_NVRTC").filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// What to say when there is none.
pub(crate) fn missing(looked: &str) -> NvrtcError {
    NvrtcError::Missing(format!(
        "NVRTC (libnvrtc.so.13, .12 or .11.2), which compiles the kernels of CUDA engines, was not \
         found {looked}. On a Jetson: `sudo apt install cuda-nvrtc-12-6` (JetPack 6; the number is \
         your CUDA version); elsewhere the CUDA toolkit, or `pip install nvidia-cuda-nvrtc-cu12` \
         (CUDA 12: sm_50 to sm_90) or `pip install nvidia-cuda-nvrtc` (CUDA 13: sm_75 and later). \
         Or name the file: TOBIUO_NVRTC=/path/to/libnvrtc.so.12"
    ))
}

/// CUDA's usual folders, newest first, and those of Python's packages.
fn folders() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = std::fs::read_dir("/usr/local")
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("cuda")))
        .collect();
    roots.sort();
    roots.reverse();
    let arch = std::env::consts::ARCH;
    let mut out = Vec::new();
    for root in roots {
        out.push(root.join(format!("targets/{arch}-linux/lib")));
        out.push(root.join("lib64"));
    }
    for packages in python_packages() {
        for package in ["cu13", "cuda_nvrtc"] {
            out.push(packages.join("nvidia").join(package).join("lib"));
        }
    }
    out.retain(|folder| folder.is_dir());
    out
}

/// Where pip puts packages: the active environment's folder, the user's, the system's.
fn python_packages() -> Vec<PathBuf> {
    let roots = [
        std::env::var_os("VIRTUAL_ENV").map(|v| PathBuf::from(v).join("lib")),
        std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/lib")),
        Some(PathBuf::from("/usr/local/lib")),
    ];
    let mut out = Vec::new();
    for root in roots.into_iter().flatten() {
        let mut versions: Vec<PathBuf> = std::fs::read_dir(root)
            .into_iter()
            .flatten()
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")))
            .collect();
        versions.sort();
        for version in versions.into_iter().rev() {
            out.push(version.join("site-packages"));
            out.push(version.join("dist-packages"));
        }
    }
    out
}

fn in_folder(dir: &Path) -> Vec<PathBuf> {
    NAMES.iter().map(|n| dir.join(n)).filter(|p| p.exists()).collect()
}
