"""Trains the detector on pictures that are rendered while it trains.

    python3 train.py --minutes 8 --out runs

Worker processes render pictures of the `train` split without end; a thread
moves them to a pool in device memory, from which batches are drawn.  The
learning rate follows the clock, so a run ends when it should on any machine.
"""

import argparse
import copy
import math
import multiprocessing
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from metrics import PAD, average_precision, detections, letterbox, letterbox_geometry, table
from export import to_onnx
from loss import Loss
from model import HEIGHT, WIDTH, Detector, Exported, cost
from render import picture
from scene import HEIGHT as FRAME_H, LABELS, WIDTH as FRAME_W

CHUNK = 8  # pictures that a worker hands over at a time
MOST = 12  # objects in a picture
SCALE, LEFT, TOP, INNER_W, INNER_H = letterbox_geometry(FRAME_W, FRAME_H, WIDTH, HEIGHT)


def network_picture(split, index):
    """A picture as it enters the network, without the letterbox bars, and its label rows."""
    image, objects = picture(split, index)
    pixels = letterbox(image, WIDTH, HEIGHT)[TOP:TOP + INNER_H, LEFT:LEFT + INNER_W].transpose(2, 0, 1)
    rows = np.full((MOST, 5), -1, np.float32)
    for i, (c, x, y, w, h, _) in enumerate(objects[:MOST]):
        rows[i] = c, x * SCALE + LEFT, y * SCALE + TOP, (x + w) * SCALE + LEFT, (y + h) * SCALE + TOP
    return pixels, rows


class Renderer:
    """Worker processes that fill slots of shared memory with pictures."""

    def __init__(self, workers, first, heldout, slots=96):
        context = multiprocessing.get_context("fork")
        self.pixels = self._shared(context, np.uint8, (slots, CHUNK, 3, INNER_H, INNER_W))
        self.labels = self._shared(context, np.float32, (slots, CHUNK, MOST, 5))
        self.free, self.full = context.Queue(), context.Queue()
        for slot in range(slots):
            self.free.put(slot)
        self.heldout = heldout
        self.next = context.Value("q", -heldout)  # negative: held-out pictures come first
        self.first = first
        self.processes = [context.Process(target=self._work, daemon=True) for _ in range(workers)]
        for process in self.processes:
            process.start()

    @staticmethod
    def _shared(context, dtype, shape):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(context.RawArray("b", size), dtype).reshape(shape)

    def _work(self):
        cv2.setNumThreads(1)
        while True:
            slot = self.free.get()
            with self.next.get_lock():
                start = self.next.value
                self.next.value += CHUNK
            for i in range(CHUNK):
                n = start + i
                split, index = ("heldout", n + self.heldout) if n < 0 else ("train", n + self.first)
                self.pixels[slot, i], self.labels[slot, i] = network_picture(split, index)
            self.full.put((start, slot))

    def stop(self):
        for process in self.processes:
            process.terminate()


class Pool:
    """Rendered pictures in device memory; the oldest give way when it is full."""

    def __init__(self, renderer, capacity, device):
        self.renderer, self.capacity, self.device = renderer, capacity, device
        self.pixels = torch.empty((capacity, 3, INNER_H, INNER_W), dtype=torch.uint8, device=device)
        self.labels = torch.empty((capacity, MOST, 5), device=device)
        self.held_pixels = np.empty((renderer.heldout, 3, INNER_H, INNER_W), np.uint8)
        self.held_labels = np.empty((renderer.heldout, MOST, 5), np.float32)
        self.held_ready, self.rendered = 0, 0
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self):
        stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        while True:
            start, slot = self.renderer.full.get()
            pixels, labels = self.renderer.pixels[slot], self.renderer.labels[slot]
            if start < 0:
                at = start + self.renderer.heldout
                self.held_pixels[at:at + CHUNK], self.held_labels[at:at + CHUNK] = pixels, labels
                self.held_ready += CHUNK
            else:
                at = self.rendered % self.capacity
                with torch.cuda.stream(stream):
                    self.pixels[at:at + CHUNK] = torch.from_numpy(pixels).to(self.device)
                    self.labels[at:at + CHUNK] = torch.from_numpy(labels).to(self.device)
                if stream is not None:
                    stream.synchronize()
                self.rendered += CHUNK
            self.renderer.free.put(slot)

    def wait(self, count):
        while self.rendered < count:
            time.sleep(0.05)

    def batch(self, size):
        index = torch.randint(0, min(self.rendered, self.capacity), (size,), device=self.device)
        return self.pixels[index], self.labels[index]


def jitter(pixels):
    """uint8 pictures -> letterboxed float32 input with varied brightness, contrast and tint."""
    x = pixels.float() / 255
    b, device = x.shape[0], x.device
    uniform = lambda low, high, *shape: torch.rand(b, *shape, device=device) * (high - low) + low
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * uniform(0.8, 1.2, 1, 1, 1) + mean * uniform(0.8, 1.2, 1, 1, 1)
    x = x * uniform(0.92, 1.08, 3, 1, 1)
    gray = (torch.rand(b, 1, 1, 1, device=device) < 0.03).float()
    x = x * (1 - gray) + x.mean(1, keepdim=True) * gray
    return letterboxed(x.clamp(0, 1))


