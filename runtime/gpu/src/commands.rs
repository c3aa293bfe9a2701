//! Lists of device work, checked when they are made: the way to launch kernels without
//! `unsafe`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::context::Context;
use crate::error::{GpuError, GpuErrorKind};
use crate::execution::{Event, Graph, Stream};
use crate::memory::{DeviceSlice, PinnedBuffer};
use crate::module::{Function, Launch};
use crate::schedule::{self, Step, schedule};

/// The most arguments of a kernel.
pub const MAX_ARGUMENTS: usize = 16;

/// An argument of a kernel: 8 bytes each.
#[derive(Clone, Debug)]
pub enum KernelArgument {
    /// The address of device memory, of which the kernel touches no more than the slice.
    Memory(DeviceSlice),
    /// The device's address of bytes in a pinned buffer of the list.
    Pinned {
        /// Which buffer.
        buffer: PinnedId,
        /// First byte.
        offset: usize,
        /// How many the kernel touches.
        bytes: usize,
    },
    /// A number; no address.
    Value(u64),
    /// A null pointer, for something the kernel does not use.
    Null,
}

/// A pinned buffer of one [`CommandList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedId(usize);

enum Work {
    Launch {
        function: Function,
        launch: Launch,
        arguments: Vec<u64>,
    },
    Upload {
        from: PinnedId,
        offset: usize,
        to: DeviceSlice,
    },
    Download {
        from: DeviceSlice,
        to: PinnedId,
        offset: usize,
    },
    Copy {
        from: u64,
        to: DeviceSlice,
    },
    Fill {
        to: DeviceSlice,
        value: u8,
    },
    Record(Arc<Event>),
    /// Only holds an order.
    Nothing,
}

struct Command {
    work: Work,
    stream: usize,
    after: Vec<usize>,
}

/// Device work in order, on one stream or several, that can be queued again and again or be
/// captured into a [`Graph`].
///
/// It owns or keeps alive all that the work touches. Every copy is checked against its buffers
/// when it is added. Of a kernel, that its arguments lie inside real buffers is checked; that
/// it touches no other memory is what loading its [`Module`](crate::Module) trusted it to do.
///
/// Pinned buffers belong to the list, so that the host cannot touch them while the device may:
/// [`bytes`](Self::bytes) and [`bytes_mut`](Self::bytes_mut) wait for what was queued.
pub struct CommandList {
    context: Context,
    commands: Vec<Command>,
    pinned: Vec<PinnedBuffer>,
    /// Memory that kernels' addresses point into.
    keep: Vec<DeviceSlice>,
    done: Event,
    pending: AtomicBool,
}

fn invalid(reason: String) -> GpuError {
    GpuError::new(GpuErrorKind::Driver, reason)
}

impl CommandList {
    /// A list of nothing.
    pub fn new(context: &Context) -> Result<CommandList, GpuError> {
        Ok(CommandList {
            context: context.clone(),
            commands: Vec::new(),
            pinned: Vec::new(),
            keep: Vec::new(),
            done: Event::blocking(context)?,
            pending: AtomicBool::new(false),
        })
    }

    /// The context it belongs to.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Commands so far; the next one has this index.
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// True for a list of nothing.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Forgets all commands, once what was queued has ended; the pinned buffers stay.
    pub fn clear(&mut self) -> Result<(), GpuError> {
        self.wait()?;
        self.commands.clear();
        self.keep.clear();
        Ok(())
    }

    /// Gives a pinned buffer to the list.
    pub fn pin(&mut self, buffer: PinnedBuffer) -> PinnedId {
        self.pinned.push(buffer);
        PinnedId(self.pinned.len() - 1)
    }

    /// A pinned buffer's bytes, once the device has done with them.
    pub fn bytes(&self, buffer: PinnedId) -> &[u8] {
        self.settle();
        self.pinned[buffer.0].bytes()
    }

    /// A pinned buffer's bytes to write, once the device has done with them.
    pub fn bytes_mut(&mut self, buffer: PinnedId) -> &mut [u8] {
        self.settle();
        self.pinned[buffer.0].bytes_mut()
    }

