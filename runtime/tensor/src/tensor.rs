use half::f16;

use crate::{DType, Shape, checked_numel, numel};

/// The elements of an owned [`Tensor`], by type. `Bool` is one byte, 0 or 1.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum TensorData {
    F32(Vec<f32>),
    F16(Vec<f16>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    Bool(Vec<u8>),
}

/// An owned, dense, row-major tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Shape,
    data: TensorData,
}

/// The elements of a borrowed tensor, by type.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum ViewData<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    I64(&'a [i64]),
    I32(&'a [i32]),
    I8(&'a [i8]),
    U8(&'a [u8]),
    Bool(&'a [u8]),
}

/// The elements of a mutably borrowed tensor, by type.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum ViewDataMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
    I64(&'a mut [i64]),
    I32(&'a mut [i32]),
    I8(&'a mut [i8]),
    U8(&'a mut [u8]),
    Bool(&'a mut [u8]),
}

/// A borrowed, dense, row-major tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Extents, outermost first.
    pub shape: &'a [usize],
    /// Elements; as many as the shape says.
    pub data: ViewData<'a>,
}

/// A mutably borrowed, dense, row-major tensor.
#[derive(Debug)]
pub struct TensorViewMut<'a> {
    /// Extents, outermost first.
    pub shape: &'a [usize],
    /// Elements; as many as the shape says.
    pub data: ViewDataMut<'a>,
}

macro_rules! each {
    ($self:expr, $e:ident, $v:ident => $body:expr) => {
        match $self {
            $e::F32($v) => $body,
            $e::F16($v) => $body,
            $e::I64($v) => $body,
            $e::I32($v) => $body,
            $e::I8($v) => $body,
            $e::U8($v) => $body,
            $e::Bool($v) => $body,
        }
    };
}

macro_rules! dtype_of {
    ($self:expr, $e:ident) => {
        match $self {
            $e::F32(_) => DType::F32,
            $e::F16(_) => DType::F16,
            $e::I64(_) => DType::I64,
            $e::I32(_) => DType::I32,
            $e::I8(_) => DType::I8,
            $e::U8(_) => DType::U8,
            $e::Bool(_) => DType::Bool,
        }
    };
}

impl TensorData {
    /// Number of elements.
    pub fn len(&self) -> usize {
        each!(self, TensorData, v => v.len())
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements' type.
    pub fn dtype(&self) -> DType {
        dtype_of!(self, TensorData)
    }

    /// `len` zeros of a type.
    pub fn zeros(dtype: DType, len: usize) -> TensorData {
        match dtype {
            DType::F32 => TensorData::F32(vec![0.0; len]),
            DType::F16 => TensorData::F16(vec![f16::ZERO; len]),
            DType::I64 => TensorData::I64(vec![0; len]),
            DType::I32 => TensorData::I32(vec![0; len]),
            DType::I8 => TensorData::I8(vec![0; len]),
            DType::U8 => TensorData::U8(vec![0; len]),
            DType::Bool => TensorData::Bool(vec![0; len]),
        }
    }

    /// The elements as native-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        each!(self, TensorData, v => bytemuck::cast_slice(v))
    }
}

impl Tensor {
    /// A tensor of a shape and its elements.
    ///
    /// Panics when their number disagrees; see [`Tensor::try_new`].
    pub fn new(shape: impl Into<Shape>, data: TensorData) -> Tensor {
        Tensor::try_new(shape, data).expect("as many elements as the shape says")
    }

    /// A tensor of a shape and its elements, or `None` when their number disagrees.
    pub fn try_new(shape: impl Into<Shape>, data: TensorData) -> Option<Tensor> {
        let shape = shape.into();
        (checked_numel(&shape) == Some(data.len())).then_some(Tensor { shape, data })
    }

    /// A tensor of f32.
    pub fn f32(shape: impl Into<Shape>, data: Vec<f32>) -> Tensor {
        Tensor::new(shape, TensorData::F32(data))
    }

    /// A tensor of i64.
    pub fn i64(shape: impl Into<Shape>, data: Vec<i64>) -> Tensor {
        Tensor::new(shape, TensorData::I64(data))
    }

    /// A tensor of zeros.
    pub fn zeros(dtype: DType, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        let n = numel(&shape);
        Tensor { shape, data: TensorData::zeros(dtype, n) }
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements' type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.data.len()
    }

    /// The elements.
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// Shape and elements, given up.
    pub fn into_parts(self) -> (Shape, TensorData) {
        (self.shape, self.data)
    }

    /// The same elements in another shape of as many elements, or `None`.
    pub fn reshaped(self, shape: impl Into<Shape>) -> Option<Tensor> {
        Tensor::try_new(shape, self.data)
    }

    /// The elements when they are f32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        if let TensorData::F32(v) = &self.data { Some(v) } else { None }
    }

    /// The elements, mutably, when they are f32.
    pub fn as_f32_mut(&mut self) -> Option<&mut [f32]> {
        if let TensorData::F32(v) = &mut self.data { Some(v) } else { None }
    }

    /// The elements when they are i64.
    pub fn as_i64(&self) -> Option<&[i64]> {
        if let TensorData::I64(v) = &self.data { Some(v) } else { None }
    }

    /// The elements as f64, whatever their type (`Bool` gives 0 or 1).
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.data {
            TensorData::F32(v) => v.iter().map(|&x| x.into()).collect(),
            TensorData::F16(v) => v.iter().map(|x| x.to_f64()).collect(),
            TensorData::I64(v) => v.iter().map(|&x| x as f64).collect(),
            TensorData::I32(v) => v.iter().map(|&x| x.into()).collect(),
            TensorData::I8(v) => v.iter().map(|&x| x.into()).collect(),
            TensorData::U8(v) | TensorData::Bool(v) => v.iter().map(|&x| x.into()).collect(),
        }
    }

    /// The elements as i64 when they are integers or booleans.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        match &self.data {
            TensorData::I64(v) => Some(v.clone()),
            TensorData::I32(v) => Some(v.iter().map(|&x| x.into()).collect()),
            TensorData::I8(v) => Some(v.iter().map(|&x| x.into()).collect()),
            TensorData::U8(v) | TensorData::Bool(v) => Some(v.iter().map(|&x| x.into()).collect()),
            TensorData::F32(_) | TensorData::F16(_) => None,
        }
    }

    /// A borrowed view.
    pub fn view(&self) -> TensorView<'_> {
        let data = match &self.data {
            TensorData::F32(v) => ViewData::F32(v),
            TensorData::F16(v) => ViewData::F16(v),
            TensorData::I64(v) => ViewData::I64(v),
            TensorData::I32(v) => ViewData::I32(v),
            TensorData::I8(v) => ViewData::I8(v),
            TensorData::U8(v) => ViewData::U8(v),
            TensorData::Bool(v) => ViewData::Bool(v),
        };
        TensorView { shape: &self.shape, data }
    }

    /// A mutably borrowed view.
    pub fn view_mut(&mut self) -> TensorViewMut<'_> {
        let data = match &mut self.data {
            TensorData::F32(v) => ViewDataMut::F32(v),
            TensorData::F16(v) => ViewDataMut::F16(v),
            TensorData::I64(v) => ViewDataMut::I64(v),
            TensorData::I32(v) => ViewDataMut::I32(v),
            TensorData::I8(v) => ViewDataMut::I8(v),
            TensorData::U8(v) => ViewDataMut::U8(v),
            TensorData::Bool(v) => ViewDataMut::Bool(v),
        };
        TensorViewMut { shape: &self.shape, data }
    }
}

