//! The messages of an ONNX file that inference needs, borrowed from the file's bytes.
//!
//! Source: onnx.proto of ONNX 1.17. Subgraphs and tensors in attributes stay undecoded until
//! they are used.

use super::wire::{Message, WireError};

type Result<T> = std::result::Result<T, WireError>;

/// A message that decodes itself.
pub trait Decode<'a>: Sized {
    /// Reads every field; unknown ones are skipped.
    fn decode(message: Message<'a>) -> Result<Self>;
}

/// The whole model.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct ModelProto<'a> {
    pub ir_version: Option<i64>,
    pub producer_name: String,
    pub producer_version: String,
    /// Domain and version.
    pub opsets: Vec<(String, i64)>,
    pub graph: Option<Message<'a>>,
    pub metadata: Vec<(String, String)>,
    /// Domain and name of the model's own functions.
    pub functions: Vec<(String, String)>,
}

/// A graph or subgraph.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct GraphProto<'a> {
    pub nodes: Vec<NodeProto<'a>>,
    pub initializers: Vec<TensorProto<'a>>,
    pub sparse_initializers: usize,
    pub inputs: Vec<ValueInfo<'a>>,
    pub outputs: Vec<ValueInfo<'a>>,
    pub value_infos: Vec<ValueInfo<'a>>,
}

/// An operator applied to named values.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct NodeProto<'a> {
    pub name: &'a str,
    pub op_type: &'a str,
    pub domain: &'a str,
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    pub attributes: Vec<AttributeProto<'a>>,
}

/// An attribute; `kind` is AttributeProto.AttributeType, 0 in old files.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct AttributeProto<'a> {
    pub name: &'a str,
    pub kind: i64,
    pub f: Option<f32>,
    pub i: Option<i64>,
    pub s: Option<&'a [u8]>,
    pub t: Option<Message<'a>>,
    pub g: Option<Message<'a>>,
    pub floats: Vec<f32>,
    pub ints: Vec<i64>,
    pub strings: Vec<&'a [u8]>,
    /// A function's own attribute is referred to.
    pub reference: bool,
}

/// A tensor with its data, or where that lies.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct TensorProto<'a> {
    pub name: &'a str,
    pub dims: Vec<i64>,
    pub data_type: i64,
    pub float_data: Vec<f32>,
    pub int32_data: Vec<i64>,
    pub int64_data: Vec<i64>,
    pub double_data: Vec<f64>,
    pub raw_data: Option<&'a [u8]>,
    pub external: bool,
    /// `location`, `offset`, `length`, ...
    pub external_data: Vec<(&'a str, &'a str)>,
    pub segmented: bool,
}

/// A value's name and what the file says of its type.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct ValueInfo<'a> {
    pub name: &'a str,
    /// TensorProto.DataType; `None` where the value is no tensor (a sequence, a map).
    pub elem_type: Option<i64>,
    pub shape: Option<Vec<Dim<'a>>>,
}

/// An axis in a value's type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dim<'a> {
    /// Fixed (a negative or zero number stands for "unknown" in some exporters' files).
    Value(i64),
    /// Named.
    Param(&'a str),
    /// Neither.
    Unknown,
}

impl<'a> Decode<'a> for ModelProto<'a> {
    fn decode(mut m: Message<'a>) -> Result<Self> {
        let mut out = Self::default();
        while let Some(f) = m.next()? {
            match f.number {
                1 => out.ir_version = Some(f.int()?),
                2 => out.producer_name = lossy(f.bytes()?),
                3 => out.producer_version = lossy(f.bytes()?),
                7 => out.graph = Some(f.message()?),
                8 => {
                    let mut m = f.message()?;
                    let (mut domain, mut version) = (String::new(), 0);
                    while let Some(f) = m.next()? {
                        match f.number {
                            1 => domain = f.str()?.to_string(),
                            2 => version = f.int()?,
                            _ => {}
                        }
                    }
                    out.opsets.push((domain, version));
                }
                14 => {
                    let (key, value) = string_pair(f.message()?)?;
                    out.metadata.push((lossy(key), lossy(value)));
                }
                25 => {
                    let mut m = f.message()?;
                    let (mut name, mut domain) = (String::new(), String::new());
                    while let Some(f) = m.next()? {
                        match f.number {
                            1 => name = lossy(f.bytes()?),
                            10 => domain = lossy(f.bytes()?),
                            _ => {}
                        }
                    }
                    out.functions.push((domain, name));
                }
                _ => {}
            }
        }
        Ok(out)
    }
}

impl<'a> Decode<'a> for GraphProto<'a> {
    fn decode(mut m: Message<'a>) -> Result<Self> {
        let mut out = Self::default();
        while let Some(f) = m.next()? {
            match f.number {
                1 => out.nodes.push(NodeProto::decode(f.message()?)?),
                5 => out.initializers.push(TensorProto::decode(f.message()?)?),
                11 => out.inputs.push(ValueInfo::decode(f.message()?)?),
                12 => out.outputs.push(ValueInfo::decode(f.message()?)?),
                13 => out.value_infos.push(ValueInfo::decode(f.message()?)?),
                15 => out.sparse_initializers += 1,
                _ => {}
            }
        }
        Ok(out)
    }
}

