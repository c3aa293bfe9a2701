//! Compiling many kernels, on all cores, each only once ever.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tobiuo_nvrtc::{Compiled, Nvrtc, NvrtcError};

use super::cubins::{CubinKey, CubinStore};

/// The compiler with what it compiled before.
pub struct Compiler {
    nvrtc: Nvrtc,
    store: Option<CubinStore>,
    /// Without a store: what this build compiled, by the hash of its source.
    kept: Mutex<HashMap<blake3::Hash, Compiled>>,
    fresh: AtomicUsize,
    known: AtomicUsize,
}

/// A kernel's source, and whether it is for the architecture's own features.
pub type Source<'a> = (&'a str, bool);

impl Compiler {
    /// With a store of compiled kernels, or without.
    pub fn new(nvrtc: Nvrtc, store: Option<CubinStore>) -> Compiler {
        let (fresh, known) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Compiler { nvrtc, store, kept: Mutex::default(), fresh, known }
    }

    /// Major and minor version of NVRTC.
    pub fn version(&self) -> (u32, u32) {
        self.nvrtc.version()
    }

    /// Kernels compiled so far, and kernels that were there already.
    pub fn counts(&self) -> (usize, usize) {
        (self.fresh.load(Ordering::Relaxed), self.known.load(Ordering::Relaxed))
    }

    /// Says whether it can compile for an architecture at all.
    pub fn check(&self, sm: u32) -> Result<(), NvrtcError> {
        if self.nvrtc.architectures().contains(&sm) {
            return Ok(());
        }
        Err(NvrtcError::Architecture {
            wanted: sm,
            known: self.nvrtc.architectures().to_vec(),
            version: self.nvrtc.version(),
        })
    }

    /// One kernel.
    pub fn compile(&self, (source, specific): Source, sm: u32) -> Result<Compiled, NvrtcError> {
        let key = CubinKey { source, nvrtc: self.nvrtc.version(), sm, specific };
        let hash = blake3::hash(format!("{sm} {specific} {source}").as_bytes());
        let kept = self.store.is_none().then(|| self.kept.lock().ok()).flatten();
        if let Some(code) = kept.and_then(|kept| kept.get(&hash).cloned()) {
            self.known.fetch_add(1, Ordering::Relaxed);
            return Ok(code);
        }
        if let Some(code) = self.store.as_ref().and_then(|s| s.get(&key)) {
            self.known.fetch_add(1, Ordering::Relaxed);
            return Ok(code);
        }
        let code = self.nvrtc.compile("kernel.cu", source, sm, specific)?;
        self.fresh.fetch_add(1, Ordering::Relaxed);
        match (&self.store, self.kept.lock()) {
            (Some(store), _) => store.put(&key, &code),
            (None, Ok(mut kept)) => drop(kept.insert(hash, code.clone())),
            (None, Err(_)) => {}
        }
        Ok(code)
    }

    /// Kernels for one architecture, on all cores; the results are in their order. `done` is
    /// told how many are finished.
    pub fn compile_all(
        &self,
        sources: &[Source],
        sm: u32,
        done: &mut dyn FnMut(usize),
    ) -> Vec<Result<Compiled, NvrtcError>> {
        let results: Vec<Mutex<Option<Result<Compiled, NvrtcError>>>> =
            sources.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..cores.min(sources.len()) {
                let tell = tell.clone();
                let (next, results) = (&next, &results);
                scope.spawn(move || {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(&source) = sources.get(i) else { return };
                        let code = self.compile(source, sm);
                        *results[i].lock().expect("no thread panics holding it") = Some(code);
                        let _ = tell.send(());
                    }
                });
            }
            drop(tell);
            for finished in 1.. {
                if told.recv().is_err() {
                    return;
                }
                done(finished);
            }
        });
        let taken =
            |m: Mutex<Option<_>>| m.into_inner().ok().flatten().expect("every source was compiled");
        results.into_iter().map(taken).collect()
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        if let Some(store) = self.store.as_ref().filter(|_| self.counts().0 > 0) {
            store.trim();
        }
    }
}
