"""Writes a checkpoint as ONNX: float16 initialisers, float32 arithmetic.

    python3 export.py --checkpoint runs/last.pt --out ../assets/detector.onnx
"""

import argparse
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from model import HEIGHT, WIDTH, Detector, Exported, cost, fuse


def halve_initialisers(model, smallest=64):
    """Stores large float32 initialisers as float16, each with a Cast after it."""
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < smallest:
            continue
        name = tensor.name
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name + ".f16")
        tensor.CopyFrom(half)
        casts.append(helper.make_node("Cast", [name + ".f16"], [name], name=name + ".cast", to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(casts + nodes)
    return model


def to_onnx(detector, labels):
    """The whole export: fuse, trace, annotate, check."""
    network = Exported(fuse(detector.float().cpu().eval())).eval()
    buffer = io.BytesIO()
    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # batch size 1 is meant to be constant
    torch.onnx.export(network, torch.zeros(1, 3, HEIGHT, WIDTH), buffer, opset_version=17, dynamo=False,
                      input_names=["images"], output_names=["output0"])
    model = halve_initialisers(onnx.load_from_string(buffer.getvalue()))
    metadata = {
        "description": "Tobiuo example detector", "license": "MIT OR Apache-2.0", "task": "detect",
        "stride": "32", "batch": "1", "imgsz": str([HEIGHT, WIDTH]), "names": str(dict(enumerate(labels))),
    }
    helper.set_model_props(model, metadata)
    model.graph.name = "detector"
    onnx.checker.check_model(model, full_check=True)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    state = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    detector = Detector(len(state["labels"]))
    detector.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state["ema"].items()})
    parameters, flops = cost(detector)
    model = to_onnx(detector, state["labels"])
    onnx.save(model, args.out)
    size = Path(args.out).stat().st_size
    print(f"{parameters / 1e6:.2f} M parameters, {flops / 1e9:.2f} GFLOP, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
