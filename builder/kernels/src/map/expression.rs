//! What a map computes of its operands: a list of steps, as CUDA C++ and as plain arithmetic.

use serde::{Deserialize, Serialize};
use tobiuo_ops::{Activation, Binary, Unary};
use tobiuo_tensor::DType;

use crate::activation_code;
use crate::defines::float;
use crate::memory::{lower, upper, wrap};
use crate::reference::activate;
use crate::strided::value_type;

/// What a step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapArgument {
    /// An operand's element.
    Input(usize),
    /// An earlier step's result.
    Step(usize),
    /// A float, as its bits.
    Float(u32),
    /// An integer, or 0 or 1 for a `Bool`.
    Integer(i64),
}

/// A function of one to three values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum MapFunction {
    Unary(Unary),
    Binary(Binary),
    Activation(Activation),
    /// `x < 0 ? slope * x : x` of x and slope.
    PRelu,
    /// `x * factor + add`.
    Affine,
    /// The step's type from its argument's.
    Cast,
    /// `condition ? x : y`.
    Where,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapStep {
    /// The function.
    pub function: MapFunction,
    /// Its arguments.
    pub arguments: Vec<MapArgument>,
    /// Type of the result, to which floats are rounded.
    pub dtype: DType,
}

/// A value between steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    Float(f64),
    /// `Bool` is 0 or 1.
    Integer(i64),
}

impl Value {
    pub fn float(self) -> f64 {
        match self {
            Value::Float(v) => v,
            Value::Integer(v) => v as f64,
        }
    }

    pub fn integer(self) -> i64 {
        match self {
            Value::Integer(v) => v,
            Value::Float(_) => unreachable!("types are checked when the layer is made"),
        }
    }
}

/// The type of an argument, where it has one of its own.
pub(crate) fn type_of(argument: MapArgument, inputs: &[DType], steps: &[MapStep]) -> DType {
    match argument {
        MapArgument::Input(i) => inputs[i],
        MapArgument::Step(i) => steps[i].dtype,
        MapArgument::Float(_) => DType::F32,
        MapArgument::Integer(_) => DType::I64,
    }
}

/// The last step's result of operands' elements.
pub(crate) fn evaluate(steps: &[MapStep], inputs: &[Value], types: &[DType]) -> Value {
    let mut done: Vec<Value> = Vec::with_capacity(steps.len());
    for step in steps {
        let value = |a: &MapArgument| match *a {
            MapArgument::Input(i) => inputs[i],
            MapArgument::Step(i) => done[i],
            MapArgument::Float(bits) => Value::Float(f32::from_bits(bits).into()),
            MapArgument::Integer(v) => Value::Integer(v),
        };
        let arguments: Vec<Value> = step.arguments.iter().map(value).collect();
        // Literals take the other argument's type.
        let typed = step
            .arguments
            .iter()
            .find(|a| matches!(a, MapArgument::Input(_) | MapArgument::Step(_)));
        let from = typed.map_or(step.dtype, |&a| type_of(a, types, steps));
        done.push(match (apply(step, from, &arguments), step.dtype) {
            (Value::Float(v), DType::F32) => Value::Float((v as f32).into()),
            (value, _) => value,
        });
    }
    *done.last().expect("a map has steps")
}

fn apply(step: &MapStep, from: DType, a: &[Value]) -> Value {
    match step.function {
        MapFunction::Where => {
            if a[0].integer() != 0 {
                a[1]
            } else {
                a[2]
            }
        }
        MapFunction::Cast => cast(a[0], step.dtype),
        MapFunction::PRelu => {
            let x = a[0].float();
            Value::Float(if x < 0.0 { a[1].float() * x } else { x })
        }
        MapFunction::Affine => Value::Float(a[0].float() * a[1].float() + a[2].float()),
        MapFunction::Activation(act) => Value::Float(activate(Some(act), a[0].float())),
        MapFunction::Unary(u) if from.is_float() => Value::Float(float_unary(u, a[0].float())),
        MapFunction::Unary(u) => {
            let x = a[0].integer();
            let y = match u {
                Unary::Not => i64::from(x == 0),
                Unary::Neg => x.wrapping_neg(),
                Unary::Abs => x.wrapping_abs(),
                _ => x.signum(),
            };
            Value::Integer(wrap(step.dtype, y))
        }
        MapFunction::Binary(kind) if from.is_float() => {
            float_binary(kind, a[0].float(), a[1].float())
        }
        MapFunction::Binary(kind) => {
            Value::Integer(wrap(step.dtype, integer_binary(kind, a[0].integer(), a[1].integer())))
        }
    }
}

