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
        elif act == "leaky":
            y = self.op("LeakyRelu", [y], alpha=0.1)
        return y

    def concat(self, parts, axis=1):
        return self.op("Concat", parts, sum(self.channels[p] for p in parts), axis=axis)

    def pool(self, x, kernel, stride, pad=0, ceil=0):
        return self.op("MaxPool", [x], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, ceil_mode=ceil)

    def shape(self, x, dims, channels):
        return self.op("Reshape", [x, self.constant(np.array(dims, np.int64), "shape")], channels)

    def fc(self, x, out, pixels=1, act=None):
        c = self.channels[x] * pixels
        w = self.rng.standard_normal((out, c), dtype=np.float32) * np.float32(1 / np.sqrt(c))
        b = np.zeros(out, np.float32)
        flat = self.op("Flatten", [x], axis=1)
        y = self.op("Gemm", [flat, self.constant(w, "weight"), self.constant(b, "bias")], out, transB=1)
        return self.op("Relu", [y]) if act == "relu" else y

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


def vgg16(seed=0):
    """VGG-16 (Simonyan and Zisserman 2014), 224x224."""
    n = Net("vgg16", [1, 3, 224, 224], seed)
    x = "input"
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = n.conv(x, width, 3, act="relu")
        x = n.pool(x, 2, 2)
    x = n.fc(x, 4096, 49, act="relu")
    x = n.fc(x, 4096, act="relu")
    return n.model(n.fc(x, 1000), [1, 1000])


def googlenet(seed=0):
    """GoogLeNet (Szegedy et al. 2014) as torchvision has it: 3x3 in place of 5x5, 224x224."""
    n = Net("googlenet", [1, 3, 224, 224], seed)
    x = n.pool(n.conv("input", 64, 7, 2, act="relu"), 3, 2, ceil=1)
    x = n.conv(n.conv(x, 64, 1, act="relu"), 192, 3, act="relu")
    x = n.pool(x, 3, 2, ceil=1)

    def inception(x, a, b1, b2, c1, c2, d):
        return n.concat([
            n.conv(x, a, 1, act="relu"),
            n.conv(n.conv(x, b1, 1, act="relu"), b2, 3, act="relu"),
            n.conv(n.conv(x, c1, 1, act="relu"), c2, 3, act="relu"),
            n.conv(n.pool(x, 3, 1, 1, ceil=1), d, 1, act="relu"),
        ])

    for widths in ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)):
        x = inception(x, *widths)
    x = n.pool(x, 3, 2, ceil=1)
    for widths in ((192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
                   (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128)):
        x = inception(x, *widths)
    x = n.pool(x, 2, 2, ceil=1)
    for widths in ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)):
        x = inception(x, *widths)
    x = n.op("GlobalAveragePool", [x])
    return n.model(n.fc(x, 1000), [1, 1000])


def yolov2(seed=0):
    """YOLOv2 (Redmon and Farhadi 2016) for 20 classes, 416x416."""
    n = Net("yolov2", [1, 3, 416, 416], seed)

    def layers(x, *widths):
        for i, width in enumerate(widths):
            x = n.conv(x, width, 3 if i % 2 == 0 else 1, act="leaky")
        return x

    x = n.pool(layers("input", 32), 2, 2)
    x = n.pool(layers(x, 64), 2, 2)
    x = n.pool(layers(x, 128, 64, 128), 2, 2)
    x = n.pool(layers(x, 256, 128, 256), 2, 2)
    fine = layers(x, 512, 256, 512, 256, 512)
    x = layers(n.pool(fine, 2, 2), 1024, 512, 1024, 512, 1024)
    x = n.conv(n.conv(x, 1024, 3, act="leaky"), 1024, 3, act="leaky")
    # The passthrough: 26x26x64 becomes 13x13x256.
    p = n.shape(n.conv(fine, 64, 1, act="leaky"), [1, 64, 13, 2, 13, 2], 64)
    p = n.op("Transpose", [p], perm=[0, 3, 5, 1, 2, 4])
    p = n.shape(p, [1, 256, 13, 13], 256)
    x = n.conv(n.concat([p, x]), 1024, 3, act="leaky")
    return n.model(n.conv(x, 125, 1), [1, 125, 13, 13])


def yolov8n(seed=0):
    """A network of YOLOv8n's shape, 80 classes, 640x640, up to the raw boxes and scores."""
    n = Net("yolov8n", [1, 3, 640, 640], seed)

    def cv(x, out, kernel=1, stride=1):
        return n.conv(x, out, kernel, stride, act="silu")

    def half(x, i):
        c = n.channels[x] // 2
        limits = [n.constant(np.array([v], np.int64), "limit") for v in (i * c, (i + 1) * c, 1)]
        return n.op("Slice", [x] + limits, c)

    def c2f(x, out, count, add):
        x = cv(x, out)
        parts = [half(x, 0), half(x, 1)]
        for _ in range(count):
            y = cv(cv(parts[-1], out // 2, 3), out // 2, 3)
            parts.append(n.op("Add", [parts[-1], y]) if add else y)
        return cv(n.concat(parts), out)

    def up(x):
        scales = n.constant(np.array([1, 1, 2, 2], np.float32), "scales")
        return n.op("Resize", [x, "", scales], mode="nearest", coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor")

    x = c2f(cv(cv("input", 16, 3, 2), 32, 3, 2), 32, 1, True)
    p3 = c2f(cv(x, 64, 3, 2), 64, 2, True)
    p4 = c2f(cv(p3, 128, 3, 2), 128, 2, True)
    x = cv(c2f(cv(p4, 256, 3, 2), 256, 1, True), 128)
    pools = [x]
    for _ in range(3):
        pools.append(n.pool(pools[-1], 5, 1, 2))
    p5 = cv(n.concat(pools), 256)
    p4 = c2f(n.concat([up(p5), p4]), 128, 1, False)
    p3 = c2f(n.concat([up(p4), p3]), 64, 1, False)
    p4 = c2f(n.concat([cv(p3, 64, 3, 2), p4]), 128, 1, False)
    p5 = c2f(n.concat([cv(p4, 128, 3, 2), p5]), 256, 1, False)
    heads = []
    for p, side in ((p3, 80), (p4, 40), (p5, 20)):
        box = n.conv(cv(cv(p, 64, 3), 64, 3), 64, 1)
        scores = n.conv(cv(cv(p, 80, 3), 80, 3), 80, 1)
        heads.append(n.shape(n.concat([box, scores]), [1, 144, side * side], 144))
    return n.model(n.op("Concat", heads, axis=2), [1, 144, 8400])


NETWORKS = {"resnet50": resnet50, "vgg16": vgg16, "googlenet": googlenet, "yolov2": yolov2, "yolov8n": yolov8n,
            "mobilenetv2": mobilenetv2}

if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for wanted in sys.argv[2:] or NETWORKS:
        path = target / f"{wanted}.onnx"
        onnx.save(NETWORKS[wanted](), path)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
