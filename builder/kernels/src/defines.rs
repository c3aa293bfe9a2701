//! Putting a kernel's source together: `#define`s in front of the template's text.

use std::fmt::{Display, Write};

use tobiuo_ops::Activation;

use super::{Target, activation_code};

const COMMON: &str = include_str!("../cuda/common.cuh");

/// The `#define`s of one candidate.
pub(crate) struct Defines(String);

impl Defines {
    /// With what every kernel needs.
    pub fn new(target: &Target, fast_activation: bool) -> Defines {
        let mut d = Defines(String::new());
        d.set("DEPENDENT_LAUNCH", u8::from(target.dependent_launch()));
        // tanh.approx came with compute capability 7.5.
        d.set("FAST_ACTIVATION", u8::from(fast_activation && target.sm >= 75));
        d
    }

    /// Sets one name.
    pub fn set(&mut self, name: &str, value: impl Display) -> &mut Defines {
        writeln!(self.0, "#define {name} {value}").expect("writing to a String");
        self
    }

    /// Sets several integers.
    pub fn all(&mut self, pairs: &[(&str, usize)]) -> &mut Defines {
        for (name, value) in pairs {
            self.set(name, value);
        }
        self
    }

    /// Sets the fused activation.
    pub fn activation(&mut self, activation: Option<Activation>) -> &mut Defines {
        let (code, a, b) = activation_code(activation);
        self.set("ACT", code).set("ACT_A", float(a)).set("ACT_B", float(b))
    }

    /// The complete source.
    pub fn source(&self, parts: &[&str]) -> String {
        let mut out = self.0.clone();
        out.push_str(COMMON);
        for part in parts {
            out.push_str(part);
        }
        out
    }
}

/// A float literal with exactly these bits.
pub(crate) fn float(value: f32) -> String {
    format!("__int_as_float({})", value.to_bits() as i32)
}

/// `n / d`, rounded up.
pub(crate) fn ceil_div(n: usize, d: usize) -> usize {
    n.div_ceil(d)
}
