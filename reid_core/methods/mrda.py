"""Mask reconstruction with dynamic attention (paper: mrda).

- *MRM* (§2.2), mask reconstruction: a mask computed from the pixels gives a human-region image,
  which joins the batch beside its original; the region-centre loss (§2.3) ties the two together
  after one of ResNet's stages.
- *DAM* (§2.4), dynamic attention: the positions of the most important horizontal regions attend to
  the whole map; the result is added to the GeM feature. BAM, CBAM and IWPAM can take its place.

Retrieval embeds the original image alone: the paper joins human regions to *train* the network, and
says nothing of them at test time. Open points of the paper, what is done by default, and how to
switch, are in notebook 15.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from reid_core.config import NotNegative, Positive, Weights
from reid_core.data.augment import denormalise, normalise
from reid_core.data.batches import Batch
from reid_core.layers.attention import CBAM
from reid_core.layers.dynamic_attention import DynamicAttention, Selection
from reid_core.layers.mask import Bound, human_mask
from reid_core.layers.part_attention import BAM, IWPAM
from reid_core.layers.pooling import GAP, BNNeck, GeM, at_least_float32
from reid_core.layers.two_stream import MODALITIES, Backbone, TwoStreamResNet
from reid_core.losses.consistency import Gram, correlation_consistency
from reid_core.losses.hetero_center import Negatives, Reduction, hetero_center_triplet
from reid_core.losses.region_center import Between, Scale, region_center_loss

# §3.2: 3 people, of each 6 images in both modalities. The rate, "0.1, decayed to 0.10 and 0.01
# after 20 and 50 epochs", is read as RunConfig's 0.1, 0.01 and 0.001; `milestones: [50]` takes it
# as it stands. `pad` is 0 because the crop comes after the mask: see `crop_pad`.
RECIPE: dict = {"identities": 3, "images": 6, "pad": 0}
REGIONS = ("original", "human", "background")


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's where it prints them, else argued beside the field. Its code family
    is that of the hetero-centre triplet loss, [19], which it cites for GeM and for Eq. 20."""

    backbone: Backbone = "resnet50"  # §2.3
    weights: Weights = "imagenet"  # or "none", or the name of a state dict in data/weights
    last_stride: Literal[1, 2] = 1  # not printed; 2 leaves 9 rows, which six regions cannot share
    share_from: Annotated[int, Field(ge=0, le=5)] = 2  # §2.3; Figure 6 may have moved it along

    crop_pad: Annotated[int, Field(ge=0)] = 10  # random crop in training, after padding with black;
    # not printed, that of the code family. The mask comes first: a border would be its minimum
    mask: bool = True  # MRM; without it there are no human regions and no region-centre loss
    mask_bound: Bound = "clamp"  # Eq. 1 and 2: the norm may exceed 1; see layers/mask.py
    region_stage: Annotated[int, Field(ge=0, le=4)] = 1  # whose maps Eq. 7 compares: Figure 6
    region_feature: Literal["pooled", "map"] = "pooled"  # f of Eq. 7: a centre, and so without
    # places, or the C × H × W that is printed, though visible and infrared poses differ
    region_between: Between = "images"  # third term of Eq. 7, where visible and infrared image i
    # share the person alone; see its loss
    region_across: Literal["original", "human"] = "original"  # third term: Eq. 7, or its prose
    region_reduction: Reduction = "sum"  # Eq. 7; a mean is 18 times less in a batch of 3 × 6
    region_scale: Scale = "none"  # Eq. 7, which smaller features satisfy; see its loss
    region_push: bool = False  # from the background: described below Eq. 7, but not in it
    region_margin: NotNegative = 3.0  # how much farther than its human region the push wants an
    # image's background; not printed. Pooled stage-1 maps of untrained networks (on drawn people,
    # normalised by batch) are 5 to 8 long, and backgrounds farther by 2 to 4.5 on average: 3 pushes
    # about half of the images from the start, Eq. 20's 0.3 would push hardly any

    attention: Literal["dam", "bam", "cbam", "iwpam", "none"] = "dam"  # Table 1; none: GeM alone
    regions: Positive = 6  # R of Eq. 10, not printed: as many as the field's usual stripes
    top_k: Positive = 2  # k of Eq. 12, not printed: "a small part" of them
    selection: Selection = "regions"  # Eq. 12 on a matrix; see layers/dynamic_attention.py
    scaled: bool = False  # Eq. 14 prints no 1/√C before its softmax
    gem_p: Annotated[float, Field(ge=1, le=100)] = 3.0  # b of Eq. 17, a hyperparameter, not
    # printed: the code family's on SYSU-MM01
    neck: bool = True  # BNNeck before the classifier: not mentioned, but the code family has it

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1  # ξ of Eq. 18, that of its source
    margin: NotNegative = 0.3  # ρ of Eq. 20, that of its source
    negatives: Negatives = "both"  # of Eq. 20: its source, mrda's prose or print; see its loss
    center_reduction: Reduction = "mean"  # Eq. 20 is printed as a sum, 6 times the mean of 3
    # people; so it is by its authors, whose released code computes the mean
    gram: Gram = "row"  # ‖·‖₂ of Eq. 21, which in Eq. 1 is of every pixel and not of the whole
    # image: by rows, as its source's code; or of the matrix
    consistency_between: Between = "images"  # Eq. 21 and 22; see losses/consistency.py


