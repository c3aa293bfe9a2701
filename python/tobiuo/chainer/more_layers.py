"""Functions that chainer-trt never knew: as layers that it had, or as the builder's own
operators (``TobiuoOp`` layers, whose axes count the batch)."""

from typing import Any, Dict, List, Tuple

import numpy as np

from ..dump import DumpError

Params = Dict[str, Any]
Layers = List[Tuple[Params, Any]]


def operator(op: Any, **weights: Any) -> Any:
    """The first input and some weights through one of the builder's operators."""

    def dump(r: Any, f: Any, params: Params) -> Tuple[Params, Any]:
        return _operator(r, f, params, op, weights)

    return dump


def _operator(r: Any, f: Any, params: Params, op: Any, weights: Any = None) -> Tuple[Params, Any]:
    source = r.get_source_name(f.inputs[0])
    params.update(type="TobiuoOp", source=source, op=op)
    if weights:
        params["operands"] = [source, *("@" + key for key in weights)]
    return params, weights or None


class Chain:
    """Several layers in a row for one function; the last one has its name."""

    def __init__(self, params: Params) -> None:
        self._params, self._layers = params, []

    def add(self, kind: str, *sources: str, weights: Any = None, **more: Any) -> str:
        name = f"{self._params['name']}.{len(self._layers)}"
        where = {"source": sources[0]} if len(sources) == 1 else {"sources": list(sources)}
        layer = {**self._params, "type": kind, "name": name, "output_names": [name]}
        self._layers.append(({**layer, **where, **more}, weights))
        return name

    def done(self) -> Layers:
        last = self._layers[-1][0]
        last.update(name=self._params["name"], output_names=self._params["output_names"])
        return self._layers


def activation(op: Any) -> Any:
    return operator({"activation": op})


def elu(r: Any, f: Any, params: Params) -> Any:
    return _operator(r, f, params, {"activation": {"elu": {"alpha": float(f.alpha)}}})


def clip(low: str, high: str) -> Any:
    """Between two attributes of the function; no attribute is 0."""

    def dump(r: Any, f: Any, params: Params) -> Any:
        bounds = [getattr(f, name) if name else 0 for name in (low, high)]
        bounds = {key: float(b) for key, b in zip(("min", "max"), bounds) if b is not None}
        bounds = {"min": "-inf", "max": "inf", **bounds}
        return _operator(r, f, params, {"activation": {"clip": bounds}})

    return dump


def softplus(r: Any, f: Any, params: Params) -> Any:
    if f.beta != 1:
        raise DumpError(f"beta={f.beta}; 1 is supported")
    return _operator(r, f, params, {"activation": "softplus"})


def log_softmax(r: Any, f: Any, params: Params) -> Any:
    axis = f.axis % len(f.inputs[0].shape)
    if axis == 0:
        raise DumpError("axis=0 is the batch")
    return _operator(r, f, params, {"softmax": {"axis": axis, "log": True}})


def prelu(r: Any, f: Any, params: Params) -> Any:
    slope = r.weight(f.inputs[1], "slope")
    slope = slope.reshape(slope.shape + (1,) * (len(f.inputs[0].shape) - 1 - slope.ndim))
    return _operator(r, f, params, "p_relu", {"slope": slope})


def swish(r: Any, f: Any, params: Params) -> Any:
    """``x * sigmoid(beta * x)``"""
    beta = r.weight(f.inputs[1], "beta")
    beta = beta.reshape(beta.shape + (1,) * (len(f.inputs[0].shape) - 1 - beta.ndim))
    source, chain = r.get_source_name(f.inputs[0]), Chain(params)
    op = {"binary": {"kind": "mul", "activation": "sigmoid"}}
    gate = chain.add(
        "TobiuoOp", source, op=op, operands=[source, "@beta"], weights={"beta": beta}
    )
    chain.add("Mul", source, gate)
    return chain.done()


def power(r: Any, f: Any, params: Params) -> Any:
    source = r.get_source_name(f.inputs[0])
    if f.value == 2:
        params.update(type="Mul", sources=[source, source])
        return params, None
    op = {"binary": {"kind": "pow", "activation": None}}
    return _operator(r, f, params, op, {"exponent": np.float32([f.value])})


def square(r: Any, f: Any, params: Params) -> Any:
    source = r.get_source_name(f.inputs[0])
    params.update(type="Mul", sources=[source, source])
    return params, None


def reduction(kind: str) -> Any:
    def dump(r: Any, f: Any, params: Params) -> Any:
        ndim = len(f.inputs[0].shape)
        axes = sorted(axis % ndim for axis in (range(ndim) if f.axis is None else f.axis))
        if axes[0] == 0:
            raise DumpError(f"axis={f.axis} has the batch in it")
        op = {"kind": kind, "axes": axes, "keep_dims": bool(f.keepdims)}
        return _operator(r, f, params, {"reduce": op})

    return dump


def pad(r: Any, f: Any, params: Params) -> Any:
    ndim = len(f.inputs[0].shape)
    width = np.broadcast_to(np.asarray(f.pad_width), (ndim, 2)).tolist()
    value = np.asarray(f.keywords.get("constant_values", 0))
    if f.mode != "constant" or value.size != 1 or set(f.keywords) - {"constant_values"}:
        raise DumpError(f"mode={f.mode}, {f.keywords}: padding with one number is supported")
    if width[0] != [0, 0]:
        raise DumpError(f"pad_width={f.pad_width} pads the batch")
    begins, ends = zip(*width)
    mode = {"constant": {"value": float(value)}}
    return _operator(r, f, params, {"pad": {"begins": begins, "ends": ends, "mode": mode}})


