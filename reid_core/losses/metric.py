"""The metric losses that a method can be trained with, by name."""

import math
from typing import Literal

import torch
import torch.nn.functional as F

from reid_core.losses.hetero_center import hetero_center_triplet
from reid_core.losses.triplet import (
    batch_hard_triplet,
    released_weighted_triplet,
    soft_batch_hard_triplet,
    weighted_regularised_triplet,
)

Metric = Literal[
    "batch_hard",  # as printed in the field: a hinge with a margin, features of any length
    "batch_hard_unit",  # the same of features of length 1, which cannot be shrunk
    "batch_hard_soft",  # softplus in place of hinge and margin: it never stops pulling and pushing
    "weighted_regularised",
    "weighted_released",  # the same as AGW's released code computes it
    "hetero_center",
]


def metric_loss(
    metric: Metric, features: torch.Tensor, identity: torch.Tensor, margin: float
) -> torch.Tensor:
    """The loss that ``metric`` names of ``features`` (2n, D): n visible ones, then n infrared ones,
    both of ``identity`` (n,). ``margin`` belongs to those that have one; see `trivial_value`."""
    if metric == "hetero_center":
        return hetero_center_triplet(*features.chunk(2), identity, margin)
    both = identity.repeat(2)
    if metric == "weighted_regularised":
        return weighted_regularised_triplet(features, both)
    if metric == "weighted_released":
        return released_weighted_triplet(features, both)
    if metric == "batch_hard_soft":
        return soft_batch_hard_triplet(features, both)
    if metric == "batch_hard_unit":
        features = F.normalize(features)
    return batch_hard_triplet(features, both, margin)


def trivial_value(metric: Metric, margin: float) -> float:
    """The loss of features that are all one point, and so tell nobody apart: the margin, or ln 2
    for the losses that have none."""
    without = ("batch_hard_soft", "weighted_regularised", "weighted_released")
    return math.log(2) if metric in without else margin
