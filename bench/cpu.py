"""Our CPU device beside ONNX Runtime's CPU provider: same machine, same run, interleaved.

usage: python3 bench/cpu.py [--rounds 5] [--iterations 20] [--threads N] [--json FILE] [MODEL.onnx ...]

Without models: ResNet50 and MobileNetV2 (random weights, bench/models.py) and the bundled
detector. Each round times ONNX Runtime, then `tobiuo bench`; the table has the medians of
each round's median and checks that both give the same answer. Needs `cargo build --release`
before and the packages of bench/requirements.txt.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def binary(name):
    base = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = base / "release" / name
    if not path.exists():
        sys.exit(f"{path} is missing: run `cargo build --release --workspace` first")
    return str(path)


def main():
    import onnxruntime as ort

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json")
    parser.add_argument("models", nargs="*")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="tobiuo-bench-"))
    models = [Path(m) for m in args.models]
    if not models:
        subprocess.run([sys.executable, ROOT / "bench/models.py", work], check=True, stdout=subprocess.DEVNULL)
        models = [work / "resnet50.onnx", work / "mobilenetv2.onnx", ROOT / "examples/camera/assets/detector.onnx"]
    env = dict(os.environ, TOBIUO_THREADS=str(args.threads))
    rows = []
    for model in models:
        engine = work / f"{model.stem}.tobiuo"
        subprocess.run([binary("tobiuo-builder"), "build", model, "-o", engine, "--device", "cpu", "--quiet"], check=True)
        options = ort.SessionOptions()
        options.intra_op_num_threads = args.threads
        options.inter_op_num_threads = 1
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        spec = session.get_inputs()[0]
        x = np.random.default_rng(1).random([d if isinstance(d, int) else 1 for d in spec.shape], dtype=np.float32)
        expected = session.run(None, {spec.name: x})
        # Right before fast.
        np.save(work / "x.npy", x)
        subprocess.run([binary("tobiuo"), "infer", engine, "--input", f"{spec.name}={work / 'x.npy'}",
                        "--output-dir", work / model.stem], check=True, env=env, stdout=subprocess.DEVNULL)
        error = 0.0
        for info, want in zip(session.get_outputs(), expected):
            got = np.load(work / model.stem / f"{info.name}.npy")
            error = max(error, float(np.linalg.norm(got - want) / np.linalg.norm(want)))
        theirs, ours, last = [], [], {}
        for _ in range(args.rounds):
            session.run(None, {spec.name: x})
            times = []
            for _ in range(args.iterations):
                start = time.perf_counter()
                session.run(None, {spec.name: x})
                times.append((time.perf_counter() - start) * 1e3)
            theirs.append(statistics.median(times))
            out = subprocess.run([binary("tobiuo"), "bench", engine, "--iterations", str(args.iterations), "--json"],
                                 check=True, env=env, capture_output=True, text=True)
            last = json.loads(out.stdout)
            ours.append(last["latency_us"]["p50"] / 1e3)
        a, b = statistics.median(theirs), statistics.median(ours)
        rows.append({"model": model.stem, "onnxruntime_ms": round(a, 2), "tobiuo_ms": round(b, 2),
                     "ratio": round(b / a, 2), "relative_error": float(f"{error:.2g}"),
                     "setup_ms": round(last["setup_ms"], 1), "peak_rss_mib": round(last["peak_rss_mib"], 1)})
    print(f"| network | ONNX Runtime {ort.__version__} ms | Tobiuo ms | ratio | relative error | setup ms | peak RSS MiB |")
    print("|---|---|---|---|---|---|---|")
    for r in rows:
        print("| {model} | {onnxruntime_ms} | {tobiuo_ms} | {ratio} | {relative_error} | {setup_ms} | {peak_rss_mib} |".format(**r))
    print(f"\n{args.threads} threads, {args.rounds} rounds of {args.iterations}, medians, interleaved")
    if args.json:
        Path(args.json).write_text(json.dumps({"threads": args.threads, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
