"""Fused attention and feature enhancement for cross-modality re-identification (paper:
crossvit_csa).

- *CrossViT* (§1.2): two vision transformers with patches of two sizes look at every image, and at
  its grayscale companion; see layers/crossvit.py.
- *CSA* (§1.3): channel and spatial attention over the maps that the patch tokens form. In variant
  "pair" it also sees, in training, the maps of a person's two modalities fused.
- *Losses* (§1.4): label-smoothed cross-entropy and a triplet loss with adaptive weights.

Retrieval embeds an image with its own companion, and nothing of the other modality: a query has
none. Open points of the paper, what is done by default, and how to switch, are in notebook 12.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from reid_core.config import NotNegative, Positive, Probability, Weights
from reid_core.data.augment import denormalise, luma, normalise
from reid_core.data.batches import Batch
from reid_core.layers.attention import ChannelAttention, DualAttention, SpatialAttention
from reid_core.layers.crossvit import CrossViT, Patches, Residual, to_map
from reid_core.layers.crossvit_weights import Embedding, Size
from reid_core.layers.pooling import GAP, BNNeck, at_least_float32
from reid_core.layers.two_stream import MODALITIES, Backbone, TwoStreamResNet
from reid_core.losses.center import CenterLoss
from reid_core.losses.metric import metric_loss, trivial_value
from reid_core.losses.triplet import adaptive_weighted_triplet

# §2.1: "Adam" with momentum 0.9, weight decay 0.0005 and a rate of 0.1, 0.01 and 0.001, batches of
# 16, 100 epochs, erasing 0.5. But for the word "Adam" this is how the field trains ResNets by SGD,
# RunConfig's default: rows without CrossViT have it. Rows with CrossViT have the recipe of PMT, the
# transformer for this task which Table 1 compares with: `with_crossvit`. Its 8 people and its neck
# serve all rows. Variants "printed-adam" and "printed-sgd" have §2.1's numbers.
# §1.1 counts cropping and flipping among TrivialAugment's operations, where its authors have
# neither: both stay on in every row, as is usual.
RECIPE: dict = {
    "identities": 8,
    "images": 4,
    "epochs": 100,
    "erase": 0.5,
    "trivial_augment": True,
    "with_crossvit": {
        "optimizer": "adamw",
        "lr": 0.0003,
        "backbone_lr": 0.5,
        "weight_decay": 0.0001,
        "warmup": 3.0,
        "schedule": "cosine",
        "drop_path": 0.1,
    },
}


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's where it prints them, else argued beside the field. Pairs are of
    branch F (fine) and branch C (coarse)."""

    weights: Weights = "imagenet"  # or "none", or the name of a state dict in data/weights
    backbone: Backbone = "resnet50"  # of the rows without CrossViT, whose network is not printed

    crossvit: bool = True  # Table 3; without it a two-stream ResNet
    size: tuple[Positive, Positive] = (288, 144)  # §2.1, of the images: the run's height, width
    # Not printed: those of CrossViT-15, its authors' middle one; 12 and 16 divide 288 × 144
    patches: tuple[Positive, Positive] = (12, 16)
    widths: tuple[Positive, Positive] = (192, 384)
    depths: tuple[Positive, Positive] = (1, 5)
    encoders: Positive = 3  # L
    heads: Positive = 6
    mlp_ratio: Positive = 3
    embedding: Embedding = "linear"  # Eq. 1; "dagger": CrossViT† of the same authors, three
    # convolutions; "stem": these with batch normalisation, for training from scratch
    drop_path: Probability = 0.0  # stochastic depth; not in the paper
    patch_exchange: Patches = "own"  # "other": Eq. 8 as printed; see MultiScaleEncoder
    residual: Residual = "class"  # which is the "multi-scale residual connection"; see there
    private: bool = False  # a CrossViT for each modality, if "respectively" (§1) means that

    gray: Literal["both", "visible", "none"] = "both"  # §1: whose grayscale companions join; an
    # infrared image that is gray is its own
    readout: Literal["both", "class"] = "both"  # class tokens and the attended maps' averages, or
    # class tokens alone, which CSA cannot reach

    csa: bool = True  # Table 3
    spatial: Literal["equation", "cbam", "prose"] = "equation"  # see `spatial_attention`
    reduction: Positive = 16  # of C1 in Eq. 10, not printed: CBAM's
    fusion: Literal["none", "pair"] = "none"  # §1.3: what CSA fuses is not printed. "none": it sees
    # the maps of each image, as a query's; "pair": in training also those of a person's visible and
    # infrared images averaged, which no query has

    metric: Literal[
        "adaptive_weighted",  # Eq. 15
        "batch_hard",  # Eq. 14; for the other two forms see losses/metric.py
        "batch_hard_soft",
        "batch_hard_unit",
        "center",
        "none",
    ] = "adaptive_weighted"
    margin: NotNegative = 1.0  # α of Eq. 15, and of Eq. 14, where it is not printed
    hinge: bool = True  # of Eq. 15, which prints none; see its loss
    center_weight: NotNegative = 0.003  # λ of Wen et al. [28]; not printed
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1  # ξ of Eq. 13, not printed
    neck: bool = True  # BNNeck before the classifier, not in the paper: PMT's