def cast(r: Any, f: Any, params: Params) -> Any:
    before, after = np.dtype(f.inputs[0].dtype), np.dtype(f.type)
    if before.kind != "f" or after.kind != "f":
        raise DumpError(f"from {before} to {after}; an engine computes in one type")
    params.update(type="Copy", source=r.get_source_name(f.inputs[0]))
    return params, None


def unpooling(r: Any, f: Any, params: Params) -> Any:
    """With windows side by side: each pixel repeated."""
    _, channels, height, width = f.inputs[0].shape
    out = f.outputs[0]().shape[2:]
    if (f.kh, f.kw, f.ph, f.pw) != (f.sy, f.sx, 0, 0) or out != (height * f.kh, width * f.kw):
        raise DumpError(
            f"ksize {f.kh, f.kw}, stride {f.sy, f.sx}, pad {f.ph, f.pw}, output {out}: windows "
            "side by side (cover_all=False) are supported"
        )
    params.update(type="ResizeImages", source=r.get_source_name(f.inputs[0]), mode="nearest",
                  n_channels=channels, input_hw=[height, width], output_hw=out)
    return params, None


def shuffle(to_space: bool) -> Any:
    """Depth2Space and Space2Depth; the channels' blocks are their outermost part."""

    def dump(r: Any, f: Any, params: Params) -> Any:
        _, c, h, w = (f.outputs[0]() if to_space else f.inputs[0]).shape
        chain = Chain(params)
        source, k = r.get_source_name(f.inputs[0]), f.r
        split, axes = ([k, k, c, h // k, w // k], [2, 3, 0, 4, 1]) if to_space else (
            [c, h // k, k, w // k, k], [2, 4, 0, 1, 3])
        y = chain.add("Reshape", source, shape=split)
        y = chain.add("Transpose", y, axes=axes)
        chain.add("Reshape", y, shape=f.outputs[0]().shape[1:])
        return chain.done()

    return dump


def moved_axes(r: Any, f: Any, params: Params) -> Any:
    """Functions that permute the axes, found by letting them permute a shape."""
    ndim = len(f.inputs[0].shape)
    with_sizes = np.empty(range(2, ndim + 2), np.bool_)
    axes = [size - 2 for size in f.forward((with_sizes,))[0].shape]
    if axes[0] != 0:
        raise DumpError(f"it moves the batch, axis 0: {tuple(axes)}")
    params.update(type="Transpose", axes=[axis - 1 for axis in axes[1:]],
                  source=r.get_source_name(f.inputs[0]))
    return params, None


def stack(r: Any, f: Any, params: Params) -> Any:
    shape = f.outputs[0]().shape
    axis = f.axis % len(shape)
    if axis == 0:
        raise DumpError("axis=0 is the batch")
    chain, one = Chain(params), [*shape[1:axis], 1, *shape[axis + 1 :]]
    parts = [chain.add("Reshape", r.get_source_name(x), shape=one) for x in f.inputs]
    chain.add("Concat", *parts, axis=axis - 1)
    return chain.done()


def multi_add(r: Any, f: Any, params: Params) -> Any:
    names = [r.get_source_name(x, len(f.outputs[0]().shape)) for x in f.inputs]
    chain = Chain(params)
    total = names[0]
    for name in names[1:]:
        total = chain.add("Add", total, name)
    return chain.done()


def normalize(r: Any, f: Any, params: Params) -> Any:
    """``x / (|x| + eps)``, the length taken over axes."""
    axes = [f.axis] if isinstance(f.axis, int) else list(f.axis)
    axes = sorted(axis % len(f.inputs[0].shape) for axis in axes)
    if axes[0] == 0:
        raise DumpError(f"axis={f.axis} has the batch in it")
    source, chain = r.get_source_name(f.inputs[0]), Chain(params)
    y = chain.add("Mul", source, source)
    y = chain.add("Sum", y, shape=f.inputs[0].shape[1:], axis=[a - 1 for a in axes], keepdims=True)
    y = chain.add("Unary", y, operation="sqrt")
    y = chain.add("AddConstant", y, weights={"constant": np.float32([f.eps])})
    chain.add("Div", source, y)
    return chain.done()


MORE = {
    "ELU": elu,
    "ClippedReLU": clip("", "cap"),
    "Clip": clip("x_min", "x_max"),
    "HardSigmoid": activation({"hard_sigmoid": {"alpha": 0.2, "beta": 0.5}}),
    "Softplus": softplus,
    "LogSoftmax": log_softmax,
    "PReLUFunction": prelu,
    "Swish": swish,
    "PowVarConst": power,
    "Square": square,
    "MultiAdd": multi_add,
    "Sin": operator({"unary": "sin"}),
    "Cos": operator({"unary": "cos"}),
    "Max": reduction("max"),
    "Min": reduction("min"),
    "Pad": pad,
    "Cast": cast,
    "Unpooling2D": unpooling,
    "Depth2Space": shuffle(to_space=True),
    "Space2Depth": shuffle(to_space=False),
    "Rollaxis": moved_axes,
    "Swapaxes": moved_axes,
    "Moveaxis": moved_axes,
    "Stack": stack,
    "NormalizeL2": normalize,
}
