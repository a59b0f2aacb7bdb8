"""Hetero-centre triplet loss: triplets of identities' centres instead of pictures."""

import torch

from reid_core.losses.triplet import batch_hard_triplet


def centres(features: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """Mean of each identity's rows (Eq. 19, mrda): of ``features`` (n, …) whose rows are of
    ``identity`` (n,), (K, …), in the order of the identities' numbers."""
    people = identity.unique()
    # no product of matrices, which autocast would compute in bfloat16
    return torch.stack([features[identity == person].mean(0) for person in people])


def hetero_center_triplet(
    visible: torch.Tensor, infrared: torch.Tensor, identity: torch.Tensor, margin: float = 0.3
) -> torch.Tensor:
    """Hetero-centre triplet loss (Liu, Tan and Zhou, IEEE Trans. Multimedia 2021; Eq. 19 and 20,
    mrda): batch-hard triplets of the 2K centres that K identities have in the two modalities,

    ``mean over i and m of [ρ + |C_i^m − C_i^m'| − min_{j≠i, n} |C_i^m − C_j^n|]₊``, m' ≠ m.

    An anchor's one positive is its own identity's centre in the other modality; its negative is
    the nearest centre of another identity in either modality. The equation is printed as a sum
    over the centres, 2K times this mean, which is what its authors' code computes.

    Parameters
    ----------
    visible, infrared : (n, D) float32
    identity : (n,) int64
        Of the rows of both, in any order and number.
    margin : ρ

    Raises
    ------
    ValueError
        There is only one identity.
    """
    both = torch.cat([centres(visible, identity), centres(infrared, identity)])
    return batch_hard_triplet(both, identity.unique().repeat(2), margin)
