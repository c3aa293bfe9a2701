"""Real exporters' graphs: built, run, and compared with ONNX Runtime. `tests/exporters/run` calls it.

usage: exporters.py [--bin DIR] [--work DIR] [--only A,B] [--cuda SM] [--again] [--keep] [--write FILE]

  --bin DIR    where tobiuo and tobiuo-builder are (default: target/release)
  --work DIR   where models and results go (default: target/exporters)
  --only A,B   networks or exporters whose names have one of these in them
  --cuda SM    also build at the first size for this GPU, which need not be here; needs NVRTC
               (default 87; 0: do not)
  --again      also what has its result in the work folder already
  --keep       leave models there
  --write FILE puts the table between its marks in that file

Each network of networks.py at two sizes, on two random pictures. Right: every output within 1e-4 of
ONNX Runtime's, relative L2 (what `tobiuo-builder verify` asks of a whole network); of detectors'
outputs [1, rows, anchors] every single row, so that small scores are seen beside large boxes. Where an
output holds the best boxes in order of score ([1, boxes, 6]), boxes of equal score may change places.
ONNX Runtime runs the graph as it is written: its optimiser turns a Pad with zeros in front of a MaxPool
into the pool's own padding, which is not zeros (YOLOv3-tiny is then 2 % off).

Exit status 1 when a network that its exporter writes does not build or does not agree.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = 1e-4
MARKS = ("<!-- exporters: begin -->\n", "<!-- exporters: end -->\n")


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


def compare(programs: Path, model: Path, work: Path) -> float:
    """Builds for the CPU and gives the largest error on two random pictures."""
    engine = work / "engine.tobiuo"
    command(programs / "tobiuo-builder", "build", model, "-o", engine, "--device", "cpu", "--task", "tensors", "--no-cache", "--quiet")
    from networks import pictures

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for seed in (1, 2):
        (spec,) = session.get_inputs()
        x = pictures(1, tuple(spec.shape[2:]), seed).numpy()
        np.save(work / "x.npy", x)
        command(programs / "tobiuo", "infer", engine, "--input", f"{spec.name}={work / 'x.npy'}", "--output-dir", work / "out", "--quiet")
        for output, want in zip(session.get_outputs(), session.run(None, {spec.name: x})):
            worst = max(worst, error(np.load(work / "out" / f"{output.name}.npy"), want))
    return worst


def lowers(programs: Path, model: Path, work: Path, sm: str) -> str:
    """Builds an untuned engine for a GPU; the number of its kernels."""
    engine = work / "gpu.tobiuo"
    command(programs / "tobiuo-builder", "build", model, "-o", engine, "--device", f"sm_{sm}", "--task", "tensors",
            "--tactic-cache", work.parent / "tactics.jsonl", "--no-cache", "--quiet")
    plan = json.loads(command(programs / "tobiuo", "inspect", engine, "--layers", "--json"))["manifest"]["plans"][0]
    return str(len(plan["program"]["cuda"]["launches"]))


def row(programs: Path, work: Path, name: str, exporter: str, size: tuple[int, int], export, sm: str) -> dict:
    """One network at one size."""
    model = work / "model.onnx"
    made = {"network": name, "exporter": exporter, "size": f"{size[0]}x{size[1]}", "nodes": 0, "error": None,
            "reason": "", "exported": True, "kernels": "", "cuda_reason": ""}
    begun = time.monotonic()
    if not model.exists():
        try:
            export(size, model)
        except Exception as e:  # Whatever an exporter throws is its reason.
            made.update(exported=False, reason=f"the exporter refuses: {str(e).splitlines()[0]}")
            return made
    made["nodes"] = len(onnx.load(model, load_external_data=False).graph.node)
    try:
        made["error"] = compare(programs, model, work)
        if made["error"] > LIMIT:
            made["reason"] = f"error over {LIMIT:g}"
    except Exception as e:
        made["reason"] = str(e).replace(str(model), "")
    if sm != "0":
        try:
            made["kernels"] = lowers(programs, model, work, sm)
        except Exception as e:
            made["cuda_reason"] = str(e).replace(str(model), "")
    made["seconds"] = round(time.monotonic() - begun, 1)
    return made


def table(rows: list[dict], versions: dict[str, str], sm: str) -> str:
    """The table as Markdown: a line per network and exporter."""
    lines = [", ".join(f"{k} {v}" for k, v in versions.items()) + ".", "",
             f"| network | exporter | nodes | size: relative error | kernels, sm_{sm} |", "|---|---|---|---|---|"]
    for key in dict.fromkeys((r["network"], r["exporter"]) for r in rows):
        of = [r for r in rows if (r["network"], r["exporter"]) == key]
        cells = [f"{r['size']}: " + (f"{r['error']:.1e}" if not r["reason"] else r["reason"]) for r in of]
        kernels = [r["cuda_reason"] or r["kernels"] for r in of if r["cuda_reason"] or r["kernels"]]
        nodes = dict.fromkeys(str(r["nodes"]) for r in of if r["exported"])
        lines.append(f"| {key[0]} | {key[1]} | {', '.join(nodes)} | {'; '.join(cells)} | {', '.join(kernels)} |")
    return "\n".join(lines) + "\n"


def versions() -> dict[str, str]:
    """What wrote and what is compared with."""
    from importlib.metadata import version

    return {n: version(p) for n, p in (("PyTorch", "torch"), ("torchvision", "torchvision"), ("Ultralytics", "ultralytics"),
                                       ("ONNX Runtime", "onnxruntime"))}


def main() -> int:
    base = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--bin", type=Path, default=base / "release")
    parser.add_argument("--work", type=Path, default=base / "exporters")
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--cuda", default="87")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--again", action="store_true")
    args = parser.parse_args()
    for program in ("tobiuo", "tobiuo-builder"):
        if not (args.bin / program).exists():
            print(f"{args.bin / program} is missing: cargo build --release -p tobiuo -p tobiuo-builder", file=sys.stderr)
            return 2
    from networks import networks

    args.work.mkdir(parents=True, exist_ok=True)
    work, rows = args.work.resolve(), []
    for name, exporter, sizes, export in networks():
        if args.only and not any(o in f"{name} {exporter}" for o in args.only.split(",")):
            continue
        for size in sizes:
            file = work / f"{name}-{exporter}-{size[0]}x{size[1]}.json"
            if args.again or not file.exists():
                folder = work / file.stem
                folder.mkdir(exist_ok=True)
                sm = args.cuda if size == sizes[0] else "0"
                made = row(args.bin.resolve(), folder, name, exporter, size, export, sm)
                file.write_text(json.dumps(made))
                if not args.keep:
                    shutil.rmtree(folder)
            rows.append(json.loads(file.read_text()))
            print(json.dumps(rows[-1]), flush=True)
    text = table(rows, versions(), args.cuda)
    print(text)
    if args.write:
        before, rest = args.write.read_text().split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        args.write.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")
    return int(any(r["exported"] and (r["reason"] or r["cuda_reason"]) for r in rows))


if __name__ == "__main__":
    sys.exit(main())
