"""Convolutions, matrix products and attention."""

import math
from typing import Any, Optional

import numpy as np

from ..dump import DumpError
from .call import Call, binary, pair, shape_of
from .pictures import padded


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
            source = padded(c, source, [0, 0, 0, 0], [0, 0, total[0] % 2, total[1] % 2], 0.0)
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
    return y if bias is None else c.op(binary("add"), y, "@bias", weights={"bias": bias})


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
