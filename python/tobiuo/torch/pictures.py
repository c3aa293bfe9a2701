"""Pooling, resizing and padding."""

from typing import Any, Callable, Optional, Sequence

from ..dump import DumpError
from .call import Call, is_number, pair, shape_of


def _pool(c: Call, kind: Any, dilation: Sequence[int], stride: Any) -> Any:
    """The builder's own pooling, for what Chainer's has not."""
    kernel, pads = pair(c["kernel_size"]), pair(c["padding"])
    op = {
        "kind": kind,
        "kernel": list(kernel),
        "strides": list(stride),
        "pads": [*pads, *pads],
        "dilations": list(dilation),
        "ceil_mode": c["ceil_mode"],
    }
    return c.op({"pool": op}, c.source())


def _window(c: Call, kind: str, kernel: Any, stride: Any, padding: Any, **more: Any) -> Any:
    (kh, kw), (sy, sx), (ph, pw) = kernel, stride, padding
    return c.emit(
        kind,
        c.source(),
        window_width=kw,
        window_height=kh,
        stride_x=sx,
        stride_y=sy,
        pad_w=pw,
        pad_h=ph,
        cover_all=False,
        **more,
    )


def max_pool2d(c: Call) -> Any:
    kernel = pair(c["kernel_size"])
    stride, dilation = pair(c["stride"] or kernel), pair(c["dilation"])
    if c["ceil_mode"] or dilation != (1, 1):
        y = _pool(c, "max", dilation, stride)
    else:
        y = _window(c, "MaxPooling2D", kernel, stride, pair(c["padding"]))
    return y if c.node.target._schema.name == "aten::max_pool2d" else [y, None]


def avg_pool2d(c: Call) -> Any:
    kernel, padding = pair(c["kernel_size"]), pair(c["padding"])
    stride, include = pair(c["stride"] or kernel), c["count_include_pad"]
    if c["divisor_override"] is not None:
        raise DumpError("divisor_override is not supported")
    if c["ceil_mode"]:
        return _pool(c, {"average": {"count_include_pad": include}}, (1, 1), stride)
    more = {} if include or padding == (0, 0) else {"pad_value": None}
    return _window(c, "AveragePooling2D", kernel, stride, padding, **more)


def adaptive_pool2d(kind: str) -> Callable[[Call], Any]:
    def dump(c: Call) -> Any:
        size, out = shape_of(c.x)[2:], c.shape[2:]
        if any(n % m for n, m in zip(size, out)):
            raise DumpError(f"a picture of {size} does not divide into {out} equal windows")
        window = tuple(n // m for n, m in zip(size, out))
        y = _window(c, kind, window, window, (0, 0))
        return y if isinstance(c.node.meta["val"], tuple) is False else [y, None]

    return dump


def _exact_scale(c: Call) -> None:
    """PyTorch samples at the scale that was given, the format at the ratio of the sizes."""
    scales = c.get("scale_factors") or [c.get("scales_h"), c.get("scales_w")]
    for size, out, scale in zip(shape_of(c.x)[2:], c.shape[2:], scales):
        if scale is not None and size * scale != out:
            raise DumpError(f"{size} pixels by a scale of {scale} are not {out}; give the size")


def _resized(c: Call, **how: Any) -> Any:
    _exact_scale(c)
    shape = shape_of(c.x)
    return c.emit("ResizeImages", c.source(), n_channels=shape[1], input_hw=shape[2:],
                  output_hw=c.shape[2:], **how)


def nearest2d(c: Call) -> Any:
    return _resized(c, mode="nearest")


def bilinear2d(c: Call) -> Any:
    return _resized(c, **({} if c["align_corners"] else {"align_corners": False}))


def padded(c: Call, source: str, begins: Sequence[int], ends: Sequence[int], mode: Any) -> Any:
    mode = {"constant": {"value": float(mode)}} if is_number(mode) else mode
    return c.op({"pad": {"begins": list(begins), "ends": list(ends), "mode": mode}}, source)


def pad(mode: Optional[str] = None) -> Callable[[Call], Any]:
    def dump(c: Call) -> Any:
        ndim, amounts = len(shape_of(c.x)), list(c.get("pad") or c.get("padding"))
        begins, ends = [0] * ndim, [0] * ndim
        for i in range(len(amounts) // 2):
            begins[ndim - 1 - i], ends[ndim - 1 - i] = amounts[2 * i : 2 * i + 2]
        if begins[0] or ends[0]:
            raise DumpError("it pads the batch")
        names = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
        how = names.get(mode or c.get("mode", "constant"), c.get("value") or 0)
        return padded(c, c.source(), begins, ends, how)

    return dump
