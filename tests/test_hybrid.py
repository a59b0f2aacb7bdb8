"""The game of two heads and the bias correction of fprnet."""

import math

import pytest
import torch

from reid_core.losses.hybrid import bias_correction, play

# in rows of three classes: the first head is right in 2 of 2, the second in 3 of 6
FIRST = (torch.tensor([[0.2, 0.1, 0.0], [0.0, 0.3, 0.1]]), torch.tensor([0, 1]))
SECOND = (4.0 * torch.eye(3).repeat(2, 1), torch.tensor([0, 1, 2, 1, 2, 0]))


def cross_entropy(logits: torch.Tensor, identity: torch.Tensor) -> float:
    """Eq. 3, row by row."""
    total = 0.0
    for row, own in zip(logits.tolist(), identity.tolist(), strict=True):
        total -= math.log(math.exp(row[own]) / sum(map(math.exp, row)))
    return total / len(logits)


@pytest.mark.parametrize(
    ("game", "second"), [("similarity", False), ("count", True), ("minimax", True)]
)
def test_who_wins(game, second):
    """The shares are 1 and a half, the counts 2 and 3, the losses about 1 and 2."""
    losses = [cross_entropy(*FIRST), cross_entropy(*SECOND)]
    assert losses[0] < losses[1]
    for heads, expected in (((FIRST, SECOND), second), ((SECOND, FIRST), not second)):
        found = play(*heads, game)
        assert bool(found.second) == expected
        assert found.loss.item() == pytest.approx(losses[1] if second else losses[0], rel=1e-5)


@pytest.mark.parametrize("game", ["similarity", "count", "minimax"])
def test_equals_leave_it_to_the_first(game):
    assert not play(FIRST, FIRST, game).second


@pytest.mark.parametrize("game", ["similarity", "count", "minimax"])
def test_only_the_winner_learns(game):
    logits = [x.clone().requires_grad_() for x, _ in (FIRST, SECOND)]
    found = play((logits[0], FIRST[1]), (logits[1], SECOND[1]), game)
    found.loss.backward()
    moved = [x.grad.abs().sum() > 0 for x in logits]
    assert moved == [not found.second, bool(found.second)]


def test_bias_by_hand():
    """d = 3 − (1 + 2) / 2 = 1.5; its sign does not count."""
    l_ri, l_r, l_i = (torch.tensor(x, requires_grad=True) for x in (3.0, 1.0, 2.0))
    found = bias_correction(l_ri, l_r, l_i, gradient=True)
    assert found.item() == pytest.approx(math.exp(1.5))
    found.backward()
    e = math.exp(1.5)
    assert [x.grad.item() for x in (l_ri, l_r, l_i)] == pytest.approx([e, -e / 2, -e / 2])
    assert bias_correction(torch.tensor(0.0), l_r, l_i).item() == pytest.approx(math.exp(1.5))


def test_released_bias_teaches_nothing():
    losses = [torch.tensor(x, requires_grad=True) for x in (3.0, 1.0, 2.0)]
    found = bias_correction(*losses)
    assert found.item() == pytest.approx(math.exp(1.5)) and not found.requires_grad


def test_gradients():
    values = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (2.0, 1.5, 0.2)]
    assert torch.autograd.gradcheck(lambda *v: bias_correction(*v, gradient=True), values)
