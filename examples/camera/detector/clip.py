"""Renders the bundled clip: a camera that moves over a desk, as an AVI of JPEG frames.

    python3 clip.py --out ../assets

writes clip.avi (MJPEG, 640 x 480, 30 frames/s) and clip.json (COCO form, one
image entry a frame).  Boxes follow the objects at the middle of the exposure.
"""

import argparse
import json
import struct
from pathlib import Path

import cv2
import numpy as np

import clutter
import signs
from draw import to_u8
from render import coco
from scene import HEIGHT, LABELS, WIDTH, Canvas, make_object, pose

FRAMES, RATE = 120, 30
SHUTTER, SAMPLES = 0.5, 6  # exposure as a part of the frame time; pictures averaged over it
WORLD_W, WORLD_H = 1500, 900

# (label, extent, x, y, height above the desk as a part of the camera's distance, seed)
OBJECTS = [
    ("playing card", 125, 330, 300, 0.00, 21), ("playing card", 120, 425, 345, 0.00, 5),
    ("die", 52, 520, 250, 0.03, 3), ("die", 50, 575, 300, 0.03, 19),
    ("coin", 56, 365, 500, 0.00, 2), ("coin", 44, 440, 540, 0.00, 12), ("coin", 50, 700, 590, 0.00, 9),
    ("pencil", 210, 590, 450, 0.01, 6), ("QR code", 110, 740, 320, 0.00, 4),
    ("mug", 165, 880, 470, 0.12, 14), ("clock", 150, 1010, 270, 0.06, 1),
    ("stop sign", 120, 575, 155, 0.05, 11), ("yield sign", 112, 870, 210, 0.05, 7),
    ("no entry sign", 105, 1150, 420, 0.05, 10), ("die", 58, 1010, 560, 0.03, 15),
    ("playing card", 115, 1130, 590, 0.00, 13), ("pencil", 180, 1240, 260, 0.01, 16),
]
CLUTTER = [  # (what, extent, x, y, seed)
    (clutter.pen, 130, 440, 440, 1), (clutter.lid, 90, 690, 175, 5), (clutter.lid, 75, 820, 640, 4),
    (clutter.sheet, 130, 1040, 420, 4), (clutter.ball, 70, 1270, 500, 9), (clutter.keyboard, 170, 230, 420, 6),
    (signs.other_sign, 80, 1270, 600, 8), (clutter.box, 80, 660, 560, 8),
]


def camera_path(t):
    """(x, y, zoom, roll in radians, tilt) of the camera at frame time t."""
    u = t / FRAMES
    sweep = 0.5 - 0.5 * np.cos(np.pi * u) + 0.035 * np.sin(6 * np.pi * u)
    shake = lambda k: 1.6 * np.sin(0.9 * t + k) + 1.1 * np.sin(1.7 * t + 2.3 * k)
    x = 520 + 460 * sweep + shake(0)
    y = 385 + 45 * np.sin(2 * np.pi * u + 0.5) + shake(1)
    zoom = 0.98 + 0.2 * np.sin(2 * np.pi * u - 0.6)
    roll = np.deg2rad(7 * np.sin(2 * np.pi * u * 1.3 + 0.4))
    return x, y, zoom, roll, 0.00022 + 0.0001 * np.sin(2 * np.pi * u)


def projection(t, z):
    """Homography from the plane at height z over the desk to the frame."""
    x, y, zoom, roll, tilt = camera_path(t)
    s, c = np.sin(roll), np.cos(roll)
    k = zoom * (1 + z)
    centre = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1.0]])
    turn = np.array([[k * c, -k * s, 0], [k * s, k * c, 0], [0, 0, 1]])
    lean = np.array([[1, 0, 0], [0, 1, 0], [0, -tilt, 1]])
    frame = np.array([[1, 0, WIDTH / 2], [0, 1, HEIGHT / 2], [0, 0, 1.0]])
    return frame @ lean @ turn @ centre


