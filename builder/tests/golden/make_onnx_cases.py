"""Makes the golden ONNX cases: small models, inputs, and ONNX Runtime's outputs.

    pip install onnx onnxruntime numpy
    python builder/tests/golden/make_onnx_cases.py

Writes builder/tests/golden/onnx/NAME/{model.onnx, input_I.npy, output_I.npy}. Each model holds
one operator in one form, or one chain that exporters write. Everything is seeded: a second run
writes the same files.
"""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent / "onnx"
F, I64 = np.float32, np.int64


class C:
    """A constant operand; `how` is where its elements are stored."""

    def __init__(self, value, how="raw"):
        self.value, self.how = np.asarray(value), how


def rand(name, *shape, low=-2.0, high=2.0):
    seed = sum(ord(c) * (i + 1) for i, c in enumerate(name)) + len(shape)
    return np.random.default_rng(seed).uniform(low, high, shape).astype(F)


def tensor(name, c):
    v = c.value
    if c.how == "raw":
        return numpy_helper.from_array(v, name)
    kind = helper.np_dtype_to_tensor_dtype(v.dtype)
    return helper.make_tensor(name, kind, v.shape, v.flatten().tolist())


def save(name, model, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    outputs = session.run(None, feeds)
    for info, value in zip(model.graph.output, outputs):
        kind = info.type.tensor_type.elem_type
        info.CopyFrom(helper.make_tensor_value_info(info.name, kind, value.shape))
    onnx.checker.check_model(model)
    folder = HERE / name
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    for i, value in enumerate(feeds.values()):
        np.save(folder / f"input_{i}.npy", value)
    for i, value in enumerate(outputs):
        np.save(folder / f"output_{i}.npy", value)


def graph(name, nodes, feeds, constants, outputs, opset, symbolic=None):
    kinds = {k: helper.np_dtype_to_tensor_dtype(v.dtype) for k, v in feeds.items()}
    shapes = {k: (symbolic or {}).get(k, v.shape) for k, v in feeds.items()}
    g = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info(k, kinds[k], shapes[k]) for k in feeds],
        [helper.make_tensor_value_info(o, t, None) for o, t in outputs],
        [tensor(k, c) for k, c in constants.items()],
    )
    return helper.make_model(
        g, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="golden")


def case(name, op, operands, opset=17, outputs=1, kinds=None, **attributes):
    """One operator; arrays are inputs, `C`s constants, `None` is left out."""
    feeds, constants, names = {}, {}, []
    for i, v in enumerate(operands):
        key = f"x{i}"
        if v is None:
            names.append("")
            continue
        (constants if isinstance(v, C) else feeds)[key] = v
        names.append(key)
    outs = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, outs, name=op.lower(), **attributes)
    kinds = kinds or [TensorProto.FLOAT] * outputs
    save(name, graph(name, [node], feeds, constants, list(zip(outs, kinds)), opset), feeds)