RESNET = {"crossvit": False, "gray": "none"}  # §1 has the companions pass CrossViT
PLAIN = {"trivial_augment": False}
# Table 3's rows without the weighted triplet have none: its last but one differs from Table 4's
# batch-hard row, which would otherwise be the same network with the same loss.
IDENTITY = {"metric": "none"}
# §2.1 to the letter, as far as it is printed: no warm-up, one rate for everything, no neck
PRINTED = {
    "identities": 4,
    "lr": 0.1,
    "backbone_lr": 1.0,
    "warmup": 0.0,
    "schedule": "steps",
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "drop_path": 0.0,
    "neck": False,
}
VARIANTS: dict[str, dict] = {
    # Table 3
    "baseline": RESNET | PLAIN | IDENTITY | {"csa": False},
    "ta": RESNET | IDENTITY | {"csa": False},
    "crossvit": PLAIN | IDENTITY | {"csa": False},
    "csa": RESNET | PLAIN | IDENTITY,
    "ta-crossvit": IDENTITY | {"csa": False},
    "ta-crossvit-csa": IDENTITY,
    "ta-crossvit-csa-wt": {},  # also Table 4's L_trihardw
    # Table 4
    "center": {"metric": "center"},
    "hard-triplet": {"metric": "batch_hard"},
    # open points, read the other way
    "printed-adam": PRINTED | {"optimizer": "adam"},
    "printed-sgd": PRINTED | {"optimizer": "sgd"},
    "printed-eq8": {"patch_exchange": "other"},
    "encoder-residual": {"residual": "encoder"},
    "no-gray": {"gray": "none"},
    "pair": {"fusion": "pair"},
    "cbam": {"spatial": "cbam"},
    "prose-spatial": {"spatial": "prose"},
    "no-hinge": {"hinge": False},
}
GROUPS = {"with_crossvit": [v for v, changes in VARIANTS.items() if changes.get("crossvit", True)]}
Scale = tuple[torch.Tensor | None, torch.Tensor]  # class token (n, D) and map (n, D, h, w)


def companion(images: torch.Tensor) -> torch.Tensor:
    """Normalised images (B, 3, H, W) in gray, normalised; channels first in memory, on which the
    last bits of what is computed from them depend."""
    with torch.autocast(images.device.type, enabled=False):
        gray = normalise(luma(denormalise(images)).expand(-1, -1, -1, 3))
    return gray.to(images.dtype).contiguous()


