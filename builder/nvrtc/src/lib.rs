//! NVIDIA's run-time compiler (NVRTC): CUDA C++ in, cubin out.
//!
//! The library is found and opened at run time, so that a program using this crate starts
//! without it; only the builder needs it, and only to make CUDA engines. It compiles for any
//! GPU it knows, with no GPU and no driver present: NVRTC 12 knows sm_50 to sm_90, NVRTC 13
//! sm_75 to sm_121.

mod library;

use std::ffi::{CStr, CString, c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

use library::Api;

/// The compiler, opened.
pub struct Nvrtc {
    api: Api,
    path: PathBuf,
    version: (u32, u32),
    architectures: Vec<u32>,
}

/// Why the compiler is not there or did not compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NvrtcError {
    /// The library was not found or cannot be used; the text says where it was looked for and
    /// which package brings it.
    Missing(String),
    /// This NVRTC does not know the architecture.
    Architecture {
        /// What was asked for, as in `sm_87`.
        wanted: u32,
        /// What this NVRTC knows.
        known: Vec<u32>,
        /// Its version.
        version: (u32, u32),
    },
    /// The source does not compile; the compiler's log.
    Compile(String),
    /// A call failed in a way that has no better name.
    Call(String),
}

/// Lines of the compiler's log that messages show.
const SHOWN: usize = 6;

impl fmt::Display for NvrtcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NvrtcError::Missing(why) | NvrtcError::Call(why) => f.write_str(why),
            NvrtcError::Architecture { wanted, known, version: (major, minor) } => {
                let known: Vec<String> = known.iter().map(|k| format!("sm_{k}")).collect();
                write!(
                    f,
                    "NVRTC {major}.{minor} does not know sm_{wanted}; it knows {}. NVRTC 12 knows \
                     sm_50 to sm_90 (`pip install nvidia-cuda-nvrtc-cu12`), NVRTC 13 sm_75 to \
                     sm_121 with sm_110 (`pip install nvidia-cuda-nvrtc`); TOBIUO_NVRTC names \
                     another library",
                    known.join(" ")
                )
            }
            NvrtcError::Compile(log) => {
                write!(f, "a kernel does not compile:")?;
                log.lines().take(SHOWN).try_for_each(|line| write!(f, "\n{line}"))?;
                match log.lines().count().saturating_sub(SHOWN) {
                    0 => Ok(()),
                    more => write!(f, "\nand {more} more lines"),
                }
            }
        }
    }
}

impl std::error::Error for NvrtcError {}

/// Device code and what the assembler said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The ELF image for one architecture.
    pub cubin: Vec<u8>,
    /// Registers a thread uses.
    pub registers: u32,
    /// Bytes a thread spills to local memory (stores and loads together).
    pub spill_bytes: u32,
    /// Static shared memory of a block, bytes.
    pub shared_bytes: u32,
    /// Everything the compiler printed.
    pub log: String,
}

impl Nvrtc {
    /// Finds and opens the library: `TOBIUO_NVRTC` (a file or a folder), the dynamic linker's
    /// own places, then CUDA's usual folders and Python's packages. The newest version found
    /// first is taken.
    pub fn open() -> Result<Nvrtc, NvrtcError> {
        Nvrtc::find(&|_| true, false)
    }

    /// The same, but a library that compiles for this architecture (87 for `sm_87`), code that a
    /// driver of this CUDA version (1000 * major + 10 * minor) loads: several versions may be
    /// installed, and none knows all. Where the driver is not known, the oldest is taken, whose
    /// code most drivers load.
    pub fn open_for(architecture: u32, driver: Option<u32>) -> Result<Nvrtc, NvrtcError> {
        let loads = |version: (u32, u32)| driver.is_none_or(|d| version.0 <= d / 1000);
        let knows = |nvrtc: &Nvrtc| nvrtc.architectures.contains(&architecture);
        let wanted = |nvrtc: &Nvrtc| knows(nvrtc) && loads(nvrtc.version);
        Nvrtc::find(&wanted, driver.is_none()).map_err(|e| match e {
            NvrtcError::Architecture { known, version, .. } if known.contains(&architecture) => {
                let driver = driver.unwrap_or(0) / 1000;
                NvrtcError::Missing(format!(
                    "NVRTC {}.{} is here, but this machine's driver is of CUDA {driver} and loads \
                     no code of later compilers: NVRTC {driver} is needed (`pip install \
                     nvidia-cuda-nvrtc-cu{driver}`, or your CUDA version's package)",
                    version.0, version.1
                ))
            }
            NvrtcError::Architecture { known, version, .. } => {
                NvrtcError::Architecture { wanted: architecture, known, version }
            }
            other => other,
        })
    }

