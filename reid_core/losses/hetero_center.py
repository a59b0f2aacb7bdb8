"""Hetero-centre triplet loss: triplets of identities' centres instead of pictures."""

from typing import Literal

import torch
import torch.nn.functional as F

from reid_core.losses.triplet import batch_hard_triplet, pairwise_distance

Negatives = Literal["both", "cross"]


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
) -> torch.Tensor:
    """Hetero-centre triplet loss (Liu, Tan and Zhou, IEEE Trans. Multimedia 2021; Eq. 19 and 20,
    mrda): batch-hard triplets of the 2K centres that K identities have in the two modalities,

    ``mean over i and m of [ρ + |C_i^m − C_i^m'| − min_{j≠i, n} |C_i^m − C_j^n|]₊``, m' ≠ m.

    An anchor's one positive is its own identity's centre in the other modality. The equation is
    printed as a sum over the centres, 2K times this mean, which is what its authors' code computes.

    Parameters
    ----------
    visible, infrared : (n, D) float32
    identity : (n,) int64
        Of the rows of both, in any order and number.
    margin : ρ
    negatives : str
        The nearest centre of another identity is sought in "both" modalities, as in its authors'
        code; or "cross", in the modality that is not the anchor's, as mrda's prose has it ("the
        hardest cross-modality negative"). Eq. 20 as printed runs through the modalities of the
        *anchor*, so that both hinges of an identity would share one negative; that is not computed.

    Raises
    ------
    ValueError
        There is only one identity.
    """
    v, r, people = centres(visible, identity), centres(infrared, identity), identity.unique()
    if negatives == "both":
        return batch_hard_triplet(torch.cat([v, r]), people.repeat(2), margin)
    if len(people) < 2:
        raise ValueError(f"identity: found {people.tolist()}, expected at least two identities.")
    distance = pairwise_distance(v, r)
    others = distance.masked_fill(people[:, None] == people, torch.inf)
    hardest = torch.stack([others.amin(1), others.amin(0)])  # of visible and of infrared anchors
    return F.relu(margin + distance.diag() - hardest).mean()
