"""Feature pyramid random fusion network (paper: fprnet).

- *Pyramid* (§3.1.1): of each modality's ResNet the levels P(2) … P(5), one vector each.
- *Fusion block* (§3.1.2): some of the eight vectors, joined horizontally, vertically or both. Which
  and how is ``fusion``, a grid of names: every row of Table 4 is such a value; see
  layers/random_fusion.py.
- *Cross-modal prediction* (§3.2): the IR-RGB block (C(5) of both modalities) and the fusion block
  play for the joint loss L_ri; L_r and L_i are of either modality's block alone; e^|d| is added.
  Each head begins with SVDNet's decorrelated layer.

r is visible, i is infrared. Retrieval embeds one image of one modality. It never needs an image of
the other modality. It uses the head of L_r and L_i, as the released code does, because that head
learns from every batch, whoever wins the game. Notebook 13 lists the open points of the paper, what
is done by default, and how to switch.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from reid_core.config import ConfigError, NotNegative, Positive, Weights
from reid_core.data.batches import Batch
from reid_core.layers.pooling import GAP, BNNeck
from reid_core.layers.pyramid import FeaturePyramid, Smoothing
from reid_core.layers.random_fusion import EXTRACTED, HYBRID, Grid, fuse, side_by_side, stacked
from reid_core.layers.svd_linear import SVDLinear
from reid_core.layers.two_stream import MODALITIES, Backbone, TwoStreamResNet
from reid_core.losses.hybrid import Game, bias_correction, play

# §4.2: SGD, 0.01, lower after 30 epochs of 60, batches of 32, random crop and flip. The code of the
# paper draws 32 people with one image of each in both modalities, and has no warm-up.
RECIPE: dict = {
    "identities": 32,
    "images": 1,
    "epochs": 60,
    "lr": 0.01,
    "warmup": 0,
    "milestones": [30],
}
Activation = Literal["leaky_relu", "relu", "none"]
SIGNS = {"visible": "r", "infrared": "i"}


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's where it prints them, else argued beside the field. "Released" is
    what the authors' published code does; the variant "released" has what is said here of it."""

    backbone: Backbone = "resnet50"  # §3.1.1
    weights: Weights = "imagenet"  # or "none", or the name of a state dict in data/weights
    last_stride: Literal[1, 2] = 2  # Table 1: C(5) is 9 × 5
    share_from: Annotated[int, Field(ge=0, le=5)] = 5  # not printed; released: nothing is shared

    pyramid_channels: Positive = 256  # Table 2
    smoothing: Smoothing = "before"  # Eq. 1, or "after"; see layers/pyramid.py
    fusion: Grid = (("r5", "i5", "i4", "r4", "r5", "i5", "i2", "r2"),)  # Table 4's best; () is none
    # What lies in a row of ``fusion`` is joined horizontally: side by side as "channels", so that
    # one vector has all of them; or, as released, stacked along the "batch", so that the head
    # judges each of them by itself. What lies in a column, vertically, is joined along the other.
    horizontal: Literal["channels", "batch"] = "channels"

    # The IR-RGB block: C(5) of both modalities along the "batch", as released, the one reading by
    # which its head can embed an image alone; or as "channels"; or "none" (Table 5)
    joint: Literal["batch", "channels", "none"] = "batch"
    # Whose layers judge a single modality's block: "own" ones of both modalities; own ones that
    # see it "enlarged" by 2 (§3.2): a 1 × 1 map becomes four copies of it; the IR-RGB block's,
    # "shared", as released; or there are no such losses ("none", Table 5)
    domains: Literal["enlarged", "own", "shared", "none"] = "enlarged"

    svd: Literal["decorrelated", "linear_bn"] = "decorrelated"  # SVDNet's, or released
    # Restraint and relaxation as in SVDNet's released code: 7 rounds, of which 3 begin at the
    # learning rate of the first training and 4 at a tenth of it. So here 3 come before the drop of
    # the rate at epoch 30, 4 after it, and the last 14 epochs decorrelate nothing
    svd_from: Annotated[int, Field(ge=0)] = 18  # epochs
    svd_epochs: Positive = 2  # of each restraint and of each relaxation
    svd_rounds: Annotated[int, Field(ge=0)] = 7
    svd_width: Positive = 512  # of the SVD layers of all heads but fusion's; released
    svd_layers: Annotated[int, Field(ge=0)] = 1  # so many; 0 leaves C(5) to the classifier
    neck: bool = False  # a BNNeck behind each SVD layer (or behind C(5), where there is none), not
    # in the paper: for networks from scratch. "linear_bn" has its own batch normalisation
    fusion_width: Positive = 128  # of fusion's first, the next is half as wide; released
    fusion_layers: Positive = 2  # §3.2
    activation: Activation = "leaky_relu"  # §3.2, after each of these layers
    fusion_activation: Activation = "relu"  # §3.2
    slope: NotNegative = 0.1  # of leaky_relu; released

    # "similarity" (§3.2): the head that is right in a larger share of its rows learns; "count"
    # (released): in more rows; "minimax" (caption of Fig. 1): the head with the larger loss. By the
    # first two the head that leads goes on leading, and the other one soon learns nothing
    game: Game = "similarity"
    lambda1: NotNegative = 1.0  # of L_ri, §4.2
    lambda2: NotNegative = 1.0  # of L_r
    lambda3: NotNegative = 1.0  # of L_i
    bias_gradient: bool = False  # of e^|d| (Eq. 7): the paper names none, and the released code
    # has none

    def __post_init__(self) -> None:
        rows = {len(row) for row in self.fusion}
        if len(rows) > 1 or 0 in rows:
            raise ConfigError(f"fusion: found rows of {sorted(rows)}, expected equally many, not 0")
        if self.joint == "none" and not self.fusion:
            raise ConfigError("joint: found 'none' without fusion, expected a block for L_ri")
        if self.joint != "batch" and self.domains in ("shared", "none"):
            raise ConfigError(
                f"domains: found '{self.domains}' with joint '{self.joint}', expected 'own' or "
                "'enlarged': some head must judge an image of one modality alone"
            )


