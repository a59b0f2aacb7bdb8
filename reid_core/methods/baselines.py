"""The baselines that every comparison stands on, in one file.

- *one-stream*: one network for both modalities.
- *two-stream*: stage 0 private to each modality, stages 1 to 4 shared (as the paper
  mutual_prediction's DSN, which has another head: see there).
- *zero-padding* (Wu et al., ICCV 2017): one network whose input has a channel for each modality;
  an image fills its own channel, in gray, and leaves the other one zero.

All end in pooling, a BNNeck (Luo et al., CVPRW 2019) and a classifier: the triplet loss sees the
feature before the normalisation, the classifier and the retrieval see it after.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from reid_core.config import NotNegative, Weights
from reid_core.data.batches import Batch
from reid_core.layers.pooling import GAP, GeM
from reid_core.layers.two_stream import MODALITIES, Backbone, TwoStreamResNet
from reid_core.losses.triplet import batch_hard_triplet, weighted_regularised_triplet

RECIPE: dict = {}  # RunConfig's defaults are the baselines' own recipe


@dataclass(frozen=True)
class Config:
    """Defaults: the two-stream baseline of the field (Ye et al., TPAMI 2021)."""

    backbone: Backbone = "resnet50"
    weights: Weights = "imagenet"  # or "none", or the name of a state dict in data/weights
    share_from: Annotated[int, Field(ge=0, le=5)] = 1  # first stage shared by both modalities
    zero_padding: bool = False  # gray images in a channel of their modality's own
    last_stride: Literal[1, 2] = 1
    pooling: Literal["gap", "gem"] = "gap"
    metric: Literal["batch_hard", "weighted_regularised"] = "batch_hard"
    margin: NotNegative = 0.3  # of "batch_hard"; the other has none
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


VARIANTS: dict[str, dict] = {
    "one-stream": {"share_from": 0},
    "zero-padding": {"share_from": 0, "zero_padding": True},
    "two-stream": {},
    "two-stream-wrt": {"metric": "weighted_regularised"},
}


class ZeroPadding(nn.Module):
    """Deep zero-padding (Wu et al., ICCV 2017): the gray image in the channel of its modality.

    The third channel of an ImageNet network's input stays zero for both.
    """

    def forward(self, images: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``{modality: (B, 3, H, W)}`` to the same shapes."""
        padded = {modality: torch.zeros_like(x) for modality, x in images.items()}
        for modality, x in images.items():
            padded[modality][:, MODALITIES.index(modality)] = x.mean(dim=1)
        return padded


class Model(nn.Module):
    """A baseline for ``identities`` training identities."""

    def __init__(self, config: Config, identities: int):
        super().__init__()
        self.config = config
        self.inputs = ZeroPadding() if config.zero_padding else nn.Identity()
        self.backbone = TwoStreamResNet(
            config.backbone, config.weights, config.share_from, config.last_stride
        )
        self.pool = GeM() if config.pooling == "gem" else GAP()
        self.neck = nn.BatchNorm1d(self.backbone.channels)
        self.neck.bias.requires_grad_(False)  # features stay centred: cosine needs no offset
        self.classifier = nn.Linear(self.backbone.channels, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def features(self, images: dict[str, torch.Tensor]) -> torch.Tensor:
        """``{modality: (B, 3, H, W)}`` to pooled features (ΣB, D), before the neck."""
        return self.pool(self.backbone(self.inputs(images)))

    def embed(self, images: torch.Tensor, modality: str) -> torch.Tensor:
        """(B, 3, H, W) of one modality to retrieval features (B, D)."""
        return self.neck(self.features({modality: images}))

    def losses(self, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        """Identity (cross-entropy) and triplet loss over both modalities."""
        f = self.features({"visible": batch.visible, "infrared": batch.infrared})
        identity = batch.identity.repeat(2)
        with torch.autocast(f.device.type, enabled=False):  # bfloat16 logits keep 2 or 3 digits
            logits = self.classifier(self.neck(f))
        if self.config.metric == "batch_hard":
            triplet = batch_hard_triplet(f, identity, self.config.margin)
        else:
            triplet = weighted_regularised_triplet(f, identity)
        smoothing = self.config.label_smoothing
        return {
            "identity": F.cross_entropy(logits, identity, label_smoothing=smoothing),
            "triplet": triplet,
        }
