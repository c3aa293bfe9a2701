//! The driver's state, and the way every call goes in and out.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::{Duration, Instant};

use crate::capture::Capture;
use crate::config::Description;
use crate::faults::Faults;
use crate::kernel::Kernel;
use crate::ledger::Ledger;
use crate::memory::Memory;
use crate::queue::{Executable, Node, Point, Stream};
use crate::status::*;

/// Handles count from here: no address a host could read through.
const HANDLES: u64 = 0x00e0_0000_0000_0000;

pub(crate) struct Context {
    pub device: usize,
    pub retains: u32,
    /// The fault after which every call fails.
    pub sticky: Option<Status>,
}

pub(crate) struct Event {
    pub context: u64,
    pub timed: bool,
    pub state: EventState,
    /// A query has said once that it is not ready.
    pub asked: bool,
}

pub(crate) enum EventState {
    Never,
    Recorded(Arc<Point>),
    Captured { capture: u64, after: Vec<usize> },
}

pub(crate) struct Module {
    pub context: u64,
    pub source: String,
    pub functions: HashMap<String, u64>,
}

pub(crate) struct Function {
    pub context: u64,
    pub module: u64,
    pub kernel: Arc<Kernel>,
    /// Dynamic shared memory it may be launched with.
    pub max_shared: c_int,
}

pub(crate) struct Graph {
    pub context: u64,
    pub nodes: Vec<Node>,
}

pub(crate) struct Instance {
    pub context: u64,
    pub executable: Arc<Executable>,
}

/// Everything. One for the process, behind one lock: calls of several threads take turns.
pub(crate) struct Driver {
    pub description: Description,
    pub faults: Faults,
    pub ledger: Ledger,
    pub memory: Memory,
    pub initialised: bool,
    pub contexts: BTreeMap<u64, Context>,
    pub streams: HashMap<u64, Stream>,
    pub events: HashMap<u64, Event>,
    pub modules: HashMap<u64, Module>,
    pub functions: HashMap<u64, Function>,
    pub graphs: HashMap<u64, Graph>,
    pub instances: HashMap<u64, Instance>,
    pub captures: HashMap<u64, Capture>,
    ended: HashSet<u64>,
    /// Clean-ups that a failure made on demand has prevented.
    prevented: usize,
    next: u64,
}

thread_local! {
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// What a call needs and does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Works without `cuInit`.
    Nothing,
    /// Works without a context.
    Driver,
    /// Makes a context current, or asks for it.
    Switch,
    /// Gives a context back: done even when it returns an error.
    Leave,
    /// Uses the current context.
    Context,
    /// As `Context`, and not allowed on a thread that captures.
    Unsafe,
    /// Gives something of the current context back: done even when it returns an error, as
    /// the driver's own clean-ups return errors of earlier work.
    Release,
    /// As `Release`, and not allowed on a thread that captures.
    UnsafeRelease,
}

fn driver() -> &'static Mutex<Driver> {
    static DRIVER: OnceLock<Mutex<Driver>> = OnceLock::new();
    DRIVER.get_or_init(|| {
        unsafe extern "C" {
            fn atexit(call: extern "C" fn()) -> c_int;
        }
        // SAFETY: `at_exit` takes nothing and lives as long as this library, whose exit
        // handlers run before it is unloaded.
        unsafe { atexit(at_exit) };
        Mutex::new(Driver::from_environment())
    })
}

extern "C" fn at_exit() {
    let ended = catch_unwind(|| {
        let begun = Instant::now();
        loop {
            match driver().try_lock() {
                Ok(mut driver) => return driver.end(),
                Err(TryLockError::Poisoned(driver)) => return driver.into_inner().end(),
                Err(TryLockError::WouldBlock) if begun.elapsed() > Duration::from_secs(5) => {
                    eprintln!("stand-in driver: a call is under way at the process's end");
                    return;
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    });
    if ended.is_err() {
        eprintln!("stand-in driver: the report could not be made");
    }
}

fn lock() -> MutexGuard<'static, Driver> {
    driver().lock().unwrap_or_else(|e| e.into_inner())
}

/// One call: counted, failed on demand, refused where it is not allowed, then done.
pub(crate) fn call(
    name: &'static str,
    needs: Needs,
    work: impl FnOnce(&mut Driver, u64) -> Result<(), Status>,
) -> Status {
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut driver = lock();
        let status = driver.call(name, needs, work).err().unwrap_or(0);
        driver.ledger.returned(name, status);
        status
    }));
    done.unwrap_or(UNKNOWN)
}

