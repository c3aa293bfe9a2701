"""Trains the two classifiers that INT8 is measured on, and renders their pictures.

    pip install -r bench/int8/requirements.txt
    python3 bench/int8/train.py render --split test --count 4000 --out /tmp/letters/test
    python3 bench/int8/train.py render --split calibration --count 500 --out /tmp/letters/calibration
    python3 bench/int8/train.py train --net resnet --out resnet.onnx
    python3 bench/int8/train.py train --net mobilenetv2 --out mobilenetv2.onnx

The pictures, 32 x 32 in colour, show one of 20 letters: a random font, size, angle, colours, a
textured ground, blur and noise, so hard that some cannot be read. A picture depends on its split
and number alone. `render` writes DIR/000000.png ... and DIR/list.txt, a picture and its class
(0 to 19) on each line.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

SIDE = 32
LETTERS = "ABCDEFGHKLMNPRSTUXYZ"
SPLITS = {"train": 1, "test": 2, "calibration": 3}
FONTS = [cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX,
         cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX]


def picture(split, index):
    """One picture [SIDE, SIDE, 3], BGR, and its class."""
    rng = np.random.default_rng([SPLITS[split], index])
    label = int(rng.integers(len(LETTERS)))
    ground, ink = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    while np.abs(ground - ink).sum() < 90:
        ink = rng.uniform(0, 255, 3)
    texture = cv2.resize(rng.normal(0, 30, (5, 5, 3)).astype(np.float32), (SIDE, SIDE))
    canvas = np.clip(ground + texture, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, 4))):
        a, b = rng.integers(0, SIDE, 2), rng.integers(0, SIDE, 2)
        cv2.line(canvas, a.tolist(), b.tolist(), rng.uniform(0, 255, 3).tolist(), 1, cv2.LINE_AA)
    mask = np.zeros((64, 64), np.uint8)
    font, thickness = FONTS[int(rng.integers(len(FONTS)))], int(rng.integers(1, 4))
    (w, h), _ = cv2.getTextSize(LETTERS[label], font, 1.4, thickness)
    cv2.putText(mask, LETTERS[label], ((64 - w) // 2, (64 + h) // 2), font, 1.4, 255, thickness, cv2.LINE_AA)
    matrix = cv2.getRotationMatrix2D((32, 32), rng.uniform(-25, 25), rng.uniform(0.45, 0.9))
    matrix[:, 2] += rng.uniform(-5, 5, 2) - 16
    mask = cv2.warpAffine(mask, matrix, (SIDE, SIDE), flags=cv2.INTER_AREA)[..., None] / 255.0
    image = canvas * (1 - mask) + ink * mask
    if rng.random() < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.3))
    image = image + rng.normal(0, rng.uniform(4, 34), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), label


def render(args):
    args.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(args.count):
        image, label = picture(args.split, i)
        cv2.imwrite(str(args.out / f"{i:06d}.png"), image)
        lines.append(f"{i:06d}.png {label}\n")
    (args.out / "list.txt").write_text("".join(lines))


def tensors(split, first, count):
    import torch

    pairs = [picture(split, i) for i in range(first, first + count)]
    images = np.stack([p[0][..., ::-1].transpose(2, 0, 1) for p in pairs])
    return torch.from_numpy(images.copy()), torch.tensor([p[1] for p in pairs])


def build(name):
    from torch import nn

    def unit(c1, c2, k=3, s=1, g=1, act=True, six=False):
        layers = [nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(c2)]
        return nn.Sequential(*layers, *([nn.ReLU6() if six else nn.ReLU()] if act else []))

    class Basic(nn.Module):
        """Two convolutions and the shortcut (ResNet)."""

        def __init__(self, c1, c2, s):
            super().__init__()
            self.body = nn.Sequential(unit(c1, c2, 3, s), unit(c2, c2, act=False))
            self.skip = nn.Identity() if (c1, s) == (c2, 1) else unit(c1, c2, 1, s, act=False)
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(self.body(x) + self.skip(x))

    class Inverted(nn.Module):
        """Wider, depthwise, narrower again without an activation (MobileNetV2)."""

        def __init__(self, c1, c2, s, t):
            super().__init__()
            wide = c1 * t
            expand = [unit(c1, wide, 1, six=True)] if t > 1 else []
            self.body = nn.Sequential(*expand, unit(wide, wide, 3, s, wide, six=True),
                                      unit(wide, c2, 1, act=False))
            self.add = c1 == c2 and s == 1

        def forward(self, x):
            return x + self.body(x) if self.add else self.body(x)

    if name == "resnet":
        blocks = [Basic(16, 16, 1), Basic(16, 32, 2), Basic(32, 32, 1), Basic(32, 64, 2), Basic(64, 64, 1)]
        stem, last = unit(3, 16), 64
    else:
        plan = [(16, 16, 1, 1), (16, 24, 1, 6), (24, 24, 1, 6), (24, 32, 2, 6), (32, 32, 1, 6), (32, 48, 2, 6),
                (48, 48, 1, 6)]
        blocks = [Inverted(*p) for p in plan] + [unit(48, 192, 1, six=True)]
        stem, last = unit(3, 16, 3, 2, six=True), 192

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(stem, *blocks)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.classes = nn.Linear(last, len(LETTERS))

        def forward(self, x):
            return self.classes(self.pool(self.features(x)).flatten(1))

    return Net()


def train(args):
    import torch
    from torch.nn import functional

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = build(args.net).to(device, memory_format=torch.channels_last)
    steps = args.epochs * (args.pictures // args.batch)
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    images, labels = (t.to(device) for t in tensors("train", 0, args.pictures))
    for epoch in range(args.epochs):
        net.train()
        for part in torch.randperm(args.pictures, device=device)[: steps // args.epochs * args.batch].split(args.batch):
            x = (images[part].float() / 255).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(net(x), labels[part], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    net.to("cpu").eval()
    test, truth = tensors("test", 0, 4000)
    with torch.no_grad():
        right = sum((net(x.float() / 255).argmax(1) == t).sum().item()
                    for x, t in zip(test.split(500), truth.split(500)))
    print(f"top-1 {right / 4000:.4f} on 4000 test pictures")
    export(net, args.out)


def export(net, out):
    import onnx
    import torch

    torch.onnx.export(net, torch.zeros(1, 3, SIDE, SIDE), str(out), input_names=["images"],
                      output_names=["output0"], opset_version=17, dynamo=False)
    model = onnx.load(out)
    names = {i: c for i, c in enumerate(LETTERS)}
    for key, value in {"names": str(names), "task": "classify", "imgsz": str([SIDE, SIDE])}.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = "bench/int8/train.py", ""
    onnx.save(model, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("render")
    one.add_argument("--split", choices=SPLITS, default="test")
    one.add_argument("--count", type=int, default=4000)
    one.add_argument("--out", type=Path, required=True)
    one = commands.add_parser("train")
    one.add_argument("--net", choices=["resnet", "mobilenetv2"], required=True)
    one.add_argument("--pictures", type=int, default=16000)
    one.add_argument("--epochs", type=int, default=7)
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--batch", type=int, default=128)
    one.add_argument("--seed", type=int, default=1)
    one.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    {"render": render, "train": train}[args.command](args)


if __name__ == "__main__":
    main()