def convolutions():
    x = rand("x", 1, 4, 7, 6)
    w = rand("w", 6, 4, 3, 3)
    b = rand("b", 6)
    case("conv", "Conv", [x, C(w), C(b)])
    case("conv_no_bias_pads", "Conv", [x, C(w)], pads=[0, 1, 2, 3], strides=[2, 1])
    case("conv_group_dilation", "Conv", [x, C(rand("g", 6, 2, 2, 3)), C(b)], group=2,
         dilations=[2, 1], kernel_shape=[2, 3])
    case("conv_depthwise", "Conv", [x, C(rand("d", 8, 1, 3, 3)), None], group=4, pads=[1] * 4)
    case("conv_same_upper", "Conv", [x, C(rand("e", 3, 4, 2, 4))], auto_pad="SAME_UPPER",
         strides=[2, 2])
    case("conv_same_lower", "Conv", [x, C(rand("e", 3, 4, 2, 4))], auto_pad="SAME_LOWER",
         strides=[1, 3], opset=11)
    case("conv_valid", "Conv", [x, C(w)], auto_pad="VALID", strides=[3, 3])
    case("conv_1d", "Conv", [rand("l", 2, 3, 9), C(rand("m", 4, 3, 4)), C(rand("n", 4))],
         pads=[1, 2], strides=[2])
    t = rand("t", 4, 3, 3, 2)
    case("deconv", "ConvTranspose", [x, C(t), C(rand("tb", 3))], strides=[2, 3], pads=[1, 0, 1, 1])
    case("deconv_group", "ConvTranspose", [x, C(rand("tg", 4, 2, 2, 2))], group=2,
         dilations=[2, 1])
    case("deconv_output_padding", "ConvTranspose", [x, C(t)], strides=[2, 2],
         output_padding=[1, 1])
    case("deconv_output_shape", "ConvTranspose", [x, C(t)], strides=[2, 2], output_shape=[14, 11])
    case("deconv_same_upper", "ConvTranspose", [x, C(t)], strides=[2, 2], auto_pad="SAME_UPPER")
    case("deconv_same_lower", "ConvTranspose", [x, C(rand("tl", 4, 3, 4, 3))], strides=[3, 2],
         auto_pad="SAME_LOWER")
    case("deconv_1d", "ConvTranspose", [rand("l", 2, 3, 5), C(rand("t1", 3, 2, 4))], strides=[3])


def pools():
    x = rand("pool", 1, 2, 8, 7)
    case("max_pool", "MaxPool", [x], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])
    case("max_pool_ceil", "MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    case("max_pool_ceil_pads", "MaxPool", [x], kernel_shape=[3, 3], strides=[3, 3], ceil_mode=1,
         pads=[1, 1, 1, 1])
    case("max_pool_dilation", "MaxPool", [x], kernel_shape=[2, 3], dilations=[3, 2])
    case("max_pool_same_upper", "MaxPool", [x], kernel_shape=[3, 2], strides=[2, 3],
         auto_pad="SAME_UPPER")
    case("max_pool_same_lower", "MaxPool", [x], kernel_shape=[2, 4], auto_pad="SAME_LOWER")
    case("max_pool_1d", "MaxPool", [rand("p1", 1, 2, 9)], kernel_shape=[3], strides=[2])
    case("average_pool", "AveragePool", [x], kernel_shape=[3, 2], strides=[2, 1],
         pads=[1, 1, 0, 1])
    case("average_pool_include", "AveragePool", [x], kernel_shape=[3, 3], strides=[2, 2],
         pads=[1, 1, 1, 1], count_include_pad=1)
    case("average_pool_ceil", "AveragePool", [x], kernel_shape=[3, 3], strides=[2, 2],
         ceil_mode=1, opset=19)
    case("average_pool_ceil_include", "AveragePool", [x], kernel_shape=[2, 3], strides=[3, 2],
         pads=[1, 1, 0, 1], ceil_mode=1, count_include_pad=1, opset=19)
    case("average_pool_dilation", "AveragePool", [x], kernel_shape=[2, 2], dilations=[2, 3],
         opset=19)
    case("average_pool_same", "AveragePool", [x], kernel_shape=[3, 4], strides=[2, 2],
         auto_pad="SAME_UPPER")
    case("global_average_pool", "GlobalAveragePool", [x])
    case("global_max_pool", "GlobalMaxPool", [x])


def linear():
    a, b = rand("a", 3, 4), rand("bm", 4, 5)
    case("gemm", "Gemm", [a, C(b), C(rand("c", 5))])
    case("gemm_trans", "Gemm", [a.T.copy(), C(b.T.copy()), C(rand("c", 3, 1))], transA=1, transB=1,
         alpha=0.5, beta=-2.0)
    case("gemm_no_c", "Gemm", [a, C(b)], alpha=1.5)
    case("matmul_batch", "MatMul", [rand("ma", 2, 1, 3, 4), rand("mb", 5, 4, 2)])
    case("matmul_vector", "MatMul", [a, rand("mv", 4)])


