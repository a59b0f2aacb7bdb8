"""Feature pyramid (Lin et al., CVPR 2017; Eq. 1, fprnet)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from reid_core.layers.pooling import GAP

Smoothing = Literal["before", "after"]
TOP, BOTTOM = 5, 2


class FeaturePyramid(nn.Module):
    """Vectors P(k) of a ResNet's maps C(k), k = 2..5 after its stages 1..4.

    ``P'(5) = ω1 ⊙ C(5)``, ``P'(k) = ω2 ⊙ (ω1 ⊙ C(k) + 2×P'(k+1))``, ``P(k) = avgpool(P'(k))``.
    ⊙ is convolution: each level has a 1×1 convolution ω1 and a 3×3 convolution ω2 of its own. "2×"
    is bilinear, to the size of C(k): an odd one is not twice the size above it.

    Parameters
    ----------
    channels : of C(2), C(3), C(4), C(5)
    levels : of 2..5
        What is asked for; layers that none of these needs do not exist.
    width : channels of every P
    smoothing : str
        A level is smoothed (ω2) "before" it is handed down, as in Eq. 1; or "after", as in Lin et
        al. and in the released code of fprnet, where the sum goes down as it is.
    """

    def __init__(
        self,
        channels: Sequence[int],
        levels: Collection[int],
        width: int = 256,
        smoothing: Smoothing = "before",
    ):
        super().__init__()
        if not levels or not set(levels) <= set(range(BOTTOM, TOP + 1)):
            raise ValueError(f"levels: found {sorted(levels)}, expected some of 2, 3, 4, 5.")
        self.levels, self.smoothing = frozenset(levels), smoothing
        path = range(TOP, min(levels) - 1, -1)
        self.lateral = nn.ModuleDict(
            {str(k): nn.Conv2d(channels[k - BOTTOM], width, 1) for k in path}
        )
        smoothed = [k for k in path if k < TOP and (smoothing == "before" or k in self.levels)]
        self.smooth = nn.ModuleDict(
            {str(k): nn.Conv2d(width, width, 3, padding=1) for k in smoothed}
        )
        self.pool = GAP()

    def forward(self, maps: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        """``{k: C(k) (B, C_k, H_k, W_k)}`` of every level from the top to the lowest asked for, to
        ``{k: P(k) (B, width)}`` of those asked for, at least float32."""
        found, above = {}, None
        for name, lateral in self.lateral.items():
            k = int(name)
            level = lateral(maps[k])
            if above is not None:
                level = level + F.interpolate(above, level.shape[-2:], mode="bilinear")
            smoothed = self.smooth[name](level) if name in self.smooth else level
            above = smoothed if self.smoothing == "before" else level
            if k in self.levels:
                found[k] = self.pool(smoothed)
        return found
