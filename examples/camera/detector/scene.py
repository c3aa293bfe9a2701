"""Puts sprites into a picture, lights it and passes it through a camera."""

from dataclasses import dataclass

import cv2
import numpy as np

import clutter
import signs
import solids
import things
from draw import Sprite, any_color, off_white, rectangle, to_u8, weather

WIDTH, HEIGHT = 640, 480
LABELS = ["stop sign", "yield sign", "no entry sign", "playing card", "die", "coin", "QR code",
          "clock", "pencil", "mug"]
_MAKERS = [signs.stop_sign, signs.yield_sign, signs.no_entry_sign, things.playing_card, solids.die,
           things.coin, things.qr_code, things.clock, things.pencil, solids.mug]
# Smallest extent in pixels at which a class is drawn.
_SMALLEST = [24, 24, 24, 32, 24, 24, 36, 28, 70, 26]
_LARGEST = 300
MIN_VISIBLE = 0.45  # no object is left with less of it to be seen

_NOISE = np.random.default_rng(7).standard_normal((HEIGHT + 160, WIDTH + 160, 3)).astype(np.float32)


@dataclass
class Instance:
    category: int
    full_area: int  # labelled pixels had nothing covered or cut it
    region: tuple  # slices of the frame that hold it


class Canvas:
    """A picture under construction and, for each pixel, the object seen there."""

    def __init__(self, image):
        self.image = image
        self.owner = np.full(image.shape[:2], -1, np.int16)
        self.instances = []

    def paste(self, sprite, matrix, shadow=None, check=True):
        """Composites a sprite under a homography; False if it may not go there.

        With `check`, refuses a place where the sprite is cut by the frame too
        much or would hide too much of an object already there.
        """
        h, w = sprite.alpha.shape
        frame_h, frame_w = self.owner.shape
        corners = cv2.perspectiveTransform(rectangle(0, 0, w, h)[None], matrix)[0]
        x0, y0 = np.floor(corners.min(0)).astype(int) - 1
        x1, y1 = np.ceil(corners.max(0)).astype(int) + 2
        if x1 <= 0 or y1 <= 0 or x0 >= frame_w or y0 >= frame_h:
            return False
        if x1 - x0 > 3 * frame_w or y1 - y0 > 3 * frame_h:
            return False
        local = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1.0]]) @ matrix
        size = (int(x1 - x0), int(y1 - y0))
        alpha = cv2.warpPerspective(sprite.alpha, local, size, flags=cv2.INTER_LINEAR)
        label = alpha if sprite.mask is None else cv2.warpPerspective(sprite.mask, local, size, flags=cv2.INTER_LINEAR)
        full = int(np.count_nonzero(label > 127))
        a, b, c, d = max(x0, 0), max(y0, 0), min(x1, frame_w), min(y1, frame_h)
        inner = (slice(b - y0, d - y0), slice(a - x0, c - x0))
        here = (slice(int(b), int(d)), slice(int(a), int(c)))
        solid, owner = alpha[inner] > 127, self.owner[here]
        if check:
            if sprite.category >= 0 and np.count_nonzero(label[inner] > 127) < 0.55 * max(full, 1):
                return False
            for index in np.unique(owner[solid]):
                if index >= 0:
                    other = self.instances[index]
                    left = np.count_nonzero(self.owner[other.region] == index)
                    left -= np.count_nonzero(owner[solid] == index)
                    if left < (MIN_VISIBLE + 0.1) * other.full_area:
                        return False
        color = cv2.warpPerspective(sprite.image, local, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if shadow is not None:
            self._shade(alpha, (x0, y0), shadow)
        t = alpha[inner][..., None].astype(np.float32) * np.float32(1 / 255)
        under = self.image[here].astype(np.float32)
        self.image[here] = to_u8(under + (color[inner] - under) * t + 0.5)
        owner[solid] = -1
        if sprite.category >= 0:
            owner[solid & (label[inner] > 127)] = len(self.instances)
            self.instances.append(Instance(sprite.category, full, here))
        return True

    def _shade(self, alpha, origin, shadow):
        dx, dy, sigma, depth = shadow
        pad = int(2 * sigma + 1)
        soft = cv2.copyMakeBorder(alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
        soft = cv2.GaussianBlur(soft, (0, 0), sigma)
        x0, y0 = origin[0] - pad + int(dx), origin[1] - pad + int(dy)
        h, w = soft.shape
        a, b = max(x0, 0), max(y0, 0)
        c, d = min(x0 + w, self.owner.shape[1]), min(y0 + h, self.owner.shape[0])
        if a >= c or b >= d:
            return
        gain = 1 - soft[b - y0:d - y0, a - x0:c - x0].astype(np.float32) * np.float32(depth / 255)
        self.image[b:d, a:c] = to_u8(self.image[b:d, a:c] * gain[..., None])

    def annotations(self):
        """Tight boxes of what is visible: (category, x, y, w, h, area) per object."""
        out = []
        for index, instance in enumerate(self.instances):
            seen = self.owner[instance.region] == index
            area = int(np.count_nonzero(seen))
            if area < max(40, MIN_VISIBLE * instance.full_area):
                continue
            x, y, w, h = cv2.boundingRect(seen.astype(np.uint8))
            out.append((instance.category, x + instance.region[1].start, y + instance.region[0].start, w, h, area))
        return out


# --- sprites in context -----------------------------------------------------

def _on_paper(rng, sprite):
    """The object as a print: in the middle of a sheet that is not labelled."""
    h, w = sprite.alpha.shape
    m = [int(rng.uniform(.05, .45) * max(h, w)) for _ in range(4)]
    sheet = np.empty((h + m[0] + m[1], w + m[2] + m[3], 3), np.uint8)
    sheet[:] = np.clip(off_white(rng, .75) if rng.random() < .7 else any_color(rng, (0, .6), (.3, 1)), 0, 255)
    sheet = weather(rng, sheet, .1)
    mask = np.zeros(sheet.shape[:2], np.uint8)
    here = (slice(m[0], m[0] + h), slice(m[2], m[2] + w))
    t = sprite.alpha[..., None] / np.float32(255)
    sheet[here] = to_u8(sheet[here] + (sprite.image.astype(np.float32) - sheet[here]) * t)
    mask[here] = sprite.label_mask
    return Sprite(sheet, np.full_like(mask, 255), mask, sprite.category, max(sprite.max_tilt, 35.0), sprite.max_roll)


def _on_pole(rng, sprite):
    h, w = sprite.alpha.shape
    extra = int(h * rng.uniform(.2, .9))
    image = cv2.copyMakeBorder(sprite.image, 0, extra, 0, 0, cv2.BORDER_REPLICATE)
    alpha = cv2.copyMakeBorder(sprite.alpha, 0, extra, 0, 0, cv2.BORDER_CONSTANT)
    mask = alpha.copy()
    half = w * rng.uniform(.02, .05)
    a, b = int(w / 2 - half), int(w / 2 + half) + 1
    behind = alpha[:, a:b] == 0
    behind[: h // 2] = False
    shade = np.linspace(.6, 1.2, b - a)[None, :, None] * np.array(any_color(rng, (0, .2), (.3, .8)))
    image[:, a:b][behind] = to_u8(np.broadcast_to(shade, image[:, a:b].shape))[behind]
    alpha[:, a:b][behind] = 255
    return Sprite(image, alpha, mask, sprite.category, sprite.max_tilt, sprite.max_roll)


def make_object(rng, category, extent, context=True):
    """A labelled sprite drawn for display at about `extent` pixels; with `context`, at times as a print."""
    sprite = _MAKERS[category](rng, int(np.clip(extent * 1.5, 56, 460)))
    sprite.category = category
    if not context:
        return sprite
    if category <= 2:
        k = rng.random()
        if k < .2:
            sprite = _on_paper(rng, sprite)
        elif k < .4:
            sprite = _on_pole(rng, sprite)
    elif category != 6 and rng.random() < .1:  # a QR code has its paper already
        sprite = _on_paper(rng, sprite)
    return sprite


def pose(rng, sprite, extent, centre):
    """Homography that tilts a sprite, scales its labelled part and puts it at `centre`."""
    x0, y0, x1, y1 = cv2.boundingRect(sprite.label_mask)
    x1, y1 = x0 + x1, y0 + y1
    h, w = sprite.alpha.shape
    yaw, pitch = np.deg2rad(rng.triangular(-1, 0, 1, 2) * sprite.max_tilt)
    roll = np.deg2rad(rng.uniform(-1, 1) * sprite.max_roll)
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    rot = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ \
        np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    dist = rng.uniform(2.2, 8) * max(h, w)
    # Plane point (x - w/2, y - h/2, 0) -> rotated, moved back by dist, projected.
    plane = np.array([[1, 0, -w / 2], [0, 1, -h / 2], [0, 0, 1.0]])
    project = np.array([[*rot[0, :2], 0], [*rot[1, :2], 0], [rot[2, 0] / dist, rot[2, 1] / dist, 1]]) @ plane
    corners = cv2.perspectiveTransform(rectangle(x0, y0, x1, y1)[None], project)[0]
    scale = extent / max(np.ptp(corners, axis=0).max(), 1e-3)
    middle = (corners.max(0) + corners.min(0)) / 2
    move = np.array([[scale, 0, centre[0] - scale * middle[0]], [0, scale, centre[1] - scale * middle[1]], [0, 0, 1]])
    return move @ project


def random_shadow(rng):
    if rng.random() < .35:
        return None
    return (rng.uniform(-14, 14), rng.uniform(-4, 16), rng.uniform(1.5, 9), rng.uniform(.15, .65))


# --- light and camera -------------------------------------------------------

def light(rng, img):
    """Uneven illumination, cast shadows and glare; float32 in and out."""
    h, w = img.shape[:2]
    if rng.random() < .6:
        x = np.linspace(-1, 1, w, dtype=np.float32)[None]
        y = np.linspace(-1, 1, h, dtype=np.float32)[:, None]
        if rng.random() < .5:
            angle = rng.uniform(0, 2 * np.pi)
            gain = 1 + rng.uniform(0, .45) * (x * np.cos(angle) + y * np.sin(angle))
        else:
            r2 = (x - rng.uniform(-.7, .7)) ** 2 + (y - rng.uniform(-.7, .7)) ** 2
            gain = 1.2 - rng.uniform(0, .35) * r2
        img *= gain.astype(np.float32)[..., None]
    if rng.random() < .3:
        small = np.zeros((h // 4, w // 4), np.uint8)
        pts = rng.uniform((0, 0), (w / 4, h / 4)) + rng.normal(0, 60, (int(rng.integers(3, 6)), 2))
        cv2.fillPoly(small, [pts.astype(np.int32)], 255)
        small = cv2.GaussianBlur(small, (0, 0), rng.uniform(.5, 8))
        gain = 1 - cv2.resize(small, (w, h)).astype(np.float32) * np.float32(rng.uniform(.15, .55) / 255)
        img *= gain[..., None]
    if rng.random() < .15:
        small = np.zeros((h // 4, w // 4), np.float32)
        c = rng.uniform((0, 0), (w / 4, h / 4))
        cv2.ellipse(small, (int(c[0]), int(c[1])), (int(rng.uniform(3, 25)), int(rng.uniform(2, 15))),
                    rng.uniform(0, 180), 0, 360, 1.0, -1)
        small = cv2.GaussianBlur(small, (0, 0), rng.uniform(2, 9))
        img += (cv2.resize(small, (w, h)) * np.float32(rng.uniform(40, 150)))[..., None]
    return img


@dataclass
class Camera:
    """What a camera does to a picture, drawn once per picture."""

    blur: float
    motion: float
    angle: float
    gain: np.ndarray
    gamma: float
    offset: float
    noise: float
    sharpen: float
    quality: int

    @staticmethod
    def random(rng):
        exposure = np.exp(rng.normal(0, .22))
        return Camera(
            blur=rng.uniform(.3, 1.6) if rng.random() < .5 else 0.0,
            motion=rng.uniform(2, 9) if rng.random() < .25 else 0.0,
            angle=rng.uniform(0, np.pi),
            gain=(np.clip(exposure, .6, 1.6) * rng.uniform(.85, 1.15, 3)).astype(np.float32),
            gamma=rng.uniform(.8, 1.25), offset=rng.uniform(-8, 18),
            noise=rng.uniform(0, 9) if rng.random() < .7 else 0.0,
            sharpen=rng.uniform(.2, 1) if rng.random() < .2 else 0.0,
            quality=int(rng.integers(45, 96)) if rng.random() < .6 else 0)

    @property
    def softness(self):
        return 1 + max(self.motion / 9, self.blur / 2)

    def __call__(self, rng, img):
        if self.blur:
            img = cv2.GaussianBlur(img, (0, 0), self.blur)
        if self.motion:
            n = int(np.ceil(self.motion)) | 1
            kernel = np.zeros((n, n), np.float32)
            d = np.array([np.cos(self.angle), np.sin(self.angle)]) * self.motion / 2
            c = n // 2
            cv2.line(kernel, tuple(int(v) for v in np.round((c - d) * 16)), tuple(int(v) for v in np.round((c + d) * 16)),
                     1.0, 1, cv2.LINE_8, 4)
            img = cv2.filter2D(img, -1, kernel / kernel.sum())
        img = np.maximum(img, 0) * np.float32(1 / 255)
        if abs(self.gamma - 1) > .05:
            img = cv2.pow(img, self.gamma)
        img = img * (self.gain * 255) + np.float32(self.offset)
        if self.noise:
            y, x = rng.integers(0, 160, 2)
            grain = _NOISE[y:y + img.shape[0], x:x + img.shape[1]]
            if rng.random() < .5:
                grain = cv2.blur(grain, (2, 2)) * 1.6
            img += grain * np.float32(self.noise)
        if self.sharpen:
            img += (img - cv2.GaussianBlur(img, (0, 0), 1.2)) * np.float32(self.sharpen)
        img = to_u8(img + 0.5)
        if self.quality:
            img = cv2.imdecode(cv2.imencode(".jpg", img, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1], cv2.IMREAD_COLOR)
        return img


# --- pictures ---------------------------------------------------------------

def render_picture(seed):
    """One picture and its objects; the same for the same seed (any integers)."""
    rng = np.random.default_rng(seed)
    camera = Camera.random(rng)
    scene = Canvas(clutter.background(rng, HEIGHT, WIDTH))
    targets = 0 if rng.random() < .03 else int(np.clip(1 + rng.poisson(4), 1, 11))
    pool = rng.permutation(len(LABELS))[: int(rng.integers(2, len(LABELS) + 1))]
    todo = [int(pool[rng.integers(len(pool))]) for _ in range(targets)]
    todo += [-1] * int(rng.integers(0, 8))
    sized = []
    for category in todo:
        low = max(24, _SMALLEST[category] * camera.softness if category >= 0 else 24)
        extent = np.exp(rng.uniform(np.log(low), np.log(_LARGEST)))
        sized.append((category, min(extent, _LARGEST)))
    # Larger things tend to be put down first, so that small ones stay in sight.
    sized.sort(key=lambda item: -item[1] * np.exp(rng.normal(0, .5)))
    for category, extent in sized:
        if category >= 0:
            sprite = make_object(rng, category, extent)
        else:
            sprite = clutter.distractor(rng, int(np.clip(extent * 1.4, 56, 420)))
        shadow = random_shadow(rng)
        for _ in range(8):
            centre = rng.uniform((0, 0), (WIDTH, HEIGHT))
            if scene.paste(sprite, pose(rng, sprite, extent, centre), shadow):
                break
    img = light(rng, scene.image.astype(np.float32))
    return camera(rng, img), scene.annotations()
