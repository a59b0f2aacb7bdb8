"""Fine-grained cross-modality re-identification by mutual prediction (paper: mutual_prediction).

- *DSN* (§3.2): the paper's two-stream baseline; stage 0 private, stages 1 to 4 shared. It is
  ``baselines/two-stream`` but for its identity loss, the sum of both modalities' means, so twice
  as strong.
- *FGFL* (§3.3), fine-grained feature learning: the global feature and six stripes' features.
- *CMIMPL* (§3.4), cross-modality identity mutual predictive learning: a classifier per modality
  learns to tell its own modality's people apart; then, fixed, it judges the other modality's
  features, and the encoder learns to give them what that classifier looks for.

v is visible, t is thermal: the infrared modality of every dataset. Open points of the paper, what
is done by default, and how to switch, stand at the end of notebook 11.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from reid_core.config import NotNegative, Positive, Weights
from reid_core.data.batches import Batch
from reid_core.layers.pooling import GAP, BNNeck
from reid_core.layers.stripes import require_even
from reid_core.layers.two_stream import MODALITIES, Backbone, TwoStreamResNet
from reid_core.losses.metric import Metric, metric_loss, trivial_value
from reid_core.losses.mutual_prediction import (
    fixed_identity_loss,
    identity_loss,
    mutual_prediction_loss,
)

# §3.5.2 and §4.2; the rest of the paper's recipe is RunConfig's default
RECIPE: dict = {
    "epochs": 80,
    # not printed: unclipped, alpha 35 takes the identity loss back to chance when it enters
    "regdb": {"alpha": 35.0, "beta": 4.0, "clip": 5.0},
}


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's for SYSU-MM01; ``RECIPE`` has what it changes for RegDB."""

    backbone: Backbone = "resnet50"  # §3.5.1
    weights: Weights = "imagenet"  # or "none", or the name of a state dict in data/weights
    last_stride: Literal[1, 2] = 1  # not printed; 2 leaves 9 rows, which six stripes cannot share
    metric: Metric = "batch_hard"  # Eq. 2 and 10 as printed; AGW's own code has another one
    margin: NotNegative = 0.3  # m of Eq. 2 and 10
    neck: bool = True  # BNNeck before classifiers without a bias, as in AGW's code; as printed,
    # classifiers with a bias see f^m itself

    fine_grained: bool = True  # FGFL; without it f^m is the global f^g
    stripes: Positive = 6  # Eq. 3
    stripe_channels: Positive = 256  # Eq. 3: of each stripe's 1×1 convolution

    mutual: bool = True  # CMIMPL
    classifier_input: Literal["fine", "global"] = "fine"  # f^m of Eq. 11, or §3.5.1's 2 048 inputs
    alpha: NotNegative = 12.2  # α of Eq. 13, §4.2
    beta: NotNegative = 0.4  # β of Eq. 13, §4.2
    start_epoch: Annotated[int, Field(ge=0)] = 20  # §3.5.2: before it, L_ID and L_tri alone
    alternate: Annotated[int, Field(ge=0)] = 5  # epochs of each block; 0 takes Eq. 13 as printed,
    # with both terms in every epoch from start_epoch on
    judge: Literal["other", "own", "shared"] = "other"  # whose fixed classifier β weighs: the other
    # modality's (Eq. 12); two controls have as much supervision and no crossing: the modality's
    # own, or W_id


VARIANTS: dict[str, dict] = {
    # Table 4
    "baseline": {"fine_grained": False, "mutual": False},
    "fgfl": {"mutual": False},
    "fgfl-cmimpl": {},
    # Figure 3, one parameter moved, the other at its dataset's value
    **{f"alpha-{value:g}": {"alpha": value} for value in (0.1, 1.0, 4.0, 12.2, 35.0, 70.0)},
    **{f"beta-{value:g}": {"beta": value} for value in (0.1, 0.4, 1.0, 4.0, 10.0, 30.0, 100.0)},
    # open points, read the other way
    "both-terms": {"alternate": 0},
    "global-classifiers": {"classifier_input": "global"},
    "without-neck": {"neck": False},
    "batch-hard": {"metric": "batch_hard"},  # in demo, which has another one
    "soft-margin": {"metric": "batch_hard_soft"},
    "unit-triplet": {"metric": "batch_hard_unit"},
    # controls of "beta-10": is it the crossing that helps, or more supervision?
    **{f"beta-10-{judge}": {"beta": 10.0, "judge": judge} for judge in ("own", "shared")},
}


# before start_epoch not even computed: the runs of Figure 3 share their first epochs
LATE = dict.fromkeys(("alpha", "beta", "alternate", "judge"), "start_epoch")


