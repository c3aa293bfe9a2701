"""The retriever: names, order, constants, and what is refused."""

import json

import numpy as np
import pytest

chainer = pytest.importorskip("chainer", reason="Chainer is not installed: no network is dumped")

import chainer.functions as F  # noqa: E402
import chainer.links as L  # noqa: E402
import tobiuo  # noqa: E402
from tobiuo import DumpError  # noqa: E402
from tobiuo.dump import read_tensor  # noqa: E402

NEWER = not chainer.__version__.startswith("5")


def variable(*shape):
    return chainer.Variable(np.random.uniform(0.5, 1, shape).astype(np.float32))


class Retrieved:
    """Runs a network and retrieves it."""

    def __init__(self, path):
        self.path, self.retriever = path, tobiuo.ModelRetriever(path)

    def __call__(self, network, *inputs, name=None, register=True):
        with chainer.using_config("train", False), tobiuo.RetainHook():
            y = network(*inputs)
        for i, x in enumerate(inputs if register else ()):
            self.retriever.register_inputs(x, f"x{i}")
        self.retriever(y, name)
        self.retriever.save()
        return json.loads((self.path / "model.json").read_text())

    def constant(self, index=0):
        return read_tensor(self.path / f"ConstantInput-{index}.tensor")


@pytest.fixture
def retrieve(tmp_path):
    return Retrieved(tmp_path / "dump")


def layers(model, kind=None):
    return [p for p in model["layers"] if kind in (None, p["type"])]


def types(model):
    return [p["type"] for p in model["layers"]]


# -- the program of chainer-trt's README, with another import --------------------------------


def test_the_program_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = chainer.Sequential(L.Convolution2D(3, 4, 3), F.relu, L.Linear(None, 10), F.softmax)
    program = '''
import chainer_trt

x = chainer.Variable(np.random.random((1, 3, 10, 10)).astype(np.float32))

retriever = chainer_trt.ModelRetriever("dump_out")
retriever.register_inputs(x, name="input")
with chainer.using_config('train', False):
    with chainer_trt.RetainHook():
        y = net(x)

retriever(y, name="prob")
retriever.save()
'''.replace("import chainer_trt", "import tobiuo as chainer_trt")
    exec(program, {"chainer": chainer, "np": np, "net": net})
    model = json.loads((tmp_path / "dump_out/model.json").read_text())
    assert model["inputs"] == ["input"]
    assert model["outputs"] == [["Softmax-4-1_0", "prob"]]
    assert types(model) == [
        "input", "Convolution2DFunction", "ReLU", "LinearFunction", "Softmax"]
    assert model["layers"][1]["kernel_weights_file"] == "Convolution2DFunction-0-1_kernel.weights"
    kernel = read_tensor("dump_out/Convolution2DFunction-0-1_kernel.weights")
    assert np.array_equal(kernel, net[0].W.data)


# -- inputs, outputs, constants --------------------------------------------------------------


def total(*xs):
    y = xs[0]
    for x in xs[1:]:
        y = y + x
    return y


def test_inputs_keep_the_order_of_registration(retrieve):
    model = retrieve(total, *[variable(1, 3, 4, 4) for _ in range(5)])
    assert model["inputs"] == ["x0", "x1", "x2", "x3", "x4"]
    assert [p["name"] for p in layers(model, "input")] == model["inputs"]


def test_an_unused_input_is_left_out(retrieve):
    xs = [variable(1, 3) for _ in range(3)]
    model = retrieve(lambda *v: v[0] + v[2], *xs)
    assert model["inputs"] == ["x0", "x2"]


def test_what_is_not_registered_is_a_constant(retrieve):
    c = variable(1, 3, 4, 4)
    model = retrieve(lambda x: x + c, variable(1, 3, 4, 4))
    assert model["inputs"] == ["x0"]
    assert np.array_equal(retrieve.constant(), c.data)


