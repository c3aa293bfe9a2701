//! Finding and opening the shared library.

use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::NvrtcError;

macro_rules! api {
    ($($name:ident: $kind:ty = $symbol:literal;)*) => {
        /// Function pointers of the library, which is kept open beside them.
        pub(crate) struct Api {
            $(pub $name: $kind,)*
            _library: Library,
            _builtins: Option<Library>,
        }

        fn resolve(library: Library, builtins: Option<Library>) -> Result<Api, String> {
            $(
                // SAFETY: the symbol is NVRTC's and has the type that nvrtc.h declares.
                let $name = *unsafe { library.get::<$kind>($symbol.as_bytes()) }
                    .map_err(|_| format!("it has no function {}", $symbol))?;
            )*
            Ok(Api { $($name,)* _library: library, _builtins: builtins })
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

pub(crate) fn find() -> Result<(Api, PathBuf), NvrtcError> {
    let mut tried = Vec::new();
    if let Some(asked) = std::env::var_os("TOBIUO_NVRTC").map(PathBuf::from) {
        let files = if asked.is_dir() { in_folder(&asked) } else { vec![asked.clone()] };
        return files.iter().map(|f| open(f).map(|api| (api, f.clone()))).next().unwrap_or_else(
            || {
                Err(NvrtcError::Missing(format!(
                    "TOBIUO_NVRTC={}: no libnvrtc.so there",
                    asked.display()
                )))
            },
        );
    }
    for name in NAMES {
        match open(Path::new(name)) {
            Ok(api) => return Ok((api, PathBuf::from(name))),
            Err(e) => log::debug!("{e}"),
        }
    }
    for folder in folders() {
        for file in in_folder(&folder) {
            match open(&file) {
                Ok(api) => return Ok((api, file)),
                Err(e) => log::debug!("{e}"),
            }
        }
        tried.push(folder.display().to_string());
    }
    Err(NvrtcError::Missing(format!(
        "NVRTC (libnvrtc.so.13, .12 or .11.2), which compiles the kernels of CUDA engines, was not \
         found by the dynamic linker nor in {}. On a Jetson: `sudo apt install cuda-nvrtc-12-6` \
         (JetPack 6; the number is your CUDA version); elsewhere the CUDA toolkit or `pip install \
         nvidia-cuda-nvrtc`. Or name the file: TOBIUO_NVRTC=/path/to/libnvrtc.so.12",
        tried.join(", ")
    )))
}

/// CUDA's usual folders, newest first.
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
    out
}

fn in_folder(dir: &Path) -> Vec<PathBuf> {
    NAMES.iter().map(|n| dir.join(n)).filter(|p| p.exists()).collect()
}
