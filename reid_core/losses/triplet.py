"""Triplet losses over a batch of features of both modalities."""

import torch
import torch.nn.functional as F


def pairwise_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Euclidean distances (n, m) of the rows of ``x`` (n, D) and ``y`` (m, D), float32.

    Summed difference by difference: |x|² + |y|² − 2xy loses the small ones of two large numbers
    (all of them under autocast, where the product is bfloat16). Equal rows have gradient zero.
    """
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _pairs(identity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (n, n) of the positives (the anchor itself excluded) and of the negatives."""
    same = identity[:, None] == identity[None, :]
    positive = same & ~torch.eye(len(identity), dtype=torch.bool, device=same.device)
    if not (positive.any(1) & ~same.all(1)).all():
        raise ValueError(
            f"identity: found {identity.tolist()}, expected at least two identities, each of them "
            "at least twice: a triplet is an anchor, a positive and a negative."
        )
    return positive, ~same


def batch_hard_triplet(
    features: torch.Tensor, identity: torch.Tensor, margin: float = 0.3
) -> torch.Tensor:
    """Batch-hard triplet loss (Hermans et al., 2017; Eq. 2, mutual_prediction):
    ``mean_a [margin + max_p d(a, p) − min_n d(a, n)]₊``.

    Parameters
    ----------
    features : (n, D) float32
    identity : (n,) int64

    Raises
    ------
    ValueError
        An anchor has no positive or no negative.
    """
    distance = pairwise_distance(features, features)
    positive, negative = _pairs(identity)
    hardest_positive = distance.masked_fill(~positive, -torch.inf).amax(1)
    hardest_negative = distance.masked_fill(~negative, torch.inf).amin(1)
    return F.relu(margin + hardest_positive - hardest_negative).mean()


def weighted_regularised_triplet(features: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """Weighted regularised triplet loss (Eq. 4 and 5 of AGW, Ye et al., TPAMI 2021):
    ``mean_a log(1 + exp(Σ_p w_p d_ap − Σ_n w_n d_an))``, ``w_p`` a softmax of d over the anchor's
    positives and ``w_n`` a softmax of −d over its negatives. It has no margin.

    ``features`` (n, D) float32, ``identity`` (n,) int64. The released code counts the anchor among
    its own positives; here it is left out, as in the equation.

    Raises
    ------
    ValueError
        An anchor has no positive or no negative.
    """
    distance = pairwise_distance(features, features)
    positive, negative = _pairs(identity)
    weight_p = distance.masked_fill(~positive, -torch.inf).softmax(1)
    weight_n = (-distance).masked_fill(~negative, -torch.inf).softmax(1)
    gap = (weight_p * distance).sum(1) - (weight_n * distance).sum(1)
    return F.softplus(gap).mean()