VARIANTS: dict[str, dict] = {
    # Table 2
    "baseline": {"mask": False, "attention": "none"},
    "mrm": {"attention": "none"},
    "dam": {"mask": False},
    "mrm-dam": {},  # also Table 1's DAM and Figure 6's stage 1
    # Table 1, with the mask
    **{name: {"attention": name} for name in ("bam", "cbam", "iwpam")},
    # Figure 6
    **{f"stage-{stage}": {"region_stage": stage} for stage in (0, 2, 3, 4)},
    # open points, read the other way
    "mask-scale": {"mask_bound": "scale"},
    "human-across": {"region_across": "human"},
    "background-push": {"region_push": True},
    "rows-top-k": {"selection": "rows"},
    "scaled-dam": {"scaled": True},
    "without-neck": {"neck": False},
}


def black(images: torch.Tensor) -> torch.Tensor:
    """What a black pixel is among normalised ``images``: (1, 3, 1, 1)."""
    return normalise(images.new_zeros(1, 1, 1, 3)).to(images.dtype)


def reconstruct(images: torch.Tensor, bound: Bound = "clamp") -> dict[str, torch.Tensor]:
    """The original, ``x_M+ = M⁺ ⊗ x`` (Eq. 3) and ``x_M− = (1 − M⁺) ⊗ x`` (Eq. 2, 4), all
    (B, 3, H, W) and normalised as ``images`` are.

    The equations are about the original image, so they hold for pixels, where what a mask takes
    away turns black; of normalised numbers a mask would take away shadows and lights alike.
    """
    pixels = denormalise(images).permute(0, 3, 1, 2).to(images.dtype)
    mask, zero = human_mask(pixels, bound), black(images)
    weighed = (zero + m * (images - zero) for m in (mask, 1 - mask))
    return dict(zip(REGIONS, (images, *weighed), strict=True))


def random_crop(regions: dict[str, torch.Tensor], pad: int) -> dict[str, torch.Tensor]:
    """Normalised images and their regions, each (B, 3, H, W), padded with ``pad`` black pixels on
    every side and cut back to H × W at a random place, one for an image and its regions."""
    n, _, height, width = regions["original"].shape
    # drawn on the CPU: one place on every device
    top, left = torch.randint(2 * pad + 1, (2, n, 1)).to(regions["original"].device)
    image = torch.arange(n, device=top.device)[:, None, None]
    rows = (top + torch.arange(height, device=top.device))[:, :, None]
    columns = (left + torch.arange(width, device=top.device))[:, None]
    cropped = {}
    for region, x in regions.items():
        padded = black(x).repeat(n, 1, height + 2 * pad, width + 2 * pad)
        padded[:, :, pad:-pad, pad:-pad] = x
        cropped[region] = padded.movedim(1, 3)[image, rows, columns].movedim(3, 1)
    return cropped


def make_attention(config: Config, channels: int) -> nn.Module:
    """DAM or what takes its place: maps (B, C, H, W) to f̄ (B, C, H', W').

    The paper only says that the others replace DAM. Here they give the f̄ of Eq. 16, which adds
    GeM(f) to all of them alike, also to BAM, whose output is f plus what it attends to, and to
    CBAM, whose output is f weighted: both then count f once more.
    """
    if config.attention == "dam":
        return DynamicAttention(
            channels, config.regions, config.top_k, config.selection, config.scaled
        )
    return {"bam": BAM, "cbam": CBAM, "iwpam": IWPAM}[config.attention](channels)


