//! Which device an engine is built for.

use tobiuo_engine::{CudaKey, Precision, cuda_version, driver_floor, driver_update};
use tobiuo_gpu::{DeviceInfo, GpuError, GpuErrorKind, devices};
use tobiuo_jetson::{Identity, Module, Root};
use tobiuo_kernels::Target;

use crate::BuildError;
use crate::options::{BuildOptions, DeviceChoice};

/// The oldest compute capability that kernels are made for.
const OLDEST_SM: u32 = 72;

/// The device that an engine is built for.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Hardware {
    Cpu,
    Gpu(Gpu),
}

/// A GPU to build for, here or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// Compute capability, 87 for 8.7.
    pub sm: u32,
    /// The device, where it is in this machine.
    pub device: Option<DeviceInfo>,
    /// The Jetson that it is in, where that is not this machine and was named.
    pub module: Option<&'static Module>,
}

/// Device and precision, settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The device.
    pub hardware: Hardware,
    /// Precision of the heavy layers.
    pub precision: Precision,
    /// How the device was found, where the user left it open.
    pub why: Option<String>,
}

impl Hardware {
    /// As reports call it.
    pub fn name(&self) -> String {
        match self {
            Hardware::Cpu => "cpu".into(),
            Hardware::Gpu(Gpu { device: None, module: Some(m), .. }) => m.id.clone(),
            Hardware::Gpu(Gpu { sm, device: None, .. }) => format!("sm_{sm}"),
            Hardware::Gpu(Gpu { sm, device: Some(d), .. }) => {
                format!("cuda:{} ({}, sm_{sm})", d.ordinal, d.name)
            }
        }
    }
}

impl Gpu {
    /// What the kernel families know of it. The bandwidth is that of the data sheet of the
    /// device that stands for its kind, until it is measured.
    pub fn target(&self) -> Option<Target> {
        let Some(d) = &self.device else {
            return match self.module {
                Some(module) => Some(target_of_module(module)),
                None => Target::of_sm(self.sm),
            };
        };
        // Wide buses come with large caches.
        let bandwidth_gbs = if d.l2_bytes > 16 << 20 { 2000.0 } else { 100.0 };
        Some(Target {
            sm: self.sm,
            sm_count: d.sm_count,
            shared_per_block: d.shared_per_block,
            shared_per_sm: d.shared_per_sm,
            l2_bytes: d.l2_bytes,
            clock_ghz: f64::from(d.clock_khz) / 1e6,
            bandwidth_gbs,
        })
    }

    /// The key of an engine with kernels compiled by this NVRTC.
    pub fn key(&self, target: &Target, nvrtc: (u32, u32), tuned: bool) -> CudaKey {
        // Drivers take device code of any compiler of their own major version.
        let driver = driver_floor(self.sm).max(1000 * nvrtc.0);
        let name = match (&self.device, Target::name_of_sm(self.sm)) {
            (Some(d), _) => d.name.clone(),
            (None, _) if self.module.is_some() => {
                self.module.map_or(String::new(), |module| module.name.clone())
            }
            (None, Some(like)) => format!("any sm_{} (chosen for {like})", self.sm),
            (None, None) => format!("any sm_{}", self.sm),
        };
        CudaKey {
            name,
            sm: target.sm,
            sm_count: target.sm_count,
            shared_per_block: target.shared_per_block,
            l2_bytes: target.l2_bytes,
            driver,
            tuned,
        }
    }
}

/// A module as the kernel families see it.
fn target_of_module(module: &Module) -> Target {
    Target {
        sm: module.sm,
        sm_count: module.multiprocessors,
        shared_per_block: module.shared_per_block,
        shared_per_sm: module.shared_per_sm,
        l2_bytes: module.l2_kib << 10,
        clock_ghz: module.gpu_mhz / 1e3,
        bandwidth_gbs: module.memory_gbs,
    }
}

fn sm_of(d: &DeviceInfo) -> u32 {
    10 * d.compute.0 + d.compute.1
}

fn gpu(device: DeviceInfo) -> Hardware {
    Hardware::Gpu(Gpu { sm: sm_of(&device), device: Some(device), module: None })
}

fn too_old(d: &DeviceInfo) -> String {
    format!(
        "{} has compute capability {}.{}; kernels are made for {}.{} and later",
        d.name,
        d.compute.0,
        d.compute.1,
        OLDEST_SM / 10,
        OLDEST_SM % 10
    )
}