def phase(config: Config, epoch: int) -> tuple[bool, bool]:
    """Whether L_v-t and L_t-v train in ``epoch``, counted from 0 (§3.5.2)."""
    if not config.mutual or epoch < config.start_epoch:
        return False, False
    if config.alternate == 0:
        return True, True
    specific = (epoch - config.start_epoch) // config.alternate % 2 == 0
    return specific, not specific


class FineGrained(nn.Module):
    """FGFL: a feature of every horizontal stripe (Eq. 3, 4) beside the global one (Eq. 5–8)."""

    def __init__(self, channels: int, stripes: int, stripe_channels: int):
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(channels, stripe_channels, 1) for _ in range(stripes))
        self.pool = GAP()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to f^0 … f^5 side by side, (B, stripes · stripe_channels).

        Raises
        ------
        ValueError
            The map's height is no multiple of the number of stripes.
        """
        require_even(maps, len(self.conv), "stripes", "stripes")
        cut = maps.chunk(len(self.conv), dim=2)
        parts = [self.pool(conv(part).relu()) for conv, part in zip(self.conv, cut, strict=True)]
        return torch.cat(parts, dim=1)


class Model(nn.Module):
    """E_v and E_t (``backbone.private``), E_vt (``backbone.shared``), W_id and, with CMIMPL, W_v
    and W_t (``W["visible"]``, ``W["infrared"]``), for ``identities`` = K people."""

    def __init__(self, config: Config, identities: int):
        super().__init__()
        self.config = config
        self.backbone = TwoStreamResNet(
            config.backbone, config.weights, share_from=1, last_stride=config.last_stride
        )
        self.pool = GAP()
        width = channels = self.backbone.channels
        if config.fine_grained:
            self.stripes = FineGrained(channels, config.stripes, config.stripe_channels)
            width += config.stripes * config.stripe_channels
        self.neck = BNNeck(width) if config.neck else nn.Identity()
        self.W_id = self._classifier(width, identities)
        chance = 2 * math.log(identities)  # of both modalities together
        triplet = trivial_value(config.metric, config.margin)
        self.trivial = {"identity": chance, "triplet": triplet}
        if config.mutual:
            inputs = width if config.classifier_input == "fine" else channels
            self.W = nn.ModuleDict({m: self._classifier(inputs, identities) for m in MODALITIES})
            self.trivial |= {"specific": config.alpha * chance, "mutual": config.beta * chance}

    def _classifier(self, inputs: int, identities: int) -> nn.Linear:
        """Behind the neck without a bias and near 0, as in AGW's code: W_v and W_t, whose weight is
        large, then learn from the features before they change them."""
        if not self.config.neck:
            return nn.Linear(inputs, identities)
        classifier = nn.Linear(inputs, identities, bias=False)
        nn.init.normal_(classifier.weight, std=0.001)
        return classifier

    def features(self, images: dict[str, torch.Tensor]) -> torch.Tensor:
        """``{modality: (B, 3, H, W)}`` to f^m (ΣB, D), its first C columns f^g (Eq. 5–8)."""
        maps = self.backbone(images)
        f = self.pool(maps)
        return torch.cat([f, self.stripes(maps)], dim=1) if self.config.fine_grained else f

    def embed(self, images: torch.Tensor, modality: str) -> torch.Tensor:
        """(B, 3, H, W) of one modality to retrieval features f^m (B, D), compared by cosine."""
        return self.neck(self.features({modality: images}))

    def losses(self, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        """The terms of Eq. 13 that train in ``epoch``, counted from 0: L_ID as ``identity``,
        L_tri as ``triplet``, α·L_v-t as ``specific``, β·L_t-v as ``mutual``."""
        f = self.features(batch.images)
        specific, mutual = phase(self.config, epoch)
        with torch.autocast(f.device.type, enabled=False):  # bfloat16 logits keep 2 or 3 digits
            f_m = dict(zip(MODALITIES, self.neck(f).chunk(2), strict=True))
            shared, y = dict.fromkeys(MODALITIES, self.W_id), batch.identity
            terms = {
                "identity": identity_loss(f_m, shared, y),
                "triplet": metric_loss(self.config.metric, f, y, self.config.margin),
            }
            seen = f_m  # by W_v and W_t
            if self.config.classifier_input == "global":
                seen = {m: x[:, : self.backbone.channels] for m, x in f_m.items()}
            if specific:
                terms["specific"] = self.config.alpha * identity_loss(seen, self.W, y)
            if mutual:
                if self.config.judge == "other":
                    judged = mutual_prediction_loss(seen, self.W, y)
                elif self.config.judge == "own":
                    judged = fixed_identity_loss(seen, self.W, y)
                else:
                    judged = fixed_identity_loss(f_m, shared, y)
                terms["mutual"] = self.config.beta * judged
        return terms
