"""Desk objects drawn flat: playing card, coin, QR code, clock and pencil."""

import cv2
import numpy as np

from draw import (Sprite, any_color, blend, canvas, disc, ellipse_points, fractal, hsv, off_black,
                  off_white, polygon, polyline, random_word, rectangle, regular_polygon, ring,
                  rounded_polygon, text, to_u8, weather)

# --- playing card -----------------------------------------------------------

_RANKS = ["A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K"]
_COLUMNS = {  # pip positions as (column, row) in units of the pip area
    1: [(1, 3)], 2: [(1, 0), (1, 6)], 3: [(1, 0), (1, 3), (1, 6)],
    4: [(0, 0), (2, 0), (0, 6), (2, 6)], 5: [(0, 0), (2, 0), (1, 3), (0, 6), (2, 6)],
    6: [(0, 0), (2, 0), (0, 3), (2, 3), (0, 6), (2, 6)],
    7: [(0, 0), (2, 0), (0, 3), (2, 3), (0, 6), (2, 6), (1, 1.5)],
    8: [(0, 0), (2, 0), (0, 3), (2, 3), (0, 6), (2, 6), (1, 1.5), (1, 4.5)],
    9: [(0, 0), (2, 0), (0, 2), (2, 2), (0, 4), (2, 4), (0, 6), (2, 6), (1, 3)],
    10: [(0, 0), (2, 0), (0, 2), (2, 2), (0, 4), (2, 4), (0, 6), (2, 6), (1, 1), (1, 5)],
}


def _suit(img, suit, centre, r, color, flip=False):
    x, y = centre
    k = -1 if flip else 1
    if suit == 0:  # diamond
        polygon(img, [(x, y - r), (x + .72 * r, y), (x, y + r), (x - .72 * r, y)], color)
    elif suit == 1:  # heart
        for d in (-1, 1):
            disc(img, (x + d * .45 * r, y - k * .35 * r), .52 * r, color)
        polygon(img, [(x - .93 * r, y - k * .12 * r), (x + .93 * r, y - k * .12 * r), (x, y + k * r)], color)
    else:
        if suit == 2:  # spade
            for d in (-1, 1):
                disc(img, (x + d * .43 * r, y + k * .25 * r), .48 * r, color)
            polygon(img, [(x - .86 * r, y + k * .1 * r), (x + .86 * r, y + k * .1 * r), (x, y - k * r)], color)
        else:  # club
            for dx, dy in ((-.48, .2), (.48, .2), (0, -.5)):
                disc(img, (x + dx * r, y + k * dy * r), .45 * r, color)
        polygon(img, [(x, y), (x - .3 * r, y + k * r), (x + .3 * r, y + k * r)], color)


def playing_card(rng, s):
    h, w = s, s * 0.715
    white = off_white(rng, 0.85)
    img, alpha = canvas(h, w, white)
    polygon(alpha, rounded_polygon(rectangle(.5, .5, int(w) - .5, int(h) - .5), s * rng.uniform(.03, .06)), 255)
    suit, rank = int(rng.integers(4)), int(rng.integers(13))
    ink = hsv(rng.normal(0, 6), rng.uniform(.8, 1), rng.uniform(.6, .9)) if suit < 2 else off_black(rng)
    if rank >= 10:
        _court(rng, img, w, h, suit, ink)
    elif rank == 0:
        _suit(img, suit, (w / 2, h / 2), s * rng.uniform(.1, .2), ink)
    else:
        r = s * rng.uniform(.055, .075)
        for cx, cy in _COLUMNS[rank + 1]:
            _suit(img, suit, (w * (.3 + .2 * cx), h * (.16 + .68 * cy / 6)), r, ink, cy > 3)
    size = rng.uniform(.07, .11) * s
    for flip in (0, 1):
        k = -1 if flip else 1
        x, y = w * .5 - k * w * .38, h * .5 - k * h * .41
        text(img, _RANKS[rank], (x, y), size, size, ink, .18, angle=180 * flip)
        _suit(img, suit, (x, y + k * size * 1.05), size * .42, ink, bool(flip))
    return Sprite(weather(rng, img, .12), alpha, category=3)


