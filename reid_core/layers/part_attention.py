"""Two attentions to compare others with: BAM, and the part attention of DDAG (IWPAM)."""

import torch
from torch import nn


class BAM(nn.Module):
    """Bottleneck attention module (Park et al., BMVC 2018, Eq. 1–4):
    ``F + F ⊗ σ(M_c(F) + M_s(F))``.

    M_c is a number for each channel from the average over space, M_s one for each position from
    two dilated convolutions. The equations are followed: the released code multiplies M_c and M_s
    instead, normalises M_c's hidden layer and has no last normalisation in either. The hidden
    layers of M_s are normalised and rectified as there, which the equations leave open.
    """

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4):
        super().__init__()
        if channels % reduction:
            raise ValueError(f"channels: found {channels}, expected a multiple of {reduction}.")
        hidden = channels // reduction
        self.channel = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),  # a normalisation takes any bias away
            nn.BatchNorm1d(channels),
        )
        wide = {"kernel_size": 3, "padding": dilation, "dilation": dilation, "bias": False}
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, **wide),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, **wide),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, 1, 1, bias=False),
            nn.BatchNorm2d(1),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same shape."""
        channel = self.channel(maps.mean((2, 3)))[:, :, None, None]
        return maps * (1 + (channel + self.spatial(maps)).sigmoid())


class IWPAM(nn.Module):
    """Intra-modality weighted-part attention (DDAG: Ye et al., ECCV 2020): the bands of a map look
    at one another, ``x̄_i = Σ_j softmax_j(u(x_i) · v(x_j)) z(x_j)``, and are summed with learned
    weights ``w = softmax(weight)``, as in DDAG's released code, which start equal.

    DDAG adds the sum to a batch-normalised global feature; here the method adds its own.
    """

    def __init__(self, channels: int, parts: int = 3):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((parts, 1))
        # no bias: v's would add one number to all products of a band, which a softmax ignores
        self.uvz = nn.Linear(channels, 3 * channels, bias=False)
        self.weight = nn.Parameter(torch.zeros(parts))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to Σ_i w_i x̄_i, a map of one position (B, C, 1, 1). Exponentials need
        float32: not to be called under autocast."""
        x = self.pool(maps).squeeze(3).mT  # (B, parts, C)
        u, v, z = self.uvz(x).chunk(3, dim=2)
        refined = (u @ v.mT).softmax(2) @ z
        return (self.weight.softmax(0) @ refined)[:, :, None, None]
