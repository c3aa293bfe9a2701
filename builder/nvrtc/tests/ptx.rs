//! Compiling to PTX, where an NVRTC is at hand.

use tobiuo_nvrtc::{Nvrtc, NvrtcError};

const SOURCE: &str = "extern \"C\" __global__ void KERNEL(float* x) { x[threadIdx.x] *= 2.0f; }";

#[test]
fn ptx_of_an_older_architecture() {
    let nvrtc = match Nvrtc::open() {
        Ok(nvrtc) => nvrtc,
        // A machine without CUDA's packages.
        Err(NvrtcError::Missing(_)) => return,
        Err(e) => panic!("{e}"),
    };
    let ptx = nvrtc.compile_ptx("kernel.cu", SOURCE, 87).unwrap();
    assert!(ptx.contains(".target sm_87") && ptx.contains(".entry KERNEL"), "{ptx}");
    assert!(!ptx.contains('\0'));
    let bad = nvrtc.compile_ptx("kernel.cu", "nonsense", 87);
    assert!(matches!(bad, Err(NvrtcError::Compile(log)) if log.contains("nonsense")));
    let unknown = nvrtc.compile_ptx("kernel.cu", SOURCE, 33);
    assert!(matches!(unknown, Err(NvrtcError::Architecture { wanted: 33, .. })));
}
