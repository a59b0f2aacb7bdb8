"""The hetero-centre triplet loss against loops, a worked example, gradients and invariances."""

import math

import pytest
import torch

from reid_core.losses.hetero_center import hetero_center_triplet


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four identities with 3, 2, 4 and 2 rows, in no order."""
    torch.manual_seed(0)
    identity = torch.tensor([7, 3, 7, 0, 3, 9, 0, 7, 0, 0, 9])
    visible, infrared = torch.randn(2, len(identity), 5, dtype=torch.float64)
    return visible, infrared, identity


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("negatives", ["both", "cross", "printed"])
def test_equals_a_loop_over_centres(negatives, reduction, batch):
    visible, infrared, identity = batch
    centres = {}
    for modality, rows in (("v", visible), ("r", infrared)):
        for person in (0, 3, 7, 9):
            own = [rows[n] for n in range(len(rows)) if identity[n] == person]
            centres[modality, person] = [sum(x[c].item() for x in own) / len(own) for c in range(5)]
    total = 0.0
    for (modality, person), centre in centres.items():
        other = {"v": "r", "r": "v"}
        anchors = "vr" if negatives == "printed" else modality
        near = min(
            math.dist(centres[u, person], c)
            for u in anchors
            for (m, p), c in centres.items()
            if p != person and (m == other[u] or negatives == "both")
        )
        total += max(0.0, 0.3 + math.dist(centre, centres[other[modality], person]) - near)
    found = hetero_center_triplet(visible, infrared, identity, 0.3, negatives, reduction)
    expected = total if reduction == "sum" else total / 8
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_by_hand():
    """Centres on a line: visible 1 and 6, infrared 3 and 4."""
    visible = torch.tensor([[0.0], [2.0], [5.0], [7.0]])
    infrared = torch.tensor([[3.0], [3.0], [4.0], [4.0]])
    identity = torch.tensor([0, 0, 1, 1])
    # positives 2, 2, 2, 2; nearest negatives: 1 to 4, 6 to 3, 3 to 4, 4 to 3
    hinges = (2 - 3, 2 - 3, 2 - 1, 2 - 1)
    found = hetero_center_triplet(visible, infrared, identity, margin=0.5)
    assert found.item() == pytest.approx(sum(max(0, 0.5 + h) for h in hinges) / 4)
    # in the other modality they are 1 to 4, 6 to 3, 3 to 6, 4 to 1, all farther than the positives
    found = hetero_center_triplet(visible, infrared, identity, 2.0, negatives="cross")
    assert found.item() == pytest.approx(2.0 + 2 - 3)
    # negatives of the own modality count too: visible centres 2.5 and 4.5, infrared 53.5 twice
    found = hetero_center_triplet(visible, infrared + 50, torch.tensor([0, 1, 0, 1]), margin=0.0)
    assert found.item() == pytest.approx((51 - 2 + 49 - 2 + 51 - 0 + 49 - 0) / 4)
    # and with "cross" they do not: every negative is an infrared or visible centre 49 or 51 away
    found = hetero_center_triplet(
        visible, infrared + 50, torch.tensor([0, 1, 0, 1]), 0.0, negatives="cross"
    )
    assert found.item() == pytest.approx((0 + 0 + 2 + 0) / 4)


def test_spread_around_a_centre_costs_nothing(batch):
    """The loss sees centres alone: that is what its name promises, and its weakness."""
    visible, infrared, _ = batch
    identity = torch.tensor([0, 0, 1, 1])
    step = torch.tensor([1.0, -1, 1, -1], dtype=torch.float64)[:, None] * 100
    expected = hetero_center_triplet(visible[:4], infrared[:4], identity)
    found = hetero_center_triplet(visible[:4] + step, infrared[:4] - step, identity)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("negatives", ["both", "cross", "printed"])
def test_gradients(negatives, batch):
    visible, infrared, identity = batch
    inputs = visible.requires_grad_(), infrared.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, r: hetero_center_triplet(v, r, identity, negatives=negatives), inputs
    )


@pytest.mark.parametrize("negatives", ["both", "cross", "printed"])
def test_order_of_rows_names_and_modalities_do_not_matter(negatives, batch):
    visible, infrared, identity = batch
    read = {"negatives": negatives}
    expected = hetero_center_triplet(visible, infrared, identity, **read)
    order = torch.randperm(len(identity))
    found = hetero_center_triplet(visible[order], infrared[order], identity[order], **read)
    torch.testing.assert_close(found, expected)
    found = hetero_center_triplet(infrared, visible, 10 - identity, **read)
    torch.testing.assert_close(found, expected)


def test_centres_stay_float32_under_autocast():
    torch.manual_seed(0)
    visible, infrared = 100 + 0.1 * torch.randn(2, 8, 64)
    identity = torch.arange(4).repeat(2)
    exact = hetero_center_triplet(visible.double(), infrared.double(), identity)
    with torch.autocast("cpu", torch.bfloat16):
        found = hetero_center_triplet(visible, infrared, identity)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)


def test_one_identity_alone_is_refused():
    for negatives in ("both", "cross"):
        with pytest.raises(ValueError, match=r"identity: found \[5.*\], expected at least two"):
            rows = torch.ones(3, 2)
            hetero_center_triplet(rows, rows, torch.tensor([5, 5, 5]), negatives=negatives)