def normalizations():
    x = rand("norm", 2, 4, 3, 3)
    s, b, m = rand("s", 4), rand("nb", 4), rand("m", 4)
    v = rand("v", 4, low=0.1, high=2.0)
    case("batch_norm", "BatchNormalization", [x, C(s), C(b), C(m), C(v)], epsilon=1e-3)
    case("batch_norm_9", "BatchNormalization", [x, C(s), C(b), C(m), C(v)], opset=9, momentum=0.8)
    case("lrn", "LRN", [x], size=3, alpha=0.2, beta=0.6, bias=1.5)
    case("layer_norm", "LayerNormalization", [x, C(rand("ls", 3)), C(rand("lb", 3))])
    case("layer_norm_axis", "LayerNormalization", [x, C(rand("la", 4, 3, 3))], axis=1,
         epsilon=1e-2)
    case("instance_norm", "InstanceNormalization", [x, C(s), C(b)], epsilon=1e-2)
    case("group_norm_21", "GroupNormalization", [x, C(s), C(b)], num_groups=2, opset=21)
    case("mean_variance_norm", "MeanVarianceNormalization", [x], axes=[0, 2, 3])
    case("lp_norm", "LpNormalization", [x], axis=1, p=1)


def activations():
    x = rand("act", 2, 3, 4, low=-4, high=4)
    for op, attributes, opset in [
        ("Relu", {}, 17), ("LeakyRelu", {"alpha": 0.2}, 17), ("LeakyRelu", {}, 9),
        ("Sigmoid", {}, 17), ("HardSigmoid", {}, 17), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, 17),
        ("HardSwish", {}, 17), ("Mish", {}, 18), ("Tanh", {}, 17), ("Elu", {"alpha": 0.7}, 17),
        ("Selu", {}, 17), ("Celu", {"alpha": 1.5}, 17), ("Softplus", {}, 17), ("Softsign", {}, 17),
        ("ThresholdedRelu", {"alpha": 1.2}, 17), ("Shrink", {"lambd": 1.1, "bias": 0.5}, 17),
        ("Erf", {}, 17), ("Gelu", {}, 20), ("Gelu", {"approximate": "tanh"}, 20),
        ("Softmax", {}, 13), ("Softmax", {"axis": 1}, 13), ("Softmax", {}, 11),
        ("Softmax", {"axis": 0}, 11), ("Softmax", {"axis": -1}, 11), ("LogSoftmax", {"axis": 0}, 13),
        ("LogSoftmax", {}, 9), ("Clip", {"min": -1.0}, 6 + 1), ("Clip", {"min": 0.0, "max": 6.0}, 10),
    ]:
        tag = "_".join(f"{k}_{v}" for k, v in attributes.items()).replace("-", "m")
        case(f"act_{op.lower()}_{opset}_{tag}".rstrip("_"), op, [x], opset=opset, **attributes)
    case("prelu", "PRelu", [rand("pr", 1, 3, 2, 2), C(rand("sl", 3, 1, 1))])
    case("clip_operands", "Clip", [x, C(F(-0.5)), C(F(1.5))])
    case("clip_max_only", "Clip", [x, None, C(F(0.25))])
    case("clip_dynamic", "Clip", [x, np.array(-1.0, F), np.array(1.0, F)])
    case("clip_int", "Clip", [np.arange(-5, 5, dtype=I64), C(I64(-2)), C(I64(3))],
         kinds=[TensorProto.INT64])