def letterboxed(x):
    bars = (LEFT, WIDTH - LEFT - INNER_W, TOP, HEIGHT - TOP - INNER_H)
    x = torch.nn.functional.pad(x, bars, value=PAD / 255)
    return x.contiguous(memory_format=torch.channels_last)


class Ema:
    """Running average of weights and statistics."""

    def __init__(self, model, decay):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0
        pairs = zip(self.model.state_dict().values(), model.state_dict().values())
        self.pairs = [(a, b) for a, b in pairs if a.is_floating_point()]

    @torch.no_grad()
    def update(self):
        self.steps += 1
        d = self.decay * (1 - math.exp(-self.steps / 1000))
        torch._foreach_lerp_([a for a, _ in self.pairs], [b for _, b in self.pairs], 1 - d)


@torch.no_grad()
def evaluate(model, pool, count, device):
    """AP table on the first `count` held-out pictures."""
    network = Exported(copy.deepcopy(model)).to(device).eval()
    found, truth = [], []
    for at in range(0, count, 100):
        pixels = torch.from_numpy(pool.held_pixels[at:min(at + 100, count)]).to(device)
        for output in network(letterboxed(pixels.float() / 255)).float().cpu().numpy():
            found.append(detections(output, FRAME_W, FRAME_H, WIDTH, HEIGHT, confidence=0.01))
    for rows in pool.held_labels[:count]:
        rows = rows[rows[:, 0] >= 0]
        boxes = (rows[:, 1:] - (LEFT, TOP, LEFT, TOP)) / SCALE
        truth.append(np.concatenate([boxes, rows[:, :1]], 1))
    return average_precision(found, truth, len(LABELS))


def save(path, ema, steps):
    state = {k: v.cpu() for k, v in ema.model.state_dict().items()}
    torch.save({"ema": state, "labels": LABELS, "steps": steps}, path)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=8, help="training time")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.03, help="weight decay")
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--warmup", type=int, default=300, help="steps")
    parser.add_argument("--workers", type=int, default=15)
    parser.add_argument("--first", type=int, default=0, help="index of the first training picture")
    parser.add_argument("--start-with", type=int, default=4096, help="pictures rendered before the first step")
    parser.add_argument("--pool", type=int, default=200_000, help="most pictures kept in device memory")
    parser.add_argument("--heldout", type=int, default=512, help="held-out pictures measured while training")
    parser.add_argument("--evaluate-every", type=float, default=120, help="seconds")
    parser.add_argument("--resume", type=Path, help="checkpoint to start from")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    return parser.parse_args()


def main():
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    renderer = Renderer(args.workers, args.first, args.heldout)  # forks before the device is touched
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    pool = Pool(renderer, args.pool, device)
    model = Detector(len(LABELS)).to(device, memory_format=torch.channels_last)
    if args.resume:
        model.load_state_dict(torch.load(args.resume, map_location=device, weights_only=True)["ema"])
    print("%.2f M parameters, %.3f GFLOP" % tuple(v / s for v, s in zip(cost(model), (1e6, 1e9))), flush=True)
    ema, criterion = Ema(model, args.ema), Loss(len(LABELS), device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": args.decay},
                                   {"params": plain, "weight_decay": 0.0}], lr=args.lr, fused=device.type == "cuda")
    forward = torch.compile(model) if args.compile else model
    measure = torch.compile(criterion) if args.compile else criterion
    began = time.time()
    pool.wait(args.start_with)
    print(f"{pool.rendered} pictures after {time.time() - began:.0f} s", flush=True)

    limit, began, step, measured, totals = args.minutes * 60, time.time(), 0, 0.0, torch.zeros(3, device=device)
    model.train()
    while (elapsed := time.time() - began) < limit:
        rate = args.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * elapsed / limit))) * min(1, (step + 1) / args.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        pixels, labels = pool.batch(args.batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            boxes, scores = forward(jitter(pixels))
        valid = labels[..., 0] >= 0
        loss, parts = measure(boxes, scores, labels[..., 0].clamp(min=0).long(), labels[..., 1:], valid)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        ema.update()
        totals += parts
        step += 1
        if step % 200 == 0 or step == 5:
            box, cls, dfl = (totals / (200 if step % 200 == 0 else 5)).tolist()
            totals.zero_()
            elapsed = time.time() - began
            print(f"step {step:6d}  {elapsed:5.0f} s  {step * args.batch / elapsed:6.0f} pictures/s  pool {pool.rendered}  "
                  f"lr {rate:.1e}  box {box:.3f}  class {cls:.3f}  dfl {dfl:.3f}", flush=True)
        if elapsed - measured > args.evaluate_every and pool.held_ready >= args.heldout:
            measured = elapsed
            print(table(evaluate(ema.model, pool, args.heldout, device), LABELS)[-1], flush=True)
            save(args.out / "last.pt", ema, step)
    print(f"{step} steps of {args.batch} in {time.time() - began:.0f} s, {pool.rendered} pictures rendered", flush=True)
    save(args.out / "last.pt", ema, step)
    while pool.held_ready < args.heldout:
        time.sleep(0.1)
    renderer.stop()
    print("\n".join(table(evaluate(ema.model, pool, args.heldout, device), LABELS)), flush=True)
    onnx_model = to_onnx(copy.deepcopy(ema.model), LABELS)
    (args.out / "detector.onnx").write_bytes(onnx_model.SerializeToString())


if __name__ == "__main__":
    main()
