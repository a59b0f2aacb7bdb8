"""The people, cameras and pictures of PaperDolls: layered, articulated paper dolls.

A picture is drawn in two steps, and the modality gap lives in the second one only:

1. *geometry*: the doll is painted part by part into a label map, one number per material;
2. *appearance*: every material is looked up in a palette. ``visible`` gives it a colour,
   ``infrared`` a near-infrared reflectance drawn independently of that colour (dyed cloth turns
   bright and loses its pattern, hair stays dark, skin is bright), ``thermal`` a temperature.

Lengths are fractions of a person's standing height; x grows to the right, y downwards.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

MATERIALS = (
    *("background", "skin", "hair", "top", "top print", "inner", "bottom", "bottom print"),
    *("shoes", "bag", "bag trim", "hat", "dark"),
)
LABEL = {name: number for number, name in enumerate(MATERIALS)}

HAIR = ("bald", "short", "short", "bob", "long", "long", "ponytail", "bun", "cap")
TOPS = ("tee", "tee", "vest", "shirt", "shirt", "jacket", "open jacket", "coat", "hoodie")
BOTTOMS = ("trousers", "trousers", "slim", "wide", "shorts", "skirt", "long skirt")
BAGS = ("none", "none", "backpack", "backpack", "cross-body", "handbag")
PRINTS = ("plain", "bars", "pinstripes", "checks", "dots", "yoke", "logo")
HEM = {"tee": 0.53, "vest": 0.52, "shirt": 0.54, "hoodie": 0.55, "coat": 0.70}
VIEWS = (0.0, 0.5 * np.pi, np.pi, 1.5 * np.pi)  # front, right, back, left
SUPERSAMPLE = 2


@dataclass(frozen=True)
class Person:
    """One identity: what its body and clothes look like in every picture of it."""

    height: float  # standing height as a fraction of the tallest
    shoulders: float  # half widths of the body, seen from the front
    hips: float
    belly: float
    head: float
    limbs: float  # thickness factor of arms and legs
    leg: float  # height of the hip above the ground
    gait: float  # amplitude of the swing, radians
    hair: str
    top: str
    bottom: str
    bag: str
    prints: tuple[str, str]  # of top and bottom
    pitch: float  # period of a print
    logo: tuple[float, float, float]  # centre below the head, half width, half height
    sleeve: float  # fraction of the arm that is covered
    hem: float  # of the top
    cut: float  # length of shorts and skirts, 0 (short) to 1 (long)
    carriage: float  # how far the arms hang from the body
    flare: float
    glasses: bool
    belt: bool
    boots: float  # height of the shoes
    palettes: dict[str, np.ndarray]  # (materials, 3) for "visible", (materials,) for the others


@dataclass(frozen=True)
class Camera:
    """One camera: where it looks, and how it sees."""

    backgrounds: np.ndarray  # (n, H, W, 3) or (n, H, W), float32 in 0..1
    modality: str  # "visible", "infrared" or "thermal"
    gain: float
    balance: np.ndarray  # (3,) white balance; ones where there is no colour
    blur: float  # standard deviation in pixels of the finished picture
    noise: float  # standard deviation, 0..1
    exposure: float  # spread of the gain from picture to picture
    clutter: float  # probability that something stands in front of the person


def _cloth(rng: np.random.Generator) -> np.ndarray:
    """A garment's colour (3,): black, white and grey as often as in the street, otherwise dyed."""
    value = rng.choice([0.1, 0.2, 0.45, 0.7, 0.9]) + rng.uniform(-0.05, 0.05)
    if rng.random() < 0.3:
        return np.clip(value + rng.uniform(-0.03, 0.03, 3), 0, 1)
    hue, saturation, value = rng.random(), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.8)
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return value * (1 - saturation * (1 - wheel))


