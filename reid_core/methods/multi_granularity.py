"""Multi-granularity modality-specific attention for visible-infrared re-identification
(paper: multi_granularity).

- *Baseline* (§3.1): a two-stream network with GeM pooling and PCB's parts; here ``PartHead`` of
  ``baselines``.
- *MGSA* (§3.2): spatial attention of the whole map plus that of each of I1 horizontal blocks.
- *MSAM* (§3.3): a visible image shows more detail than an infrared one, so visible maps are cut
  into I2 blocks, each with channel and spatial attention, and infrared maps have one plain CBAM.

Both stand between two stages of the ResNet. Open points of the paper, what is done by default, and
how to switch, are beside the fields of ``Config`` and in notebook 14.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from reid_core.config import NotNegative, Positive, Weights
from reid_core.data.batches import Batch
from reid_core.layers.attention import (
    CBAM,
    MGSA,
    ChannelAttention,
    DualAttention,
    InBlocks,
    SpatialAttention,
)
from reid_core.layers.two_stream import Backbone, TwoStreamResNet
from reid_core.losses.metric import Metric
from reid_core.methods.baselines import PartHead

# §4.3: 60 epochs, flips alone; the rest is RunConfig's default. P, K, the weight of the parts'
# triplets and GeM's exponent are not printed. Those of Liu et al.: 8 × 4, 2 and 10 on RegDB,
# 6 × 8, 1 and 3 on SYSU-MM01.
RECIPE: dict = {
    "epochs": 60,
    "pad": 0,
    "sysu": {"identities": 6, "images": 8, "part_metric": 1.0},
    "regdb": {"gem_p": 10.0},
}


@dataclass(frozen=True)
class Config:
    """Defaults: "baseline + MGSA + MSAM". The paper cites [6] for its baseline, and prints neither
    its loss nor its sizes. They are taken here from the code of Liu et al. [11] (IEEE Trans.
    Multimedia 2021), which has the same parts, pooling and learning rates."""

    backbone: Backbone = "resnet50"  # §4.3
    weights: Weights = "imagenet"  # or "none", or the name of a state dict in data/weights
    share_from: Annotated[int, Field(ge=0, le=5)] = 2  # not printed: stages 0 and 1 private
    last_stride: Literal[1, 2] = 1  # §4.3

    parts: Positive = 6  # §4.3
    part_channels: Positive = 256  # not printed
    pooling: Literal["gap", "gem"] = "gem"  # §3.1
    gem_p: Annotated[float, Field(ge=1, le=100)] = 3.0  # not printed; 10 on RegDB, see RECIPE
    metric: Metric = "hetero_center"  # the loss is not printed; the others are usual in the field
    margin: NotNegative = 0.3
    part_metric: NotNegative = 2.0  # weight of each part's triplet loss; 1 on SYSU-MM01, see RECIPE
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0  # not printed; 0.1 is as usual
    part_neck: bool = False  # see ``baselines``; for training from scratch

    attention: bool = True  # without it the baseline
    i1: Positive = 4  # I1 of Eq. 1; 1 is CBAM's spatial attention (§4.4), without a local term
    i2: Positive = 2  # I2 of Eq. 2; 1 leaves the map whole
    # "between the second stage and the third" (§4.4): 2 counts layer1 as the first stage, 1 counts
    # the stem as such, and stands at the end of the private stages
    attend_after: Annotated[int, Field(ge=1, le=4)] = 2
    double_sigmoid: bool = True  # Eq. 1 as printed: δ(δ(global) + δ(local)), within 0.5 … 0.88
    # MGSA within MSAM (§4.4, "multi-branch channel and multi-granularity spatial descriptors"):
    # "joined" puts the I2 blocks together again before Eq. 1 cuts them into I1. So it differs from
    # "msam", whose spatial attention is of each I2 block, in two things: in I1, and in the map that
    # I1 divides. "nested" differs in one, I1 in each I2 block; at 288 × 144 it is possible after
    # stage 1 (72 rows), but not after stage 2: 36 rows into 2 · 4
    both: Literal["joined", "nested"] = "joined"
    shared_blocks: bool = True  # one f, one MLP for all blocks: the equations give them no index
    reduction: Positive = 16  # of CBAM, not printed


VARIANTS: dict[str, dict] = {
    # Table 1
    "baseline": {"attention": False},
    "mgsa": {"i2": 1},
    "msam": {"i1": 1},
    "mgsa-msam": {},
    # Figure 3. One block is plain CBAM in both branches, the first point of both curves; I1 = 4
    # and I2 = 2 are Table 1's "mgsa" and "msam".
    "cbam": {"i1": 1, "i2": 1},
    **{f"i1-{n}": {"i1": n, "i2": 1} for n in (2, 3, 6)},
    **{f"i2-{n}": {"i1": 1, "i2": n} for n in (3, 4, 6)},
    # open points, read the other way
    "single-sigmoid": {"double_sigmoid": False},
    "after-stage-1": {"attend_after": 1},
    "own-blocks": {"shared_blocks": False},
    "batch-hard": {"metric": "batch_hard"},
}
# Figure 3's curves: the setting, and the variants in its order. The text names 1 and the best value
# alone; the others are ours, and divide the maps of every profile.
SWEEPS: dict[str, list[str]] = {
    "i1": ["cbam", "i1-2", "i1-3", "mgsa", "i1-6"],
    "i2": ["cbam", "msam", "i2-3", "i2-4", "i2-6"],
}


def visible_attention(config: Config, channels: int) -> nn.Module:
    """The attention of the visible branch: Eq. 2 with I2 blocks, its spatial part Eq. 1 with I1."""

    def channel() -> nn.Module:
        return ChannelAttention(channels, config.reduction)

    def spatial() -> nn.Module:
        if config.i1 == 1:
            return SpatialAttention()
        return MGSA(config.i1, double_sigmoid=config.double_sigmoid, shared=config.shared_blocks)

    if config.i2 == 1:
        return DualAttention(channel(), spatial())
    if config.i1 > 1 and config.both == "joined":
        return DualAttention(InBlocks(channel, config.i2, config.shared_blocks), spatial())
    return InBlocks(lambda: DualAttention(channel(), spatial()), config.i2, config.shared_blocks)


class Model(nn.Module):
    """The two-stream network, with an attention in each branch, for ``identities`` people."""

    def __init__(self, config: Config, identities: int):
        super().__init__()

        def attention(modality: str, channels: int) -> nn.Module:
            if modality == "infrared":
                return CBAM(channels, config.reduction)
            return visible_attention(config, channels)

        self.backbone = TwoStreamResNet(
            config.backbone,
            config.weights,
            config.share_from,
            config.last_stride,
            attention=attention if config.attention else None,
            attend_after=config.attend_after,
        )
        self.head = PartHead(config, self.backbone.channels, identities)
        self.trivial = self.head.trivial

    def embed(self, images: torch.Tensor, modality: str) -> torch.Tensor:
        """(B, 3, H, W) of one modality to retrieval features (B, D), compared by cosine (§4.4)."""
        return self.head(self.backbone({modality: images}))

    def losses(self, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        """Identity and triplet losses of the parts and of all parts together."""
        images = batch.images
        return self.head.losses(self.backbone(images), batch.identity)

    def kept(self, images: torch.Tensor, modality: str) -> torch.Tensor:
        """What the attention leaves of each place's activation, as a share: A averaged over
        channels, each weighed by its activation (which after a ReLU is not negative).

        ``images`` (B, 3, H, W) of one modality to (B, h, w).
        """
        maps = self.backbone.shared(self.backbone.private[modality](images))
        return self.backbone.attention[modality](maps).sum(1) / maps.sum(1).clamp(min=1e-6)
