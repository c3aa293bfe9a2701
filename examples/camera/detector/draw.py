"""Drawing primitives shared by the object, clutter and scene renderers.

Everything is drawn with OpenCV polygons and lines at sub-pixel precision; no
picture, font or texture is read from disk.  Colours are BGR, 0..255.
"""

from dataclasses import dataclass

import cv2
import numpy as np

_SHIFT = 4  # sub-pixel bits for OpenCV's drawing functions
_ONE = 1 << _SHIFT


@dataclass
class Sprite:
    """A drawn object: colour, coverage, and the part that ground truth covers."""

    image: np.ndarray  # [h, w, 3] uint8, BGR
    alpha: np.ndarray  # [h, w] uint8, what is composited
    mask: np.ndarray | None = None  # [h, w] uint8, labelled part; None: alpha
    category: int = -1  # label index, -1 for a distractor
    max_tilt: float = 55.0  # degrees out of the picture plane
    max_roll: float = 180.0  # degrees in the picture plane
    solid: bool = False  # drawn in 3-D already, so it is not tilted further

    @property
    def label_mask(self):
        return self.alpha if self.mask is None else self.mask


def _fixed(points):
    return np.round((np.asarray(points, np.float64)) * _ONE).astype(np.int32)


def polygon(img, points, color):
    cv2.fillPoly(img, [_fixed(points)], color, cv2.LINE_AA, _SHIFT)


def polyline(img, points, color, width, closed=False):
    cv2.polylines(img, [_fixed(points)], closed, color, max(1, round(width)), cv2.LINE_AA, _SHIFT)


def disc(img, centre, radius, color):
    c = _fixed(centre)
    cv2.circle(img, (int(c[0]), int(c[1])), max(1, round(radius * _ONE)), color, -1, cv2.LINE_AA, _SHIFT)


def ring(img, centre, radius, color, width):
    c = _fixed(centre)
    cv2.circle(img, (int(c[0]), int(c[1])), max(1, round(radius * _ONE)), color,
               max(1, round(width)), cv2.LINE_AA, _SHIFT)


def ellipse_points(centre, rx, ry, start=0.0, stop=360.0, count=48):
    t = np.deg2rad(np.linspace(start, stop, count))
    return np.stack([centre[0] + rx * np.cos(t), centre[1] + ry * np.sin(t)], 1)


def regular_polygon(centre, radius, sides, phase):
    t = np.deg2rad(phase) + np.arange(sides) * 2 * np.pi / sides
    return np.stack([centre[0] + radius * np.cos(t), centre[1] + radius * np.sin(t)], 1)


def rounded_polygon(points, radius, steps=5):
    """Corner points of a convex polygon, each corner cut by a circle-like arc."""
    points = np.asarray(points, np.float64)
    out = []
    for before, here, after in zip(np.roll(points, 1, 0), points, np.roll(points, -1, 0)):
        a, b = before - here, after - here
        la, lb = np.linalg.norm(a), np.linalg.norm(b)
        r = min(radius, la * 0.45, lb * 0.45)
        p, q = here + a / la * r, here + b / lb * r
        for t in np.linspace(0, 1, steps):
            out.append((1 - t) ** 2 * p + 2 * t * (1 - t) * here + t ** 2 * q)
    return np.array(out)


def rectangle(x0, y0, x1, y1):
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


# --- colour -----------------------------------------------------------------

def hsv(h, s, v):
    """BGR colour from hue in degrees and saturation and value in 0..1."""
    h = (h % 360) / 60.0
    k = (np.array([1.0, 3.0, 5.0]) + h) % 6  # blue, green, red
    rgb = v - v * s * np.clip(np.minimum(k, 4 - k), 0, 1)
    return tuple(float(c) * 255 for c in rgb)


def any_color(rng, s=(0.0, 1.0), v=(0.1, 1.0)):
    return hsv(rng.uniform(0, 360), rng.uniform(*s), rng.uniform(*v))


def sign_red(rng):
    return hsv(rng.normal(0, 5), rng.uniform(0.72, 1.0), rng.uniform(0.5, 0.95))


def off_white(rng, low=0.8):
    return hsv(rng.uniform(20, 70), rng.uniform(0, 0.1), rng.uniform(low, 1.0))


def off_black(rng):
    return hsv(rng.uniform(0, 360), rng.uniform(0, 0.4), rng.uniform(0.02, 0.2))


def blend(a, b, t):
    return tuple(x * (1 - t) + y * t for x, y in zip(a, b))