def _palettes(rng: np.random.Generator) -> dict[str, np.ndarray]:
    visible = np.zeros((len(MATERIALS), 3), np.float32)
    infrared = np.zeros(len(MATERIALS), np.float32)
    thermal = np.zeros(len(MATERIALS), np.float32)

    def dye(name: str, colour: np.ndarray, reflectance: float, warmth: float) -> None:
        visible[LABEL[name]] = colour
        infrared[LABEL[name]], thermal[LABEL[name]] = reflectance, warmth

    tan = rng.uniform(0.45, 1.0)
    dye("skin", np.array([0.92, 0.72, 0.60]) * tan, rng.uniform(0.70, 0.78), 0.92)
    shade = rng.choice([0.06, 0.10, 0.18, 0.40], p=[0.4, 0.3, 0.2, 0.1])
    dye("hair", shade * np.array([1.15, 0.95, 0.8]), rng.uniform(0.16, 0.34), 0.58)
    for name in ("top", "inner", "bottom"):
        # Near infrared sees the fibre, not the dye: bright whatever the colour, dark now and then.
        dark = rng.random() < 0.2
        reflectance = rng.uniform(0.40, 0.55) if dark else rng.uniform(0.65, 0.95)
        dye(name, _cloth(rng), reflectance, rng.uniform(0.38, 0.72))
        if name != "inner":
            survives = rng.random() < 0.5  # pigment prints stay visible, dyed patterns vanish
            contrast = rng.uniform(0.16, 0.32) if survives else rng.uniform(0.0, 0.05)
            warmth = thermal[LABEL[name]]
            dye(f"{name} print", _cloth(rng), max(reflectance - contrast, 0.1), warmth)
    dye("shoes", _cloth(rng), rng.uniform(0.15, 0.9), rng.uniform(0.3, 0.5))
    bag = rng.uniform(0.12, 0.45) if rng.random() < 0.5 else rng.uniform(0.6, 0.95)
    dye("bag", _cloth(rng), bag, rng.uniform(0.15, 0.3))
    dye("bag trim", _cloth(rng), bag * rng.uniform(0.5, 0.8), 0.22)
    dye("hat", _cloth(rng), rng.uniform(0.3, 0.95), 0.45)
    dye("dark", np.full(3, 0.08), 0.12, 0.3)
    return {"visible": visible, "infrared": infrared, "thermal": thermal}


def draw_person(rng: np.random.Generator) -> Person:
    """Draws one identity; the same generator state gives the same person."""
    top = str(rng.choice(TOPS))
    return Person(
        height=rng.uniform(0.92, 1.0),
        shoulders=rng.uniform(0.080, 0.138),
        hips=rng.uniform(0.062, 0.115),
        belly=rng.choice([0.0, 0.0, 0.02, 0.045]),
        head=rng.uniform(0.85, 1.18),
        limbs=rng.uniform(0.75, 1.4),
        leg=rng.uniform(0.43, 0.52),
        gait=rng.uniform(0.2, 0.55),
        hair=str(rng.choice(HAIR)),
        top=top,
        bottom=str(rng.choice(BOTTOMS)),
        bag=str(rng.choice(BAGS)),
        prints=(str(rng.choice(PRINTS)), str(rng.choice(("plain", "plain", *PRINTS[:5])))),
        pitch=rng.choice([0.035, 0.055, 0.085]),
        logo=(rng.uniform(0.24, 0.36), rng.uniform(0.025, 0.07), rng.uniform(0.02, 0.07)),
        sleeve={"tee": rng.uniform(0.3, 0.6), "vest": 0.0}.get(top, 1.0),
        hem=HEM.get(top, 0.55) + rng.uniform(-0.04, 0.06),
        cut=rng.random(),
        flare=rng.choice([0.0, 0.01, 0.035]),
        carriage=rng.choice([0.005, 0.02, 0.04]),
        glasses=bool(rng.random() < 0.3),
        belt=bool(rng.random() < 0.3),
        boots=rng.choice([0.0, 0.0, 0.06, 0.14]),
        palettes=_palettes(rng),
    )


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
    if who.boots:
        top = _along(ankle, knee, who.boots / 0.24)
        pen.limb(top, ankle, thick * 0.85, thick * 0.62, "shoes")


