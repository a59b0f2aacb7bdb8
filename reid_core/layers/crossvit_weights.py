"""The CrossViTs that there are, and their ImageNet weights, for images of other heights and
widths."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from reid_core.layers.two_stream import read_state

Grid = tuple[int, int]  # rows and columns
# How a patch becomes a token: "linear" is Eq. 1's; for the others see `crossvit.convolutions`
Embedding = Literal["linear", "dagger", "stem"]


class Size(NamedTuple):
    """What tells one CrossViT from another; pairs are of branches F and C."""

    patches: tuple[int, int] = (12, 16)  # pixels
    widths: tuple[int, int] = (192, 384)  # numbers in a token
    depths: tuple[int, int] = (1, 5)  # transformer blocks in an encoder
    encoders: int = 3  # L
    heads: int = 6
    mlp_ratio: int = 3
    embedding: Embedding = "linear"  # "dagger" is its authors' CrossViT†


# With ImageNet weights by their authors, who also have a base of 105 million weights. Defaults of
# ``Size``: crossvit_15.
PUBLISHED = {
    "crossvit_tiny": Size(widths=(96, 192), depths=(1, 4), heads=3, mlp_ratio=4),
    "crossvit_small": Size(depths=(1, 4), mlp_ratio=4),
    "crossvit_9": Size(widths=(128, 256), depths=(1, 3), heads=4),
    "crossvit_15": Size(),
    "crossvit_18": Size(widths=(224, 448), depths=(1, 6), heads=7),
    "crossvit_9_dagger": Size(widths=(128, 256), depths=(1, 3), heads=4, embedding="dagger"),
    "crossvit_15_dagger": Size(embedding="dagger"),
    "crossvit_18_dagger": Size(widths=(224, 448), depths=(1, 6), heads=7, embedding="dagger"),
}
_URL = "https://github.com/IBM/CrossViT/releases/download/weights-0.1/{}_224.pth"

# The authors' names of the weights, which are timm's but for a dot, and ours.
_NAMES = {
    r"^patch_embed\.(\d)\.proj\.": r"patch.\1.",
    r"^cls_token[._]": "x_cls.",
    r"^pos_embed[._]": "E_pos.",
    r"^blocks\.": "encoders.",
    r"\.blocks\.": ".vit.",
    r"\.attn\.(qkv|proj)\.": r".msa.\1.",
    r"\.norm([12])\.": r".ln\1.",
    r"\.mlp\.fc1\.": ".mlp.0.",
    r"\.mlp\.fc2\.": ".mlp.2.",
    r"\.revert_projs\.": ".BP.",
    r"\.projs\.": ".P.",
    r"\.fusion\.(\d)\.ln1\.": r".cross.\1.ln.",
    r"\.fusion\.(\d)\.msa\.proj\.": r".cross.\1.proj.",
    r"\.fusion\.(\d)\.attn\.w([qkv])\.": r".cross.\1.V\2.",
}


def _renamed(name: str) -> str:
    for pattern, ours in _NAMES.items():
        name = re.sub(pattern, ours, name)
    return name


def resize_positions(positions: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Position embeddings (1, 1 + n², D) of a square grid, interpolated to (1, 1 + rows · columns,
    D); those of as many places stay as they are."""
    count = positions.shape[1] - 1
    if count == grid[0] * grid[1]:
        return positions
    side = round(count**0.5)
    if side**2 != count:
        raise ValueError(f"found positions of {count} places, expected {grid} or a square")
    square = positions[:, 1:].mT.unflatten(2, (side, side))
    places = F.interpolate(square, grid, mode="bicubic", antialias=True)
    return torch.cat([positions[:, :1], places.flatten(2).mT], dim=1)


def load_pretrained(model: nn.Module, size: Size, grids: Sequence[Grid], weights: str) -> None:
    """Gives ``model``, a `CrossViT` of ``size`` with patches on ``grids``, the ``weights`` that
    its docstring describes; ValueError where they cannot be had or do not fit."""
    state = _download(size) if weights == "imagenet" else read_state(weights)
    try:
        named = {_renamed(k): v for k, v in state.items() if not k.startswith("head.")}
        for branch, grid in enumerate(grids):
            name = f"E_pos.{branch}"
            named[name] = resize_positions(named[name], grid)
        model.load_state_dict(named)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]  # torch lists every key
        raise ValueError(f"weights: '{weights}' does not fit {size}: {reason} …") from None


def _download(size: Size) -> dict[str, torch.Tensor]:
    names = [name for name, published in PUBLISHED.items() if published == size]
    if not names:
        known = "; ".join(f"{name}: {published}" for name, published in PUBLISHED.items())
        raise ValueError(
            f"weights: found 'imagenet' for {size}, of which no weights are published. Expected "
            f"'none', a state dict's file, or the settings of one of {known}."
        )
    url = _URL.format(names[0])
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # no network; a download that was damaged
        raise ValueError(
            f"weights: ImageNet's of {names[0]} cannot be downloaded ({error}). On a machine with "
            f"network, fetch {url}, put it into data/weights and give its name instead, or choose "
            "'none' to train from scratch."
        ) from None
