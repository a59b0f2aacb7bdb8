"""What fprnet does with the losses of two rival heads and of three domains."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

Game = Literal["similarity", "count", "minimax"]


class Played(NamedTuple):
    """The loss that counts, and whether it is the second head's."""

    loss: torch.Tensor  # ()
    second: torch.Tensor  # () bool


def play(
    first: tuple[torch.Tensor, torch.Tensor],
    second: tuple[torch.Tensor, torch.Tensor],
    game: Game = "similarity",
) -> Played:
    """The game between two heads (§3.2, fprnet): the cross-entropy of one of them is L_ri (Eq. 3),
    and only that one learns from the batch. If both are equal, it is the first one's.

    Parameters
    ----------
    first, second : (logits, identity)
        Of each head, (n, M) and (n,) int64; they may have different numbers of rows.
    game : str
        Whose loss counts. "similarity": that of the head which takes a larger share of its rows
        for who they are (§3.2: the head whose similarity ranks highest). "count": of the one that
        is right in more rows, however many it has, as in the released code. "minimax": the larger
        loss, so that the maximum of both is minimised (caption of Fig. 1).
    """
    losses = [F.cross_entropy(*head) for head in (first, second)]
    if game == "minimax":
        ahead = losses[1] > losses[0]
    else:
        right = [(logits.argmax(1) == identity).double() for logits, identity in (first, second)]
        score = [r.mean() if game == "similarity" else r.sum() for r in right]
        ahead = score[1] > score[0]
    return Played(torch.where(ahead, losses[1], losses[0]), ahead)


def bias_correction(
    joint: torch.Tensor, visible: torch.Tensor, infrared: torch.Tensor, gradient: bool = False
) -> torch.Tensor:
    """``L_c = e^|d|``, ``d = L_ri − (L_r + L_i) / 2`` (Eq. 6, 7, fprnet), of scalar losses.

    Without ``gradient`` it is a number, as in the released code: it is added to the loss and
    teaches nothing.
    """
    correction = (joint - (visible + infrared) / 2).abs().exp()
    return correction if gradient else correction.detach()
