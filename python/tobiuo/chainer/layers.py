"""How each of Chainer's functions is dumped.

A dump function gets the retriever, the function and the layer's first parameters, and gives
the parameters and the weights, or a list of such pairs where one function becomes several
layers. Class names, not classes, are the keys: Chainer 5 and 7 keep
some in different modules.
"""

from typing import Any, Dict, Tuple

import numpy as np

from ..dump import DumpError
from .more_layers import MORE

Params = Dict[str, Any]
Result = Tuple[Any, Any]

# Layers are named after Chainer 5's classes, so that dumps of both versions have the same names.
LAYER_NAMES = {"MaxPoolingND": "MaxPooling2D", "AveragePoolingND": "AveragePooling2D"}
LAYER_TYPES = {**LAYER_NAMES, "FixedBatchNormalization": "BatchNormalizationFunction"}


def one_source(r: Any, f: Any, params: Params) -> Result:
    params["source"] = r.get_source_name(f.inputs[0])
    return params, None


def _convolution(r: Any, f: Any, params: Params, n_out: int) -> Result:
    kernel = r.weight(f.inputs[1], "kernel")
    bias = np.zeros(n_out, np.float32)
    if len(f.inputs) == 3:
        bias = r.weight(f.inputs[2], "bias")
    params.update(
        source=r.get_source_name(f.inputs[0]),
        n_out=n_out,
        kernel_w=kernel.shape[3],
        kernel_h=kernel.shape[2],
        pad_w=f.pw,
        pad_h=f.ph,
        stride_x=f.sx,
        stride_y=f.sy,
        groups=f.groups,
        dilation_x=f.dx,
        dilation_y=f.dy,
    )
    return params, {"kernel": kernel, "bias": bias}


def convolution(r: Any, f: Any, params: Params) -> Result:
    params["cover_all"] = bool(f.cover_all)
    return _convolution(r, f, params, f.inputs[1].shape[0])


def deconvolution(r: Any, f: Any, params: Params) -> Result:
    x, kernel = f.inputs[0].shape, f.inputs[1].shape
    expected = tuple(
        stride * (size - 1) + dilation * (k - 1) + 1 - 2 * pad
        for size, k, stride, pad, dilation in (
            (x[2], kernel[2], f.sy, f.ph, f.dy),
            (x[3], kernel[3], f.sx, f.pw, f.dx),
        )
    )
    outsize = f.outputs[0]().shape[2:]
    if outsize != expected:
        params["output_hw"] = outsize
    return _convolution(r, f, params, kernel[1] * f.groups)


def batch_normalization(r: Any, f: Any, params: Params) -> Result:
    x, gamma, beta, mean, var = f.inputs
    axes = (0,) + tuple(range(2, len(x.shape)))
    if len(gamma.shape) != 1 or (f.axis is not None and tuple(f.axis) != axes):
        raise DumpError(
            f"axis={f.axis} and gamma of shape {gamma.shape}: only normalisation per channel "
            f"(axis={axes}) is supported"
        )
    params.update(source=r.get_source_name(x), eps=float(f.eps))
    weights = {"mean": mean, "var": var, "gamma": gamma, "beta": beta}
    return params, {key: r.weight(node, key) for key, node in weights.items()}


def training_only(r: Any, f: Any, params: Params) -> Result:
    raise DumpError(
        "it appears in training only; run the network under "
        "'with chainer.using_config(\"train\", False):'"
    )


def local_response_normalization(r: Any, f: Any, params: Params) -> Result:
    params.update(n=int(f.n), k=float(f.k), alpha=float(f.alpha), beta=float(f.beta))
    return one_source(r, f, params)


def leaky_relu(r: Any, f: Any, params: Params) -> Result:
    params["slope"] = float(f.slope)
    return one_source(r, f, params)


def softmax(r: Any, f: Any, params: Params) -> Result:
    axis = f.axis % len(f.inputs[0].shape)
    if axis == 0:
        raise DumpError("axis=0 is the batch")
    if axis != 1:
        params["axis"] = axis - 1
    return one_source(r, f, params)


