"""Region-centre loss: an image and its human region give the same feature."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F

from reid_core.losses.hetero_center import Reduction, centres

Regions = Mapping[str, torch.Tensor]  # "original", "human" and, to push from, "background"
Between = Literal["images", "identities"]
Scale = Literal["none", "length", "spread"]


def region_center_loss(
    visible: Regions,
    infrared: Regions,
    identity: torch.Tensor,
    *,
    between: Between = "images",
    across: Literal["original", "human"] = "original",
    margin: float | None = None,
    reduction: Reduction = "sum",
    scale: Scale = "none",
) -> torch.Tensor:
    """L_ac (Eq. 7, mrda): ``Σ_i ‖f_i^v,original − f_i^v,M⁺‖ + Σ_i ‖f_i^r,original − f_i^r,M⁺‖
    + Σ_i ‖f_i^v,original − f_i^r,original‖``, i over the n images of a modality.

    Parameters
    ----------
    visible, infrared : {region: (n, D) float}
        Row i of a modality's regions is of the same image, row i of both modalities of the same
        person.
    identity : (n,) int64
        Of the rows of both modalities.
    between : str
        The third term's f: "images" as printed, a visible image and the infrared image in the same
        row, whose only tie is the person; or "identities", as the loss is named: f_i is the centre
        of all images of image i's person in that modality.
    across : str
        What the third term pulls together: the "original" images of Eq. 7, or the "human" regions
        of the prose.
    margin : float, optional
        Adds the push that the prose describes and no equation has, for each modality ``Σ_i [margin
        + ‖f_i^original − f_i^M⁺‖ − ‖f_i^original − f_i^M⁻‖]₊``: an image is to be nearer to its
        human region than to its background. It needs the region "background".
    reduction : str
        "sum" as printed, or "mean": every Σ_i divided by n.
    scale : str
        "none" takes the features as they are, so that smaller features have a smaller loss. The
        other two cannot be satisfied by shrinking: "length" gives every feature length 1; "spread"
        divides by the mean distance of an original to the mean of its modality's originals.
    """
    if scale == "length":
        visible, infrared = (
            {region: F.normalize(f, dim=1) for region, f in m.items()} for m in (visible, infrared)
        )
    v, r = visible[across], infrared[across]
    if between == "identities":
        own = identity.unique(return_inverse=True)[1]
        v, r = centres(v, identity)[own], centres(r, identity)[own]
    loss = (v - r).norm(dim=1)
    for modality in (visible, infrared):
        original = modality["original"]
        near = (original - modality["human"]).norm(dim=1)
        loss = loss + near
        if margin is not None:
            far = (original - modality["background"]).norm(dim=1)
            loss = loss + F.relu(margin + near - far)
    if scale == "spread":
        originals = torch.stack([visible["original"], infrared["original"]])
        spread = (originals - originals.mean(1, keepdim=True)).norm(dim=2).mean()
        loss = loss / spread.clamp(min=torch.finfo(spread.dtype).tiny)
    return loss.sum() if reduction == "sum" else loss.mean()
