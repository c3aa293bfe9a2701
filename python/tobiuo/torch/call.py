"""One operator of an exported graph, and the layers it becomes."""

from typing import Any, Dict, List, Optional

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


def binary(kind: str) -> Any:
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


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