def pooling(r: Any, f: Any, params: Params) -> Result:
    if hasattr(f, "ksize"):
        if f.ndim != 2:
            raise DumpError(f"pooling over {f.ndim} axes; 2 are supported")
        (kh, kw), (sy, sx), (ph, pw) = f.ksize, f.stride, f.pad
    else:
        (kh, kw), (sy, sx), (ph, pw) = (f.kh, f.kw), (f.sy, f.sx), (f.ph, f.pw)
    if getattr(f, "pad_value", 0) is None:
        params["pad_value"] = None
    params.update(
        window_width=kw,
        window_height=kh,
        stride_x=sx,
        stride_y=sy,
        pad_w=pw,
        pad_h=ph,
        cover_all=bool(f.cover_all),
    )
    return one_source(r, f, params)


def linear(r: Any, f: Any, params: Params) -> Result:
    x = f.inputs[0]
    kernel = r.weight(f.inputs[1], "kernel")
    bias = np.zeros(len(kernel), np.float32)
    if len(f.inputs) == 3:
        bias = r.weight(f.inputs[2], "bias")
    # F.linear flattens each picture by a Reshape, which the layer does by itself.
    before = x.creator_node
    if type(before).__name__ == "Reshape" and before.inputs[0].shape[0] == x.shape[0]:
        r.keep_values(before)
        x = before.inputs[0]
    params.update(source=r.get_source_name(x), n_out=len(kernel))
    return params, {"kernel": kernel, "bias": bias}


def concat(r: Any, f: Any, params: Params) -> Result:
    axis = f.axis % len(f.inputs[0].shape)
    if axis == 0:
        raise DumpError("axis=0 is the batch")
    params.update(sources=[r.get_source_name(x) for x in f.inputs], axis=axis - 1)
    return params, None


def reshape(r: Any, f: Any, params: Params) -> Result:
    x, y = f.inputs[0], f.outputs[0]()
    if x.shape[0] != y.shape[0]:
        raise DumpError(f"{x.shape} to {y.shape} changes the first axis, which is the batch")
    params.update(type="Reshape", source=r.get_source_name(x), shape=y.shape[1:])
    return params, None


def transpose(r: Any, f: Any, params: Params) -> Result:
    ndim = len(f.inputs[0].shape)
    axes = range(ndim)[::-1] if f.axes is None else [axis % ndim for axis in f.axes]
    if axes[0] != 0:
        raise DumpError(f"axes={tuple(axes)} move the batch, axis 0")
    params["axes"] = [axis - 1 for axis in axes[1:]]
    return one_source(r, f, params)


def broadcast_sources(r: Any, f: Any) -> list:
    """Sources of a function that broadcasts its inputs."""
    y = f.outputs[0]()
    names = []
    for i, x in enumerate(f.inputs):
        if r.depends_on_input(x):
            if len(x.shape) != len(y.shape):
                raise DumpError(
                    f"input {i} has shape {x.shape}, the result {y.shape}: give it axes of size "
                    "1 behind the batch, so that the batch stays first"
                )
            names.append(r.get_source_name(x))
        else:
            # An axis may only shrink where another input gives the result its size.
            whole = any(o.shape == y.shape for o in f.inputs if o is not x)
            names.append(r.get_source_name(x, len(y.shape), shrink=whole))
    return names


def elementwise(r: Any, f: Any, params: Params) -> Result:
    params["sources"] = broadcast_sources(r, f)
    return params, None


def constant_elementwise(r: Any, f: Any, params: Params) -> Result:
    value = np.asarray(f.value)
    if value.size != 1:
        raise DumpError(f"a constant of shape {value.shape}; write it as an array of the graph")
    if type(f).__name__ == "DivFromConstant" and value == 1:
        return unary("recip")(r, f, params)
    # Chainer computes with the constant in the variable's type.
    value = value.astype(f.inputs[0].dtype).reshape(1)
    params, _ = one_source(r, f, params)
    return params, {"constant": value}


def unary(operation: str) -> Any:
    def dump(r: Any, f: Any, params: Params) -> Result:
        params.update(type="Unary", operation=operation)
        return one_source(r, f, params)

    return dump


