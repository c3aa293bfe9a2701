"""Our engines beside PyTorch on this machine's GPU: same networks, same inputs, same run.

usage: python3 peers.py [NET ...] [options]      (nets.py names the networks; default: all six)

  --bin DIR           where tobiuo and tobiuo-builder are (default: beside this file)
  --out DIR           models, engines, peers.json and peers.md go there (default: peers-out)
  --precisions A,B    ours: fp32,tf32,fp16,int8 (default: all)
  --samples N         (16) inputs that INT8 is calibrated on, drawn as the measured one
  --effort E          of our builds: fast, default, max
  --caches DIR        tactic caches of earlier runs; the builds are then not cold
  --rounds N          (5) each contender is measured once a round, in turn
  --replays N         (200) runs per measurement; the median counts
  --no-inductor       leave torch.compile out
  --no-warm           do not build a second time from the tactic cache

Contenders: PyTorch eager FP32 (TF32 off), CUDA graph TF32, CUDA graph FP16 channels-last,
Inductor (frozen, CUDA graphs) FP16 channels-last, and our engines. Batch 1, input resident on
the GPU, random weights. Two times of each, in microseconds:

  device   by device events around the run, queued behind a kernel that keeps the GPU busy, so
           that nothing of the host's launching shows: the GPU's own work
  called   the same events on an idle GPU: what a caller sees who launches one run and waits

Ours is measured by `tobiuo bench` in a process of its own; while one side runs the other is
idle. Every output is compared with eager FP32 on the same input.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    import numpy as np
    import torch

    import nets
except ImportError as e:
    sys.exit(f"peers.py needs PyTorch and NumPy, and onnx to export with: {e}")

HERE = Path(__file__).resolve().parent
# Bytes, arithmetic and launches at FP16 on an H200, and what is wanted there, microseconds.
FLOOR = {"resnet50": 75, "vgg16": 129, "googlenet": 80, "yolov2": 77, "yolov8n": 84, "mobilenetv2": 57}
WANTED = {"resnet50": 150, "vgg16": 230, "googlenet": 150, "yolov2": 150, "yolov8n": 190, "mobilenetv2": 110}
WANTED_INT8 = {"resnet50": 130, "vgg16": 150, "googlenet": 140, "yolov2": 110, "yolov8n": 170, "mobilenetv2": 105}
# PyTorch eager FP32 to INT8: at the least so many times faster (the ratios of chainer-trt's post).
LEAST_OF_EAGER = {"vgg16": 3.4, "googlenet": 22.1, "resnet50": 22.4, "yolov2": 4.5}
# FP16 to INT8: at the least so many times faster; 1.0 elsewhere.
LEAST_OF_FP16 = {"vgg16": 1.25, "yolov2": 1.25}
NAMES = {
    "eager_fp32": "PyTorch eager FP32",
    "graph_tf32": "PyTorch CUDA graph TF32",
    "graph_fp16": "PyTorch CUDA graph FP16 NHWC",
    "inductor_fp16": "Inductor FP16 NHWC",
    "ours_fp32": "Tobiuo FP32",
    "ours_tf32": "Tobiuo TF32",
    "ours_fp16": "Tobiuo FP16",
    "ours_int8": "Tobiuo INT8",
}


def log(*words):
    print(f"[{time.monotonic() - BEGUN:6.1f}s]", *words, file=sys.stderr, flush=True)


def tool(command, limit=590):
    """Runs one of our programs; its JSON document."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=limit)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


def compare(want, got):
    want, got = want.astype(np.float64).ravel(), got.astype(np.float64).ravel()
    error = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    return {"relative_error": error, "same_top1": bool(want.argmax() == got.argmax())}


def events(run, replays, busy):
    """Microseconds of each run; with `busy` cycles the GPU is kept waiting in front of it."""
    for _ in range(30):
        run()
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(replays):
        if busy:
            torch.cuda._sleep(busy)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


class Torch:
    """A way of PyTorch to run a network: `run` leaves its result in `result()`."""

    def __init__(self, run, result, busy_us):
        self.run, self.result = run, result
        # At the highest clock of today's cards; a longer wait does no harm.
        self.busy = int(busy_us * 2000)

    def measure(self, replays):
        return {"device": events(self.run, replays, self.busy), "called": events(self.run, replays, 0)}


def eager(net, x):
    last = {}

    def run():
        last["y"] = net(x)

    # The host needs milliseconds to launch a whole network op by op.
    return Torch(run, lambda: last["y"], 20000)


def graph(net, x):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            net(x)
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        y = net(x)
    return Torch(captured.replay, lambda: y, 300)


