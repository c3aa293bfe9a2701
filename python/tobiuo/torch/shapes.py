"""What moves elements, and what does nothing."""

from typing import Any, List, Sequence

from ..dump import DumpError
from .call import TO_FLOAT, Call, shape_of


def same(c: Call) -> Any:
    """What does nothing in inference."""
    before, after = c.x.meta["val"].dtype, c.node.meta["val"].dtype
    if before != after:
        if not after.is_floating_point:
            raise DumpError(f"conversion from {before} to {after} is not supported")
        if not before.is_floating_point:
            return c.op(TO_FLOAT, c.source())
    return c.source()


def reshape(c: Call) -> Any:
    if shape_of(c.x) == c.shape:
        return c.source()
    return c.emit("Reshape", c.source(), shape=c.shape[1:])


def permute(c: Call) -> Any:
    return _transposed(c, c.source(), [d % len(c.shape) for d in c["dims"]])


def _transposed(c: Call, source: str, axes: Sequence[int]) -> Any:
    if axes[0] != 0:
        raise DumpError(f"axes {tuple(axes)} move the batch, axis 0")
    return c.emit("Transpose", source, axes=[axis - 1 for axis in axes[1:]])


def transpose(c: Call) -> Any:
    axes = list(range(len(c.shape)))
    a, b = c["dim0"] % len(axes), c["dim1"] % len(axes)
    axes[a], axes[b] = axes[b], axes[a]
    return _transposed(c, c.source(), axes)


def cat(c: Call) -> Any:
    nodes = [n for n in c["tensors"] if shape_of(n) != (0,)]
    axis = c.axis(c["dim"], nodes[0])
    return c.emit("Concat", *[c.source(n) for n in nodes], axis=axis - 1) if len(nodes) > 1 else (
        c.source(nodes[0]))


def stack(c: Call) -> Any:
    axis = c["dim"] % len(c.shape)
    if axis == 0:
        raise DumpError("its axis is the batch")
    shape = [*c.shape[1:axis], 1, *c.shape[axis + 1 :]]
    parts = [c.emit("Reshape", c.source(n), shape=shape) for n in c["tensors"]]
    return c.emit("Concat", *parts, axis=axis - 1)


def _item(c: Call, axis: int, entry: Any) -> Any:
    slices: List[Any] = [[None, None, None] for _ in shape_of(c.x)[1:]]
    slices[axis - 1] = entry
    return c.emit("GetItem", c.source(), slices=slices)


def slice_(c: Call) -> Any:
    if shape_of(c.x) == c.shape and c["step"] == 1:
        return c.source()
    # The end of an open slice is the largest int64.
    stop = c["end"]
    stop = None if stop is None or stop >= 2**31 else stop
    return _item(c, c.axis(c["dim"]), [c["start"], stop, c["step"]])


def select(c: Call) -> Any:
    return _item(c, c.axis(c["dim"]), c["index"])


def split(c: Call) -> Any:
    """Into parts of the sizes that the results have."""
    axis, at, parts = c.axis(c["dim"]), 0, []
    for value in c.node.meta["val"]:
        parts.append(_item(c, axis, [at, at + value.shape[axis], None]))
        at += value.shape[axis]
    return parts


def unbind(c: Call) -> Any:
    axis = c.axis(c["dim"])
    return [_item(c, axis, i) for i in range(shape_of(c.x)[axis])]


def expand(c: Call) -> Any:
    shape = shape_of(c.x)
    if shape == c.shape:
        return c.source()
    if len(shape) != len(c.shape):
        raise DumpError(f"{shape} to {c.shape}: the batch would no longer be the first axis")
    return c.emit("BroadcastTo", c.source(), in_shape=shape[1:], out_shape=c.shape[1:])


def pixel_shuffle(c: Call) -> Any:
    _, channels, height, width = c.shape
    r = c["upscale_factor"]
    y = c.emit("Reshape", c.source(), shape=[channels, r, r, height // r, width // r])
    y = _transposed(c, y, [0, 1, 4, 2, 5, 3])
    return c.emit("Reshape", y, shape=c.shape[1:])


def pixel_unshuffle(c: Call) -> Any:
    _, channels, height, width = shape_of(c.x)
    r = c["downscale_factor"]
    y = c.emit("Reshape", c.source(), shape=[channels, height // r, r, width // r, r])
    y = _transposed(c, y, [0, 1, 3, 5, 2, 4])
    return c.emit("Reshape", y, shape=c.shape[1:])


def channel_shuffle(c: Call) -> Any:
    _, channels, height, width = c.shape
    g = c["groups"]
    y = c.emit("Reshape", c.source(), shape=[g, channels // g, height, width])
    y = _transposed(c, y, [0, 2, 1, 3, 4])
    return c.emit("Reshape", y, shape=c.shape[1:])
