"""Networks with random weights as ONNX, made without a framework (needs onnx and numpy).

usage: python3 bench/models.py OUT_DIR [resnet50 mobilenetv2 ...]

BatchNorm is folded into the convolutions, as torch.onnx.export writes networks in eval mode.
Weights are He-initialised with a fixed seed, so that activations keep a sane range.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """A straight way to write a small ONNX graph."""

    def __init__(self, name, shape, seed=0):
        self.name, self.nodes, self.weights = name, [], []
        self.rng, self.count = np.random.default_rng(seed), 0
        self.input = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
        self.channels = {"input": shape[1]}

    def constant(self, array, hint):
        name = f"{hint}.{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind, inputs, channels=None, **attrs):
        self.count += 1
        out = f"{kind.lower()}_{self.count}"
        self.nodes.append(helper.make_node(kind, inputs, [out], name=f"/{out}", **attrs))
        self.channels[out] = self.channels[inputs[0]] if channels is None else channels
        return out

    def conv(self, x, out, kernel, stride=1, groups=1, act=None, gain=1.0):
        c = self.channels[x]
        fan = c // groups * kernel * kernel
        std = gain * np.sqrt((2.0 if act else 1.0) / fan)
        w = self.rng.standard_normal((out, c // groups, kernel, kernel), dtype=np.float32) * np.float32(std)
        b = self.rng.standard_normal(out, dtype=np.float32) * np.float32(0.05)
        pad = kernel // 2
        y = self.op("Conv", [x, self.constant(w, "weight"), self.constant(b, "bias")], out,
                    kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=groups)
        if act == "relu":
            y = self.op("Relu", [y])
        elif act == "relu6":
            lo, hi = (self.constant(np.float32(v), "limit") for v in (0, 6))
            y = self.op("Clip", [y, lo, hi], out)
        elif act == "silu":
            y = self.op("Mul", [y, self.op("Sigmoid", [y])])
        return y

    def fc(self, x, out):
        c = self.channels[x]
        w = self.rng.standard_normal((out, c), dtype=np.float32) * np.float32(1 / np.sqrt(c))
        b = np.zeros(out, np.float32)
        flat = self.op("Flatten", [x], axis=1)
        return self.op("Gemm", [flat, self.constant(w, "weight"), self.constant(b, "bias")], out, transB=1)

    def model(self, output, shape):
        out = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, self.name, [self.input], [out], self.weights)
        model = helper.make_model(graph, producer_name="tobiuo-bench", opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        return model


def resnet50(seed=0):
    """ResNet-50 v1.5 (He et al. 2015; stride in the 3x3), 224x224."""
    n = Net("resnet50", [1, 3, 224, 224], seed)
    x = n.conv("input", 64, 7, 2, act="relu")
    x = n.op("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(blocks):
            s = stride if i == 0 else 1
            y = n.conv(x, width, 1, act="relu")
            y = n.conv(y, width, 3, s, act="relu")
            y = n.conv(y, 4 * width, 1, gain=0.3)
            short = n.conv(x, 4 * width, 1, s) if i == 0 else x
            x = n.op("Relu", [n.op("Add", [y, short])])
    x = n.op("GlobalAveragePool", [x])
    return n.model(n.fc(x, 1000), [1, 1000])


def mobilenetv2(seed=0):
    """MobileNetV2 1.0 (Sandler et al. 2018), 224x224."""
    n = Net("mobilenetv2", [1, 3, 224, 224], seed)
    x = n.conv("input", 32, 3, 2, act="relu6")
    for t, c, count, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                (6, 160, 3, 2), (6, 320, 1, 1)):
        for i in range(count):
            s, before = (stride if i == 0 else 1), n.channels[x]
            y = n.conv(x, before * t, 1, act="relu6") if t > 1 else x
            y = n.conv(y, before * t, 3, s, groups=before * t, act="relu6")
            y = n.conv(y, c, 1)
            x = n.op("Add", [x, y]) if s == 1 and before == c else y
    x = n.conv(x, 1280, 1, act="relu6")
    x = n.op("GlobalAveragePool", [x])
    return n.model(n.fc(x, 1000), [1, 1000])


NETWORKS = {"resnet50": resnet50, "mobilenetv2": mobilenetv2}

if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for wanted in sys.argv[2:] or NETWORKS:
        path = target / f"{wanted}.onnx"
        onnx.save(NETWORKS[wanted](), path)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