    /// Waits for what was queued last.
    pub fn wait(&self) -> Result<(), GpuError> {
        if self.pending.load(Ordering::Acquire) {
            self.done.synchronize()?;
            self.pending.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// True when nothing that was queued is still to be done.
    pub fn is_done(&self) -> Result<bool, GpuError> {
        if self.pending.load(Ordering::Acquire) {
            if !self.done.is_done()? {
                return Ok(false);
            }
            self.pending.store(false, Ordering::Release);
        }
        Ok(true)
    }

    /// As `wait`; where waiting fails the context is lost, and nothing of it runs any more.
    fn settle(&self) {
        if let Err(e) = self.wait() {
            log::debug!("{e}");
            self.pending.store(false, Ordering::Release);
        }
    }

    fn push(&mut self, work: Work, stream: usize, after: &[usize]) -> Result<usize, GpuError> {
        // The driver refuses copies of nothing within graphs.
        let work = match work {
            Work::Upload { ref to, .. } | Work::Copy { ref to, .. } | Work::Fill { ref to, .. }
                if to.is_empty() =>
            {
                Work::Nothing
            }
            Work::Download { ref from, .. } if from.is_empty() => Work::Nothing,
            other => other,
        };
        let index = self.commands.len();
        if let Some(&odd) = after.iter().find(|&&a| a >= index) {
            return Err(invalid(format!("command {index} cannot come after command {odd}")));
        }
        self.commands.push(Command { work, stream, after: after.to_vec() });
        Ok(index)
    }

    fn pinned_range(&self, id: PinnedId, offset: usize, len: usize) -> Result<u64, GpuError> {
        let buffer =
            self.pinned.get(id.0).ok_or_else(|| invalid("no such pinned buffer".into()))?;
        match offset.checked_add(len) {
            Some(end) if end <= buffer.len() => Ok(buffer.device_address() + offset as u64),
            _ => Err(invalid(format!(
                "{len} bytes at {offset} of a pinned buffer of {} bytes",
                buffer.len()
            ))),
        }
    }

    fn mapped_range(&self, id: PinnedId, offset: usize, len: usize) -> Result<u64, GpuError> {
        let address = self.pinned_range(id, offset, len)?;
        if !self.context.device().can_map_host {
            return Err(invalid(format!("{} cannot map host memory", self.context.device().name)));
        }
        Ok(address)
    }

    fn here(&self, slice: &DeviceSlice) -> Result<(), GpuError> {
        let here = self.context.device().ordinal;
        match slice.device() {
            Some(there) if there != here => {
                Err(invalid(format!("memory of CUDA device {there} in work for device {here}")))
            }
            _ => Ok(()),
        }
    }

    /// Adds a kernel launch on a stream (0: the main one), after earlier commands of other
    /// streams. Gives the command's index.
    pub fn launch(
        &mut self,
        function: &Function,
        launch: Launch,
        arguments: &[KernelArgument],
        stream: usize,
        after: &[usize],
    ) -> Result<usize, GpuError> {
        if arguments.len() > MAX_ARGUMENTS {
            return Err(invalid(format!(
                "{} arguments of a kernel; at most {MAX_ARGUMENTS}",
                arguments.len()
            )));
        }
        if function.ordinal() != self.context.device().ordinal {
            return Err(invalid("a kernel of another device".into()));
        }
        let mut keep = Vec::new();
        let mut addresses = Vec::with_capacity(arguments.len());
        for argument in arguments {
            addresses.push(match argument {
                KernelArgument::Memory(slice) => {
                    self.here(slice)?;
                    keep.push(slice.clone());
                    slice.address()
                }
                KernelArgument::Pinned { buffer, offset, bytes } => {
                    self.mapped_range(*buffer, *offset, *bytes)?
                }
                KernelArgument::Value(value) => *value,
                KernelArgument::Null => 0,
            });
        }
        let work = Work::Launch { function: function.clone(), launch, arguments: addresses };
        let index = self.push(work, stream, after)?;
        self.keep.append(&mut keep);
        Ok(index)
    }

    /// Adds a copy of a pinned buffer's bytes from `offset` on to device memory, of the
    /// memory's length.
    pub fn upload(
        &mut self,
        from: PinnedId,
        offset: usize,
        to: &DeviceSlice,
    ) -> Result<usize, GpuError> {
        self.pinned_range(from, offset, to.len())?;
        self.here(to)?;
        self.push(Work::Upload { from, offset, to: to.clone() }, 0, &[])
    }

    /// The same by the device itself, which reads the host's memory once through its mapping:
    /// the way of devices that share the host's memory.
    pub fn upload_mapped(
        &mut self,
        from: PinnedId,
        offset: usize,
        to: &DeviceSlice,
    ) -> Result<usize, GpuError> {
        let from = self.mapped_range(from, offset, to.len())?;
        self.here(to)?;
        self.push(Work::Copy { from, to: to.clone() }, 0, &[])
    }

    /// Adds a copy of device memory to a pinned buffer's bytes from `offset` on.
    pub fn download(
        &mut self,
        from: &DeviceSlice,
        to: PinnedId,
        offset: usize,
    ) -> Result<usize, GpuError> {
        self.pinned_range(to, offset, from.len())?;
        self.here(from)?;
        self.push(Work::Download { from: from.clone(), to, offset }, 0, &[])
    }

    /// Adds a copy between device memory of the same length.
    pub fn copy(&mut self, from: &DeviceSlice, to: &DeviceSlice) -> Result<usize, GpuError> {
        if from.len() != to.len() {
            return Err(invalid(format!("a copy of {} bytes to {}", from.len(), to.len())));
        }
        self.here(from)?;
        self.here(to)?;
        self.keep.push(from.clone());
        self.push(Work::Copy { from: from.address(), to: to.clone() }, 0, &[])
    }

    /// Adds filling device memory with one byte value.
    pub fn fill(&mut self, to: &DeviceSlice, value: u8) -> Result<usize, GpuError> {
        self.here(to)?;
        self.push(Work::Fill { to: to.clone(), value }, 0, &[])
    }

    /// Adds marking a point of the main stream with an event, also within a captured graph.
    pub fn record(&mut self, event: &Arc<Event>) -> Result<usize, GpuError> {
        self.push(Work::Record(event.clone()), 0, &[])
    }

    /// Adds a command that does nothing but keep an order: what follows on its stream comes
    /// after these.
    pub fn barrier(&mut self, stream: usize, after: &[usize]) -> Result<usize, GpuError> {
        self.push(Work::Nothing, stream, after)
    }

    /// What follows on the main stream comes after all that other streams do so far.
    pub fn join(&mut self) -> Result<(), GpuError> {
        let mut last = std::collections::BTreeMap::new();
        for (i, command) in self.commands.iter().enumerate() {
            last.insert(command.stream, i);
        }
        last.remove(&0);
        let after: Vec<usize> = last.into_values().collect();
        if after.is_empty() { Ok(()) } else { self.barrier(0, &after).map(|_| ()) }
    }

    /// The last command of the main stream.
    pub fn last(&self) -> Option<usize> {
        self.commands.iter().rposition(|c| c.stream == 0)
    }

    fn queue(
        &self,
        work: &Work,
        stream: &Stream,
        captured: bool,
        dependent: bool,
    ) -> Result<(), GpuError> {
        let api = self.context.enter()?;
        match work {
            Work::Launch { function, launch, arguments } => {
                let launch = Launch { dependent: launch.dependent && dependent, ..*launch };
                // SAFETY: the arguments' ranges lie inside buffers that the list keeps; the
                // module's code was trusted, when it was loaded, to touch nothing else; pinned
                // buffers are the list's own and not given out before the work has ended.
                unsafe { function.launch(&launch, arguments, stream) }
            }
            Work::Upload { from, offset, to } => {
                let from = self.pinned[from.0].host_address().wrapping_byte_add(*offset);
                // SAFETY: both ranges were checked when the command was added and are kept.
                let status =
                    unsafe { (api.memcpy_htod)(to.address(), from, to.len(), stream.raw()) };
                api.check(status, "queueing an upload")
            }
            Work::Download { from, to, offset } => {
                let to = self.pinned[to.0].host_address().wrapping_byte_add(*offset);
                // SAFETY: as above.
                let status =
                    unsafe { (api.memcpy_dtoh)(to, from.address(), from.len(), stream.raw()) };
                api.check(status, "queueing a download")
            }
            Work::Copy { from, to } => {
                // SAFETY: as above; `from` is kept by the list.
                let status =
                    unsafe { (api.memcpy_dtod)(to.address(), *from, to.len(), stream.raw()) };
                api.check(status, "queueing a copy")
            }
            Work::Fill { to, value } => {
                // SAFETY: as above.
                let status =
                    unsafe { (api.memset_d8)(to.address(), *value, to.len(), stream.raw()) };
                api.check(status, "filling device memory")
            }
            Work::Record(event) if captured => event.record_in_graph(stream),
            Work::Record(event) => event.record(stream),
            Work::Nothing => Ok(()),
        }
    }

    /// Queues all commands on one stream, one after the other. Allocates nothing.
    pub fn enqueue(&mut self, stream: &Stream) -> Result<(), GpuError> {
        if self.commands.is_empty() {
            return Ok(());
        }
        // Also where queueing fails in the middle: what was queued before still runs.
        let queued =
            self.commands.iter().try_for_each(|c| self.queue(&c.work, stream, false, false));
        self.mark(stream).and(queued)
    }

    /// Remembers that work was queued. Of interest to pinned buffers alone: freeing device memory
    /// waits for the device.
    pub(crate) fn mark(&self, stream: &Stream) -> Result<(), GpuError> {
        if self.pinned.is_empty() {
            return Ok(());
        }
        self.pending.store(true, Ordering::Release);
        self.done.record(stream)
    }

    /// Captures the commands into a graph, branches side by side.
    pub fn capture(self) -> Result<Graph, GpuError> {
        let context = self.context.clone();
        let orders: Vec<_> = self
            .commands
            .iter()
            .map(|c| schedule::Order { stream: c.stream, after: &c.after })
            .collect();
        let steps = schedule(&orders);
        let count = self.commands.iter().map(|c| c.stream + 1).max().unwrap_or(1);
        let streams = (0..count).map(|_| Stream::new(&context)).collect::<Result<Vec<_>, _>>()?;
        let mut events: Vec<Option<Event>> = self.commands.iter().map(|_| None).collect();
        for step in &steps {
            if let Step::Mark(i) = *step {
                events[i] = Some(Event::blocking(&context)?);
            }
        }
        let fork = Event::blocking(&context)?;
        let dependent = context.dependent_launch();
        let graph = streams[0].capture(|| {
            fork.record(&streams[0])?;
            // A launch may overlap only the launch directly in front of it on its stream.
            let mut behind_launch = vec![false; count];
            for step in &steps {
                match *step {
                    Step::Fork { stream } => streams[stream].wait(&fork)?,
                    Step::Wait { stream, command } => {
                        let event = events[command].as_ref().expect("waited for, so marked");
                        streams[stream].wait(event)?;
                        behind_launch[stream] = false;
                    }
                    Step::Command(i) => {
                        let Command { work, stream, .. } = &self.commands[i];
                        let overlap = dependent && behind_launch[*stream];
                        self.queue(work, &streams[*stream], true, overlap)?;
                        match work {
                            Work::Launch { .. } => behind_launch[*stream] = true,
                            Work::Nothing => (),
                            _ => behind_launch[*stream] = false,
                        }
                    }
                    Step::Mark(i) => {
                        let event = events[i].as_ref().expect("made above");
                        event.record(&streams[self.commands[i].stream])?;
                    }
                }
            }
            Ok(())
        })?;
        Ok(graph.with_list(self))
    }
}

impl Drop for CommandList {
    fn drop(&mut self) {
        self.settle();
    }
}
