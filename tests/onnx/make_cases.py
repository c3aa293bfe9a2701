"""Writes the cases of the onnx package's own backend test where `onnx-cases` finds them.

    python3 -m venv /tmp/onnx-venv && /tmp/onnx-venv/bin/pip install -r tests/onnx/requirements.txt
    /tmp/onnx-venv/bin/python tests/onnx/make_cases.py target/onnx-cases
    cargo run --release -p conformance --bin onnx-cases -- target/onnx-cases

Two kinds: `node`, which the package computes, and `pytorch`, the converted PyTorch layers that
lie in it. One folder a case: model.onnx, input_I.npy, output_I.npy, and shapes.tsv where an input's
first axis has size 0, which the importer takes as the batch unless it is told. Operands that decide a
shape, a place or a type (a Reshape's shape, a Slice's starts, ...) become constants: all three are
static. So do scales and zero points of quantised tensors, and a quantised convolution's weights.
cases.tsv lists every case: name, kind, opset, operators, element types, and why it was not
written.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

STATIC = {
    "Reshape": [1], "Slice": [1, 2, 3, 4], "Pad": [1, 2, 3], "Resize": [1, 2, 3],
    "Upsample": [1], "Tile": [1], "Expand": [1], "TopK": [1], "Squeeze": [1],
    "Unsqueeze": [1], "Split": [1], "ConstantOfShape": [0], "Range": [0, 1, 2],
    "Dropout": [1, 2], "ReduceMean": [1], "ReduceSum": [1], "ReduceMax": [1],
    "ReduceMin": [1], "ReduceProd": [1], "ReduceL1": [1], "ReduceL2": [1],
    "ReduceSumSquare": [1], "ReduceLogSum": [1], "ReduceLogSumExp": [1],
    "NonZero": [0], "Trilu": [1], "If": [0], "CastLike": [1], "OneHot": [1], "Scatter": [1],
    "ScatterElements": [1], "ScatterND": [1], "CumSum": [1], "CumProd": [1],
    "QuantizeLinear": [1, 2], "DequantizeLinear": [1, 2], "QLinearConv": [1, 2, 3, 4, 5, 6, 7],
    "QLinearMatMul": [1, 2, 4, 5, 6, 7],
}
# What NumPy can store.
STORED = ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = []
    for name, kind, model, inputs, outputs in cases():
        reason = write(folder / name, model, inputs, outputs)
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        columns = (name, kind, str(opset), ",".join(operators(model.graph)), ",".join(types(model.graph)), reason)
        lines.append("\t".join(columns) + "\n")
    (folder / "cases.tsv").write_text("".join(lines))
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{folder}: {len(lines)} cases, {size / 1e6:.1f} MB")


def cases() -> Iterator[tuple[str, str, onnx.ModelProto, Sequence, Sequence]]:
    """Every case: name, kind, model, and the values of its first data set."""
    from onnx.backend.test.case.node import collect_testcases
    from onnx.backend.test.loader import DATA_DIR

    for case in sorted(collect_testcases(None), key=lambda c: c.name):
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        yield case.name, "node", model, *case.data_sets[0]
    for path in sorted(Path(DATA_DIR, "pytorch-converted").glob("*/model.onnx")):
        data = path.parent / "test_data_set_0"

        def values(which: str) -> list[np.ndarray]:
            count = len(list(data.glob(f"{which}_*.pb")))
            return [numpy_helper.to_array(onnx.load_tensor(data / f"{which}_{i}.pb")) for i in range(count)]

        yield path.parent.name, "pytorch", onnx.load(path), values("input"), values("output")


def subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from subgraphs(inner)


def operators(graph: onnx.GraphProto) -> list[str]:
    """The operators in it, those of other domains with their domain; constants are none."""
    nodes = [n for g in subgraphs(graph) for n in g.node]
    named = {(f"{n.domain}." if n.domain not in ("", "ai.onnx") else "") + n.op_type for n in nodes}
    return sorted(named - {"Constant"}) or sorted(named)


def types(graph: onnx.GraphProto) -> list[str]:
    """Element types of inputs, outputs and weights, and of what a Cast gives."""
    found = set()
    for value in [*graph.input, *graph.output]:
        kind = value.type.WhichOneof("value")
        found.add(value.type.tensor_type.elem_type if kind == "tensor_type" else kind)
    found.update(t.data_type for t in graph.initializer)
    for node in (n for g in subgraphs(graph) for n in g.node):
        found.update(a.i for a in node.attribute if a.name in ("to", "dtype") and a.i)
    known = onnx.TensorProto.DataType
    return sorted(t.replace("_type", "") if isinstance(t, str) else known.Name(t).lower() for t in found)


def write(folder: Path, model: onnx.ModelProto, inputs: Sequence, outputs: Sequence) -> str:
    """Writes a case and returns an empty text, or why it cannot be written."""
    def array(value):
        return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value

    inputs, outputs = [array(v) for v in inputs], [array(v) for v in outputs]
    for value in [*inputs, *outputs]:
        if not isinstance(value, (np.ndarray, np.generic)):
            return "a value is no tensor"
        if value.dtype.name not in STORED:
            return f"element type {value.dtype.name}"
    weights = {t.name for t in model.graph.initializer}
    names = [i.name for i in model.graph.input if i.name not in weights]
    if len(names) != len(inputs):
        return "inputs that are left out"
    static = set()
    for node in model.graph.node:
        for i in STATIC.get(node.op_type, []):
            if i < len(node.input):
                static.add(node.input[i])
    kept = []
    empty = []
    for name, value in zip(names, inputs):
        if name in static:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
            entry = next(i for i in model.graph.input if i.name == name)
            model.graph.input.remove(entry)
        else:
            kept.append(np.asarray(value))
            if np.shape(value)[:1] == (0,):
                empty.append("\t".join([name, *map(str, np.shape(value))]) + "\n")
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    if empty:
        (folder / "shapes.tsv").write_text("".join(empty))
    for kind, values in (("input", kept), ("output", outputs)):
        for i, value in enumerate(values):
            np.save(folder / f"{kind}_{i}.npy", np.ascontiguousarray(value).reshape(np.shape(value)))
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
