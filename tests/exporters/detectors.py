"""Detectors of our own with the three kinds of head that the YOLO families export: boxes from anchors
of fixed sizes (as YOLOv5 has them), from distributions of distances to the sides (YOLOv8, 11), and the
best boxes picked by the network itself (YOLOv10). All three stand on one small backbone with a split
and joined block, pooled context and attention over places."""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 12
STRIDES = (8, 16, 32)
BINS = 16


def conv(i: int, o: int, k: int = 1, s: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), nn.SiLU())


class Split(nn.Module):
    """Half of the channels pass, the other half through residual convolutions; all parts are joined."""

    def __init__(self, c: int, count: int) -> None:
        super().__init__()
        self.first, self.last = conv(c, c), conv(c // 2 * (2 + count), c)
        self.parts = nn.ModuleList(conv(c // 2, c // 2, 3) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for part in self.parts:
            parts.append(parts[-1] + part(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Context(nn.Module):
    """Maxima over growing windows beside the picture itself."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.first, self.last, self.pool = conv(c, c // 2), conv(c * 2, c), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Attention(nn.Module):
    """Self-attention over places, with a depthwise convolution for where they are."""

    def __init__(self, c: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.width = heads, c // heads
        self.qkv, self.place, self.out = nn.Conv2d(c, 2 * c, 1), conv(c, c, 3, groups=c), nn.Conv2d(c, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        half = self.width // 2
        q, k, v = self.qkv(x).view(n, self.heads, 2 * self.width, h * w).split([half, half, self.width], 2)
        weights = ((q.transpose(-2, -1) @ k) * half**-0.5).softmax(-1)
        y = (v @ weights.transpose(-2, -1)).view(n, c, h, w)
        return x + self.out(y + self.place(v.reshape(n, c, h, w)))


class Backbone(nn.Module):
    """Three maps at strides 8, 16, 32, the finer ones with the coarser ones enlarged and joined."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        a, b, c = widths
        self.fine = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2), conv(32, a, 3, 2), Split(a, 1))
        self.middle = nn.Sequential(conv(a, b, 3, 2), Split(b, 2))
        self.coarse = nn.Sequential(conv(b, c, 3, 2), Context(c), Attention(c))
        self.up, self.to_middle, self.to_fine = nn.Upsample(scale_factor=2), conv(b + c, b), conv(a + b, a)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        fine = self.fine(x)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.to_middle(torch.cat([self.up(coarse), middle], 1))
        return [self.to_fine(torch.cat([self.up(middle), fine], 1)), middle, coarse]


class Detector(nn.Module):
    """`head`: anchors, distances or best."""

    def __init__(self, head: str) -> None:
        super().__init__()
        widths = (32, 48, 64)
        self.head, self.backbone = head, Backbone(widths)
        outputs = 3 * (5 + CLASSES) if head == "anchors" else 4 * BINS + CLASSES
        # Normalised, so that scores are not all 0 or 1.
        self.outputs = nn.ModuleList(nn.Sequential(nn.Conv2d(c, outputs, 1), nn.BatchNorm2d(outputs)) for c in widths)
        self.register_buffer("sizes", torch.tensor([[[10.0, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]],
                                                    [[116, 90], [156, 198], [373, 326]]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [output(m) for output, m in zip(self.outputs, self.backbone(x))]
        if self.training:
            return torch.cat([m.flatten(2) for m in maps], 2)
        if self.head == "anchors":
            return torch.cat([self.from_anchors(i, m) for i, m in enumerate(maps)], 1)
        boxes, scores = self.from_distances(maps)
        return torch.cat([boxes, scores], 1) if self.head == "distances" else best(boxes, scores, 30)

    def from_anchors(self, i: int, m: torch.Tensor) -> torch.Tensor:
        n, _, h, w = m.shape
        m = m.view(n, 3, 5 + CLASSES, h, w).permute(0, 1, 3, 4, 2).contiguous()
        centre, size, scores = m.sigmoid().split((2, 2, 1 + CLASSES), 4)
        centre = (centre * 2 + places(m, h, w).view(1, 1, h, w, 2) - 1) * STRIDES[i]
        size = (size * 2) ** 2 * self.sizes[i].view(1, 3, 1, 1, 2)
        return torch.cat([centre, size, scores], 4).view(n, -1, 5 + CLASSES)

    def from_distances(self, maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        n = maps[0].shape[0]
        boxes, scores = torch.cat([m.flatten(2) for m in maps], 2).split((4 * BINS, CLASSES), 1)
        bins = torch.arange(BINS, dtype=boxes.dtype).view(1, BINS, 1, 1)
        sides = (boxes.view(n, 4, BINS, -1).transpose(2, 1).softmax(1) * bins).sum(1)
        at = torch.cat([places(m, *m.shape[2:]).T for m in maps], 1)
        stride = torch.cat([torch.full((1, m.shape[2] * m.shape[3]), float(s)) for m, s in zip(maps, STRIDES)], 1)
        low, high = sides.chunk(2, 1)
        low, high = at - low, at + high
        return torch.cat([(low + high) / 2, high - low], 1) * stride, scores.sigmoid()


def places(like: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """Centres [h*w, 2] of a map's places, x and y."""
    y, x = torch.meshgrid(torch.arange(h, dtype=like.dtype) + 0.5, torch.arange(w, dtype=like.dtype) + 0.5, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def best(boxes: torch.Tensor, scores: torch.Tensor, count: int) -> torch.Tensor:
    """The boxes with the best scores [1, count, 6]: box, score, class."""
    boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    _, places = scores.amax(2).topk(count, 1)
    boxes = boxes.gather(1, places.unsqueeze(-1).repeat(1, 1, 4))
    scores = scores.gather(1, places.unsqueeze(-1).repeat(1, 1, CLASSES))
    scores, at = scores.flatten(1).topk(count, 1)
    boxes = boxes.gather(1, (at // CLASSES).unsqueeze(-1).repeat(1, 1, 4))
    return torch.cat([boxes, scores.unsqueeze(-1), (at % CLASSES).unsqueeze(-1).to(boxes.dtype)], 2)
