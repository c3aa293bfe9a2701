"""Traffic signs: the three labelled ones and others that serve as distractors."""

import numpy as np

from draw import (DIGITS, Sprite, any_color, canvas, disc, hsv, off_black, off_white, polygon,
                  polyline, random_word, rectangle, regular_polygon, ring, rounded_polygon,
                  sign_red, text, weather)

ROLL = 22.0  # signs hang upright, give or take


def _finish(rng, img, alpha, mask=None, category=-1, roll=ROLL):
    return Sprite(weather(rng, img), alpha, mask, category, max_tilt=55, max_roll=roll)


def stop_sign(rng, s):
    red, white = sign_red(rng), off_white(rng)
    img, alpha = canvas(s, s, red)
    c, r = (s / 2, s / 2), s * 0.49 / np.cos(np.pi / 8)
    outer = regular_polygon(c, r, 8, 22.5)
    if rng.random() < 0.4:
        outer = rounded_polygon(outer, s * 0.05)
    polygon(alpha, outer, 255)
    style = rng.random()
    if style < 0.85:  # white border, sometimes with a thin red edge outside it
        edge = rng.uniform(0.0, 0.03) if rng.random() < 0.5 else 0.0
        polygon(img, regular_polygon(c, r * (1 - edge), 8, 22.5), white)
        polygon(img, regular_polygon(c, r * (1 - edge - rng.uniform(0.04, 0.1)), 8, 22.5), red)
    word = "STOP" if rng.random() < 0.9 else str(rng.choice(["ALTO", "PARE", "ARRET"]))
    text(img, word, (s * 0.5, s * rng.uniform(0.48, 0.52)), s * rng.uniform(0.64, 0.78),
         s * rng.uniform(0.26, 0.38), white, rng.uniform(0.13, 0.22))
    return _finish(rng, img, alpha)


def yield_sign(rng, s):
    red, white = sign_red(rng), off_white(rng)
    if rng.random() < 0.15:
        white = hsv(rng.uniform(45, 55), rng.uniform(0.6, 0.9), rng.uniform(0.85, 1))
    h = s * 0.9
    img, alpha = canvas(h, s, red)
    tri = np.array([[s * 0.01, h * 0.02], [s * 0.99, h * 0.02], [s * 0.5, h * 0.98]])
    rounding = s * rng.uniform(0.02, 0.1)
    polygon(alpha, rounded_polygon(tri, rounding), 255)
    centre = tri.mean(0)
    if rng.random() < 0.4:  # thin white edge
        polygon(img, rounded_polygon(tri, rounding), white)
        polygon(img, rounded_polygon(centre + (tri - centre) * 0.93, rounding), red)
    inner = centre + (tri - centre) * rng.uniform(0.48, 0.74)
    polygon(img, rounded_polygon(inner, rounding * 0.6), white)
    if rng.random() < 0.3:
        text(img, str(rng.choice(["YIELD", "GIVE", "CEDA"])), (s * 0.5, h * 0.25), s * 0.36, s * 0.09,
             red if rng.random() < 0.6 else off_black(rng), 0.18)
    return _finish(rng, img, alpha, roll=18)


def no_entry_sign(rng, s):
    red, white = sign_red(rng), off_white(rng)
    img, alpha = canvas(s, s, red)
    c = (s / 2, s / 2)
    disc(alpha, c, s * 0.49, 255)
    if rng.random() < 0.6:
        disc(img, c, s * 0.49, white)
        disc(img, c, s * rng.uniform(0.44, 0.475), red)
    bw, bh = s * rng.uniform(0.32, 0.4), s * rng.uniform(0.07, 0.11)
    bar = rectangle(c[0] - bw, c[1] - bh, c[0] + bw, c[1] + bh)
    if rng.random() < 0.3:
        bar = rounded_polygon(bar, s * 0.03)
    polygon(img, bar, white)
    return _finish(rng, img, alpha)


# --- distractors ------------------------------------------------------------