impl<'a> Decode<'a> for NodeProto<'a> {
    fn decode(mut m: Message<'a>) -> Result<Self> {
        let mut out = Self::default();
        while let Some(f) = m.next()? {
            match f.number {
                1 => out.inputs.push(f.str()?),
                2 => out.outputs.push(f.str()?),
                3 => out.name = f.str()?,
                4 => out.op_type = f.str()?,
                5 => out.attributes.push(AttributeProto::decode(f.message()?)?),
                7 => out.domain = f.str()?,
                _ => {}
            }
        }
        Ok(out)
    }
}

impl<'a> Decode<'a> for AttributeProto<'a> {
    fn decode(mut m: Message<'a>) -> Result<Self> {
        let mut out = Self::default();
        while let Some(f) = m.next()? {
            match f.number {
                1 => out.name = f.str()?,
                2 => out.f = Some(f.float()?),
                3 => out.i = Some(f.int()?),
                4 => out.s = Some(f.bytes()?),
                5 => out.t = Some(f.message()?),
                6 => out.g = Some(f.message()?),
                7 => f.floats(&mut out.floats)?,
                8 => f.ints(&mut out.ints)?,
                9 => out.strings.push(f.bytes()?),
                20 => out.kind = f.int()?,
                21 => out.reference = !f.bytes()?.is_empty(),
                _ => {}
            }
        }
        Ok(out)
    }
}

impl<'a> Decode<'a> for TensorProto<'a> {
    fn decode(mut m: Message<'a>) -> Result<Self> {
        let mut out = Self::default();
        while let Some(f) = m.next()? {
            match f.number {
                1 => f.ints(&mut out.dims)?,
                2 => out.data_type = f.int()?,
                3 => out.segmented = true,
                4 => f.floats(&mut out.float_data)?,
                5 => f.ints(&mut out.int32_data)?,
                7 => f.ints(&mut out.int64_data)?,
                8 => out.name = f.str()?,
                9 => out.raw_data = Some(f.bytes()?),
                10 => f.doubles(&mut out.double_data)?,
                13 => {
                    let at = f.message()?;
                    let (key, value) = string_pair(at)?;
                    let text = |b: &'a [u8]| {
                        std::str::from_utf8(b).map_err(|_| WireError {
                            at: 0,
                            what: "external_data holds a string that is not UTF-8".into(),
                        })
                    };
                    out.external_data.push((text(key)?, text(value)?));
                }
                14 => out.external = f.int()? == 1,
                _ => {}
            }
        }
        Ok(out)
    }
}

impl<'a> Decode<'a> for ValueInfo<'a> {
    fn decode(mut m: Message<'a>) -> Result<Self> {
        let mut out = Self::default();
        while let Some(f) = m.next()? {
            match f.number {
                1 => out.name = f.str()?,
                2 => {
                    let mut m = f.message()?;
                    while let Some(f) = m.next()? {
                        if f.number == 1 {
                            tensor_type(f.message()?, &mut out)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(out)
    }
}

fn tensor_type<'a>(mut m: Message<'a>, out: &mut ValueInfo<'a>) -> Result<()> {
    out.elem_type = Some(0);
    while let Some(f) = m.next()? {
        match f.number {
            1 => out.elem_type = Some(f.int()?),
            2 => {
                let mut m = f.message()?;
                let mut dims = Vec::new();
                while let Some(f) = m.next()? {
                    if f.number == 1 {
                        dims.push(dimension(f.message()?)?);
                    }
                }
                out.shape = Some(dims);
            }
            _ => {}
        }
    }
    Ok(())
}

fn dimension(mut m: Message<'_>) -> Result<Dim<'_>> {
    let mut dim = Dim::Unknown;
    while let Some(f) = m.next()? {
        match f.number {
            1 => dim = Dim::Value(f.int()?),
            2 => dim = Dim::Param(f.str()?),
            _ => {}
        }
    }
    Ok(dim)
}

fn string_pair<'a>(mut m: Message<'a>) -> Result<(&'a [u8], &'a [u8])> {
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    while let Some(f) = m.next()? {
        match f.number {
            1 => key = f.bytes()?,
            2 => value = f.bytes()?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The name of a TensorProto.DataType.
pub fn type_name(data_type: i64) -> String {
    const NAMES: [&str; 25] = [
        "UNDEFINED",
        "FLOAT",
        "UINT8",
        "INT8",
        "UINT16",
        "INT16",
        "INT32",
        "INT64",
        "STRING",
        "BOOL",
        "FLOAT16",
        "DOUBLE",
        "UINT32",
        "UINT64",
        "COMPLEX64",
        "COMPLEX128",
        "BFLOAT16",
        "FLOAT8E4M3FN",
        "FLOAT8E4M3FNUZ",
        "FLOAT8E5M2",
        "FLOAT8E5M2FNUZ",
        "UINT4",
        "INT4",
        "FLOAT4E2M1",
        "FLOAT8E8M0",
    ];
    let name = usize::try_from(data_type).ok().and_then(|i| NAMES.get(i));
    name.map_or_else(|| format!("type {data_type}"), |n| n.to_string())
}