/// Why kernels cannot be made for a device that is here: its architecture, or a driver that no
/// engine for it would load on.
fn unfit(d: &DeviceInfo) -> Option<String> {
    let sm = sm_of(d);
    if sm < OLDEST_SM {
        return Some(too_old(d));
    }
    let needs = driver_floor(sm);
    if d.driver >= needs {
        return None;
    }
    let update = driver_update(needs, sm).map_or(String::new(), |update| format!("; {update}"));
    Some(format!(
        "the NVIDIA driver is too old for {}: it supports CUDA {}, engines for sm_{sm} need {} or \
         newer{update}",
        d.name,
        cuda_version(d.driver),
        cuda_version(needs)
    ))
}

/// The devices, or why this machine has none. A driver that is there and fails is an error: it
/// does not make another engine of the same command.
fn usable(
    devices: Result<Vec<DeviceInfo>, GpuError>,
    asked: &str,
) -> Result<Result<Vec<DeviceInfo>, GpuError>, BuildError> {
    use GpuErrorKind::{NoDevice, NoDriver, OldDriver};
    match devices {
        Err(e) if !matches!(e.kind(), NoDevice | NoDriver | OldDriver) => {
            Err(BuildError::NoDevice(format!(
                "device {asked}: what GPUs this machine has cannot be told: {e}. With \
                 CUDA_VISIBLE_DEVICES set to nothing, none are looked for"
            )))
        }
        other => Ok(other),
    }
}

/// The first device of an architecture that can be used, or why one that is here cannot.
fn first_fit(list: Vec<DeviceInfo>, sm: u32) -> (Option<DeviceInfo>, Option<String>) {
    let mut reason = None;
    for device in list.into_iter().filter(|d| sm_of(d) == sm) {
        match unfit(&device) {
            None => return (Some(device), None),
            Some(why) => reason = Some(format!("built as for a GPU that is not here: {why}")),
        }
    }
    (None, reason)
}

/// The device and precision that options ask for.
///
/// # Errors
///
/// No such device, a driver that fails, or the device does not compute in this precision.
pub fn choose(options: &BuildOptions) -> Result<Chosen, BuildError> {
    choose_among(options, devices)
}

