//! Clocks, heat and power, as `/sys` and `nvpmodel`'s files tell them. None of it needs root.

use std::fmt;

use serde::Serialize;

use crate::Root;

/// What a machine says of its clocks, heat and power at one moment. Empty where it says nothing,
/// as a machine that is no Jetson.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Readings {
    /// The power mode of `nvpmodel`.
    pub power_mode: Option<PowerMode>,
    /// The GPU's clock.
    pub gpu: Option<GpuClock>,
    /// The thermal zones.
    pub temperatures: Vec<Temperature>,
    /// What holds clocks down now, as the kernel calls it; empty: nothing.
    pub throttled_by: Vec<String>,
    /// How often the supply's current was too high since the machine started; each time clocks
    /// were cut.
    pub over_current_events: Option<u64>,
}

/// A power mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PowerMode {
    /// Its number; which mode it is depends on the board.
    pub id: u32,
    /// Its name, such as `MAXN_SUPER` or `15W`.
    pub name: Option<String>,
}

/// The GPU's clock, MHz.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GpuClock {
    /// Now.
    pub now: f64,
    /// At least; the highest where `jetson_clocks` holds it there.
    pub min: Option<f64>,
    /// At most, in this power mode.
    pub max: Option<f64>,
    /// The highest that the chip has.
    pub chip_max: Option<f64>,
}

/// A thermal zone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Temperature {
    /// The zone's name, such as `gpu-thermal`.
    pub zone: String,
    /// Degrees Celsius.
    pub celsius: f64,
    /// From here on the kernel cuts clocks, degrees Celsius.
    pub throttles_at: Option<f64>,
}

impl Readings {
    /// Reads it all.
    pub fn read(root: &Root) -> Readings {
        Readings {
            power_mode: power_mode(root),
            gpu: gpu_clock(root),
            temperatures: temperatures(root),
            throttled_by: throttled_by(root),
            over_current_events: over_current(root),
        }
    }

    /// Nothing of a Jetson's is known. Temperatures alone, which any machine has, do not count.
    pub fn is_empty(&self) -> bool {
        self.power_mode.is_none() && self.gpu.is_none() && self.over_current_events.is_none()
    }

    /// The zone that is hottest.
    pub fn hottest(&self) -> Option<&Temperature> {
        self.temperatures.iter().max_by(|a, b| a.celsius.total_cmp(&b.celsius))
    }

    /// What changed since an earlier reading that a reader of times should know: throttling that
    /// began and ended in between is in the count of events.
    pub fn events_since(&self, before: &Readings) -> u64 {
        let now = self.over_current_events.unwrap_or(0);
        now.saturating_sub(before.over_current_events.unwrap_or(0))
    }
}

fn power_mode(root: &Root) -> Option<PowerMode> {
    // `pmode:0002 fmode:fanNull`, or `pmode:2`.
    let status = root.text("/var/lib/nvpmodel/status")?;
    let digits: String =
        status.split_once("pmode:")?.1.chars().take_while(char::is_ascii_digit).collect();
    let id: u32 = digits.parse().ok()?;
    // `< POWER_MODEL ID=2 NAME=MAXN_SUPER >`
    let conf = root.text("/etc/nvpmodel.conf").unwrap_or_default();
    let name = conf.lines().filter(|line| line.trim_start().starts_with('<')).find_map(|line| {
        let of = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
        let this = line.contains("POWER_MODEL") && of("ID=")?.parse() == Ok(id);
        this.then(|| of("NAME=").map(String::from)).flatten()
    });
    Some(PowerMode { id, name })
}