def test_without_registration_every_leaf_is_an_input(retrieve):
    model = retrieve(total, variable(1, 3), variable(1, 3), register=False)
    assert model["inputs"] == ["input-0", "input-1"]
    assert types(model) == ["input", "input", "Add"]


def test_without_registration_parameters_are_weights(retrieve):
    model = retrieve(L.Convolution2D(3, 4, 3), variable(1, 3, 8, 8), register=False)
    assert types(model) == ["input", "Convolution2DFunction"]


def test_an_input_without_a_name(retrieve):
    x, z = variable(1, 3), variable(1, 3)
    retrieve.retriever.register_inputs([x, z])
    with tobiuo.RetainHook():
        y = x * z
    retrieve.retriever(y)
    retrieve.retriever.save()
    assert retrieve.retriever.generate_json_source()["inputs"] == ["input-0", "input-1"]


def test_an_array_given_to_the_network_can_be_registered(retrieve):
    x = np.ones((1, 3, 8, 8), np.float32)
    model = retrieve(L.Convolution2D(3, 4, 3), x)
    assert types(model) == ["input", "Convolution2DFunction"]


def test_a_registered_intermediate_cuts_the_network(retrieve):
    x = variable(1, 3)
    with tobiuo.RetainHook():
        h = F.relu(x)
        y = F.tanh(h)
    retrieve.retriever.register_inputs(h, "h")
    retrieve.retriever(y)
    model = retrieve.retriever.generate_json_source()
    assert [p["type"] for p in model["layers"]] == ["input", "Tanh"]


def test_an_output_in_the_middle(retrieve):
    x = variable(1, 3)
    with tobiuo.RetainHook():
        a = x + 1
        b = a * 2
    retrieve.retriever(b, name="b")
    retrieve.retriever(a, name="a")
    model = retrieve.retriever.generate_json_source()
    assert model["outputs"] == [["MulConstant-1-1_0", "b"], ["AddConstant-0-1_0", "a"]]
    assert len(model["layers"]) == 3


def test_computed_constants_are_folded(retrieve):
    w = chainer.Parameter(np.full((1, 3), 2, np.float32))
    model = retrieve(lambda x: x * F.exp(w + 1), variable(1, 3))
    assert types(model) == ["input", "ConstantInput", "Mul"]
    assert np.allclose(retrieve.constant(), np.exp(3))


def test_constants_of_fewer_axes_get_them(retrieve):
    c = np.arange(4, dtype=np.float32).reshape(4, 1, 1)
    model = retrieve(lambda x: x + c, variable(1, 4, 2, 2))
    constant = layers(model, "ConstantInput")[0]
    assert constant["shape"] == [4, 1, 1]
    assert retrieve.constant().shape == (1, 4, 1, 1)


def test_a_constant_that_gives_the_result_its_size_keeps_it(retrieve):
    c = np.ones((1, 1, 3, 3), np.float32)
    model = retrieve(lambda x: x + c, variable(1, 4, 1, 1))
    assert layers(model, "ConstantInput")[0]["shape"] == [1, 3, 3]


def test_a_constant_repeated_over_the_batch_is_kept_once(retrieve):
    retrieve(lambda x: x + np.full((3, 2), 5, np.float32), variable(3, 2))
    assert retrieve.constant().tolist() == [[5]]


def test_a_constant_that_differs_over_the_batch_is_refused(retrieve):
    c = np.arange(6, dtype=np.float32).reshape(3, 2)
    with pytest.raises(DumpError, match="each picture"):
        retrieve(lambda x: x + c, variable(3, 2))


def test_scalars_of_numpy_have_a_shape(retrieve):
    model = retrieve(lambda x: x * np.float32(2), variable(1, 3))
    file = retrieve.path / layers(model, "MulConstant")[0]["constant_weights_file"]
    assert file.read_bytes()[:4] == b"4\n1\n"


