"""Correlation consistency: two modalities see the same likeness between the same people."""

from typing import Literal

import torch
import torch.nn.functional as F

from reid_core.losses.hetero_center import centres
from reid_core.losses.region_center import Between

Gram = Literal["row", "matrix"]


def correlation(features: torch.Tensor, norm: Gram = "row") -> torch.Tensor:
    """``G = F Fᵀ / ‖F Fᵀ‖₂`` (Eq. 21, mrda): (n, D) to (n, n).

    "row" divides each row by its own length, ``G_ij = f_i·f_j / √(Σ_k (f_i·f_k)²)``, as the code
    of CM-NAS (Fu et al., ICCV 2021), from which the paper takes the loss; "matrix" divides the
    whole by its Frobenius norm.
    """
    with torch.autocast(features.device.type, enabled=False):
        gram = features @ features.mT
    return F.normalize(gram, dim=1 if norm == "row" else (0, 1))


def correlation_consistency(
    visible: torch.Tensor,
    infrared: torch.Tensor,
    identity: torch.Tensor,
    norm: Gram = "row",
    between: Between = "images",
) -> torch.Tensor:
    """``L_mc = ‖G^v − G^r‖₂`` (Eq. 22, mrda), the Frobenius norm.

    Parameters
    ----------
    visible, infrared : (n, D) float
        Row i of both is of the same person.
    identity : (n,) int64
        Of the rows of both.
    norm : "row" or "matrix"; see `correlation`
    between : str
        "images" as the equations have it: row i is an image, and which of the person's infrared
        images stands beside visible image i is chance. "identities": rows are the people's centres,
        whose Gram matrix is that of the images averaged over all pairs of two people. No chance is
        left then, but how the images of one person differ is not compared.
    """
    if between == "identities":
        visible, infrared = centres(visible, identity), centres(infrared, identity)
    return (correlation(visible, norm) - correlation(infrared, norm)).norm()
