"""The baselines that every comparison stands on, in one file.

- *one-stream*: one network for both modalities.
- *two-stream*: stage 0 private to each modality, stages 1 to 4 shared (as the paper
  mutual_prediction's DSN, which has another head: see there).
- *zero-padding* (Wu et al., ICCV 2017): one network whose input has a channel for each modality;
  an image fills its own channel, in gray, and leaves the other one zero.
- *AGW* (Ye et al., TPAMI 2021): the two-stream network with non-local blocks, GeM pooling and the
  weighted regularised triplet loss. GeM's exponent is 3 and fixed, as in their release.
- *PCB* (Sun et al., ECCV 2018, in the two-stream form of Liu et al., IEEE Trans. Multimedia 2021):
  a feature and a classifier for each of six horizontal parts, hetero-centre triplet loss.

A model is a backbone with a head. ``GlobalHead`` pools and ends in a BNNeck (Luo et al., CVPRW
2019) and a classifier: the triplet loss sees the feature before the normalisation, the classifier
and the retrieval see it after. ``PartHead`` does so for stripes, in PCB's way.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from reid_core.config import NotNegative, Positive, Weights
from reid_core.data.batches import Batch
from reid_core.layers.pooling import GAP, BNNeck, GeM
from reid_core.layers.stripes import require_even
from reid_core.layers.two_stream import MODALITIES, Backbone, NonLocalWidth, TwoStreamResNet
from reid_core.losses.metric import Metric, metric_loss, trivial_value

# RunConfig's defaults are AGW's recipe, and here that of every baseline: PCB too trains 80 epochs
# on 8 × 4, not its authors' 61 on 6 × 8 (SYSU-MM01). Its parts' weight there is theirs.
RECIPE: dict = {"sysu": {"part_metric": 1.0}}


@dataclass(frozen=True)
class Config:
    """Defaults: the two-stream baseline of the field (Ye et al., TPAMI 2021)."""

    backbone: Backbone = "resnet50"
    weights: Weights = "imagenet"  # or "none", or the name of a state dict in data/weights
    share_from: Annotated[int, Field(ge=0, le=5)] = 1  # first stage shared by both modalities
    zero_padding: bool = False  # gray images in a channel of their modality's own
    last_stride: Literal[1, 2] = 1
    non_local: NonLocalWidth = "none"  # AGW's blocks: half of the channels inside, or, as first
    # released, one
    pooling: Literal["gap", "gem"] = "gap"
    gem_p: Annotated[float, Field(ge=1, le=100)] = 3.0  # exponent of "gem"
    metric: Metric = "batch_hard"
    margin: NotNegative = 0.3  # of the metrics that have one
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    head: Literal["global", "parts"] = "global"
    parts: Positive = 6  # PCB's stripes
    part_channels: Positive = 256  # of each part's feature
    part_metric: NotNegative = 2.0  # weight of each part's triplet loss; 1 on SYSU-MM01, see RECIPE
    part_neck: bool = False  # a BNNeck for each part instead of normalisation and ReLU before both
    # losses; from scratch the triplets otherwise take all features to zero, before they differ


VARIANTS: dict[str, dict] = {
    "one-stream": {"share_from": 0},
    "zero-padding": {"share_from": 0, "zero_padding": True},
    "two-stream": {},
    "two-stream-wrt": {"metric": "weighted_regularised"},
    "agw": {"metric": "weighted_regularised", "pooling": "gem", "non_local": "half"},
    # what its released code computes, where that differs from its paper
    "agw-released": {"metric": "weighted_released", "pooling": "gem", "non_local": "one"},
    "pcb": {
        "metric": "hetero_center",
        "pooling": "gem",
        "share_from": 2,
        "head": "parts",
        "regdb": {"gem_p": 10.0},  # as its authors release it; 3 on SYSU-MM01
    },
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


class GlobalHead(nn.Module):
    """One feature of the whole map."""

    def __init__(self, config: Config, channels: int, identities: int):
        super().__init__()
        self.config = config
        self.pool = GeM(config.gem_p) if config.pooling == "gem" else GAP()
        self.neck = BNNeck(channels)
        self.classifier = nn.Linear(channels, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.trivial = {
            "identity": math.log(identities),
            "triplet": trivial_value(config.metric, config.margin),
        }

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to retrieval features (B, C), behind the neck."""
        return self.neck(self.pool(maps))

    def losses(self, maps: torch.Tensor, identity: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cross-entropy and triplet loss of maps (2n, C, H, W): n visible ones, then n infrared
        ones, both of ``identity`` (n,)."""
        f = self.pool(maps)
        with torch.autocast(f.device.type, enabled=False):  # bfloat16 logits keep 2 or 3 digits
            logits = self.classifier(self.neck(f))
        smoothing = self.config.label_smoothing
        return {
            "identity": F.cross_entropy(logits, identity.repeat(2), label_smoothing=smoothing),
            "triplet": metric_loss(self.config.metric, f, identity, self.config.margin),
        }


class PartHead(nn.Module):
    """PCB: a feature of each horizontal part, pooled, reduced by a 1×1 convolution of its own with
    batch normalisation and ReLU, and judged by a classifier of its own. Side by side they are the
    retrieval feature. With ``part_neck`` the normalisation comes after the triplet loss, as in
    `GlobalHead`, and there is no ReLU.

    ``config`` has this file's ``pooling``, ``gem_p``, ``metric``, ``margin``, ``label_smoothing``
    and part settings.
    """

    def __init__(self, config: Config, channels: int, identities: int):
        super().__init__()
        self.config = config
        self.pool = GeM(config.gem_p) if config.pooling == "gem" else GAP()
        self.reduce = nn.ModuleList()
        self.necks = nn.ModuleList()
        self.classifiers = nn.ModuleList()
        for _ in range(config.parts):
            # on one place, a 1×1 convolution; both normalisations take a bias out again
            conv = nn.Linear(channels, config.part_channels, bias=False)
            nn.init.kaiming_normal_(conv.weight)
            if config.part_neck:
                self.reduce.append(conv)
                self.necks.append(BNNeck(config.part_channels))
            else:
                norm = nn.BatchNorm1d(config.part_channels)
                self.reduce.append(nn.Sequential(conv, norm, nn.ReLU()))
                self.necks.append(nn.Identity())
            self.classifiers.append(nn.Linear(config.part_channels, identities))
            nn.init.normal_(self.classifiers[-1].weight, std=0.001)
            nn.init.zeros_(self.classifiers[-1].bias)
        triplet = trivial_value(config.metric, config.margin)
        self.trivial = {
            "identity": config.parts * math.log(identities),
            "triplet": triplet,
            "part_triplet": config.part_metric * config.parts * triplet,
        }

    def features(self, maps: torch.Tensor) -> list[torch.Tensor]:
        """(B, C, H, W) to the parts' features, each (B, part_channels), before the necks.

        Raises
        ------
        ValueError
            The map's height is no multiple of the number of parts.
        """
        require_even(maps, len(self.reduce), "parts", "parts")
        pooled = [self.pool(part) for part in maps.chunk(len(self.reduce), dim=2)]
        with torch.autocast(maps.device.type, enabled=False):
            return [reduce(f) for reduce, f in zip(self.reduce, pooled, strict=True)]

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to retrieval features (B, parts · part_channels)."""
        parts = zip(self.necks, self.features(maps), strict=True)
        return torch.cat([neck(f) for neck, f in parts], dim=1)

    def losses(self, maps: torch.Tensor, identity: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parts' cross-entropies, added; the triplet loss of the whole feature; the parts'
        triplet losses, added. Maps and ``identity`` as for `GlobalHead`."""
        config, f = self.config, self.features(maps)
        with torch.autocast(maps.device.type, enabled=False):
            layers = zip(self.classifiers, self.necks, f, strict=True)
            logits = [judge(neck(part)) for judge, neck, part in layers]
        cross_entropy = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
        of_parts = [metric_loss(config.metric, part, identity, config.margin) for part in f]
        whole = metric_loss(config.metric, torch.cat(f, dim=1), identity, config.margin)
        return {
            "identity": sum(cross_entropy(x, identity.repeat(2)) for x in logits),
            "triplet": whole,
            "part_triplet": config.part_metric * sum(of_parts),
        }


class Model(nn.Module):
    """A baseline for ``identities`` training identities."""

    def __init__(self, config: Config, identities: int):
        super().__init__()
        self.inputs = ZeroPadding() if config.zero_padding else nn.Identity()
        self.backbone = TwoStreamResNet(
            config.backbone,
            config.weights,
            config.share_from,
            config.last_stride,
            non_local=config.non_local,
        )
        head = PartHead if config.head == "parts" else GlobalHead
        self.head = head(config, self.backbone.channels, identities)
        self.trivial = self.head.trivial

    def embed(self, images: torch.Tensor, modality: str) -> torch.Tensor:
        """(B, 3, H, W) of one modality to retrieval features (B, D)."""
        return self.head(self.backbone(self.inputs({modality: images})))

    def losses(self, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        """Identity and triplet losses over both modalities, as the head has them."""
        images = batch.images
        return self.head.losses(self.backbone(self.inputs(images)), batch.identity)