def inductor(net, x):
    import torch._inductor.config as config

    config.freezing = True
    config.triton.cudagraphs = True
    begun = time.monotonic()
    compiled = torch.compile(net)
    for _ in range(5):
        compiled(x)
    torch.cuda.synchronize()
    made = eager(compiled, x)
    made.busy = int(1000 * 2000)
    return made, time.monotonic() - begun


def tf32(on):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on


class Ours:
    def __init__(self, args, name, precision, model):
        self.args, self.precision = args, precision
        self.engine = args.out / f"{name}-{precision}.tobiuo"
        self.info = {}
        # A folder of its own: the compiled kernels lie beside the times.
        folder = (args.caches or args.out / "caches") / f"{name}-{precision}"
        kept = args.caches is not None and folder.exists()
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        cache = folder / "tactics.jsonl"
        command = [
            args.builder, "build", model, "-o", self.engine, "--device", "cuda", "--precision", precision,
            "--effort", args.effort, "--tactic-cache", cache, "--no-cache", "--json", "--quiet",
        ]
        if precision == "int8":
            # Calibrated once, and apart from the builds that are timed.
            scales = args.out / f"{name}.calibration"
            scales.unlink(missing_ok=True)
            command += ["--calibration-cache", scales]
            begun = time.monotonic()
            tool([self.args.builder, "build", model, "-o", args.out / f"{name}-cpu.tobiuo", "--device", "cpu", "--no-cache",
                  "--precision", "int8", "--with-pass", "merge-siblings", "--calibration", args.out / f"{name}.npz", "--samples", args.samples,
                  "--calibration-cache", scales, "--json", "--quiet"])
            self.info["calibration_s"] = time.monotonic() - begun
        for which in ["warm"] if kept else ["cold"] if args.no_warm else ["cold", "warm"]:
            begun = time.monotonic()
            report = tool(command)
            self.info[f"build_{which}_s"] = time.monotonic() - begun
            if which == "cold" or kept:
                self.info["build_report"] = {k: v for k, v in report.items() if not isinstance(v, (list, dict))}
                if report.get("int8"):
                    self.info["int8"] = report["int8"]
        self.info["engine_mib"] = self.engine.stat().st_size / 2**20

    def bench(self, replays, *more):
        return tool([self.args.tobiuo, "bench", self.engine, "-n", replays, "--warmup", 50, "--json", *more], 120)

    def measure(self, replays):
        r = self.bench(replays)
        self.info["setup_ms"] = r["setup_ms"]
        out = {"device": r["compute_us"]["p50"]}
        if "replay_us" in r:
            out["called"] = r["replay_us"]["p50"]
        self.info["upload_us"] = r["upload_us"]["p50"]
        self.info["download_us"] = r["download_us"]["p50"]
        self.info["latency_us"] = r["latency_us"]["p50"]
        return out

    def check(self, picture, want):
        with tempfile.TemporaryDirectory() as folder:
            done = tool([self.args.tobiuo, "infer", self.engine, "--input", picture, "--output-dir", folder, "--json"], 120)
            files = done.get("outputs", [])
            path = Path(files[0]["file"]) if files else next(Path(folder).glob("*.npy"))
            return compare(want, np.load(path))

    def kernels(self):
        layers = self.bench(20, "--layers").get("layers", [])
        return {"kernels": len(layers), "layers": layers}


