//! The functions of `libnvrtc.so`, with the signatures and the contracts of nvrtc.h: compiling
//! wraps the source text, which the stand-in driver reads again.
#![allow(non_snake_case, missing_docs, clippy::missing_safety_doc)]

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int};
use std::sync::Mutex;

use tobiuo_kernels::LAYER_MARK;
use tobiuo_kernels::vision::VISION_MARK;

use crate::abi::{Out, text};
use crate::driver::{Driver, call_nvrtc};
use crate::elf;

/// Names the version: `12.6` (the default) or `13.0`.
pub(crate) const VERSION: &str = "TOBIUO_STANDIN_NVRTC";
/// `3:words`: the third compilation fails with these words in its log; `0:words`: every one.
pub(crate) const FAIL: &str = "TOBIUO_STANDIN_NVRTC_FAIL";

const INVALID_INPUT: c_int = 3;
const INVALID_PROGRAM: c_int = 4;
const INVALID_OPTION: c_int = 5;
const COMPILATION: c_int = 6;

const OF_12: &[c_int] = &[50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90];
const OF_13: &[c_int] = &[75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121];

#[derive(Clone, Default)]
struct Program {
    source: String,
    log: String,
    image: Vec<u8>,
    ptx: String,
}

#[derive(Default)]
struct Programs {
    all: BTreeMap<usize, Program>,
    made: usize,
    compiled: u64,
}

static PROGRAMS: Mutex<Option<Programs>> = Mutex::new(None);

fn programs<R>(f: impl FnOnce(&mut Programs) -> R) -> R {
    f(PROGRAMS.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert_default())
}

fn version() -> (c_int, c_int, &'static [c_int]) {
    match std::env::var(VERSION).as_deref() {
        Ok(v) if v.starts_with("13") => (13, 0, OF_13),
        _ => (12, 6, OF_12),
    }
}

pub(crate) fn report_leaks(d: &mut Driver) {
    let left = programs(|p| p.all.len());
    if left > 0 {
        d.ledger.problem(format!("leak: {left} NVRTC programs were not destroyed"));
    }
}

macro_rules! functions {
    ($(fn $name:ident($($arg:ident: $kind:ty),* $(,)?) |$d:pat_param| $body:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $kind),*) -> c_int {
            call_nvrtc(stringify!($name), |$d: &mut Driver| $body)
        }
    )*};
}

