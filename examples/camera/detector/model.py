"""The detector: an anchor-free one-stage network in the manner of YOLOv8.

Three feature maps (strides 8, 16 and 32); each cell predicts, for every side
of a box, a distribution over REG_MAX distances, and one score per class.
"""

import torch
from torch import nn

WIDTH, HEIGHT = 416, 320  # network input
STRIDES = (8, 16, 32)
REG_MAX = 16
# Bin k of a side's distribution stands for k + FIRST_BIN cells.  Starting below
# zero lets a cell describe a thin box that lies just beside the cell's centre.
FIRST_BIN = -1


class Conv(nn.Module):
    """Convolution, batch normalisation, activation."""

    def __init__(self, c1, c2, k=1, s=1, g=1):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Residual(nn.Module):
    def __init__(self, c, shortcut):
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(c, c, 3), Conv(c, c, 3), shortcut

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C2f(nn.Module):
    """Cross-stage block: half the channels go through n residual units."""

    def __init__(self, c1, c2, n=1, shortcut=True):
        super().__init__()
        self.half = c = c2 // 2
        self.cv1 = Conv(c1, 2 * c)
        self.units = nn.ModuleList(Residual(c, shortcut) for _ in range(n))
        self.cv2 = Conv((2 + n) * c, c2)

    def forward(self, x):
        parts = list(self.cv1(x).split((self.half, self.half), 1))
        for unit in self.units:
            parts.append(unit(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SPPF(nn.Module):
    """Spatial pyramid pooling by repeated 5 x 5 maxima."""

    def __init__(self, c):
        super().__init__()
        self.cv1, self.cv2 = Conv(c, c // 2), Conv(2 * c, c)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        x = self.cv1(x)
        a = self.pool(x)
        b = self.pool(a)
        return self.cv2(torch.cat([x, a, b, self.pool(b)], 1))


def separable(c1, c2):
    return nn.Sequential(Conv(c1, c1, 3, g=c1), Conv(c1, c2))


class Detector(nn.Module):
    def __init__(self, classes, c=(16, 32, 64, 128, 192), neck=(64, 96, 128), depth=(1, 2, 2, 1)):
        super().__init__()
        self.classes = classes
        self.stem = Conv(3, c[0], 3, 2)
        self.down1, self.stage1 = Conv(c[0], c[1], 3, 2), C2f(c[1], c[1], depth[0])
        self.down2, self.stage2 = Conv(c[1], c[2], 3, 2), C2f(c[2], c[2], depth[1])
        self.down3, self.stage3 = Conv(c[2], c[3], 3, 2), C2f(c[3], c[3], depth[2])
        self.down4, self.stage4 = Conv(c[3], c[4], 3, 2), C2f(c[4], c[4], depth[3])
        self.sppf = SPPF(c[4])
        n3, n4, n5 = neck
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.top4 = C2f(c[4] + c[3], n4, 1, False)
        self.top3 = C2f(n4 + c[2], n3, 1, False)
        self.step4, self.out4 = Conv(n3, n3, 3, 2), C2f(n3 + n4, n4, 1, False)
        self.step5, self.out5 = Conv(n4, n4, 3, 2), C2f(n4 + c[4], n5, 1, False)
        box, score = 4 * REG_MAX, 64
        self.box = nn.ModuleList(
            nn.Sequential(separable(n, box), separable(box, box), nn.Conv2d(box, 4 * REG_MAX, 1)) for n in neck)
        self.score = nn.ModuleList(
            nn.Sequential(separable(n, score), separable(score, score), nn.Conv2d(score, classes, 1)) for n in neck)
        self._init_heads()

    def _init_heads(self):
        for box, score, stride in zip(self.box, self.score, STRIDES):
            nn.init.ones_(box[-1].bias)
            # About 5 objects in a 640 x 640 picture, spread over the classes.
            nn.init.constant_(score[-1].bias, float(torch.log(torch.tensor(5 / self.classes / (640 / stride) ** 2))))

    def forward(self, x):
        """Raw maps: distances [b, 4 * REG_MAX, n] and class logits [b, classes, n]."""
        x = self.stage1(self.down1(self.stem(x)))
        p3 = self.stage2(self.down2(x))
        p4 = self.stage3(self.down3(p3))
        p5 = self.sppf(self.stage4(self.down4(p4)))
        t4 = self.top4(torch.cat([self.up(p5), p4], 1))
        f3 = self.top3(torch.cat([self.up(t4), p3], 1))
        f4 = self.out4(torch.cat([self.step4(f3), t4], 1))
        f5 = self.out5(torch.cat([self.step5(f4), p5], 1))
        maps = (f3, f4, f5)
        batch = int(x.shape[0])  # a plain number, so that an exported graph has constant shapes
        boxes = torch.cat([h(f).view(batch, 4 * REG_MAX, -1) for h, f in zip(self.box, maps)], 2)
        scores = torch.cat([h(f).view(batch, self.classes, -1) for h, f in zip(self.score, maps)], 2)
        return boxes, scores


def bins():
    return torch.arange(REG_MAX, dtype=torch.float32) + FIRST_BIN


def cell_centres(width=WIDTH, height=HEIGHT):
    """Centres of all cells in cell units [n, 2], and their strides [n, 1]."""
    points, strides = [], []
    for s in STRIDES:
        y, x = torch.meshgrid(torch.arange(height // s) + 0.5, torch.arange(width // s) + 0.5, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()], 1))
        strides.append(torch.full((points[-1].shape[0], 1), float(s)))
    return torch.cat(points), torch.cat(strides)


class Exported(nn.Module):
    """Detector with decoding: [1, 3, h, w] -> [1, 4 + classes, n] (cx, cy, w, h, scores)."""

    def __init__(self, detector, width=WIDTH, height=HEIGHT):
        super().__init__()
        self.detector = detector
        points, strides = cell_centres(width, height)
        self.register_buffer("points", points.t()[None].contiguous())
        self.register_buffer("strides", strides.t()[None].contiguous())
        self.dfl = nn.Conv2d(REG_MAX, 1, 1, bias=False)
        self.dfl.weight.data[:] = bins().view(1, -1, 1, 1)

    def forward(self, images):
        boxes, scores = self.detector(images)
        b = int(boxes.shape[0])
        d = self.dfl(boxes.view(b, 4, REG_MAX, -1).transpose(2, 1).softmax(1)).view(b, 4, -1)
        near, far = d.split((2, 2), 1)
        low, high = self.points - near, self.points + far
        boxes = torch.cat([(low + high) / 2, high - low], 1) * self.strides
        return torch.cat([boxes, scores.sigmoid()], 1)


def fuse(module):
    """Folds batch normalisation into the convolutions, in place."""
    for m in module.modules():
        if isinstance(m, Conv) and isinstance(m.bn, nn.BatchNorm2d):
            gain = m.bn.weight / torch.sqrt(m.bn.running_var + m.bn.eps)
            conv = nn.Conv2d(m.conv.in_channels, m.conv.out_channels, m.conv.kernel_size, m.conv.stride,
                             m.conv.padding, groups=m.conv.groups, bias=True)
            conv.weight.data = m.conv.weight.data * gain.view(-1, 1, 1, 1).data
            conv.bias.data = (m.bn.bias - m.bn.running_mean * gain).data
            m.conv, m.bn = conv, nn.Identity()
    return module


def cost(model, width=WIDTH, height=HEIGHT):
    """(parameters, floating-point operations) of the convolutions, 2 per multiply-add."""
    total = [0]

    def hook(m, _, out):
        total[0] += 2 * m.weight.numel() * out.shape[-1] * out.shape[-2]

    hooks = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.Conv2d)]
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, height, width, device=next(model.parameters()).device))
    model.train(training)
    for h in hooks:
        h.remove()
    return sum(p.numel() for p in model.parameters()), total[0]
