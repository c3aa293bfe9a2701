"""Backgrounds and unlabelled objects: the things that are not in the label list."""

import cv2
import numpy as np

from draw import (Sprite, any_color, blend, canvas, disc, ellipse_points, fractal, hsv, noise,
                  off_black, off_white, polygon, polyline, random_word, rectangle, regular_polygon,
                  ring, rounded_polygon, text, to_u8, weather)
from signs import other_sign
from solids import box

# --- backgrounds ------------------------------------------------------------


def _mix(a, b, t):
    a, b = np.array(a, np.float32), np.array(b, np.float32)
    return a + (b - a) * t[..., None]


def _cloudy(rng, h, w):
    return _mix(any_color(rng), any_color(rng), fractal(rng, h, w, rng.uniform(20, 300)))


def wood(rng, h, w):
    if rng.random() < .5:
        return np.ascontiguousarray(_planks(rng, w, h).transpose(1, 0, 2))
    return _planks(rng, h, w)


def _planks(rng, h, w):
    light = hsv(rng.uniform(15, 40), rng.uniform(.2, .7), rng.uniform(.3, .95))
    grain = fractal(rng, h, w, rng.uniform(4, 14), 3, stretch=rng.uniform(15, 40))
    rings = .5 + .5 * np.sin((noise(rng, h, w, h / 2, 3) * rng.uniform(10, 40) + grain * 4))
    img = _mix(light, blend(light, (0, 0, 20), rng.uniform(.2, .6)), (.6 * grain + .4 * rings))
    if rng.random() < .5:
        step = int(rng.uniform(60, 200))
        img[::step] *= .4
        img[1::step] *= .7
    return img


