"""Writes the onnx package's own node test cases where the test `onnx_node` finds them.

    pip install onnx numpy
    python builder/tests/golden/export_node_cases.py /tmp/onnx-node
    TOBIUO_ONNX_NODE=/tmp/onnx-node cargo test --release -p tobiuo-builder --test onnx_node \
        -- --ignored --nocapture

One folder a case: model.onnx, input_I.npy, output_I.npy. Operands that decide a shape (a
Reshape's shape, a Slice's starts, ...) become constants, because Tobiuo's shapes are static.
cases.tsv lists every case of the package: name, operator, and why it was not written.
"""

import sys
import warnings
from pathlib import Path

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
    "NonZero": [0], "Trilu": [1], "If": [0],
}
STORED = ("float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool")


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    from onnx.backend.test.case.node import collect_testcases

    lines = []
    for case in sorted(collect_testcases(None), key=lambda c: c.name):
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        nodes = model.graph.node
        op = nodes[0].op_type if len(nodes) == 1 else f"({len(nodes)} nodes)"
        # The expanded cases spell an operator out by its function body: the body's operators
        # are what is tested.
        if "_expanded" in case.name:
            op = "(function bodies)"
        reason = write(folder / case.name, model, case.data_sets[0])
        lines.append(f"{case.name}\t{op}\t{reason}\n")
    (folder / "cases.tsv").write_text("".join(lines))


def write(folder: Path, model: onnx.ModelProto, data) -> str:
    """Writes a case and returns an empty text, or why it cannot be written."""
    inputs, outputs = data
    for value in [*inputs, *outputs]:
        if not isinstance(value, (np.ndarray, np.generic)):
            return "a value is no tensor"
        if value.dtype.name not in STORED:
            return f"element type {value.dtype.name}"
    names = [i.name for i in model.graph.input]
    if len(names) != len(inputs):
        return "inputs that are left out"
    static = set()
    for node in model.graph.node:
        for i in STATIC.get(node.op_type, []):
            if i < len(node.input):
                static.add(node.input[i])
    kept = []
    for name, value in zip(names, inputs):
        if name in static:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
            entry = next(i for i in model.graph.input if i.name == name)
            model.graph.input.remove(entry)
        else:
            kept.append(np.asarray(value))
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    for kind, values in (("input", kept), ("output", outputs)):
        for i, value in enumerate(values):
            np.save(folder / f"{kind}_{i}.npy", np.ascontiguousarray(value).reshape(np.shape(value)))
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
