use std::any::Any;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::CpuError;
use crate::executor::State;
use crate::program::CpuProgram;

/// The threads that kernels run on; clones share them.
///
/// One of them, the driver, waits for work for good and runs a program's steps; the others
/// help it inside a step. A caller hands its memory to the driver and sleeps until it comes
/// back. (Rayon's own way in, `install`, allocates now and then; a frame loop must not.)
/// Executors that share threads take turns.
#[derive(Clone)]
pub struct Threads(Arc<Shared>);

struct Shared {
    /// There until the drop.
    pool: Option<ThreadPool>,
    count: usize,
    handles: Vec<JoinHandle<()>>,
    desk: Arc<Desk>,
    /// Held by the caller whose work is with the driver.
    turn: Mutex<()>,
}

/// Where caller and driver meet.
struct Desk {
    slot: Mutex<Slot>,
    to_driver: Condvar,
    to_caller: Condvar,
}

enum Slot {
    Empty,
    Work(Work),
    Done(Box<State>, Result<(), Box<dyn Any + Send>>),
    Close,
}

struct Work {
    program: Arc<CpuProgram>,
    state: Box<State>,
    steps: Range<usize>,
}

impl Threads {
    /// As many threads as `TOBIUO_THREADS` says, or as there are cores.
    pub fn new() -> Result<Threads, CpuError> {
        let count = match std::env::var("TOBIUO_THREADS") {
            Ok(text) => text.trim().parse().map_err(|_| {
                CpuError(format!(
                    "TOBIUO_THREADS is '{text}': a number of threads from 1 on is wanted"
                ))
            })?,
            Err(_) => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        };
        Threads::with_count(count)
    }

    /// This many threads.
    pub fn with_count(count: NonZeroUsize) -> Result<Threads, CpuError> {
        let mut handles = Vec::new();
        let pool = ThreadPoolBuilder::new()
            .num_threads(count.get())
            .spawn_handler(|thread| {
                let name = format!("tobiuo-cpu-{}", thread.index());
                handles.push(Builder::new().name(name).spawn(|| thread.run())?);
                Ok(())
            })
            .build()
            .map_err(|e| CpuError(format!("cannot start {count} threads: {e}")))?;
        // Each thread allocates what it will ever need when it starts and when it first looks
        // for work: now, not in the middle of a run.
        pool.broadcast(|_| {
            rayon::yield_now();
        });
        let desk = Arc::new(Desk {
            slot: Mutex::new(Slot::Empty),
            to_driver: Condvar::new(),
            to_caller: Condvar::new(),
        });
        let drivers = desk.clone();
        pool.spawn(move || drivers.drive());
        let (pool, count) = (Some(pool), count.get());
        Ok(Threads(Arc::new(Shared { pool, count, handles, desk, turn: Mutex::new(()) })))
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// Runs something on as many threads, started for it: the driver never leaves its own.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, CpuError> {
        let count = self.count();
        // Scoped: they have ended when this returns.
        ThreadPoolBuilder::new()
            .num_threads(count)
            .build_scoped(|thread| thread.run(), |pool| pool.install(work))
            .map_err(|e| CpuError(format!("cannot start {count} threads: {e}")))
    }

    /// Runs steps of a program. Allocates nothing.
    pub(crate) fn run(
        &self,
        program: &Arc<CpuProgram>,
        state: Box<State>,
        steps: Range<usize>,
    ) -> Box<State> {
        let turn = lock(&self.0.turn);
        let desk = &self.0.desk;
        let mut slot = lock(&desk.slot);
        *slot = Slot::Work(Work { program: program.clone(), state, steps });
        desk.to_driver.notify_one();
        let (state, outcome) = loop {
            match std::mem::replace(&mut *slot, Slot::Empty) {
                Slot::Done(state, outcome) => break (state, outcome),
                other => *slot = other,
            }
            slot = desk.to_caller.wait(slot).unwrap_or_else(PoisonError::into_inner);
        };
        drop(slot);
        drop(turn);
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
        state
    }
}

impl Desk {
    fn drive(&self) {
        let mut slot = lock(&self.slot);
        loop {
            match std::mem::replace(&mut *slot, Slot::Empty) {
                Slot::Close => return,
                Slot::Work(Work { program, mut state, steps }) => {
                    drop(slot);
                    let outcome =
                        catch_unwind(AssertUnwindSafe(|| program.run_steps(&mut state, steps)));
                    drop(program);
                    slot = lock(&self.slot);
                    *slot = Slot::Done(state, outcome);
                    self.to_caller.notify_one();
                }
                other => *slot = other,
            }
            slot = self.to_driver.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Shared {
    /// Ends the threads, and waits for it.
    fn drop(&mut self) {
        *lock(&self.desk.slot) = Slot::Close;
        self.desk.to_driver.notify_one();
        self.pool = None;
        for handle in self.handles.drain(..) {
            // A thread that panicked has said so.
            let _ = handle.join();
        }
    }
}

/// A poisoned lock is as good as another: what it guards is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
