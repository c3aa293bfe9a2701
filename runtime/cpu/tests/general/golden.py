"""Writes golden.json: cases of the onnx package's own backend tests, in Tobiuo's operators.

    pip install onnx==1.23.2 numpy
    python3 golden.py > golden.json

What a case expects is what the onnx package computed for it.
"""

import json
import sys

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases

REDUCTIONS = {
    "ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min",
    "ReduceProd": "prod", "ReduceL1": "l1", "ReduceL2": "l2",
    "ReduceSumSquare": "sum_square", "ReduceLogSum": "log_sum",
    "ReduceLogSumExp": "log_sum_exp",
}
TYPES = {"float32": "f32", "int64": "i64", "int32": "i32", "int8": "i8", "uint8": "u8",
         "bool": "bool"}


def resize(a, named, x):
    rank = x.ndim
    axes = [i % rank for i in a.get("axes", range(rank))]
    sizes, scales = list(x.shape), [1.0] * rank
    if named.get("sizes") is not None:
        asked = [int(s) for s in named["sizes"]]
        ratios = [s / x.shape[i] for s, i in zip(asked, axes)]
        policy = a.get("keep_aspect_ratio_policy", b"stretch").decode()
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(axes)
            asked = [int(ratio * x.shape[i] + 0.5) for i in axes]
        for i, s, ratio in zip(axes, asked, ratios):
            sizes[i], scales[i] = s, float(np.float32(ratio))
    else:
        for i, s in zip(axes, named["scales"]):
            sizes[i], scales[i] = int(np.floor(s * np.float32(x.shape[i]))), float(s)
    antialias = bool(a.get("antialias", 0))
    mode = a.get("mode", b"nearest").decode()
    if mode == "nearest":
        rounding = a.get("nearest_mode", b"round_prefer_floor").decode()
        mode = {"nearest": {"rounding": rounding}}
    elif mode == "linear":
        mode = {"linear": {"antialias": antialias}}
    else:
        mode = {"cubic": {"a": round(a.get("cubic_coeff_a", -0.75), 6),
                          "exclude_outside": bool(a.get("exclude_outside", 0)),
                          "antialias": antialias}}
    coordinates = a.get("coordinate_transformation_mode", b"half_pixel").decode()
    if coordinates == "tf_crop_and_resize":
        starts, ends = [0.0] * rank, [1.0] * rank
        roi = [float(v) for v in named["roi"]]
        for n, i in enumerate(axes):
            starts[i], ends[i] = roi[n], roi[len(axes) + n]
        coordinates = {"tf_crop_and_resize": {
            "starts": starts, "ends": ends,
            "extrapolation": a.get("extrapolation_value", 0.0)}}
    return {"resize": {"sizes": sizes, "scales": scales, "mode": mode,
                       "coordinates": coordinates}}


def pad(a, named, x):
    axes = [int(i) % x.ndim for i in named.get("axes", range(x.ndim))]
    begins, ends = [0] * x.ndim, [0] * x.ndim
    for n, i in enumerate(axes):
        begins[i], ends[i] = int(named["pads"][n]), int(named["pads"][len(axes) + n])
    mode = a.get("mode", b"constant").decode()
    if mode == "constant":
        value = named.get("constant_value")
        mode = {"constant": {"value": 0.0 if value is None else float(value)}}
    return {"pad": {"begins": begins, "ends": ends, "mode": mode}}


def convert(node, schema, inputs):
    """The operator and how many of the inputs are operands, or None."""
    a = {p.name: onnx.helper.get_attribute_value(p) for p in node.attribute}
    names = [p.name for p in schema.inputs]
    given = iter(inputs)
    named = {names[i]: next(given) for i, n in enumerate(node.input) if n and i < len(names)}
    x = inputs[0]
    kind = node.op_type
    if kind == "Resize":
        return resize(a, named, x), 1
    if kind == "Pad":
        return pad(a, named, x), 1
    if kind == "LRN":
        return {"lrn": {"size": a["size"], "alpha": round(a.get("alpha", 1e-4), 9),
                        "beta": round(a.get("beta", 0.75), 9), "bias": a.get("bias", 1.0)}}, 1
    if kind == "LayerNormalization" and len(inputs) == 3:
        return {"layer_norm": {"axis": a.get("axis", -1) % x.ndim,
                               "epsilon": round(a.get("epsilon", 1e-5), 9)}}, 3
    if kind == "InstanceNormalization":
        return {"instance_norm": {"epsilon": round(a.get("epsilon", 1e-5), 9)}}, 3
    if kind in ("Softmax", "LogSoftmax"):
        return {"softmax": {"axis": a.get("axis", -1) % x.ndim, "log": kind != "Softmax"}}, 1
    if kind in ("ArgMax", "ArgMin"):
        return {"arg_reduce": {"axis": a.get("axis", 0) % x.ndim, "min": kind == "ArgMin",
                               "keep_dims": bool(a.get("keepdims", 1)),
                               "select_last": bool(a.get("select_last_index", 0))}}, 1
    if kind == "TopK":
        return {"top_k": {"k": int(named["K"][0]), "axis": a.get("axis", -1) % x.ndim,
                          "largest": bool(a.get("largest", 1)), "sorted": True}}, 1
    if kind in REDUCTIONS:
        axes = [int(i) for i in (named.get("axes") if "axes" in named else a.get("axes", []))]
        if not axes and not a.get("noop_with_empty_axes", 0):
            axes = range(x.ndim)
        return {"reduce": {"kind": REDUCTIONS[kind], "axes": sorted(i % x.ndim for i in axes),
                           "keep_dims": bool(a.get("keepdims", 1))}}, 1
    if kind == "Mod":
        return {"binary": {"kind": "f_mod" if a.get("fmod", 0) else "mod",
                           "activation": None}}, 2
    if kind in ("Pow", "Div", "Max", "Min") and len(inputs) == 2:
        return {"binary": {"kind": kind.lower(), "activation": None}}, 2
    return None


def tensor(v):
    # Infinities as text: JSON has none.
    if v.dtype.kind == "f":
        data = [float(str(e)) if np.isfinite(e) else str(e) for e in v.ravel()]
    else:
        data = [int(e) for e in v.ravel()]
    return {"type": TYPES[str(v.dtype)], "shape": list(v.shape), "data": data}


def main():
    cases = {}
    for case in collect_testcases(None):
        if case.model is None or len(case.model.graph.node) != 1:
            continue
        node = case.model.graph.node[0]
        if node.domain:
            continue
        version = next(o.version for o in case.model.opset_import if not o.domain)
        schema = onnx.defs.get_schema(node.op_type, version)
        inputs, outputs = case.data_sets[0]
        if not all(isinstance(v, np.ndarray) for v in [*inputs, *outputs]) or not inputs:
            continue
        converted = convert(node, schema, inputs)
        if converted is None:
            continue
        op, operands = converted
        # LayerNormalization's further outputs are for training.
        outputs = outputs[: 2 if node.op_type == "TopK" else 1]
        tensors = [*inputs[:operands], *outputs]
        if any(str(v.dtype) not in TYPES or v.size > 400 for v in tensors):
            continue
        if len({v.dtype for v in inputs[:operands]}) > 1:
            continue
        cases[case.name] = {"name": case.name, "op": op,
                            "inputs": [tensor(v) for v in inputs[:operands]],
                            "outputs": [tensor(v) for v in outputs]}
    lines = [json.dumps(cases[name], separators=(",", ":")) for name in sorted(cases)]
    sys.stdout.write("[\n" + ",\n".join(lines) + "\n]\n")


main()
