"""The six networks of the speed table in plain PyTorch, with random weights.

Architectures: ResNet-50 v1.5 (He et al. 2015, stride in the 3x3), VGG-16 (Simonyan and Zisserman
2014, configuration D), GoogLeNet with batch normalisation (Szegedy et al. 2014; the 5x5 branch as
3x3, as torchvision has it), MobileNetV2 (Sandler et al. 2018), YOLOv2 (Redmon and Farhadi 2016),
and a detector of YOLOv8n's shape. Weights are random with a fixed seed.
"""

import torch
from torch import nn
from torch.nn import functional as F


def conv(i, o, k, s=1, act="relu", groups=1):
    layers = [nn.Conv2d(i, o, k, s, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]
    if act:
        layers.append({"relu": nn.ReLU(), "relu6": nn.ReLU6(), "leaky": nn.LeakyReLU(0.1), "silu": nn.SiLU()}[act])
    return nn.Sequential(*layers)


class Bottleneck(nn.Module):
    def __init__(self, i, width, stride):
        super().__init__()
        self.body = nn.Sequential(conv(i, width, 1), conv(width, width, 3, stride), conv(width, width * 4, 1, act=None))
        self.side = conv(i, width * 4, 1, stride, act=None) if i != width * 4 or stride != 1 else nn.Identity()

    def forward(self, x):
        return F.relu(self.body(x) + self.side(x))


def resnet50():
    layers, i = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)], 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for b in range(blocks):
            layers.append(Bottleneck(i, width, stride if b == 0 else 1))
            i = width * 4
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def vgg16():
    layers, i = [], 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(i, width, 3, padding=1), nn.ReLU()]
            i = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers, *head)


class Inception(nn.Module):
    def __init__(self, i, a, b1, b2, c1, c2, d):
        super().__init__()
        self.a = conv(i, a, 1)
        self.b = nn.Sequential(conv(i, b1, 1), conv(b1, b2, 3))
        self.c = nn.Sequential(conv(i, c1, 1), conv(c1, c2, 3))
        self.d = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv(i, d, 1))

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x), self.c(x), self.d(x)], 1)


def googlenet():
    def pool():
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        conv(3, 64, 7, 2), pool(), conv(64, 64, 1), conv(64, 192, 3), pool(),
        Inception(192, 64, 96, 128, 16, 32, 32), Inception(256, 128, 128, 192, 32, 96, 64), pool(),
        Inception(480, 192, 96, 208, 16, 48, 64), Inception(512, 160, 112, 224, 24, 64, 64),
        Inception(512, 128, 128, 256, 24, 64, 64), Inception(512, 112, 144, 288, 32, 64, 64),
        Inception(528, 256, 160, 320, 32, 128, 128), nn.MaxPool2d(2, 2, ceil_mode=True),
        Inception(832, 256, 160, 320, 32, 128, 128), Inception(832, 384, 192, 384, 48, 128, 128),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000),
    )


class InvertedResidual(nn.Module):
    def __init__(self, i, o, stride, expand):
        super().__init__()
        hidden = i * expand
        first = [conv(i, hidden, 1, act="relu6")] if expand != 1 else []
        depthwise = conv(hidden, hidden, 3, stride, act="relu6", groups=hidden)
        self.body = nn.Sequential(*first, depthwise, conv(hidden, o, 1, act=None))
        self.add = stride == 1 and i == o

    def forward(self, x):
        return x + self.body(x) if self.add else self.body(x)