class Desk:
    """The static world."""

    def __init__(self, seed=3):
        rng = np.random.default_rng([90, seed])
        self.top = to_u8(clutter.wood(rng, WORLD_H, WORLD_W))
        self.items = []
        for draw, extent, x, y, k in CLUTTER:
            r = np.random.default_rng([91, k])
            sprite = draw(r, int(extent * 1.6))
            self.items.append((sprite, pose(r, sprite, extent, (x, y)), 0.0))
        for label, extent, x, y, z, k in OBJECTS:
            r = np.random.default_rng([92, k])
            sprite = make_object(r, LABELS.index(label), extent * 1.3, context=label.endswith("sign"))
            sprite.max_tilt, sprite.max_roll = min(sprite.max_tilt, 18), min(sprite.max_roll, 25)
            self.items.append((sprite, pose(r, sprite, extent, (x, y)), z))

    def view(self, t):
        scene = Canvas(cv2.warpPerspective(self.top, projection(t, 0.0), (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT))
        for sprite, matrix, z in self.items:
            scene.paste(sprite, projection(t, z) @ matrix, (4 + 60 * z, 6 + 60 * z, 4 + 30 * z, 0.45), check=False)
        return scene


def frame(desk, index):
    """Frame picture (float32) and its objects."""
    total = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for k in range(SAMPLES):
        total += desk.view(index + SHUTTER * ((k + 0.5) / SAMPLES - 0.5)).image
    img = total / SAMPLES
    y, x = np.mgrid[-1:1:HEIGHT * 1j, -1:1:WIDTH * 1j].astype(np.float32)
    img *= (1.08 - 0.16 * (x + 0.3) ** 2 - 0.12 * (y - 0.2) ** 2)[..., None]
    img = cv2.GaussianBlur(img, (0, 0), 0.6)
    rng = np.random.default_rng([93, index])
    img += rng.standard_normal(img.shape, np.float32) * 2.0
    return img, desk.view(index).annotations()


def write_avi(path, jpegs, width=WIDTH, height=HEIGHT, rate=RATE):
    """Plain RIFF AVI: one MJPG stream and an index."""
    def chunk(tag, data):
        return tag + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1)

    def group(kind, data):
        return chunk(b"LIST", kind + data)

    largest = max(map(len, jpegs))
    avih = struct.pack("<14I", 1_000_000 // rate, largest * rate, 0, 0x10, len(jpegs), 0, 1, largest, width, height, 0, 0, 0, 0)
    strh = b"vidsMJPG" + struct.pack("<IHHIIIIIIIIhhhh", 0, 0, 0, 0, 1, rate, 0, len(jpegs), largest, 0xFFFFFFFF, 0,
                                     0, 0, width, height)
    strf = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0)
    header = group(b"hdrl", chunk(b"avih", avih) + group(b"strl", chunk(b"strh", strh) + chunk(b"strf", strf)))
    body, index, offset = [], [], 4
    for jpeg in jpegs:
        body.append(chunk(b"00dc", jpeg))
        index.append(b"00dc" + struct.pack("<III", 0x10, offset, len(jpeg)))
        offset += len(body[-1])
    data = b"AVI " + header + group(b"movi", b"".join(body)) + chunk(b"idx1", b"".join(index))
    Path(path).write_bytes(chunk(b"RIFF", data))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quality", type=int, default=80, help="JPEG quality")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    desk, jpegs, records = Desk(), [], []
    options = [cv2.IMWRITE_JPEG_QUALITY, args.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
               cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    for i in range(FRAMES):
        image, objects = frame(desk, i)
        jpegs.append(cv2.imencode(".jpg", to_u8(image + 0.5), options)[1].tobytes())
        records.append((f"frame_{i:06d}", objects))
    write_avi(args.out / "clip.avi", jpegs)
    (args.out / "clip.json").write_text(json.dumps(coco(records), separators=(",", ":")))
    size = (args.out / "clip.avi").stat().st_size
    print(f"{FRAMES} frames, {sum(len(o) for _, o in records)} objects, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