class Model(nn.Module):
    """φ_v, φ_r (the stages below ``share_from``), φ_{v,r} (the others), the attention and a
    classifier for ``identities`` people."""

    per_picture = ("attention",)  # DAM is two fifths as much work as the ResNet-50

    def __init__(self, config: Config, identities: int):
        super().__init__()
        self.config = config
        self.backbone = TwoStreamResNet(
            config.backbone, config.weights, config.share_from, config.last_stride
        )
        channels = self.backbone.channels
        self.attention = None if config.attention == "none" else make_attention(config, channels)
        self.gem, self.avg = GeM(config.gem_p), GAP()
        self.neck = BNNeck(channels) if config.neck else nn.Identity()
        self.classifier = nn.Linear(channels, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.trivial = {"identity": math.log(identities)}
        if config.center_reduction == "mean":  # a sum's depends on the number of people in a batch
            self.trivial["hetero_center"] = config.margin

    def stages(self, images: dict[str, torch.Tensor], background: int = 0) -> list[torch.Tensor]:
        """``{modality: (B_m, 3, H, W)}`` to the maps after stages 0 to 4, each (ΣB_m, C, h, w) in
        the dict's order (Eq. 5, 6, 8). The last is what the backbone returns.

        The last ``background`` rows of each modality go no farther than ``region_stage``, where
        their only loss is. Up to there they are in one batch with the others, normalised alike, or
        their distances would mean nothing: so they do take part in its statistics.
        """
        parts, maps = images, []
        for number in range(5):
            parts = self.backbone.stage(number, parts)
            maps.append(torch.cat(list(parts.values())))
            if number == self.config.region_stage:
                parts = {m: x[: len(x) - background] for m, x in parts.items()}
        return maps

    def enhance(self, maps: torch.Tensor) -> torch.Tensor:
        """f (B, C, H, W) to ``F̄ = GeM(f) ⊕ avg(f̄)`` (Eq. 16), (B, C); ⊕ adds."""
        f = self.gem(maps)
        if self.attention is None:
            return f
        with torch.autocast(maps.device.type, enabled=False):  # exponentials need float32
            return f + self.avg(self.attention(at_least_float32(maps)))

    def embed(self, images: torch.Tensor, modality: str) -> torch.Tensor:
        """(B, 3, H, W) of one modality, originals alone, to retrieval features F̄ (B, C), compared
        by cosine."""
        return self.neck(self.enhance(self.backbone({modality: images})))

    def images(self, batch: Batch) -> dict[str, dict[str, torch.Tensor]]:
        """``{modality: {region: (B, 3, H, W)}}`` of the regions that train. Their masks are those
        of the whole images; only then, in training mode, images and regions are cropped."""
        config = self.config
        used = REGIONS[: 1 + config.mask + (config.mask and config.region_push)]
        images = {}
        for modality, x in batch.images.items():
            regions = reconstruct(x, config.mask_bound) if config.mask else {"original": x}
            regions = {region: regions[region] for region in used}
            if self.training and config.crop_pad:
                regions = random_crop(regions, config.crop_pad)
            images[modality] = regions
        return images

    def losses(self, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        """The terms of Eq. 23, all of weight 1. Originals and human regions count alike, as
        images of their identity; the background has a part in the region-centre loss alone, but
        for the batch statistics of the stages that lead there."""
        config, people = self.config, batch.identity
        images = self.images(batch)
        used = tuple(images["visible"])
        background = len(people) if "background" in used else 0
        maps = self.stages({m: torch.cat(list(x.values())) for m, x in images.items()}, background)
        last = maps[4].unflatten(0, (len(MODALITIES), -1, len(people)))
        enhanced = self.enhance(last[:, :2].flatten(0, 2))
        visible, infrared = enhanced.chunk(2)
        identity = people.repeat(len(visible) // len(people))
        with torch.autocast(enhanced.device.type, enabled=False):  # bfloat16 keeps 2 or 3 digits
            logits = self.classifier(self.neck(enhanced))
            terms = {
                "identity": F.cross_entropy(
                    logits, identity.repeat(2), label_smoothing=config.label_smoothing
                ),
                "hetero_center": hetero_center_triplet(
                    visible,
                    infrared,
                    identity,
                    config.margin,
                    config.negatives,
                    config.center_reduction,
                ),
                "consistency": correlation_consistency(
                    visible, infrared, identity, config.gram, config.consistency_between
                ),
            }
            if config.mask:
                terms["region_center"] = self.region_center(maps[config.region_stage], used, people)
        return terms

    def region_center(
        self, maps: torch.Tensor, regions: tuple[str, ...], people: torch.Tensor
    ) -> torch.Tensor:
        """L_ac (Eq. 7) of one stage's maps (modality · region · B, C, h, w) of ``people`` (B,)."""
        config = self.config
        pooled = config.region_feature == "pooled"
        f = self.avg(maps) if pooled else at_least_float32(maps).flatten(1)
        f = f.unflatten(0, (len(MODALITIES), len(regions), len(people)))
        visible, infrared = (dict(zip(regions, modality, strict=True)) for modality in f)
        return region_center_loss(
            visible,
            infrared,
            people,
            between=config.region_between,
            across=config.region_across,
            margin=config.region_margin if config.region_push else None,
            reduction=config.region_reduction,
            scale=config.region_scale,
        )
