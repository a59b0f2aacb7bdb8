"""Attention over feature maps (B, C, H, W): CBAM, what multi_granularity makes of it, non-local.

``ChannelAttention``, ``SpatialAttention`` and ``MGSA`` return how much to keep of each place, as
numbers in (0, 1); ``DualAttention`` and ``CBAM`` return the map that remains, ``NonLocal`` one with
something added.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from reid_core.layers.stripes import require_even


def in_blocks(
    modules: Sequence[nn.Module], maps: torch.Tensor, blocks: int, name: str = "blocks"
) -> torch.Tensor:
    """``maps`` (B, C, H, W) cut into horizontal blocks, each a map of its own to its module, the
    outputs joined again: (B, C', H, W).

    One module serves all blocks, which then share a batch and its statistics; otherwise there is
    one for each block. ``name`` is what errors call their number.

    Raises
    ------
    ValueError
        The map's height is no multiple of the number of blocks.
    """
    require_even(maps, blocks, name, "blocks")
    cut = maps.unflatten(2, (blocks, -1)).movedim(2, 0)  # (blocks, B, C, H / blocks, W)
    chunks = zip(modules, cut.chunk(len(modules)), strict=True)
    joined = torch.cat([module(chunk.flatten(0, 1)) for module, chunk in chunks])
    return joined.unflatten(0, (blocks, -1)).movedim(0, 2).flatten(2, 3)


class InBlocks(nn.Module):
    """A module for every one of ``blocks`` horizontal blocks (Eq. 2, multi_granularity), the same
    one for all if ``shared``."""

    def __init__(self, make: Callable[[], nn.Module], blocks: int, shared: bool = True):
        super().__init__()
        self.blocks = blocks
        self.each = nn.ModuleList(make() for _ in range(1 if shared else blocks))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C', H, W); ValueError where H cannot be divided."""
        return in_blocks(self.each, maps, self.blocks, "i2 (blocks of MSAM)")


class ChannelAttention(nn.Module):
    """A_channel = δ(MLP(average over space) + MLP(maximum over space)), one MLP for both
    (Eq. 2 of CBAM, Woo et al., ECCV 2018)."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        if channels < reduction:
            raise ValueError(
                f"reduction: found {reduction} for {channels} channels, expected at most as many: "
                "the MLP in between would have no unit."
            )
        self.mlp = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same shape, constant over space."""
        pooled = self.mlp(maps.mean(dim=(2, 3))) + self.mlp(maps.amax(dim=(2, 3)))
        return pooled.sigmoid()[:, :, None, None].expand_as(maps)


class SpatialLogits(nn.Module):
    """f([average over channels; maximum over channels]), f a convolution with batch normalisation:
    CBAM's published code has the normalisation, its Eq. 3 has not."""

    def __init__(self, kernel_size: int = 7):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding="same", bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, 1, H, W), any number."""
        pooled = torch.cat([maps.mean(1, keepdim=True), maps.amax(1, keepdim=True)], dim=1)
        return self.norm(self.conv(pooled))


class SpatialAttention(nn.Module):
    """A_spatial = δ(f([AvgPool; MaxPool])) (Eq. 3 of CBAM; A_spatial_g of Eq. 1,
    multi_granularity)."""

    def __init__(self, kernel_size: int = 7):
        super().__init__()
        self.f = SpatialLogits(kernel_size)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, 1, H, W)."""
        return self.f(maps).sigmoid()


class MGSA(nn.Module):
    """Multi-granularity spatial attention (Eq. 1, multi_granularity): that of the whole map plus
    that of ``blocks`` = I1 horizontal blocks, each seen for itself, zeros beyond its edges.

    The equation takes the sigmoid twice, A = δ(δ(global) + δ(local)), and so keeps between δ(0) =
    0.5 and δ(2) = 0.88 of any place. Without ``double_sigmoid``, A = δ(global + local) may use all
    of (0, 1). With ``shared`` one f is used throughout, as the equation's single symbol says;
    otherwise the whole map and each block have their own. The shared f too normalises the whole map
    and the blocks by statistics of their own: one average of both would fit neither in evaluation.
    """

    def __init__(
        self,
        blocks: int = 4,
        kernel_size: int = 7,
        double_sigmoid: bool = True,
        shared: bool = True,
    ):
        super().__init__()
        self.blocks = blocks
        self.double_sigmoid = double_sigmoid
        self.f = nn.ModuleList(
            SpatialLogits(kernel_size) for _ in range(2 if shared else blocks + 1)
        )
        if shared:
            whole, block = self.f
            block.conv = whole.conv
            block.norm.weight, block.norm.bias = whole.norm.weight, whole.norm.bias

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, 1, H, W).

        Raises
        ------
        ValueError
            The map's height is no multiple of ``blocks``.
        """
        whole = self.f[0](maps)
        local = in_blocks(self.f[1:], maps, self.blocks, "i1 (blocks of MGSA)")
        if self.double_sigmoid:
            whole, local = whole.sigmoid(), local.sigmoid()
        return (whole + local).sigmoid()


class DualAttention(nn.Module):
    """Channel attention, then spatial attention of what it left (Eq. 1 of CBAM)."""

    def __init__(self, channel: nn.Module, spatial: nn.Module):
        super().__init__()
        self.channel = channel
        self.spatial = spatial

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same shape."""
        maps = self.channel(maps) * maps
        return self.spatial(maps) * maps


class CBAM(DualAttention):
    """Convolutional block attention module (Woo et al., ECCV 2018)."""

    def __init__(self, channels: int, reduction: int = 16, kernel_size: int = 7):
        super().__init__(ChannelAttention(channels, reduction), SpatialAttention(kernel_size))


class NonLocal(nn.Module):
    """Non-local block (Wang et al., CVPR 2018), dot product, as AGW has it (Ye et al., TPAMI 2021):
    ``z_i = x_i + BN(W y_i)``, ``y_i = 1/N Σ_j (θ(x_i) · φ(x_j)) g(x_j)`` over all N places j.

    The last normalisation starts at zero: a new block changes nothing. ``inner`` is the number of
    channels of θ, φ and g; AGW means half of ``channels``, its first released code computed
    ``reduction // reduction``, which is 1.
    """

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.W = nn.Conv2d(inner, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same shape."""
        theta, phi, g = (f(maps).flatten(2).mT for f in (self.theta, self.phi, self.g))
        affinity = theta @ phi.mT / theta.shape[1]  # (B, N, N)
        y = (affinity @ g).mT.unflatten(2, maps.shape[2:])
        return maps + self.norm(self.W(y))