class SummedSpatialAttention(nn.Module):
    """``A_s(M) = σ(Conv(Avg(M) + Max(M)))`` (Eq. 12), pooled over channels, as in CBAM, whose
    convolution has the two side by side."""

    def __init__(self, kernel_size: int = 7):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, kernel_size, padding="same")

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, 1, H, W)."""
        pooled = maps.mean(1, keepdim=True) + maps.amax(1, keepdim=True)
        return self.conv(pooled).sigmoid()


class PooledSpatialAttention(nn.Module):
    """§1.3.2 in words: average and maximum over the H × W places, side by side as 1 × 1 × 2C, and a
    convolution. No place is left to tell from another: it weighs channels once more."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Linear(2 * channels, channels)  # on one place, a 1×1 convolution

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C, 1, 1)."""
        pooled = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)
        return self.conv(pooled).sigmoid()[:, :, None, None]


def spatial_attention(config: Config, channels: int) -> nn.Module:
    """A_s: of Eq. 12; CBAM's, whose channel attention is Eq. 10; or of the prose, which pools
    places away. The equation and the prose cannot both hold."""
    if config.spatial == "prose":
        return PooledSpatialAttention(channels)
    return SpatialAttention() if config.spatial == "cbam" else SummedSpatialAttention()


class Model(nn.Module):
    """CrossViT or ResNet, CSA and a classifier for ``identities`` people."""

    def __init__(self, config: Config, identities: int):
        super().__init__()
        if config.csa and config.crossvit and config.readout == "class":
            raise ValueError(
                "readout: found 'class' with csa, expected 'both': what CSA does to the maps would "
                "not reach the feature."
            )
        self.config = config
        if config.crossvit:
            shape = (config.patches, config.widths, config.depths)
            size = Size(*shape, config.encoders, config.heads, config.mlp_ratio, config.embedding)
            reading = (config.patch_exchange, config.residual, config.drop_path)
            self.backbone = nn.ModuleList(
                CrossViT(config.size, size, config.weights, *reading)
                for _ in range(2 if config.private else 1)
            )
            channels = list(config.widths)
        else:
            self.backbone = TwoStreamResNet(config.backbone, config.weights)
            channels = [self.backbone.channels]
        self.attention = nn.ModuleList(
            DualAttention(ChannelAttention(c, config.reduction), spatial_attention(config, c))
            if config.csa
            else nn.Identity()
            for c in channels
        )
        self.gap = GAP()
        width = sum(channels)
        self.fused = config.csa and config.fusion == "pair"
        self.neck = BNNeck(width) if config.neck else nn.Identity()
        if self.fused:  # averages vary less: with one neck they would enter its statistics
            self.fused_neck = BNNeck(width) if config.neck else nn.Identity()
        self.classifier = nn.Linear(width, identities)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)
        self.center = CenterLoss(identities, width) if config.metric == "center" else None
        self.trivial = {"identity": math.log(identities)}
        if self.fused:
            self.trivial["fused_identity"] = math.log(identities)
        if config.metric not in ("center", "none"):
            self.trivial["triplet"] = trivial_value(config.metric, config.margin)

    def scales(self, images: dict[str, torch.Tensor]) -> list[Scale]:
        """``{modality: (B_m, 3, H, W)}`` to the class token and the map M of each scale, rows ΣB_m
        in the dict's order: two scales of CrossViT, one of ResNet, which has no class token."""
        if not self.config.crossvit:
            return [(None, self.backbone(images))]
        grids = self.backbone[0].out_grids
        tokens = zip(self.tokens(images), grids, strict=True)
        return [(z[:, 0], to_map(z, grid)) for z, grid in tokens]

    def vit(self, modality: str) -> CrossViT:
        return self.backbone[MODALITIES.index(modality) if self.config.private else 0]

    def tokens(self, images: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """``{modality: (B_m, 3, H, W)}`` to each branch's tokens (ΣB_m, 1 + n, D), the mean of
        those of the images and of their companions'."""
        gray = self.config.gray
        views = {
            m: torch.cat([x, companion(x)]) if gray in ("both", m) else x for m, x in images.items()
        }
        if self.config.private:
            parts = [self.vit(m)(x) for m, x in views.items()]
        else:  # as one batch, so that all views share the statistics of a stem
            together = self.backbone[0](torch.cat(list(views.values())))
            rows = [len(x) for x in views.values()]
            parts = zip(*(z.split(rows) for z in together), strict=True)
        means = [
            [at_least_float32(z).unflatten(0, (-1, len(x))).mean(0) for z in both]
            for both, x in zip(parts, images.values(), strict=True)
        ]
        return [torch.cat(z) for z in zip(*means, strict=True)]

    def feature(self, scales: list[Scale]) -> torch.Tensor:
        """CSA's maps M″ (Eq. 9, 11), averaged over their places, added to the class tokens, the
        scales side by side: (n, ΣD), at least float32."""
        parts = []
        device = scales[0][1].device.type
        with torch.autocast(device, enabled=False):  # exponentials need float32
            for attention, (cls, maps) in zip(self.attention, scales, strict=True):
                if self.config.readout == "class" and cls is not None:
                    parts.append(at_least_float32(cls))
                    continue
                pooled = self.gap(attention(at_least_float32(maps)))
                parts.append(pooled if cls is None else at_least_float32(cls) + pooled)
        return torch.cat(parts, dim=1)

    def embed(self, images: torch.Tensor, modality: str) -> torch.Tensor:
        """(B, 3, H, W) of one modality to retrieval features (B, D), compared by cosine."""
        return self.neck(self.feature(self.scales({modality: images})))

    def losses(self, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        """Eq. 13 of both modalities' images, and of the fused maps where there are any, and
        Eq. 15 or what Table 4 puts in its place."""
        config, people = self.config, batch.identity
        scales = self.scales(batch.images)
        f, identity = self.feature(scales), people.repeat(2)
        with torch.autocast(f.device.type, enabled=False):  # bfloat16 logits keep 2 or 3 digits
            terms = {"identity": self.smoothed(self.neck(f), identity)}
            if self.fused:
                fused = self.feature([self.fuse(scale, people) for scale in scales])
                terms["fused_identity"] = self.smoothed(self.fused_neck(fused), identity)
            if config.metric == "adaptive_weighted":
                loss = adaptive_weighted_triplet(f, identity, config.margin, config.hinge)
                terms["triplet"] = loss
            elif config.metric == "center":
                terms["center"] = config.center_weight * self.center(f, identity)
            elif config.metric != "none":
                terms["triplet"] = metric_loss(config.metric, f, people, config.margin)
        return terms

    def smoothed(self, f: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        """L_id (Eq. 13), the mean over rows."""
        smoothing = self.config.label_smoothing
        return F.cross_entropy(self.classifier(f), identity, label_smoothing=smoothing)

    @staticmethod
    def fuse(scale: Scale, people: torch.Tensor) -> Scale:
        """Each image's tokens and map averaged with those of the same person in the other
        modality, whose images are averaged first: which of them shares a row is chance.

        A scale of n visible and then n infrared rows, both of ``people`` (n,); its shapes stay. Not
        to be called under autocast.
        """
        same = (people[:, None] == people).to(scale[1].dtype)
        mean = same / same.sum(1, keepdim=True)

        def with_other(x: torch.Tensor) -> torch.Tensor:
            visible, infrared = x.flatten(1).chunk(2)
            others = torch.cat([mean @ infrared, mean @ visible]).view(x.shape)
            return (x + others) / 2

        cls, maps = scale
        return None if cls is None else with_other(cls), with_other(maps)

    @torch.no_grad()
    def heard(self, images: torch.Tensor, modality: str) -> list[torch.Tensor]:
        """How much the class tokens of F and C take from each of the other branch's patches in the
        last encoder (the softmax of Eq. 6, averaged over heads), for looking.

        ``images`` (B, 3, H, W) of one modality, without companions, to (B, rows, columns) on C's
        grid and on F's.
        """
        vit, seen = self.vit(modality), []
        last = vit.encoders[-1].cross
        hooks = [c.register_forward_pre_hook(lambda _, z: seen.append(z[0])) for c in last]
        vit(images)
        for hook in hooks:
            hook.remove()
        maps = []
        for cross, z in zip(last, seen, strict=True):
            q, k, _ = cross.queries(z)
            weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(1)[:, 0, 1:]
            of_fine = weights.shape[1] == vit.grids[0][0] * vit.grids[0][1]
            maps.append(weights.unflatten(1, vit.grids[0 if of_fine else 1]))
        return maps

    def cam_layers(self, modality: str) -> list[tuple[nn.Module, None]]:
        """What Figure 3 looks at: the maps M″ behind CSA, without it M, of every scale."""
        return [(attention, None) for attention in self.attention]