def test_constants_of_other_types_are_float32(retrieve):
    condition = np.array([[True, False]])
    retrieve.retriever.register_constants(condition)
    retrieve(lambda x: F.where(condition, x, -x), variable(1, 2))
    assert retrieve.constant().dtype == np.float32
    assert retrieve.constant().tolist() == [[1, 0]]


# -- names and hooks -------------------------------------------------------------------------


def test_layers_of_a_rank_are_numbered(retrieve):
    model = retrieve(lambda x: F.relu(x) + F.relu(x * 1.0) + F.relu(x), variable(1, 3))
    names = [p["name"] for p in layers(model, "ReLU")]
    assert names == ["ReLU-0-1", "ReLU-0-2", "ReLU-1-1"]


def test_prefixes_add_up_the_innermost_first(retrieve):
    def network(x):
        with tobiuo.MarkPrefixHook("outer"):
            x = F.relu(x)
            with tobiuo.MarkPrefixHook("inner"), tobiuo.MarkPrefixHook("inner"):
                x = F.tanh(x)
        return F.sigmoid(x)

    names = [p["name"] for p in layers(retrieve(network, variable(1, 3)))]
    assert names == ["x0", "outer-ReLU-0-1", "inner-inner-outer-Tanh-1-1", "Sigmoid-2-1"]


def test_the_traceback_ends_where_chainer_begins(retrieve):
    with tobiuo.TracebackHook():
        model = retrieve(lambda x: F.relu(x), variable(1, 3))
    text = layers(model, "ReLU")[0]["traceback"]
    assert "test_chainer.py" in text and "hooks.py" not in text


def test_max_pooling_has_one_name_in_all_versions(retrieve):
    model = retrieve(lambda x: F.max_pooling_2d(x, 2), variable(1, 3, 4, 4))
    assert layers(model)[1]["name"] == "MaxPooling2D-0-1"
    assert layers(model)[1]["type"] == "MaxPooling2D"


def test_verbose_mode_saves_every_output(tmp_path, capsys):
    x = variable(1, 3, 4, 4)
    with chainer.using_config("train", False), tobiuo.RetainHook():
        h = F.relu(x - 0.75)
        y = F.linear(h, np.ones((2, 48), np.float32))
    retriever = tobiuo.ModelRetriever(tmp_path, verbose=True)
    retriever.register_inputs(x, "x")
    retriever(y, "y").save()
    model = json.loads((tmp_path / "model.json").read_text())
    for p, expected in zip(model["layers"], [x, None, h, y]):
        file = p.get("output_tensor", p.get("input_tensor"))
        array = read_tensor(tmp_path / file)
        if expected is not None:
            assert np.array_equal(array, expected.data)
    assert model["layers"][3]["input_shapes"] == [[1, 48], [2, 48]]
    assert "LinearFunction-3-1" in capsys.readouterr().out
    assert (tmp_path / "computational_graph.dot").read_text().startswith("digraph")


# -- functions of the user -------------------------------------------------------------------


class Increment(chainer.FunctionNode):
    def forward(self, inputs):
        return (inputs[0] + 1,)


class OldIncrement(chainer.Function):
    def forward(self, inputs):
        return (inputs[0] + 1,)


def dump_increment(retriever, function, params):
    params["source"] = retriever.get_source_name(function.inputs[0])
    params["by"] = 1
    return params, {"table": np.arange(3)}


@pytest.mark.parametrize("kind", [Increment, OldIncrement])
def test_a_function_of_the_user(retrieve, kind):
    def network(x):
        y = kind()(x) if kind is OldIncrement else kind().apply((x,))[0]
        return F.relu(y)

    retrieve.retriever.add_dump_function(kind, dump_increment)
    model = retrieve(network, variable(1, 3))
    p, = layers(model, kind.__name__)
    assert p["by"] == 1 and p["source"] == "x0"
    assert read_tensor(retrieve.path / p["table_weights_file"]).tolist() == [0, 1, 2]
    assert layers(model, "ReLU")[0]["source"] == p["output_names"][0]