    /// The first that is wanted, or the oldest; without one, why not the first that opens, or
    /// that none does.
    fn find(wanted: &dyn Fn(&Nvrtc) -> bool, oldest: bool) -> Result<Nvrtc, NvrtcError> {
        let (found, looked) = library::find();
        let mut taken: Option<Nvrtc> = None;
        let mut unfit = None;
        let mut broken = None;
        for result in found {
            match result.and_then(|(api, path)| Nvrtc::with(api, path)) {
                Ok(nvrtc) if wanted(&nvrtc) && !oldest => return Ok(nvrtc),
                Ok(nvrtc) if wanted(&nvrtc) => {
                    if taken.as_ref().is_none_or(|t| nvrtc.version < t.version) {
                        taken = Some(nvrtc);
                    }
                }
                Ok(Nvrtc { architectures: known, version, .. }) => {
                    unfit.get_or_insert(NvrtcError::Architecture { wanted: 0, known, version });
                }
                Err(e) => {
                    log::debug!("{e}");
                    // Names the linker does not know are no news; a file that is there is.
                    if library::named().is_some() {
                        broken.get_or_insert(e);
                    }
                }
            }
        }
        taken.ok_or_else(|| unfit.or(broken).unwrap_or_else(|| library::missing(&looked)))
    }

    /// Opens one library file.
    pub fn open_file(path: &Path) -> Result<Nvrtc, NvrtcError> {
        Nvrtc::with(library::open(path)?, path.to_path_buf())
    }

    fn with(api: Api, path: PathBuf) -> Result<Nvrtc, NvrtcError> {
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: both are places for one int.
        check(&api, unsafe { (api.version)(&mut major, &mut minor) })?;
        // SAFETY: `count` is a place for one int.
        check(&api, unsafe { (api.num_supported_archs)(&mut count) })?;
        let mut archs = vec![0; count.max(0) as usize];
        // SAFETY: the array holds as many ints as the call said there are.
        check(&api, unsafe { (api.supported_archs)(archs.as_mut_ptr()) })?;
        let architectures = archs.into_iter().map(|a: c_int| a.max(0) as u32).collect();
        Ok(Nvrtc { api, path, version: (major.max(0) as u32, minor.max(0) as u32), architectures })
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Major and minor version.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The architectures it compiles for: 87 for `sm_87`.
    pub fn architectures(&self) -> &[u32] {
        &self.architectures
    }

    /// Compiles CUDA C++ for one architecture (87 for `sm_87`). `specific` asks for the
    /// architecture's own features (`sm_90a`: wgmma).
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        architecture: u32,
        specific: bool,
    ) -> Result<Compiled, NvrtcError> {
        let suffix = if specific { "a" } else { "" };
        let target = format!("sm_{architecture}{suffix}");
        let (program, log) = self.program(name, source, architecture, &target)?;
        let cubin = program.bytes(self.api.cubin_size, self.api.cubin)?;
        Ok(Compiled {
            registers: number_before(&log, " registers").unwrap_or(0),
            spill_bytes: number_before(&log, " bytes spill stores").unwrap_or(0)
                + number_before(&log, " bytes spill loads").unwrap_or(0),
            shared_bytes: number_before(&log, " bytes smem").unwrap_or(0),
            cubin,
            log,
        })
    }

