"""Objects drawn as solids: dice and mugs."""

import cv2
import numpy as np

from draw import (Sprite, any_color, blend, canvas, disc, ellipse_points, fractal, hsv, off_black,
                  off_white, polygon, polyline, random_word, regular_polygon,
                  rounded_polygon, text, to_u8)

_PIPS = {
    1: [(0, 0)], 2: [(-1, -1), (1, 1)], 3: [(-1, -1), (0, 0), (1, 1)],
    4: [(-1, -1), (1, -1), (-1, 1), (1, 1)], 5: [(-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)],
    6: [(-1, -1), (-1, 0), (-1, 1), (1, -1), (1, 0), (1, 1)],
}


def _rotation(yaw, pitch):
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return about_x @ about_y


def die(rng, s, pips=True):
    """A die, or with `pips` off a box with something else on its sides."""
    body = off_white(rng, .85) if rng.random() < .45 else any_color(rng, (.3, 1), (.15, .95))
    bright = sum(body) / 3 > 120
    pip = (off_black(rng) if rng.random() < .8 else any_color(rng, (.7, 1), (.2, .6))) if bright else off_white(rng)
    flat = rng.random() < .15  # seen straight from above
    rot = _rotation(0 if flat else rng.uniform(.15, 1.42), 0 if flat else rng.uniform(.15, 1.2))
    light = rng.normal(0, 1, 3) + (0, -1.2, -1.0)
    light /= np.linalg.norm(light)
    # (centre, right, down) of the three faces that can look at the camera (-z).
    faces = [((0, 0, -1), (1, 0, 0), (0, 1, 0)), ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
             ((0, -1, 0), (1, 0, 0), (0, 0, -1)), ((1, 0, 0), (0, 0, 1), (0, 1, 0))]
    dist = rng.uniform(6, 14)

    def project(p):
        q = rot @ np.asarray(p, np.float64)
        return q[:2] * (dist / (dist + q[2]))

    corners = np.array([project(p) for p in np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3)])
    low, size = corners.min(0), np.ptp(corners, axis=0)
    scale = (s - 2) / size.max()
    place = lambda p: (project(p) - low) * scale + 1
    h, w = int(size[1] * scale + 3), int(size[0] * scale + 3)
    img, alpha = canvas(h, w, blend(body, (255, 255, 255) if rng.random() < .5 else (0, 0, 0), .2))
    hull = cv2.convexHull(((corners - low) * scale + 1).astype(np.float32))[:, 0]
    rounding = rng.uniform(.02, .12)
    polygon(alpha, rounded_polygon(hull, s * rounding), 255)
    numbers = rng.permutation(6) + 1
    pip_r, spread = rng.uniform(.15, .23), rng.uniform(.45, .56)
    for number, (centre, right, down) in zip(numbers, faces):
        centre, right, down = (np.array(v, np.float64) for v in (centre, right, down))
        normal = rot @ centre
        middle = normal + (0, 0, dist)
        if normal @ middle >= 0:  # turned away
            continue
        shade = .55 + .6 * max(0.0, float(normal @ light))
        col = tuple(min(255, c * shade) for c in body)
        quad = [place(centre + right * a + down * b) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        polygon(img, rounded_polygon(np.array(quad), s * rounding * .9), col)
        radius = pip_r * (1.5 if number == 1 and rng.random() < .4 else 1)
        ink = tuple(min(255, c * (.4 + .6 * shade)) for c in pip)
        if not pips:
            _side(rng, img, lambda u, v: place(centre + right * u + down * v), shade)
            continue
        for a, b in _PIPS[int(number)]:
            ring_pts = ellipse_points((a * spread, b * spread), radius, radius, count=20)
            polygon(img, [place(centre + right * u + down * v) for u, v in ring_pts], ink)
    if rng.random() < .3:  # translucent or marbled body
        img = to_u8(img * (1 + .25 * (fractal(rng, h, w, s / 4, 3) - .5) * 2)[..., None])
    return Sprite(img, alpha, category=4, max_tilt=8, max_roll=35, solid=True)


def _side(rng, img, at, shade):
    """Decorates a box side: nothing, a label, a tape, or coloured squares."""
    k, col = rng.integers(4), tuple(c * min(1, shade) for c in any_color(rng))
    if k == 1:
        x, y = rng.uniform(.3, .9, 2)
        polygon(img, [at(-x, -y), at(x, -y), at(x, y), at(-x, y)], col)
    elif k == 2:
        polygon(img, [at(-.15, -1), at(.15, -1), at(.15, 1), at(-.15, 1)], col)
    elif k == 3:
        for u in (-.66, 0, .66):
            for v in (-.66, 0, .66):
                col = tuple(c * min(1, shade) for c in any_color(rng, (.6, 1), (.5, 1)))
                polygon(img, [at(u - .28, v - .28), at(u + .28, v - .28), at(u + .28, v + .28), at(u - .28, v + .28)], col)


def box(rng, s):
    sprite = die(rng, s, pips=False)
    sprite.category, sprite.max_roll = -1, 60
    return sprite


def mug(rng, s):
    body = any_color(rng, (0, .95), (.12, 1)) if rng.random() < .7 else off_white(rng)
    elevation = np.deg2rad(rng.uniform(4, 65))
    radius, height = 1.0, rng.uniform(1.7, 2.5)
    bottom = rng.uniform(.72, 1.0) if rng.random() < .4 else 1.0
    squash, tall = np.sin(elevation), height * np.cos(elevation)
    reach = rng.uniform(.45, .75)  # how far the handle sticks out
    turn = rng.uniform(.35, 1)  # 1: in the picture plane
    scale = (s - 4) / max(2 * radius + reach * turn, tall + 2 * radius * squash)
    w, h = int((2 * radius + reach * turn) * scale + 4), int((tall + 2 * squash) * scale + 4)
    r = radius * scale
    cx, top = 2 + r, 2 + r * squash
    base = top + tall * scale
    img, alpha = canvas(h, w, body)
    # Handle: half an ellipse of tube, behind the body.
    thick = r * rng.uniform(.16, .28)
    hy, hh = (top + base) / 2, tall * scale * rng.uniform(.26, .36) + r * squash * .15
    hx = cx + r * .9
    loop = ellipse_points((hx, hy), (reach * turn * scale + r * .1 - thick / 2), max(hh, thick), -95, 95)
    shade = rng.uniform(.5, .95)
    for part, width in ((1.0, thick), (.45, thick * .4)):
        col = blend(tuple(c * shade for c in body), (255, 255, 255), 0 if part == 1 else .25)
        polyline(img, loop, col, width)
    polyline(alpha, loop, 255, thick)
    # Body with cylinder shading and a print wrapped on it.
    low = ellipse_points((cx, base), r * bottom, r * bottom * squash, 0, 180)
    outline = np.concatenate([[(cx + r, top)], low, [(cx - r, top)], ellipse_points((cx, top), r, r * squash, 180, 360)])
    skin, inside = canvas(h, w, body)
    polygon(inside, outline, 255)
    _print(rng, skin, cx, top, base, r, squash, body)
    x = (np.arange(w, dtype=np.float32) - cx) / r
    side = rng.uniform(-.6, .6)
    lit = .45 + .65 * np.sqrt(np.clip(1 - (x - side) ** 2 / (1 + abs(side)) ** 2, 0, 1))
    lit += rng.uniform(0, .5) * np.exp(-((x - side * 1.2) / .1) ** 2)
    skin = to_u8(skin * lit[None, :, None])
    a = inside[..., None] / np.float32(255)
    img = to_u8(img + (skin.astype(np.float32) - img) * a)
    alpha = np.maximum(alpha, inside)
    # Rim, inner wall and what is in it.
    rim = blend(body, (255, 255, 255), rng.uniform(.1, .5))
    polygon(img, ellipse_points((cx, top), r, r * squash), rim)
    wall = any_color(rng, (0, .8), (.3, 1)) if rng.random() < .25 else blend(body, (255, 255, 255), .2)
    inner = .9
    polygon(img, ellipse_points((cx, top), r * inner, r * inner * squash), tuple(c * .6 for c in wall))
    level = rng.uniform(.1, 1.3)
    drop = level * np.cos(elevation) * scale
    drink = tuple(c * .35 for c in wall)  # empty: the bottom
    if rng.random() < .7:
        drink = hsv(rng.uniform(15, 35), rng.uniform(.4, .9), rng.uniform(.1, .5))
    fill, opening = canvas(h, w)
    polygon(opening, ellipse_points((cx, top), r * inner, r * inner * squash), 255)
    polygon(fill, ellipse_points((cx, top + drop), r * inner, r * inner * squash), (255, 255, 255))
    img[(opening > 127) & (fill[..., 0] > 127)] = np.clip(drink, 0, 255)
    out = Sprite(img, alpha, category=9, max_tilt=8, max_roll=18, solid=True)
    if rng.random() < .5:
        out.image, out.alpha = out.image[:, ::-1].copy(), out.alpha[:, ::-1].copy()
    return out


def _print(rng, skin, cx, top, base, r, squash, body):
    ink = off_white(rng) if sum(body) < 300 else any_color(rng, (.3, 1), (.05, .8))
    k = rng.integers(6)
    mid = (top + base) / 2 + r * squash * .6
    span = base - top
    if k == 1:
        for y in np.linspace(top, base, int(rng.integers(2, 7))):
            polyline(skin, ellipse_points((cx, y), r * 1.02, r * squash, 0, 180), ink, span * rng.uniform(.02, .12))
    elif k == 2:
        text(skin, random_word(rng, 3, 8), (cx, mid), r * 1.3, span * .2, ink, .17)
    elif k == 3:
        c = (cx + rng.uniform(-.3, .3) * r, mid)
        if rng.random() < .5:
            disc(skin, c, r * rng.uniform(.2, .45), ink)
        else:
            polygon(skin, regular_polygon(c, r * rng.uniform(.25, .5), int(rng.integers(3, 8)), rng.uniform(0, 90)), ink)
    elif k == 4:
        for _ in range(int(rng.integers(6, 24))):
            disc(skin, (cx + rng.uniform(-1, 1) * r, rng.uniform(top, base + r * squash)), r * rng.uniform(.04, .14), ink)
    elif k == 5:
        split = top + span * rng.uniform(.3, .7)
        edge = ellipse_points((cx, split), r * 1.02, r * squash, 180, 0)
        floor = base + 2 * r
        polygon(skin, np.concatenate([edge, [(cx + r * 1.1, floor), (cx - r * 1.1, floor)]]), ink)
