"""PyTorch modules: what a dump says, and what engines of them compute.

The engines need the programs: TOBIUO_BIN is the folder with tobiuo-builder and tobiuo.
"""

import json
import os
import subprocess

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: no module is dumped")
if not hasattr(torch, "export"):
    pytest.skip("PyTorch 2.1 or newer is not installed: no module is dumped",
                allow_module_level=True)

import tobiuo  # noqa: E402
from torch import nn  # noqa: E402
from torch_cases import CASES, Function, inputs, randomize  # noqa: E402
from tobiuo.dump import read_tensor  # noqa: E402

BIN = os.environ.get("TOBIUO_BIN")


def dump(path, module, *args, **options):
    module = module if isinstance(module, nn.Module) else Function(module)
    tobiuo.dump_torch(module, args, path, **options)
    return json.loads((path / "model.json").read_text())


def types(model):
    return [p["type"] for p in model["layers"]]


# -- engines ----------------------------------------------------------------------------------


@pytest.mark.skipif(BIN is None, reason="TOBIUO_BIN is not set: no engine of a module is run")
@pytest.mark.parametrize("name", CASES)
def test_an_engine_computes_what_the_module_does(name, tmp_path):
    module, shapes = CASES[name]
    module = randomize(module).eval()
    args = inputs(shapes)
    with torch.no_grad():
        expected = module(*args)
    tobiuo.dump_torch(module, args, tmp_path / "dump", output_names=["y"])
    model = json.loads((tmp_path / "dump/model.json").read_text())
    batch = str(shapes[0][0])
    run(["tobiuo-builder", "build", tmp_path / "dump", "-o", tmp_path / "e", "--device", "cpu",
         "--batch", batch])
    command = ["tobiuo", "infer", tmp_path / "e", "--output-dir", tmp_path / "out"]
    for key, x in zip(model["inputs"], args):
        np.save(tmp_path / f"{key}.npy", x.numpy())
        command += ["--input", f"{key}={tmp_path / key}.npy"]
    run(command)
    y, expected = np.load(tmp_path / "out/y.npy"), expected.numpy()
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


def run(command):
    command = [os.path.join(BIN, command[0]), *map(str, command[1:])]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# -- what a dump says -------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_dumped(name, tmp_path):
    module, shapes = CASES[name]
    model = dump(tmp_path, module, *inputs(shapes))
    assert len(model["outputs"]) == 1 and len(model["inputs"]) == len(shapes)


def test_a_classifier(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
    model = dump(tmp_path, net, torch.rand(1, 3, 8, 8), input_names=["picture"],
                 output_names=["prob"])
    assert model["inputs"] == ["picture"]
    assert model["outputs"] == [["3/linear", "prob"]]
    assert types(model) == [
        "input", "Convolution2DFunction", "ReLU", "Reshape", "LinearFunction"]
    conv = model["layers"][1]
    assert conv["name"] == "0/conv2d" and conv["source"] == "picture"
    kernel = read_tensor(tmp_path / conv["kernel_weights_file"])
    assert np.array_equal(kernel, net[0].weight.detach().numpy())


def test_the_modules_mode_stays(tmp_path):
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3))
    net[0].eval()
    model = dump(tmp_path, net, torch.rand(2, 3))
    assert types(model) == ["input", "BatchNormalizationFunction"]
    assert not net[0].training and net[1].training


def test_a_training_module_is_dumped_as_in_eval_mode(tmp_path):
    net = nn.BatchNorm1d(3)
    net.running_mean += 5
    dump(tmp_path, net, torch.rand(2, 3))
    file, = tmp_path.glob("*_mean.weights")
    assert read_tensor(file).tolist() == [5, 5, 5]


def test_constants_are_computed_now(tmp_path):
    table = torch.arange(3.0)

    def forward(x):
        return x + (table * 2).sum() + table.reshape(3, 1)

    model = dump(tmp_path, forward, torch.rand(1, 3, 4))
    assert types(model) == ["input", "ConstantInput", "ConstantInput", "Add", "Add"]
    shapes = [p["shape"] for p in model["layers"] if p["type"] == "ConstantInput"]
    assert shapes == [[1, 1], [3, 1]]