fn choose_among(
    options: &BuildOptions,
    devices: impl Fn() -> Result<Vec<DeviceInfo>, GpuError>,
) -> Result<Chosen, BuildError> {
    let mut why = None;
    let hardware = match options.device {
        DeviceChoice::Cpu => Hardware::Cpu,
        DeviceChoice::Auto => match usable(devices(), "auto")? {
            Ok(list) => match list.iter().find(|d| unfit(d).is_none()) {
                Some(d) => {
                    why = Some(format!("{} is the first GPU that can be used", d.name));
                    gpu(d.clone())
                }
                None => {
                    why = Some(match list.first().and_then(unfit) {
                        Some(reason) => format!("no GPU can be used: {reason}"),
                        None => "there is no GPU".into(),
                    });
                    Hardware::Cpu
                }
            },
            Err(e) => {
                why = Some(format!("no GPU can be used: {e}"));
                Hardware::Cpu
            }
        },
        DeviceChoice::Cuda(ordinal) => {
            let list = devices().map_err(|e| {
                BuildError::NoDevice(format!(
                    "device cuda:{ordinal}: {e}. --device cpu builds for the CPU, --device sm_87 \
                     for an Orin that is not here"
                ))
            })?;
            let count = list.len();
            let device = list.into_iter().nth(ordinal).ok_or_else(|| {
                BuildError::NoDevice(format!(
                    "device cuda:{ordinal}: there is no such device; the driver shows {count}"
                ))
            })?;
            if let Some(reason) = unfit(&device) {
                return Err(BuildError::NoDevice(format!("device cuda:{ordinal}: {reason}")));
            }
            gpu(device)
        }
        DeviceChoice::Sm(sm) => {
            let list = usable(devices(), &format!("sm_{sm}"))?.unwrap_or_default();
            // One that is here with too old a driver is as one that is elsewhere.
            let (found, reason) = first_fit(list, sm);
            why = reason;
            match found {
                Some(d) => {
                    why = Some(format!("{} is an sm_{sm}", d.name));
                    gpu(d)
                }
                None if Target::of_sm(sm).is_some() => {
                    Hardware::Gpu(Gpu { sm, device: None, module: None })
                }
                None => {
                    let known: Vec<String> = Target::known().map(|k| format!("sm_{k}")).collect();
                    return Err(BuildError::NoDevice(format!(
                        "device sm_{sm}: there is no such GPU here, and without it engines are \
                         built for {} only",
                        known.join(", ")
                    )));
                }
            }
        }
        DeviceChoice::Module(id) => {
            let module = tobiuo_jetson::module(id).ok_or_else(|| {
                BuildError::Usage(format!("device {id}: there is no such module in the table"))
            })?;
            if module.sm < OLDEST_SM {
                return Err(BuildError::NoDevice(format!(
                    "device {id}: {} has compute capability {}.{}; kernels are made for {}.{} and \
                     later",
                    module.name,
                    module.sm / 10,
                    module.sm % 10,
                    OLDEST_SM / 10,
                    OLDEST_SM % 10
                )));
            }
            let is_this = Identity::read(&Root::default()).module == Some(module);
            let list = match is_this {
                true => usable(devices(), id)?.unwrap_or_default(),
                false => Vec::new(),
            };
            let (found, reason) = first_fit(list, module.sm);
            why = reason;
            match found {
                Some(d) => {
                    why = Some(format!("this is a {}", module.name));
                    gpu(d)
                }
                None => Hardware::Gpu(Gpu { sm: module.sm, device: None, module: Some(module) }),
            }
        }
    };
    let precision = match (&hardware, options.precision) {
        (Hardware::Cpu, None | Some(Precision::Fp32)) => Precision::Fp32,
        (Hardware::Cpu, Some(Precision::Int8)) => Precision::Int8,
        (Hardware::Cpu, Some(other)) => {
            let reason = match &why {
                Some(why) => format!(" ({why})"),
                None => String::new(),
            };
            return Err(BuildError::Usage(format!(
                "precision {other}: the CPU device{reason} computes in fp32 and int8 \
                 only, as the reference that others are checked against; leave the option out, \
                 or name a GPU: --device cuda, or --device sm_87 for an Orin that is not here"
            )));
        }
        (Hardware::Gpu(_), None) => Precision::Fp16,
        (
            Hardware::Gpu(_),
            Some(asked @ (Precision::Fp32 | Precision::Tf32 | Precision::Fp16 | Precision::Int8)),
        ) => asked,
        (Hardware::Gpu(_), Some(other)) => {
            return Err(BuildError::Usage(format!(
                "precision {other}: fp32, tf32, fp16 or int8 is wanted"
            )));
        }
    };
    if let (Hardware::Gpu(Gpu { sm, .. }), Precision::Tf32) = (&hardware, precision)
        && *sm < 80
    {
        return Err(BuildError::Usage(format!(
            "precision tf32: sm_{sm} has no TF32 (compute capability 8.0 and later have); \
             --precision fp32 or fp16"
        )));
    }
    Ok(Chosen { hardware, precision, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(ordinal: usize, compute: (u32, u32)) -> DeviceInfo {
        DeviceInfo {
            ordinal,
            name: format!("GPU {ordinal}"),
            compute,
            sm_count: 8,
            shared_per_block: 166_912,
            shared_per_sm: 167_936,
            l2_bytes: 2 << 20,
            memory_bytes: 8 << 30,
            integrated: true,
            can_map_host: true,
            driver: 12060,
            clock_khz: 918_000,
        }
    }

    fn with(choice: DeviceChoice, precision: Option<Precision>, have: &[(u32, u32)]) -> String {
        let options = BuildOptions { device: choice, precision, ..Default::default() };
        let list: Vec<DeviceInfo> = have.iter().enumerate().map(|(i, &c)| device(i, c)).collect();
        match choose_among(&options, || Ok(list.clone())) {
            Ok(c) => format!("{} {}", c.hardware.name(), c.precision),
            Err(e) => format!("{} {e}", e.exit_status()),
        }
    }

    #[test]
    fn the_device_is_the_one_asked_for_or_an_error() {
        use DeviceChoice::*;
        assert_eq!(with(Auto, None, &[]), "cpu fp32");
        assert_eq!(with(Auto, None, &[(6, 1)]), "cpu fp32");
        assert_eq!(with(Auto, None, &[(6, 1), (8, 7)]), "cuda:1 (GPU 1, sm_87) fp16");
        assert_eq!(with(Cpu, None, &[(8, 7)]), "cpu fp32");
        assert_eq!(with(Cuda(0), Some(Precision::Fp32), &[(8, 7)]), "cuda:0 (GPU 0, sm_87) fp32");
        assert_eq!(with(Sm(90), None, &[(8, 7)]), "sm_90 fp16");
        // A GPU of the same kind is not the module.
        assert_eq!(with(Module("orin-nano-8gb"), None, &[(8, 7)]), "orin-nano-8gb fp16");
        assert_eq!(with(Sm(87), None, &[(9, 0), (8, 7)]), "cuda:1 (GPU 1, sm_87) fp16");
        assert_eq!(with(Cpu, Some(Precision::Int8), &[]), "cpu int8");
        assert_eq!(with(Sm(87), Some(Precision::Int8), &[]), "sm_87 int8");
        let refused = [
            (Cuda(1), None, "5 ", "shows 1"),
            (Cuda(0), None, "5 ", "6.1"),
            (Module("nano"), None, "5 ", "5.3"),
            (Module("none"), None, "2 ", "table"),
            (Sm(61), Some(Precision::Fp32), "", "sm_61"),
            (Sm(42), None, "5 ", "sm_72, sm_87"),
            (Cpu, Some(Precision::Fp16), "2 ", "fp32 and int8 only"),
            (Auto, Some(Precision::Fp16), "2 ", "6.1"),
            (Sm(72), Some(Precision::Tf32), "2 ", "8.0"),
        ];
        for (choice, precision, status, wanted) in refused {
            let said = with(choice, precision, &[(6, 1)]);
            assert!(said.starts_with(status) && said.contains(wanted), "{choice:?}: {said}");
        }
    }

    /// The engine would load on no driver that is there.
    #[test]
    fn a_driver_that_no_engine_loads_on_is_no_device() {
        use DeviceChoice::*;
        let old = || Ok(vec![DeviceInfo { driver: 12010, ..device(0, (8, 7)) }]);
        let of = |device| choose_among(&BuildOptions { device, ..Default::default() }, old);
        let e = of(Cuda(0)).unwrap_err();
        let said = e.to_string();
        assert_eq!(e.exit_status(), 5, "{said}");
        assert!(said.contains("CUDA 12.1") && said.contains("need 12.2") && said.contains("6 or"));
        let auto = of(Auto).unwrap();
        assert_eq!(auto.hardware, Hardware::Cpu);
        assert!(auto.why.unwrap().contains("CUDA 12.1"));
        let elsewhere = of(Sm(87)).unwrap();
        assert_eq!(elsewhere.hardware.name(), "sm_87");
        assert!(elsewhere.why.unwrap().contains("CUDA 12.1"));
        // The last driver for Xavier is enough there.
        let xavier = || Ok(vec![DeviceInfo { driver: 11040, ..device(0, (7, 2)) }]);
        let options = BuildOptions { device: Cuda(0), ..Default::default() };
        choose_among(&options, xavier).unwrap();
    }

    #[test]
    fn a_driver_that_fails_is_not_a_machine_without_a_gpu() {
        use DeviceChoice::*;
        let failing = || Err(GpuError::other("opening CUDA device 0"));
        for device in [Auto, Sm(87), Cuda(0)] {
            let options = BuildOptions { device, ..Default::default() };
            let Err(e) = choose_among(&options, failing) else { panic!("{device:?} is chosen") };
            assert_eq!(e.exit_status(), 5, "{device:?}: {e}");
            assert!(e.to_string().contains("opening CUDA device 0"), "{e}");
        }
        let options = BuildOptions { device: Cpu, ..Default::default() };
        assert!(choose_among(&options, failing).is_ok());
    }

    #[test]
    fn modules_are_what_the_table_says() {
        let choice = DeviceChoice::Module("agx-orin-64gb");
        let options = BuildOptions { device: choice, ..Default::default() };
        let Hardware::Gpu(gpu) = choose_among(&options, || Ok(Vec::new())).unwrap().hardware else {
            panic!("a GPU");
        };
        let target = gpu.target().unwrap();
        assert_eq!((target.sm, target.sm_count, target.l2_bytes), (87, 16, 4 << 20));
        assert_eq!((target.clock_ghz, target.bandwidth_gbs), (1.3, 204.8));
        let key = gpu.key(&target, (12, 6), false);
        assert_eq!((key.name.as_str(), key.tuned), ("Jetson AGX Orin 64GB", false));
        // Every module that kernels are made for has shared memory as its architecture.
        for module in tobiuo_jetson::modules().iter().filter(|m| m.sm >= OLDEST_SM) {
            let stands_for_it = Target::of_sm(module.sm).unwrap();
            let target = target_of_module(module);
            assert_eq!(target.shared_per_block, stands_for_it.shared_per_block, "{}", module.id);
            assert_eq!(target.shared_per_sm, stands_for_it.shared_per_sm, "{}", module.id);
        }
    }

    #[test]
    fn keys_ask_for_a_driver_that_loads_the_code() {
        let orin = Gpu { sm: 87, device: None, module: None };
        let target = orin.target().unwrap();
        assert_eq!(orin.key(&target, (12, 6), false).driver, 12020);
        assert_eq!(orin.key(&target, (13, 0), false).driver, 13000);
        let xavier = Gpu { sm: 72, device: None, module: None };
        let target = xavier.target().unwrap();
        assert_eq!(xavier.key(&target, (11, 4), false).driver, 11040);
        assert!(xavier.key(&target, (11, 4), false).name.contains("Xavier"));
    }
}