LAMBDAS = (  # Table 3's columns 2 to 10
    (1.5, 1.5, 1.5), (1.2, 1.2, 1.2), (0.8, 0.8, 0.8),
    (1.0, 0.5, 0.5), (1.0, 0.3, 0.3), (1.5, 1.2, 1.2),
    (0.5, 0.2, 0.3), (0.8, 0.15, 0.05), (0.4, 0.35, 0.25),
)  # fmt: skip
VARIANTS: dict[str, dict] = {
    # Also the first column of Table 3, the best of Table 4, and, ranked anew, Table 8's last row
    "fprnet": {"rerank": True},
    # Table 3
    **{
        f"lambda-{a:g}-{b:g}-{c:g}": {"lambda1": a, "lambda2": b, "lambda3": c}
        for a, b, c in LAMBDAS
    },
    # Table 4
    **{f"{name}-horizontal": {"fusion": side_by_side(grid)} for name, grid in EXTRACTED.items()},
    **{f"{name}-vertical": {"fusion": stacked(grid)} for name, grid in EXTRACTED.items()},
    "best-vertical": {"fusion": stacked(Config.fusion)},
    **{name: {"fusion": grid} for name, grid in HYBRID.items()},
    # Table 5
    "without-domains": {"domains": "none"},
    "without-joint": {"joint": "none"},
    "without-fusion": {"fusion": ()},
    "without-upsampling": {"domains": "own"},
    # Table 6
    "single-svd": {"fusion_layers": 1},
    "double-svd": {"svd_layers": 2},
    "both-leaky-relu": {"fusion_activation": "leaky_relu"},
    "both-relu": {"activation": "relu"},
    # Table 8: the same two networks with a classifier on C(5) alone, and with one SVD layer between
    "resnet": {"fusion": (), "domains": "none", "svd_layers": 0},
    "svdnet": {"fusion": (), "domains": "none", "activation": "none"},
    "fprnet-srcnn": {"superres": True},
    # open points, read the other way
    "released": {
        "smoothing": "after",
        "horizontal": "batch",
        "domains": "shared",
        "svd": "linear_bn",
        "game": "count",
    },
    "along-batch": {"horizontal": "batch"},
    "joint-channels": {"joint": "channels"},
    "shared-head": {"domains": "shared"},
    "linear-bn": {"svd": "linear_bn"},
    "game-count": {"game": "count"},
    "game-minimax": {"game": "minimax"},
    "bias-gradient": {"bias_gradient": True},
}


