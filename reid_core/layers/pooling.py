"""From a feature map to a vector, and to one that a classifier sees."""

import torch
from torch import nn


class GeM(nn.Module):
    """Generalised mean over space (Radenović et al., TPAMI 2019; Eq. 17, mrda):
    ``f_c = (mean_x f_c(x)^p)^(1/p)``, p learned. p = 1 is the average, p → ∞ the maximum.

    p stays at 1 or above: left free, a high learning rate takes it through 0, where the root is
    not defined, and on to the minimum, which is the same for all images.
    """

    def __init__(self, p: float = 3.0):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C), in float32: powers are too coarse in bfloat16."""
        p = self.p.clamp(min=1)
        return maps.float().clamp(min=1e-6).pow(p).mean(dim=(2, 3)).pow(1 / p)


class BNNeck(nn.BatchNorm1d):
    """Between the triplet loss, which sees features before it, and the classifier (Luo et al.,
    CVPRW 2019). Its bias stays 0: cosine compares what is centred."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.bias.requires_grad_(False)


class GAP(nn.Module):
    """Global average pooling."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C), in float32."""
        return maps.float().mean(dim=(2, 3))
