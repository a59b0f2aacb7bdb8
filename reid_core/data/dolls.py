"""The people of PaperDolls: what they look like, and the materials that they are made of."""

from dataclasses import dataclass

import numpy as np

MATERIALS = (
    *("background", "skin", "hair", "top", "top print", "inner", "bottom", "bottom print"),
    *("shoes", "bag", "bag trim", "hat", "dark"),
)
LABEL = {name: number for number, name in enumerate(MATERIALS)}

HAIR = ("bald", "short", "bob", "long", "ponytail", "bun", "cap", "beanie", "sun hat")
TOPS = ("tee", "tee", "vest", "shirt", "shirt", "jacket", "open jacket", "coat", "hoodie")
BOTTOMS = ("trousers", "trousers", "slim", "wide", "shorts", "skirt", "long skirt")
BAGS = ("none", "backpack", "backpack", "cross-body", "handbag")
PRINTS = ("plain", "bars", "pinstripes", "checks", "dots", "yoke", "logo")
HEM = {"tee": 0.53, "vest": 0.52, "shirt": 0.54, "hoodie": 0.55, "coat": 0.70}
WARMTH = {"vest": 0.70, "tee": 0.66, "shirt": 0.58, "hoodie": 0.50, "jacket": 0.46}
WARMTH |= {"open jacket": 0.46, "coat": 0.40}


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
    bag_size: float
    scarf: bool
    prints: tuple[str, str]  # of top and bottom
    raglan: bool  # sleeves in the colour of the print
    side_stripe: bool  # along the trousers, in the colour of their print
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


def cloth(rng: np.random.Generator) -> np.ndarray:
    """A garment's colour (3,): black, white and grey as often as in the street, otherwise dyed."""
    value = rng.choice([0.1, 0.2, 0.45, 0.7, 0.9]) + rng.uniform(-0.05, 0.05)
    if rng.random() < 0.3:
        return np.clip(value + rng.uniform(-0.03, 0.03, 3), 0, 1)
    hue, saturation, value = rng.random(), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.8)
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return value * (1 - saturation * (1 - wheel))


def _palettes(rng: np.random.Generator, top: str) -> dict[str, np.ndarray]:
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
        colour = cloth(rng)
        # Thermal cameras see how much warmth a garment lets through: less, the thicker it is.
        warmth = (
            WARMTH[top] + rng.uniform(-0.04, 0.04) if name == "top" else rng.uniform(0.38, 0.72)
        )
        dye(name, colour, reflectance, warmth)
        if name != "inner":
            survives = rng.random() < 0.6  # pigment prints stay visible, dyed patterns vanish
            contrast = rng.uniform(0.16, 0.32) if survives else rng.uniform(0.0, 0.05)
            dye(f"{name} print", cloth(rng), max(reflectance - contrast, 0.1), warmth)
    dye("shoes", cloth(rng), rng.uniform(0.15, 0.9), rng.uniform(0.3, 0.5))
    bag = rng.uniform(0.12, 0.45) if rng.random() < 0.5 else rng.uniform(0.6, 0.95)
    dye("bag", cloth(rng), bag, rng.uniform(0.15, 0.3))
    dye("bag trim", cloth(rng), bag * rng.uniform(0.5, 0.8), 0.22)
    dye("hat", cloth(rng), rng.uniform(0.3, 0.95), 0.45)
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
        bag_size=rng.choice([0.75, 1.0, 1.3]),
        scarf=bool(rng.random() < 0.2),
        raglan=bool(rng.random() < 0.25),
        side_stripe=bool(rng.random() < 0.25),
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
        palettes=_palettes(rng, top),
    )