class Head(nn.Module):
    """SVD layers, each with its activation, and a classifier (Eq. 3–5)."""

    def __init__(
        self,
        config: Config,
        identities: int,
        inputs: int,
        widths: tuple[int, ...],
        kind: Activation,
    ):
        super().__init__()
        activation = {
            "leaky_relu": nn.LeakyReLU(config.slope), "relu": nn.ReLU(), "none": nn.Identity()
        }[kind]  # fmt: skip
        layers: list[nn.Module] = []
        for before, width in pairwise((inputs, *widths)):
            if config.svd == "decorrelated":
                layers.append(SVDLinear(before, width))
                if config.neck:
                    layers.append(BNNeck(width))
            else:  # released; there with a bias, which the normalisation subtracts again
                linear = nn.Linear(before, width, bias=False)
                nn.init.kaiming_normal_(linear.weight)
                layers += [linear, nn.BatchNorm1d(width)]
            layers.append(activation)
        if config.neck and not widths:
            layers.append(BNNeck(inputs))
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear((inputs, *widths)[-1], identities)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, block: torch.Tensor) -> torch.Tensor:
        """(n, inputs) to logits (n, M)."""
        return self.classifier(self.layers(block))


class Model(nn.Module):
    """The networks of both modalities, their pyramids, and the heads ``joint``, ``domain`` and
    ``fusion`` for ``identities`` = M people, as far as the configuration has them."""

    per_picture = ("pyramids",)

    def __init__(self, config: Config, identities: int):
        super().__init__()
        self.config = config
        self.backbone = TwoStreamResNet(
            config.backbone, config.weights, config.share_from, config.last_stride
        )
        self.pool = GAP()
        names = side_by_side(config.fusion)[0]
        levels = {m: {int(n[1]) for n in names if n[0] == SIGNS[m]} for m in MODALITIES}
        channels, width = self.backbone.stage_channels, config.pyramid_channels
        self.pyramids = nn.ModuleDict(
            {
                m: FeaturePyramid(channels, asked, width, config.smoothing)
                for m, asked in levels.items()
                if asked
            }
        )
        heads, layers = {}, ((config.svd_width,) * config.svd_layers, config.activation)
        if config.joint != "none":
            heads["joint"] = channels[-1] * (2 if config.joint == "channels" else 1), *layers
        if config.domains in ("own", "enlarged"):
            heads["domain"] = channels[-1] * (4 if config.domains == "enlarged" else 1), *layers
        if config.fusion:
            joined = len(config.fusion[0] if config.horizontal == "channels" else config.fusion)
            widths = tuple(config.fusion_width // 2**n for n in range(config.fusion_layers))
            heads["fusion"] = width * joined, widths, config.fusion_activation
        self.heads = nn.ModuleDict({n: Head(config, identities, *h) for n, h in heads.items()})
        self.lambdas = {"joint": config.lambda1}
        if config.domains != "none":
            self.lambdas |= {"visible": config.lambda2, "infrared": config.lambda3}
        # e^|d| has no such value: it is 1 wherever the losses agree, learned or not
        self.trivial = {name: w * math.log(identities) for name, w in self.lambdas.items()}
        # both are part of a run's state: when W last became U S, and how often which head has won
        self.register_buffer("decorrelated_in", torch.tensor(-1))
        self.register_buffer("wins", torch.zeros(2, dtype=torch.int64))  # joint, fusion

    def maps(self, images: dict[str, torch.Tensor]) -> dict[str, dict[int, torch.Tensor]]:
        """``{modality: (B_m, 3, H, W)}`` to ``{modality: {k: C(k)}}``, k = 2..5."""
        parts, found = self.backbone.stage(0, images), {m: {} for m in images}
        for number in range(1, 5):
            parts = self.backbone.stage(number, parts)
            for m, x in parts.items():
                found[m][number + 1] = x
        return found

    def alone(self, block: torch.Tensor) -> torch.Tensor:
        """A modality's block (B, C) as the head of single modalities takes it: (B, 4C) if enlarged,
        since bilinear interpolation of a 1 × 1 map copies it."""
        return block.repeat(1, 4) if self.config.domains == "enlarged" else block

    def embed(self, images: torch.Tensor, modality: str) -> torch.Tensor:
        """(B, 3, H, W) of one modality to retrieval features (B, D), what the classifier sees;
        compared by cosine."""
        block = self.pool(self.backbone({modality: images}))
        with torch.autocast(block.device.type, enabled=False):
            if "domain" in self.heads:
                return self.heads["domain"].layers(self.alone(block))
            return self.heads["joint"].layers(block)

    def losses(self, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        """The terms of Eq. 8 that the configuration has: λ1·L_ri as ``joint``, λ2·L_r as
        ``visible``, λ3·L_i as ``infrared``, L_c as ``bias``."""
        config, people = self.config, batch.identity
        self.restrain(epoch)
        maps = self.maps(batch.images)
        pyramids = {m: pyramid(maps[m]) for m, pyramid in self.pyramids.items()}
        features = {f"{SIGNS[m]}{k}": p for m, found in pyramids.items() for k, p in found.items()}
        with torch.autocast(people.device.type, enabled=False):  # bfloat16 keeps 2 or 3 digits
            block = {m: self.pool(c[5]) for m, c in maps.items()}
            terms = {"joint": self.joint_loss(block, features, people)}
            if config.domains != "none":
                head = self.heads["joint" if config.domains == "shared" else "domain"]
                alone = [self.alone(x) for x in block.values()]
                if config.svd == "linear_bn":  # released: each modality by its own statistics
                    logits = [head(x) for x in alone]
                else:  # a neck sees both modalities, as in retrieval
                    logits = head(torch.cat(alone)).chunk(2)
                for m, x in zip(block, logits, strict=True):
                    terms[m] = F.cross_entropy(x, people)
                terms["bias"] = bias_correction(*terms.values(), config.bias_gradient)
        return {name: self.lambdas.get(name, 1) * term for name, term in terms.items()}

    def joint_loss(
        self,
        block: dict[str, torch.Tensor],
        features: dict[str, torch.Tensor],
        people: torch.Tensor,
    ) -> torch.Tensor:
        """L_ri (Eq. 3): the winner's of the game, where both heads exist."""
        config, rivals = self.config, {}
        if config.joint != "none":
            axis = 0 if config.joint == "batch" else 1
            rivals["joint"] = torch.cat(list(block.values()), axis)
        if config.fusion:
            rivals["fusion"] = fuse(config.fusion, features, config.horizontal)
        judged = [
            (self.heads[name](x), people.repeat(len(x) // len(people)))
            for name, x in rivals.items()
        ]
        if len(judged) == 1:
            return F.cross_entropy(*judged[0])
        loss, fusion = play(*judged, config.game)
        if self.training:
            self.wins += torch.stack([~fusion, fusion])
        return loss

    def restrain(self, epoch: int) -> None:
        """SVDNet's rounds: at the beginning of one the SVD layers' W becomes U S. It is fixed
        through the restraint and learns again in the relaxation."""
        fixed, begins = phase(self.config, epoch)
        layers = [layer for layer in self.modules() if isinstance(layer, SVDLinear)]
        if self.training and begins and self.decorrelated_in != epoch:
            for layer in layers:
                layer.decorrelate()
            self.decorrelated_in.fill_(epoch)
        for layer in layers:
            layer.requires_grad_(not fixed)


def phase(config: Config, epoch: int) -> tuple[bool, bool]:
    """Whether ``epoch``, counted from 0, is one of restraint, and whether it begins a round."""
    since, length = epoch - config.svd_from, 2 * config.svd_epochs
    if not 0 <= since < config.svd_rounds * length:
        return False, False
    return since % length < config.svd_epochs, since % length == 0
