"""Geometry of PaperDolls: a person painted part by part into a map of materials. Lengths are
fractions of a person's standing height; x grows to the right, y downwards."""

import numpy as np
from PIL import Image, ImageDraw

from reid_core.data.dolls import LABEL, Person

SUPERSAMPLE = 2  # the map is drawn finer than the picture, so that edges come out smooth
VIEWS = (0.0, 0.5 * np.pi, np.pi, 1.5 * np.pi)  # front, right, back, left


class _Pen:
    """Paints parts of one doll into a label map; takes lengths in body units."""

    def __init__(self, size: tuple[int, int], scale: float, x: float, y: float):
        self.map = Image.new("L", size, LABEL["background"])
        self.paint = ImageDraw.Draw(self.map)
        self.scale, self.x, self.y = scale, x, y

    def polygon(self, points: list[tuple[float, float]], material: str) -> None:
        s, x, y = self.scale, self.x, self.y
        self.paint.polygon([(x + s * a, y + s * b) for a, b in points], fill=LABEL[material])

    def ellipse(self, x: float, y: float, rx: float, ry: float, material: str) -> None:
        left, top = self.x + self.scale * (x - rx), self.y + self.scale * (y - ry)
        right, bottom = self.x + self.scale * (x + rx), self.y + self.scale * (y + ry)
        self.paint.ellipse((left, top, right, bottom), fill=LABEL[material])

    def limb(self, a, b, wide: float, narrow: float, material: str) -> None:
        """A tapering limb from ``a`` to ``b``, of half widths ``wide`` and ``narrow``."""
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = max((dx * dx + dy * dy) ** 0.5, 1e-6)
        nx, ny = -dy / length, dx / length
        corners = [(a, wide, 1), (b, narrow, 1), (b, narrow, -1), (a, wide, -1)]
        self.polygon([(p[0] + k * w * nx, p[1] + k * w * ny) for p, w, k in corners], material)
        self.ellipse(*b, narrow, narrow, material)


def _along(a, b, t: float) -> tuple[float, float]:
    return a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])


def _leg(pen: _Pen, who: Person, hip, knee, ankle, forward: float) -> None:
    thick = 0.040 * who.limbs
    pen.limb(hip, knee, thick, thick * 0.72, "skin")
    pen.limb(knee, ankle, thick * 0.72, thick * 0.5, "skin")
    toe = (ankle[0] + 0.055 * forward, ankle[1] + 0.018)
    pen.limb((ankle[0] - 0.012 * forward, ankle[1] + 0.012), toe, 0.020, 0.016, "shoes")
    cut = {"slim": 0.85, "trousers": 1.1, "wide": 1.45, "shorts": 1.25}.get(who.bottom)
    if cut is not None:
        below = _along(hip, knee, 0.5 + 0.5 * who.cut) if who.bottom == "shorts" else knee
        pen.limb(hip, below, thick * cut * 1.05, thick * cut, "bottom")
        if who.bottom != "shorts":
            end = _along(knee, ankle, 0.96)
            wide = thick * (cut if who.bottom == "wide" else 0.8 * cut)
            pen.limb(knee, end, thick * cut, wide, "bottom")
            if who.side_stripe:
                pen.limb(hip, knee, 0.008, 0.008, "bottom print")
                pen.limb(knee, end, 0.008, 0.008, "bottom print")
    if who.boots:
        top = _along(ankle, knee, who.boots / 0.24)
        pen.limb(top, ankle, thick * 0.85, thick * 0.62, "shoes")


def _arm(pen: _Pen, who: Person, shoulder, elbow, hand) -> None:
    thick = 0.026 * who.limbs
    pen.limb(shoulder, elbow, thick, thick * 0.85, "skin")
    pen.limb(elbow, hand, thick * 0.85, thick * 0.6, "skin")
    pen.ellipse(*hand, thick * 0.85, thick * 0.95, "skin")
    cloth = thick * (1.35 if who.top in ("jacket", "open jacket", "coat", "hoodie") else 1.15)
    sleeve = "top print" if who.raglan else "top"
    if who.sleeve > 0:
        upper = _along(shoulder, elbow, min(1.0, who.sleeve * 2))
        pen.limb(shoulder, upper, cloth * 1.1, cloth, sleeve)
    if who.sleeve > 0.5:
        cuff = _along(elbow, hand, min(0.92, who.sleeve * 2 - 1))
        pen.limb(elbow, cuff, cloth, cloth * 0.85, sleeve)


