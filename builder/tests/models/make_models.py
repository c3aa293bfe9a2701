"""Makes the small models that the command-line tests build: run it in this folder.

Needs onnx and numpy. The weights are pseudo-random with a fixed seed.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(7)


def weights(name, *shape):
    bound = 1.7 / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 1)
    return numpy_helper.from_array(rng.uniform(-bound, bound, shape).astype(np.float32), name)


def constant(name, values, dtype=np.int64):
    return numpy_helper.from_array(np.array(values, dtype=dtype), name)


class Net:
    def __init__(self):
        self.nodes, self.weights = [], []

    def add(self, op, inputs, output, **attributes):
        outputs = output if isinstance(output, list) else [output]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{len(self.nodes)}", **attributes))
        return output

    def conv(self, x, c_in, c_out, kernel, output, **attributes):
        self.weights += [weights(f"{output}.w", c_out, c_in, kernel, kernel), weights(f"{output}.b", c_out)]
        pad = kernel // 2
        return self.add("Conv", [x, f"{output}.w", f"{output}.b"], output,
                        kernel_shape=[kernel] * 2, pads=[pad] * 4, **attributes)

    def silu(self, x, output):
        return self.add("Mul", [x, self.add("Sigmoid", [x], f"{output}.gate")], output)

    def save(self, path, inputs, outputs, **metadata):
        value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, "net", [value(*i) for i in inputs],
                                  [value(*o) for o in outputs], self.weights)
        model = helper.make_model(graph, producer_name="make_models.py",
                                  opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def detector():
    """A detector's form: 32x32 pictures, 3 classes, strides 8, 16, 32; batch open."""
    net = Net()
    x = net.silu(net.conv("images", 3, 8, 3, "stem", strides=[2, 2]), "stem.act")
    x = net.silu(net.conv(x, 8, 16, 3, "down", strides=[2, 2]), "down.act")
    net.weights.append(constant("halves", [8, 8]))
    a, b = net.add("Split", [x, "halves"], ["a", "b"], axis=1)
    inner = net.silu(net.conv(b, 8, 8, 3, "inner"), "inner.act")
    inner = net.add("Add", [b, inner], "residual")
    x = net.add("Concat", [a, b, inner], "block", axis=1)
    heads = []
    for i, stride in enumerate((8, 16, 32)):
        x = net.silu(net.conv(x, 24, 24, 3, f"s{stride}", strides=[2, 2]), f"s{stride}.act")
        head = net.conv(x, 24, 7, 1, f"head{i}")
        net.weights.append(constant(f"flat{i}", [0, 7, -1]))
        heads.append(net.add("Reshape", [head, f"flat{i}"], f"flat.{i}"))
    anchors = net.add("Concat", heads, "anchors", axis=2)
    net.weights.append(constant("rows", [4, 3]))
    boxes, scores = net.add("Split", [anchors, "rows"], ["boxes", "scores"], axis=1)
    scores = net.add("Sigmoid", [scores], "probabilities")
    net.add("Concat", [boxes, scores], "output0", axis=1)
    net.save("detector.onnx", [("images", ["batch", 3, 32, 32])], [("output0", ["batch", 7, 21])],
             task="detect", names="{0: 'cup', 1: 'pen', 2: 'key'}")


def classifier():
    """A residual block with BatchNorm, then Gemm; batch fixed to 1."""
    net = Net()
    x = net.conv("x", 3, 8, 3, "c1")
    net.weights += [weights(f"bn.{k}", 8) for k in ("scale", "bias", "mean")]
    net.weights.append(constant("bn.var", rng.uniform(0.5, 2, 8), np.float32))
    x = net.add("BatchNormalization", [x, "bn.scale", "bn.bias", "bn.mean", "bn.var"], "bn")
    x = net.add("Relu", [x], "relu1")
    y = net.conv(x, 8, 8, 3, "c2")
    y = net.conv(y, 8, 8, 1, "c3")
    x = net.add("Relu", [net.add("Add", [x, y], "sum")], "relu2")
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x], "pool")], "flat")
    net.weights += [weights("fc.w", 5, 8), weights("fc.b", 5)]
    net.add("Gemm", [x, "fc.w", "fc.b"], "logits", transB=1)
    net.save("classifier.onnx", [("x", [1, 3, 12, 12])], [("logits", [1, 5])])


def unsupported():
    """Two nodes that no engine has, among others."""
    net = Net()
    x = net.add("Relu", ["x"], "r")
    net.nodes.append(helper.make_node("NonMaxSuppress", [x], ["a"], name="first", domain="com.example"))
    net.nodes.append(helper.make_node("Mystery", ["x"], ["b"], name="second", domain="com.example", depth=3))
    graph = helper.make_graph(
        net.nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("a", "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17),
                                                    helper.make_opsetid("com.example", 1)])
    model.ir_version = 8
    onnx.save(model, "unsupported.onnx")


def aligned():
    """Every constant's bytes are a multiple of 64."""
    net = Net()
    net.conv("x", 16, 16, 1, "y")
    net.save("aligned.onnx", [("x", [1, 16, 4, 4])], [("y", [1, 16, 4, 4])])


def weightless():
    """No constant at all."""
    net = Net()
    net.add("Add", ["a", net.add("Relu", ["b"], "r")], "y")
    net.save("weightless.onnx", [("a", [2, 3]), ("b", [3])], [("y", [2, 3])])


def bottlenecks():
    """Two residual blocks as ResNet has them: 1x1 layers side by side."""
    net = Net()
    x = net.add("Relu", [net.conv("x", 3, 32, 3, "stem", strides=[2, 2])], "stem.relu")
    for i in range(2):
        y = net.add("Relu", [net.conv(x, 32, 16, 1, f"{i}.narrow")], f"{i}.narrow.relu")
        y = net.add("Relu", [net.conv(y, 16, 16, 3, f"{i}.window")], f"{i}.window.relu")
        y = net.conv(y, 16, 32, 1, f"{i}.wide")
        x = net.add("Relu", [net.add("Add", [x, y], f"{i}.sum")], f"{i}.relu")
    net.add("GlobalAveragePool", [x], "y")
    net.save("bottlenecks.onnx", [("x", ["batch", 3, 16, 16])], [("y", ["batch", 32, 1, 1])])


detector()
classifier()
unsupported()
aligned()
weightless()
bottlenecks()
