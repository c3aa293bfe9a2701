"""Modules to dump, with the shape of their input: operators alone and small networks."""

import torch
import torch.nn.functional as F
from torch import nn

CASES = {}


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def case(name, function, *shapes):
    module = function if isinstance(function, nn.Module) else Function(function)
    CASES[name] = (module, shapes or ((2, 4, 6, 5),))


MASK = torch.tensor([[True, False, True, True, False]])
TABLE = torch.linspace(-1, 1, 20).reshape(4, 1, 5)

case("conv1d", nn.Conv1d(4, 6, 3, padding=1, groups=2), (2, 4, 9))
case("conv2d", nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2)))
case("conv2d_no_bias", nn.Conv2d(4, 6, 1, bias=False))
case("conv2d_depthwise", nn.Conv2d(4, 8, 3, groups=4))
case("conv2d_same", nn.Conv2d(4, 3, (3, 4), padding="same"))
case("conv2d_valid", nn.Conv2d(4, 3, 3, padding="valid"))
case("conv_transpose2d", nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, groups=2))
case("conv_transpose2d_output_padding", nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1))
case("linear", nn.Linear(7, 3), (2, 7))
case("linear_of_rows", nn.Linear(5, 3))
case("linear_no_bias", nn.Linear(5, 3, bias=False), (2, 4, 5))
case("matmul", lambda a, b: a @ b, (2, 3, 4), (2, 4, 5))
case("matmul_transposed", lambda a, b: a @ b.transpose(1, 2), (2, 3, 4), (2, 5, 4))
case("matmul_constant", lambda x: x @ TABLE[0].t(), (2, 3, 5))
case("addmm", lambda x: torch.addmm(TABLE[0, 0, :3], x, TABLE[:, 0, :3]), (2, 4))
case("attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
     (2, 2, 5, 4), (2, 2, 7, 4), (2, 2, 7, 3))
case("batch_norm2d", nn.BatchNorm2d(4))
case("batch_norm1d", nn.BatchNorm1d(4), (2, 4))
case("layer_norm", nn.LayerNorm([6, 5]))
case("layer_norm_plain", nn.LayerNorm(5, elementwise_affine=False))
case("group_norm", nn.GroupNorm(2, 4))
case("instance_norm", nn.InstanceNorm2d(4, affine=True))
for kind in ("ReLU ReLU6 Sigmoid Tanh LeakyReLU SiLU Mish Hardswish Hardsigmoid Hardtanh ELU "
             "Softplus GELU PReLU").split():
    case(kind.lower(), getattr(nn, kind)())