def _arm(pen: _Pen, who: Person, shoulder, elbow, hand) -> None:
    thick = 0.026 * who.limbs
    pen.limb(shoulder, elbow, thick, thick * 0.85, "skin")
    pen.limb(elbow, hand, thick * 0.85, thick * 0.6, "skin")
    pen.ellipse(*hand, thick * 0.85, thick * 0.95, "skin")
    cloth = thick * (1.35 if who.top in ("jacket", "open jacket", "coat", "hoodie") else 1.15)
    if who.sleeve > 0:
        upper = _along(shoulder, elbow, min(1.0, who.sleeve * 2))
        pen.limb(shoulder, upper, cloth * 1.1, cloth, "top")
    if who.sleeve > 0.5:
        cuff = _along(elbow, hand, min(0.92, who.sleeve * 2 - 1))
        pen.limb(elbow, cuff, cloth, cloth * 0.85, "top")


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
    if who.hair == "cap":
        pen.ellipse(x, y - 0.62 * r, r * 1.02, r * 0.72, "hat")
        brim = x + r * (1.1 * side if abs(side) > 0.3 else 0.0)
        if front > -0.3:
            pen.limb(
                (x - 0.5 * r, y - 0.45 * r), (brim + 0.5 * r, y - 0.4 * r), 0.011, 0.009, "hat"
            )


def _torso(pen: _Pen, who: Person, hip_y: float, front: float, half) -> None:
    """``half(width, depth)`` is the half width of a body section, seen from the view angle."""
    chest, waist = half(who.shoulders, 0.062), half(who.hips + who.belly * 0.5, 0.055 + who.belly)
    bottom = half(who.hips + who.belly * 0.4, 0.066 + who.belly * 0.8)
    if who.bottom in ("skirt", "long skirt"):
        start, spread = (0.64, 0.035) if who.bottom == "skirt" else (0.78, 0.045)
        hem = start + 0.12 * who.cut
        corners = [(-bottom, hip_y - 0.06), (bottom, hip_y - 0.06)]
        pen.polygon([*corners, (bottom + spread, hem), (-bottom - spread, hem)], "bottom")
    else:
        corners = [(-bottom, hip_y - 0.05), (bottom, hip_y - 0.05)]
        pen.polygon([*corners, (bottom, hip_y + 0.04), (-bottom, hip_y + 0.04)], "bottom")
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
    if who.bag == "backpack":
        if front > 0.3:
            for x in (-0.055, 0.055):
                pen.limb((x, 0.165), (x * 1.15, 0.34), 0.011, 0.010, "bag")
        elif front < -0.3:
            body = [(-0.075, 0.20), (0.075, 0.20), (0.085, 0.42), (-0.085, 0.42)]
            pen.polygon(body, "bag")
            pen.polygon([(-0.05, 0.33), (0.05, 0.33), (0.05, 0.40), (-0.05, 0.40)], "bag trim")
        if abs(side) > 0.5:
            x = -side * (chest * 0.6 + 0.035)
            pen.ellipse(x, 0.30, 0.055, 0.115, "bag")
            pen.limb((0, 0.17), (x * 0.3, 0.30), 0.010, 0.010, "bag trim")
    elif who.bag == "cross-body":
        # worn on the person's left: right in the picture from the front, left from behind
        x = 0.105 if front > 0 else -0.105
        pen.limb((-0.6 * x, 0.17), (x, 0.45), 0.009, 0.009, "bag trim")
        pen.polygon(
            [(x - 0.06, 0.44), (x + 0.06, 0.44), (x + 0.055, 0.55), (x - 0.055, 0.55)], "bag"
        )
    elif who.bag == "handbag":
        x, y = hand
        pen.limb((x, y), (x, y + 0.05), 0.007, 0.007, "bag trim")
        pen.polygon([(x - 0.05, y + 0.05), (x + 0.05, y + 0.05), (x + 0.065, y + 0.15),
                     (x - 0.065, y + 0.15)], "bag")  # fmt: skip


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
    view = rng.choice(VIEWS, p=(0.35, 0.15, 0.35, 0.15)) + rng.uniform(-0.4, 0.4)
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


