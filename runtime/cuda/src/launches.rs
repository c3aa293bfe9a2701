//! From the manifest's launches to commands.

use tobiuo_engine::{CudaArgument, CudaLaunch};
use tobiuo_gpu::{CommandList, DeviceBuffer, DeviceSlice, GpuError, KernelArgument, Launch};

use crate::engine::{CudaPlan, place};

/// The memory of one executor.
pub(crate) struct Memory {
    pub arena: DeviceBuffer,
    pub scratch: DeviceBuffer,
    pub inputs: Vec<DeviceSlice>,
    pub outputs: Vec<DeviceSlice>,
}

impl Memory {
    /// The memory that an argument points at; `None` for a null pointer.
    pub fn slice(
        &self,
        plan: &CudaPlan,
        argument: &CudaArgument,
    ) -> Result<Option<DeviceSlice>, GpuError> {
        let port = |slices: &[DeviceSlice], index: u32, what: &str| {
            slices
                .get(index as usize)
                .cloned()
                .ok_or_else(|| GpuError::other(format!("no {what} {index}")))
        };
        let (whole, offset, bytes) = match *argument {
            CudaArgument::Arena { offset, bytes } => (self.arena.whole(), offset, bytes),
            CudaArgument::Scratch { offset, bytes } => (self.scratch.whole(), offset, bytes),
            CudaArgument::Weights { offset, bytes } => {
                (plan.engine().weights().whole(), offset, bytes)
            }
            CudaArgument::Input { index, offset, bytes } => {
                (port(&self.inputs, index, "input")?, offset, bytes)
            }
            CudaArgument::Output { index, offset, bytes } => {
                (port(&self.outputs, index, "output")?, offset, bytes)
            }
            CudaArgument::Null => return Ok(None),
        };
        let part = offset
            .checked_add(bytes)
            .and_then(|end| whole.part(usize::try_from(offset).ok()?..usize::try_from(end).ok()?));
        part.map(Some).ok_or_else(|| {
            GpuError::other(format!("{argument:?} of a region of {} bytes", whole.len()))
        })
    }

    /// A launch of the plan with its arguments.
    pub fn bound(
        &self,
        plan: &CudaPlan,
        i: usize,
    ) -> Result<(Launch, Vec<KernelArgument>), GpuError> {
        let &CudaLaunch { grid, block, shared, dependent, ref arguments, .. } =
            &plan.program().launches[i];
        let argument = |a| {
            let slice = self.slice(plan, a)?;
            Ok(slice.map_or(KernelArgument::Null, KernelArgument::Memory))
        };
        let arguments = arguments.iter().map(argument).collect::<Result<_, GpuError>>()?;
        Ok((Launch { grid, block, shared, dependent }, arguments))
    }

    /// Adds the plan's launches to a list, but those that `keep` does not want; the order among
    /// the others stays, and all come after what the list's main stream has so far.
    pub fn append(
        &self,
        plan: &CudaPlan,
        list: &mut CommandList,
        keep: &dyn Fn(usize) -> bool,
    ) -> Result<(), GpuError> {
        let launches = &plan.program().launches;
        let before = list.last();
        let mut commands: Vec<usize> = Vec::with_capacity(launches.len());
        let mut begun = vec![0u32];
        for (i, launch) in launches.iter().enumerate() {
            let add = |list: &mut CommandList, commands: &[usize], begun: &mut Vec<u32>| {
                let mut after = Vec::with_capacity(launch.after.len() + 1);
                for &a in &launch.after {
                    let command = commands.get(a as usize);
                    after.push(*command.ok_or_else(|| {
                        GpuError::other(format!("it comes after launch {a}, which is later"))
                    })?);
                }
                if !begun.contains(&launch.stream) {
                    begun.push(launch.stream);
                    after.extend(before);
                }
                let stream = launch.stream as usize;
                if !keep(i) {
                    return list.barrier(stream, &after);
                }
                let (geometry, arguments) = self.bound(plan, i)?;
                list.launch(&plan.functions()[i], geometry, &arguments, stream, &after)
            };
            let added = add(list, &commands, &mut begun).map_err(|e| e.at(place(i, &launch.name)));
            commands.push(added?);
        }
        list.join()
    }
}