/// The devfreq device of the GPU: `17000000.gpu` (JetPack 6), `17000000.ga10b` (JetPack 5),
/// `17000000.gv11b` (Xavier), `gpu-gpc-0` (Thor), `57000000.gpu` (Nano).
fn gpu_clock(root: &Root) -> Option<GpuClock> {
    const NAMES: [&str; 5] = ["gpu", "ga10b", "gv11b", "gp10b", "gm20b"];
    let folder = "/sys/class/devfreq";
    let is_gpu = |name: &String| {
        let behind = name.split_once('.').map_or(name.as_str(), |(_, behind)| behind);
        let node = || root.text(format!("{folder}/{name}/device/of_node/name"));
        NAMES.contains(&behind)
            || name.starts_with("gpu-gpc")
            || node().is_some_and(|node| NAMES.contains(&node.as_str()))
    };
    let name = root.names(folder).into_iter().find(is_gpu)?;
    let mhz = |file: &str| Some(root.number(format!("{folder}/{name}/{file}"))? as f64 / 1e6);
    let all = root.text(format!("{folder}/{name}/available_frequencies")).unwrap_or_default();
    let highest = all.split_whitespace().filter_map(|f| f.parse::<u64>().ok()).max();
    Some(GpuClock {
        now: mhz("cur_freq")?,
        min: mhz("min_freq"),
        max: mhz("max_freq"),
        chip_max: highest.map(|hz| hz as f64 / 1e6),
    })
}

fn temperatures(root: &Root) -> Vec<Temperature> {
    let folder = "/sys/class/thermal";
    let zones = root.names(folder).into_iter().filter(|name| name.starts_with("thermal_zone"));
    let read = |name: String| {
        let at = format!("{folder}/{name}");
        // A zone that is switched off cannot be read, or says -256 degrees.
        let celsius = root.number(format!("{at}/temp"))? as f64 / 1000.0;
        let trips = (0..16).filter_map(|i| {
            let kind = root.text(format!("{at}/trip_point_{i}_type"))?;
            let temp = root.number(format!("{at}/trip_point_{i}_temp"))? as f64 / 1000.0;
            (kind == "passive" && temp > 0.0).then_some(temp)
        });
        let throttles_at = trips.min_by(f64::total_cmp);
        let zone = root.text(format!("{at}/type"))?;
        (celsius > -50.0).then_some(Temperature { zone, celsius, throttles_at })
    };
    zones.filter_map(read).collect()
}

/// Cooling devices that hold clocks down: `cpu-throttle-alert`, `17000000.gpu`, `cpufreq-cpu0`;
/// fans are cooling devices, too.
fn throttled_by(root: &Root) -> Vec<String> {
    let folder = "/sys/class/thermal";
    let devices = root.names(folder).into_iter().filter(|n| n.starts_with("cooling_device"));
    let active = |name: String| {
        let at = format!("{folder}/{name}");
        let state = root.number(format!("{at}/cur_state"))?;
        let kind = root.text(format!("{at}/type"))?;
        (state > 0 && !kind.contains("fan") && !kind.contains("idle")).then_some(kind)
    };
    devices.filter_map(active).collect()
}

/// `oc1_event_cnt` … of the over-current monitor among the hardware monitors.
fn over_current(root: &Root) -> Option<u64> {
    let folder = "/sys/class/hwmon";
    let mut sum = None;
    for monitor in root.names(folder) {
        let at = format!("{folder}/{monitor}");
        for file in root.names(&at) {
            if file.starts_with("oc") && file.ends_with("_event_cnt") {
                let count = root.number(format!("{at}/{file}")).unwrap_or(0);
                *sum.get_or_insert(0) += count.max(0) as u64;
            }
        }
    }
    sum
}

impl fmt::Display for PowerMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "number {}", self.id),
        }
    }
}

impl fmt::Display for GpuClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}", self.now)?;
        if let Some(max) = self.max {
            write!(f, " of {max:.0}")?;
        }
        f.write_str(" MHz")
    }
}

impl fmt::Display for Readings {
    /// One line: power mode, GPU clock, the hottest zone, throttling.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.power_mode.as_ref().map(|mode| format!("power mode {mode}")));
        parts.extend(self.gpu.map(|clock| format!("GPU {clock}")));
        let hottest = self.hottest();
        parts.extend(hottest.map(|t| format!("{} {:.1} °C", t.zone, t.celsius)));
        parts.push(match self.throttled_by.as_slice() {
            [] => "not throttled".into(),
            by => format!("throttled by {}", by.join(", ")),
        });
        if let Some(events @ 1..) = self.over_current_events {
            parts.push(format!("{events} over-current events since it started"));
        }
        f.write_str(&parts.join(", "))
    }
}
