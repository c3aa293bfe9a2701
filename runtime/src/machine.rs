use std::fmt;

use serde_json::Value;
use tobiuo_jetson::{Readings, Root};

/// Clocks, heat and power of the machine that something was measured on.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// As they were at the end.
    pub readings: Readings,
    /// How often the supply gave in, and clocks were cut, while it was measured.
    pub over_current_events: u64,
}

impl Machine {
    /// Reads the machine now; `before` is how it was when the measurement began. `None` of a
    /// machine that does not tell, such as a PC.
    pub fn since(before: &Readings, root: &Root) -> Option<Machine> {
        let readings = Readings::read(root);
        let over_current_events = readings.events_since(before);
        (!readings.is_empty()).then_some(Machine { readings, over_current_events })
    }

    /// The document: `power_mode` {`id`, `name`}, `gpu` {`now`, `min`, `max`, `chip_max`} in MHz,
    /// `temperatures` \[{`zone`, `celsius`, `throttles_at`}\], `throttled_by` \[names\],
    /// `over_current_events` since the machine started, and `over_current_events_during`.
    pub fn to_json(&self) -> Value {
        let mut document = serde_json::to_value(&self.readings).unwrap_or(Value::Null);
        document["over_current_events_during"] = self.over_current_events.into();
        document
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.readings)?;
        match self.over_current_events {
            0 => Ok(()),
            n => write!(f, ", {n} of them during this measurement"),
        }
    }
}