fn cast(x: Value, to: DType) -> Value {
    match (x, to) {
        (x, DType::F32) => Value::Float(f64::from(x.float() as f32)),
        (x, DType::F16) => Value::Float(half::f16::from_f64(x.float()).to_f64()),
        (Value::Float(v), DType::Bool) => Value::Integer(i64::from(v != 0.0)),
        (Value::Integer(v), DType::Bool) => Value::Integer(i64::from(v != 0)),
        (Value::Float(v), _) => Value::Integer(match to {
            DType::I64 => v as i64,
            DType::I32 => (v as i32).into(),
            DType::I8 => (v as i8).into(),
            _ => (v as u8).into(),
        }),
        (Value::Integer(v), _) => Value::Integer(wrap(to, v)),
    }
}

fn float_unary(u: Unary, x: f64) -> f64 {
    match u {
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Abs => x.abs(),
        Unary::Neg => -x,
        Unary::Reciprocal => 1.0 / x,
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Sign if x > 0.0 => 1.0,
        Unary::Sign if x < 0.0 => -1.0,
        // Zero keeps its sign, NaN stays.
        Unary::Sign => x,
        other => unreachable!("{} is no function of floats", other.name()),
    }
}

fn float_binary(kind: Binary, a: f64, b: f64) -> Value {
    let truth = |v: bool| Value::Integer(i64::from(v));
    Value::Float(match kind {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Pow => a.powf(b),
        Binary::Min => lower(a, b),
        Binary::Max => upper(a, b),
        Binary::Mod => {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
        }
        Binary::FMod => a % b,
        Binary::Equal => return truth(a == b),
        Binary::Less => return truth(a < b),
        Binary::LessOrEqual => return truth(a <= b),
        Binary::Greater => return truth(a > b),
        Binary::GreaterOrEqual => return truth(a >= b),
        other => unreachable!("{} is no function of floats", other.name()),
    })
}

fn integer_binary(kind: Binary, a: i64, b: i64) -> i64 {
    match kind {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div if b == 0 => 0,
        Binary::Div => a.wrapping_div(b),
        Binary::Pow => integer_power(a, b),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Mod | Binary::FMod if b == 0 => 0,
        Binary::Mod => {
            let r = a.wrapping_rem(b);
            if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
        }
        Binary::FMod => a.wrapping_rem(b),
        Binary::Equal => (a == b).into(),
        Binary::Less => (a < b).into(),
        Binary::LessOrEqual => (a <= b).into(),
        Binary::Greater => (a > b).into(),
        Binary::GreaterOrEqual => (a >= b).into(),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        other => unreachable!("{} is no function of integers", other.name()),
    }
}

/// Exact modulo 2^64; a negative exponent gives `1 / a^|e|`, truncated.
fn integer_power(a: i64, e: i64) -> i64 {
    if e < 0 {
        return match a {
            1 => 1,
            -1 if e % 2 == 0 => 1,
            -1 => -1,
            _ => 0,
        };
    }
    let (mut result, mut base, mut left) = (1i64, a, e);
    while left > 0 {
        if left % 2 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        left /= 2;
    }
    result
}

