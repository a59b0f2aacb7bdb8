"""Augmentation of whole uint8 batches; every decision is made per image."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torchvision.transforms import v2

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what "L" means to Pillow and torchvision
_CACHED = 8  # pictures


@cache
def _constants(device: torch.device, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of every number in a row of ``width`` pixels: arithmetic on whole rows is
    ten times as fast as on three numbers at a time."""
    with torch.inference_mode(False):  # kept, and so also for callers who want gradients
        return tuple(torch.tensor(v, device=device).mul(255).repeat(width) for v in (_MEAN, _STD))


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Pixels of 0..255, uint8 or float, ``(B, H, W, 3)`` to float32 ``(B, 3, H, W)``, ImageNet's
    mean and deviation removed.

    The result is channels-last in memory, because that is how pixels are stored.
    """
    mean, std = _constants(images.device, images.shape[2])
    rows = images.flatten(2)
    out = torch.empty(rows.shape, dtype=mean.dtype, device=rows.device)
    # a few pictures stay in a CPU's cache between the three operations, a whole batch does not
    some = _CACHED if rows.device.type == "cpu" else max(1, len(rows))
    for start in range(0, len(rows), some):
        part = slice(start, start + some)
        out[part].copy_(rows[part]).sub_(mean).div_(std)
    return out.view(images.shape).permute(0, 3, 1, 2)


def denormalise(images: torch.Tensor) -> torch.Tensor:
    """The inverse of ``normalise``, for looking: float (B, 3, H, W) to uint8 (B, H, W, 3)."""
    pixels = images.permute(0, 2, 3, 1)
    mean, std = _constants(images.device, pixels.shape[2])
    rows = pixels.flatten(2) * std + mean
    return rows.round_().clamp_(0, 255).to(torch.uint8).view(pixels.shape)


def luma(images: torch.Tensor) -> torch.Tensor:
    """Pixels (B, H, W, 3) uint8 to their brightness (B, H, W, 1) uint8; not for autocast."""
    gray = images.float() @ torch.tensor(_LUMA, device=images.device)
    return gray.round().to(torch.uint8)[..., None]


@dataclass(frozen=True)
class Augment:
    """Random crop (after padding with black), flip, grayscale, TrivialAugment (Müller & Hutter,
    ICCV 2021; its shift in proportion to the width) and, after normalisation, erasing (Zhong et
    al., AAAI 2020).

    Random numbers are drawn on the CPU from the generator that is passed, so a seed means the same
    augmentation on every device. What is done picture by picture is done on the CPU, all else where
    the batch shall be: a GPU that copied rectangles would start some two hundred kernels for a
    batch.
    """

    pad: int = 10
    flip: float = 0.5
    erase: float = 0.0
    grayscale: float = 0.0
    trivial: bool = False

    def __call__(
        self,
        images: torch.Tensor,
        modality: str,
        random: torch.Generator,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        """uint8 ``(B, H, W, 3)`` to normalised float32 ``(B, 3, H, W)`` on ``device`` (where
        ``images`` lie, if it is None); ``modality`` decides whether pictures may turn gray (only
        "visible" ones have colour to lose)."""
        device = images.device if device is None else device
        images = self._crop_and_flip(images.cpu(), random)
        if self.trivial:
            images = _trivial_augment(images, random)
        images = images.to(device)
        if self.grayscale and modality == "visible":
            images = self._gray(images, random)
        out = normalise(images)
        return self._erase(out, random) if self.erase else out

    def _crop_and_flip(self, images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        n, height, width, _ = images.shape
        offset = torch.randint(2 * self.pad + 1, (n, 2), generator=random) - self.pad
        mirrored = torch.rand(n, generator=random) < self.flip
        pictures = list(images.numpy())
        # to mirror is fast in torch, along the last axis, and to copy rectangles in numpy
        turned = torch.from_numpy(images.numpy()[mirrored.numpy()]).permute(0, 3, 1, 2).flip(3)
        turned = turned.permute(0, 2, 3, 1).numpy()
        for number, picture in zip(np.flatnonzero(mirrored), turned, strict=True):
            pictures[number] = picture
        offset[mirrored, 1] *= -1
        out = np.zeros(images.shape, np.uint8)
        for target, picture, (y, x) in zip(out, pictures, offset.tolist(), strict=True):
            part = picture[_inside(y, height), _inside(x, width)]
            target[_inside(-y, height), _inside(-x, width)] = part
        return torch.from_numpy(out)

    def _gray(self, images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        chosen = (torch.rand(len(images), generator=random) < self.grayscale).to(images.device)
        return torch.where(chosen[:, None, None, None], luma(images), images)

    def _erase(self, images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Blanks (to the mean, which is zero here) one rectangle of 2 to 40 % of the area and
        aspect 0.3 to 3.3, as in the paper; a side longer than the image is cut to it."""
        n, _, height, width = images.shape
        chosen = torch.rand(n, generator=random) < self.erase
        area = (0.02 + 0.38 * torch.rand(n, generator=random)) * height * width
        aspect = 0.3 + 3.0 * torch.rand(n, generator=random)
        tall = (area * aspect).sqrt().clamp(max=height)
        wide = (area / aspect).sqrt().clamp(max=width)
        top = torch.rand(n, generator=random) * (height - tall)
        left = torch.rand(n, generator=random) * (width - wide)
        y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5
        rows = (y > top[:, None]) & (y < (top + tall)[:, None]) & chosen[:, None]
        columns = (x > left[:, None]) & (x < (left + wide)[:, None])
        hole = (rows[:, :, None] & columns[:, None, :]).to(images.device)
        return images.masked_fill_(hole[:, None], 0.0)  # in place keeps the memory channels-last


def _inside(offset: int, size: int) -> slice:
    """What a window of ``size``, moved by ``offset``, sees of an axis of that size."""
    return slice(max(0, offset), max(0, size + min(0, offset)))


class _TrivialAugment(v2.TrivialAugmentWide):
    """torchvision's, which shifts an image by up to 32 pixels, whatever its size. That is meant for
    images 144 pixels wide here, as in crossvit_csa; of narrower ones it is the same share."""

    _AUGMENTATION_SPACE = v2.TrivialAugmentWide._AUGMENTATION_SPACE | dict.fromkeys(
        ("TranslateX", "TranslateY"),
        (lambda bins, height, width: torch.linspace(0.0, 32 * width / 144, bins), True),
    )


def _trivial_augment(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """torchvision decides once per call, so it is called per image; and it draws from the global
    generator, which is lent this one's numbers meanwhile."""
    transform = _TrivialAugment()
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which would seed the CUDA generators too
        torch.default_generator.manual_seed(int(torch.randint(2**31, (), generator=random)))
        return torch.stack([transform(i.permute(2, 0, 1)).permute(1, 2, 0) for i in images])