def mobilenetv2():
    layers, i = [conv(3, 32, 3, 2, act="relu6")], 32
    for expand, width, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    ):
        for b in range(count):
            layers.append(InvertedResidual(i, width, stride if b == 0 else 1, expand))
            i = width
    return nn.Sequential(*layers, conv(320, 1280, 1, act="relu6"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


class YOLOv2(nn.Module):
    def __init__(self, classes=20, anchors=5):
        super().__init__()

        def stack(*spec):
            return nn.Sequential(*(nn.MaxPool2d(2) if s is None else conv(*s, act="leaky") for s in spec))

        self.early = stack(
            (3, 32, 3), None, (32, 64, 3), None, (64, 128, 3), (128, 64, 1), (64, 128, 3), None,
            (128, 256, 3), (256, 128, 1), (128, 256, 3), None,
            (256, 512, 3), (512, 256, 1), (256, 512, 3), (512, 256, 1), (256, 512, 3),
        )
        self.late = stack(
            None, (512, 1024, 3), (1024, 512, 1), (512, 1024, 3), (1024, 512, 1), (512, 1024, 3), (1024, 1024, 3), (1024, 1024, 3)
        )
        self.side = conv(512, 64, 1, act="leaky")
        self.join = conv(1280, 1024, 3, act="leaky")
        self.out = nn.Conv2d(1024, anchors * (5 + classes), 1)

    def forward(self, x):
        x = self.early(x)
        p = self.side(x)
        n, c, h, w = p.shape
        p = p.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, c * 4, h // 2, w // 2)
        return self.out(self.join(torch.cat([p, self.late(x)], 1)))


def silu(i, o, k=1, s=1):
    return conv(i, o, k, s, act="silu")


class Residual(nn.Module):
    def __init__(self, c, add):
        super().__init__()
        self.body, self.add = nn.Sequential(silu(c, c, 3), silu(c, c, 3)), add

    def forward(self, x):
        return x + self.body(x) if self.add else self.body(x)


class C2f(nn.Module):
    def __init__(self, i, o, n, add=False):
        super().__init__()
        c = o // 2
        self.first, self.last = silu(i, o), silu((2 + n) * c, o)
        self.parts = nn.ModuleList(Residual(c, add) for _ in range(n))

    def forward(self, x):
        y = list(self.first(x).chunk(2, 1))
        for part in self.parts:
            y.append(part(y[-1]))
        return self.last(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.first, self.last, self.pool = silu(c, c // 2), silu(c * 2, c), nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        x = self.first(x)
        y = self.pool(x)
        z = self.pool(y)
        return self.last(torch.cat([x, y, z, self.pool(z)], 1))


class YOLOv8n(nn.Module):
    """Backbone, neck and the two heads; the heads' raw maps, joined, are the output."""

    def __init__(self, classes=80):
        super().__init__()
        self.p3 = nn.Sequential(silu(3, 16, 3, 2), silu(16, 32, 3, 2), C2f(32, 32, 1, True), silu(32, 64, 3, 2), C2f(64, 64, 2, True))
        self.p4 = nn.Sequential(silu(64, 128, 3, 2), C2f(128, 128, 2, True))
        self.p5 = nn.Sequential(silu(128, 256, 3, 2), C2f(256, 256, 1, True), SPPF(256))
        self.up = nn.Upsample(scale_factor=2)
        self.up4, self.up3 = C2f(384, 128, 1), C2f(192, 64, 1)
        self.down3, self.down4 = silu(64, 64, 3, 2), silu(128, 128, 3, 2)
        self.out4, self.out5 = C2f(192, 128, 1), C2f(384, 256, 1)

        def head(c, width, out):
            return nn.Sequential(silu(c, width, 3), silu(width, width, 3), nn.Conv2d(width, out, 1))

        self.boxes = nn.ModuleList(head(c, 64, 64) for c in (64, 128, 256))
        self.scores = nn.ModuleList(head(c, 80, classes) for c in (64, 128, 256))

    def forward(self, x):
        p3 = self.p3(x)
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        n4 = self.up4(torch.cat([self.up(p5), p4], 1))
        n3 = self.up3(torch.cat([self.up(n4), p3], 1))
        n4 = self.out4(torch.cat([self.down3(n3), n4], 1))
        n5 = self.out5(torch.cat([self.down4(n4), p5], 1))
        maps = [torch.cat([b(p), s(p)], 1).flatten(2) for p, b, s in zip((n3, n4, n5), self.boxes, self.scores)]
        return torch.cat(maps, 2)


# Name: what makes it, and the input's side.
NETS = {
    "resnet50": (resnet50, 224),
    "vgg16": (vgg16, 224),
    "googlenet": (googlenet, 224),
    "yolov2": (YOLOv2, 416),
    "yolov8n": (YOLOv8n, 640),
    "mobilenetv2": (mobilenetv2, 224),
}


def make(name, device="cuda", calibrated=False):
    """The network in eval mode and a random picture [1, 3, side, side] in 0..1.

    Weights are as PyTorch initialises them, batch statistics near 0 and 1. `calibrated` instead
    gives He-initialised weights and the statistics of random pictures: every layer then works at
    full scale, and in half precision an error grows from layer to layer far more than in a
    trained network.
    """
    torch.manual_seed(0)
    build, side = NETS[name]
    net = build()
    x = torch.rand(1, 3, side, side)
    if not calibrated:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.1, 0.1)
                nn.init.uniform_(module.running_var, 0.8, 1.2)
        return net.to(device).eval(), x.to(device)
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.1, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.momentum = 1.0
    net, x = net.to(device), x.to(device)
    with torch.no_grad():
        # One pass in training mode: batch normalisation takes these pictures' statistics.
        net.train()(torch.rand(4, 3, side, side).to(device))
    return net.eval(), x


def export(name, path, device="cuda"):
    """Writes the network as ONNX; gives it and the picture."""
    net, x = make(name, device)
    with torch.no_grad():
        torch.onnx.export(
            net, (x,), str(path), input_names=["input"], output_names=["output"], opset_version=17, dynamo=False
        )
    return net, x


if __name__ == "__main__":
    import sys
    from pathlib import Path

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or NETS:
        net, x = export(name, folder / f"{name}.onnx", "cuda" if torch.cuda.is_available() else "cpu")
        with torch.no_grad():
            y = net(x)
        print(f"{name}: {tuple(x.shape)} -> {tuple(y.shape)}, output from {y.min():.3g} to {y.max():.3g}")
