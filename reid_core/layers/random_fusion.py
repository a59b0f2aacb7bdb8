"""Random fusion (§3.1.2 and Table 4, fprnet): which of the eight vectors of two pyramids are
joined, and how, as a grid of names. "r5" is P_r(5), r being visible and i infrared; what lies in a
row is joined horizontally, rows vertically."""

from typing import Literal

import torch

Level = Literal["r2", "r3", "r4", "r5", "i2", "i3", "i4", "i5"]
Grid = tuple[tuple[Level, ...], ...]


def side_by_side(grid: Grid) -> Grid:
    """All of a grid in one row."""
    return (tuple(name for row in grid for name in row),)


def stacked(grid: Grid) -> Grid:
    """All of a grid in one column."""
    return tuple((name,) for row in grid for name in row)


def fuse(grid: Grid, features: dict[str, torch.Tensor], horizontal: str) -> torch.Tensor:
    """The fusion block (§3.1.2, Fig. 3).

    Parameters
    ----------
    grid : R rows of K names
    features : {name: P (B, C)}
    horizontal : "channels" or "batch"
        How a row is joined; the rows then are joined along the other one.

    Returns
    -------
    (R·B, K·C) for "channels", (K·B, R·C) for "batch"; its row n shows the person of row n mod B.
    """
    across, down = (1, 0) if horizontal == "channels" else (0, 1)
    return torch.cat([torch.cat([features[n] for n in row], across) for row in grid], down)


# Table 4: a set of features, and, where the paper prints them, the grids of the hybrid types. Type
# 1: levels differ along rows and columns; 2: along columns alone; 3: along rows alone.
EXTRACTED: dict[str, Grid] = {
    "r5-r2": (("r5", "r2"), ("r5", "r2")),
    "i4-i3": (("i4", "i3"), ("i4", "i3")),
    "r5-r3": (("r5", "r3"),),
    "i3-r3": (("i3", "r3"),),
    "r5-i5": (("r5", "r5"), ("i5", "i5")),
    "r5-r2-i5-i2": (("r5", "r2"), ("i5", "i2")),
    "r4-r3-i4-i3": (("r4", "r3"), ("i4", "i3")),
}
HYBRID: dict[str, Grid] = {
    "r5-r2-hybrid-1": (("r5", "r2"), ("r2", "r5")),
    "r5-r2-hybrid-3": (("r5", "r2"), ("r5", "r2")),
    "i4-i3-hybrid-1": (("i4", "i3"), ("i3", "i4")),
    "i4-i3-hybrid-2": (("i4", "i4"), ("i3", "i3")),
    "r5-r2-i5-i2-hybrid-1": (("r5", "r2"), ("i2", "i5")),
    "r5-r2-i5-i2-hybrid-3": (("r5", "r2"), ("i5", "i2")),
    "r4-r3-i4-i3-hybrid-1": (("r4", "r3"), ("i3", "i4")),
    "r4-r3-i4-i3-hybrid-2": (("r4", "i4"), ("r3", "i3")),
}