def matmul(r: Any, f: Any, params: Params) -> Result:
    a, b = f.inputs
    if f.transc or f.dtype is not None:
        raise DumpError(f"transc={f.transc}, dtype={f.dtype}: neither has a place in the format")
    if len(a.shape) < 3 or len(a.shape) != len(b.shape):
        raise DumpError(
            f"shapes {a.shape} and {b.shape}: both need a batch axis before the matrices' two; "
            "a product with a constant matrix is F.linear"
        )
    params.update(
        sources=[r.get_source_name(a), r.get_source_name(b)],
        transa=bool(f.transa),
        transb=bool(f.transb),
    )
    return params, None


def broadcast_to(r: Any, f: Any, params: Params) -> Result:
    x, y = f.inputs[0], f.outputs[0]()
    if len(x.shape) != len(y.shape):
        raise DumpError(f"{x.shape} to {y.shape}: the batch would no longer be the first axis")
    params.update(in_shape=x.shape[1:], out_shape=y.shape[1:])
    return one_source(r, f, params)


def _resize(r: Any, f: Any, params: Params) -> Result:
    _, channels, height, width = f.inputs[0].shape
    params.update(
        n_channels=channels, input_hw=[height, width], output_hw=[int(f.out_H), int(f.out_W)]
    )
    return one_source(r, f, params)


def resize_images(r: Any, f: Any, params: Params) -> Result:
    # Chainer 7 only; left out where they are what the format always meant.
    if getattr(f, "mode", "bilinear") != "bilinear":
        params["mode"] = f.mode
    if not getattr(f, "align_corners", True):
        params["align_corners"] = False
    return _resize(r, f, params)


def get_item(r: Any, f: Any, params: Params) -> Result:
    x = f.inputs[0]
    slices = list(f.slices)
    for s in slices:
        if not (s is Ellipsis or isinstance(s, (slice, int, np.integer))):
            what = "a new axis" if s is None else f"an index of type {type(s).__name__}"
            raise DumpError(f"{what} in x[...]; use reshape() or slices")
    if sum(s is Ellipsis for s in slices) > 1:
        raise DumpError("more than one ellipsis in x[...]")
    everything = slice(None)
    if Ellipsis in slices:
        at = slices.index(Ellipsis)
        slices[at : at + 1] = [everything] * (len(x.shape) - len(slices) + 1)
    slices += [everything] * (len(x.shape) - len(slices))
    batch = slices[0]
    if not isinstance(batch, slice) or batch.indices(x.shape[0]) != (0, x.shape[0], 1):
        raise DumpError("x[...] takes a part of axis 0, which is the batch")
    params["slices"] = [
        [s.start, s.stop, s.step] if isinstance(s, slice) else int(s) for s in slices[1:]
    ]
    return one_source(r, f, params)