def arithmetic():
    a, b = rand("ea", 2, 3, 4), rand("eb", 3, 1)
    for op in ["Add", "Sub", "Mul", "Div"]:
        case(op.lower(), op, [a, b])
    positive = rand("ep", 2, 3, low=0.2, high=3.0)
    for op in ["Exp", "Abs", "Neg", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan"]:
        case(op.lower(), op, [np.append(a.flatten()[:7], [0.5, 1.5, 2.5, -0.5]).astype(F)])
    for op in ["Log", "Sqrt", "Reciprocal"]:
        case(op.lower(), op, [positive])
    case("pow", "Pow", [positive, C(rand("px", 3))])
    case("pow_int_exponent", "Pow", [a, C(np.array(3, I64))])
    case("div_int", "Div", [np.array([7, -7, 5, -5], I64), C(np.array([2, 2, -3, -3], I64))],
         kinds=[TensorProto.INT64])
    case("mod", "Mod", [np.array([7, -7, 5, -5], I64), C(np.array([3, 3, -3, -3], I64))],
         kinds=[TensorProto.INT64])
    case("fmod", "Mod", [a, C(F(0.7))], fmod=1)
    for op in ["Min", "Max", "Sum", "Mean"]:
        case(f"{op.lower()}_3", op, [a, b, C(F(0.3))])
    case("sum_1", "Sum", [a])
    for op in ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"]:
        case(op.lower(), op, [np.round(a), np.round(b)], kinds=[TensorProto.BOOL])
    p, q = a > 0, b > 0
    for op in ["And", "Or", "Xor"]:
        case(op.lower(), op, [p, q], kinds=[TensorProto.BOOL])
    case("not", "Not", [p], kinds=[TensorProto.BOOL])
    case("where", "Where", [p, a, b])
    case("cast_to_int", "Cast", [a * 3], to=TensorProto.INT32, kinds=[TensorProto.INT32])
    case("cast_to_bool", "Cast", [np.round(a)], to=TensorProto.BOOL, kinds=[TensorProto.BOOL])
    case("cast_from_int", "Cast", [np.arange(-3, 3, dtype=I64)], to=TensorProto.FLOAT)
    case("cast_like", "CastLike", [a * 3, C(np.array([1], I64))], kinds=[TensorProto.INT64])
    case("dropout", "Dropout", [a], opset=11, ratio=0.3)
    case("dropout_mask", "Dropout", [a, C(F(0.5)), C(np.array(False))], opset=13, outputs=2,
         kinds=[TensorProto.FLOAT, TensorProto.BOOL])


def moves():
    x = rand("mv", 2, 3, 4)
    i = lambda *v: C(np.array(v, I64))
    case("reshape", "Reshape", [x, i(0, -1, 2)])
    case("reshape_scalar", "Reshape", [rand("one", 1), i()])
    case("flatten", "Flatten", [x], axis=-1)
    case("flatten_0", "Flatten", [x], axis=0)
    case("transpose", "Transpose", [x], perm=[2, 0, 1])
    case("transpose_default", "Transpose", [x])
    y = rand("sq", 1, 3, 1, 2)
    case("squeeze", "Squeeze", [y, i(0, -2)])
    case("squeeze_all", "Squeeze", [y])
    case("squeeze_attribute", "Squeeze", [y], opset=11, axes=[2])
    case("unsqueeze", "Unsqueeze", [x, i(0, -1)])
    case("unsqueeze_attribute", "Unsqueeze", [x], opset=11, axes=[1, 3])
    case("expand", "Expand", [rand("ex", 3, 1), i(2, 1, 4)])
    case("tile", "Tile", [x, i(2, 1, 3)])
    case("concat", "Concat", [x, rand("cc", 2, 1, 4), rand("cd", 2, 2, 4)], axis=-2)
    case("split", "Split", [x, i(1, 3)], axis=-1, outputs=2)
    case("split_equal", "Split", [x], axis=1, outputs=3, opset=13)
    case("split_attribute", "Split", [x], axis=2, split=[3, 1], outputs=2, opset=11)
    case("split_num_outputs", "Split", [rand("so", 7, 2)], num_outputs=3, outputs=3, opset=18)
    case("slice", "Slice", [x, i(0, 3), i(9, -9), i(1, 2), i(2, -1)])
    case("slice_defaults", "Slice", [x, i(1, -2), i(2, 2 ** 62)])
    case("slice_attribute", "Slice", [x], opset=9, starts=[1, -3], ends=[2 ** 31, -1],
         axes=[0, 2])
    case("slice_empty", "Slice", [x, i(3), i(1), i(1)])
    case("gather", "Gather", [x, C(np.array([[0, -1], [2, 1]], I64))], axis=1)
    case("gather_dynamic", "Gather", [x, np.array([1, 3], np.int32)], axis=-1)
    case("gather_scalar", "Gather", [x, C(np.array(1, I64))], axis=2)
    case("depth_to_space", "DepthToSpace", [rand("ds", 1, 8, 2, 3)], blocksize=2)
    case("depth_to_space_crd", "DepthToSpace", [rand("ds", 1, 8, 2, 3)], blocksize=2, mode="CRD")
    case("space_to_depth", "SpaceToDepth", [rand("sd", 1, 2, 4, 6)], blocksize=2)
    case("pad", "Pad", [x, i(0, 1, 2, 1, 0, 1), C(F(0.5))])
    case("pad_negative", "Pad", [x, i(0, -1, 1, 0, 1, -2)])
    case("pad_reflect", "Pad", [x, i(1, 2, 3, 1, 0, 2)], mode="reflect")
    case("pad_edge", "Pad", [x, i(1, 2, 3, 1, 0, 2)], mode="edge")
    case("pad_wrap", "Pad", [x, i(1, 2, 3, 1, 0, 2)], mode="wrap", opset=19)
    case("pad_axes", "Pad", [x, i(1, 2, 0, 1), None, i(-1, 0)], opset=18)
    case("pad_attribute", "Pad", [x], opset=10, pads=[0, 1, 0, 0, 0, 2], value=1.25)


def reductions():
    x = rand("red", 2, 3, 4, low=0.1, high=2.0)
    for op in ["Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]:
        case(f"reduce_{op.lower()}_11", f"Reduce{op}", [x], opset=11, axes=[0, -1], keepdims=0)
        case(f"reduce_{op.lower()}_18", f"Reduce{op}", [x, C(np.array([1], I64))], opset=18)
    case("reduce_sum_13", "ReduceSum", [x, C(np.array([-2], I64))], opset=13, keepdims=0)
    case("reduce_all", "ReduceMax", [x], opset=12)
    case("reduce_noop", "ReduceSum", [x], opset=13, noop_with_empty_axes=1)
    ties = np.round(x * 2)
    case("arg_max", "ArgMax", [ties], axis=-1, keepdims=0, kinds=[TensorProto.INT64])
    case("arg_max_last", "ArgMax", [ties], axis=1, select_last_index=1, kinds=[TensorProto.INT64])
    case("arg_min", "ArgMin", [ties], kinds=[TensorProto.INT64])
    both = [TensorProto.FLOAT, TensorProto.INT64]
    case("top_k", "TopK", [x, C(np.array([3], I64))], outputs=2, kinds=both)
    case("top_k_smallest", "TopK", [ties, C(np.array([2], I64))], axis=1, largest=0, outputs=2,
         kinds=both)
    case("top_k_9", "TopK", [x], opset=9, k=2, axis=0, outputs=2, kinds=both)


def resizes():
    x = rand("rs", 1, 2, 4, 5)
    s = lambda *v: C(np.array(v, F))
    i = lambda *v: C(np.array(v, I64))
    case("upsample_7", "Upsample", [x], opset=7, mode="nearest", scales=[1.0, 1.0, 2.0, 3.0])
    case("upsample_9", "Upsample", [x, s(1, 1, 2, 2)], opset=9, mode="nearest")
    case("upsample_9_linear", "Upsample", [x, s(1, 1, 2, 2)], opset=9, mode="linear")
    case("resize_10", "Resize", [x, s(1, 1, 2, 1.5)], opset=10)
    case("resize_10_down", "Resize", [x, s(1, 1, 0.6, 0.7)], opset=10)
    case("resize_10_mixed", "Resize", [x, s(1, 1, 2, 0.6)], opset=10)
    case("resize_10_linear", "Resize", [x, s(1, 1, 2, 0.6)], opset=10, mode="linear")
    empty = C(np.array([], F))
    case("resize_11_empty_roi", "Resize", [x, empty, s(1, 1, 2, 2)], opset=11)
    for mode in ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]:
        case(f"resize_linear_{mode}", "Resize", [x, None, None, i(1, 2, 7, 3)], mode="linear",
             coordinate_transformation_mode=mode)
        case(f"resize_cubic_{mode}", "Resize", [x, None, s(1, 1, 1.5, 0.8)], mode="cubic",
             coordinate_transformation_mode=mode)
        for rounding in ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]:
            case(f"resize_nearest_{mode}_{rounding}", "Resize", [x, None, None, i(1, 2, 7, 3)],
                 coordinate_transformation_mode=mode, nearest_mode=rounding)
    case("resize_half_pixel_symmetric", "Resize", [x, None, s(1, 1, 1.7, 0.9)], opset=19,
         mode="linear", coordinate_transformation_mode="half_pixel_symmetric")
    case("resize_tf_nn", "Resize", [x, empty, empty, i(1, 2, 6, 7)], opset=11,
         coordinate_transformation_mode="tf_half_pixel_for_nn", mode="nearest")
    roi = C(np.array([0, 0, 0.2, -0.1, 1, 1, 0.8, 1.3], F))
    case("resize_tf_crop", "Resize", [x, roi, None, i(1, 2, 5, 6)], mode="linear",
         coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=7.0)
    case("resize_cubic_exclude", "Resize", [x, None, s(1, 1, 0.7, 1.6)], mode="cubic",
         cubic_coeff_a=-0.5, exclude_outside=1)
    case("resize_antialias_linear", "Resize", [x, None, s(1, 1, 0.5, 0.6)], opset=18,
         mode="linear", antialias=1)
    case("resize_antialias_cubic", "Resize", [x, None, s(1, 1, 0.6, 0.5)], opset=18, mode="cubic",
         antialias=1)
    case("resize_axes", "Resize", [x, None, s(2.0, 1.5)], opset=18, axes=[3, 2], mode="linear")
    case("resize_not_larger", "Resize", [x, None, None, i(8, 7)], opset=18, axes=[2, 3],
         keep_aspect_ratio_policy="not_larger", mode="linear")
    case("resize_not_smaller", "Resize", [x, None, None, i(8, 7)], opset=18, axes=[2, 3],
         keep_aspect_ratio_policy="not_smaller")


