/// Bytes that a layer's kernel touches, counted from each address it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    /// Of each operand.
    pub inputs: Vec<usize>,
    /// Of each packed constant.
    pub constants: Vec<usize>,
    /// Of each result.
    pub outputs: Vec<usize>,
}