# --- texture ----------------------------------------------------------------

def noise(rng, h, w, cell, stretch=1.0):
    """Smooth noise in 0..1 with features of about `cell` pixels."""
    gh, gw = max(2, int(h / cell) + 2), max(2, int(w / (cell * stretch)) + 2)
    grid = rng.random((gh, gw), np.float32)
    return cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC)


def fractal(rng, h, w, cell, octaves=4, stretch=1.0):
    total = np.zeros((h, w), np.float32)
    weight, norm = 1.0, 0.0
    for _ in range(octaves):
        total += weight * noise(rng, h, w, cell, stretch)
        norm += weight
        weight *= 0.55
        cell = max(1.5, cell / 2.1)
    return total / norm


def to_u8(img):
    return np.clip(img, 0, 255).astype(np.uint8)


def weather(rng, img, strength=0.25):
    """Uneven brightness and a little grain, as on a print or a painted surface."""
    h, w = img.shape[:2]
    gain = 1 + rng.uniform(0, strength) * (fractal(rng, h, w, max(h, w) / 3, 3) - 0.5) * 2
    if rng.random() < 0.5:
        angle, amount = rng.uniform(0, 2 * np.pi), rng.uniform(0, strength)
        x = np.linspace(-1, 1, w, dtype=np.float32)[None] * np.cos(angle)
        y = np.linspace(-1, 1, h, dtype=np.float32)[:, None] * np.sin(angle)
        gain = gain * (1 + amount * (x + y))
    return to_u8(img * gain[..., None].astype(np.float32))


# --- a stroke font ----------------------------------------------------------

# Strokes on a 4 x 6 grid; each stroke is a run of xy digit pairs, y downwards.
_GLYPHS = {
    "A": "062046|1434", "B": "00063645443303|3342413000", "C": "4130100105163645",
    "D": "00062644422000", "E": "40000646|0333", "F": "400006|0333",
    "G": "41301001051636454323", "H": "0006|4046|0343", "I": "2026", "J": "4045361605",
    "K": "0006|400346", "L": "000646", "M": "0600234046", "N": "06004640",
    "O": "103041453616050110", "P": "06003041423303", "Q": "103041453616050110|2446",
    "R": "06003041423303|2346", "S": "413010010213334445361605", "T": "0040|2026",
    "U": "000516364540", "V": "002640", "W": "0016233640", "X": "0046|4006",
    "Y": "002340|2326", "Z": "00400646", "0": "103041453616050110", "1": "112026",
    "2": "01103041420646", "3": "0110304142334445361605", "4": "36300444",
    "5": "400003334445361605", "6": "4130100105163645443303", "7": "004016",
    "8": "103041423313020110|334445361605041333",
    "9": "0516364541301001021343", "-": "0343", ".": "2526", "/": "0640", "+": "2125|0343",
}
_ROUND = set("BCDGJOPQRSU0235689")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"


def _smooth(p):
    """One round of Chaikin corner cutting that keeps the end points."""
    a, b = p[:-1], p[1:]
    inner = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], 1).reshape(-1, 2)
    return np.concatenate([p[:1], inner, p[-1:]])


def text(img, string, centre, width, height, color, weight=0.14, slant=0.0, angle=0.0):
    """Draws `string` in a width x height box; `weight` is stroke width over height."""
    if not string:
        return
    advance = 5.4
    sx, sy = width / (advance * len(string) - 1.4), height / 6
    sx = min(sx, sy * 1.6)
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    total = sx * (advance * len(string) - 1.4)
    for i, ch in enumerate(string):
        for stroke in filter(None, _GLYPHS.get(ch, "").split("|")):
            p = np.array([int(d) for d in stroke], np.float64).reshape(-1, 2)
            if ch in _ROUND:
                p = _smooth(p)
            x = (p[:, 0] + i * advance) * sx - total / 2 + slant * (3 - p[:, 1]) * sy
            y = (p[:, 1] - 3) * sy
            q = np.stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y], 1)
            polyline(img, q, color, weight * height)


def random_word(rng, low=2, high=9):
    alphabet = LETTERS if rng.random() < 0.7 else LETTERS + DIGITS
    return "".join(alphabet[i] for i in rng.integers(0, len(alphabet), rng.integers(low, high)))


def canvas(h, w, color=(0, 0, 0)):
    img = np.empty((int(h), int(w), 3), np.uint8)
    img[:] = np.clip(color, 0, 255)
    return img, np.zeros((int(h), int(w)), np.uint8)