def _head(pen: _Pen, who: Person, x: float, front: float, side: float) -> None:
    r = 0.052 * who.head
    y = 0.068
    back = -0.35 * r * side  # hair sits on the back of the head
    if who.hair in ("long", "bob"):
        length = 0.25 if who.hair == "long" else 0.145
        spread = r * (1.2 if front > 0 else 1.3)
        lock = [(x - spread, y), (x + spread, y), (x + spread, length), (x - spread, length)]
        pen.polygon([(a + back, b) for a, b in lock], "hair")
    pen.limb((x, 0.10), (x, 0.17), 0.026, 0.032, "skin")
    if who.scarf:
        pen.limb((x - 0.045, 0.15), (x + 0.045, 0.15), 0.024, 0.024, "hat")
    pen.ellipse(x, y, r * 0.86, r * 1.18, "skin")
    if who.hair == "bald":
        return
    if front < -0.3:  # seen from behind the hair covers the face
        pen.ellipse(x, y - 0.1 * r, r, r * 1.15, "hair")
        if who.hair == "long":
            pen.polygon([(x - r, y), (x + r, y), (x + 1.1 * r, 0.27), (x - 1.1 * r, 0.27)], "hair")
    else:
        pen.ellipse(x + 2 * back, y - 0.55 * r, r * 0.98, r * 0.75, "hair")
        if who.glasses:
            eye = y - 0.02 * who.head
            pen.limb((x - 0.7 * r, eye + 0.02), (x + 0.7 * r, eye + 0.02), 0.006, 0.006, "dark")
    if who.hair == "ponytail" and front < 0.5:
        tail = x - (0.9 * r + 0.02) * side
        pen.limb((tail, y - 0.02), (tail - 0.03 * side, 0.24), 0.020, 0.012, "hair")
    if who.hair == "bun":
        pen.ellipse(x + 2.2 * back, y - 1.35 * r, r * 0.5, r * 0.45, "hair")
    crown = {"cap": 0.72, "sun hat": 0.85, "beanie": 1.0}.get(who.hair)
    if crown is not None:
        pen.ellipse(x, y - 0.62 * r, r * 1.02, r * crown, "hat")
    if who.hair == "sun hat":
        pen.ellipse(x, y - 0.45 * r, r * 2.0, r * 0.25, "hat")
    if who.hair == "cap" and front > -0.3:
        brim = x + r * (1.1 * side if abs(side) > 0.3 else 0.0)
        pen.limb((x - 0.5 * r, y - 0.45 * r), (brim + 0.5 * r, y - 0.4 * r), 0.011, 0.009, "hat")


def _torso(pen: _Pen, who: Person, hip_y: float, front: float, half) -> None:
    """``half(width, depth)`` is the half width of a body section, seen from the view angle."""
    chest, waist = half(who.shoulders, 0.062), half(who.hips + who.belly * 0.5, 0.055 + who.belly)
    bottom = half(who.hips + who.belly * 0.4, 0.066 + who.belly * 0.8)
    if who.bottom in ("skirt", "long skirt"):
        start, spread = (0.64, 0.035) if who.bottom == "skirt" else (0.78, 0.045)
        hem = start + 0.12 * who.cut
        pen.polygon(_trapezium(0, hip_y - 0.06, hem, bottom, bottom + spread), "bottom")
    else:
        pen.polygon(_trapezium(0, hip_y - 0.05, hip_y + 0.04, bottom, bottom), "bottom")
    flare = bottom + who.flare + (0.012 if who.top in ("coat", "hoodie") else 0.0)
    outline = [(-0.032, 0.145), (0.032, 0.145), (0.8 * chest, 0.166), (chest, 0.20)]
    outline += [(waist, 0.40), (flare, who.hem), (-flare, who.hem), (-waist, 0.40)]
    pen.polygon([*outline, (-chest, 0.20), (-0.8 * chest, 0.166)], "top")
    if who.belt and who.hem < hip_y + 0.05:
        pen.polygon([(-flare, who.hem - 0.012), (flare, who.hem - 0.012), (flare, who.hem + 0.012),
                     (-flare, who.hem + 0.012)], "dark")  # fmt: skip
    if front > 0.3:
        if who.top == "open jacket":
            gap = 0.42 * chest
            strip = [(-0.028, 0.147), (0.028, 0.147), (gap, who.hem), (-gap, who.hem)]
            pen.polygon(strip, "inner")
        elif who.top in ("jacket", "coat"):
            pen.limb((0, 0.16), (0, who.hem), 0.006, 0.006, "inner")
        else:
            depth = 0.21 if who.top == "shirt" else 0.185
            pen.polygon([(-0.030, 0.146), (0.030, 0.146), (0.0, depth)], "skin")
    if who.top == "hoodie":
        pen.ellipse(0, 0.158, 0.062, 0.026 if front > 0 else 0.045, "inner")


def _bag(pen: _Pen, who: Person, front: float, side: float, chest: float, hand) -> None:
    size = who.bag_size
    if who.bag == "backpack":
        if front > 0.3:
            for x in (-0.055, 0.055):
                pen.limb((x, 0.165), (x * 1.15, 0.34), 0.011, 0.010, "bag")
        elif front < -0.3:
            w, top = 0.08 * size, 0.31 - 0.11 * size
            pen.polygon(_trapezium(0, top, 0.31 + 0.11 * size, w * 0.9, w), "bag")
            pen.polygon(_trapezium(0, 0.33, 0.31 + 0.09 * size, w * 0.6, w * 0.6), "bag trim")
        if abs(side) > 0.5:
            x = -side * (chest * 0.6 + 0.035 * size)
            pen.ellipse(x, 0.30, 0.055 * size, 0.115 * size, "bag")
            pen.limb((0, 0.17), (x * 0.3, 0.30), 0.010, 0.010, "bag trim")
    elif who.bag == "cross-body":
        # worn on the person's left: right in the picture from the front, left from behind
        x = 0.105 if front > 0 else -0.105
        pen.limb((-0.6 * x, 0.17), (x, 0.45), 0.009, 0.009, "bag trim")
        pen.polygon(_trapezium(x, 0.44, 0.44 + 0.11 * size, 0.06 * size, 0.055 * size), "bag")
    elif who.bag == "handbag":
        x, y = hand
        pen.limb((x, y), (x, y + 0.05), 0.007, 0.007, "bag trim")
        pen.polygon(
            _trapezium(x, y + 0.05, y + 0.05 + 0.1 * size, 0.05 * size, 0.065 * size), "bag"
        )


