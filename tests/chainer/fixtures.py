#!/usr/bin/env python3
"""Makes the dumps of tests/fixtures/chainer again and compares them with those checked in.

    python fixtures.py WORK_DIR

Exits with 1 where a description differs, or a number by more than 1e-6 of the largest.
"""

import pathlib
import shutil
import subprocess
import sys

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "chainer"
sys.path.insert(0, str(FIXTURES.parents[2] / "python"))

import chainer  # noqa: E402
import numpy as np  # noqa: E402
from tobiuo.dump import read_tensor  # noqa: E402

# Chainer 7 has a function of its own for a mean, and resizes in more ways.
ONLY_7 = {"mean_of_channels", "resize_images_nearest", "resize_images_corners"}
LIMIT = 1e-6


def differences(old, new):
    # ONNX files hold the exporter's idea of names; what they compute is compared by the tests.
    names, made = (
        {f.name for f in folder.iterdir() if f.suffix != ".onnx"} for folder in (old, new)
    )
    if names != made:
        yield f"files differ: {', '.join(sorted(names ^ made))}"
    for name in sorted(names & made):
        if name == "model.json":
            if (old / name).read_text() != (new / name).read_text():
                yield "model.json differs"
            continue
        a, b = (read_tensor(folder / name).astype(np.float64) for folder in (old, new))
        if a.shape != b.shape:
            yield f"{name}: {a.shape}, {b.shape}"
        elif np.abs(a - b).max() > LIMIT * max(np.abs(a).max(), 1e-30):
            yield f"{name}: differs by {np.abs(a - b).max():g}"


def main():
    work = pathlib.Path(sys.argv[1])
    shutil.rmtree(work, ignore_errors=True)
    subprocess.run([sys.executable, "-W", "ignore", FIXTURES / "make.py", "--out", work],
                   check=True, stdout=subprocess.DEVNULL)
    checked_in = {p.parent.name for p in FIXTURES.glob("*/model.json")}
    if chainer.__version__.startswith("5"):
        checked_in -= ONLY_7
        shutil.rmtree(work / "mean_of_channels")
    made = {p.parent.name for p in work.glob("*/model.json")}
    problems = [f"{name}: only in one place" for name in sorted(checked_in ^ made)]
    for name in sorted(checked_in & made):
        problems += [f"{name}: {text}" for text in differences(FIXTURES / name, work / name)]
    print("\n".join(problems) or f"{len(made)} dumps as checked in, Chainer {chainer.__version__}")
    shutil.rmtree(work)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
