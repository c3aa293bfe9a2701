"""Normalizations and softmax."""

import math
from typing import Any, Callable

import numpy as np

from ..dump import DumpError
from .call import Call, binary, shape_of


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
            y = c.op(binary(kind), y, "@" + key, weights={key: value})
    return y


def softmax(log: bool) -> Callable[[Call], Any]:
    def dump(c: Call) -> Any:
        axis = c.axis(c["dim"])
        if log:
            return c.op({"softmax": {"axis": axis, "log": True}}, c.source())
        return c.emit("Softmax", c.source(), **({"axis": axis - 1} if axis != 1 else {}))

    return dump