def _pattern(rng, h, w):
    """Stripes, checks, tiles and bricks."""
    a, b = any_color(rng), any_color(rng)
    yy, xx = np.mgrid[0:h, 0:w].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    u = xx * np.cos(angle) + yy * np.sin(angle)
    v = -xx * np.sin(angle) + yy * np.cos(angle)
    period = np.exp(rng.uniform(np.log(8), np.log(160)))
    k = rng.integers(4)
    if k == 0:
        t = ((u / period) % 1 < rng.uniform(.2, .8)).astype(np.float32)
    elif k == 1:
        t = (((u // period) + (v // period)) % 2).astype(np.float32)
    elif k == 2:
        shift = (np.floor(v / period) % 2) * .5
        t = np.maximum((u / (2 * period) + shift) % 1 > .96, (v / period) % 1 > .92).astype(np.float32)
    else:
        t = .5 + .25 * np.sin(u / period * 6.28) + .25 * np.sin(v / period * 6.28)
    img = _mix(a, b, t)
    return img * (1 + .3 * (fractal(rng, h, w, 80, 4) - .5))[..., None]


def _patches(rng, h, w):
    img, _ = canvas(h, w, any_color(rng))
    for _ in range(int(rng.integers(8, 60))):
        size = np.exp(rng.uniform(np.log(10), np.log(w / 2)))
        c = rng.uniform((0, 0), (w, h))
        polygon(img, c + rng.normal(0, size / 2, (int(rng.integers(3, 7)), 2)), any_color(rng))
    if rng.random() < .6:
        img = cv2.GaussianBlur(img, (0, 0), rng.uniform(1, 12))
    return img.astype(np.float32)


def _page(rng, h, w):
    """Printed matter."""
    img, _ = canvas(h, w, off_white(rng, .6))
    ink, y = off_black(rng), rng.uniform(5, 40)
    size = rng.uniform(6, 22)
    while y < h:
        x = rng.uniform(5, 60)
        while x < w:
            word = random_word(rng, 2, 9)
            length = size * .75 * len(word)
            if size < 11:  # too fine to read: strokes will do
                polyline(img, np.stack([np.linspace(x, x + length, 3 * len(word)),
                                        y + rng.uniform(-.35, .35, 3 * len(word)) * size], 1), ink, 1)
            else:
                text(img, word, (x + length / 2, y), length, size * .7, ink, .14)
            x += length + size
        y += size * rng.uniform(1.4, 2) + (size * 3 if rng.random() < .1 else 0)
    return img.astype(np.float32)


def background(rng, h, w):
    kind = (_cloudy, _cloudy, wood, wood, _pattern, _patches, _page)[rng.integers(7)]
    img = to_u8(kind(rng, h, w))
    if rng.random() < .4:  # lay it down in perspective
        src = rectangle(0, 0, w, h).astype(np.float32)
        dst = src + rng.uniform(0, .35, (4, 2)).astype(np.float32) * (src - (w / 2, h / 2)).astype(np.float32)
        img = cv2.warpPerspective(img, cv2.getPerspectiveTransform(src, dst), (w, h), borderMode=cv2.BORDER_REFLECT)
    if rng.random() < .6:
        scribble(rng, img, int(rng.integers(3, 25)))
    return img


def scribble(rng, img, count):
    """Loose shapes, lines and words straight on the picture."""
    h, w = img.shape[:2]
    for _ in range(count):
        c, size = rng.uniform((0, 0), (w, h)), np.exp(rng.uniform(np.log(6), np.log(160)))
        col, k = any_color(rng), rng.integers(6)
        if k == 0:
            polygon(img, c + rng.normal(0, size / 2, (int(rng.integers(3, 7)), 2)), col)
        elif k == 1:
            polyline(img, c + np.cumsum(rng.normal(0, size / 3, (6, 2)), 0), col, rng.uniform(1, 6))
        elif k == 2:
            polygon(img, ellipse_points(c, size / 2, size * rng.uniform(.1, .5)), col)
        elif k == 3:
            text(img, random_word(rng), c, size * 2, size * .4, col, rng.uniform(.1, .22), angle=rng.uniform(-40, 40))
        elif k == 4:
            polygon(img, rounded_polygon(c + rectangle(-.5, -.35, .5, .35) * size * rng.uniform(.5, 2), size * .1), col)
        else:
            polyline(img, [c, c + rng.normal(0, size, 2)], col, rng.uniform(1, 12))


# --- distractor objects -----------------------------------------------------

def sheet(rng, s):
    """Blank, ruled, printed or patterned rectangle: note, book, box, screen."""
    h = s * rng.uniform(.45, 1)
    fill = off_white(rng) if rng.random() < .4 else any_color(rng)
    img, alpha = canvas(h, s, fill)
    polygon(alpha, rounded_polygon(rectangle(.5, .5, s - 1, h - 1), s * rng.uniform(.005, .08)), 255)
    k, ink = rng.integers(6), any_color(rng) if rng.random() < .6 else off_black(rng)
    if k == 1:
        for y in np.arange(h * .1, h * .95, max(3, h * rng.uniform(.05, .12))):
            polyline(img, [(s * .08, y), (s * rng.uniform(.5, .93), y)], ink, max(1, s * .008))
    elif k == 2:
        text(img, random_word(rng), (s / 2, h * .3), s * .8, h * .2, ink)
        text(img, random_word(rng), (s / 2, h * .7), s * .6, h * .1, ink)
    elif k == 3:
        polygon(img, rectangle(s * .05, h * .06, s * .95, h * .94), ink)
        scribble(rng, img[int(h * .1):int(h * .9), int(s * .08):int(s * .92)], 5)
    elif k == 4:  # check pattern
        n = int(rng.integers(4, 12))
        grid = cv2.resize((np.indices((n, n)).sum(0) % 2).astype(np.uint8), (int(s), int(h)), interpolation=cv2.INTER_NEAREST)
        img[grid > 0] = np.clip(ink, 0, 255)
    return Sprite(weather(rng, img), alpha)


def _barcode(rng, s):
    h = s * rng.uniform(.4, .8)
    img, alpha = canvas(h, s, off_white(rng))
    alpha[:] = 255
    x = s * .08
    while x < s * .9:
        bar = s * rng.choice([.008, .016, .024])
        polygon(img, rectangle(x, h * .1, x + bar, h * .75), (20, 20, 20))
        x += bar + s * rng.choice([.008, .016, .024])
    text(img, random_word(rng, 8, 12), (s / 2, h * .87), s * .7, h * .12, (20, 20, 20))
    return Sprite(weather(rng, img), alpha)


def lid(rng, s):
    """Lids, buttons, plates and rings: round, but neither coin nor clock."""
    fill = any_color(rng, (.35, 1), (.15, 1))
    img, alpha = canvas(s, s, fill)
    c, k = (s / 2, s / 2), rng.integers(4)
    disc(alpha, c, s * .49, 255)
    if k == 0:
        ring(img, c, s * .4, blend(fill, (255, 255, 255), .4), s * .03)
        for x, y in ((-1, -1), (1, -1), (-1, 1), (1, 1)):
            disc(img, (c[0] + x * s * .1, c[1] + y * s * .1), s * .05, blend(fill, (0, 0, 0), .7))
    elif k == 1:
        disc(alpha, c, s * rng.uniform(.2, .4), 0)
    elif k == 2:
        for r in np.linspace(.45, .1, int(rng.integers(2, 6))):
            disc(img, c, s * r, any_color(rng))
    else:
        disc(img, c, s * rng.uniform(.3, .42), blend(fill, (255, 255, 255), rng.uniform(.1, .5)))
    return Sprite(weather(rng, img), alpha)


def gauge(rng, s):
    """Dial with a partial scale and one needle."""
    img, alpha = canvas(s, s, any_color(rng, (0, .5), (.1, .6)))
    c = np.array((s / 2, s / 2))
    disc(alpha, c, s * .49, 255)
    disc(img, c, s * .44, off_white(rng) if rng.random() < .5 else off_black(rng))
    ink = (30, 30, 30) if img[int(s * .5), int(s * .5)].sum() > 380 else (220, 220, 220)
    polyline(img, ellipse_points(c, s * .33, s * .33, 150, 390), hsv(rng.uniform(0, 360), .9, .8), s * .05)
    for a in np.linspace(150, 390, 9):
        d = np.array((np.cos(np.deg2rad(a)), np.sin(np.deg2rad(a))))
        polyline(img, [c + d * s * .34, c + d * s * .41], ink, s * .015)
    a = np.deg2rad(rng.uniform(150, 390))
    polyline(img, [c, c + np.array((np.cos(a), np.sin(a))) * s * .32], hsv(0, .9, .8), s * .03)
    text(img, random_word(rng, 3, 5), c + (0, s * .25), s * .25, s * .08, ink)
    return Sprite(weather(rng, img), alpha, max_roll=25)


def pen(rng, s):
    """Pens, sticks and rulers: long and thin, without a sharpened cone."""
    h = max(5, s / rng.uniform(6, 16))
    col = any_color(rng, (0, 1), (.05, 1))
    img, alpha = canvas(h, s, col)
    alpha[:] = 255
    k = rng.integers(3)
    if k == 0:  # capped pen with a clip
        split = s * rng.uniform(.55, .75)
        polygon(img, rectangle(split, 0, s, h), any_color(rng))
        polygon(img, rectangle(split + h, h * .35, s - h * .3, h * .65), (200, 200, 200))
    elif k == 1:  # ruler
        for i, x in enumerate(np.arange(h * .3, s - h * .3, max(3, h * .18))):
            polyline(img, [(x, 0), (x, h * (.5 if i % 5 == 0 else .3))], off_black(rng), 1)
    shade = np.interp(np.arange(int(h)), [0, h * .35, h], [.8, 1.15, .55])
    if k != 1:
        img = to_u8(img * shade[:, None, None])
    return Sprite(img, alpha)


def ball(rng, s):
    img, alpha = canvas(s, s, any_color(rng, (.2, 1), (.3, 1)))
    disc(alpha, (s / 2, s / 2), s * .49, 255)
    if rng.random() < .5:
        polyline(img, ellipse_points((s / 2, s / 2), s * .49, s * .2, 0, 180), any_color(rng), s * .06)
    n = int(s)
    yy, xx = np.mgrid[0:n, 0:n].astype(np.float32) / n - .5
    lx, ly = rng.uniform(-.25, .25), rng.uniform(-.3, 0)
    d = np.sqrt((xx - lx) ** 2 + (yy - ly) ** 2)
    return Sprite(to_u8(img * (1.2 - 1.1 * d)[..., None] + 160 * np.exp(-(d / .07) ** 2)[..., None]), alpha, max_tilt=5)


def _blob(rng, s):
    """Irregular pebble, cloth or leaf."""
    n = int(rng.integers(5, 11))
    t = np.sort(rng.uniform(0, 2 * np.pi, n))
    r = rng.uniform(.2, .5, n) * s
    pts = np.stack([s / 2 + r * np.cos(t), s / 2 + r * np.sin(t)], 1)
    img = to_u8(_mix(any_color(rng), any_color(rng), fractal(rng, int(s), int(s), s / 4, 4)))
    alpha = np.zeros(img.shape[:2], np.uint8)
    polygon(alpha, rounded_polygon(pts, s) if rng.random() < .6 else pts, 255)
    return Sprite(img, alpha)


def keyboard(rng, s):
    """Keyboard or keypad."""
    cols, rows = int(rng.integers(4, 14)), int(rng.integers(3, 6))
    h = s * rows / cols
    base = any_color(rng, (0, .4), (.05, .9))
    img, alpha = canvas(h, s, base)
    alpha[:] = 255
    cell = s / cols
    cap = blend(base, (255, 255, 255) if rng.random() < .6 else (0, 0, 0), .35)
    ink = off_white(rng) if sum(cap) < 350 else off_black(rng)
    for y in range(rows):
        for x in range(cols):
            polygon(img, rounded_polygon(rectangle(x + .08, y + .08, x + .92, y + .92) * cell, cell * .15), cap)
            text(img, random_word(rng, 1, 2), ((x + .5) * cell, (y + .5) * cell), cell * .4, cell * .4, ink)
    return Sprite(weather(rng, img), alpha)


def _star(rng, s):
    """Regular shapes in loud colours: stickers and toys."""
    sides = int(rng.integers(3, 9))
    hue = rng.uniform(30, 330)
    img, alpha = canvas(s, s, hsv(hue, rng.uniform(.3, 1), rng.uniform(.3, 1)))
    phase = rng.uniform(0, 360)
    polygon(alpha, regular_polygon((s / 2, s / 2), s * .49, sides, phase), 255)
    polygon(img, regular_polygon((s / 2, s / 2), s * rng.uniform(.2, .4), sides, phase), any_color(rng))
    return Sprite(weather(rng, img), alpha)


def _finger(rng, s):
    """Finger or thumb, the way things are held up to a camera."""
    h = s * rng.uniform(.22, .4)
    skin = hsv(rng.uniform(8, 30), rng.uniform(.25, .65), rng.uniform(.3, .98))
    img, alpha = canvas(h, s, skin)
    polygon(alpha, rounded_polygon(rectangle(.5, .5, s * 1.5, h - .5), h * .5, 9), 255)
    shade = np.interp(np.arange(int(h)), [0, h * .4, h], [.75, 1.1, .6])
    img = to_u8(img * shade[:, None, None])
    if rng.random() < .6:
        nail = blend(skin, (225, 215, 245), .5) if rng.random() < .7 else any_color(rng)
        polygon(img, ellipse_points((h * .38, h * .45), h * .28, h * .26), nail)
    for x in (.45, .5, .85):
        polyline(img, [(s * x, h * .2), (s * x, h * .75)], blend(skin, (0, 0, 0), .3), max(1, h * .02))
    return Sprite(weather(rng, img, .15), alpha, max_tilt=15)


_DISTRACTORS = (other_sign, other_sign, other_sign, sheet, sheet, sheet, _barcode, lid, lid,
                gauge, pen, pen, ball, _blob, _blob, keyboard, _star, box, _finger, _finger)


def distractor(rng, s):
    return _DISTRACTORS[rng.integers(len(_DISTRACTORS))](rng, s)