impl<'a> ViewData<'a> {
    /// The elements' type.
    pub fn dtype(&self) -> DType {
        dtype_of!(self, ViewData)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        each!(self, ViewData, v => v.len())
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as native-endian bytes.
    pub fn bytes(self) -> &'a [u8] {
        each!(self, ViewData, v => bytemuck::cast_slice(v))
    }

    /// Bytes seen as elements of a type; `None` when length or alignment do not fit.
    pub fn from_bytes(dtype: DType, bytes: &'a [u8]) -> Option<ViewData<'a>> {
        fn cast<T: bytemuck::AnyBitPattern>(b: &[u8]) -> Option<&[T]> {
            bytemuck::try_cast_slice(b).ok()
        }
        Some(match dtype {
            DType::F32 => ViewData::F32(cast(bytes)?),
            DType::F16 => ViewData::F16(cast(bytes)?),
            DType::I64 => ViewData::I64(cast(bytes)?),
            DType::I32 => ViewData::I32(cast(bytes)?),
            DType::I8 => ViewData::I8(cast(bytes)?),
            DType::U8 => ViewData::U8(bytes),
            DType::Bool => ViewData::Bool(bytes),
        })
    }
}

impl<'a> ViewDataMut<'a> {
    /// The elements' type.
    pub fn dtype(&self) -> DType {
        dtype_of!(self, ViewDataMut)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        each!(self, ViewDataMut, v => v.len())
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as native-endian bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        each!(self, ViewDataMut, v => bytemuck::cast_slice_mut(v))
    }

    /// Bytes seen as elements of a type; `None` when length or alignment do not fit.
    pub fn from_bytes(dtype: DType, bytes: &'a mut [u8]) -> Option<ViewDataMut<'a>> {
        fn cast<T: bytemuck::Pod>(b: &mut [u8]) -> Option<&mut [T]> {
            bytemuck::try_cast_slice_mut(b).ok()
        }
        Some(match dtype {
            DType::F32 => ViewDataMut::F32(cast(bytes)?),
            DType::F16 => ViewDataMut::F16(cast(bytes)?),
            DType::I64 => ViewDataMut::I64(cast(bytes)?),
            DType::I32 => ViewDataMut::I32(cast(bytes)?),
            DType::I8 => ViewDataMut::I8(cast(bytes)?),
            DType::U8 => ViewDataMut::U8(bytes),
            DType::Bool => ViewDataMut::Bool(bytes),
        })
    }
}

impl TensorView<'_> {
    /// The elements' type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// An owned copy.
    pub fn to_tensor(&self) -> Tensor {
        let data = match self.data {
            ViewData::F32(v) => TensorData::F32(v.to_vec()),
            ViewData::F16(v) => TensorData::F16(v.to_vec()),
            ViewData::I64(v) => TensorData::I64(v.to_vec()),
            ViewData::I32(v) => TensorData::I32(v.to_vec()),
            ViewData::I8(v) => TensorData::I8(v.to_vec()),
            ViewData::U8(v) => TensorData::U8(v.to_vec()),
            ViewData::Bool(v) => TensorData::Bool(v.to_vec()),
        };
        Tensor::new(self.shape.to_vec(), data)
    }
}

impl TensorViewMut<'_> {
    /// The elements' type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }
}
