//! A node's attributes, read by name and type. What nobody read is reported, never dropped.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::proto::{AttributeProto, Decode, TensorProto};
use super::stop::{Res, invalid, unsupported};
use super::wire::Message;

const KINDS: [&str; 15] = [
    "UNDEFINED",
    "FLOAT",
    "INT",
    "STRING",
    "TENSOR",
    "GRAPH",
    "FLOATS",
    "INTS",
    "STRINGS",
    "TENSORS",
    "GRAPHS",
    "SPARSE_TENSOR",
    "SPARSE_TENSORS",
    "TYPE_PROTO",
    "TYPE_PROTOS",
];

fn kind_name(kind: i64) -> String {
    let name = usize::try_from(kind).ok().and_then(|i| KINDS.get(i));
    name.map_or_else(|| format!("of type {kind}"), |n| n.to_string())
}

/// A node's attributes.
pub struct Attributes<'n, 'a> {
    all: &'n [AttributeProto<'a>],
    read: RefCell<Vec<bool>>,
}

impl<'n, 'a> Attributes<'n, 'a> {
    /// Of a node; an attribute given twice is an error.
    pub fn new(all: &'n [AttributeProto<'a>]) -> Res<Attributes<'n, 'a>> {
        let mut names: Vec<&str> = all.iter().map(|a| a.name).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|p| p[0] == p[1]) {
            return invalid(format!("attribute '{}' is given twice", pair[0]));
        }
        Ok(Attributes { all, read: RefCell::new(vec![false; all.len()]) })
    }

    fn find(&self, name: &str, kind: i64) -> Res<Option<&'n AttributeProto<'a>>> {
        let Some(i) = self.all.iter().position(|a| a.name == name) else { return Ok(None) };
        self.read.borrow_mut()[i] = true;
        let a = &self.all[i];
        if a.reference {
            return unsupported(
                format!("attribute '{name}' refers to a function's attribute"),
                "inline the model's functions (onnx.inliner.inline_local_functions)",
            );
        }
        if a.kind != 0 && a.kind != kind {
            return invalid(format!(
                "attribute '{name}' is {}, {} is expected",
                kind_name(a.kind),
                kind_name(kind)
            ));
        }
        Ok(Some(a))
    }

    /// Marks an attribute as known where its value makes no difference.
    pub fn ignore(&self, name: &str) {
        if let Some(i) = self.all.iter().position(|a| a.name == name) {
            self.read.borrow_mut()[i] = true;
        }
    }

    /// True when it is given.
    pub fn has(&self, name: &str) -> bool {
        self.all.iter().any(|a| a.name == name)
    }

    /// An integer. (A file written by a proto3 encoder leaves out zeros.)
    pub fn int(&self, name: &str) -> Res<Option<i64>> {
        Ok(self.find(name, 2)?.map(|a| a.i.unwrap_or(0)))
    }

    /// An integer or its default.
    pub fn int_or(&self, name: &str, default: i64) -> Res<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// A flag: any number but 0.
    pub fn flag(&self, name: &str, default: bool) -> Res<bool> {
        Ok(self.int(name)?.map_or(default, |v| v != 0))
    }

    /// A float.
    pub fn float(&self, name: &str) -> Res<Option<f32>> {
        Ok(self.find(name, 1)?.map(|a| a.f.unwrap_or(0.0)))
    }

    /// A float or its default.
    pub fn float_or(&self, name: &str, default: f32) -> Res<f32> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// Integers.
    pub fn ints(&self, name: &str) -> Res<Option<&'n [i64]>> {
        Ok(self.find(name, 7)?.map(|a| a.ints.as_slice()))
    }

    /// Floats.
    pub fn floats(&self, name: &str) -> Res<Option<&'n [f32]>> {
        Ok(self.find(name, 6)?.map(|a| a.floats.as_slice()))
    }

    /// A string or its default.
    pub fn string_or(&self, name: &str, default: &'a str) -> Res<&'a str> {
        let Some(a) = self.find(name, 3)? else { return Ok(default) };
        match std::str::from_utf8(a.s.unwrap_or_default()) {
            Ok(s) => Ok(s),
            Err(_) => invalid(format!("attribute '{name}' is not UTF-8")),
        }
    }

    /// A tensor.
    pub fn tensor(&self, name: &str) -> Res<Option<TensorProto<'a>>> {
        let Some(a) = self.find(name, 4)? else { return Ok(None) };
        match a.t.map(TensorProto::decode) {
            Some(Ok(t)) => Ok(Some(t)),
            Some(Err(e)) => invalid(format!("attribute '{name}': {e}")),
            None => invalid(format!("attribute '{name}' holds no tensor")),
        }
    }

    /// A subgraph, still undecoded.
    pub fn graph(&self, name: &str) -> Res<Option<Message<'a>>> {
        match self.find(name, 5)? {
            Some(a) if a.g.is_none() => invalid(format!("attribute '{name}' holds no graph")),
            a => Ok(a.and_then(|a| a.g)),
        }
    }

    /// Names of the attributes that nobody read.
    pub fn unread(&self) -> Vec<&'a str> {
        let read = self.read.borrow();
        self.all.iter().zip(read.iter()).filter(|(_, r)| !**r).map(|(a, _)| a.name).collect()
    }
}

/// Attributes as text, for messages; long lists are cut.
pub fn describe(all: &[AttributeProto<'_>]) -> BTreeMap<String, String> {
    fn list<T: std::fmt::Debug>(v: &[T]) -> String {
        let head = &v[..v.len().min(8)];
        let more = if v.len() > 8 { format!(" ({} in all)", v.len()) } else { String::new() };
        format!("{head:?}{more}")
    }
    let text = |b: &[u8]| {
        let s = String::from_utf8_lossy(&b[..b.len().min(60)]).into_owned();
        if b.len() > 60 { format!("{s}...") } else { s }
    };
    let describe = |a: &AttributeProto<'_>| {
        if let Some(i) = a.i {
            i.to_string()
        } else if let Some(f) = a.f {
            f.to_string()
        } else if let Some(s) = a.s {
            text(s)
        } else if !a.ints.is_empty() {
            list(&a.ints)
        } else if !a.floats.is_empty() {
            list(&a.floats)
        } else if !a.strings.is_empty() {
            list(&a.strings.iter().map(|s| text(s)).collect::<Vec<_>>())
        } else if a.g.is_some() {
            "<graph>".into()
        } else if let Some(t) = a.t {
            match TensorProto::decode(t) {
                Ok(t) => format!("<{} {:?}>", super::proto::type_name(t.data_type), t.dims),
                Err(_) => "<damaged tensor>".into(),
            }
        } else {
            format!("<{}>", kind_name(a.kind))
        }
    };
    all.iter().map(|a| (a.name.to_string(), describe(a))).collect()
}
