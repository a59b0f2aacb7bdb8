"""Region-centre loss: a picture and its human region give the same feature."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F

from reid_core.losses.hetero_center import centres
from reid_core.losses.triplet import pairwise_distance

Regions = Mapping[str, torch.Tensor]  # "original", "human" and, to push from, "background"


def region_center_loss(
    visible: Regions,
    infrared: Regions,
    identity: torch.Tensor,
    *,
    between: Literal["identities", "pictures"] = "identities",
    across: Literal["original", "human"] = "original",
    margin: float | None = None,
) -> torch.Tensor:
    """L_ac (Eq. 7, mrda), as a mean instead of the printed sum, so that Eq. 23's balance does not
    change with the batch:

    ``mean ‖f^v,original − f^v,M⁺‖ + mean ‖f^r,original − f^r,M⁺‖
    + mean ‖f^v,original − f^r,original‖``.

    The first two terms are of a picture and its own human region. The third has visible picture i
    and infrared picture i, which share the person alone.

    Parameters
    ----------
    visible, infrared : {region: (n, D) float32}
        Row i of a modality's regions is of the same picture.
    identity : (n,) int64
        Of the rows of both modalities, in any order and number.
    between : str
        The third term's f: "identities" takes the centre of an identity's pictures, as the loss is
        named; "pictures" a visible picture's, and the mean over the infrared pictures of the same
        identity, what the printed term is on average over all orders.
    across : str
        What the third term pulls together: the "original" pictures of Eq. 7, or the "human" regions
        of the prose.
    margin : float, optional
        Adds the push that the prose describes and no equation has, for each modality ``mean [margin
        + ‖f^original − f^M⁺‖ − ‖f^original − f^M⁻‖]₊``: a picture is to be nearer to its human
        region than to its background. It needs the region "background".
    """
    v, r = visible[across], infrared[across]
    people = identity
    if between == "identities":
        v, r, people = centres(v, identity), centres(r, identity), identity.unique()
    same = people[:, None] == people
    loss = ((pairwise_distance(v, r) * same).sum(1) / same.sum(1)).mean()
    for modality in (visible, infrared):
        original = modality["original"]
        near = (original - modality["human"]).norm(dim=1)
        loss = loss + near.mean()
        if margin is not None:
            far = (original - modality["background"]).norm(dim=1)
            loss = loss + F.relu(margin + near - far).mean()
    return loss