def storage():
    """Constants in every field that holds numbers."""
    x = rand("st", 2, 3)
    for dtype, kind in [("float32", TensorProto.FLOAT), ("int64", TensorProto.INT64),
                        ("int32", TensorProto.INT32), ("int8", TensorProto.INT8),
                        ("uint8", TensorProto.UINT8), ("bool", TensorProto.BOOL),
                        ("float16", TensorProto.FLOAT16), ("float64", TensorProto.DOUBLE)]:
        for how in ["raw", "field"]:
            value = np.array([[1, 0, 3], [4, 1, 120]]).astype(dtype)
            if dtype in ("float16", "float64"):
                value = (value / 3).astype(dtype)
            nodes = [helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
                     helper.make_node("Add", ["x", "f"], ["y"])]
            m = graph("storage", nodes, {"x": x}, {"c": C(value, how)},
                      [("y", TensorProto.FLOAT)], 17)
            save(f"storage_{dtype}_{how}", m, {"x": x})
    weights = {"w": C(rand("xw", 3, 4)), "b": C(rand("xb", 4)), "to": C(np.array([4, 2], I64))}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["g"]),
             helper.make_node("Reshape", ["g", "to"], ["y"])]
    m = graph("external", nodes, {"x": x}, weights, [("y", TensorProto.FLOAT)], 17)
    save("storage_external", m, {"x": x})
    onnx.save(m, HERE / "storage_external/model.onnx", save_as_external_data=True,
              location="weights.bin", size_threshold=0)
    constants = [
        helper.make_node("Constant", [], ["a"], value_float=1.5),
        helper.make_node("Constant", [], ["b"], value_floats=[1.0, -2.0, 0.5]),
        helper.make_node("Constant", [], ["c"], value_int=2),
        helper.make_node("Constant", [], ["d"], value_ints=[3, 2]),
        helper.make_node("Constant", [], ["e"], value=numpy_helper.from_array(rand("ce", 2, 1))),
        helper.make_node("Cast", ["c"], ["cf"], to=TensorProto.FLOAT),
        helper.make_node("Sum", ["x", "a", "b", "cf", "e"], ["s"]),
        helper.make_node("Reshape", ["s", "d"], ["y"]),
    ]
    m = graph("constants", constants, {"x": x}, {}, [("y", TensorProto.FLOAT)], 17)
    save("constant_forms", m, {"x": x})
    fills = [
        helper.make_node("ConstantOfShape", ["shape"], ["a"],
                         value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.5])),
        helper.make_node("ConstantOfShape", ["shape"], ["b"]),
        helper.make_node("Range", ["from", "to", "by"], ["r"]),
        helper.make_node("EyeLike", ["x"], ["eye"], k=1),
        helper.make_node("Sum", ["x", "a", "b", "r", "eye"], ["y"]),
    ]
    m = graph("fills", fills, {"x": x},
              {"shape": C(np.array([2, 1], I64)), "from": C(F(1)), "to": C(F(-1)), "by": C(F(-0.7))},
              [("y", TensorProto.FLOAT)], 17)
    save("fills", m, {"x": x})