def test_an_unknown_function_is_named_with_all_others(retrieve):
    def network(x):
        with tobiuo.TracebackHook():
            return F.sinh(F.relu(F.arctan(x)))

    with pytest.raises(DumpError, match="(?s)Sinh-2-1.*test_chainer.*Arctan-0-1"):
        retrieve(network, variable(1, 3))


def test_only_functions_get_dump_functions():
    retriever = tobiuo.ModelRetriever(".")
    with pytest.raises(TypeError):
        retriever.add_dump_function(int, dump_increment)
    with pytest.raises(TypeError):
        retriever.add_dump_function(Increment, None)


def test_an_unused_output_of_a_function_leaves_no_hole(retrieve):
    class Halves(chainer.FunctionNode):
        def forward(self, inputs):
            return inputs[0] / 2, inputs[0] / 2

    retrieve.retriever.add_dump_function(Halves, dump_increment)
    model = retrieve(lambda x: F.relu(Halves().apply((x,))[1]), variable(1, 3))
    assert layers(model, "Halves")[0]["output_names"] == ["Halves-0-1_0", "Halves-0-1_1"]
    assert layers(model, "ReLU")[0]["source"] == "Halves-0-1_1"


# -- what chainer-trt got wrong --------------------------------------------------------------


def test_an_ellipsis_stands_for_its_axes(retrieve):
    model = retrieve(lambda x: x[..., 1:3], variable(1, 3, 4, 5))
    none = [None, None, None]
    assert layers(model, "GetItem")[0]["slices"] == [none, none, [1, 3, None]]


def test_a_softmax_over_another_axis_says_so(retrieve):
    model = retrieve(lambda x: F.softmax(F.softmax(x), axis=2), variable(1, 3, 4))
    assert [p.get("axis") for p in layers(model, "Softmax")] == [None, 1]


@pytest.mark.parametrize("axis, keepdims, expected", [
    (1, False, (None, None)), (-1, True, ([2], True)), ((1, 3), False, ([0, 2], None)),
])
def test_a_sum_over_other_axes_says_so(retrieve, axis, keepdims, expected):
    model = retrieve(lambda x: F.sum(x, axis=axis, keepdims=keepdims), variable(1, 3, 4, 4))
    p, = layers(model, "Sum")
    assert (p.get("axis"), p.get("keepdims")) == expected


def test_an_argmax_over_another_axis_says_so(retrieve):
    model = retrieve(lambda x: F.argmax(x, axis=2), variable(1, 3, 4, 4))
    assert layers(model, "ArgMax")[0]["axis"] == 1


def test_the_condition_of_where_is_its_first_source(retrieve):
    condition = chainer.Variable(np.array([[True, False]]))
    model = retrieve(lambda x, c: F.where(c, x, -x), variable(1, 2), condition)
    assert layers(model, "Where")[0]["sources"] == ["x1", "x0", "Neg-0-1_0"]


