"""Exporters' graphs without their weights, and with random ones again: what CI has of the table.

usage: graphs.py [--bin DIR] [--work DIR] [--only A,B] [--cuda SM]

Fills every graph of tests/exporters/graphs with weights of a fixed seed, builds it for the CPU device
and compares it with ONNX Runtime. With --cuda also builds untuned engines of torch.export's for this
GPU, which need not be here; needs NVRTC. Exit status 1 where one does not build or agree.

A graph is written by its exporter (tests/exporters/run --graphs). Of its weights, which are random
there too, mean, standard deviation and limits are kept in `doc_string`; what compresses well (shapes,
anchors, small tables) is no weight and stays. Names, order, attributes and opset are the exporter's.
"""

from __future__ import annotations

import argparse
import gzip
import math
import os
import shutil
import sys
import time
import zlib
from pathlib import Path
from typing import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from compare import LIMIT, compare, lowers, pictures, session

ROOT = Path(__file__).resolve().parent.parent.parent
GRAPHS = Path(__file__).resolve().parent / "graphs"
MARK = "random "
# Elements below which a tensor is kept.
SMALL = 64
# Rounds of correction, and the logarithm of a ratio at which they end.
ROUNDS, CLOSE = 10, 0.2


def is_weight(tensor: onnx.TensorProto) -> bool:
    """Floats that do not compress."""
    count = int(np.prod(tensor.dims))
    if tensor.data_type != onnx.TensorProto.FLOAT or count < SMALL:
        return False
    sample = numpy_helper.to_array(tensor).reshape(-1)[:65536].tobytes()
    return len(zlib.compress(sample)) > len(sample) // 2


def described(tensor: onnx.TensorProto) -> tuple[float, float, float, float] | None:
    """Mean, standard deviation, least and greatest of a weight that was taken out."""
    if not tensor.doc_string.startswith(MARK):
        return None
    mean, deviation, low, high = map(float, tensor.doc_string[len(MARK) :].split())
    return mean, deviation, low, high


def describe(tensor: onnx.TensorProto, *numbers: float) -> None:
    tensor.doc_string = MARK + " ".join(f"{n:.4g}" for n in numbers)


def fill(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with weights: of a normal distribution, cut off at the limits."""
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    for seed, tensor in enumerate(filled.graph.initializer):
        numbers = described(tensor)
        if numbers is None:
            continue
        mean, deviation, low, high = numbers
        random = np.random.Generator(np.random.PCG64(seed))
        values = random.standard_normal(int(np.prod(tensor.dims)), dtype=np.float32)
        values *= np.float32(deviation)
        values += np.float32(mean)
        tensor.raw_data = np.clip(values, np.float32(low), np.float32(high), out=values).tobytes()
        tensor.doc_string = ""
    return filled


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph without weights; with those of `fill`, what each product gives is as large as it was."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    graph = bare.graph
    # Where exporters keep places in their user's files.
    for thing in [bare, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        thing.doc_string = ""
        del thing.metadata_props[:]
    del graph.value_info[:]
    layers = products(graph)
    biases = {n.input[2] for n in layers if len(n.input) > 2}
    for tensor in graph.initializer:
        if is_weight(tensor) or tensor.name in biases:
            values = numpy_helper.to_array(tensor)
            describe(tensor, values.mean(), values.std(), values.min(), values.max())
            for field in ("raw_data", "float_data", "external_data", "data_location"):
                tensor.ClearField(field)
    # Exporters fold normalisation into products, so random ones would grow from layer to layer: they
    # are corrected, in rounds because each changes what the next layers get.
    taken = {t.name: t for t in graph.initializer if described(t)}
    layers = [n for n in layers if n.input[1] in taken]
    wanted = sizes(model, layers)
    best, best_off = None, float("inf")
    for _ in range(ROUNDS):
        made = sizes(fill(bare), layers)
        off = {out: math.log(made[out] / size) for out, size in wanted.items()}
        worst = max(map(abs, off.values()))
        if worst < best_off:
            best, best_off = {name: t.doc_string for name, t in taken.items()}, worst
        if best_off < CLOSE:
            break
        # Of a layer's error, what its input brings is not its own: that is corrected where it comes from.
        brought = {i.name: 0.0 for i in graph.input}
        for node in graph.node:
            known = [brought[i] for i in node.input if i in brought]
            mean = sum(known) / len(known) if known else 0.0
            if node.output[0] in off:
                own = math.exp(mean - off[node.output[0]])
                for name in node.input[1:]:
                    if name in taken:
                        describe(taken[name], *(n * own for n in described(taken[name])))
            brought.update((o, off.get(o, mean)) for o in node.output)
    for name, text in best.items():
        taken[name].doc_string = text
    return bare


def products(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [n for n in graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]


def sizes(model: onnx.ModelProto, layers: list[onnx.NodeProto]) -> dict[str, float]:
    """Root mean square of what comes out of these layers."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = [n.output[0] for n in layers]
    known = {o.name for o in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    runtime = session(probe.SerializeToString())
    (spec,) = runtime.get_inputs()
    x = pictures(1, tuple(spec.shape[2:]), 3)
    values = runtime.run(names, {spec.name: x})
    return {name: max(float(np.sqrt(np.square(v.astype(np.float64)).mean())), 1e-20) for name, v in zip(names, values)}


def read(path: Path) -> onnx.ModelProto:
    return onnx.load_model_from_string(gzip.decompress(path.read_bytes()))


def write(model: onnx.ModelProto, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(model.SerializeToString(), mtime=0))


def checks(programs: Path, work: Path, only: list[str], sm: str) -> Iterator[tuple[str, str, float]]:
    """Name, what is wrong, seconds."""
    for path in sorted(GRAPHS.glob("*.onnx.gz")):
        name = path.name.removesuffix(".onnx.gz")
        if only and not any(o in name for o in only):
            continue
        begun = time.monotonic()
        model = work / f"{name}.onnx"
        try:
            graph = fill(read(path))
            onnx.save(graph, model)
            off, _ = compare(programs, model, work)
            wrong = "" if off <= LIMIT else f"error {off:.1e}, over {LIMIT:g}"
            sides = [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim[2:]]
            said = f"{name} {'x'.join(map(str, sides))}: {off:.1e}"
            # The other exporter's graphs come to the same layers.
            if sm != "0" and name.endswith(".torch.export"):
                said += f", sm_{sm}: {lowers(programs, model, work, sm, work / 'tactics.jsonl')} kernels"
            print(said, flush=True)
        except Exception as e:  # Reported with the graph's name.
            wrong = str(e)
        model.unlink(missing_ok=True)
        yield name, wrong, time.monotonic() - begun


def main() -> int:
    base = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--bin", type=Path, default=base / "release")
    parser.add_argument("--work", type=Path, default=base / "exporters-graphs")
    parser.add_argument("--only", default="")
    parser.add_argument("--cuda", default="0")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    done = list(checks(args.bin.resolve(), args.work.resolve(), [o for o in args.only.split(",") if o], args.cuda))
    bad = [(name, wrong) for name, wrong, _ in done if wrong]
    for name, wrong in bad:
        print(f"{name}: {wrong}", file=sys.stderr)
    print(f"{len(done) - len(bad)} of {len(done)} exporters' graphs agree with ONNX Runtime; {sum(s for *_, s in done):.0f} s")
    return int(bool(bad) or not done)


if __name__ == "__main__":
    sys.exit(main())
