//! A layer's parameters, read by key and type. What nobody read is reported, never dropped.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

/// Keys that say nothing of what a layer computes, or are read elsewhere.
const COMMON: [&str; 13] = [
    "type",
    "name",
    "rank",
    "source",
    "sources",
    "output_names",
    "traceback",
    "input_shapes",
    "input_types",
    "input_tensor",
    "output_shape",
    "output_type",
    "output_tensor",
];

/// A layer's parameters.
#[derive(Debug)]
pub struct Fields<'a> {
    all: &'a Map<String, Value>,
    read: RefCell<HashSet<&'static str>>,
    weights: RefCell<HashSet<String>>,
}

impl<'a> Fields<'a> {
    /// Of a layer.
    pub fn new(all: &'a Map<String, Value>) -> Fields<'a> {
        Fields { all, read: RefCell::default(), weights: RefCell::default() }
    }

    /// A value that is there and not null.
    pub fn get(&self, key: &'static str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key);
        self.all.get(key).filter(|v| !v.is_null())
    }

    /// True when a key is there, null or not.
    pub fn has(&self, key: &'static str) -> bool {
        self.read.borrow_mut().insert(key);
        self.all.contains_key(key)
    }

    /// The file of a weight, under `<key>_weights_file`.
    pub fn weight_file(&self, key: &str) -> Result<Option<&'a str>, String> {
        let key = format!("{key}_weights_file");
        let file = match self.all.get(&key) {
            None => None,
            Some(Value::String(file)) => Some(file.as_str()),
            Some(other) => return Err(format!("{key} is {other}, a file's name is expected")),
        };
        self.weights.borrow_mut().insert(key);
        Ok(file)
    }

    fn read_as<T>(
        &self,
        key: &'static str,
        what: &str,
        of: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => match of(v) {
                Some(v) => Ok(Some(v)),
                None => Err(format!("{key} is {}, {what} is expected", short(v))),
            },
        }
    }

    /// An integer.
    pub fn int(&self, key: &'static str) -> Result<Option<i64>, String> {
        self.read_as(key, "an integer", int)
    }

    /// A size: an integer that is not negative.
    pub fn size(&self, key: &'static str) -> Result<Option<usize>, String> {
        self.read_as(key, "an integer that is not negative", size)
    }

    /// A size that must be there.
    pub fn need_size(&self, key: &'static str) -> Result<usize, String> {
        self.size(key)?.ok_or_else(|| format!("{key} is missing"))
    }

    /// A number that f32 can hold.
    pub fn float(&self, key: &'static str) -> Result<Option<f32>, String> {
        let finite = |v: &Value| v.as_f64().map(|f| f as f32).filter(|f| f.is_finite());
        self.read_as(key, "a number", finite)
    }

    /// A number that must be there.
    pub fn need_float(&self, key: &'static str) -> Result<f32, String> {
        self.float(key)?.ok_or_else(|| format!("{key} is missing"))
    }

    /// True or false, false where it is missing.
    pub fn flag(&self, key: &'static str) -> Result<bool, String> {
        let of = |v: &Value| match v {
            Value::Bool(b) => Some(*b),
            other => int(other).filter(|i| matches!(i, 0 | 1)).map(|i| i == 1),
        };
        Ok(self.read_as(key, "true or false", of)?.unwrap_or(false))
    }

    /// A text.
    pub fn text(&self, key: &'static str) -> Result<Option<&'a str>, String> {
        self.read_as(key, "a text", Value::as_str)
    }

    /// Integers.
    pub fn ints(&self, key: &'static str) -> Result<Option<Vec<i64>>, String> {
        let of = |v: &Value| v.as_array()?.iter().map(int).collect();
        self.read_as(key, "a list of integers", of)
    }

    /// Sizes.
    pub fn sizes(&self, key: &'static str) -> Result<Option<Vec<usize>>, String> {
        let of = |v: &Value| v.as_array()?.iter().map(size).collect();
        self.read_as(key, "a list of integers that are not negative", of)
    }

    /// A list of anything.
    pub fn list(&self, key: &'static str) -> Result<Option<&'a [Value]>, String> {
        self.read_as(key, "a list", |v| Some(v.as_array()?.as_slice()))
    }

    /// Keys that nobody read.
    pub fn unread(&self) -> Vec<&'a str> {
        let (read, weights) = (self.read.borrow(), self.weights.borrow());
        let known = |key: &str| {
            COMMON.contains(&key)
                || key.starts_with("x_")
                || read.contains(key)
                || weights.contains(key)
        };
        self.all.keys().map(String::as_str).filter(|k| !known(k)).collect()
    }
}

/// A whole number, also one that a writer gave a decimal point.
pub fn int(v: &Value) -> Option<i64> {
    let whole = |f: &f64| f.fract() == 0.0 && f.abs() < 9e15;
    v.as_i64().or_else(|| v.as_f64().filter(whole).map(|f| f as i64))
}

fn size(v: &Value) -> Option<usize> {
    int(v).and_then(|i| usize::try_from(i).ok())
}

/// A value as text, cut where it is long.
fn short(v: &Value) -> String {
    let text = v.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// A layer's parameters as text, for messages.
pub fn describe(all: &Map<String, Value>) -> BTreeMap<String, String> {
    let told = |key: &str| !COMMON.contains(&key);
    all.iter().filter(|(k, _)| told(k)).map(|(k, v)| (k.clone(), short(v))).collect()
}
