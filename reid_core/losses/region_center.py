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

    Parameters
    ----------
    visible, infrared : {region: (n, D) float32}
        Row i of a modality's regions is of the same picture.
    identity : (n,) int64
        Of the rows of both modalities, in any order and number.
    between : str
        "identities": f is the centre of an identity's pictures, as the loss is named. "pictures":
        f is a picture's, as the equation counts; its third term, which pairs visible picture i with
        an infrared one by chance, is the mean over the infrared pictures of the same identity, what
        the printed term is on average over all orders.
    across : str
        What the third term pulls together: the "original" pictures of Eq. 7, or the "human" regions
        of the prose.
    margin : float, optional
        Adds the push that the prose describes and no equation has, ``mean [margin − ‖f^original −
        f^M⁻‖]₊`` for each modality. It needs the region "background".
    """
    people = identity
    if between == "identities":
        people = identity.unique()
        visible, infrared = (
            {region: centres(f, identity) for region, f in modality.items()}
            for modality in (visible, infrared)
        )
    distance = pairwise_distance(visible[across], infrared[across])
    same = people[:, None] == people
    loss = ((distance * same).sum(1) / same.sum(1)).mean()
    for modality in (visible, infrared):
        original = modality["original"]
        loss = loss + (original - modality["human"]).norm(dim=1).mean()
        if margin is not None:
            far = (original - modality["background"]).norm(dim=1)
            loss = loss + F.relu(margin - far).mean()
    return loss
