"""Activations, arithmetic and reductions."""

from typing import Any, Callable, List

import numpy as np

from ..dump import DumpError
from .call import Call, binary, is_number, operands, shape_of


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


def elementwise(kind: str, constant: Any = None, reverse: bool = False) -> Callable[[Call], Any]:
    """``Add``, ``Sub``... of two tensors; ``constant`` gives the layer, and the number in it,
    for a tensor and a number."""

    def dump(c: Call) -> Any:
        a, b = c.node.args[:2]
        if c.get("rounding_mode"):
            raise DumpError("division that rounds is not supported")
        alpha = c.get("alpha", 1)
        if is_number(b) and constant is not None:
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
        return c.op(binary(kind), *operands(c, *c.node.args[:2]))

    return dump


def logical(kind: str) -> Callable[[Call], Any]:
    def dump(c: Call) -> Any:
        nodes = [c.x] if kind == "not" else c.node.args[:2]
        if any(str(n.meta["val"].dtype) != "torch.bool" for n in nodes if hasattr(n, "meta")):
            raise DumpError("of bits; only truth values are supported")
        return c.op({"unary": "not"} if kind == "not" else binary(kind), *operands(c, *nodes))

    return dump


def power(c: Call) -> Any:
    exponent = c["exponent"]
    if exponent == 2:
        return c.emit("Mul", c.source(), c.source())
    if exponent in (0.5, -1):
        return c.emit("Unary", c.source(), operation="sqrt" if exponent == 0.5 else "recip")
    return c.op(binary("pow"), *operands(c, c.x, exponent))


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