def split_axis(r: Any, f: Any, params: Params) -> Result:
    """One GetItem for each part."""
    x = f.inputs[0]
    axis = f.axis % len(x.shape)
    if axis == 0:
        raise DumpError("axis=0 is the batch")
    sections = getattr(f, "indices_or_sections", None)
    if sections is None:
        sections = f.sections if f.indices is None else f.indices
    size = x.shape[axis]
    if np.ndim(sections) == 0:
        stops = [size // int(sections) * (i + 1) for i in range(int(sections))]
    else:
        stops = [int(i) for i in sections] + [size]
    source, parts = r.get_source_name(x), []
    for i, (start, stop) in enumerate(zip([0] + stops, stops)):
        slices = [[None, None, None] for _ in range(len(x.shape) - 1)]
        slices[axis - 1] = [start, stop, None]
        part = {
            **params,
            "type": "GetItem",
            "name": f"{params['name']}.{i}",
            "output_names": [params["output_names"][i]],
            "source": source,
            "slices": slices,
        }
        parts.append((part, None))
    return parts


def where(r: Any, f: Any, params: Params) -> Result:
    y = f.outputs[0]()
    whole = any(x.shape == y.shape for x in f.inputs)
    condition = r.condition_name(f.condition, len(y.shape), shrink=whole)
    params["sources"] = [condition, *broadcast_sources(r, f)]
    return params, None


def arg_max(r: Any, f: Any, params: Params) -> Result:
    x = f.inputs[0]
    axis = None if f.axis is None else f.axis % len(x.shape)
    if not axis:
        raise DumpError(f"axis={f.axis} has the batch in it")
    if axis != 1:
        params["axis"] = axis - 1
    params["shape"] = x.shape[1:]
    return one_source(r, f, params)


def _sum(f: Any, params: Params, source: str) -> None:
    """The keys of a Sum over a function's axes."""
    x = f.inputs[0]
    axes = sorted(axis % len(x.shape) for axis in f.axis or range(len(x.shape)))
    if axes[0] == 0:
        raise DumpError(f"axis={f.axis} has the batch in it")
    if axes != [1]:
        params["axis"] = [axis - 1 for axis in axes]
    if f.keepdims:
        params["keepdims"] = True
    params.update(type="Sum", source=source, shape=x.shape[1:])


def sum_(r: Any, f: Any, params: Params) -> Result:
    _sum(f, params, r.get_source_name(f.inputs[0]))
    return params, None


def mean(r: Any, f: Any, params: Params) -> Any:
    """Chainer 7's own function: a sum and a product, as in Chainer 5."""
    x, y = f.inputs[0], f.outputs[0]()
    total = {**params, "name": f"{params['name']}.sum", "output_names": [f"{params['name']}.sum"]}
    _sum(f, total, r.get_source_name(x))
    params.update(type="MulConstant", source=total["name"])
    factor = np.prod(y.shape) / np.prod(x.shape)
    return [(total, None), (params, {"constant": np.float32([factor])})]


def shift(r: Any, f: Any, params: Params) -> Result:
    params.update(kw=f.kw, kh=f.kh, dx=f.dx, dy=f.dy)
    return one_source(r, f, params)


def directed_pooling(r: Any, f: Any, params: Params) -> Result:
    params["dir"] = f.dir
    return one_source(r, f, params)


BUILT_IN = {
    **MORE,
    "Convolution2DFunction": convolution,
    "Deconvolution2DFunction": deconvolution,
    "FixedBatchNormalization": batch_normalization,
    "BatchNormalization": training_only,
    "Dropout": training_only,
    "LocalResponseNormalization": local_response_normalization,
    "ReLU": one_source,
    "Sigmoid": one_source,
    "Tanh": one_source,
    "LeakyReLU": leaky_relu,
    "Softmax": softmax,
    "MaxPooling2D": pooling,
    "MaxPoolingND": pooling,
    "AveragePooling2D": pooling,
    "AveragePoolingND": pooling,
    "LinearFunction": linear,
    "Concat": concat,
    "Copy": one_source,
    "Reshape": reshape,
    "Squeeze": reshape,
    "Flatten": reshape,
    "ExpandDims": reshape,
    "Transpose": transpose,
    "Add": elementwise,
    "Sub": elementwise,
    "Mul": elementwise,
    "Div": elementwise,
    "Maximum": elementwise,
    "Minimum": elementwise,
    "LinearInterpolate": elementwise,
    "AddConstant": constant_elementwise,
    "MulConstant": constant_elementwise,
    "SubFromConstant": constant_elementwise,
    "DivFromConstant": constant_elementwise,
    "Exp": unary("exp"),
    "Log": unary("log"),
    "Sqrt": unary("sqrt"),
    "Absolute": unary("abs"),
    "Neg": unary("neg"),
    "MatMul": matmul,
    "BroadcastTo": broadcast_to,
    "ResizeImages": resize_images,
    "ResizeArgmax": _resize,
    "GetItem": get_item,
    "SplitAxis": split_axis,
    "Where": where,
    "ArgMax": arg_max,
    "Sum": sum_,
    "Mean": mean,
    "Shift": shift,
    "DirectedPooling": directed_pooling,
    "CornerPooling": directed_pooling,
}
