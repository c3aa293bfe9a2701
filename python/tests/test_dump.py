"""The format itself; needs NumPy only."""

import json

import numpy as np
import pytest
from tobiuo.dump import Dump, DumpError, plain, read_tensor, to_float, write_tensor


def test_a_tensor_file_is_two_lines_and_the_elements(tmp_path):
    file = tmp_path / "a.weights"
    write_tensor(file, np.array([[1.0, 2.0, 3.0]], np.float32))
    assert file.read_bytes() == b"4\n1,3\n" + np.array([1, 2, 3], "<f4").tobytes()
    write_tensor(file, np.array([0.5], np.float16))
    assert file.read_bytes() == b"2\n1\n" + np.array([0.5], "<f2").tobytes()


def test_a_scalar_has_a_shape(tmp_path):
    file = tmp_path / "a.weights"
    write_tensor(file, np.float32(1))
    assert file.read_bytes() == bytes.fromhex("340a310a0000803f")


def test_elements_are_written_in_c_order(tmp_path):
    file, array = tmp_path / "a.weights", np.arange(6, dtype=np.float32).reshape(2, 3)
    write_tensor(file, array.T)
    assert np.array_equal(read_tensor(file), array.T)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int32", "int64", "float64", ">f4"])
def test_other_types_become_float32(dtype):
    result = to_float(np.array([0, 1], dtype), "x")
    assert result.dtype == np.float32 and result.tolist() == [0, 1]


@pytest.mark.parametrize("array", [
    np.array([2**24 + 1]), np.array([1e300]), np.array([1j]), np.array(["a"]),
])
def test_what_float32_cannot_hold_is_refused(array):
    with pytest.raises(DumpError):
        to_float(array, "x")


def test_infinity_stays():
    assert to_float(np.array([np.inf]), "x")[0] == np.inf


def layer(name, source, rank=0, **more):
    return {"type": "ReLU", "name": name, "output_names": [f"{name}_0"], "rank": rank,
            "source": source, **more}


def test_layers_are_sorted_and_inputs_keep_their_order(tmp_path):
    dump = Dump(tmp_path / "d")
    dump.add_layer(layer("b", "a_0", 1), None)
    dump.add_layer(layer("a", "x"), {"kernel": np.zeros(3), "nothing": None})
    dump.add_input("z", [1])
    dump.add_input("x", [3])
    dump.add_constant(np.zeros((1, 3)), "c")
    dump.add_output("b_0", "y")
    dump.save()
    model = json.loads((tmp_path / "d/model.json").read_text())
    assert model["inputs"] == ["z", "x"]
    assert model["outputs"] == [["b_0", "y"]]
    assert [p["name"] for p in model["layers"]] == ["z", "x", "c", "a", "b"]
    assert model["layers"][3]["kernel_weights_file"] == "a_kernel.weights"
    assert "nothing_weights_file" not in model["layers"][3]
    assert not (tmp_path / "d/model.json.part").exists()


@pytest.mark.parametrize("break_it, message", [
    (lambda d: None, "no output"),
    (lambda d: (d.add_layer(layer("a", "x"), None), d.add_output("b_0", "y")), "no layer makes"),
    (lambda d: (d.add_layer(layer("a", "q"), None), d.add_output("a_0", "y")), "reads 'q'"),
    (lambda d: (d.add_layer(layer("a", "x"), None), d.add_layer(layer("a", "x"), None),
                d.add_output("a_0", "y")), "is used by"),
    (lambda d: (d.add_output("x", "y"), d.add_output("z", "y")), "two outputs"),
    (lambda d: (d.add_output("x", "y"), d.add_output("x", "z")), "output already"),
    (lambda d: (d.add_layer(layer("a", "x", eps=float("nan")), None), d.add_output("a_0", "y")),
     "JSON"),
])
def test_a_dump_that_cannot_be_built_is_refused(tmp_path, break_it, message):
    dump = Dump(tmp_path)
    dump.add_input("x", [3])
    with pytest.raises(DumpError, match=message):
        break_it(dump)
        dump.document()


def test_file_names_stay_in_the_directory(tmp_path):
    dump = Dump(tmp_path, verbose=True)
    dump.add_input("../x/y", [1], np.zeros((1, 1)))
    dump.add_input(".._x_y", [1], np.zeros((1, 1)))
    dump.add_output("../x/y", "out")
    dump.save()
    files = [p["input_tensor"] for p in json.loads((tmp_path / "model.json").read_text())["layers"]]
    assert files == [".._x_y.tensor", ".._x_y~1.tensor"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [*sorted(files), "model.json"]


def test_numbers_of_numpy_become_numbers_of_json():
    value = {"a": (np.int64(1), np.float32(0.5), np.bool_(True)), "b": np.arange(2), "c": None}
    assert json.dumps(plain(value)) == '{"a": [1, 0.5, true], "b": [0, 1], "c": null}'
