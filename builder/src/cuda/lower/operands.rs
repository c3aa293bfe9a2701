//! Views of values in the layouts that layers take, and memory for results.

use tobiuo_tensor::DType;

use super::{Done, Lower, Lowered, Operand};
use crate::cuda::pack;
use crate::cuda::view::{BufferId, View, granule};
use crate::graph::ValueId;
use tobiuo_kernels::{Layer, PermuteLayer, Strided};
use tobiuo_ops::Op;

impl Lower<'_> {
    /// A value's view; a constant's elements are stored as activations are.
    pub(super) fn view(&mut self, value: ValueId) -> Done<View> {
        let dtype = self.stored(self.graph.fact(value).dtype);
        self.view_as(value, dtype)
    }

    /// A value's view for kernels that read any type: a constant keeps its own.
    pub(super) fn exact(&mut self, value: ValueId) -> Done<View> {
        self.view_as(value, self.graph.fact(value).dtype)
    }

    fn view_as(&mut self, value: ValueId, dtype: DType) -> Done<View> {
        if let Some(view) = self.views.get(&value) {
            return Ok(view.clone());
        }
        let tensor = self.graph.constant(value).cloned().ok_or_else(|| {
            format!("operand '{}' is made by no earlier node", self.graph.value(value).name)
        })?;
        if let Some(view) = self.constants.get(&(value, dtype)) {
            return Ok(view.clone());
        }
        let bytes = match tensor.as_f32() {
            Some(values) => pack::floats(values.iter().copied(), dtype),
            None => tensor.data().bytes().to_vec(),
        };
        let number = self.constant(bytes);
        let view = View {
            buffer: BufferId::of_constant(number),
            dtype,
            offset: 0,
            strides: crate::cuda::view::dense(tensor.shape()),
            shape: tensor.shape().to_vec(),
            channels_stored: 0,
        };
        self.constants.insert((value, dtype), view.clone());
        Ok(view)
    }

    /// An operand that says of a constant that it is one.
    pub(super) fn settled(&mut self, operand: Operand) -> Operand {
        let Operand::View(view) = &operand else { return operand };
        let Some(number) = view.buffer.constant() else { return operand };
        if view.offset == 0 {
            return Operand::Constant(number);
        }
        let start = view.offset as usize * view.dtype.size();
        let rest = self.out.constants[number][start..].to_vec();
        Operand::Constant(self.constant(rest))
    }

    /// A view as a kernel's operand: the address of its lowest element, and where the others
    /// are from there.
    pub(super) fn strided(&mut self, view: &View) -> (Operand, Strided) {
        let back: i64 =
            view.shape.iter().zip(&view.strides).map(|(&d, &s)| (d as i64 - 1) * s.min(0)).sum();
        let based = View { offset: view.offset + back, ..view.clone() };
        let strided = Strided {
            dtype: view.dtype,
            offset: usize::try_from(-back).unwrap_or(0),
            strides: view.strides.clone(),
            // A constant that does not begin with its first element becomes one of its own.
            aligned: view.buffer.constant().is_some()
                || (based.offset * view.dtype.size() as i64) % 16 == 0,
        };
        (self.settled(Operand::View(based)), strided)
    }

    /// True when this value is made for nothing but being an output of the graph.
    pub(super) fn is_only_output(&self, value: ValueId) -> bool {
        self.graph.is_output(value)
            && !self.users.contains_key(&value)
            && self.places.parent(value).is_none()
    }

    /// True when layers that want channels-last pictures read the value.
    fn feeds_pictures(&self, value: ValueId) -> bool {
        let users = self.users.get(&value).map_or(&[][..], |u| u);
        users.iter().any(|&n| {
            matches!(
                self.graph.nodes[n].op,
                Op::Conv(_)
                    | Op::ConvTranspose(_)
                    | Op::Pool(_)
                    | Op::Resize(_)
                    | Op::QuantConv(_)
                    | Op::Quantize { .. }
            )
        })
    }

    /// Memory for a result of a kernel that writes any strides, laid out as suits what it is
    /// made of and what reads it. Channels are only padded where the kernel can write `padding`.
    pub(super) fn result(&mut self, value: ValueId, like: &[View], padding: bool) -> View {
        let fact = self.graph.fact(value).clone();
        if self.is_only_output(value) {
            return self.new_dense(fact.dtype, &fact.shape);
        }
        let dtype = self.stored(fact.dtype);
        let full = |v: &&View| v.shape == fact.shape && !v.strides.contains(&0);
        if fact.shape.len() == 4 && dtype == self.dtype {
            let last = |v: &View| v.shape[1] > 1 && v.pixel_pitch().is_some();
            let pictures = like.iter().filter(full).any(last)
                || self.places.parent(value).is_some()
                || self.feeds_pictures(value);
            if pictures && padding {
                return self.new_picture(value);
            }
            if pictures && fact.shape[1].is_multiple_of(8) {
                return self.new_channels_last(&fact.shape, fact.shape[1], dtype);
            }
        }
        let mut out = self.new_dense(dtype, &fact.shape);
        if let Some(first) = like.iter().find(full) {
            let mut order: Vec<usize> = (0..fact.shape.len()).collect();
            order.sort_by_key(|&i| std::cmp::Reverse(first.strides[i].abs()));
            let mut step = 1;
            for &axis in order.iter().rev() {
                out.strides[axis] = step;
                step *= fact.shape[axis] as i64;
            }
        }
        out
    }

    /// A value as a picture that the NHWC kernels can read.
    pub(super) fn picture(&mut self, value: ValueId) -> Done<View> {
        let view = self.view(value)?;
        if self.is_picture(&view) {
            return Ok(view);
        }
        if let Some(done) = self.pictures.get(&value) {
            return Ok(done.clone());
        }
        let name = self.graph.value(value).name.clone();
        let to = self.picture_of(&name, &view)?;
        self.pictures.insert(value, to.clone());
        Ok(to)
    }

    /// How the elements of a picture are stored: bytes as they are, floats as the others.
    pub(super) fn picture_type(&self, dtype: DType) -> DType {
        if matches!(dtype, DType::I8 | DType::U8) { dtype } else { self.dtype }
    }

    /// True when the NHWC kernels can read a view.
    pub(super) fn is_picture(&self, view: &View) -> bool {
        view.shape.len() == 4
            && view.dtype == self.picture_type(view.dtype)
            && view.buffer.constant().is_none()
            && view.channels_stored.is_multiple_of(granule(view.dtype))
            && view.pixel_pitch().is_some()
            && view.channels_stored >= view.shape[1]
    }

    /// A view as a picture that the NHWC kernels can read.
    pub(super) fn picture_of(&mut self, name: &str, view: &View) -> Done<View> {
        if view.shape.len() != 4 {
            return Err(format!("operand {:?} is no [N, C, H, W]", view.shape));
        }
        if self.is_picture(view) {
            return Ok(view.clone());
        }
        let dtype = self.picture_type(view.dtype);
        let pitch = view.shape[1].next_multiple_of(granule(dtype));
        let to = self.new_channels_last(&view.shape, pitch, dtype);
        self.copy(name, view, &to);
        Ok(to)
    }

    /// The picture a first convolution reads: few channels, padded to 4.
    pub(super) fn thin_picture(&mut self, value: ValueId) -> Done<View> {
        let view = self.view(value)?;
        let to = self.new_channels_last(&view.shape, 4, self.dtype);
        self.copy(&self.graph.value(value).name.clone(), &view, &to);
        Ok(to)
    }

    /// A value in row-major order, at an address that is a multiple of 16 bytes.
    pub(super) fn row_major(&mut self, value: ValueId) -> Done<View> {
        let view = self.view(value)?;
        if view.is_dense() && (view.offset * view.dtype.size() as i64) % 16 == 0 {
            return Ok(view);
        }
        let to = self.new_dense(view.dtype, &view.shape);
        self.copy(&self.graph.value(value).name.clone(), &view, &to);
        Ok(to)
    }

    /// Copies a view into another of the same shape; channels stored beyond the shape's are
    /// written as zeros.
    pub(super) fn copy(&mut self, name: &str, from: &View, to: &View) {
        let mut dims = from.shape.clone();
        let mut valid = None;
        if to.shape.len() == 4 && to.channels_stored > to.shape[1] {
            valid = Some((1, dims[1]));
            dims[1] = to.channels_stored;
        }
        self.copy_box(name, (from, &from.strides.clone()), (to, &to.strides.clone()), dims, valid);
    }

    /// Copies a box of elements from one view's memory to another's, with strides of its own.
    pub(super) fn copy_box(
        &mut self,
        name: &str,
        (from, x_strides): (&View, &[i64]),
        (to, y_strides): (&View, &[i64]),
        dims: Vec<usize>,
        valid: Option<(usize, usize)>,
    ) {
        let mut read = dims.clone();
        if let Some((axis, n)) = valid {
            read[axis] = read[axis].min(n);
        }
        let boxed = View { shape: read, strides: x_strides.to_vec(), ..from.clone() };
        let (operand, x) = self.strided(&boxed);
        let layer = PermuteLayer {
            from: from.dtype,
            to: to.dtype,
            dims,
            x_offset: x.offset,
            x_strides: x_strides.to_vec(),
            y_strides: y_strides.to_vec(),
            valid,
        };
        self.out.layers.push(Lowered {
            name: format!("{name} (copy)"),
            op: "Copy",
            layer: Layer::Permute(layer),
            operands: vec![operand],
            outputs: vec![to.clone()],
            constants: vec![],
            flops: 0,
        });
    }

    /// Copies by a layer whose strides count from `from`'s first element.
    pub(super) fn push_copy(&mut self, name: &str, layer: PermuteLayer, from: &View, to: &View) {
        let PermuteLayer { dims, x_strides, y_strides, valid, .. } = layer;
        self.copy_box(name, (from, &x_strides), (to, &y_strides), dims, valid);
    }

    /// Makes a value an output: its own memory where that is as it should be, else a copy.
    pub(super) fn output(&mut self, name: &str, value: ValueId) -> Done<()> {
        let fact = self.graph.fact(value).clone();
        let view = self.exact(value)?;
        let exact = fact.numel() * fact.dtype.size();
        let own = view.buffer.constant().is_none() && {
            let memory = &self.out.buffers[view.buffer.0];
            !memory.pinned && memory.bytes == exact.next_multiple_of(16)
        };
        let alike = view.dtype == fact.dtype && view.is_dense() && view.offset == 0;
        // The caller's memory has no padding.
        if own && alike && self.touched(view.buffer) <= exact {
            self.out.buffers[view.buffer.0].pinned = true;
            self.out.outputs.push(view);
            return Ok(());
        }
        let to = self.new_dense(fact.dtype, &fact.shape);
        self.out.buffers[to.buffer.0].pinned = true;
        if fact.numel() > 0 {
            self.copy(name, &view, &to);
        }
        self.out.outputs.push(to);
        Ok(())
    }

    /// How far layers reach into a buffer, bytes.
    fn touched(&self, buffer: BufferId) -> usize {
        let reach = |view: &View, bytes: usize| match view.buffer == buffer {
            true => view.offset.unsigned_abs() as usize * view.dtype.size() + bytes,
            false => 0,
        };
        let of_layer = |layer: &Lowered| {
            let extents = layer.layer.extents();
            let read = layer.operands.iter().zip(&extents.inputs).map(|(o, &bytes)| match o {
                Operand::View(view) => reach(view, bytes),
                Operand::Constant(_) => 0,
            });
            let written = layer.outputs.iter().zip(&extents.outputs).map(|(v, &b)| reach(v, b));
            read.chain(written).max().unwrap_or(0)
        };
        self.out.layers.iter().map(of_layer).max().unwrap_or(0)
    }
}
