"""DAM: attention from the few regions of a map that matter most (mrda)."""

from typing import Literal

import torch
from torch import nn

from reid_core.layers.stripes import require_even

Selection = Literal["regions", "rows"]


class DynamicAttention(nn.Module):
    """Eq. 9–15, mrda: a map cut into horizontal regions; the positions of the most important ones
    ask, all positions answer.

    Parameters
    ----------
    channels : int
        C of the map; Q, K and V have as many.
    regions : int
        R, horizontal bands of equal height.
    top_k : int
        k of Eq. 12.
    selection : str
        The affinity matrix is R × R, and the paper keeps "k regions": "regions" takes the k whose
        affinities to all regions sum highest, for each image; "rows" takes, as ``topk`` does on a
        matrix, the k highest of every row, so that each region names k and often-named ones are
        gathered often.
    scaled : bool
        Divides the products of Eq. 14 by √C, as Transformers do. The equation does not.

    Raises
    ------
    ValueError
        k exceeds R, or ``selection`` is unknown.
    """

    def __init__(
        self,
        channels: int,
        regions: int = 6,
        top_k: int = 2,
        selection: Selection = "regions",
        scaled: bool = False,
    ):
        super().__init__()
        if top_k > regions:
            raise ValueError(f"top_k: found {top_k}, expected at most regions = {regions}.")
        if selection not in ("regions", "rows"):
            raise ValueError(f"selection: found '{selection}', expected regions or rows.")
        self.regions, self.top_k, self.selection = regions, top_k, selection
        self.factor = channels**-0.5 if scaled else 1.0
        # no bias: K's would add one number to all products of a query, which a softmax ignores
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)

    def project(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Q, K, V (Eq. 9) of maps (B, C, H, W), each (B, R, H/R · W, C): of every region its
        positions, row after row.

        Raises
        ------
        ValueError
            H is no multiple of R.
        """
        require_even(maps, self.regions, "regions", "regions")
        qkv = self.qkv(maps).flatten(2).mT
        return qkv.unflatten(1, (self.regions, -1)).chunk(3, dim=3)

    def important(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """M_index (Eq. 10–12): of the regions the numbers of the chosen ones, (B, top_k) or,
        for "rows", (B, R · top_k)."""
        affinity = q.mean(2) @ k.mean(2).mT  # (B, R, R)
        if self.selection == "rows":
            return affinity.topk(self.top_k).indices.flatten(1)
        return affinity.sum(2).topk(self.top_k).indices

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps f (B, C, H, W) to f̄ (B, C, n·H/R, W), the attention features of the n regions that
        were chosen. The paper prints f̄ as C × H × W, but its Eq. 14 has a row for each position of
        a chosen region only. Exponentials need float32: not to be called under autocast."""
        q, k, v = self.project(maps)
        index = self.important(q, k)[:, :, None, None]
        q_index = q.take_along_dim(index, dim=1).flatten(1, 2)  # Eq. 13
        alpha = (self.factor * q_index @ k.flatten(1, 2).mT).softmax(2)  # Eq. 14
        f_bar = alpha @ v.flatten(1, 2)  # Eq. 15, V's positions in rows
        return f_bar.mT.unflatten(2, (-1, maps.shape[3]))