REFUSED = {
    "batch slice": (lambda x: x[1:], "batch"),
    "batch index": (lambda x: x[0], "batch"),
    "batch backwards": (lambda x: x[::-1], "batch"),
    "new axis": (lambda x: x[:, None], "new axis"),
    "list": (lambda x: x[:, [0, 2]], "index"),
    "softmax over the batch": (lambda x: F.softmax(x, axis=0), "batch"),
    "computed condition": (lambda x: F.where(x.data > 0, x, -x), "register"),
    "sum of everything": (lambda x: F.sum(x), "batch"),
    "argmax of everything": (lambda x: F.argmax(x), "batch"),
    "merged batch": (lambda x: F.reshape(x, (-1, 4)), "batch"),
    "moved batch": (lambda x: F.transpose(x), "batch"),
    "concatenated batch": (lambda x: F.concat([x, x], axis=0), "batch"),
    "split batch": (lambda x: F.split_axis(x, 2, 0)[0], "batch"),
    "missing axis": (lambda x: x[:, :2] + x[:, 0], "behind the batch"),
    "matrix product over the batch": (lambda x: F.matmul(F.linear(x, ONES), ONES[:2]), "F.linear"),
    "padded batch": (lambda x: F.pad(x, 1, "constant"), "batch"),
    "reflected": (lambda x: F.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect"), "one number"),
    "maximum of everything": (lambda x: F.max(x), "batch"),
    "swapped batch": (lambda x: F.swapaxes(x, 0, 1), "batch"),
    "stacked before the batch": (lambda x: F.stack([x, x]), "batch"),
    "unpooling with overlap": (lambda x: F.unpooling_2d(x, 3, 2), "side by side"),
    "soft softplus": (lambda x: F.softplus(x, 2.0), "beta"),
    "computed kernel": (lambda x: F.convolution_2d(x, F.relu(x)), "kernel"),
}
ONES = np.ones((2, 48), np.float32)


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_the_format_cannot_say_is_refused(retrieve, case):
    network, message = REFUSED[case]
    with pytest.raises(DumpError, match=message):
        retrieve(network, variable(2, 3, 4, 4))


@pytest.mark.parametrize("function", [F.dropout, L.BatchNormalization(3)])
def test_training_mode_is_refused(retrieve, function):
    x = variable(2, 3, 4, 4)
    with chainer.using_config("train", True), tobiuo.RetainHook():
        y = function(x)
    with pytest.raises(DumpError, match="training"):
        retrieve.retriever(y)


@pytest.mark.skipif(not NEWER, reason="Chainer 7 only")
def test_resizing_of_chainer_7_says_how(retrieve):
    model = retrieve(
        lambda x: F.resize_images(
            F.resize_images(x, (8, 8)), (9, 9), mode="nearest", align_corners=False),
        variable(1, 3, 4, 4))
    plain, other = layers(model, "ResizeImages")
    assert "mode" not in plain and "align_corners" not in plain
    assert (other["mode"], other["align_corners"]) == ("nearest", False)


def test_mistakes_of_the_caller(tmp_path):
    x = variable(1, 3)
    retriever = tobiuo.ModelRetriever(tmp_path)
    with pytest.raises(DumpError, match="no output"):
        retriever.save()
    with pytest.raises(DumpError, match="no function"):
        retriever(x)
    retriever.register_inputs(x, "x")
    with pytest.raises(DumpError, match="two inputs"):
        retriever.register_inputs(variable(1, 3), "x")
    with pytest.raises(DumpError, match="depends on no registered input"):
        retriever(F.relu(variable(1, 3)))
    with pytest.raises(DumpError, match="one name"):
        retriever.register_inputs([x, x], "y")
    y = F.relu(x)
    retriever(y, "y")
    retriever(y, "z")
    with pytest.raises(DumpError, match="already"):
        retriever.save()


def test_the_value_of_a_constant_must_have_been_kept(tmp_path):
    x = variable(1, 3)
    y = x + -variable(1, 3)     # not under RetainHook; Chainer itself keeps neither value
    retriever = tobiuo.ModelRetriever(tmp_path)
    retriever.register_inputs(x, "x")
    with pytest.raises(DumpError, match="RetainHook"):
        retriever(y)


def test_scale_layers_of_caffe_models_need_no_preprocessing(retrieve):
    net = chainer.Sequential(L.BatchNormalization(3), L.Scale(1, (3,), bias_term=True))
    net[1].W.data[:] = [1, 2, 3]
    retrieve.retriever.preprocess_caffemodel(net)
    model = retrieve(net, variable(1, 3, 4, 4))
    assert [p["shape"] for p in layers(model, "ConstantInput")] == [[1, 1, 1], [3, 1, 1]]
    assert types(model)[-2:] == ["Mul", "Add"]
