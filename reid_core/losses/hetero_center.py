"""Hetero-centre triplet loss: triplets of identities' centres instead of images."""

from typing import Literal

import torch
import torch.nn.functional as F

from reid_core.losses.triplet import batch_hard_triplet, pairwise_distance

Negatives = Literal["both", "cross", "printed"]
Reduction = Literal["mean", "sum"]


def centres(features: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """Mean of each identity's rows (Eq. 19, mrda): of ``features`` (n, …) whose rows are of
    ``identity`` (n,), (K, …), in the order of the identities' numbers."""
    people = identity.unique()
    # no product of matrices, which autocast would compute in bfloat16
    return torch.stack([features[identity == person].mean(0) for person in people])


def hetero_center_triplet(
    visible: torch.Tensor,
    infrared: torch.Tensor,
    identity: torch.Tensor,
    margin: float = 0.3,
    negatives: Negatives = "both",
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Hetero-centre triplet loss (Liu, Tan and Zhou, IEEE Trans. Multimedia 2021; Eq. 19 and 20,
    mrda): batch-hard triplets of the 2K centres that K identities have in the two modalities,

    ``mean over i and m of [ρ + |C_i^m − C_i^m'| − min_{j≠i, n} |C_i^m − C_j^n|]₊``, m' ≠ m.

    An anchor's one positive is its own identity's centre in the other modality.

    Parameters
    ----------
    visible, infrared : (n, D) float
    identity : (n,) int64
        Of the rows of both, in any order and number.
    margin : ρ
    negatives : str
        The nearest centre of another identity is sought in "both" modalities, as its authors print
        and compute it; or "cross", in the modality that is not the anchor's, as mrda's prose has it
        ("the hardest cross-modality negative"). "printed" is mrda's Eq. 20 to the letter: its
        minimum runs through the modalities of the *anchor*, so both hinges of an identity share the
        nearer of the two cross-modality negatives.
    reduction : str
        "sum" over the 2K centres is printed, here and by its authors, whose code computes the
        "mean".

    Raises
    ------
    ValueError
        There is only one identity.
    """
    v, r, people = centres(visible, identity), centres(infrared, identity), identity.unique()
    if negatives == "both":
        loss = batch_hard_triplet(torch.cat([v, r]), people.repeat(2), margin)
    else:
        if len(people) < 2:
            raise ValueError(
                f"identity: found {people.tolist()}, expected at least two identities."
            )
        distance = pairwise_distance(v, r)
        others = distance.masked_fill(people[:, None] == people, torch.inf)
        hardest = torch.stack([others.amin(1), others.amin(0)])  # of visible, of infrared anchors
        if negatives == "printed":
            hardest = hardest.amin(0)  # of both
        loss = F.relu(margin + distance.diag() - hardest).mean()
    return loss * 2 * len(people) if reduction == "sum" else loss