def test_several_outputs_and_one_twice(tmp_path):
    def forward(x):
        h = x.relu()
        return h, h.exp(), h, x

    model = dump(tmp_path, forward, torch.rand(1, 3), output_names=["a", "b", "c", "d"])
    tensors = [tensor for tensor, _ in model["outputs"]]
    assert [name for _, name in model["outputs"]] == ["a", "b", "c", "d"]
    assert len(set(tensors)) == 4
    assert types(model).count("Copy") == 2


def test_verbose_mode_saves_outputs(tmp_path):
    x = torch.rand(1, 3) - 0.5
    model = dump(tmp_path, lambda x: (x.relu() * 2).sum(1), x, verbose=True, traceback=True)
    relu = next(p for p in model["layers"] if p["type"] == "ReLU")
    assert np.array_equal(read_tensor(tmp_path / relu["output_tensor"]), x.relu().numpy())
    assert "torch_cases.py" in relu["traceback"]
    assert all("output_tensor" in p for p in model["layers"][1:])


def test_half_precision_weights_stay(tmp_path):
    net = nn.Linear(3, 2).half()
    dump(tmp_path, net, torch.rand(1, 3).half())
    assert read_tensor(tmp_path / "linear_kernel.weights").dtype == np.float16


@torch.library.custom_op("tobiuo_test::wave", mutates_args=())
def wave(x: torch.Tensor, frequency: float) -> torch.Tensor:
    return torch.sin(x * frequency)


@wave.register_fake
def _(x, frequency):
    return torch.empty_like(x)


def dump_wave(dumper, node, params):
    params["source"] = dumper.get_source_name(node.args[0])
    params["frequency"] = node.args[1]
    return params, {"table": np.float32([1, 2])}


@pytest.mark.parametrize("key", [wave, "tobiuo_test::wave", torch.ops.tobiuo_test.wave,
                                 torch.ops.tobiuo_test.wave.default])
def test_an_operator_of_the_user(tmp_path, key):
    model = dump(tmp_path, lambda x: wave(x.relu(), 3.0).tanh(), torch.rand(1, 3),
                 dump_functions={key: dump_wave})
    layer = model["layers"][2]
    assert (layer["type"], layer["frequency"]) == ("wave", 3.0)
    assert layer["source"] == model["layers"][1]["output_names"][0]
    assert model["layers"][3]["source"] == layer["output_names"][0]
    assert read_tensor(tmp_path / layer["table_weights_file"]).tolist() == [1, 2]


def test_all_unknown_operators_are_listed(tmp_path):
    with pytest.raises(tobiuo.DumpError, match="(?s)aten::sinh.*aten::cosh"):
        dump(tmp_path, lambda x: x.sinh() + x.cosh(), torch.rand(1, 3))


REFUSED = {
    "batch slice": lambda x: x[1:],
    "merged batch": lambda x: x.reshape(-1, 4),
    "moved batch": lambda x: x.transpose(0, 1),
    "sum of everything": lambda x: x.sum(),
    "mean over the batch": lambda x: x.mean(0, keepdim=True).expand(2, -1, -1, -1),
    "softmax over the batch": lambda x: x.softmax(0),
    "missing axis": lambda x: x[:, :2] + x[:, 0],
    "joined batch": lambda x: torch.cat([x, x]),
    "uneven windows": lambda x: nn.functional.adaptive_avg_pool2d(x, 3),
    "inexact scale": lambda x: nn.functional.interpolate(x, scale_factor=1.3, mode="bilinear"),
    "causal": lambda x: nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True),
    "statistics of the batch": nn.BatchNorm2d(3, track_running_stats=False),
    "constant output": lambda x: torch.ones(2, 3),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_format_cannot_say_is_refused(tmp_path, name):
    with pytest.raises(tobiuo.DumpError):
        dump(tmp_path, REFUSED[name], torch.rand(2, 3, 4, 4))


def test_names_must_match(tmp_path):
    with pytest.raises(tobiuo.DumpError, match="1 inputs"):
        dump(tmp_path, lambda x: x.relu(), torch.rand(1, 3), input_names=["a", "b"])
    with pytest.raises(tobiuo.DumpError, match="1 outputs"):
        dump(tmp_path, lambda x: x.relu(), torch.rand(1, 3), output_names=["a", "b"])
    with pytest.raises(tobiuo.DumpError, match="batch"):
        dump(tmp_path, lambda a, b: a + b, torch.rand(2, 3), torch.rand(1, 3))
