//! Power mode, clocks, throttling, temperatures.

use super::{Check, Question};
use crate::{Identity, Readings};

/// Where zones do not say themselves from which temperature on clocks are cut.
const HOT: f64 = 95.0;

pub(super) fn checks(q: &Question, identity: &Identity) -> Vec<Check> {
    let readings = Readings::read(&q.root);
    let mut out = Vec::new();
    match &readings.power_mode {
        Some(mode) => out.push(Check::ok("power mode", format!("{mode} (number {})", mode.id))),
        None if identity.is_jetson() => out.push(Check::warn(
            "power mode",
            "nvpmodel has not set one (/var/lib/nvpmodel/status)",
            "sudo systemctl start nvpmodel; in a container the file is not seen",
        )),
        None => {}
    }
    out.extend(clock(&readings));
    if !readings.is_empty() {
        out.push(throttling(&readings));
    }
    out.extend(temperature(&readings));
    out
}

fn clock(readings: &Readings) -> Option<Check> {
    const NAME: &str = "GPU clock";
    let clock = readings.gpu?;
    let mut text = format!("{clock} in this power mode");
    if let Some(chip) = clock.chip_max {
        text.push_str(&format!(", {chip:.0} MHz at most in any"));
    }
    let pinned = clock.min.is_some() && clock.min == clock.max;
    if pinned {
        text.push_str("; held at its highest");
    }
    let capped = clock.max.zip(clock.chip_max).is_some_and(|(max, chip)| max < 0.95 * chip);
    Some(match capped {
        true => Check::warn(
            NAME,
            text,
            "another power mode has a higher clock: sudo nvpmodel -m 0 (see `sudo nvpmodel -q`)",
        ),
        false => Check::ok(NAME, text),
    })
}

fn throttling(readings: &Readings) -> Check {
    const NAME: &str = "throttling";
    if !readings.throttled_by.is_empty() {
        return Check::warn(
            NAME,
            format!("clocks are held down now by {}", readings.throttled_by.join(", ")),
            "cool it (fan: sudo systemctl status nvfancontrol), or take a smaller power mode",
        );
    }
    match readings.over_current_events {
        Some(events @ 1..) => Check::warn(
            NAME,
            format!("none now; {events} over-current events since the machine started"),
            "the supply gave in under load and clocks were cut: a stronger supply, or a smaller \
             power mode",
        ),
        _ => Check::ok(NAME, "none"),
    }
}

fn temperature(readings: &Readings) -> Option<Check> {
    const NAME: &str = "temperature";
    let zones: Vec<String> =
        readings.temperatures.iter().map(|t| format!("{} {:.1}", t.zone, t.celsius)).collect();
    let text = format!("{} °C", zones.join(", "));
    let hot =
        readings.temperatures.iter().find(|t| t.celsius >= t.throttles_at.unwrap_or(HOT) - 5.0);
    match hot {
        _ if zones.is_empty() => None,
        Some(zone) => Some(Check::warn(
            NAME,
            format!(
                "{text}; {} is near {:.0} °C, where clocks are cut",
                zone.zone,
                zone.throttles_at.unwrap_or(HOT)
            ),
            "cool it, or take a smaller power mode",
        )),
        None => Some(Check::ok(NAME, text)),
    }
}