functions! {
    fn nvrtcVersion(major: Out<c_int>, minor: Out<c_int>) |_| {
        let (a, b, _) = version();
        major.put(a).and(minor.put(b)).map_err(|_| INVALID_INPUT)
    };
    fn nvrtcGetNumSupportedArchs(count: Out<c_int>) |_| {
        count.put(version().2.len() as c_int).map_err(|_| INVALID_INPUT)
    };
    fn nvrtcGetSupportedArchs(list: *mut c_int) |_| {
        let mut known = version().2.iter().enumerate();
        known.try_for_each(|(i, &a)| Out::at(list, i).put(a)).map_err(|_| INVALID_INPUT)
    };
    fn nvrtcCreateProgram(program: Out<usize>, source: *const c_char, _name: *const c_char, headers: c_int, _texts: *const *const c_char, _names: *const *const c_char) |_| {
        let source = text(source).map_err(|_| INVALID_INPUT)?;
        if headers != 0 {
            return Err(INVALID_INPUT);
        }
        let handle = programs(|p| {
            p.made += 1;
            let handle = 0x00f0_0000_0000_0000 + p.made * 16;
            p.all.insert(handle, Program { source, ..Program::default() });
            handle
        });
        program.put(handle).map_err(|_| INVALID_INPUT)
    };
    fn nvrtcDestroyProgram(program: *mut usize) |d| {
        let place = Place(program);
        let handle = place.get()?;
        if programs(|p| p.all.remove(&handle)).is_none() {
            d.ledger.problem("an NVRTC program is destroyed that is not there");
            return Err(INVALID_PROGRAM);
        }
        Out::at(program, 0).put(0).map_err(|_| INVALID_INPUT)
    };
    fn nvrtcCompileProgram(program: usize, count: c_int, options: *const *const c_char) |d| {
        let options = (0..usize::try_from(count).map_err(|_| INVALID_INPUT)?)
            .map(|i| text(Place(options.cast_mut()).at(i)?).map_err(|_| INVALID_INPUT))
            .collect::<Result<Vec<String>, c_int>>()?;
        compile(d, program, &options)
    };
    fn nvrtcGetProgramLogSize(program: usize, size: Out<usize>) |_| {
        size.put(find(program)?.log.len() + 1).map_err(|_| INVALID_INPUT)
    };
    fn nvrtcGetProgramLog(program: usize, log: *mut u8) |_| {
        let found = find(program)?;
        put_bytes(log, found.log.as_bytes())?;
        put_bytes(log.wrapping_add(found.log.len()), &[0])
    };
    fn nvrtcGetCUBINSize(program: usize, size: Out<usize>) |_| {
        size.put(find(program)?.image.len()).map_err(|_| INVALID_INPUT)
    };
    fn nvrtcGetPTXSize(program: usize, size: Out<usize>) |_| {
        size.put(find(program)?.ptx.len() + 1).map_err(|_| INVALID_INPUT)
    };
    fn nvrtcGetPTX(program: usize, ptx: *mut u8) |_| {
        let found = find(program)?;
        put_bytes(ptx, found.ptx.as_bytes())?;
        put_bytes(ptx.wrapping_add(found.ptx.len()), &[0])
    };
    fn nvrtcGetCUBIN(program: usize, image: *mut u8) |_| put_bytes(image, &find(program)?.image);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetErrorString(status: c_int) -> *const c_char {
    let text = match status {
        0 => c"NVRTC_SUCCESS",
        1 => c"NVRTC_ERROR_OUT_OF_MEMORY",
        2 => c"NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
        INVALID_INPUT => c"NVRTC_ERROR_INVALID_INPUT",
        INVALID_PROGRAM => c"NVRTC_ERROR_INVALID_PROGRAM",
        INVALID_OPTION => c"NVRTC_ERROR_INVALID_OPTION",
        COMPILATION => c"NVRTC_ERROR_COMPILATION",
        7 => c"NVRTC_ERROR_BUILTIN_OPERATION_FAILURE",
        11 => c"NVRTC_ERROR_INTERNAL_ERROR",
        _ => c"NVRTC_ERROR unknown",
    };
    text.as_ptr()
}

struct Place<T>(*mut T);

impl<T: Copy> Place<T> {
    fn at(&self, i: usize) -> Result<T, c_int> {
        if self.0.is_null() {
            return Err(INVALID_INPUT);
        }
        // SAFETY: not null, so by nvrtc.h's contract an array of at least `i + 1`.
        Ok(unsafe { self.0.wrapping_add(i).read() })
    }

    fn get(&self) -> Result<T, c_int> {
        self.at(0)
    }
}

fn put_bytes(to: *mut u8, bytes: &[u8]) -> Result<(), c_int> {
    if to.is_null() {
        return Err(INVALID_INPUT);
    }
    // SAFETY: by nvrtc.h's contract the place holds as many bytes as the size call said.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    Ok(())
}

fn find(program: usize) -> Result<Program, c_int> {
    programs(|p| p.all.get(&program).cloned()).ok_or(INVALID_PROGRAM)
}

fn compile(d: &mut Driver, handle: usize, options: &[String]) -> Result<(), c_int> {
    let mut program = find(handle)?;
    let (mut sm, mut ptx_only) = (None, false);
    let mut defines = String::new();
    for option in options {
        if let Some(name) = option.strip_prefix("--gpu-architecture=") {
            let (name, is_virtual) = match name.strip_prefix("compute_") {
                Some(name) => (name, true),
                None => (name.strip_prefix("sm_").ok_or(INVALID_OPTION)?, false),
            };
            ptx_only = is_virtual;
            sm = name.trim_end_matches(['a', 'f']).parse().ok();
        } else if let Some(define) =
            option.strip_prefix("--define-macro=").or_else(|| option.strip_prefix("-D"))
        {
            defines += &format!("#define {}\n", define.replacen('=', " ", 1));
        } else if !option.starts_with("--") {
            return Err(INVALID_OPTION);
        }
    }
    let known = sm.filter(|s| version().2.contains(s)).ok_or(INVALID_OPTION)?;
    let nth = programs(|p| {
        p.compiled += 1;
        p.compiled
    });
    let wanted = std::env::var(FAIL).ok();
    let failure = wanted
        .as_deref()
        .and_then(|w| w.split_once(':'))
        .filter(|(n, _)| n.parse::<u64>().is_ok_and(|n| n == 0 || n == nth));
    let result = if let Some((_, words)) = failure {
        d.ledger.entries.injected.push(format!("compilation {nth}"));
        program.log = format!(
            "kernel.cu(1): error: {words}\n\n1 error detected in the compilation of \"kernel.cu\".\n"
        );
        Err(COMPILATION)
    } else if ![LAYER_MARK, VISION_MARK].iter().any(|mark| program.source.contains(mark)) {
        program.log =
            format!("kernel.cu: error: the source has no line that begins with '{LAYER_MARK}'\n");
        Err(COMPILATION)
    } else {
        program.log = "ptxas info    : 0 bytes gmem\nptxas info    : Function properties\n    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 40 registers, used 1 barriers\n".into();
        let source = format!("{defines}{}", program.source);
        program.ptx = elf::ptx(&source, known as u32);
        // As NVRTC: machine code only for a real architecture.
        program.image = if ptx_only { Vec::new() } else { elf::wrap(&source, known as u32) };
        Ok(())
    };
    programs(|p| p.all.insert(handle, program));
    result
}
