//! Engines run by the device they are made for: what `verify` and the tests do.

use std::sync::Arc;

use tobiuo_cpu::{CpuError, CpuExecutor, CpuProgram, Threads};
use tobiuo_engine::EngineFile;

/// An engine's weights section.
struct Section(Arc<EngineFile>);

impl AsRef<[u8]> for Section {
    fn as_ref(&self) -> &[u8] {
        self.0.weights()
    }
}

/// Makes plan `index` of an engine ready on the CPU device.
///
/// Panics when there is no such plan.
pub fn executor(engine: &Arc<EngineFile>, index: usize) -> Result<CpuExecutor, CpuError> {
    let threads = Threads::new()?;
    let plan = engine.manifest().plans[index].clone();
    let weights = Arc::new(Section(engine.clone()));
    let program = CpuProgram::new(plan, weights, &threads, &|_| ())?;
    CpuExecutor::new(program, &threads)
}
