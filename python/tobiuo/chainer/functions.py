"""Functions that Chainer has not, which the builder knows as layers of their own."""

import chainer
import numpy as np
from chainer import functions as F

_SIDES = ("left", "right", "top", "bottom")


class ResizeArgmax(chainer.FunctionNode):
    """Bilinear resizing, then the index of the largest channel."""

    def __init__(self, output_shape, axis=1):
        if axis != 1:
            raise ValueError(f"resize_argmax works along axis 1, not {axis}")
        self.out_H, self.out_W = output_shape
        self.axis = axis

    def forward(self, inputs):
        with chainer.no_backprop_mode():
            resized = F.resize_images(inputs[0], (self.out_H, self.out_W))
        return (resized.array.argmax(axis=self.axis).astype(np.int32),)

    def backward(self, indexes, grad_outputs):
        return (None,)


def resize_argmax(x, output_shape, axis=1):
    """``argmax(resize_images(x, output_shape), axis=1)`` as one layer, which has no need of the
    resized scores. ``x`` is [N, C, H, W]; gives int32 [N, out_H, out_W]."""
    return ResizeArgmax(output_shape, axis).apply((x,))[0]


class DirectedPooling(chainer.FunctionNode):
    """The running maximum from one side of the picture."""

    def __init__(self, dir):
        if dir not in _SIDES:
            raise ValueError(f"dir is one of {', '.join(_SIDES)}, not {dir!r}")
        self.dir = dir

    def forward(self, inputs):
        x, = inputs
        axis = 3 if self.dir in ("left", "right") else 2
        # "left" looks to the right: the maximum of an element and all after it.
        backwards = self.dir in ("left", "top")
        if backwards:
            x = np.flip(x, axis)
        y = np.maximum.accumulate(x, axis=axis)
        return (np.ascontiguousarray(np.flip(y, axis) if backwards else y),)

    def backward(self, indexes, grad_outputs):
        raise NotImplementedError("directed pooling is for inference")


class CornerPooling(DirectedPooling):
    """One direction of corner pooling (CornerNet, arXiv:1808.01244); the older name."""


def directed_pooling(x, dir):
    """The maximum of each element and all those from it to one side of the picture: ``left``
    (to the right end of its row), ``right``, ``top`` (to the lower end of its column),
    ``bottom``. ``x`` is [N, C, H, W], so is the result."""
    return DirectedPooling(dir).apply((x,))[0]


def corner_pooling(x, dir):
    """As :func:`directed_pooling`, dumped as ``CornerPooling``."""
    return CornerPooling(dir).apply((x,))[0]
