"""The intermediate format: layers and tensors in, a directory out.

Knows nothing of a framework. Shapes in ``model.json`` leave the batch axis out; tensors on
disk keep it.
"""

import json
import os
import re
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

RANK_INPUT = -2
RANK_CONSTANT = -1


class DumpError(ValueError):
    """The network cannot be described in the format; the message says which part and why."""


def to_float(array: Any, what: str) -> np.ndarray:
    """The array in an element type that the format has: float16 stays, all others become
    float32. A file records the size of an element only, so that nothing else can be read back.

    Raises :class:`DumpError` where float32 cannot hold the values.
    """
    array = np.asarray(array)
    if array.dtype == np.float16 or array.dtype == np.float32:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.float32)
    if array.dtype.kind in "iu":
        result = array.astype(np.float32)
        if not np.array_equal(result.astype(np.float64), array.astype(np.float64)):
            raise DumpError(
                f"{what}: {array.dtype} values above 2**24 are not exact in float32, the "
                "format's widest type"
            )
        return result
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            result = array.astype(np.float32)
        if np.isinf(result).any() and not np.isinf(array).any():
            raise DumpError(f"{what}: {array.dtype} values do not fit into float32")
        return result
    raise DumpError(f"{what}: element type {array.dtype} has no place in the format")


def write_tensor(path: str, array: Any) -> None:
    """Writes one tensor: a line with the element's size in bytes, a line with the shape, the
    elements in C order, little-endian. A tensor without axes is written with shape 1."""
    array = to_float(array, os.path.basename(path))
    if array.ndim == 0:
        array = array.reshape(1)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    with open(path, "wb") as file:
        file.write(f"{array.dtype.itemsize}\n".encode())
        file.write((",".join(str(n) for n in array.shape) + "\n").encode())
        file.write(np.ascontiguousarray(little).tobytes())


def read_tensor(path: str) -> np.ndarray:
    """Reads what :func:`write_tensor` wrote."""
    with open(path, "rb") as file:
        size = int(file.readline())
        line = file.readline().strip()
        shape = tuple(int(n) for n in line.split(b",")) if line else ()
        dtype = {2: "<f2", 4: "<f4"}[size]
        array = np.frombuffer(file.read(), dtype)
    return array.reshape(shape)


def constant(array: Any, ndim: int, shrink: bool) -> np.ndarray:
    """A constant as the format has it: with axes of size 1 in front until there are ``ndim``,
    the first one being the batch, of size 1. ``shrink`` also gives size 1 to axes along which
    it repeats itself, for functions that broadcast.

    Raises :class:`DumpError` where the pictures of a batch have different values.
    """
    array = np.asarray(array)
    array = array.reshape((1,) * (max(ndim, 1) - array.ndim) + array.shape)
    if array.shape[0] != 1:
        if not (array == array[:1]).all():
            raise DumpError(
                f"a constant of shape {array.shape} has another value for each picture of the "
                "batch; the batch is not part of a dump"
            )
        array = array[:1]
    for axis in range(1, array.ndim) if shrink else ():
        first = array.take([0], axis)
        if (array == first).all():
            array = first
    return array


