"""A model's engine for the CPU device beside ONNX Runtime: pictures, errors, the comparison.

Right: every output within 1e-4 of ONNX Runtime's, relative L2 (what `tobiuo-builder verify` asks of a
whole network), or no further than rounding the input moves ONNX Runtime's; of detectors' outputs [1, rows, anchors] every single row, so that small scores are seen
beside large boxes. Where an output holds the best boxes in order of score ([1, boxes, 6]), boxes of
equal score may change places. ONNX Runtime runs the graph as it is written: its optimiser turns a Pad
with zeros in front of a MaxPool into the pool's own padding, which is not zeros (YOLOv3-tiny is then
2 % off).
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime

LIMIT = 1e-4
# Rounding of f32, a few times.
SPECK = 3e-7


def pictures(count: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """Random pictures [count, 3, *size] in 0..1 with detail of every scale, as photographs have it.
    In plain noise all places look alike after a few layers, and batch normalisation would blow up what
    rounding leaves of their differences."""
    random = np.random.default_rng(seed)
    made = random.random((count, 3, *size)) - 0.5
    for cells in (2, 4, 8, 16, 32, 64):
        noise = random.random((count, 3, cells, cells)) - 0.5
        rows, columns = (interpolation(cells, n) for n in size)
        made += rows @ noise @ columns.T
    low, high = made.min((1, 2, 3), keepdims=True), made.max((1, 2, 3), keepdims=True)
    return ((made - low) / (high - low)).astype(np.float32)


def interpolation(cells: int, places: int) -> np.ndarray:
    """The matrix that interpolates `cells` values, from the first to the last, at `places` places."""
    at = np.linspace(0, cells - 1, places)
    return np.stack([np.interp(at, np.arange(cells), row) for row in np.eye(cells)], axis=1)


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """Relative L2 distance."""
    got, want = got.astype(np.float64), want.astype(np.float64)
    distance = np.linalg.norm(got - want)
    return 0.0 if distance == 0 else float(distance / max(np.linalg.norm(want), 1e-30))


def best_boxes(got: np.ndarray, want: np.ndarray) -> float:
    """Of boxes in order of score, each one's error beside the same box in the other list."""
    got, want = got[0].astype(np.float64), want[0].astype(np.float64)
    worst, left = relative(got[:, 4], want[:, 4]), list(range(len(got)))
    size = np.abs(want[:, :4]).max()
    # The last scores may tie with boxes that only one of the two took.
    last = want[-1, 4]
    for row in want:
        near = [i for i in left if abs(got[i, 4] - row[4]) <= LIMIT * abs(row[4]) and got[i, 5] == row[5]]
        if not near:
            if abs(row[4] - last) <= LIMIT * abs(last):
                continue
            return 1.0
        best = min(near, key=lambda i: np.abs(got[i, :4] - row[:4]).max())
        left.remove(best)
        worst = max(worst, float(np.abs(got[best, :4] - row[:4]).max() / size))
    return worst


def error(got: np.ndarray, want: np.ndarray) -> float:
    """The error of one output."""
    if got.shape != want.shape or got.dtype != want.dtype:
        raise ValueError(f"{got.dtype} {got.shape}, ONNX Runtime gives {want.dtype} {want.shape}")
    if not np.isfinite(want).all():
        raise ValueError("ONNX Runtime's output is not finite")
    if want.ndim == 3 and want.shape[2] == 6 and want.shape[1] <= 1000:
        return best_boxes(got, want)
    if want.ndim == 3 and want.shape[1] < want.shape[2]:
        return max(relative(g, w) for g, w in zip(got[0], want[0]))
    return relative(got, want)


def command(*words: object) -> str:
    """Runs a command; an error is its last line."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["nothing said"]
        raise RuntimeError(f"exit {done.returncode}: {' '.join(lines[-4:])}")
    return done.stdout


def session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime on a model as it is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    given = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def compare(programs: Path, model: Path, work: Path) -> tuple[float, float]:
    """Builds for the CPU; gives the largest error on two random pictures, and the largest that would
    be right: [`LIMIT`], or how far ONNX Runtime's own outputs move when its input changes by `SPECK`
    of itself, where that is more."""
    engine = work / "engine.tobiuo"
    command(programs / "tobiuo-builder", "build", model, "-o", engine, "--device", "cpu", "--task", "tensors", "--no-cache", "--quiet")
    runtime = session(model)
    (spec,) = runtime.get_inputs()
    outputs = [o.name for o in runtime.get_outputs()]
    worst, limit = 0.0, LIMIT
    for seed in (1, 2):
        x = pictures(1, tuple(spec.shape[2:]), seed)
        np.save(work / "x.npy", x)
        command(programs / "tobiuo", "infer", engine, "--input", f"{spec.name}={work / 'x.npy'}", "--output-dir", work / "out", "--quiet")
        want = runtime.run(None, {spec.name: x})
        worst = max(worst, *(error(np.load(work / "out" / f"{name}.npy"), w) for name, w in zip(outputs, want)))
        if worst > LIMIT:
            moved = runtime.run(None, {spec.name: x * np.float32(1 + SPECK)})
            limit = max(limit, *(error(m, w) for m, w in zip(moved, want)))
    return worst, limit


def lowers(programs: Path, model: Path, work: Path, sm: str, cache: Path) -> str:
    """Builds an untuned engine for a GPU; the number of its kernels."""
    engine = work / "gpu.tobiuo"
    command(programs / "tobiuo-builder", "build", model, "-o", engine, "--device", f"sm_{sm}", "--task", "tensors",
            "--tactic-cache", cache, "--no-cache", "--quiet")
    plan = json.loads(command(programs / "tobiuo", "inspect", engine, "--layers", "--json"))["manifest"]["plans"][0]
    return str(len(plan["program"]["cuda"]["launches"]))
