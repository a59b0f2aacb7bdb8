"""From a feature map to a vector."""

import torch
from torch import nn


class GeM(nn.Module):
    """Generalised mean over space (Radenović et al., TPAMI 2019; Eq. 17, mrda):
    ``f_c = (mean_x f_c(x)^p)^(1/p)``, p learned. p = 1 is the average, p → ∞ the maximum.

    p stays at 1 or above: left free, a high learning rate takes it through 0, where the root is
    not defined, and on to the minimum, which is the same for all images.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.eps = eps

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C), in float32: powers are too coarse in bfloat16."""
        p = self.p.clamp(min=1)
        return maps.float().clamp(min=self.eps).pow(p).mean(dim=(2, 3)).pow(1 / p)


class GAP(nn.Module):
    """Global average pooling."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C), in float32."""
        return maps.float().mean(dim=(2, 3))
