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
    return F.relu(_hardest_gap(features, identity) + margin).mean()


def soft_batch_hard_triplet(features: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """The soft-margin form of the batch-hard triplet loss (Hermans et al., 2017):
    ``mean_a log(1 + exp(max_p d(a, p) − min_n d(a, n)))``.

    The hinge is content when all features are one point: it is then its margin, and its gradient
    shrinks the features of hard triplets. This form is ln 2 there, and it keeps pushing triplets
    apart that the hinge would leave alone. ``features``, ``identity`` and errors as for
    `batch_hard_triplet`.
    """
    return F.softplus(_hardest_gap(features, identity)).mean()


def _hardest_gap(features: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """``max_p d(a, p) − min_n d(a, n)`` of every anchor a, (n,)."""
    distance = pairwise_distance(features, features)
    positive, negative = _pairs(identity)
    hardest_positive = distance.masked_fill(~positive, -torch.inf).amax(1)
    hardest_negative = distance.masked_fill(~negative, torch.inf).amin(1)
    return hardest_positive - hardest_negative


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
    return F.softplus(_weighted_gap(features, identity)).mean()


def released_weighted_triplet(features: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """`weighted_regularised_triplet` as AGW's released code computes it (Ye et al., 2021).

    It differs in two things. The anchor counts among its own positives, at distance 0. And 1e-6 is
    added to each sum of exponentials before it divides: w_n = exp(−d_an) / (Σ exp(−d_an) + 1e-6).
    Where all negatives are farther than about 14 the sum is smaller than that, so their weights
    vanish: negatives no longer push, and the loss only pulls positives together. ``features``,
    ``identity`` and errors as there.
    """
    distance = pairwise_distance(features, features)
    _pairs(identity)  # for its error
    same = identity[:, None] == identity[None, :]
    furthest = distance.masked_fill(~same, 0).amax(1, keepdim=True)  # for exponentials below 1
    of_positives = (distance - furthest).masked_fill(~same, -torch.inf).exp()
    of_negatives = (-distance).masked_fill(same, -torch.inf).exp()
    weight_p, weight_n = (w / (w.sum(1, keepdim=True) + 1e-6) for w in (of_positives, of_negatives))
    return F.softplus((weight_p * distance).sum(1) - (weight_n * distance).sum(1)).mean()


def adaptive_weighted_triplet(
    features: torch.Tensor, identity: torch.Tensor, margin: float = 1.0, hinge: bool = True
) -> torch.Tensor:
    """Adaptively weighted triplet loss (Eq. 15, crossvit_csa):
    ``mean_a [Σ_p ω_p d_ap − Σ_n ω_n d_an + α]₊``, α the margin, ω_p a softmax of d over the
    anchor's positives and ω_n a softmax of −d over its negatives, as in
    `weighted_regularised_triplet`, which has a softplus and no margin. The weights, too, pass
    gradients on.

    The equation prints a sum over the batch, N times this mean, and no hinge, which its Eq. 14 (the
    batch-hard loss) has. Without ``hinge``, as printed, the loss has no lower bound: pushing all
    identities apart for ever lowers it for ever.

    Parameters
    ----------
    features : (n, D) float32
    identity : (n,) int64

    Raises
    ------
    ValueError
        An anchor has no positive or no negative.
    """
    loss = _weighted_gap(features, identity) + margin
    return (F.relu(loss) if hinge else loss).mean()


def _weighted_gap(features: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """``Σ_p w_p d_ap − Σ_n w_n d_an`` of every anchor a, (n,)."""
    distance = pairwise_distance(features, features)
    positive, negative = _pairs(identity)
    weight_p = distance.masked_fill(~positive, -torch.inf).softmax(1)
    weight_n = (-distance).masked_fill(~negative, -torch.inf).softmax(1)
    return (weight_p * distance).sum(1) - (weight_n * distance).sum(1)