def _trapezium(x: float, top: float, bottom: float, upper: float, lower: float) -> list:
    """Corners of an upright trapezium around ``x``, of half widths ``upper`` and ``lower``."""
    return [(x - upper, top), (x + upper, top), (x + lower, bottom), (x - lower, bottom)]


def _printed(labels: np.ndarray, who: Person, scale: float, x: float, y: float) -> np.ndarray:
    """Replaces a garment's material by its print where the print falls."""
    rows = (np.arange(labels.shape[0])[:, None] - y) / scale
    columns = (np.arange(labels.shape[1])[None, :] - x) / scale
    across, down = rows / who.pitch % 1, columns / who.pitch % 1
    for garment, kind in zip(("top", "bottom"), who.prints, strict=True):
        if kind == "plain":
            continue
        falls = {
            "bars": across < 0.45,
            "pinstripes": down < 0.3,
            "checks": (across < 0.28) | (down < 0.28),
            "dots": (np.abs(across - 0.5) < 0.25) & (np.abs(down - 0.5) < 0.25),
            "yoke": rows < 0.27,
            "logo": (np.abs(columns) < who.logo[1]) & (np.abs(rows - who.logo[0]) < who.logo[2]),
        }[kind]
        labels[(labels == LABEL[garment]) & falls] = LABEL[f"{garment} print"]
    return labels


def draw_labels(who: Person, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Geometry: a label map ``(SUPERSAMPLE·height, SUPERSAMPLE·width)``, uint8, of ``MATERIALS``.

    ``rng`` chooses the view angle, the walking phase and the jitter of the crop.
    """
    size = (SUPERSAMPLE * width, SUPERSAMPLE * height)
    view = rng.choice(VIEWS, p=(0.38, 0.12, 0.38, 0.12)) + rng.uniform(-0.3, 0.3)
    front, side = float(np.cos(view)), float(np.sin(view))
    swing = who.gait * float(np.sin(rng.uniform(0, 2 * np.pi)))
    scale = size[1] * 0.97 * who.height * rng.uniform(0.96, 1.04)
    middle = size[0] * (0.5 + rng.uniform(-0.05, 0.05))
    top = size[1] * (0.99 + rng.uniform(-0.02, 0.02)) - scale
    pen = _Pen(size, scale, middle, top)

    def half(breadth: float, depth: float) -> float:
        return float(np.hypot(breadth * front, depth * side))

    hip_y, chest = 1 - who.leg, half(who.shoulders, 0.062)
    thigh = shin = (0.965 - hip_y) / 2
    legs, arms = [], []
    for sign in (-1, 1):  # -1 is the far limb
        angle = sign * swing
        bend = max(0.0, -angle) * 0.9
        hip = (sign * 0.5 * half(who.hips, 0.0), hip_y)
        reach = thigh * np.sin(angle)
        knee = (hip[0] + side * reach, hip_y + thigh * np.cos(angle))
        reach = shin * np.sin(angle - bend)
        ankle = (knee[0] + side * reach, knee[1] + shin * np.cos(angle - bend))
        legs.append((hip, knee, ankle))
        shoulder = (sign * half(who.shoulders, 0.0) * 0.9, 0.20)
        lean = who.carriage * sign * abs(front)
        elbow = (shoulder[0] + lean - side * 0.15 * np.sin(angle), 0.20 + 0.15 * np.cos(angle))
        turn = -angle + 0.25
        hand = (elbow[0] + lean + side * 0.15 * np.sin(turn), elbow[1] + 0.15 * np.cos(turn))
        arms.append((shoulder, elbow, hand))

    if abs(side) > 0.5:
        _arm(pen, who, *arms[0])
    for joints in legs:
        _leg(pen, who, *joints, forward=side)
    _torso(pen, who, hip_y, front, half)
    carried = who.bag in ("backpack", "cross-body")
    if carried and abs(side) > 0.5:
        _bag(pen, who, front, side, chest, arms[1][2])
    for joints in arms[1 if abs(side) > 0.5 else 0 :]:
        _arm(pen, who, *joints)
    if not (carried and abs(side) > 0.5):
        _bag(pen, who, front, side, chest, arms[1][2])
    _head(pen, who, 0.02 * side, front, side)
    return _printed(np.array(pen.map), who, scale, middle, top)