def network(name, args):
    row = {"net": name, "times_us": {}, "checks": {}, "ours": {}, "failed": {}}
    model = args.out / f"{name}.onnx"
    contenders = {}
    with torch.inference_mode():
        tf32(False)
        net, x = nets.export(name, model)
        want = net(x).float().cpu().numpy()
        picture = args.out / f"{name}.npy"
        np.save(picture, x.cpu().numpy())
        if "int8" in args.precisions:
            samples = torch.rand(args.samples, *x.shape[1:], generator=torch.Generator().manual_seed(7))
            np.savez(args.out / f"{name}.npz", input=samples.numpy())
        for precision in args.precisions:
            log(f"{name}: building {precision}")
            try:
                contenders[f"ours_{precision}"] = ours = Ours(args, name, precision, model)
                row["checks"][f"ours_{precision}"] = ours.check(picture, want)
                log(f"{name}: {precision}", row["checks"][f"ours_{precision}"], {k: v for k, v in ours.info.items() if k.startswith("build_") and k.endswith("_s")})
            except Exception as e:
                contenders.pop(f"ours_{precision}", None)
                row["failed"][f"ours_{precision}"] = str(e)
                log(f"{name}: {precision} FAILED: {e}")
        contenders["eager_fp32"] = eager(net, x)
        tf32(True)
        contenders["graph_tf32"] = graph(net, x)
        tf32(False)
        half, _ = nets.make(name)
        half = half.half().to(memory_format=torch.channels_last)
        xh = x.half().to(memory_format=torch.channels_last)
        contenders["graph_fp16"] = graph(half, xh)
        if not args.no_inductor:
            log(f"{name}: Inductor")
            try:
                contenders["inductor_fp16"], row["inductor_build_s"] = inductor(half, xh)
            except Exception as e:
                row["failed"]["inductor_fp16"] = str(e)[-2000:]
                log(f"{name}: Inductor FAILED: {str(e)[-500:]}")
        for key, c in contenders.items():
            if isinstance(c, Torch):
                c.run()
                torch.cuda.synchronize()
                row["checks"][key] = compare(want, c.result().float().cpu().numpy())
        samples = {key: [] for key in contenders}
        for r in range(args.rounds):
            order = list(contenders)
            # Another one first each round.
            order = order[r % len(order):] + order[: r % len(order)]
            for key in order:
                try:
                    replays = args.replays if key != "eager_fp32" else max(20, args.replays // 4)
                    samples[key].append(contenders[key].measure(replays))
                except Exception as e:
                    row["failed"][key] = str(e)[-2000:]
                    log(f"{name}: {key} FAILED: {str(e)[-500:]}")
            log(f"{name}: round {r + 1}:", {k: round(s[-1]["device"], 1) for k, s in samples.items() if s})
        for key, all_rounds in samples.items():
            if not all_rounds:
                continue
            row["times_us"][key] = {
                which: round(statistics.median(s[which] for s in all_rounds), 2)
                for which in ("device", "called") if all(which in s for s in all_rounds)
            }
            device = [s["device"] for s in all_rounds]
            row["times_us"][key]["spread"] = [round(min(device), 2), round(max(device), 2)]
        for key, c in contenders.items():
            if isinstance(c, Ours):
                row["ours"][c.precision] = c.info
                try:
                    c.info.update(c.kernels())
                except Exception as e:
                    row["failed"][key] = str(e)[-2000:]
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    return row


def number(value, digits=0):
    return "-" if value is None else f"{value:.{digits}f}"


def table(rows, machine):
    def time_of(row, key, which="device"):
        return row["times_us"].get(key, {}).get(which)

    def ratio(row, key, which="device"):
        ours, base = time_of(row, "ours_fp16", which), time_of(row, key, which)
        return number(base / ours, 2) if ours and base else "-"

    lines = [
        f"{machine}. Batch 1, random weights, median of the medians of all rounds. `device`: the GPU's own time;",
        "`called`: on an idle GPU, the host's launch included.",
        "",
        "| µs | " + " | ".join(r["net"] for r in rows) + " |",
        "|---|" + "---|" * len(rows),
    ]

    def add(title, cell):
        lines.append(f"| {title} | " + " | ".join(cell(r) for r in rows) + " |")

    present = [k for k in NAMES if any(k in r["times_us"] for r in rows)]
    for key in present:
        add(f"{NAMES[key]}, device", lambda r: number(time_of(r, key), 1))
    for key in ("graph_fp16", "inductor_fp16", "ours_fp16"):
        if any(time_of(r, key, "called") for r in rows):
            add(f"{NAMES[key]}, called", lambda r: number(time_of(r, key, "called"), 1))
    add("**Inductor / ours FP16**, called", lambda r: ratio(r, "inductor_fp16", "called"))
    add("**Inductor / ours FP16**, device", lambda r: ratio(r, "inductor_fp16"))
    add("CUDA graph FP16 / ours FP16, device", lambda r: ratio(r, "graph_fp16"))
    add("wanted FP16 (H200)", lambda r: number(WANTED.get(r["net"])))
    add("floor FP16 (H200)", lambda r: number(FLOOR.get(r["net"])))
    if any(time_of(r, "ours_int8") for r in rows):
        both = lambda r, key, which: (time_of(r, key, which), time_of(r, "ours_int8", which))
        over = lambda r, key, which: number(both(r, key, which)[0] / both(r, key, which)[1], 2) if all(both(r, key, which)) else "-"
        add("Tobiuo INT8, called", lambda r: number(time_of(r, "ours_int8", "called"), 1))
        add("wanted INT8 (H200)", lambda r: number(WANTED_INT8.get(r["net"])))
        add("**ours FP16 / INT8**, device", lambda r: over(r, "ours_fp16", "device"))
        add("**PyTorch eager FP32 / ours INT8**, called", lambda r: over(r, "eager_fp32", "called"))
    add("ours / floor", lambda r: number((time_of(r, "ours_fp16") or 0) / FLOOR[r["net"]], 2) if time_of(r, "ours_fp16") else "-")
    for precision in ("fp32", "tf32", "fp16", "int8"):
        if not any(precision in r["ours"] for r in rows):
            continue
        of = lambda r, key: r["ours"].get(precision, {}).get(key)
        check = lambda r, key: r["checks"].get(f"ours_{precision}", {}).get(key)
        error = lambda r: f"{check(r, 'relative_error'):.1e}" if check(r, "relative_error") is not None else "-"
        add(f"{precision} relative error", error)
        add(f"{precision} same top-1", lambda r: {True: "yes", False: "NO", None: "-"}[check(r, "same_top1")])
        add(f"{precision} kernels", lambda r: number(of(r, "kernels")))
        add(f"{precision} build, s: cold / warm", lambda r: f"{number(of(r, 'build_cold_s'), 1)} / {number(of(r, 'build_warm_s'), 1)}")
        add(f"{precision} process start to first result, ms", lambda r: number(of(r, "setup_ms")))
    add("Inductor build, s", lambda r: number(r.get("inductor_build_s"), 1))
    add("Inductor relative error", lambda r: f"{r['checks']['inductor_fp16']['relative_error']:.1e}" if "inductor_fp16" in r["checks"] else "-")
    return "\n".join(lines) + "\n"


def judge(row):
    """What is not as it should be."""
    wrong = [f"{row['net']}: {key}: {why.splitlines()[0]}" for key, why in row["failed"].items()]
    # Random weights amplify what eight bits lose; a trained network's loss is measured elsewhere.
    for precision, most in (("fp32", 1e-4), ("tf32", 1e-2), ("fp16", 1e-2), ("int8", 0.3)):
        check = row["checks"].get(f"ours_{precision}")
        if check and not (check["relative_error"] <= most and (check["same_top1"] or precision == "int8")):
            wrong.append(f"{row['net']}: {precision} differs from PyTorch FP32: {check}")
    for key, which, least in (("ours_fp16", "device", LEAST_OF_FP16.get(row["net"], 1.0)),
                              ("eager_fp32", "called", LEAST_OF_EAGER.get(row["net"], 1.0))):
        base, ours = (row["times_us"].get(k, {}).get(which) for k in (key, "ours_int8"))
        if ours and base and base < least * ours:
            wrong.append(f"{row['net']}: INT8 is {base / ours:.2f} times as fast as {NAMES[key]}, not {least}")
    ours, base = (row["times_us"].get(k, {}).get("called") for k in ("ours_fp16", "inductor_fp16"))
    least = 2.0 if row["net"] == "resnet50" else 1.5
    if ours and base and base < least * ours:
        wrong.append(f"{row['net']}: {base / ours:.2f} times as fast as Inductor, not {least}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*")
    parser.add_argument("--bin", type=Path, default=HERE)
    parser.add_argument("--out", type=Path, default=Path("peers-out"))
    parser.add_argument("--precisions", default="fp32,tf32,fp16,int8", type=lambda t: t.split(","))
    parser.add_argument("--effort", default="default")
    parser.add_argument("--caches", type=Path)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--no-inductor", action="store_true")
    parser.add_argument("--no-warm", action="store_true")
    args = parser.parse_args()
    unknown = [n for n in args.nets if n not in nets.NETS]
    if unknown:
        parser.error(f"no network is called {unknown[0]}; there are {', '.join(nets.NETS)}")
    args.tobiuo, args.builder = args.bin.resolve() / "tobiuo", args.bin.resolve() / "tobiuo-builder"
    for program in (args.tobiuo, args.builder):
        if not program.exists():
            parser.error(f"{program} is missing: --bin names the folder of tobiuo and tobiuo-builder")
    if not torch.cuda.is_available():
        sys.exit("peers.py: PyTorch sees no CUDA device")
    args.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    smi = shutil.which("nvidia-smi")
    query = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.split() if smi else []
    machine = f"{torch.cuda.get_device_name()}, driver {driver[0] if driver else '?'}, PyTorch {torch.__version__}"
    rows, wrong = [], []
    for name in args.nets or nets.NETS:
        rows.append(network(name, args))
        wrong += judge(rows[-1])
        (args.out / "peers.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
        (args.out / "peers.md").write_text(table(rows, machine))
    print(table(rows, machine))
    for line in wrong:
        print("NOT AS WANTED:", line)
    return 1 if wrong else 0


BEGUN = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