def _warning_triangle(rng, s):
    """Upright triangle with a red border and a dark symbol."""
    h = s * 0.9
    edge = sign_red(rng) if rng.random() < 0.7 else off_black(rng)
    fill = off_white(rng) if rng.random() < 0.6 else hsv(50, rng.uniform(0.6, 1), rng.uniform(0.8, 1))
    img, alpha = canvas(h, s, edge)
    tri = np.array([[s * 0.01, h * 0.98], [s * 0.5, h * 0.02], [s * 0.99, h * 0.98]])
    polygon(alpha, rounded_polygon(tri, s * 0.06), 255)
    centre = tri.mean(0)
    polygon(img, centre + (tri - centre) * rng.uniform(0.6, 0.75), fill)
    ink = off_black(rng)
    k = rng.integers(3)
    if k == 0:
        polyline(img, [centre - (0, s * 0.16), centre + (0, s * 0.06)], ink, s * 0.06)
        disc(img, centre + (0, s * 0.15), s * 0.035, ink)
    elif k == 1:
        pts = centre + rng.uniform(-0.14, 0.14, (4, 2)) * s
        polyline(img, pts, ink, s * 0.05)
    else:
        disc(img, centre + (0, s * 0.05), s * 0.08, ink)
    return _finish(rng, img, alpha, roll=18)


def _ring_sign(rng, s):
    """Speed limits, prohibitions and mandatory signs: discs with other content."""
    c = (s / 2, s / 2)
    k = rng.integers(5)
    edge = sign_red(rng) if k != 2 else hsv(rng.uniform(205, 225), 0.9, rng.uniform(0.5, 0.9))
    fill = off_white(rng) if k != 1 else hsv(rng.uniform(205, 225), 0.9, rng.uniform(0.4, 0.8))
    img, alpha = canvas(s, s, edge)
    disc(alpha, c, s * 0.49, 255)
    if k != 2:
        disc(img, c, s * rng.uniform(0.36, 0.42), fill)
    if k == 0:
        number = DIGITS[rng.integers(1, 10)] + "0"
        text(img, number, c, s * 0.5, s * 0.34, off_black(rng), 0.2)
    elif k == 1:
        d = s * 0.3
        polyline(img, [(c[0] - d, c[1] - d), (c[0] + d, c[1] + d)], edge, s * 0.08)
        if rng.random() < 0.5:
            polyline(img, [(c[0] + d, c[1] - d), (c[0] - d, c[1] + d)], edge, s * 0.08)
    elif k == 2:
        white = off_white(rng)
        polyline(img, [(c[0], c[1] + s * 0.3), (c[0], c[1] - s * 0.1)], white, s * 0.09)
        polygon(img, [(c[0] - s * .17, c[1] - s * .08), (c[0] + s * .17, c[1] - s * .08),
                      (c[0], c[1] - s * .32)], white)
    elif k == 3:
        polygon(img, regular_polygon(c, s * 0.2, 4, rng.uniform(0, 90)), any_color(rng))
        ring(img, c, s * 0.45, edge, s * 0.08)
    return _finish(rng, img, alpha)


def _plate(rng, s):
    """Rectangular or octagonal plates in any colour but red, with words on them."""
    fill = hsv(rng.uniform(30, 320), rng.uniform(0.4, 1), rng.uniform(0.3, 1))
    ink = off_white(rng) if rng.random() < 0.6 else off_black(rng)
    octagon = rng.random() < 0.35
    h = s if octagon else s * rng.uniform(0.3, 0.9)
    img, alpha = canvas(h, s, fill)
    shape = regular_polygon((s / 2, h / 2), s * 0.53, 8, 22.5) if octagon else \
        rounded_polygon(rectangle(s * .01, h * .02, s * .99, h * .98), s * 0.06)
    polygon(alpha, shape, 255)
    centre = np.array([s / 2, h / 2])
    polyline(img, centre + (shape - centre) * 0.92, ink, s * 0.02, closed=True)
    text(img, random_word(rng, 3, 8), centre, s * 0.75, h * 0.3, ink, 0.16)
    return _finish(rng, img, alpha)


def _diamond(rng, s):
    fill = hsv(rng.uniform(35, 55), rng.uniform(0.7, 1), rng.uniform(0.7, 1))
    img, alpha = canvas(s, s, fill)
    c, ink = (s / 2, s / 2), off_black(rng)
    shape = rounded_polygon(regular_polygon(c, s * 0.5, 4, 0), s * 0.06)
    polygon(alpha, shape, 255)
    polyline(img, np.array(c) + (shape - c) * 0.9, ink, s * 0.02, closed=True)
    polyline(img, np.array(c) + rng.uniform(-0.2, 0.2, (4, 2)) * s, ink, s * 0.06)
    return _finish(rng, img, alpha)


def other_sign(rng, s):
    return (_warning_triangle, _ring_sign, _plate, _diamond)[rng.integers(4)](rng, s)