def plain(value: Any) -> Any:
    """Numbers of NumPy and tuples as JSON has them."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray) and value.ndim == 0 or isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise DumpError(f"model.json: {value} is no JSON number")
        return value
    raise DumpError(f"model.json: a value of type {type(value).__name__} is no JSON value")


class Dump:
    """A dump under construction. Nothing but the directory is made before :meth:`save`."""

    def __init__(self, path: Any, verbose: bool = False) -> None:
        self.path = os.fspath(path)
        self.verbose = verbose
        os.makedirs(self.path, exist_ok=True)
        self._inputs: Dict[str, Dict[str, Any]] = {}
        self._layers: List[Dict[str, Any]] = []
        self._outputs: List[Tuple[str, str]] = []
        self._files: Dict[str, np.ndarray] = {}

    def add_input(self, name: str, shape: Sequence[int], example: Any = None) -> None:
        """Adds an input. ``shape`` has no batch axis."""
        layer = self._leaf("input", name, RANK_INPUT, shape)
        if self.verbose and example is not None:
            layer["input_tensor"] = self._file(f"{name}.tensor", example)
        self._inputs[name] = layer

    def add_constant(self, array: Any, name: str) -> None:
        """Adds a constant whose first axis, of size 1, is the batch."""
        layer = self._leaf("ConstantInput", name, RANK_CONSTANT, np.shape(array)[1:])
        layer["input_tensor"] = self._file(f"{name}.tensor", array)
        self._layers.append(layer)

    def _leaf(self, kind: str, name: str, rank: int, shape: Iterable[int]) -> Dict[str, Any]:
        return {
            "type": kind,
            "name": name,
            "output_names": [name],
            "rank": rank,
            "shape": [int(n) for n in shape],
        }

    def add_layer(self, params: Dict[str, Any], weights: Optional[Mapping[str, Any]]) -> None:
        """Adds a layer: ``params`` with type, name, rank, output_names, source or sources;
        ``weights`` by key, each in a file of its own. A weight that is None has no file."""
        params = dict(params)
        for key, array in (weights or {}).items():
            if array is not None:
                file = self._file(f"{params['name']}_{key}.weights", array)
                params[f"{key}_weights_file"] = file
        self._layers.append(params)

    def add_example(self, tensor: str, array: Any) -> str:
        """Keeps a layer's output (verbose mode); gives the file's name."""
        return self._file(f"{tensor}_output.tensor", array)

    def add_output(self, tensor: str, name: str) -> None:
        """Marks a tensor as an output of the network, under a name."""
        for old_tensor, old_name in self._outputs:
            if old_name == name:
                raise DumpError(f"two outputs are named '{name}'; give each a name of its own")
            if old_tensor == tensor:
                raise DumpError(
                    f"tensor {tensor} is an output already, named '{old_name}'; it cannot have "
                    f"the name '{name}' too"
                )
        self._outputs.append((tensor, name))

    def _file(self, name: str, array: Any) -> str:
        """Keeps an array to be written; the name is made fit for every file system."""
        stem, dot, suffix = name.rpartition(".")
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", stem)
        file, n = f"{stem}{dot}{suffix}", 1
        while file in self._files:
            file, n = f"{stem}~{n}{dot}{suffix}", n + 1
        self._files[file] = to_float(array, name)
        return file

    def document(self) -> Dict[str, Any]:
        """What ``model.json`` will hold.

        Raises :class:`DumpError` for a dump that could not be built: no outputs, two tensors
        of one name, a source that no layer makes.
        """
        if not self._outputs:
            raise DumpError("nothing to dump: no output was given")
        layers = [*self._inputs.values(), *sorted(self._layers, key=lambda p: p["rank"])]
        made: Dict[str, str] = {}
        for layer in layers:
            for tensor in layer["output_names"]:
                if tensor in made:
                    raise DumpError(
                        f"tensor name '{tensor}' is used by {made[tensor]} and {layer['name']}; "
                        "rename the input"
                    )
                made[tensor] = layer["name"]
        for layer in layers:
            sources = layer.get("sources", [layer["source"]] if "source" in layer else [])
            for source in sources:
                if source not in made:
                    raise DumpError(
                        f"layer {layer['name']} ({layer['type']}) reads '{source}', which no "
                        "layer makes; its dump function must name sources by get_source_name()"
                    )
        for tensor, name in self._outputs:
            if tensor not in made:
                raise DumpError(f"output '{name}' is tensor '{tensor}', which no layer makes")
        return plain({
            "inputs": list(self._inputs),
            "outputs": [[tensor, name] for tensor, name in self._outputs],
            "layers": layers,
        })

    def save(self) -> None:
        """Writes the tensors, then ``model.json``, which is replaced in one step."""
        document = self.document()
        for name, array in self._files.items():
            write_tensor(os.path.join(self.path, name), array)
        target = os.path.join(self.path, "model.json")
        with open(target + ".part", "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2 if self.verbose else None, allow_nan=False)
            file.write("\n")
        os.replace(target + ".part", target)
