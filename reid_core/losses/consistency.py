"""Correlation consistency: two modalities see the same likeness between the same people."""

from typing import Literal

import torch

from reid_core.losses.hetero_center import centres

Gram = Literal["row", "matrix"]


def correlation(features: torch.Tensor, norm: Gram = "row") -> torch.Tensor:
    """``G = F Fᵀ / ‖F Fᵀ‖₂`` (Eq. 21, mrda): (n, D) to (n, n).

    "row" divides each row by its own length, as CM-NAS (Fu et al., ICCV 2021), from which the
    paper takes the loss; "matrix" divides the whole by its Frobenius norm, as the equation may be
    read.
    """
    with torch.autocast(features.device.type, enabled=False):
        gram = features @ features.mT
    if norm == "row":
        return torch.nn.functional.normalize(gram, dim=1)
    return gram / gram.norm().clamp(min=torch.finfo(gram.dtype).tiny)


def correlation_consistency(
    visible: torch.Tensor, infrared: torch.Tensor, identity: torch.Tensor, norm: Gram = "row"
) -> torch.Tensor:
    """``L_mc = ‖G^v − G^r‖₂`` (Eq. 22, mrda), between identities.

    The equations compare picture i with picture j, and which of a person's infrared pictures
    stands in visible picture i's row is chance. So rows are identities' centres: their Gram matrix
    is the pictures' one averaged over every pair of two identities, and no order of rows is left.
    What is lost is how one person's pictures differ.

    Parameters
    ----------
    visible, infrared : (n, D) float32
    identity : (n,) int64
        Of the rows of both, in any order and number.
    norm : "row" or "matrix"; see `correlation`
    """
    g_v, g_r = (correlation(centres(rows, identity), norm) for rows in (visible, infrared))
    return (g_v - g_r).norm()