/// The steps as statements over values `a0`, `a1`...; results are `s0`, `s1`...
pub(crate) fn statements(steps: &[MapStep], types: &[DType]) -> String {
    let mut out = String::new();
    for (i, step) in steps.iter().enumerate() {
        let typed = step
            .arguments
            .iter()
            .find(|a| matches!(a, MapArgument::Input(_) | MapArgument::Step(_)));
        let from = typed.map_or(step.dtype, |&a| type_of(a, types, steps));
        let literal_type = match step.function {
            MapFunction::Where => step.dtype,
            _ => from,
        };
        let text = |a: &MapArgument| match *a {
            MapArgument::Input(n) => format!("a{n}"),
            MapArgument::Step(n) => format!("s{n}"),
            MapArgument::Float(bits) => float(f32::from_bits(bits)),
            // Written so that the smallest i64 is a literal too.
            MapArgument::Integer(v) => {
                format!("({})(long long){}ull", value_type(literal_type), v as u64)
            }
        };
        let a: Vec<String> = step.arguments.iter().map(text).collect();
        let expression = code(step, from, &a);
        let expression = if step.dtype == DType::F16 {
            format!("to_f32(to_f16({expression}))")
        } else {
            expression
        };
        out.push_str(&format!("  {} s{i} = {expression};\n", value_type(step.dtype)));
    }
    out
}

fn code(step: &MapStep, from: DType, a: &[String]) -> String {
    let call = |name: &str| format!("{name}({})", a.join(", "));
    let integer = !from.is_float();
    match step.function {
        MapFunction::Where => format!("{} ? {} : {}", a[0], a[1], a[2]),
        MapFunction::PRelu => format!("{0} < 0.0f ? {1} * {0} : {0}", a[0], a[1]),
        MapFunction::Affine => format!("{} * {} + {}", a[0], a[1], a[2]),
        MapFunction::Activation(act) => {
            let (code, p, q) = activation_code(Some(act));
            format!("activate<{code}>({}, {}, {})", a[0], float(p), float(q))
        }
        MapFunction::Cast => match (from.is_float(), step.dtype) {
            (_, DType::Bool) => format!("({} != 0)", a[0]),
            (true, DType::F32 | DType::F16) => a[0].clone(),
            (true, to) => format!("truncated<{}>({})", value_type(to), a[0]),
            (false, to) => format!("({}){}", value_type(to), a[0]),
        },
        MapFunction::Unary(u) => match u {
            Unary::Exp => call("expf"),
            Unary::Log => call("logf"),
            Unary::Sqrt => call("sqrtf"),
            Unary::Abs if integer => call("integer_abs"),
            Unary::Abs => call("fabsf"),
            Unary::Neg if integer => call("integer_neg"),
            Unary::Neg => format!("-{}", a[0]),
            Unary::Reciprocal => format!("1.0f / {}", a[0]),
            Unary::Floor => call("floorf"),
            Unary::Ceil => call("ceilf"),
            Unary::Round => call("rintf"),
            Unary::Sin => call("sinf"),
            Unary::Cos => call("cosf"),
            Unary::Sign if integer => call("integer_sign"),
            Unary::Sign => call("float_sign"),
            _ => format!("!{}", a[0]),
        },
        MapFunction::Binary(kind) => {
            let infix = |op: &str| format!("{} {op} {}", a[0], a[1]);
            let prefix = if integer { "integer" } else { "float" };
            match kind {
                Binary::Add if integer => call("integer_add"),
                Binary::Sub if integer => call("integer_sub"),
                Binary::Mul if integer => call("integer_mul"),
                Binary::Add => infix("+"),
                Binary::Sub => infix("-"),
                Binary::Mul => infix("*"),
                Binary::Div if integer => call("integer_div"),
                Binary::Div => infix("/"),
                Binary::Pow => call(&format!("{prefix}_pow")),
                Binary::Min => call("lower"),
                Binary::Max => call("upper"),
                Binary::Mod => call(&format!("{prefix}_mod")),
                Binary::FMod if integer => call("integer_rem"),
                Binary::FMod => call("fmodf"),
                Binary::Equal => infix("=="),
                Binary::Less => infix("<"),
                Binary::LessOrEqual => infix("<="),
                Binary::Greater => infix(">"),
                Binary::GreaterOrEqual => infix(">="),
                Binary::And => infix("&&"),
                Binary::Or => infix("||"),
                _ => infix("!="),
            }
        }
    }
}
