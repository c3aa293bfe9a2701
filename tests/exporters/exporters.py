"""Real exporters' graphs: built, run, and compared with ONNX Runtime. `tests/exporters/run` calls it.

usage: exporters.py [--bin DIR] [--work DIR] [--only A,B] [--cuda SM] [--again] [--keep] [--write FILE]
       exporters.py --graphs DIR [--only A,B]

  --bin DIR    where tobiuo and tobiuo-builder are (default: target/release)
  --work DIR   where models and results go (default: target/exporters)
  --only A,B   networks or exporters whose names have one of these in them
  --cuda SM    also build at the first size for this GPU, which need not be here; needs NVRTC
               (default 87; 0: do not)
  --again      also what has its result in the work folder already: a run that was cut goes on
  --keep       leave models there, where --graphs finds them
  --write FILE puts the table between its marks in that file; lines that were not measured stay
  --graphs DIR writes the graphs that CI runs, without their weights (graphs.py)

Each network of networks.py at two sizes, on two random pictures; compare.py says what is right.

Exit status 1 when a network that its exporter writes does not build or does not agree.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

import onnx

from compare import LIMIT, compare, lowers
from networks import graph_networks, networks

ROOT = Path(__file__).resolve().parent.parent.parent
MARKS = ("<!-- exporters: begin -->\n", "<!-- exporters: end -->\n")


def row(programs: Path, file: Path, name: str, exporter: str, size: tuple[int, int], export, sm: str, keep: bool) -> dict:
    """One network at one size: what of it is not in its file yet."""
    made = {"network": name, "exporter": exporter, "size": f"{size[0]}x{size[1]}", "nodes": 0, "error": None,
            "reason": "", "exported": True, "kernels": "", "cuda_reason": ""}
    if file.exists():
        made.update(json.loads(file.read_text()))
    compared = made["error"] is not None or made["reason"]
    lowered = sm == "0" or made["kernels"] or made["cuda_reason"]
    if not made["exported"] or (compared and lowered):
        return made
    work = file.with_suffix("")
    model = work / "model.onnx"
    work.mkdir(exist_ok=True)
    begun = time.monotonic()
    if not model.exists():
        try:
            export(size, model)
        except Exception as e:  # Whatever an exporter throws is its reason.
            made.update(exported=False, reason=f"the exporter refuses: {(str(e) or repr(e)).splitlines()[0].split('. ')[0]}")
    if made["exported"]:
        made["nodes"] = len(onnx.load(model, load_external_data=False).graph.node)
    if made["exported"] and not compared:
        try:
            made["error"], made["limit"] = compare(programs, model, work)
            if made["error"] > made["limit"]:
                made["reason"] = f"error {made['error']:.1e}, over {made['limit']:.1e}"
        except Exception as e:
            made["reason"] = str(e).replace(str(model), "")
    if made["exported"] and not lowered:
        try:
            made["kernels"] = lowers(programs, model, work, sm, work.parent / "tactics.jsonl")
        except Exception as e:
            made["cuda_reason"] = str(e).replace(str(model), "")
    made["seconds"] = round(made.get("seconds", 0) + time.monotonic() - begun, 1)
    file.write_text(json.dumps(made))
    if not keep:
        shutil.rmtree(work)
    return made


def table(rows: list[dict], versions: dict[str, str], sm: str, before: str) -> str:
    """The table as Markdown: a line per network and exporter, those not measured as they were."""
    lines = [", ".join(f"{k} {v}" for k, v in versions.items()) + ".", "",
             f"| network | exporter | nodes | size: relative error | kernels, sm_{sm} |", "|---|---|---|---|---|"]
    old = {tuple(line.split(" | ")[:2]): line for line in before.splitlines() if line.startswith("| ")}
    for name, exporter, *_ in networks():
        of = [r for r in rows if (r["network"], r["exporter"]) == (name, exporter)]
        if not of:
            lines += filter(None, [old.get((f"| {name}", exporter))])
            continue
        cells = [f"{r['size']}: {r['reason'] or measured(r)}" for r in of]
        kernels = [r["cuda_reason"] or r["kernels"] for r in of if r["cuda_reason"] or r["kernels"]]
        nodes = dict.fromkeys(str(r["nodes"]) for r in of if r["exported"])
        lines.append(f"| {name} | {exporter} | {', '.join(nodes)} | {'; '.join(cells)} | {', '.join(kernels)} |")
    return "\n".join(lines) + "\n"


def measured(row: dict) -> str:
    """The error, and where the network magnifies rounding, by how much."""
    limit = row.get("limit", LIMIT)
    return f"{row['error']:.1e}" + (f" (rounding: {limit:.1e})" if limit > LIMIT else "")


def versions() -> dict[str, str]:
    """What wrote and what is compared with."""
    from importlib.metadata import version

    return {n: version(p) for n, p in (("PyTorch", "torch"), ("torchvision", "torchvision"), ("Ultralytics", "ultralytics"),
                                       ("ONNX Runtime", "onnxruntime"))}


def write_graphs(folder: Path, work: Path, only: list[str]) -> int:
    """Writes the graphs that are checked in."""
    import graphs

    total = 0
    for name, exporter, size, export in graph_networks():
        if only and not any(o in f"{name} {exporter}" for o in only):
            continue
        # As row() leaves it.
        model = work / f"{name}-{exporter}-{size[0]}x{size[1]}" / "model.onnx"
        if not model.exists():
            model.parent.mkdir(exist_ok=True)
            export(size, model)
        path = folder / f"{name}.{exporter}.onnx.gz"
        graphs.write(graphs.strip(onnx.load(model)), path)
        total += path.stat().st_size
        print(f"{path.name}: {path.stat().st_size} bytes", flush=True)
    print(f"{total} bytes in all")
    return 0


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
    parser.add_argument("--graphs", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    work, rows, only = args.work.resolve(), [], [o for o in args.only.split(",") if o]
    if args.graphs:
        return write_graphs(args.graphs, work, only)
    for program in ("tobiuo", "tobiuo-builder"):
        if not (args.bin / program).exists():
            print(f"{args.bin / program} is missing: cargo build --release -p tobiuo -p tobiuo-builder", file=sys.stderr)
            return 2
    for name, exporter, sizes, export in networks():
        if only and not any(o in f"{name} {exporter}" for o in only):
            continue
        for size in sizes:
            file = work / f"{name}-{exporter}-{size[0]}x{size[1]}.json"
            if args.again:
                file.unlink(missing_ok=True)
            sm = args.cuda if size == sizes[0] else "0"
            rows.append(row(args.bin.resolve(), file, name, exporter, size, export, sm, args.keep))
            print(json.dumps(rows[-1]), flush=True)
    text = args.write.read_text() if args.write else MARKS[0] + MARKS[1]
    before, rest = text.split(MARKS[0])
    old, after = rest.split(MARKS[1])
    new = table(rows, versions(), "87" if args.cuda == "0" else args.cuda, old)
    print(new)
    if args.write:
        args.write.write_text(f"{before}{MARKS[0]}\n{new}\n{MARKS[1]}{after}")
    return int(any(r["exported"] and (r["reason"] or r["cuda_reason"]) for r in rows))


if __name__ == "__main__":
    sys.exit(main())