case("relu_in_place", lambda x: F.relu(x * 2, inplace=True))
case("gelu_tanh", nn.GELU("tanh"))
case("prelu_channels", nn.PReLU(4))
case("clamp", lambda x: x.clamp(min=-0.5))
case("softmax", lambda x: x.softmax(1))
case("softmax_last", lambda x: x.softmax(-1))
case("log_softmax", lambda x: F.log_softmax(x, 2))
case("add", lambda a, b: a + b, (2, 4, 6, 5), (2, 1, 6, 1))
case("arithmetic", lambda a, b: (a - b) * a / (b * b + 1), (2, 4, 5), (2, 4, 5))
case("numbers", lambda x: 3 - (x + 1 - 0.5) * 2 / 4)
case("constants", lambda x: x * TABLE + TABLE.sum() - TABLE[0, 0])
case("add_alpha", lambda x: torch.add(x, 2, alpha=3))
case("maximum", lambda a, b: torch.maximum(a, b) - torch.minimum(a, b), (2, 5), (2, 5))
case("comparison", lambda x: x * (x > 0.1))
case("where", lambda x: torch.where(x > 0, x, -2 * x))
case("where_mask", lambda x: torch.where(MASK, x, 0.0), (2, 4, 5))
case("masked_fill", lambda x: torch.where((x < 0.5) & (x > -0.5), x, torch.zeros_like(x)))
case("unary", lambda x: x.abs().sqrt().exp().neg())
case("powers", lambda x: x**2 + (x.abs() + 1) ** -1 + (x.abs() + 1) ** 1.5 + x.square())
case("rsqrt", lambda x: (x * x + 1).rsqrt() + (x * x + 1).log())
case("mean", lambda x: x.mean((2, 3)))
case("sum", lambda x: x.sum(1, keepdim=True))
case("amax", lambda x: x.amax(-1) - x.amin(-1))
case("argmax", lambda x: x.argmax(1))
case("topk", lambda x: x.topk(3, -1)[0])
case("max_pool2d", nn.MaxPool2d(3, 2, 1))
case("max_pool2d_ceil", nn.MaxPool2d(2, 2, ceil_mode=True))
case("max_pool2d_dilated", nn.MaxPool2d(2, 1, dilation=2))
case("avg_pool2d", nn.AvgPool2d(3, 2, 1))
case("avg_pool2d_inside", nn.AvgPool2d(3, 2, 1, count_include_pad=False))
case("avg_pool2d_ceil", nn.AvgPool2d(2, 2, ceil_mode=True))
case("adaptive_avg_pool2d", nn.AdaptiveAvgPool2d((3, 1)))
case("adaptive_max_pool2d", nn.AdaptiveMaxPool2d((2, 5)))
case("upsample_nearest", nn.Upsample(scale_factor=2))
case("upsample_nearest_size", nn.Upsample((9, 7)))
case("upsample_bilinear", nn.Upsample(scale_factor=2, mode="bilinear"))
case("upsample_corners", nn.Upsample((9, 7), mode="bilinear", align_corners=True))
case("pad", lambda x: F.pad(x, (1, 2, 0, 1), value=0.5))
case("pad_reflect", lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"))
case("pad_replicate", lambda x: F.pad(x, (1, 0, 2, 1), mode="replicate"))
case("flatten", lambda x: x.flatten(1))
case("views", lambda x: x.view(2, 2, -1, 5).squeeze(1).unsqueeze(2).reshape(2, -1))
case("permute", lambda x: x.permute(0, 3, 1, 2).transpose(-1, -2).contiguous())
case("cat", lambda a, b: torch.cat([a, b, a], 2), (2, 4, 3), (2, 4, 2))
case("stack", lambda a, b: torch.stack([a, b], 1), (2, 4, 3), (2, 4, 3))
case("slices", lambda x: x[:, 1:3, ::2, -2:])
case("select", lambda x: x[:, 2, :4] + x[:, :, 3])
case("split", lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1))
case("chunk", lambda x: x.chunk(2, 1)[1] + x.chunk(2, 1)[0])
case("unbind", lambda x: x.unbind(1)[1] - x.unbind(1)[3])
case("expand", lambda x: x.expand(-1, 4, -1, 3), (2, 1, 5, 1))
case("pixel_shuffle", nn.PixelShuffle(2))
case("pixel_unshuffle", nn.PixelUnshuffle(2), (2, 3, 6, 4))
case("channel_shuffle", nn.ChannelShuffle(2))
case("dropout", lambda x: F.dropout(x, training=False) + 1)


class Block(nn.Module):
    """A residual block with squeeze and excitation, as mobile networks have it."""

    def __init__(self, channels):
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.depth = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.squeeze = nn.Conv2d(2 * channels, 4, 1)
        self.excite = nn.Conv2d(4, 2 * channels, 1)
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x):
        h = F.silu(self.norm(self.expand(x)), inplace=True)
        h = F.hardswish(self.depth(h))
        s = F.relu(self.squeeze(F.adaptive_avg_pool2d(h, 1)))
        return x + self.project(h * self.excite(s).sigmoid())


class Detector(nn.Module):
    """Two scales, an upsampled path and heads that are joined, as detectors have it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU())
        self.up = nn.Upsample(scale_factor=2)
        self.join = nn.Conv2d(24, 8, 1)
        self.heads = nn.ModuleList([nn.Conv2d(8, 9, 1), nn.Conv2d(16, 9, 1)])
        self.register_buffer("stride", torch.tensor([2.0, 4.0]))

    def forward(self, x):
        a = self.stem(x)
        b = self.down(a)
        a = self.join(torch.cat([a, self.up(b)], 1))
        heads = [h(f).flatten(2) for h, f in zip(self.heads, (a, b))]
        n = [h.shape[2] for h in heads]
        boxes, scores = torch.cat(heads, 2).split([4, 5], 1)
        scale = torch.cat([self.stride[:1].expand(n[0]), self.stride[1:].expand(n[1])])
        return torch.cat([boxes * scale, scores.sigmoid()], 1)


case("net_classifier", nn.Sequential(
    nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), Block(8),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 10)), (2, 3, 16, 16))
case("net_detector", Detector(), (1, 3, 32, 32))
case("net_transformer", nn.Sequential(
    nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), Function(lambda x: x.transpose(1, 2)),
    nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)), (2, 3, 16, 16))


def randomize(module):
    """Parameters and statistics that are nothing in particular."""
    generator = torch.Generator().manual_seed(11)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and not name.endswith("stride"):
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.data.copy_(noise + 0.5 if "var" in name else noise - 0.5)
    return module


def inputs(shapes):
    generator = torch.Generator().manual_seed(12)
    return tuple(torch.rand(s, generator=generator) * 2 - 1 for s in shapes)
