#!/usr/bin/env python3
"""Whole Chainer networks through both doors: dumped by `tobiuo` and exported by onnx_chainer.

    python networks.py --builder TOBIUO_BUILDER --runtime TOBIUO --work DIR [--only NAME...]

For each network (random weights): the dump's engine on the CPU device against Chainer's own
outputs (at most 1e-5 of the largest), against the engine of the ONNX file (1e-6), and the number
of kernels that both engines have (equal). Prints a table; exits with 1 where a limit is passed.
Needs Chainer 7.8.1 with onnx < 1.15 and protobuf < 4, and ChainerCV for YOLOv2.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "fixtures" / "chainer")]

import chainer  # noqa: E402
import chainer.links as L  # noqa: E402
import numpy as np  # noqa: E402
import tobiuo  # noqa: E402
from cases import Random  # noqa: E402
from networks import NETWORKS, NOT_IN_ONNX, Network, export, randomize  # noqa: E402

AGAINST_CHAINER, BETWEEN_DOORS = 1e-5, 1e-6


def classifier(chain, logits):
    return chain, lambda n, x: n(x, layers=[logits, "prob"])


def vgg16():
    # Its own first fully connected layer takes 7x7 pixels and has 411 MB; all layers are there
    # with pictures of 64x64, which leave 2x2.
    def smaller(n_in, n_out, **options):
        return L.Linear(512 * 2 * 2 if n_in == 512 * 7 * 7 else n_in, n_out, **options)

    with mock.patch("chainer.links.model.vision.vgg.Linear", smaller):
        chain = L.VGG16Layers(pretrained_model=None)
    return (1, 3, 64, 64), *classifier(chain, "fc8")


def googlenet():
    return (1, 3, 224, 224), *classifier(L.GoogLeNet(pretrained_model=None), "loss3_fc")


def resnet50():
    return (1, 3, 224, 224), *classifier(L.ResNet50Layers(pretrained_model=None), "fc6")


def yolov2():
    from chainercv.links import YOLOv2

    chain = YOLOv2(n_fg_class=20, pretrained_model=None)
    with chainer.no_backprop_mode():
        # Its layers learn their number of channels from the first picture.
        chain(np.zeros((1, 3, 32, 32), np.float32))
    return (1, 3, 416, 416), chain, lambda n, x: dict(zip(("locs", "objs", "confs"), n(x)))


BIG = [vgg16, googlenet, resnet50, yolov2]
SMALL = {name: f for name, f in NETWORKS.items() if name not in NOT_IN_ONNX}


class Program:
    """The builder and the runtime."""

    def __init__(self, builder, runtime, work):
        self.builder, self.runtime, self.work = builder, runtime, work

    def run(self, *command):
        result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if result.returncode:
            raise SystemExit(f"{' '.join(map(str, command))}\n{result.stderr}")
        return result.stdout

    def engine(self, model, x, names):
        """Outputs, kernels by operator, and seconds of the build."""
        engine, start = self.work / "net.tobiuo", time.time()
        self.run(self.builder, "build", model, "-o", engine, "--device", "cpu")
        seconds = time.time() - start
        np.save(self.work / "x.npy", x)
        self.run(self.runtime, "infer", engine, "--input", self.work / "x.npy",
                 "--output-dir", self.work / "out")
        manifest = json.loads(self.run(self.runtime, "inspect", engine, "--json"))["manifest"]
        outputs = [np.load(self.work / "out" / f"{name}.npy") for name in names]
        engine.unlink()
        return outputs, manifest["plans"][0]["ops"], seconds


def error(ours, theirs):
    """The largest difference of any output, in parts of that output's largest value."""
    worst = 0.0
    for a, b in zip(ours, theirs):
        if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            return float("inf")
        worst = max(worst, float(np.abs(a.astype(np.float64) - b).max() / np.abs(b).max()))
    return worst


def check(name, build, program):
    """One row of the table, and what is wrong."""
    chainer.global_config.train = False
    r = Random(20)
    shape, chain, forward = build()
    net = randomize(Network(chain, forward), r)
    x = r.array(*shape)
    dump, onnx = program.work / "dump", program.work / "net.onnx"

    variable = chainer.Variable(x)
    retriever = tobiuo.ModelRetriever(dump)
    retriever.register_inputs(variable, name="input")
    with tobiuo.RetainHook():
        outputs = net(variable)
    for key, y in zip(net.names, outputs):
        retriever(y, name=key)
    retriever.save()
    layers = len(retriever.generate_json_source()["layers"])
    expected = [y.data for y in outputs]
    del retriever, outputs, variable

    ours, kernels, seconds = program.engine(dump, x, net.names)
    shutil.rmtree(dump)
    export(net, x, onnx)
    other, onnx_kernels, _ = program.engine(onnx, x, net.names)
    onnx.unlink()

    problems = []
    against, between = error(ours, expected), error(ours, other)
    if not against <= AGAINST_CHAINER:
        problems.append(f"{name}: {against:.1e} from Chainer, {AGAINST_CHAINER:.0e} is allowed")
    if not between <= BETWEEN_DOORS:
        problems.append(f"{name}: {between:.1e} from ONNX's engine, {BETWEEN_DOORS:.0e} is allowed")
    if kernels != onnx_kernels:
        problems.append(f"{name}: kernels differ: dump {kernels}, ONNX {onnx_kernels}")
    counts = f"{sum(kernels.values()):4} {sum(onnx_kernels.values()):4}"
    return f"{name:12} {layers:6} {against:12.1e} {between:12.1e} {counts} {seconds:8.1f}", problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--builder", required=True, type=pathlib.Path)
    parser.add_argument("--runtime", required=True, type=pathlib.Path)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    program = Program(arguments.builder, arguments.runtime, arguments.work)
    problems = []
    print("network      layers from Chainer    from ONNX kernels   build s", flush=True)
    for name, build in {**SMALL, **{f.__name__: f for f in BIG}}.items():
        if arguments.only and name not in arguments.only:
            continue
        row, wrong = check(name, build, program)
        print(row, flush=True)
        problems += wrong
    shutil.rmtree(arguments.work)
    print("\n".join(problems))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
