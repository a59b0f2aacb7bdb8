"""Center loss: every identity has a centre that follows its features, and pulls at them."""

import torch
from torch import nn


class CenterLoss(nn.Module):
    """``mean_i ½ ‖x_i − c_{y_i}‖²`` (Wen et al., ECCV 2016), a loss to compare with in Table 4 of
    crossvit_csa.

    A centre is no parameter: after each training batch it moves towards the identity's features in
    it, ``c_j ← c_j − rate · Σ_{i: y_i = j} (c_j − x_i) / (1 + n_j)``, n_j of them, and the loss
    gives it no gradient. Centres start at zero. The paper's sum over the batch is a mean here.

    Parameters
    ----------
    identities, channels : number of centres, and their length D
    rate : α of Wen et al.
    """

    def __init__(self, identities: int, channels: int, rate: float = 0.5):
        super().__init__()
        self.rate = rate
        self.register_buffer("centres", torch.zeros(identities, channels))

    def forward(self, features: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        """``features`` (n, D) of ``identity`` (n,) int64, in any order and number; float32, or
        float64 after ``double()``."""
        away = features - self.centres[identity]
        loss = 0.5 * away.square().sum(1).mean()
        if self.training:
            with torch.no_grad():
                total = torch.zeros_like(self.centres).index_add_(0, identity, away)
                count = torch.bincount(identity, minlength=len(total))
                self.centres += self.rate * total / (1 + count)[:, None]
        return loss
