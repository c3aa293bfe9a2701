//! Writes ONNX messages, right and wrong ones.

/// A message being written.
#[derive(Clone, Default)]
pub struct Message(pub Vec<u8>);

pub fn varint(mut v: u64, out: &mut Vec<u8>) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

impl Message {
    pub fn new() -> Message {
        Message::default()
    }

    pub fn int(mut self, field: u64, value: i64) -> Message {
        varint(field << 3, &mut self.0);
        varint(value as u64, &mut self.0);
        self
    }

    pub fn bytes(mut self, field: u64, value: &[u8]) -> Message {
        varint(field << 3 | 2, &mut self.0);
        varint(value.len() as u64, &mut self.0);
        self.0.extend_from_slice(value);
        self
    }

    pub fn str(self, field: u64, value: &str) -> Message {
        self.bytes(field, value.as_bytes())
    }

    pub fn message(self, field: u64, value: Message) -> Message {
        self.bytes(field, &value.0)
    }

    pub fn all(self, field: u64, values: impl IntoIterator<Item = Message>) -> Message {
        values.into_iter().fold(self, |m, v| m.message(field, v))
    }
}

/// NodeProto.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<Message>) -> Message {
    let m = inputs.iter().fold(Message::new(), |m, i| m.str(1, i));
    let m = outputs.iter().fold(m, |m, o| m.str(2, o));
    m.str(4, op).all(5, attributes)
}

/// AttributeProto of an integer.
pub fn int(name: &str, value: i64) -> Message {
    Message::new().str(1, name).int(3, value).int(20, 2)
}

/// AttributeProto of integers.
pub fn ints(name: &str, values: &[i64]) -> Message {
    values.iter().fold(Message::new().str(1, name), |m, &v| m.int(8, v)).int(20, 7)
}

/// AttributeProto of a graph.
pub fn subgraph(name: &str, graph: Message) -> Message {
    Message::new().str(1, name).message(6, graph).int(20, 5)
}

/// TensorProto with int64_data.
pub fn weight(name: &str, dims: &[i64], values: &[i64]) -> Message {
    let m = dims.iter().fold(Message::new(), |m, &d| m.int(1, d)).int(2, 7);
    values.iter().fold(m, |m, &v| m.int(7, v)).str(8, name)
}

/// ValueInfoProto of f32; a negative axis is symbolic.
pub fn value(name: &str, dims: &[i64]) -> Message {
    let dim = |&d: &i64| match d {
        d if d < 0 => Message::new().str(2, &format!("d{}", -d)),
        d => Message::new().int(1, d),
    };
    let shape = Message::new().all(1, dims.iter().map(dim));
    let tensor = Message::new().int(1, 1).message(2, shape);
    Message::new().str(1, name).message(2, Message::new().message(1, tensor))
}

/// GraphProto.
pub fn graph(
    nodes: Vec<Message>,
    weights: Vec<Message>,
    inputs: Vec<Message>,
    outputs: Vec<Message>,
) -> Message {
    Message::new().all(1, nodes).all(5, weights).all(11, inputs).all(12, outputs)
}

/// ModelProto of an opset.
pub fn model(opset: i64, graph: Message) -> Vec<u8> {
    let opset = Message::new().int(2, opset);
    Message::new().int(1, 8).str(2, "test").message(7, graph).message(8, opset).0
}
