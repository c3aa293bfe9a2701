"""How each of PyTorch's operators is dumped: a function of a :class:`Call` that gives the name
of the tensor it made, or a list of names."""

import math
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

from ..dump import DumpError


# The builder's own operator that makes float32 of truth values and integers.
TO_FLOAT = {"cast": {"to": "f32"}}


class Call:
    """One operator of the graph: its arguments by name, and the layers it becomes."""

    def __init__(self, dumper: Any, node: Any, name: str) -> None:
        self.dumper, self.node, self.name = dumper, node, name
        self._made: List[Dict[str, Any]] = []
        self._arguments: Dict[str, Any] = {}
        values = list(node.args)
        for i, argument in enumerate(node.target._schema.arguments):
            if i < len(values):
                self._arguments[argument.name] = values[i]
            elif argument.name in node.kwargs:
                self._arguments[argument.name] = node.kwargs[argument.name]
            else:
                self._arguments[argument.name] = argument.default_value

    def __getitem__(self, argument: str) -> Any:
        return self._arguments[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        return self._arguments.get(argument, default)

    @property
    def x(self) -> Any:
        """The first argument."""
        return self.node.args[0]

    @property
    def shape(self) -> tuple:
        """The (first) result's shape."""
        value = self.node.meta["val"]
        return tuple((value[0] if isinstance(value, (tuple, list)) else value).shape)

    def source(self, node: Any = None, **how: Any) -> str:
        return self.dumper.get_source_name(self.x if node is None else node, **how)

    def value(self, argument: str) -> Optional[np.ndarray]:
        node = self[argument]
        return None if node is None else self.dumper.value(node)

    def axis(self, axis: int, node: Any = None) -> int:
        """An axis counted from the front; never the batch."""
        ndim = len(shape_of(self.x if node is None else node))
        axis = axis % ndim if ndim else axis
        if axis == 0:
            raise DumpError("its axis is the batch")
        return axis

    def emit(self, kind: str, *sources: str, weights: Any = None, outputs: int = 1, **params: Any):
        """Adds a layer; gives its tensor, or the list of them."""
        name = f"{self.name}.{len(self._made)}"
        tensors = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        layer = {"type": kind, "name": name, "rank": 0, "output_names": tensors}
        layer.update({"source": sources[0]} if len(sources) == 1 else {"sources": list(sources)})
        layer.update(params)
        self.dumper.add_layer(layer, weights)
        self._made.append(layer)
        return tensors[0] if outputs == 1 else tensors

    def op(self, op: Any, *operands: str, weights: Any = None, outputs: int = 1):
        """Adds an operator of the builder's own; an operand that begins with ``@`` is a weight."""
        more = {"operands": list(operands)} if weights else {}
        sources = list(dict.fromkeys(o for o in operands if not o.startswith("@")))
        if not weights:
            sources = list(operands)
        return self.emit("TobiuoOp", *sources, weights=weights, outputs=outputs, op=op, **more)

    def finish(self, result: Any) -> Any:
        """The layer that made the only result is called like the node; gives the result."""
        made = [t for t in result if t is not None] if isinstance(result, list) else [result]
        last = self._made[-1] if self._made else None
        if last is None or len(made) != 1 or last["output_names"] != made:
            return result
        self.dumper.rename(last, self.name)
        return self.name if result == made[0] else [self.name, *[None] * (len(result) - 1)]


def shape_of(node: Any) -> tuple:
    value = getattr(node, "meta", {}).get("val")
    return tuple(value.shape) if hasattr(value, "shape") else ()


def is_float(node: Any) -> bool:
    """True for tensors and numbers with a fraction."""
    value = getattr(node, "meta", {}).get("val")
    return isinstance(node, float) if value is None else value.dtype.is_floating_point


def pair(value: Any) -> tuple:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(values * 2) if len(values) == 1 else tuple(values)


# -- convolution and products ---------------------------------------------------------------


def _bias(c: Call, n: int) -> np.ndarray:
    bias = c.value("bias")
    return np.zeros(n, np.float32) if bias is None else bias


def conv1d(c: Call) -> Any:
    kernel, (pad,) = c.value("weight"), c["padding"]
    op = {
        "kernel": [kernel.shape[2]],
        "strides": list(c["stride"]),
        "pads": [pad, pad],
        "dilations": list(c["dilation"]),
        "groups": c["groups"],
        "activation": None,
        "residual": False,
    }
    weights = {"kernel": kernel, "bias": _bias(c, len(kernel))}
    return c.op({"conv": op}, c.source(), "@kernel", "@bias", weights=weights)


def conv2d(c: Call) -> Any:
    kernel, source = c.value("weight"), c.source()
    (sy, sx), (dy, dx), padding = pair(c["stride"]), pair(c["dilation"]), c["padding"]
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = [dy * (kernel.shape[2] - 1), dx * (kernel.shape[3] - 1)]
        padding = [n // 2 for n in total]
        if any(n % 2 for n in total):
            source = _pad(c, source, [0, 0, 0, 0], [0, 0, total[0] % 2, total[1] % 2], 0.0)
    ph, pw = pair(padding)
    return c.emit(
        "Convolution2DFunction",
        source,
        n_out=len(kernel),
        kernel_w=kernel.shape[3],
        kernel_h=kernel.shape[2],
        pad_w=pw,
        pad_h=ph,
        stride_x=sx,
        stride_y=sy,
        groups=c["groups"],
        dilation_x=dx,
        dilation_y=dy,
        cover_all=False,
        weights={"kernel": kernel, "bias": _bias(c, len(kernel))},
    )


def conv_transpose2d(c: Call) -> Any:
    kernel = c.value("weight")
    (sy, sx), (dy, dx), (ph, pw) = pair(c["stride"]), pair(c["dilation"]), pair(c["padding"])
    n_out = kernel.shape[1] * c["groups"]
    more = {"output_hw": c.shape[2:]} if any(pair(c["output_padding"])) else {}
    return c.emit(
        "Deconvolution2DFunction",
        c.source(),
        n_out=n_out,
        kernel_w=kernel.shape[3],
        kernel_h=kernel.shape[2],
        pad_w=pw,
        pad_h=ph,
        stride_x=sx,
        stride_y=sy,
        groups=c["groups"],
        dilation_x=dx,
        dilation_y=dy,
        weights={"kernel": kernel, "bias": _bias(c, n_out)},
        **more,
    )


def linear(c: Call) -> Any:
    return _linear(c, c.x, c.value("weight"), c.value("bias"))


def _linear(c: Call, x: Any, kernel: np.ndarray, bias: Optional[np.ndarray]) -> Any:
    """``x @ kernel.T + bias``; x with any number of axes."""
    if len(shape_of(x)) == 2:
        bias = np.zeros(len(kernel), np.float32) if bias is None else bias
        weights = {"kernel": kernel, "bias": np.broadcast_to(bias, (len(kernel),))}
        return c.emit("LinearFunction", c.source(x), n_out=len(kernel), weights=weights)
    y = c.op("mat_mul", c.source(x), "@kernel", weights={"kernel": kernel.T})
    return y if bias is None else c.op(_binary("add"), y, "@bias", weights={"bias": bias})


def addmm(c: Call) -> Any:
    if c["beta"] != 1 or c["alpha"] != 1:
        raise DumpError(f"beta={c['beta']}, alpha={c['alpha']}; 1 is supported")
    return _linear(c, c["mat1"], c.value("mat2").T, c.value("self"))


def matmul(c: Call) -> Any:
    a, b = c.node.args[:2]
    sa, sb = shape_of(a), shape_of(b)
    if not c.dumper.varies(b):
        if len(sb) == 2:
            return _linear(c, a, c.dumper.value(b).T, None)
        return c.op("mat_mul", c.source(a), "@b", weights={"b": c.dumper.value(b)})
    if not c.dumper.varies(a):
        return c.op("mat_mul", "@a", c.source(b), weights={"a": c.dumper.value(a)})
    if len(sa) != len(sb) or len(sa) < 3:
        raise DumpError(f"shapes {sa} and {sb}: both need a batch axis before the matrices' two")
    return c.emit("MatMul", c.source(a), c.source(b), transa=False, transb=False)


def attention(c: Call) -> Any:
    q, k, v, mask = c["query"], c["key"], c["value"], c["attn_mask"]
    if c["is_causal"] or c["dropout_p"] or c.get("enable_gqa"):
        raise DumpError("is_causal, dropout_p and enable_gqa are not supported")
    scale = c["scale"] or 1 / math.sqrt(shape_of(q)[-1])
    ndim = len(shape_of(q))
    scores = c.emit("MatMul", c.source(q), c.source(k), transa=False, transb=True)
    scores = c.emit("MulConstant", scores, weights={"constant": np.float32([scale])})
    if mask is not None:
        if not getattr(mask.meta["val"].dtype, "is_floating_point", False):
            raise DumpError("a mask of truth values is not supported; add -inf where it is false")
        scores = c.emit("Add", scores, c.source(mask, ndim=ndim))
    weights = c.emit("Softmax", scores, axis=ndim - 2)
    return c.emit("MatMul", weights, c.source(v), transa=False, transb=False)


# -- normalization --------------------------------------------------------------------------


def batch_norm(c: Call) -> Any:
    mean, var = c.value("running_mean"), c.value("running_var")
    if mean is None or c.get("training"):
        raise DumpError("without running statistics it mixes the pictures of a batch")
    gamma, beta = c.value("weight"), c.value("bias")
    weights = {
        "mean": mean,
        "var": var,
        "gamma": np.ones_like(mean) if gamma is None else gamma,
        "beta": np.zeros_like(mean) if beta is None else beta,
    }
    y = c.emit("BatchNormalizationFunction", c.source(), eps=c["eps"], weights=weights)
    return y if c.node.target._schema.name == "aten::batch_norm" else [y, None, None]


def layer_norm(c: Call) -> Any:
    shape = list(c["normalized_shape"])
    scale, bias = c.value("weight"), c.value("bias")
    weights = {
        "scale": np.ones(shape, np.float32) if scale is None else scale,
        "bias": np.zeros(shape, np.float32) if bias is None else bias,
    }
    op = {"layer_norm": {"axis": len(shape_of(c.x)) - len(shape), "epsilon": c["eps"]}}
    y = c.op(op, c.source(), "@scale", "@bias", weights=weights)
    return y if c.node.target._schema.name == "aten::layer_norm" else [y, None, None]


def _instance_norm(c: Call, source: str, channels: int, scale: Any, bias: Any) -> Any:
    weights = {
        "scale": np.ones(channels, np.float32) if scale is None else scale,
        "bias": np.zeros(channels, np.float32) if bias is None else bias,
    }
    op = {"instance_norm": {"epsilon": c["eps"]}}
    return c.op(op, source, "@scale", "@bias", weights=weights)


def instance_norm(c: Call) -> Any:
    if not c["use_input_stats"]:
        raise DumpError("with running statistics: use BatchNorm in its place")
    return _instance_norm(
        c, c.source(), shape_of(c.x)[1], c.value("weight"), c.value("bias")
    )


def group_norm(c: Call) -> Any:
    shape, groups = shape_of(c.x), c["num_groups"]
    rows = c.emit("Reshape", c.source(), shape=[groups, math.prod(shape[1:]) // groups])
    y = c.emit("Reshape", _instance_norm(c, rows, groups, None, None), shape=shape[1:])
    for kind, key in (("mul", "weight"), ("add", "bias")):
        value = c.value(key)
        if value is not None:
            value = value.reshape(-1, *[1] * (len(shape) - 2))
            y = c.op(_binary(kind), y, "@" + key, weights={key: value})
    return y


def softmax(log: bool) -> Callable[[Call], Any]:
    def dump(c: Call) -> Any:
        axis = c.axis(c["dim"])
        if log:
            return c.op({"softmax": {"axis": axis, "log": True}}, c.source())
        return c.emit("Softmax", c.source(), **({"axis": axis - 1} if axis != 1 else {}))

    return dump


# -- activations and arithmetic -------------------------------------------------------------


def layer(kind: str, **params: Any) -> Callable[[Call], Any]:
    return lambda c: c.emit(kind, c.source(), **params)


def activation(what: Any) -> Callable[[Call], Any]:
    return lambda c: c.op({"activation": what}, c.source())


def clamp(low: Any, high: Any) -> Callable[[Call], Any]:
    """Low and high are numbers or names of arguments."""

    def dump(c: Call) -> Any:
        bounds = [c[b] if isinstance(b, str) else b for b in (low, high)]
        if any(hasattr(b, "meta") for b in bounds):
            raise DumpError("bounds that are tensors: use torch.maximum and torch.minimum")
        bounds = ["-inf" if bounds[0] is None else float(bounds[0]),
                  "inf" if bounds[1] is None else float(bounds[1])]
        return c.op({"activation": {"clip": {"min": bounds[0], "max": bounds[1]}}}, c.source())

    return dump


def elu(c: Call) -> Any:
    if c["scale"] != 1 or c["input_scale"] != 1:
        raise DumpError("scaled ELUs (SELU, CELU) are not supported")
    return c.op({"activation": {"elu": {"alpha": float(c["alpha"])}}}, c.source())


def softplus(c: Call) -> Any:
    if c["beta"] != 1:
        raise DumpError(f"beta={c['beta']}; 1 is supported")
    return c.op({"activation": "softplus"}, c.source())


def gelu(c: Call) -> Any:
    return c.op({"activation": {"gelu": {"tanh": c["approximate"] == "tanh"}}}, c.source())


def prelu(c: Call) -> Any:
    slope = c.value("weight")
    if slope.size > 1:
        slope = slope.reshape(-1, *[1] * (len(shape_of(c.x)) - 2))
    return c.op("p_relu", c.source(), "@slope", weights={"slope": slope})


def _binary(kind: str) -> Any:
    return {"binary": {"kind": kind, "activation": None}}


def operands(c: Call, *nodes: Any) -> List[str]:
    """Sources that broadcast to the result."""
    names = []
    floats = any(is_float(node) for node in nodes)
    for i, node in enumerate(nodes):
        if c.dumper.varies(node):
            if len(shape_of(node)) != len(c.shape):
                raise DumpError(
                    f"shapes {shape_of(node)} and {c.shape}: give axes of size 1 behind the batch"
                )
            name = c.source(node)
            # PyTorch computes with truth values and integers as with numbers.
            names.append(name if is_float(node) or not floats else c.op(TO_FLOAT, name))
        else:
            # An axis may only shrink where another operand gives the result its size.
            whole = any(shape_of(o) == c.shape for j, o in enumerate(nodes) if j != i)
            names.append(c.source(node, ndim=len(c.shape), shrink=whole))
    return names


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def arithmetic(kind: str, constant: Any = None, reverse: bool = False) -> Callable[[Call], Any]:
    """``Add``, ``Sub``... of two tensors; ``constant`` gives the layer, and the number in it,
    for a tensor and a number."""

    def dump(c: Call) -> Any:
        a, b = c.node.args[:2]
        if c.get("rounding_mode"):
            raise DumpError("division that rounds is not supported")
        alpha = c.get("alpha", 1)
        if _number(b) and constant is not None:
            name, number = constant(b * alpha)
            return c.emit(name, c.source(a), weights={"constant": np.float32([number])})
        if alpha != 1:
            raise DumpError(f"alpha={alpha}; multiply the tensor")
        if reverse:
            a, b = b, a
        return c.emit(kind, *operands(c, a, b))

    return dump


def comparison(kind: str) -> Callable[[Call], Any]:
    def dump(c: Call) -> Any:
        return c.op(_binary(kind), *operands(c, *c.node.args[:2]))

    return dump


def logical(kind: str) -> Callable[[Call], Any]:
    def dump(c: Call) -> Any:
        nodes = [c.x] if kind == "not" else c.node.args[:2]
        if any(str(n.meta["val"].dtype) != "torch.bool" for n in nodes if hasattr(n, "meta")):
            raise DumpError("of bits; only truth values are supported")
        return c.op({"unary": "not"} if kind == "not" else _binary(kind), *operands(c, *nodes))

    return dump


def power(c: Call) -> Any:
    exponent = c["exponent"]
    if exponent == 2:
        return c.emit("Mul", c.source(), c.source())
    if exponent in (0.5, -1):
        return c.emit("Unary", c.source(), operation="sqrt" if exponent == 0.5 else "recip")
    return c.op(_binary("pow"), *operands(c, c.x, exponent))


def square(c: Call) -> Any:
    return c.emit("Mul", c.source(), c.source())


def rsqrt(c: Call) -> Any:
    return c.emit("Unary", c.emit("Unary", c.source(), operation="sqrt"), operation="recip")


def where(c: Call) -> Any:
    return c.emit("Where", *operands(c, c["condition"], c["self"], c["other"]))


def _axes(c: Call, dims: Any) -> List[int]:
    ndim = len(shape_of(c.x))
    dims = range(ndim) if dims is None or dims == [] else dims
    return sorted(c.axis(d) for d in (dims if isinstance(dims, (list, tuple, range)) else [dims]))


def reduction(kind: str) -> Callable[[Call], Any]:
    def dump(c: Call) -> Any:
        op = {"kind": kind, "axes": _axes(c, c.get("dim")), "keep_dims": bool(c.get("keepdim"))}
        return c.op({"reduce": op}, c.source())

    return dump


def arg_reduction(smallest: bool) -> Callable[[Call], Any]:
    def dump(c: Call) -> Any:
        if c["dim"] is None:
            raise DumpError("without dim it has the batch in it")
        op = {
            "axis": c.axis(c["dim"]),
            "min": smallest,
            "keep_dims": c["keepdim"],
            "select_last": False,
        }
        return c.op({"arg_reduce": op}, c.source())

    return dump


def top_k(c: Call) -> Any:
    op = {"k": c["k"], "axis": c.axis(c["dim"]), "largest": c["largest"], "sorted": c["sorted"]}
    return c.op({"top_k": op}, c.source(), outputs=2)


# -- pooling and resizing -------------------------------------------------------------------


def _pool(c: Call, kind: Any, dilation: Sequence[int], stride: Any) -> Any:
    """The builder's own pooling, for what Chainer's has not."""
    kernel, pads = pair(c["kernel_size"]), pair(c["padding"])
    op = {
        "kind": kind,
        "kernel": list(kernel),
        "strides": list(stride),
        "pads": [*pads, *pads],
        "dilations": list(dilation),
        "ceil_mode": c["ceil_mode"],
    }
    return c.op({"pool": op}, c.source())


def _window(c: Call, kind: str, kernel: Any, stride: Any, padding: Any, **more: Any) -> Any:
    (kh, kw), (sy, sx), (ph, pw) = kernel, stride, padding
    return c.emit(
        kind,
        c.source(),
        window_width=kw,
        window_height=kh,
        stride_x=sx,
        stride_y=sy,
        pad_w=pw,
        pad_h=ph,
        cover_all=False,
        **more,
    )


def max_pool2d(c: Call) -> Any:
    kernel = pair(c["kernel_size"])
    stride, dilation = pair(c["stride"] or kernel), pair(c["dilation"])
    if c["ceil_mode"] or dilation != (1, 1):
        y = _pool(c, "max", dilation, stride)
    else:
        y = _window(c, "MaxPooling2D", kernel, stride, pair(c["padding"]))
    return y if c.node.target._schema.name == "aten::max_pool2d" else [y, None]


def avg_pool2d(c: Call) -> Any:
    kernel, padding = pair(c["kernel_size"]), pair(c["padding"])
    stride, include = pair(c["stride"] or kernel), c["count_include_pad"]
    if c["divisor_override"] is not None:
        raise DumpError("divisor_override is not supported")
    if c["ceil_mode"]:
        return _pool(c, {"average": {"count_include_pad": include}}, (1, 1), stride)
    more = {} if include or padding == (0, 0) else {"pad_value": None}
    return _window(c, "AveragePooling2D", kernel, stride, padding, **more)


def adaptive_pool2d(kind: str) -> Callable[[Call], Any]:
    def dump(c: Call) -> Any:
        size, out = shape_of(c.x)[2:], c.shape[2:]
        if any(n % m for n, m in zip(size, out)):
            raise DumpError(f"a picture of {size} does not divide into {out} equal windows")
        window = tuple(n // m for n, m in zip(size, out))
        y = _window(c, kind, window, window, (0, 0))
        return y if isinstance(c.node.meta["val"], tuple) is False else [y, None]

    return dump


def _exact_scale(c: Call) -> None:
    """PyTorch samples at the scale that was given, the format at the ratio of the sizes."""
    scales = c.get("scale_factors") or [c.get("scales_h"), c.get("scales_w")]
    for size, out, scale in zip(shape_of(c.x)[2:], c.shape[2:], scales):
        if scale is not None and size * scale != out:
            raise DumpError(f"{size} pixels by a scale of {scale} are not {out}; give the size")


def _resized(c: Call, **how: Any) -> Any:
    _exact_scale(c)
    shape = shape_of(c.x)
    return c.emit("ResizeImages", c.source(), n_channels=shape[1], input_hw=shape[2:],
                  output_hw=c.shape[2:], **how)


def nearest2d(c: Call) -> Any:
    return _resized(c, mode="nearest")


def bilinear2d(c: Call) -> Any:
    return _resized(c, **({} if c["align_corners"] else {"align_corners": False}))


def _pad(c: Call, source: str, begins: Sequence[int], ends: Sequence[int], mode: Any) -> Any:
    mode = {"constant": {"value": float(mode)}} if _number(mode) else mode
    return c.op({"pad": {"begins": list(begins), "ends": list(ends), "mode": mode}}, source)


def pad(mode: Optional[str] = None) -> Callable[[Call], Any]:
    def dump(c: Call) -> Any:
        ndim, amounts = len(shape_of(c.x)), list(c.get("pad") or c.get("padding"))
        begins, ends = [0] * ndim, [0] * ndim
        for i in range(len(amounts) // 2):
            begins[ndim - 1 - i], ends[ndim - 1 - i] = amounts[2 * i : 2 * i + 2]
        if begins[0] or ends[0]:
            raise DumpError("it pads the batch")
        names = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
        how = names.get(mode or c.get("mode", "constant"), c.get("value") or 0)
        return _pad(c, c.source(), begins, ends, how)

    return dump


# -- shapes ---------------------------------------------------------------------------------


def same(c: Call) -> Any:
    """What does nothing in inference."""
    before, after = c.x.meta["val"].dtype, c.node.meta["val"].dtype
    if before != after:
        if not after.is_floating_point:
            raise DumpError(f"conversion from {before} to {after} is not supported")
        if not before.is_floating_point:
            return c.op(TO_FLOAT, c.source())
    return c.source()


def reshape(c: Call) -> Any:
    if shape_of(c.x) == c.shape:
        return c.source()
    return c.emit("Reshape", c.source(), shape=c.shape[1:])


def permute(c: Call) -> Any:
    return _transposed(c, c.source(), [d % len(c.shape) for d in c["dims"]])


def _transposed(c: Call, source: str, axes: Sequence[int]) -> Any:
    if axes[0] != 0:
        raise DumpError(f"axes {tuple(axes)} move the batch, axis 0")
    return c.emit("Transpose", source, axes=[axis - 1 for axis in axes[1:]])


def transpose(c: Call) -> Any:
    axes = list(range(len(c.shape)))
    a, b = c["dim0"] % len(axes), c["dim1"] % len(axes)
    axes[a], axes[b] = axes[b], axes[a]
    return _transposed(c, c.source(), axes)


def cat(c: Call) -> Any:
    nodes = [n for n in c["tensors"] if shape_of(n) != (0,)]
    axis = c.axis(c["dim"], nodes[0])
    return c.emit("Concat", *[c.source(n) for n in nodes], axis=axis - 1) if len(nodes) > 1 else (
        c.source(nodes[0]))


def stack(c: Call) -> Any:
    axis = c["dim"] % len(c.shape)
    if axis == 0:
        raise DumpError("its axis is the batch")
    shape = [*c.shape[1:axis], 1, *c.shape[axis + 1 :]]
    parts = [c.emit("Reshape", c.source(n), shape=shape) for n in c["tensors"]]
    return c.emit("Concat", *parts, axis=axis - 1)


def _item(c: Call, axis: int, entry: Any) -> Any:
    slices: List[Any] = [[None, None, None] for _ in shape_of(c.x)[1:]]
    slices[axis - 1] = entry
    return c.emit("GetItem", c.source(), slices=slices)


def slice_(c: Call) -> Any:
    if shape_of(c.x) == c.shape and c["step"] == 1:
        return c.source()
    # The end of an open slice is the largest int64.
    stop = c["end"]
    stop = None if stop is None or stop >= 2**31 else stop
    return _item(c, c.axis(c["dim"]), [c["start"], stop, c["step"]])


def select(c: Call) -> Any:
    return _item(c, c.axis(c["dim"]), c["index"])


def split(c: Call) -> Any:
    """Into parts of the sizes that the results have."""
    axis, at, parts = c.axis(c["dim"]), 0, []
    for value in c.node.meta["val"]:
        parts.append(_item(c, axis, [at, at + value.shape[axis], None]))
        at += value.shape[axis]
    return parts


def unbind(c: Call) -> Any:
    axis = c.axis(c["dim"])
    return [_item(c, axis, i) for i in range(shape_of(c.x)[axis])]


def expand(c: Call) -> Any:
    shape = shape_of(c.x)
    if shape == c.shape:
        return c.source()
    if len(shape) != len(c.shape):
        raise DumpError(f"{shape} to {c.shape}: the batch would no longer be the first axis")
    return c.emit("BroadcastTo", c.source(), in_shape=shape[1:], out_shape=c.shape[1:])


def pixel_shuffle(c: Call) -> Any:
    _, channels, height, width = c.shape
    r = c["upscale_factor"]
    y = c.emit("Reshape", c.source(), shape=[channels, r, r, height // r, width // r])
    y = _transposed(c, y, [0, 1, 4, 2, 5, 3])
    return c.emit("Reshape", y, shape=c.shape[1:])


def pixel_unshuffle(c: Call) -> Any:
    _, channels, height, width = shape_of(c.x)
    r = c["downscale_factor"]
    y = c.emit("Reshape", c.source(), shape=[channels, height // r, r, width // r, r])
    y = _transposed(c, y, [0, 1, 3, 5, 2, 4])
    return c.emit("Reshape", y, shape=c.shape[1:])


def channel_shuffle(c: Call) -> Any:
    _, channels, height, width = c.shape
    g = c["groups"]
    y = c.emit("Reshape", c.source(), shape=[g, channels // g, height, width])
    y = _transposed(c, y, [0, 2, 1, 3, 4])
    return c.emit("Reshape", y, shape=c.shape[1:])


def _aten(table: Dict[str, Any]) -> Dict[str, Any]:
    return {f"aten::{name}": f for names, f in table.items() for name in names.split()}


# Operators whose result depends on the shape of what they are given, not on its values.
OF_SHAPE_ONLY = set(_aten({
    "zeros_like ones_like full_like new_zeros new_ones new_full new_empty empty_like": None,
}))

BUILT_IN = _aten({
    "conv1d": conv1d,
    "conv2d": conv2d,
    "conv_transpose2d": conv_transpose2d,
    "linear": linear,
    "addmm": addmm,
    "matmul mm bmm": matmul,
    "scaled_dot_product_attention": attention,
    "batch_norm _native_batch_norm_legit_no_training": batch_norm,
    "layer_norm native_layer_norm": layer_norm,
    "instance_norm": instance_norm,
    "group_norm": group_norm,
    "softmax _softmax": softmax(log=False),
    "log_softmax _log_softmax": softmax(log=True),
    "relu": layer("ReLU"),
    "sigmoid": layer("Sigmoid"),
    "tanh": layer("Tanh"),
    "leaky_relu": lambda c: c.emit("LeakyReLU", c.source(), slope=float(c["negative_slope"])),
    "silu": activation("silu"),
    "mish": activation("mish"),
    "hardswish": activation("hard_swish"),
    "hardsigmoid": activation({"hard_sigmoid": {"alpha": 1 / 6, "beta": 0.5}}),
    "erf": activation("erf"),
    "hardtanh": clamp("min_val", "max_val"),
    "relu6": clamp(0, 6),
    "clamp": clamp("min", "max"),
    "clamp_min": clamp("min", None),
    "clamp_max": clamp(None, "max"),
    "elu": elu,
    "softplus": softplus,
    "gelu": gelu,
    "prelu _prelu_kernel": prelu,
    "add": arithmetic("Add", lambda k: ("AddConstant", k)),
    "sub": arithmetic("Sub", lambda k: ("AddConstant", -k)),
    "rsub": arithmetic("Sub", lambda k: ("SubFromConstant", k), reverse=True),
    "mul": arithmetic("Mul", lambda k: ("MulConstant", k)),
    "div": arithmetic("Div", lambda k: ("MulConstant", 1 / k)),
    "maximum": arithmetic("Maximum"),
    "minimum": arithmetic("Minimum"),
    "eq": comparison("equal"),
    "lt": comparison("less"),
    "le": comparison("less_or_equal"),
    "gt": comparison("greater"),
    "ge": comparison("greater_or_equal"),
    "logical_and bitwise_and __and__": logical("and"),
    "logical_or bitwise_or __or__": logical("or"),
    "logical_xor bitwise_xor __xor__": logical("xor"),
    "logical_not bitwise_not": logical("not"),
    "where": where,
    "exp": layer("Unary", operation="exp"),
    "log": layer("Unary", operation="log"),
    "sqrt": layer("Unary", operation="sqrt"),
    "abs": layer("Unary", operation="abs"),
    "neg": layer("Unary", operation="neg"),
    "reciprocal": layer("Unary", operation="recip"),
    "rsqrt": rsqrt,
    "square": square,
    "pow": power,
    "mean": reduction("mean"),
    "sum": reduction("sum"),
    "amax": reduction("max"),
    "amin": reduction("min"),
    "argmax": arg_reduction(smallest=False),
    "argmin": arg_reduction(smallest=True),
    "topk": top_k,
    "max_pool2d max_pool2d_with_indices": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_pool2d("AveragePooling2D"),
    "adaptive_max_pool2d": adaptive_pool2d("MaxPooling2D"),
    "upsample_nearest2d": nearest2d,
    "upsample_bilinear2d": bilinear2d,
    "pad constant_pad_nd": pad(),
    "reflection_pad2d": pad("reflect"),
    "replication_pad2d": pad("replicate"),
    "dropout feature_dropout alias clone contiguous detach lift_fresh_copy to _to_copy type_as": same,
    "view reshape _unsafe_view flatten squeeze unsqueeze unflatten": reshape,
    "permute": permute,
    "transpose": transpose,
    "cat concat": cat,
    "stack": stack,
    "slice narrow": slice_,
    "select": select,
    "split split_with_sizes chunk": split,
    "unbind": unbind,
    "expand": expand,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
})
