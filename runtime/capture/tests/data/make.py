"""Makes the JPEGs of this folder and golden.txt, what libjpeg-turbo decodes them to.

Needs Pillow and NumPy. A line of golden.txt: the file, its width and height, and the 64-bit
FNV-1a of its RGB bytes. Files that end in _progressive are for the `image` crate and for the
error that the stream decoder gives.
"""

import pathlib

import numpy
from PIL import Image

HERE = pathlib.Path(__file__).parent


def picture(width, height):
    y, x = numpy.mgrid[0:height, 0:width]
    u, v = x / width, y / height
    rng = numpy.random.default_rng(1)
    rgb = numpy.stack([110 + 40 * numpy.sin(u * 17), 130 + 50 * numpy.sin(u * 9 + v * 13), 90 + 80 * u], -1)
    rgb += rng.normal(0, 5, rgb.shape)
    rgb[numpy.hypot(u - 0.4, v - 0.5) < 0.2] = [200, 40, 30]
    return Image.fromarray(rgb.clip(0, 255).astype("uint8"))


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


CASES = [
    ("444", (61, 45), dict(subsampling="4:4:4", quality=85)),
    ("422", (61, 45), dict(subsampling="4:2:2", quality=85)),
    ("420", (61, 45), dict(subsampling="4:2:0", quality=85)),
    ("420_coarse_restarts", (97, 33), dict(subsampling="4:2:0", quality=30, restart_marker_blocks=2)),
    ("422_optimized", (48, 64), dict(subsampling="4:2:2", quality=95, optimize=True)),
    ("420_narrow", (3, 40), dict(subsampling="4:2:0", quality=80)),
    ("420_progressive", (61, 45), dict(subsampling="4:2:0", quality=60, progressive=True)),
]

lines = []
for name, size, options in CASES:
    path = HERE / f"{name}.jpg"
    picture(*size).save(path, **options)
    lines.append((path, size))
path = HERE / "gray.jpg"
picture(45, 31).convert("L").save(path, quality=70)
lines.append((path, (45, 31)))
with open(HERE / "golden.txt", "w") as golden:
    for path, (width, height) in lines:
        rgb = numpy.asarray(Image.open(path).convert("RGB")).tobytes()
        print(path.name, width, height, fnv(rgb), file=golden)
