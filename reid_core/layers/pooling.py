"""From a feature map to a vector, and to one that a classifier sees."""

import torch
from torch import nn


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Half precision raised to float32, which sums, powers and losses need; float32 and float64
    stay as they are, so that a model can be compared with a reference in float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class GeM(nn.Module):
    """Generalised mean over space (Radenović et al., TPAMI 2019; Eq. 17, mrda):
    ``f_c = (mean_x f_c(x)^p)^(1/p)``. p = 1 is the average, p → ∞ the maximum.

    p is a fixed number, as in the released code of AGW and of the hetero-centre triplet loss.
    Radenović et al. learn it. A high learning rate and weight decay then take a learned p below 1
    within the warm-up, and from there it does not return: the pooling is a plain average.
    """

    def __init__(self, p: float = 3.0):
        super().__init__()
        self.p = p

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C), at least float32: powers are too coarse in bfloat16."""
        x = at_least_float32(maps).clamp(min=1e-6)
        # a high power of a small number is 0 in float32; of its share in the largest one it is not
        largest = x.detach().amax(dim=(2, 3), keepdim=True)
        shares = (x / largest).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)
        return largest[:, :, 0, 0] * shares

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class BNNeck(nn.BatchNorm1d):
    """Between the triplet loss, which sees features before it, and the classifier (Luo et al.,
    CVPRW 2019). Its bias stays 0: cosine compares what is centred."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.bias.requires_grad_(False)


class GAP(nn.Module):
    """Global average pooling."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C), at least float32."""
        return at_least_float32(maps).mean(dim=(2, 3))
