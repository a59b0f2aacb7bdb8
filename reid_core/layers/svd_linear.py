"""A linear layer whose weight vectors are made orthogonal (SVDNet: Sun et al., ICCV 2017)."""

import torch
import torch.nn.functional as F
from torch import nn


@torch.no_grad()
def decorrelated(weight: torch.Tensor) -> torch.Tensor:
    """``W → U S`` of the singular value decomposition ``W = U S Vᵀ``, W's columns being a layer's
    weight vectors.

    The layer's outputs keep their distances, since ``W Wᵀ = U S Sᵀ Uᵀ``, and its weight vectors
    are no longer correlated. In which order and with which sign U's columns come is free; as in
    SVDNet's released code every weight vector, one after the other, is replaced by the direction
    nearest to it of those that are left, so that the next layer finds its inputs about where they
    were.

    Parameters
    ----------
    weight : (out, in)
        Wᵀ, as a linear layer keeps it: its rows are the weight vectors.

    Returns
    -------
    (out, in), its rows orthogonal. Of more outputs than inputs, those in excess are zero.
    """
    _, s, u = torch.linalg.svd(weight.double(), full_matrices=False)  # U's columns are rows here
    directions = weight.new_zeros(weight.shape, dtype=torch.float64)
    directions[: len(s)] = s[:, None] * u
    cosine = F.normalize(weight.double()) @ F.normalize(directions).T
    free = cosine.new_zeros(len(directions))  # −∞ for what is taken
    rows = []
    for nearness in cosine:
        nearest = (nearness.abs() + free).argmax()
        free[nearest] = -torch.inf
        sign = torch.where(nearness[nearest] < 0, -1.0, 1.0)
        rows.append(sign * directions[nearest])
    return torch.stack(rows).to(weight.dtype)


@torch.no_grad()
def orthogonality(weight: torch.Tensor) -> float:
    """S(W) of SVDNet: the diagonal's share in the sum of the Gram matrix's absolute entries. 1 if
    the rows of ``weight`` (out, in) are orthogonal, 1 / out if they are all the same."""
    gram = weight.double() @ weight.double().T
    return (gram.diagonal().sum() / gram.abs().sum()).item()


class SVDLinear(nn.Linear):
    """SVDNet's Eigenlayer: linear, without bias. Its training alternates between restraint, where
    the weight vectors are made orthogonal and fixed, and relaxation, where they learn."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    @torch.no_grad()
    def decorrelate(self) -> None:
        """Makes the weight vectors orthogonal: see `decorrelated`."""
        self.weight.copy_(decorrelated(self.weight))