def _patches(rng: np.random.Generator, height: int, width: int, style: str) -> np.ndarray:
    """One background (height, width, 3), float32: rectangles indoors, foliage and cars outdoors."""
    wall, floor = (0.78, 0.50) if style == "indoor" else (0.42, 0.58)
    tint = rng.uniform(0.94, 1.06, (2, 3))
    picture = Image.new("RGB", (width, height))
    paint = ImageDraw.Draw(picture)

    def colour(rgb: np.ndarray) -> tuple[int, ...]:
        return tuple(int(v) for v in np.clip(255 * rgb, 0, 255))

    horizon = int(height * rng.uniform(0.62, 0.78))
    paint.rectangle((0, 0, width, horizon), fill=colour(wall * tint[0]))
    paint.rectangle((0, horizon, width, height), fill=colour(floor * tint[1]))
    for _ in range(6 if style == "indoor" else 26):
        x, y = rng.uniform(-0.1, 1) * width, rng.uniform(0, 0.8) * horizon
        w, h = rng.uniform(0.1, 0.5) * width, rng.uniform(0.1, 0.6) * horizon
        if style == "indoor":
            shade = rng.uniform(0.15, 0.95) * rng.uniform(0.85, 1.1, 3)
            paint.rectangle((x, y, x + w, y + h), fill=colour(shade))
        else:
            green = np.array([0.35, 0.5, 0.25]) * rng.uniform(0.3, 1.3)
            paint.ellipse((x, y, x + 0.5 * w, y + 0.5 * h), fill=colour(green))
    if style == "outdoor" and rng.random() < 0.5:
        x, y = rng.uniform(-0.2, 0.8) * width, horizon - 0.1 * height
        paint.rectangle((x, y, x + 0.5 * width, horizon + 0.08 * height), fill=colour(_cloth(rng)))
    soft = picture.filter(ImageFilter.GaussianBlur(1.2))
    return np.asarray(soft, np.float32) / 255


def draw_camera(
    rng: np.random.Generator, modality: str, style: str, height: int, width: int
) -> Camera:
    """Draws one camera; ``style`` is "indoor" or "outdoor"."""
    pictures = np.stack([_patches(rng, height, width, style) for _ in range(24)])
    colour = modality == "visible"
    if not colour:  # an active lamp lights the person; what is behind stays grey and flat
        flat = {"infrared": (0.24, 0.30), "thermal": (0.10, 0.22)}[modality]
        pictures = flat[0] + flat[1] * pictures.mean(axis=3)
    outdoor = style == "outdoor"
    return Camera(
        backgrounds=pictures.astype(np.float32),
        modality=modality,
        # the outdoor lamp over-exposes, as the real cam6 does
        gain=rng.uniform(0.85, 1.05) if colour else (1.12 if outdoor else 1.0),
        balance=rng.uniform(0.90, 1.10, 3).astype(np.float32) if colour else np.ones(3, np.float32),
        blur=rng.uniform(0.3, 0.7) if colour else rng.uniform(0.6, 1.0),
        noise=0.02 if colour else 0.025,
        exposure=0.15 if outdoor else 0.08,
        clutter=0.10 if outdoor else 0.05,
    )


def render(
    who: Person, camera: Camera, rng: np.random.Generator, height: int, width: int
) -> Image.Image:
    """One picture of ``who`` under ``camera``: an RGB image of ``width`` × ``height`` pixels."""
    labels = draw_labels(who, rng, height, width)
    levels = np.round(255 * who.palettes[camera.modality]).astype(np.uint8)
    painted = Image.fromarray(levels[labels]).reduce(SUPERSAMPLE)
    body = Image.fromarray(np.where(labels > 0, np.uint8(255), np.uint8(0))).reduce(SUPERSAMPLE)
    pixels = np.asarray(painted, np.float32) / 255
    inside = np.asarray(body, np.float32) / 255
    light = 1 + rng.uniform(-0.25, 0.25) * np.linspace(-1, 1, width, dtype=np.float32)
    behind = camera.backgrounds[rng.integers(len(camera.backgrounds))]
    behind = np.roll(behind, int(rng.integers(width)), axis=1)
    gain = np.float32(camera.gain * np.exp(camera.exposure * rng.standard_normal()))
    if camera.modality == "visible":
        inside, light = inside[..., None], light[:, None]
        gain = gain * camera.balance
    picture = gain * (pixels * light + (1 - inside) * behind)
    if rng.random() < camera.clutter:
        depth = int(height * rng.uniform(0.10, 0.28))
        picture[height - depth :] = rng.uniform(0.1, 0.6)
    picture += np.float32(camera.noise) * rng.standard_normal(picture.shape, np.float32)
    image = Image.fromarray((255 * np.clip(picture, 0, 1)).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(camera.blur)).convert("RGB")