def quantised():
    """Integers whose scales are known, and what onnxruntime's quantize_dynamic writes."""
    n = helper.make_node
    u8, i8, i32 = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32
    x = rand("qx", 2, 3, 5, 6)
    scales, zeros = C(np.array([0.01, 0.02, 0.015], F)), C(np.array([3, -5, 0], np.int8))
    case("quantize_axis", "QuantizeLinear", [x, scales, zeros], kinds=[i8], axis=1)
    integers = np.random.default_rng(1).integers(-128, 128, (2, 3, 5), dtype=np.int8)
    case("dequantize_axis", "DequantizeLinear", [integers, scales, zeros], axis=1)
    sums = np.random.default_rng(2).integers(-9999, 9999, (2, 4), dtype=np.int32)
    case("dequantize_i32", "DequantizeLinear", [sums, C(F(0.003))])
    a = np.random.default_rng(3).integers(0, 256, (2, 3, 7), dtype=np.uint8)
    b = np.random.default_rng(4).integers(-128, 128, (7, 4), dtype=np.int8)
    columns = C(np.array([1, -2, 3, 100], np.int8))
    case("matmul_integer", "MatMulInteger", [a, C(b), C(np.uint8(131)), columns], kinds=[i32])
    w = np.random.default_rng(5).integers(-128, 128, (4, 3, 3, 3), dtype=np.int8)
    nodes = [
        n("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        n("ConvInteger", ["q", "w", "z", "zw"], ["sum"], pads=[1, 1, 1, 1], strides=[2, 1]),
        n("Cast", ["sum"], ["real"], to=TensorProto.FLOAT), n("Mul", ["s", "sw"], ["by"]),
        n("Mul", ["real", "by"], ["y"]),
    ]
    constants = {"w": C(w), "zw": C(np.int8(7)), "sw": C(F(0.004))}
    outputs = [("y", TensorProto.FLOAT), ("q", u8), ("z", u8)]
    for name, given in [("mixed", x), ("positive", x + F(3)), ("zeros", 0 * x)]:
        save(f"dynamic_{name}", graph("dynamic", nodes, {"x": given}, constants, outputs, 17),
             {"x": given})


def chains():
    """What exporters write."""
    n = helper.make_node
    x = rand("ch", 2, 3, 4, 4)
    i = lambda *v: C(np.array(v, I64))
    # A flatten that PyTorch spells out with the shape's arithmetic, under a symbolic batch.
    nodes = [
        n("Shape", ["x"], ["s"]), n("Gather", ["s", "zero"], ["b"], axis=0),
        n("Unsqueeze", ["b", "zero_1d"], ["b1"]), n("Concat", ["b1", "minus"], ["to"], axis=0),
        n("Reshape", ["x", "to"], ["y"]),
    ]
    m = graph("shape", nodes, {"x": x},
              {"zero": C(np.array(0, I64)), "zero_1d": i(0), "minus": i(-1)},
              [("y", TensorProto.FLOAT)], 17, {"x": ["batch", 3, 4, 4]})
    # The file's batch is symbolic; the importer takes 1 unless told: keep the case at 1.
    save("chain_flatten", m, {"x": x[:1]})
    # An upsample to another tensor's size.
    nodes = [
        n("Shape", ["skip"], ["s"]), n("Slice", ["s", "two", "four"], ["hw"]),
        n("Shape", ["x"], ["sx"], start=0, end=2), n("Concat", ["sx", "hw"], ["sizes"], axis=0),
        n("Resize", ["x", "", "", "sizes"], ["u"], mode="nearest"), n("Add", ["u", "skip"], ["y"]),
    ]
    skip = rand("skip", 2, 3, 8, 9)
    m = graph("sizes", nodes, {"x": x, "skip": skip}, {"two": i(2), "four": i(4)},
              [("y", TensorProto.FLOAT)], 17)
    save("chain_resize_like", m, {"x": x, "skip": skip})
    # An If on a rank, as torch.squeeze exports.
    then = helper.make_graph([n("Flatten", ["x"], ["t"])], "then", [],
                             [helper.make_tensor_value_info("t", TensorProto.FLOAT, ["a", "b"])])
    other = helper.make_graph([n("Identity", ["x"], ["e"])], "else", [],
                              [helper.make_tensor_value_info("e", TensorProto.FLOAT, ["a", "b", "c"])])
    nodes = [
        n("Shape", ["x"], ["s"]), n("Gather", ["s", "one"], ["d"]), n("Equal", ["d", "one"], ["c"]),
        n("If", ["c"], ["i"], then_branch=then, else_branch=other), n("Relu", ["i"], ["y"]),
    ]
    z = rand("if", 2, 1, 3)
    m = graph("if", nodes, {"x": z}, {"one": i(1)}, [("y", TensorProto.FLOAT)], 17)
    save("chain_if_then", m, {"x": z})
    z = rand("if", 2, 2, 3)
    m = graph("if", nodes, {"x": z}, {"one": i(1)}, [("y", TensorProto.FLOAT)], 17)
    save("chain_if_else", m, {"x": z})
    # YOLO's head: distribution over 16 bins to distances, anchors, strides.
    p = rand("head", 1, 66, 6)
    nodes = [
        n("Split", ["p", "parts"], ["box", "cls"], axis=1),
        n("Reshape", ["box", "to"], ["b4"]), n("Transpose", ["b4"], ["bt"], perm=[0, 2, 1, 3]),
        n("Softmax", ["bt"], ["sm"], axis=1), n("Conv", ["sm", "bins"], ["d"]),
        n("Reshape", ["d", "to4"], ["dist"]), n("Split", ["dist"], ["lt", "rb"], axis=1),
        n("Sub", ["anchors", "lt"], ["x1"]), n("Add", ["anchors", "rb"], ["x2"]),
        n("Add", ["x1", "x2"], ["sum"]), n("Div", ["sum", "two"], ["c"]),
        n("Sub", ["x2", "x1"], ["wh"]), n("Concat", ["c", "wh"], ["cwh"], axis=1),
        n("Mul", ["cwh", "strides"], ["boxes"]), n("Sigmoid", ["cls"], ["scores"]),
        n("Concat", ["boxes", "scores"], ["y"], axis=1),
    ]
    constants = {
        "parts": i(64, 2), "to": i(1, 4, 16, 6), "to4": i(1, 4, 6),
        "bins": C(np.arange(16, dtype=F).reshape(1, 16, 1, 1)),
        "anchors": C(rand("an", 1, 2, 6, low=0.5, high=3.5)), "two": C(F(2)),
        "strides": C(np.array([[8, 8, 8, 8, 16, 16]], F)),
    }
    m = graph("head", nodes, {"p": p}, constants, [("y", TensorProto.FLOAT)], 17)
    save("chain_yolo_head", m, {"p": p})


def main():
    if HERE.exists():
        shutil.rmtree(HERE)
    convolutions()
    pools()
    linear()
    normalizations()
    activations()
    arithmetic()
    moves()
    reductions()
    resizes()
    storage()
    quantised()
    chains()
    size = sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file())
    print(f"{len(list(HERE.iterdir()))} cases, {size} bytes")


if __name__ == "__main__":
    main()