def _court(rng, img, w, h, suit, ink):
    """A point-symmetric picture in a frame, in the manner of court cards."""
    x0, y0 = w * .2, h * .13
    frame = rectangle(x0, y0, w - x0, h - y0)
    back = off_white(rng) if rng.random() < .5 else any_color(rng, (.2, .6), (.7, 1))
    polygon(img, frame, back)
    half = img[: img.shape[0] // 2]
    colors = [any_color(rng, (.6, 1), (.3, .95)) for _ in range(3)] + [ink]
    cx = w / 2
    polygon(half, [(x0, h / 2), (cx - w * .12, h * .33), (cx + w * .12, h * .33), (w - x0, h / 2)], colors[0])
    polygon(half, [(cx - w * .1, h / 2), (cx, h * .34), (cx + w * .1, h / 2)], colors[1])
    for _ in range(4):
        p = rng.uniform((x0, h * .35), (w - x0, h * .5))
        disc(half, p, w * rng.uniform(.02, .05), colors[rng.integers(4)])
    skin = hsv(rng.uniform(18, 35), rng.uniform(.15, .5), rng.uniform(.6, 1))
    disc(half, (cx, h * .27), w * .13, colors[2])
    disc(half, (cx, h * .28), w * .09, skin)
    polygon(half, [(cx - w * .12, h * .21), (cx - w * .14, h * .15), (cx, h * .19), (cx + w * .14, h * .15),
                   (cx + w * .12, h * .21)], hsv(48, .8, .9))
    _suit(half, suit, (x0 + w * .08, y0 + h * .05), w * .06, ink)
    bottom = img[img.shape[0] - half.shape[0]:]
    keep = slice(int(x0), int(w - x0))
    bottom[:, keep] = half[::-1, ::-1][:, keep]
    polyline(img, frame, blend(ink, (200, 60, 30), rng.random()), w * .012, closed=True)


# --- coin -------------------------------------------------------------------

_METALS = [(35, .05, .78), (210, .04, .7), (45, .45, .8), (40, .6, .72), (22, .6, .65), (18, .65, .5)]


def _metal(rng):
    h, s, v = _METALS[rng.integers(len(_METALS))]
    return hsv(h + rng.normal(0, 4), min(1, s * rng.uniform(.7, 1.3)), min(1, v * rng.uniform(.7, 1.2)))


def coin(rng, s):
    base = _metal(rng)
    squash = rng.uniform(.35, 1) if rng.random() < .6 else 1.0  # drawn tilted, so its edge shows
    thick = s * .08 * np.sqrt(1 - squash ** 2)
    n = int(s)
    img, alpha = canvas(n, n, base)
    c = (n / 2, n / 2)
    light, dark = blend(base, (255, 255, 255), .45), blend(base, (0, 0, 0), .55)
    if rng.random() < .25:  # two metals
        disc(img, c, n * .33, _metal(rng))
    edge = rng.uniform(.43, .46)
    for d, col in ((1, dark), (-1, light), (0, base)):
        ring(img, (c[0] + d * n * .008, c[1] + d * n * .008), n * edge, col, n * .02)

    def relief(draw):
        off = n * .009
        for d, col in ((off, dark), (-off, light), (0, blend(base, (128, 128, 128), .1))):
            draw(d, col)

    k = rng.integers(3)
    if k == 0:  # value
        word = str(rng.choice(["1", "2", "5", "10", "20", "50", "100"]))
        relief(lambda d, col: text(img, word, (c[0] + d, c[1] + d), n * .4, n * .4, col, .16))
    elif k == 1:  # a head in profile
        jaw = np.array([[.42, .24], [.55, .22], [.62, .3], [.63, .4], [.68, .47], [.63, .5], [.62, .58],
                        [.54, .6], [.55, .7], [.64, .78], [.36, .78], [.42, .66], [.35, .5], [.35, .34]]) * n
        jaw = np.stack([jaw[:, 0] if rng.random() < .5 else n - jaw[:, 0], jaw[:, 1]], 1)
        jaw += rng.normal(0, .008 * n, jaw.shape)
        relief(lambda d, col: polygon(img, jaw + d, col))
        if rng.random() < .5:
            disc(img, (n * .43, n * .36), n * .07, dark)
    else:  # a wreath, star or building
        if rng.random() < .5:
            star = np.stack([regular_polygon(c, n * .26, 5, -90), regular_polygon(c, n * .11, 5, -54)], 1)
            relief(lambda d, col: polygon(img, star.reshape(-1, 2) + d, col))
        else:
            for x in np.linspace(.32, .68, 5):
                relief(lambda d, col: polyline(img, [(x * n + d, n * .42), (x * n + d, n * .66)], col, n * .035))
            relief(lambda d, col: polygon(img, np.array([[.27, .4], [.73, .4], [.5, .28]]) * n + d, col))
    if rng.random() < .75:  # legend round the edge
        start, span = rng.uniform(0, 360), rng.uniform(100, 340)
        for ch, a in zip(random_word(rng, 8, 20), np.linspace(start, start + span, 20)):
            t = np.deg2rad(a)
            p = (c[0] + np.cos(t) * n * .365, c[1] + np.sin(t) * n * .365)
            text(img, ch, p, n * .05, n * .07, dark if rng.random() < .6 else light, .2, angle=a + 90)
    yy, xx = np.mgrid[0:n, 0:n].astype(np.float32)
    theta = np.arctan2(yy - c[1], xx - c[0])
    sheen = rng.uniform(.05, .35) * np.cos(2 * (theta - rng.uniform(0, np.pi)))
    sheen += rng.uniform(0, .35) * (fractal(rng, n, n, n / 5, 3) - .5) * 2
    img = to_u8(img * (1 + sheen)[..., None])
    disc(alpha, c, n * .485, 255)
    if squash < 1:  # flatten and add the edge below
        height = int(n * squash + thick + 2)
        m = np.array([[1, 0, 0], [0, squash, 0]], np.float64)
        flat = cv2.warpAffine(img, m, (n, height), flags=cv2.INTER_AREA)
        fa = cv2.warpAffine(alpha, m, (n, height), flags=cv2.INTER_AREA)
        img, alpha = canvas(height, n, blend(base, (0, 0, 0), rng.uniform(.3, .6)))
        for dy in np.linspace(0, thick, max(2, int(thick) + 1)):
            polygon(alpha, ellipse_points((c[0], c[1] * squash + dy), n * .485, n * .485 * squash), 255)
        img = to_u8(img + (flat.astype(np.float32) - img) * (fa[..., None] / np.float32(255)))
        return Sprite(img, alpha, category=5, max_tilt=12, max_roll=30, solid=True)
    return Sprite(img, alpha, category=5, max_tilt=35)


# --- QR code ----------------------------------------------------------------

def qr_code(rng, s):
    version = int(rng.choice([1, 1, 2, 2, 3, 4, 5, 6]))
    n = 17 + 4 * version
    grid = rng.random((n, n)) < .5
    if n > 21:
        _finder(grid, n - 9, n - 9, 2)
    grid[6, 8:n - 8] = grid[8:n - 8, 6] = (np.arange(8, n - 8) % 2 == 0)
    for y, x in ((0, 0), (0, n - 7), (n - 7, 0)):
        grid[max(0, y - 1):y + 8, max(0, x - 1):x + 8] = False
        _finder(grid, y, x, 3)
    quiet = rng.uniform(.06, .2)
    cell = max(2, int(s / n * (1 - quiet)))
    side = n * cell
    pad = [max(2, int(rng.uniform(.5, 1.5) * quiet * s)) for _ in range(4)]
    if rng.random() < .4:  # more paper on one side, with a caption
        pad[rng.integers(4)] += int(s * rng.uniform(.1, .5))
    paper = off_white(rng) if rng.random() < .8 else any_color(rng, (.1, .4), (.8, 1))
    ink = off_black(rng) if rng.random() < .8 else any_color(rng, (.5, 1), (.1, .4))
    h, w = side + pad[0] + pad[1], side + pad[2] + pad[3]
    img, alpha = canvas(h, w, paper)
    code = cv2.resize(grid.astype(np.uint8) * 255, (side, side), interpolation=cv2.INTER_NEAREST)
    area = img[pad[0]:pad[0] + side, pad[2]:pad[2] + side]
    area[code > 0] = np.clip(ink, 0, 255)
    if pad[1] > s * .12:
        text(img, random_word(rng, 4, 10), (w / 2, h - pad[1] / 2), w * .6, pad[1] * .4, ink, .16)
    alpha[:] = 255
    mask = np.zeros_like(alpha)
    mask[pad[0]:pad[0] + side, pad[2]:pad[2] + side] = 255
    return Sprite(weather(rng, img, .15), alpha, mask, category=6, max_tilt=50)


def _finder(grid, y, x, r):
    size = 2 * r + 1
    yy, xx = np.abs(np.mgrid[0:size, 0:size] - r)
    grid[y:y + size, x:x + size] = np.maximum(yy, xx) != (2 if r == 3 else 1)


# --- clock ------------------------------------------------------------------

def clock(rng, s):
    dark_face = rng.random() < .25
    face = off_black(rng) if dark_face else (off_white(rng) if rng.random() < .75 else any_color(rng, (0, .5), (.6, 1)))
    ink = off_white(rng) if dark_face else off_black(rng)
    rim = any_color(rng, (0, .9), (.05, .95))
    img, alpha = canvas(s, s, rim)
    c = np.array((s / 2, s / 2))
    square = rng.random() < .2
    if square:
        box = rectangle(-.49, -.49, .49, .49) * s + c
        polygon(alpha, rounded_polygon(box, s * rng.uniform(.02, .2)), 255)
        width = rng.uniform(.03, .09)
        polygon(img, rounded_polygon(c + (box - c) * (1 - 2 * width), s * .05), face)
        r = s * (.47 - width)
    else:
        disc(alpha, c, s * .49, 255)
        width = rng.uniform(.015, .09)
        r = s * (.49 - width)
        ring(img, c, s * (.49 - width / 2), blend(rim, (255, 255, 255), rng.uniform(0, .5)), s * width * .4)
        disc(img, c, r, face)
    numerals = rng.integers(4)  # 0: all, 1: quarters, 2: Roman, 3: none
    roman = ["XII", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI"]
    size = r * rng.uniform(.17, .26)
    for i in range(60):
        t = np.deg2rad(i * 6 - 90)
        d = np.array((np.cos(t), np.sin(t)))
        hour = i % 5 == 0
        if hour and (numerals in (0, 2) or (numerals == 1 and i % 15 == 0)):
            label = roman[i // 5] if numerals == 2 else str(i // 5 or 12)
            text(img, label, c + d * r * .78, size * (.6 + .35 * (len(label) > 1)), size, ink, .16,
                 angle=i * 6 if numerals == 2 else 0)
        if (hour and numerals != 0) or s > 110:
            long = (.13 if hour else .05)
            polyline(img, [c + d * r * .96, c + d * r * (.96 - long * (.4 if numerals in (0, 2) else 1))], ink,
                     r * (.035 if hour else .012))
    minutes = rng.uniform(0, 720)
    hand = ink if rng.random() < .8 else any_color(rng, (.6, 1), (.3, .9))
    weight = rng.uniform(.03, .07)
    for angle, length, wd in ((minutes / 2, rng.uniform(.42, .55), 1.3), (minutes * 6, rng.uniform(.65, .82), 1.0)):
        t = np.deg2rad(angle - 90)
        d, n = np.array((np.cos(t), np.sin(t))), np.array((-np.sin(t), np.cos(t)))
        a, tip = c - d * r * .1, c + d * r * length
        polygon(img, [a + n * r * weight * wd / 2, a - n * r * weight * wd / 2,
                      tip - n * r * weight * wd / 4, tip + n * r * weight * wd / 4], hand)
    if rng.random() < .6:
        t = rng.uniform(0, 2 * np.pi)
        d = np.array((np.cos(t), np.sin(t)))
        polyline(img, [c - d * r * .15, c + d * r * .8], hsv(rng.normal(0, 8), .9, .8), r * .018)
    disc(img, c, r * rng.uniform(.03, .07), hand)
    return Sprite(weather(rng, img), alpha, category=7, max_tilt=50, max_roll=25)


# --- pencil -----------------------------------------------------------------

def pencil(rng, s):
    w = int(s)
    h = max(7, int(s / rng.uniform(7, 14)))
    img, alpha = canvas(h, w)
    paint = hsv(rng.uniform(40, 52), rng.uniform(.75, 1), rng.uniform(.8, 1)) if rng.random() < .4 else \
        any_color(rng, (.3, 1), (.1, .9))
    cone = h * rng.uniform(1.6, 2.6)
    lead = off_black(rng) if rng.random() < .75 else paint
    wood = hsv(rng.uniform(26, 40), rng.uniform(.3, .55), rng.uniform(.7, .95))
    x = cone * 1.0
    bands = [(0.0, .3, .75), (.3, .7, 1.1), (.7, 1.0, .6)] if rng.random() < .75 else \
        [(i / 8, (i + 1) / 8, .55 + .6 * np.sin(np.pi * (i + .6) / 8)) for i in range(8)]
    ferrule = rng.random() < .6
    end = w - (h * rng.uniform(1.8, 2.8) if ferrule else 0)
    pink = hsv(rng.uniform(345, 365), rng.uniform(.3, .6), rng.uniform(.7, .95))
    metal = blend(_metal(rng), (200, 200, 200), .3)
    for y0, y1, gain in bands:
        shade = lambda col: tuple(min(255, ch * gain) for ch in col)
        polygon(img, rectangle(x, y0 * h, end, y1 * h), shade(paint))
        polygon(img, [(x + h * .12, y0 * h), (x + h * .3 * (len(bands) == 3), (y0 + y1) / 2 * h), (x + h * .12, y1 * h),
                      (0, h / 2 + (y1 - .5) * h * .02), (0, h / 2 + (y0 - .5) * h * .02)], shade(wood))
        if ferrule:
            mid = end + (w - end) * .5
            polygon(img, rectangle(end, y0 * h, mid, y1 * h), shade(metal))
            polygon(img, rectangle(mid, y0 * h, w, y1 * h), shade(pink))
            for k in (.15, .3, .7, .85):
                xx = end + (mid - end) * k
                polyline(img, [(xx, y0 * h), (xx, y1 * h)], shade(blend(metal, (0, 0, 0), .4)), h * .06)
    if not ferrule and rng.random() < .5:
        polygon(img, rectangle(w - h * .5, 0, w, h), any_color(rng))
    tip = cone * rng.uniform(.22, .35)
    polygon(img, [(0, h / 2), (tip, h / 2 - h * .5 * tip / cone), (tip, h / 2 + h * .5 * tip / cone)], lead)
    if rng.random() < .5:
        text(img, random_word(rng, 4, 9), (w * rng.uniform(.5, .7), h / 2), w * .25, h * .3,
             off_white(rng) if rng.random() < .5 else hsv(45, .6, .8), .14)
    polygon(alpha, [(0, h / 2 - .5), (cone, 0), (w - h * .15, 0), (w, h * .2), (w, h * .8), (w - h * .15, h),
                    (cone, h), (0, h / 2 + .5)], 255)
    return Sprite(weather(rng, img, .12), alpha, category=8, max_tilt=25, solid=True)
