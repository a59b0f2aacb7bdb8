"""Appearance of PaperDolls: cameras with their backgrounds and light, and finished pictures."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from reid_core.data.dolls import Person, cloth
from reid_core.data.drawing import SUPERSAMPLE, draw_labels

# ``Camera.blur``. Visible and infrared: fitted to 60 real crops of SYSU-MM01, resized to 96 × 48;
# the Laplacian of the luminance, divided by the contrast, is 0.48 and 0.34 there, and 0.49 and 0.35
# in drawn images. Indoors and outdoors hardly differ. Thermal is not measured. Its sensors resolve
# less than near-infrared ones.
BLUR = {"visible": 0.0053, "infrared": 0.0067, "thermal": 0.0103}


@dataclass(frozen=True)
class Camera:
    """One camera: where it looks, and how it sees."""

    backgrounds: np.ndarray  # (n, H, W, 3) or (n, H, W), float32 in 0..1
    modality: str  # "visible", "infrared" or "thermal"
    gain: float
    balance: np.ndarray  # (3,) white balance; ones where there is no colour
    blur: float  # standard deviation, as a share of the image's height
    noise: float  # standard deviation, 0..1
    exposure: float  # spread of the gain from picture to picture
    clutter: float  # probability that something stands in front of the person


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
        paint.rectangle((x, y, x + 0.5 * width, horizon + 0.08 * height), fill=colour(cloth(rng)))
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
        blur=BLUR[modality],
        # outdoors the sun comes and goes, and things stand in front
        noise=0.02 if outdoor else 0.015,
        exposure=(0.35 if colour else 0.15) if outdoor else 0.06,
        clutter=(0.25 if colour else 0.08) if outdoor else 0.0,
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
    return image.filter(ImageFilter.GaussianBlur(camera.blur * height)).convert("RGB")