    /// Compiles CUDA C++ to PTX of a virtual architecture (87 for `compute_87`), which the
    /// driver of any later GPU can assemble: kernels made for a small GPU run on a larger one.
    pub fn compile_ptx(
        &self,
        name: &str,
        source: &str,
        architecture: u32,
    ) -> Result<String, NvrtcError> {
        let target = format!("compute_{architecture}");
        let (program, _) = self.program(name, source, architecture, &target)?;
        let ptx = program.bytes(self.api.ptx_size, self.api.ptx)?;
        let text = String::from_utf8_lossy(&ptx);
        Ok(text.trim_end_matches('\0').to_string())
    }

    /// A compiled program and its log.
    fn program(
        &self,
        name: &str,
        source: &str,
        architecture: u32,
        target: &str,
    ) -> Result<(Program<'_>, String), NvrtcError> {
        if !self.architectures.contains(&architecture) {
            return Err(NvrtcError::Architecture {
                wanted: architecture,
                known: self.architectures.clone(),
                version: self.version,
            });
        }
        let api = &self.api;
        let text = |s: &str| {
            CString::new(s)
                .map_err(|_| NvrtcError::Call(format!("{name}: a NUL byte in the source")))
        };
        let (source, name) = (text(source)?, text(name)?);
        let mut program = Program { api, handle: std::ptr::null_mut() };
        // SAFETY: source and name are NUL-terminated and copied by the call; no headers.
        check(api, unsafe {
            (api.create_program)(
                &mut program.handle,
                source.as_ptr(),
                name.as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            )
        })?;
        let options = [
            format!("--gpu-architecture={target}"),
            "--std=c++17".into(),
            "--ptxas-options=-v".into(),
            "--extra-device-vectorization".into(),
        ];
        let options: Vec<CString> = options.iter().map(|o| text(o)).collect::<Result<_, _>>()?;
        let pointers: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: as many NUL-terminated options as said; they outlive the call.
        let status = unsafe {
            (api.compile_program)(program.handle, pointers.len() as c_int, pointers.as_ptr())
        };
        let log = program.bytes(api.log_size, api.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_string();
        const COMPILATION_ERROR: c_int = 6;
        if status == COMPILATION_ERROR {
            return Err(NvrtcError::Compile(log));
        }
        check(api, status)?;
        Ok((program, log))
    }
}

/// A program of the library, destroyed when dropped.
struct Program<'a> {
    api: &'a Api,
    handle: *mut c_void,
}

impl Program<'_> {
    fn bytes(
        &self,
        size: unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int,
        get: unsafe extern "C" fn(*mut c_void, *mut u8) -> c_int,
    ) -> Result<Vec<u8>, NvrtcError> {
        let mut len = 0usize;
        // SAFETY: `len` is a place for one size, the program is alive.
        check(self.api, unsafe { size(self.handle, &mut len) })?;
        let mut bytes = vec![0u8; len];
        // SAFETY: the buffer has the size the library asked for.
        check(self.api, unsafe { get(self.handle, bytes.as_mut_ptr()) })?;
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: created once, destroyed once.
            unsafe { (self.api.destroy_program)(&mut self.handle) };
        }
    }
}

fn check(api: &Api, status: c_int) -> Result<(), NvrtcError> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: gives a static, NUL-terminated string for any number.
    let text = unsafe { (api.error_string)(status) };
    let words = if text.is_null() {
        "unknown error".into()
    } else {
        // SAFETY: not null, static and NUL-terminated.
        unsafe { CStr::from_ptr(text) }.to_string_lossy()
    };
    Err(NvrtcError::Call(format!("NVRTC: {words} ({status})")))
}

/// The number in front of the first `words` of a text.
fn number_before(text: &str, words: &str) -> Option<u32> {
    let end = text.find(words)?;
    let digits = text[..end].rsplit(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read_from_the_log() {
        let log = "ptxas .  16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
                   ptxas info    : Used 122 registers, used 1 barriers, 256 bytes smem";
        assert_eq!(number_before(log, " registers"), Some(122));
        assert_eq!(number_before(log, " bytes spill stores"), Some(8));
        assert_eq!(number_before(log, " bytes spill loads"), Some(12));
        assert_eq!(number_before(log, " bytes smem"), Some(256));
        assert_eq!(number_before(log, " nothing"), None);
    }
}