/// A call of NVRTC: counted and failed on demand.
pub(crate) fn call_nvrtc(
    name: &'static str,
    work: impl FnOnce(&mut Driver) -> Result<(), Status>,
) -> Status {
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut driver = lock();
        let (total, nth) = driver.ledger.count(name);
        let status = match driver.faults.call(name, nth, total, false) {
            Some(code) => {
                driver.ledger.entries.injected.push(format!("call {total}, {name}: {code}"));
                // A program is destroyed all the same: nobody could do it a second time.
                if name == "nvrtcDestroyProgram" {
                    let _ = work(&mut driver);
                }
                code
            }
            None => work(&mut driver).err().unwrap_or(0),
        };
        driver.ledger.returned(name, status);
        status
    }));
    done.unwrap_or(11) // NVRTC_ERROR_INTERNAL_ERROR
}

impl Driver {
    fn from_environment() -> Driver {
        let stop = |e: String| -> ! {
            eprintln!("stand-in driver: {e}");
            std::process::abort()
        };
        Driver {
            description: Description::from_environment().unwrap_or_else(|e| stop(e)),
            faults: Faults::from_environment().unwrap_or_else(|e| stop(e)),
            ledger: Ledger::from_environment(),
            memory: Memory::default(),
            initialised: false,
            contexts: BTreeMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            instances: HashMap::new(),
            captures: HashMap::new(),
            ended: HashSet::new(),
            prevented: 0,
            next: HANDLES,
        }
    }

    fn call(
        &mut self,
        name: &'static str,
        needs: Needs,
        work: impl FnOnce(&mut Driver, u64) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let (total, nth) = self.ledger.count(name);
        let release = matches!(needs, Needs::Release | Needs::UnsafeRelease);
        let on_device = release || matches!(needs, Needs::Context | Needs::Unsafe);
        let current = CURRENT.get();
        let injected = self.faults.call(name, nth, total, on_device);
        if let Some(code) = injected {
            self.ledger.entries.injected.push(format!("call {total}, {name}: {code}"));
            if name == "cuCtxSetCurrent" {
                self.prevented += 1;
            }
            if is_sticky(code) && on_device {
                self.fault(current, code);
            }
            if !release && needs != Needs::Leave {
                return Err(code);
            }
        }
        if needs != Needs::Nothing && !self.initialised {
            self.ledger.problem(format!("{name} before cuInit"));
            return Err(NOT_INITIALIZED);
        }
        if on_device {
            let Some(context) = self.contexts.get(&current) else {
                self.ledger.problem(format!("{name} without a current context"));
                return Err(INVALID_CONTEXT);
            };
            match context.sticky {
                Some(status) if !release => return Err(status),
                Some(status) => return work(self, current).and(Err(status)),
                None => {}
            }
        }
        if matches!(needs, Needs::Unsafe | Needs::UnsafeRelease) {
            self.refuse_unsafe(name)?;
        }
        work(self, current)?;
        injected.map_or(Ok(()), Err)
    }

    /// A fresh handle; none is ever used twice.
    pub fn handle(&mut self) -> u64 {
        self.next += 16;
        self.next
    }

    /// Says of a handle that is not there what it was.
    fn no_handle(&mut self, what: &str, handle: u64) -> Status {
        let ended = self.ended.contains(&handle);
        self.ledger.problem(match ended {
            true => format!("{what} {handle:#x} is used after its end"),
            false => format!("{handle:#x} is no {what}"),
        });
        INVALID_HANDLE
    }

    pub fn stream(&mut self, handle: u64) -> Result<&mut Stream, Status> {
        if !self.streams.contains_key(&handle) {
            if handle <= 2 {
                self.ledger.problem("the default stream is used, which the stand-in has not");
                return Err(NOT_SUPPORTED);
            }
            return Err(self.no_handle("stream", handle));
        }
        Ok(self.streams.get_mut(&handle).expect("it is there"))
    }

    pub fn event(&mut self, handle: u64) -> Result<&mut Event, Status> {
        if !self.events.contains_key(&handle) {
            return Err(self.no_handle("event", handle));
        }
        Ok(self.events.get_mut(&handle).expect("it is there"))
    }

    pub fn function(&mut self, handle: u64) -> Result<&mut Function, Status> {
        if !self.functions.contains_key(&handle) {
            return Err(self.no_handle("function", handle));
        }
        Ok(self.functions.get_mut(&handle).expect("it is there"))
    }

    /// Takes something out of its table for good.
    pub fn end_of<T>(
        &mut self,
        table: impl FnOnce(&mut Driver) -> &mut HashMap<u64, T>,
        what: &str,
        handle: u64,
    ) -> Result<T, Status> {
        match table(self).remove(&handle) {
            Some(taken) => {
                self.ended.insert(handle);
                Ok(taken)
            }
            None => Err(self.no_handle(what, handle)),
        }
    }

    /// The stream belongs to the current context.
    pub fn own_stream(&mut self, stream: u64, current: u64) -> Result<(), Status> {
        if self.stream(stream)?.context != current {
            self.ledger.problem("a stream of another context than the current one is used");
            return Err(INVALID_HANDLE);
        }
        Ok(())
    }

    /// The number of a device.
    pub fn device(&self, device: c_int) -> Result<usize, Status> {
        let n = usize::try_from(device).map_err(|_| INVALID_DEVICE)?;
        if n < self.description.devices.len() { Ok(n) } else { Err(INVALID_DEVICE) }
    }

    /// Free and total bytes of a context's device.
    pub fn free_memory(&self, context: u64) -> (u64, u64) {
        let device = &self.description.devices[self.contexts[&context].device];
        let (own, host) = self.memory.used();
        let used = if device.integrated { own + host } else { own };
        (device.memory.saturating_sub(used), device.memory)
    }

    pub fn retain(&mut self, device: usize) -> u64 {
        if let Some((&id, context)) = self.contexts.iter_mut().find(|(_, c)| c.device == device) {
            context.retains += 1;
            return id;
        }
        let id = self.handle();
        self.contexts.insert(id, Context { device, retains: 1, sticky: None });
        id
    }

    pub fn release(&mut self, device: usize) -> Result<(), Status> {
        let found = self.contexts.iter_mut().find(|(_, c)| c.device == device);
        let Some((&id, context)) = found else {
            self.ledger.problem("a context is released more often than it was retained");
            return Err(INVALID_CONTEXT);
        };
        context.retains -= 1;
        if context.retains == 0 {
            let lost = context.sticky.is_some();
            if !lost {
                let _ = self.run_context(id);
            }
            self.destroy(id, "when its context was released");
        }
        Ok(())
    }

    /// Ends a context and reports what was left in it.
    fn destroy(&mut self, id: u64, when: &str) {
        let mut left = self.memory.drop_context(id);
        macro_rules! drain {
            ($($table:ident: $what:literal)*) => {$(
                let gone: Vec<u64> =
                    self.$table.iter().filter(|(_, x)| x.context == id).map(|(&h, _)| h).collect();
                for handle in gone {
                    self.$table.remove(&handle);
                    self.ended.insert(handle);
                    left.push($what.to_string());
                }
            )*};
        }
        self.functions.retain(|_, f| f.context != id);
        drain! {
            streams: "a stream"
            events: "an event"
            modules: "a module"
            graphs: "a graph"
            instances: "an executable graph"
        }
        self.contexts.remove(&id);
        self.ended.insert(id);
        for what in left {
            if self.prevented > 0 {
                self.prevented -= 1;
                self.ledger.entries.excused.push(format!("{what} was left {when}"));
            } else {
                self.ledger.problem(format!("leak: {what} was left {when}"));
            }
        }
    }

    fn end(&mut self) {
        let open: Vec<u64> = self.contexts.keys().copied().collect();
        for id in open {
            let retains = self.contexts[&id].retains;
            self.ledger.problem(format!("leak: a context is retained {retains} times at the end"));
            self.destroy(id, "at the end");
        }
        crate::nvrtc::report_leaks(self);
        self.ledger.write();
    }

    /// Makes a context current on this thread; 0 for none.
    pub fn set_current(&mut self, context: u64) -> Result<(), Status> {
        if context != 0 && !self.contexts.contains_key(&context) {
            self.ledger.problem("a context is made current after its end");
            return Err(INVALID_CONTEXT);
        }
        CURRENT.set(context);
        Ok(())
    }
}
